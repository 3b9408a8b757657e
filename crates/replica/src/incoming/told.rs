//! What the service has told of rows that local writes are pending on.
//!
//! A pending write may beat what another replica wrote, and then be refused. The other's write has
//! been told and will not be told again, so it must not be lost with the write that beat it. Only
//! rows in that position are kept here, and only as long as they are.

use anabranch_crdt::{ColumnId, Delta, RowKey, RowState, TableId};
use anabranch_protocol::codec::{decode_deltas, encode_deltas};
use rusqlite::{Connection, OptionalExtension};

use crate::{
    ReplicaError,
    tables::{first, key::pack},
};

/// Adds to what the service has told of a row.
pub(crate) fn note(
    conn: &Connection,
    (table, key, packed): (TableId, &RowKey, &[u8]),
    state: &RowState,
) -> Result<(), ReplicaError> {
    let mut told = get(conn, table, packed)?.unwrap_or_default();
    let _ = told.merge(state);
    let delta = Delta {
        table,
        key: key.clone(),
        state: told,
    };
    let sql = "INSERT OR REPLACE INTO anabranch_told(tbl, key, state) VALUES (?1, ?2, ?3)";
    conn.prepare_cached(sql)?
        .execute((table.0, packed, encode_deltas(&[delta])?))?;
    Ok(())
}

/// What the service has told of a row since local writes are pending on it.
pub(crate) fn get(
    conn: &Connection,
    table: TableId,
    packed: &[u8],
) -> Result<Option<RowState>, ReplicaError> {
    let sql = "SELECT state FROM anabranch_told WHERE tbl = ?1 AND key = ?2";
    let mut query = conn.prepare_cached(sql)?;
    let state: Option<Vec<u8>> = query
        .query_row((table.0, packed), |row| row.get(0))
        .optional()?;
    let Some(state) = state else { return Ok(None) };
    Ok(decode_deltas(&state)?.pop().map(|delta| delta.state))
}

/// Whether anything is kept at all.
pub(crate) fn is_any(conn: &Connection) -> Result<bool, ReplicaError> {
    Ok(first::<i64>(conn, "SELECT 1 FROM anabranch_told LIMIT 1")?.is_some())
}

/// Columns of a table whose type has changed: what was told of them holds no longer.
pub(crate) fn forget_columns(
    conn: &Connection,
    table: TableId,
    columns: &[ColumnId],
) -> Result<(), ReplicaError> {
    let sql = "SELECT state FROM anabranch_told WHERE tbl = ?1";
    let mut query = conn.prepare_cached(sql)?;
    let states = query.query_map([table.0], |row| row.get::<_, Vec<u8>>(0))?;
    let states: Vec<Vec<u8>> = states.collect::<Result<_, _>>()?;
    for state in states {
        for mut delta in decode_deltas(&state)? {
            delta.state = delta.state.project(|column| !columns.contains(&column));
            let sql = "UPDATE anabranch_told SET state = ?3 WHERE tbl = ?1 AND key = ?2";
            let packed = pack(&delta.key);
            conn.prepare_cached(sql)?
                .execute((table.0, packed, encode_deltas(&[delta])?))?;
        }
    }
    Ok(())
}

/// No local write is pending on the row any more.
pub(crate) fn forget(conn: &Connection, table: TableId, packed: &[u8]) -> Result<(), ReplicaError> {
    conn.prepare_cached("DELETE FROM anabranch_told WHERE tbl = ?1 AND key = ?2")?
        .execute((table.0, packed))?;
    Ok(())
}
