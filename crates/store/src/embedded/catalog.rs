//! The schema of the embedded store, read from SQLite's own catalogue; the numbers of tables and
//! columns come from side tables, so that a number is never used twice.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_crdt::{ColumnId, MergeKind, TableId};
use anabranch_replica::tables::meta;
use anabranch_shape::{
    Dialect,
    rules::{RuleEntry, Rules},
    schema::{
        Column, ColumnType, DeletePolicy, ForeignKey, ReferencePolicy, ReferentialAction, Schema,
        Table,
    },
};
use rusqlite::Connection;

use crate::StoreError;

use super::error::sqlite;

/// What to do about a table that cannot be replicated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Say so: somebody is there to act on it.
    Refuse,
    /// Leave it out: another program made it while the store runs.
    LeaveOut,
}

/// Takes tables under replication from now on: every ordinary one, those created later too, where
/// none is named.
pub(super) fn choose(conn: &Connection, chosen: &[String]) -> Result<(), StoreError> {
    let names = ordinary_tables(conn)?;
    if let Some(missing) = chosen.iter().find(|name| !names.contains(*name)) {
        let known = names.into_iter().collect::<Vec<_>>().join(", ");
        return Err(StoreError::Misconfigured(format!(
            "there is no table {missing} in the store's file; there are: {known}"
        )));
    }
    if chosen.is_empty() {
        return Ok(meta::write(conn, "every_table", 1)?);
    }
    for name in chosen {
        conn.execute(
            "INSERT OR IGNORE INTO anabranch_table(name) VALUES (?1)",
            [name],
        )
        .map_err(sqlite)?;
    }
    Ok(())
}

/// The schema of the replicated tables, version left at 0. Tables and columns that are new get
/// numbers; those that went lose theirs for good.
pub(super) fn read(conn: &Connection, unfit: Unfit) -> Result<Schema, StoreError> {
    let mut names = ordinary_tables(conn)?;
    if meta::number(conn, "every_table")? == 0 {
        let chosen = held_tables(conn)?;
        names.retain(|name| chosen.iter().any(|(_, held)| held == name));
    }
    retire_tables(conn, &names)?;
    let mut tables = Vec::new();
    for name in &names {
        match table(conn, name)? {
            Ok(table) => tables.push(table),
            Err(reason) if unfit == Unfit::Refuse => return Err(StoreError::Misconfigured(reason)),
            Err(reason) => tracing::warn!(reason, "a table is left out of replication"),
        }
    }
    tables.sort_by_key(|table| table.id);
    let ids: BTreeMap<String, (TableId, Vec<ColumnId>)> = tables
        .iter()
        .map(|table| {
            (
                table.name.to_lowercase(),
                (table.id, table.primary_key.clone()),
            )
        })
        .collect();
    let columns: BTreeMap<TableId, Vec<Column>> = tables
        .iter()
        .map(|table| (table.id, table.columns.clone()))
        .collect();
    for table in &mut tables {
        table.foreign_keys = foreign_keys(conn, table, &ids, &columns)?;
    }
    let mut schema = Schema { version: 0, tables };
    for problem in rules(conn)?.apply(&mut schema, Dialect::Sqlite) {
        match unfit {
            Unfit::Refuse => return Err(StoreError::Misconfigured(problem.to_string())),
            Unfit::LeaveOut => tracing::warn!(%problem, "a rule is left out"),
        }
    }
    Ok(schema)
}

/// Adds to the rules that the store keeps: those of each table that `rules` names, as a whole.
pub(super) fn declare(conn: &Connection, new: &Rules) -> Result<(), StoreError> {
    if new.is_empty() {
        return Ok(());
    }
    let mut all = rules(conn)?;
    all.replace(new);
    conn.execute("DELETE FROM anabranch_rule", [])
        .map_err(sqlite)?;
    let sql = "INSERT INTO anabranch_rule(tbl, subject, name, word) VALUES (?1, ?2, ?3, ?4)";
    for entry in all.entries() {
        conn.execute(sql, (entry.table, entry.subject, entry.name, entry.word))
            .map_err(sqlite)?;
    }
    Ok(())
}

fn rules(conn: &Connection) -> Result<Rules, StoreError> {
    let sql = "SELECT tbl, subject, name, word FROM anabranch_rule";
    let mut query = conn.prepare(sql).map_err(sqlite)?;
    let entries = query
        .query_map([], |row| {
            Ok(RuleEntry {
                table: row.get(0)?,
                subject: row.get(1)?,
                name: row.get(2)?,
                word: row.get(3)?,
            })
        })
        .map_err(sqlite)?;
    let mut rules = Rules::new();
    for entry in entries {
        rules
            .add(&entry.map_err(sqlite)?)
            .map_err(|error| StoreError::Damaged(error.to_string()))?;
    }
    Ok(rules)
}

fn ordinary_tables(conn: &Connection) -> Result<BTreeSet<String>, StoreError> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
        AND name NOT GLOB 'sqlite_*' AND name NOT GLOB 'anabranch_*'";
    let mut query = conn.prepare(sql).map_err(sqlite)?;
    let names = query.query_map([], |row| row.get(0)).map_err(sqlite)?;
    names.collect::<Result<_, _>>().map_err(sqlite)
}

/// Takes the numbers of tables that are no longer there out of use.
fn retire_tables(conn: &Connection, present: &BTreeSet<String>) -> Result<(), StoreError> {
    for (id, name) in held_tables(conn)? {
        if !present.contains(&name) {
            let sql = "UPDATE anabranch_table SET name = NULL WHERE id = ?1";
            conn.execute(sql, [id]).map_err(sqlite)?;
        }
    }
    Ok(())
}

fn held_tables(conn: &Connection) -> Result<Vec<(i64, String)>, StoreError> {
    let sql = "SELECT id, name FROM anabranch_table WHERE name IS NOT NULL";
    let mut query = conn.prepare(sql).map_err(sqlite)?;
    let held = query
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .map_err(sqlite)?;
    held.collect::<Result<_, _>>().map_err(sqlite)
}

/// A column as SQLite tells it.
struct Declared {
    name: String,
    declared_type: String,
    not_null: bool,
    has_default: bool,
    /// Its place in the primary key, from 1; 0 outside.
    key_place: i64,
}

/// The table, without foreign keys; the reason if it cannot be replicated.
fn table(conn: &Connection, name: &str) -> Result<Result<Table, String>, StoreError> {
    let declared = declared_columns(conn, name)?;
    if declared.iter().all(|column| column.key_place == 0) {
        return Ok(Err(format!(
            "the table {name} has no primary key, by which rows are known elsewhere; declare one"
        )));
    }
    let id = table_id(conn, name)?;
    let numbers = column_ids(conn, id, &declared)?;
    let mut key: Vec<(i64, ColumnId)> = Vec::new();
    let mut columns = Vec::new();
    for column in declared {
        let Some(number) = numbers.get(&column.name).copied() else {
            continue;
        };
        let is_key = column.key_place > 0;
        if is_key {
            key.push((column.key_place, number));
        }
        columns.push(Column {
            id: number,
            kind: kind(&column.declared_type),
            nullable: !column.not_null && !is_key,
            has_default: column.has_default,
            bytewise_order: true,
            merge: MergeKind::Register,
            name: column.name,
            declared_type: column.declared_type,
        });
    }
    columns.sort_by_key(|column| column.id);
    key.sort_unstable();
    Ok(Ok(Table {
        id,
        namespace: "main".to_owned(),
        name: name.to_owned(),
        columns,
        primary_key: key.into_iter().map(|(_, column)| column).collect(),
        foreign_keys: Vec::new(),
        delete: DeletePolicy::default(),
    }))
}

fn declared_columns(conn: &Connection, table: &str) -> Result<Vec<Declared>, StoreError> {
    // Generated columns are hidden: every replica's file would have to generate them alike.
    let sql = "SELECT name, type, \"notnull\", dflt_value IS NOT NULL, pk \
        FROM pragma_table_xinfo(?1) WHERE hidden = 0 ORDER BY cid";
    let mut query = conn.prepare(sql).map_err(sqlite)?;
    let columns = query
        .query_map([table], |row| {
            Ok(Declared {
                name: row.get(0)?,
                declared_type: row.get(1)?,
                not_null: row.get(2)?,
                has_default: row.get(3)?,
                key_place: row.get(4)?,
            })
        })
        .map_err(sqlite)?;
    columns.collect::<Result<_, _>>().map_err(sqlite)
}

fn table_id(conn: &Connection, name: &str) -> Result<TableId, StoreError> {
    conn.execute(
        "INSERT OR IGNORE INTO anabranch_table(name) VALUES (?1)",
        [name],
    )
    .map_err(sqlite)?;
    let sql = "SELECT id FROM anabranch_table WHERE name = ?1";
    let id = conn
        .query_row(sql, [name], |row| row.get(0))
        .map_err(sqlite)?;
    Ok(TableId(id))
}

fn column_ids(
    conn: &Connection,
    table: TableId,
    declared: &[Declared],
) -> Result<BTreeMap<String, ColumnId>, StoreError> {
    let sql = "SELECT name, id FROM anabranch_column WHERE tbl = ?1 AND name IS NOT NULL";
    let mut query = conn.prepare(sql).map_err(sqlite)?;
    let held = query
        .query_map([table.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .map_err(sqlite)?;
    let held: BTreeMap<String, u16> = held.collect::<Result<_, _>>().map_err(sqlite)?;
    for name in held.keys() {
        if !declared.iter().any(|column| column.name == *name) {
            let sql = "UPDATE anabranch_column SET name = NULL WHERE tbl = ?1 AND name = ?2";
            conn.execute(sql, (table.0, name)).map_err(sqlite)?;
        }
    }
    let mut numbers = BTreeMap::new();
    for column in declared {
        let number = match held.get(&column.name) {
            Some(number) => *number,
            None => {
                let sql = "INSERT INTO anabranch_column(tbl, id, name) VALUES (?1, \
                    1 + (SELECT coalesce(max(id), 0) FROM anabranch_column WHERE tbl = ?1), ?2) \
                    RETURNING id";
                conn.query_row(sql, (table.0, &column.name), |row| row.get(0))
                    .map_err(sqlite)?
            }
        };
        numbers.insert(column.name.clone(), ColumnId(number));
    }
    Ok(numbers)
}

/// The foreign keys of a table to other replicated tables.
fn foreign_keys(
    conn: &Connection,
    table: &Table,
    ids: &BTreeMap<String, (TableId, Vec<ColumnId>)>,
    columns: &BTreeMap<TableId, Vec<Column>>,
) -> Result<Vec<ForeignKey>, StoreError> {
    let sql = "SELECT id, \"table\", \"from\", \"to\", on_delete \
        FROM pragma_foreign_key_list(?1) ORDER BY id, seq";
    let mut query = conn.prepare(sql).map_err(sqlite)?;
    let mut rows = query.query([&table.name]).map_err(sqlite)?;
    let mut keys: BTreeMap<i64, ForeignKey> = BTreeMap::new();
    while let Some(row) = rows.next().map_err(sqlite)? {
        let parent: String = row.get(1).map_err(sqlite)?;
        let Some((parent, parent_key)) = ids.get(&parent.to_lowercase()) else {
            continue;
        };
        let from: String = row.get(2).map_err(sqlite)?;
        let to: Option<String> = row.get(3).map_err(sqlite)?;
        let action: String = row.get(4).map_err(sqlite)?;
        let key = keys
            .entry(row.get(0).map_err(sqlite)?)
            .or_insert_with(|| ForeignKey {
                columns: Vec::new(),
                parent: *parent,
                parent_columns: Vec::new(),
                on_delete: referential_action(&action),
                policy: ReferencePolicy::default(),
            });
        let named = |columns: &[Column], name: &str| {
            let found = columns
                .iter()
                .find(|column| column.name.eq_ignore_ascii_case(name));
            found.map(|column| column.id)
        };
        // Where it names no column, it refers to the primary key.
        let to = match to {
            Some(name) => columns
                .get(parent)
                .and_then(|columns| named(columns, &name)),
            None => parent_key.get(key.parent_columns.len()).copied(),
        };
        key.columns.extend(named(&table.columns, &from));
        key.parent_columns.extend(to);
    }
    Ok(keys
        .into_values()
        .filter(|key| key.columns.len() == key.parent_columns.len())
        .collect())
}

fn referential_action(action: &str) -> ReferentialAction {
    match action {
        "CASCADE" => ReferentialAction::Cascade,
        "SET NULL" => ReferentialAction::SetNull,
        "SET DEFAULT" => ReferentialAction::SetDefault,
        _ => ReferentialAction::Refuse,
    }
}

/// What a declared type means: by its name without length or precision, in any case.
fn kind(declared: &str) -> ColumnType {
    let name = declared
        .split('(')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match name.as_str() {
        "bool" | "boolean" => ColumnType::Boolean,
        "real" | "double" | "double precision" | "float" | "float4" | "float8" => ColumnType::Float,
        "numeric" | "decimal" => ColumnType::Numeric,
        "uuid" => ColumnType::Uuid,
        "blob" | "bytea" => ColumnType::Bytes,
        "date" => ColumnType::Date,
        "time" => ColumnType::Time,
        "timestamptz" | "timestamp with time zone" => ColumnType::TimestampTz,
        "timestamp" | "datetime" => ColumnType::Timestamp,
        "json" | "jsonb" => ColumnType::Json,
        "int" | "integer" | "tinyint" | "smallint" | "mediumint" | "bigint" | "int2" | "int4"
        | "int8" | "unsigned big int" => ColumnType::Integer,
        name if ["char", "text", "clob"]
            .iter()
            .any(|part| name.contains(part)) =>
        {
            ColumnType::Text
        }
        _ => ColumnType::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_types_are_known_by_name() {
        let cases = [
            ("UUID", ColumnType::Uuid),
            ("BOOLEAN", ColumnType::Boolean),
            ("NUMERIC(10,2)", ColumnType::Numeric),
            ("TIMESTAMPTZ", ColumnType::TimestampTz),
            ("varchar(20)", ColumnType::Text),
            ("BIGINT", ColumnType::Integer),
            ("INTEGER", ColumnType::Integer),
            ("Double Precision", ColumnType::Float),
            ("BLOB", ColumnType::Bytes),
            ("POINT", ColumnType::Other),
            ("", ColumnType::Other),
        ];
        for (declared, expected) in cases {
            assert_eq!(kind(declared), expected, "{declared}");
        }
    }
}
