//! The lower layer: the tables of one file under replication, and nothing of who sends what to
//! whom.
//!
//! It knows the user's tables, the capture triggers on them, and beside each table its clocks and
//! its removed rows. [`TableSql::merge`] joins a delta into a row; [`seal()`] turns captured writes
//! into deltas. A [`Replica`](crate::Replica) is built on it, and so is the embedded store, which
//! is the same machinery writing as the server.

mod adopting;
mod capture;
mod clocks;
mod error;
mod evictions;
mod forget;
pub mod key;
pub mod layout;
mod merge;
pub mod meta;
mod names;
mod rows;
mod seal;
mod table;
mod triggers;
pub mod values;
mod writer;

use std::collections::HashMap;

use anabranch_crdt::TableId;
use anabranch_shape::schema::Schema;

pub use capture::{is_waiting, newest_captured};
pub use error::TablesError;
pub use forget::Forgotten;
pub use merge::{Incoming, Outcome};
pub use rows::{ChangeKind, Held, RowChange, first, unpack_key};
pub use seal::{Clocks, Sealed, seal};
pub use table::{TableSql, clock_table, dead_table, quote};
pub(crate) use triggers::SEALED;
pub use triggers::{Rules, audit, drop_all};

/// The replicated tables of a file, with the statements over them.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    schema: Schema,
    by_id: HashMap<TableId, TableSql>,
}

impl Tables {
    /// The tables of `schema`.
    pub fn new(schema: Schema) -> Self {
        let by_id = schema
            .tables
            .iter()
            .map(|table| (table.id, TableSql::new(table.clone())));
        let by_id = by_id.collect();
        Self { schema, by_id }
    }

    /// The schema.
    pub const fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The table numbered `id`.
    pub fn get(&self, id: TableId) -> Option<&TableSql> {
        self.by_id.get(&id)
    }

    /// The tables, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &TableSql> {
        self.schema
            .tables
            .iter()
            .filter_map(|table| self.by_id.get(&table.id))
    }
}
