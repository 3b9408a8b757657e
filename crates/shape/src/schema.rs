//! The schema as the engine sees it: tables with a primary key, their columns and foreign keys.
//! Read from the store's catalogue, sent to replicas, and the ground on which shapes are checked.

use anabranch_crdt::{ColumnId, MergeKind, RowKey, TableId, Value};

/// The replicated tables of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schema {
    /// Grows whenever the store's schema changes, so that a replica knows when to adopt a new one.
    pub version: u64,
    /// The tables, in the order of their numbers.
    pub tables: Vec<Table>,
}

/// A replicated table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its number in the store.
    pub id: TableId,
    /// The store's schema (namespace) it lies in, such as `public`; in SQLite, `main`.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// Its columns, in the order of their numbers.
    pub columns: Vec<Column>,
    /// The columns of its primary key, in key order; never empty.
    pub primary_key: Vec<ColumnId>,
    /// Its foreign keys to other replicated tables.
    pub foreign_keys: Vec<ForeignKey>,
    /// What a delete of a row does against concurrent updates.
    pub delete: DeletePolicy,
}

/// What a delete does against updates that were made without knowing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeletePolicy {
    /// It removes what it has observed: a concurrent update keeps the row alive.
    #[default]
    Observed,
    /// It wins: updates do not say that the row is there, only inserts do.
    WinsOverUpdate,
}

/// A column of a replicated table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its number in the table.
    pub id: ColumnId,
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: ColumnType,
    /// The type as the store writes it, such as `numeric(10,2)`; for messages and for inspection.
    pub declared_type: String,
    /// Whether it may be NULL.
    pub nullable: bool,
    /// Whether the store fills it in when an insert leaves it out.
    pub has_default: bool,
    /// Whether text in it orders by its bytes (collation `C`), as Rust and SQLite order it.
    pub bytewise_order: bool,
    /// How concurrent writes of it merge.
    pub merge: MergeKind,
}

/// What a column holds, as far as the engine must know to store, compare and filter it. How each
/// travels: booleans as the integers 0 and 1, integers as integers, floats as reals, `bytea` as a
/// blob, and everything else as Postgres writes it in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// `boolean`.
    Boolean,
    /// `smallint`, `integer`, `bigint`.
    Integer,
    /// `real`, `double precision`.
    Float,
    /// `numeric`, exact: travels as text, since SQLite has no exact numbers.
    Numeric,
    /// `text`, `varchar`.
    Text,
    /// `uuid`, in lower case with hyphens.
    Uuid,
    /// `bytea`.
    Bytes,
    /// `date`.
    Date,
    /// `time`.
    Time,
    /// `timestamp`.
    Timestamp,
    /// `timestamptz`, always in UTC.
    TimestampTz,
    /// `json` and `jsonb`.
    Json,
    /// An enum: its label.
    Enum,
    /// Any other type, as Postgres writes it in text. It is replicated, not filtered on.
    Other,
}

/// A foreign key to another replicated table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// The referring columns.
    pub columns: Vec<ColumnId>,
    /// The table referred to.
    pub parent: TableId,
    /// The columns referred to, in the order of `columns`.
    pub parent_columns: Vec<ColumnId>,
    /// What a delete of the parent does to the children.
    pub on_delete: ReferentialAction,
    /// What becomes of a child that was written while its parent was deleted.
    pub policy: ReferencePolicy,
}

/// What becomes of a child that was written while its parent was deleted elsewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReferencePolicy {
    /// Writing the child keeps its parent: the delete loses.
    #[default]
    Revive,
    /// The child goes with its parent.
    Cascade,
    /// The child stays and refers to nothing.
    SetNull,
}

/// What a delete of a parent does to its children.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReferentialAction {
    /// The delete is refused while children exist (`NO ACTION`, `RESTRICT`).
    Refuse,
    /// The children are deleted.
    Cascade,
    /// The children's columns become NULL.
    SetNull,
    /// The children's columns become their default.
    SetDefault,
}

impl Schema {
    /// The table numbered `id`.
    pub fn table(&self, id: TableId) -> Option<&Table> {
        self.tables.iter().find(|table| table.id == id)
    }

    /// The table called `name`, or `namespace.name`.
    pub fn table_named(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.is_called(name))
    }
}

impl DeletePolicy {
    /// The word for it in configurations.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Observed => "observed",
            Self::WinsOverUpdate => "wins_over_update",
        }
    }

    /// The policy that a word means.
    pub fn of_word(word: &str) -> Option<Self> {
        let all = [Self::Observed, Self::WinsOverUpdate];
        all.into_iter().find(|policy| policy.word() == word)
    }
}

impl ReferencePolicy {
    /// The word for it in configurations.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Revive => "revive",
            Self::Cascade => "cascade",
            Self::SetNull => "set_null",
        }
    }

    /// The policy that a word means.
    pub fn of_word(word: &str) -> Option<Self> {
        let all = [Self::Revive, Self::Cascade, Self::SetNull];
        all.into_iter().find(|policy| policy.word() == word)
    }
}

impl ForeignKey {
    /// Whether it refers to the primary key of `parent`, and so to one row known by its key.
    pub fn refers_to_key(&self, parent: &Table) -> bool {
        parent.primary_key.len() == self.parent_columns.len()
            && self
                .parent_columns
                .iter()
                .all(|column| parent.is_key(*column))
    }
}

impl Table {
    /// The name a replica gives the table: without the namespace where that is the default one.
    pub fn local_name(&self) -> String {
        match self.namespace.as_str() {
            "public" | "main" => self.name.clone(),
            namespace => format!("{namespace}.{}", self.name),
        }
    }

    /// Whether `name` means this table.
    pub fn is_called(&self, name: &str) -> bool {
        self.local_name() == name || format!("{}.{}", self.namespace, self.name) == name
    }

    /// The column numbered `id`.
    pub fn column(&self, id: ColumnId) -> Option<&Column> {
        self.columns.iter().find(|column| column.id == id)
    }

    /// The column called `name`.
    pub fn column_named(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether the column is part of the primary key.
    pub fn is_key(&self, id: ColumnId) -> bool {
        self.primary_key.contains(&id)
    }

    /// The columns of the primary key, in key order.
    pub fn key_columns(&self) -> impl Iterator<Item = &Column> {
        self.primary_key.iter().filter_map(|id| self.column(*id))
    }

    /// The columns outside the primary key: the row's registers, in the order of their numbers.
    pub fn registers(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| !self.is_key(column.id))
    }

    /// The value of a column of the key in `key`.
    pub fn key_value<'a>(&self, key: &'a RowKey, id: ColumnId) -> Option<&'a Value> {
        let position = self.primary_key.iter().position(|column| *column == id)?;
        key.0.get(position)
    }
}
