//! The file: its side tables, and following the schema that its owner gives it.

use std::path::Path;

use anabranch_crdt::{Stamp, Value};
use anabranch_protocol::codec::{decode_schema, encode_schema};
use anabranch_replica::tables::{
    Clocks, Rules, TableSql, Tables, audit, drop_all, first,
    layout::{self, COMMON},
    meta::{self, FORMAT},
    quote, seal, unpack_key,
};
use anabranch_shape::{
    rules::check_kinds,
    schema::{Schema, Table},
};
use rusqlite::Connection;

use crate::StoreError;

use super::{
    catalog::{self, Unfit},
    error::sqlite,
};

/// Opens a connection that writes.
pub(super) fn connect(path: &Path) -> Result<Connection, StoreError> {
    let conn = Connection::open(path).map_err(sqlite)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    conn.busy_timeout(BUSY_TIMEOUT).map_err(sqlite)?;
    conn.pragma_update(None, "journal_mode", "WAL")
        .map_err(sqlite)?;
    // What was acknowledged must outlive a power cut.
    conn.pragma_update(None, "synchronous", "FULL")
        .map_err(sqlite)?;
    conn.pragma_update(None, "recursive_triggers", true)
        .map_err(sqlite)?;
    conn.pragma_update(None, "foreign_keys", true)
        .map_err(sqlite)?;
    Ok(conn)
}

/// Makes sure that the file has the engine's side tables; whether they had to be made.
pub(super) fn establish(conn: &Connection, path: &Path) -> Result<bool, StoreError> {
    if !layout::exists(conn, "anabranch_meta")? {
        conn.execute_batch(COMMON).map_err(sqlite)?;
        conn.execute_batch(STORE).map_err(sqlite)?;
        meta::write(conn, "format", FORMAT)?;
        return Ok(true);
    }
    let format = meta::number(conn, "format")?;
    if format > FORMAT {
        let path = path.display();
        return Err(StoreError::Misconfigured(format!(
            "{path} has format {format}, this version knows up to {FORMAT}; upgrade Anabranch"
        )));
    }
    if format < FORMAT {
        let path = path.display();
        return Err(StoreError::Misconfigured(format!(
            "{path} has format {format}, this version reads {FORMAT} only; install it anew"
        )));
    }
    if !layout::exists(conn, "anabranch_marks")? {
        let path = path.display();
        return Err(StoreError::Misconfigured(format!(
            "{path} is a replica, not a store; name another file"
        )));
    }
    Ok(false)
}

/// The tables as the file has them now, their side tables made and their triggers in place. Must
/// run in a transaction that has the write lock.
pub(super) fn load(conn: &Connection, unfit: Unfit) -> Result<Tables, StoreError> {
    let held: Option<Vec<u8>> = meta::read(conn, "schema")?;
    let held = held.map(|bytes| decode_schema(&bytes)).transpose();
    let held = held
        .map_err(|error| StoreError::Damaged(error.to_string()))?
        .unwrap_or_default();
    let mut schema = catalog::read(conn, unfit)?;
    schema.version = held.version;
    if schema != held {
        check_kinds(&held, &schema)
            .map_err(|error| StoreError::Misconfigured(error.to_string()))?;
        schema.version = held.version.saturating_add(1);
        adopt(conn, &held, &schema)?;
    }
    let tables = Tables::new(schema);
    audit(conn, &tables, Rules::None)?;
    Ok(tables)
}

fn adopt(conn: &Connection, held: &Schema, schema: &Schema) -> Result<(), StoreError> {
    drop_all(conn)?;
    for table in &schema.tables {
        match held.table(table.id) {
            Some(old) => {
                layout::widen_side_tables(conn, old, table)?;
                stamp_new_columns(conn, old, table)?;
            }
            None => {
                layout::create_side_tables(conn, table)?;
                stamp_existing_rows(conn, table)?;
            }
        }
    }
    let bytes = encode_schema(schema).map_err(|error| StoreError::Damaged(error.to_string()))?;
    Ok(meta::write(conn, "schema", bytes)?)
}

/// Rows from before the installation are nobody's: the oldest stamp there is.
fn stamp_existing_rows(conn: &Connection, table: &Table) -> Result<(), StoreError> {
    let places: Vec<String> = (0..table.primary_key.len())
        .map(|at| format!("k{at}"))
        .collect();
    let names: Vec<String> = table
        .key_columns()
        .map(|column| quote(&column.name))
        .collect();
    conn.execute_batch(&format!(
        "INSERT INTO anabranch_capture(tbl, op, {}) SELECT {}, 1, {} FROM {}",
        places.join(", "),
        table.id.0,
        names.join(", "),
        quote(&table.name)
    ))
    .map_err(sqlite)?;
    let alone = Schema {
        version: 0,
        tables: vec![table.clone()],
    };
    seal(conn, &Tables::new(alone), Stamp::GENESIS, Clocks::Written)?;
    Ok(())
}

/// A new column has its default in every row, from the beginning.
fn stamp_new_columns(conn: &Connection, held: &Table, table: &Table) -> Result<(), StoreError> {
    let new: Vec<_> = table
        .registers()
        .filter(|column| held.column(column.id).is_none())
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    let sql = TableSql::new(table.clone());
    let mut all = Vec::new();
    sql.each_held(conn, |packed, held| {
        all.push((packed, held));
        Ok(())
    })?;
    for (packed, mut held) in all {
        let key = unpack_key(&packed)?;
        let present = held.clock.existence.is_present();
        let values = sql.values(conn, &key, present)?.unwrap_or_default();
        let mut values = values.into_iter();
        for column in table.registers() {
            let value = values.next().unwrap_or(Value::Null);
            if !new.iter().any(|new| new.id == column.id) {
                continue;
            }
            match column.merge.write(None, &value, Stamp::GENESIS) {
                Some(state) => held.clock.set_column(column.id, state),
                None => held.clock.set(column.id, Stamp::GENESIS),
            }
        }
        held.clock.settle();
        sql.put_held(conn, &packed, &held.clock, held.shapes)?;
    }
    Ok(())
}

/// SQLite's own counter of schema changes.
pub(super) fn schema_cookie(conn: &Connection) -> Result<i64, StoreError> {
    Ok(first(conn, "PRAGMA schema_version")?.unwrap_or(0))
}

const STATEMENTS_CACHED: usize = 512;
const BUSY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// The side tables that only a store has.
const STORE: &str = "
CREATE TABLE anabranch_table(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE);
CREATE TABLE anabranch_column(
  tbl INTEGER NOT NULL, id INTEGER NOT NULL, name TEXT, PRIMARY KEY (tbl, id)) WITHOUT ROWID;
CREATE TABLE anabranch_log(
  position INTEGER PRIMARY KEY AUTOINCREMENT, origins BLOB NOT NULL, payload BLOB NOT NULL);
CREATE TABLE anabranch_marks(
  replica BLOB NOT NULL, seq INTEGER NOT NULL, hash BLOB NOT NULL, code INTEGER, reason TEXT,
  PRIMARY KEY (replica, seq)) WITHOUT ROWID;
CREATE TABLE anabranch_removed(
  tbl INTEGER NOT NULL, key BLOB NOT NULL, newest INTEGER NOT NULL, found INTEGER NOT NULL,
  PRIMARY KEY (tbl, key)) WITHOUT ROWID;
CREATE TABLE anabranch_rule(
  tbl TEXT NOT NULL, subject TEXT NOT NULL, name TEXT NOT NULL, word TEXT NOT NULL,
  PRIMARY KEY (tbl, subject, name)) WITHOUT ROWID;
";
