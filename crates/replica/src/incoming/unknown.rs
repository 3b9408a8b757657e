//! Columns that a delta carries and this file does not have: kept beside the row, never dropped, and
//! merged into it when a schema brings the column.
//!
//! The service tells its schema before anything else in a session and ends the session when that
//! changes, so what it tells has such columns only where the two disagree about what a schema's
//! version means, as after the store was restored; an outbox brought from a replica with a newer
//! schema has them by right. Whole tables cannot come so: an outbox with rows of one is refused
//! until the schema is there.

use anabranch_crdt::{Delta, RowKey, RowState, TableId};
use anabranch_protocol::codec::{decode_deltas, encode_deltas};
use rusqlite::{Connection, OptionalExtension};

use crate::{
    ReplicaError,
    tables::{TableSql, Tables, key::pack},
    turn::Turn,
};

impl Turn<'_> {
    /// Keeps the cells of a delta in columns that this file does not have.
    pub(crate) fn keep_unknown(
        &self,
        table: &TableSql,
        key: &RowKey,
        packed: &[u8],
        state: &RowState,
    ) -> Result<(), ReplicaError> {
        let Some(cells) = table.unknown_cells(state) else {
            return Ok(());
        };
        let mut kept = get(self.tx, table.id(), packed)?.unwrap_or_default();
        let _ = kept.merge(&cells);
        put(self.tx, table.id(), key, &kept)
    }

    /// Merges what was kept into the rows, as far as `tables` has the columns now.
    pub(crate) fn merge_unknown(&mut self, tables: &Tables) -> Result<(), ReplicaError> {
        for delta in all(self.tx)? {
            let Some(table) = tables.get(delta.table) else {
                continue;
            };
            let packed = pack(&delta.key);
            forget(self.tx, delta.table, &packed)?;
            if self.held(table, &packed)?.is_none() {
                continue;
            }
            self.keep_unknown(table, &delta.key, &packed, &delta.state)?;
            let merged = self.merge_row(table, &delta.key, &delta.state)?;
            let change = merged.into_change(table.id(), delta.key);
            self.note(change.into_iter().collect());
        }
        Ok(())
    }
}

fn get(conn: &Connection, table: TableId, packed: &[u8]) -> Result<Option<RowState>, ReplicaError> {
    let sql = "SELECT state FROM anabranch_unknown WHERE tbl = ?1 AND key = ?2";
    let mut query = conn.prepare_cached(sql)?;
    let state: Option<Vec<u8>> = query
        .query_row((table.0, packed), |row| row.get(0))
        .optional()?;
    let Some(state) = state else { return Ok(None) };
    Ok(decode_deltas(&state)?.pop().map(|delta| delta.state))
}

fn put(
    conn: &Connection,
    table: TableId,
    key: &RowKey,
    state: &RowState,
) -> Result<(), ReplicaError> {
    let delta = Delta {
        table,
        key: key.clone(),
        state: state.clone(),
    };
    let sql = "INSERT OR REPLACE INTO anabranch_unknown(tbl, key, state) VALUES (?1, ?2, ?3)";
    conn.prepare_cached(sql)?
        .execute((table.0, pack(key), encode_deltas(&[delta])?))?;
    Ok(())
}

fn all(conn: &Connection) -> Result<Vec<Delta>, ReplicaError> {
    let mut query = conn.prepare_cached("SELECT state FROM anabranch_unknown ORDER BY tbl, key")?;
    let mut rows = query.query([])?;
    let mut deltas = Vec::new();
    while let Some(row) = rows.next()? {
        let state = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
        deltas.extend(decode_deltas(state)?);
    }
    Ok(deltas)
}

/// The row has left the file.
pub(crate) fn forget(conn: &Connection, table: TableId, packed: &[u8]) -> Result<(), ReplicaError> {
    conn.prepare_cached("DELETE FROM anabranch_unknown WHERE tbl = ?1 AND key = ?2")?
        .execute((table.0, packed))?;
    Ok(())
}
