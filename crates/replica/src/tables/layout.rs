//! The tables of the file: what is created, and how it follows a changed schema.
//!
//! Changes only ever add: a dropped column or table stays where it is, out of replication. Written
//! down byte by byte in `docs/storage.md`.

use std::collections::BTreeSet;

use anabranch_crdt::TableId;
use anabranch_shape::schema::{Column, ForeignKey, ReferentialAction, Schema, Table};
use rusqlite::{Connection, OptionalExtension};

use super::{
    TablesError, meta,
    table::{clock_table, dead_column, dead_table, quote},
    triggers::KEY_COLUMNS_MAX,
    values::declared_type,
};

/// The side tables every file has, of a replica and of an embedded store alike.
///
/// What is captured has no constraints: a trigger that could fail makes SQLite copy every page that
/// the application's statement touches, so as to take it back.
pub const COMMON: &str = "
CREATE TABLE anabranch_meta(name TEXT PRIMARY KEY NOT NULL, value) WITHOUT ROWID;
CREATE TABLE anabranch_capture(
  id INTEGER PRIMARY KEY, tbl INTEGER, op INTEGER, changed,
  k0, k1, k2, k3, k4, k5, k6, k7);
CREATE TABLE anabranch_replica(n INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE);
";

/// Creates the side tables of one table.
pub fn create_side_tables(conn: &Connection, table: &Table) -> Result<(), TablesError> {
    let clock = clock_table(table.id);
    let dead = dead_table(table.id);
    let columns: Vec<String> = table
        .columns
        .iter()
        .map(|column| dead_column(column.id))
        .collect();
    let key: Vec<String> = table
        .primary_key
        .iter()
        .map(|column| dead_column(*column))
        .collect();
    conn.execute_batch(&format!(
        "CREATE TABLE {clock}(key BLOB PRIMARY KEY NOT NULL, clock BLOB NOT NULL, \
         shapes INTEGER NOT NULL) WITHOUT ROWID; \
         CREATE TABLE {dead}({}, PRIMARY KEY ({})) WITHOUT ROWID;",
        columns.join(", "),
        key.join(", ")
    ))?;
    Ok(())
}

/// Adds to the side tables the columns that `table` has gained over `held`.
pub fn widen_side_tables(
    conn: &Connection,
    held: &Table,
    table: &Table,
) -> Result<(), TablesError> {
    for column in table
        .columns
        .iter()
        .filter(|column| held.column(column.id).is_none())
    {
        let (dead, name) = (dead_table(table.id), dead_column(column.id));
        // A column that went and came back is still there.
        if !has_column(conn, &dead, &name)? {
            conn.execute_batch(&format!("ALTER TABLE {dead} ADD COLUMN {name}"))?;
        }
    }
    Ok(())
}

/// Brings the user's tables from the schema `held` to `wanted`. The capture triggers must be gone.
pub fn migrate(conn: &Connection, held: &Schema, wanted: &Schema) -> Result<(), TablesError> {
    wanted.tables.iter().try_for_each(check)?;
    let wanted_names: BTreeSet<String> = wanted.tables.iter().map(Table::local_name).collect();
    for table in &held.tables {
        if wanted.table(table.id).is_none() {
            meta::write(conn, &dropped_name(table.id), table.local_name())?;
        }
    }
    for (id, name) in dropped(conn)? {
        if wanted_names.contains(&name) {
            let aside = format!("anabranch_dropped_{}", id.0);
            rename_table(conn, &name, &aside)?;
            meta::write(conn, &dropped_name(id), aside)?;
        }
    }
    for table in &wanted.tables {
        match held.table(table.id) {
            Some(old) => alter(conn, old, table)?,
            None => create(conn, wanted, table)?,
        }
    }
    Ok(())
}

/// Empties the tables that the store has dropped, which are out of replication and still here.
pub fn clear_dropped(conn: &Connection) -> Result<(), TablesError> {
    for (id, name) in dropped(conn)? {
        for name in [name, clock_table(id), dead_table(id)] {
            if exists(conn, &name)? {
                conn.execute(&format!("DELETE FROM {}", quote(&name)), [])?;
            }
        }
    }
    Ok(())
}

/// The tables that the store has dropped, with what they are called here.
fn dropped(conn: &Connection) -> Result<Vec<(TableId, String)>, TablesError> {
    let sql = "SELECT substr(name, 9), value FROM anabranch_meta WHERE name GLOB 'dropped_*'";
    let mut query = conn.prepare_cached(sql)?;
    let rows = query.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
    })?;
    let mut out = Vec::new();
    for row in rows {
        let (number, name) = row?;
        let id = number.parse().map(TableId);
        let id = id.map_err(|_| TablesError::Damaged(format!("{number} is no table's number")))?;
        if exists(conn, &name)? {
            out.push((id, name));
        }
    }
    Ok(out)
}

fn dropped_name(id: TableId) -> String {
    format!("dropped_{}", id.0)
}

fn check(table: &Table) -> Result<(), TablesError> {
    let name = table.local_name();
    if table.primary_key.is_empty() || table.primary_key.len() > KEY_COLUMNS_MAX {
        return Err(TablesError::Schema(format!(
            "the table {name} has {} key columns; between 1 and {KEY_COLUMNS_MAX} can be \
             replicated, so give it a shorter key or leave it out",
            table.primary_key.len()
        )));
    }
    if name.starts_with("anabranch_") || name.starts_with("sqlite_") {
        return Err(TablesError::Schema(format!(
            "the table {name} bears a reserved name; rename it in the store or leave it out"
        )));
    }
    Ok(())
}

fn create(conn: &Connection, schema: &Schema, table: &Table) -> Result<(), TablesError> {
    let name = table.local_name();
    if exists(conn, &name)? {
        return Err(TablesError::Schema(format!(
            "this file has a table {name} of its own, and so has the store; rename the local one"
        )));
    }
    let key_names = names(table, &table.primary_key);
    let mut parts: Vec<String> = table
        .columns
        .iter()
        .map(|column| definition(table, column))
        .collect();
    parts.push(format!("PRIMARY KEY ({key_names})"));
    parts.extend(
        table
            .foreign_keys
            .iter()
            .filter_map(|key| foreign_key(schema, table, key)),
    );
    conn.execute_batch(&format!(
        "CREATE TABLE {}({})",
        quote(&name),
        parts.join(", ")
    ))?;
    create_side_tables(conn, table)
}

fn definition(table: &Table, column: &Column) -> String {
    let not_null = if table.is_key(column.id) {
        " NOT NULL"
    } else {
        ""
    };
    format!(
        "{} {}{not_null}",
        quote(&column.name),
        declared_type(column.kind)
    )
}

fn names(table: &Table, columns: &[anabranch_crdt::ColumnId]) -> String {
    let columns = columns.iter().filter_map(|id| table.column(*id));
    columns
        .map(|column| quote(&column.name))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Only keys that refer to a primary key: SQLite wants an index on what is referred to, and a
/// unique one could block a merge.
fn foreign_key(schema: &Schema, table: &Table, key: &ForeignKey) -> Option<String> {
    let parent = schema.table(key.parent)?;
    let action = match key.on_delete {
        // A default is the store's to fill in, so locally the delete is refused.
        ReferentialAction::Refuse | ReferentialAction::SetDefault => "NO ACTION",
        ReferentialAction::Cascade => "CASCADE",
        ReferentialAction::SetNull => "SET NULL",
    };
    key.refers_to_key(parent).then(|| {
        format!(
            "FOREIGN KEY ({}) REFERENCES {}({}) ON DELETE {action} DEFERRABLE INITIALLY DEFERRED",
            names(table, &key.columns),
            quote(&parent.local_name()),
            names(parent, &key.parent_columns)
        )
    })
}

fn alter(conn: &Connection, held: &Table, table: &Table) -> Result<(), TablesError> {
    let name = table.local_name();
    if held.primary_key != table.primary_key {
        return Err(TablesError::Schema(format!(
            "the primary key of {name} has changed in the store; start a new replica file"
        )));
    }
    if held.local_name() != name {
        rename_table(conn, &held.local_name(), &name)?;
    }
    widen_side_tables(conn, held, table)?;
    for column in &table.columns {
        match held.column(column.id) {
            Some(old) => {
                if old.name != column.name {
                    set_aside(conn, &name, &column.name)?;
                    rename_column(conn, &name, &old.name, &column.name)?;
                }
                if declared_type(old.kind) != declared_type(column.kind) {
                    redeclare(conn, table, column)?;
                }
            }
            None => {
                set_aside(conn, &name, &column.name)?;
                add_column(conn, table, column)?;
            }
        }
    }
    Ok(())
}

fn add_column(conn: &Connection, table: &Table, column: &Column) -> Result<(), TablesError> {
    let (name, definition) = (quote(&table.local_name()), definition(table, column));
    conn.execute_batch(&format!("ALTER TABLE {name} ADD COLUMN {definition}"))?;
    Ok(())
}

/// Gives a column another type, which SQLite cannot: a new one takes its name, with the old values
/// as far as the type's affinity makes them its own.
fn redeclare(conn: &Connection, table: &Table, column: &Column) -> Result<(), TablesError> {
    let name = table.local_name();
    let refers = |key: &ForeignKey| key.columns.contains(&column.id);
    if table.is_key(column.id) || table.foreign_keys.iter().any(refers) {
        return Err(TablesError::Schema(format!(
            "the type of {name}.{}, which is a key, has changed in the store; start a new replica \
             file",
            column.name
        )));
    }
    let Some(aside) = set_aside(conn, &name, &column.name)? else {
        return add_column(conn, table, column);
    };
    add_column(conn, table, column)?;
    let (table, to, from) = (quote(&name), quote(&column.name), quote(&aside));
    conn.execute_batch(&format!("UPDATE {table} SET {to} = {from}"))?;
    Ok(())
}

/// Renames a column that is out of replication, where a new one wants its name; its name then.
fn set_aside(conn: &Connection, table: &str, column: &str) -> Result<Option<String>, TablesError> {
    if !has_column(conn, table, column)? {
        return Ok(None);
    }
    let mut number = 1_u32;
    let mut aside = format!("anabranch_dropped_{number}_{column}");
    while has_column(conn, table, &aside)? {
        number += 1;
        aside = format!("anabranch_dropped_{number}_{column}");
    }
    rename_column(conn, table, column, &aside)?;
    Ok(Some(aside))
}

fn rename_table(conn: &Connection, from: &str, to: &str) -> Result<(), TablesError> {
    conn.execute_batch(&format!(
        "ALTER TABLE {} RENAME TO {}",
        quote(from),
        quote(to)
    ))?;
    Ok(())
}

fn rename_column(conn: &Connection, table: &str, from: &str, to: &str) -> Result<(), TablesError> {
    let (table, from, to) = (quote(table), quote(from), quote(to));
    conn.execute_batch(&format!("ALTER TABLE {table} RENAME COLUMN {from} TO {to}"))?;
    Ok(())
}

/// Whether the file has a table or view called `name`.
pub fn exists(conn: &Connection, name: &str) -> Result<bool, TablesError> {
    let sql =
        "SELECT 1 FROM sqlite_schema WHERE type IN ('table', 'view') AND name = ?1 COLLATE NOCASE";
    Ok(conn.prepare_cached(sql)?.exists([name])?)
}

fn has_column(conn: &Connection, table: &str, column: &str) -> Result<bool, TablesError> {
    let sql = "SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2 COLLATE NOCASE";
    let found: Option<i64> = conn
        .query_row(sql, [table, column], |row| row.get(0))
        .optional()?;
    Ok(found.is_some())
}
