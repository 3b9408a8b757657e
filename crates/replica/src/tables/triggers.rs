//! The capture triggers: pure SQL, so that any program's writes to the file are captured.
//!
//! Each appends one narrow row to `anabranch_capture` in the writer's own transaction; a rollback
//! takes it back. Values are read from the row when it is sealed. A delete also saves the row, so
//! that it is whole should it come back. Beside capturing, they enforce NOT NULL: a constraint of
//! the table itself would also bind merges, which must never be blocked by a column not yet known.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_crdt::TableId;
use rusqlite::Connection;

use super::{
    Tables, TablesError,
    evictions::{evictions, unique_indexes},
    table::{ColumnSql, TableSql, dead_table, list, quote},
};

/// No write: in a replica, a sealed transaction, which lies in the same table.
pub(crate) const SEALED: i64 = 0;
/// A row was inserted.
pub(super) const INSERT: i64 = 1;
/// Columns of a row were changed.
pub(super) const UPDATE: i64 = 2;
/// A row was deleted.
pub(super) const DELETE: i64 = 3;
/// Columns that one mask of changed columns covers.
pub(super) const MASK_COLUMNS: usize = 60;
/// Columns of the widest primary key.
pub(super) const KEY_COLUMNS_MAX: usize = 8;

/// Which rules of the table the triggers enforce beside capturing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// NOT NULL, where the store does not fill the column in.
    NotNull,
    /// None: the table has its own.
    None,
}

/// Brings the capture triggers to what `tables` asks for: missing and outdated ones are made anew.
/// The tables where that was so, whose writes may have gone unnoticed.
pub fn audit(
    conn: &Connection,
    tables: &Tables,
    rules: Rules,
) -> Result<BTreeSet<TableId>, TablesError> {
    let mut found = BTreeMap::new();
    let mut query = conn.prepare_cached(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name GLOB 'anabranch_*'",
    )?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        found.insert(row.get::<_, String>(0)?, row.get::<_, String>(1)?);
    }
    drop(rows);
    let mut unwatched = BTreeSet::new();
    for table in tables.iter() {
        let probes = evictions(table, &unique_indexes(conn, table)?);
        for (name, sql) in triggers(table, rules).into_iter().chain(probes) {
            let held = found.remove(&name);
            if held.as_ref() == Some(&sql) {
                continue;
            }
            if held.is_some() {
                conn.execute_batch(&format!("DROP TRIGGER {}", quote(&name)))?;
            }
            conn.execute_batch(&sql)?;
            unwatched.insert(table.id());
        }
    }
    for name in found.keys() {
        conn.execute_batch(&format!("DROP TRIGGER {}", quote(name)))?;
    }
    Ok(unwatched)
}

/// Drops every capture trigger, so that tables can be altered.
pub fn drop_all(conn: &Connection) -> Result<(), TablesError> {
    audit(conn, &Tables::default(), Rules::None).map(drop)
}

/// The triggers of a table, by name.
fn triggers(table: &TableSql, rules: Rules) -> Vec<(String, String)> {
    let id = table.id().0;
    let on = quote(&table.table.local_name());
    let mut out = Vec::with_capacity(4);
    let mut trigger = |what: &str, event: &str, when: &str, body: &[String]| {
        let name = format!("anabranch_{id}_{what}");
        let body = body.concat();
        let sql = format!("CREATE TRIGGER {name} AFTER {event} ON {on}{when} BEGIN {body}END");
        out.push((name, sql));
    };
    let keys = || table.keys.iter().map(|column| column.name.as_str());
    let same_key = all(keys().map(|key| format!("OLD.{key} IS NEW.{key} COLLATE BINARY")));
    let enforced = rules == Rules::NotNull;
    let present = if enforced {
        not_null(table, "")
    } else {
        String::new()
    };
    // A column that the row never had, since no shape brings it, does not forbid writing others.
    let kept = if enforced {
        not_null(table, " AND OLD.{} IS NOT NULL")
    } else {
        String::new()
    };
    let insert = mark(table, INSERT, "NULL", "NEW");
    let delete = mark(table, DELETE, "NULL", "OLD");

    trigger("insert", "INSERT", "", &[present, insert.clone()]);
    if !table.registers.is_empty() {
        let changed = any_changed(&table.registers);
        let when = format!(" WHEN {same_key} AND ({changed})");
        let update = mark(table, UPDATE, &mask(&table.registers), "NEW");
        trigger("update", "UPDATE", &when, &[kept.clone(), update]);
    }
    let event = format!(
        "UPDATE OF {}",
        list(table.keys.iter().map(|column| &column.name))
    );
    let when = format!(" WHEN NOT ({same_key})");
    trigger(
        "rekey",
        &event,
        &when,
        &[kept, bury(table), delete.clone(), insert],
    );
    trigger("delete", "DELETE", "", &[bury(table), delete]);
    out
}

fn mark(table: &TableSql, op: i64, changed: &str, row: &str) -> String {
    let keys: Vec<String> = (0..table.keys.len()).map(|at| format!("k{at}")).collect();
    let values: Vec<String> = table
        .keys
        .iter()
        .map(|column| format!("{row}.{}", column.name))
        .collect();
    format!(
        "INSERT INTO anabranch_capture(tbl, op, changed, {}) VALUES ({}, {op}, {changed}, {}); ",
        list(&keys),
        table.id().0,
        list(&values)
    )
}

/// The same for the rows that `rows`, the end of a query, finds.
pub(super) fn mark_from(table: &TableSql, op: i64, rows: &str) -> String {
    let keys: Vec<String> = (0..table.keys.len()).map(|at| format!("k{at}")).collect();
    format!(
        "INSERT INTO anabranch_capture(tbl, op, {}) SELECT {}, {op}, {} {rows}; ",
        list(&keys),
        table.id().0,
        list(table.keys.iter().map(|column| &column.name))
    )
}

/// Saves a row that goes. A delete and an insert, since the conflict clause of the statement that
/// fired the trigger would override one in here. A row with a NULL in its key is nobody's.
fn bury(table: &TableSql) -> String {
    let dead = dead_table(table.id());
    let is = all(table
        .keys
        .iter()
        .map(|column| format!("{} = OLD.{}", column.dead, column.name)));
    let columns = || table.keys.iter().chain(&table.registers);
    let names = list(columns().map(|column| &column.dead));
    let values: Vec<String> = columns()
        .map(|column| format!("OLD.{}", column.name))
        .collect();
    let whole = all(table
        .keys
        .iter()
        .map(|column| format!("OLD.{} IS NOT NULL", column.name)));
    format!(
        "DELETE FROM {dead} WHERE {is}; INSERT INTO {dead}({names}) SELECT {} WHERE {whole}; ",
        list(&values)
    )
}

/// Refuses a NULL where none may be and, with the column's name for `{}`, `condition` holds too.
fn not_null(table: &TableSql, condition: &str) -> String {
    let required = table
        .registers
        .iter()
        .filter(|column| !column.nullable && !column.has_default);
    let rule = |column: &ColumnSql| {
        let plain = table
            .table
            .column(column.id)
            .map_or("", |held| held.name.as_str());
        let what = format!(
            "NOT NULL constraint failed: {}.{plain}",
            table.table.local_name()
        );
        let (message, name) = (what.replace('\'', "''"), &column.name);
        let condition = condition.replace("{}", name);
        format!("SELECT RAISE(ABORT, '{message}') WHERE NEW.{name} IS NULL{condition}; ")
    };
    required.map(rule).collect()
}

fn changed(column: &ColumnSql) -> String {
    format!("OLD.{0} IS NOT NEW.{0} COLLATE BINARY", column.name)
}

/// In groups, since SQLite bounds the depth of an expression.
fn any_changed(registers: &[ColumnSql]) -> String {
    let groups = registers.chunks(MASK_COLUMNS);
    let groups = groups.map(|group| group.iter().map(changed).collect::<Vec<_>>().join(" OR "));
    groups
        .map(|group| format!("({group})"))
        .collect::<Vec<_>>()
        .join(" OR ")
}

/// One bit a register, in column order; several masks as text, where one integer is too narrow.
fn mask(registers: &[ColumnSql]) -> String {
    let bits = |group: &[ColumnSql]| {
        let bits = group
            .iter()
            .enumerate()
            .map(|(at, column)| format!("(({}) << {at})", changed(column)));
        format!("({})", bits.collect::<Vec<_>>().join(" | "))
    };
    registers
        .chunks(MASK_COLUMNS)
        .map(bits)
        .collect::<Vec<_>>()
        .join(" || ' ' || ")
}

fn all(terms: impl Iterator<Item = String>) -> String {
    terms.collect::<Vec<_>>().join(" AND ")
}
