//! One replicated table: its names in the file and the statements over it. Nothing runs here.

use std::borrow::Cow;

use anabranch_crdt::{ColumnId, MergeKind, TableId};
use anabranch_shape::schema::{Column, ColumnType, Table};

/// A replicated table, with the SQL that reads and writes it and its side tables.
///
/// Every statement binds the key's values first, then the registers'.
#[derive(Clone, Debug)]
pub struct TableSql {
    /// The table as the schema has it.
    pub table: Table,
    pub(super) keys: Vec<ColumnSql>,
    pub(super) registers: Vec<ColumnSql>,
    pub(super) read_clock: String,
    pub(super) scan_clocks: String,
    pub(super) add_clock: String,
    pub(super) put_clock: String,
    pub(super) put_shapes: String,
    pub(super) drop_clock: String,
    pub(super) read_row: String,
    pub(super) read_dead: String,
    pub(super) delete_row: String,
    pub(super) delete_dead: String,
    pub(super) bury: String,
    pub(super) put_dead: String,
    insert_all: String,
    update_all: String,
}

/// A column as statements name it.
#[derive(Clone, Debug)]
pub(super) struct ColumnSql {
    pub(super) id: ColumnId,
    pub(super) kind: ColumnType,
    pub(super) nullable: bool,
    pub(super) has_default: bool,
    pub(super) merge: MergeKind,
    /// Its quoted name in the user's table.
    pub(super) name: String,
    /// Its name in the table of removed rows.
    pub(super) dead: String,
}

impl TableSql {
    /// The statements over `table`.
    pub fn new(table: Table) -> Self {
        let keys: Vec<ColumnSql> = table.key_columns().map(ColumnSql::new).collect();
        let registers: Vec<ColumnSql> = table.registers().map(ColumnSql::new).collect();
        let (name, clock, dead) = (
            quote(&table.local_name()),
            clock_table(table.id),
            dead_table(table.id),
        );
        let row_is = matches(&keys, |column| &column.name);
        let dead_is = matches(&keys, |column| &column.dead);
        let everything = || keys.iter().chain(&registers);
        let live_columns = list(everything().map(|column| &column.name));
        let dead_columns = list(everything().map(|column| &column.dead));
        let read = |columns: String| {
            if columns.is_empty() {
                "1".to_owned()
            } else {
                columns
            }
        };
        let rows = read(list(registers.iter().map(|column| &column.name)));
        let dead_rows = read(list(registers.iter().map(|column| &column.dead)));
        Self {
            read_clock: format!("SELECT clock, shapes FROM {clock} WHERE key = ?1"),
            scan_clocks: format!(
                "SELECT key, clock, shapes FROM {clock} WHERE key >= ?1 ORDER BY key"
            ),
            add_clock: format!(
                "INSERT OR IGNORE INTO {clock}(key, clock, shapes) VALUES (?1, ?2, ?3)"
            ),
            // SQLite writes this with one search of the tree, an upsert with two.
            put_clock: format!("REPLACE INTO {clock}(key, clock, shapes) VALUES (?1, ?2, ?3)"),
            put_shapes: format!("UPDATE {clock} SET shapes = ?2 WHERE key = ?1"),
            drop_clock: format!("DELETE FROM {clock} WHERE key = ?1"),
            read_row: format!("SELECT {rows} FROM {name} WHERE {row_is}"),
            read_dead: format!("SELECT {dead_rows} FROM {dead} WHERE {dead_is}"),
            delete_row: format!("DELETE FROM {name} WHERE {row_is}"),
            delete_dead: format!("DELETE FROM {dead} WHERE {dead_is}"),
            bury: format!(
                "INSERT OR REPLACE INTO {dead}({dead_columns}) \
                 SELECT {live_columns} FROM {name} WHERE {row_is}"
            ),
            put_dead: upsert(&dead, &keys, &registers, |column| &column.dead),
            insert_all: upsert(&name, &keys, &registers, |column| &column.name),
            update_all: update(&name, &keys, &registers),
            table,
            keys,
            registers,
        }
    }

    /// The table's number.
    pub const fn id(&self) -> TableId {
        self.table.id
    }

    /// Inserts a row with these registers, or overwrites them where the key is there already.
    pub(super) fn insert(&self, registers: &[&ColumnSql]) -> Cow<'_, str> {
        if registers.len() == self.registers.len() {
            return Cow::Borrowed(&self.insert_all);
        }
        let name = quote(&self.table.local_name());
        let sql = upsert(&name, &self.keys, registers.iter().copied(), |column| {
            &column.name
        });
        Cow::Owned(sql)
    }

    /// Overwrites these registers of a row.
    pub(super) fn update(&self, registers: &[&ColumnSql]) -> Cow<'_, str> {
        if registers.len() == self.registers.len() {
            return Cow::Borrowed(&self.update_all);
        }
        let name = quote(&self.table.local_name());
        Cow::Owned(update(&name, &self.keys, registers.iter().copied()))
    }

    /// The register numbered `id`.
    pub(super) fn register(&self, id: ColumnId) -> Option<&ColumnSql> {
        let position = self
            .registers
            .binary_search_by_key(&id, |register| register.id)
            .ok()?;
        self.registers.get(position)
    }
}

impl ColumnSql {
    fn new(column: &Column) -> Self {
        Self {
            id: column.id,
            kind: column.kind,
            nullable: column.nullable,
            has_default: column.has_default,
            merge: column.merge,
            name: quote(&column.name),
            dead: dead_column(column.id),
        }
    }
}

/// A name as SQL quotes it.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The table of a table's clocks.
pub fn clock_table(table: TableId) -> String {
    format!("anabranch_clock_{}", table.0)
}

/// The table of a table's removed rows.
pub fn dead_table(table: TableId) -> String {
    format!("anabranch_dead_{}", table.0)
}

/// A column in the table of removed rows: by number, so that renaming a column touches no side
/// table.
pub(super) fn dead_column(column: ColumnId) -> String {
    format!("c{}", column.0)
}

/// Names joined by commas.
pub(super) fn list<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    names
        .into_iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

fn matches(keys: &[ColumnSql], name: fn(&ColumnSql) -> &String) -> String {
    let terms = keys
        .iter()
        .zip(1..)
        .map(|(column, at)| format!("{} = ?{at}", name(column)));
    terms.collect::<Vec<_>>().join(" AND ")
}

fn upsert<'a>(
    table: &str,
    keys: &'a [ColumnSql],
    registers: impl IntoIterator<Item = &'a ColumnSql>,
    name: fn(&ColumnSql) -> &String,
) -> String {
    let registers: Vec<&ColumnSql> = registers.into_iter().collect();
    let columns = list(keys.iter().chain(registers.iter().copied()).map(name));
    let places = (1..=keys.len() + registers.len()).map(|at| format!("?{at}"));
    let places = places.collect::<Vec<_>>().join(", ");
    let key = list(keys.iter().map(name));
    let sets = registers
        .iter()
        .map(|column| format!("{0} = excluded.{0}", name(column)));
    let sets = sets.collect::<Vec<_>>().join(", ");
    let conflict = if sets.is_empty() {
        "NOTHING".into()
    } else {
        format!("UPDATE SET {sets}")
    };
    format!("INSERT INTO {table}({columns}) VALUES ({places}) ON CONFLICT({key}) DO {conflict}")
}

fn update<'a>(
    table: &str,
    keys: &[ColumnSql],
    registers: impl IntoIterator<Item = &'a ColumnSql>,
) -> String {
    let sets = registers.into_iter().zip(keys.len() + 1..);
    let sets = sets.map(|(column, at)| format!("{} = ?{at}", column.name));
    let sets = sets.collect::<Vec<_>>().join(", ");
    format!(
        "UPDATE {table} SET {sets} WHERE {}",
        matches(keys, |column| &column.name)
    )
}
