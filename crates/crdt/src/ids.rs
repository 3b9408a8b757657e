//! Names of tables, columns and rows, and the delta that addresses one row.

use alloc::vec::Vec;

use crate::{RowState, Value};

/// A table, numbered by the store when the table is taken under replication; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u32);

/// A column of a table, numbered by the store (in Postgres, its attribute number); never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ColumnId(pub u16);

/// The values of a row's primary key, in the key's column order. A key never changes: to the
/// engine a row with another key is another row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey(pub Vec<Value>);

/// A partial row state and the row it is about: what a transaction is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// The table.
    pub table: TableId,
    /// The row.
    pub key: RowKey,
    /// What is known of it: some registers, some existence entries.
    pub state: RowState,
}
