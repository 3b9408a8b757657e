//! The store's log, bounded, and the marks that make every transaction count once.

use anabranch_crdt::{Delta, ReplicaId};
use anabranch_protocol::{
    Position, RejectCode, Seq,
    codec::{decode_deltas, encode_deltas},
};
use anabranch_replica::tables::first;
use rusqlite::{Connection, OptionalExtension};

use crate::{StoreError, StoreTransaction};

use super::{
    error::sqlite,
    limits::{LOG_ENTRIES_MAX, LOG_ENTRIES_READ},
};

/// The last position of the log.
pub(super) fn last(conn: &Connection) -> Result<Position, StoreError> {
    // The counter outlives the entries, so that positions only grow.
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'anabranch_log'";
    Ok(Position(
        first::<i64>(conn, sql)?.unwrap_or(0).unsigned_abs(),
    ))
}

/// Appends a transaction and lets go of the oldest ones beyond the bound.
pub(super) fn append(
    conn: &Connection,
    origins: &[(ReplicaId, Seq)],
    deltas: &[Delta],
) -> Result<(), StoreError> {
    let mut packed = Vec::with_capacity(origins.len().saturating_mul(ORIGIN_BYTES));
    for (replica, seq) in origins {
        packed.extend_from_slice(&replica.0);
        packed.extend_from_slice(&seq.0.to_be_bytes());
    }
    let payload = encode_deltas(deltas).map_err(|error| StoreError::Damaged(error.to_string()))?;
    conn.prepare_cached("INSERT INTO anabranch_log(origins, payload) VALUES (?1, ?2)")
        .and_then(|mut insert| insert.execute((packed, payload)))
        .map_err(sqlite)?;
    let oldest = last(conn)?.0.saturating_sub(LOG_ENTRIES_MAX);
    conn.prepare_cached("DELETE FROM anabranch_log WHERE position <= ?1")
        .and_then(|mut delete| delete.execute([oldest.cast_signed()]))
        .map_err(sqlite)?;
    Ok(())
}

/// The next transactions after `after`; `None` if the log no longer reaches back to there.
pub(super) fn after(
    conn: &Connection,
    after: Position,
) -> Result<Option<Vec<StoreTransaction>>, StoreError> {
    let sql = "SELECT position, origins, payload FROM anabranch_log WHERE position > ?1 \
        ORDER BY position LIMIT ?2";
    let mut query = conn.prepare_cached(sql).map_err(sqlite)?;
    let bounds = (after.0.cast_signed(), LOG_ENTRIES_READ.cast_signed());
    let mut rows = query.query(bounds).map_err(sqlite)?;
    let mut out = Vec::new();
    while let Some(row) = rows.next().map_err(sqlite)? {
        let position: i64 = row.get(0).map_err(sqlite)?;
        let origins: Vec<u8> = row.get(1).map_err(sqlite)?;
        let payload: Vec<u8> = row.get(2).map_err(sqlite)?;
        let id = position.unsigned_abs();
        let deltas =
            decode_deltas(&payload).map_err(|error| StoreError::Damaged(error.to_string()))?;
        let origins = unpack(&origins);
        out.push(StoreTransaction {
            position: Position(id),
            id,
            origins,
            deltas,
        });
    }
    let next = out.first().map(|first| first.position.0);
    let is_whole = match next {
        Some(next) => next == after.0.saturating_add(1),
        None => last(conn)? <= after,
    };
    Ok(is_whole.then_some(out))
}

fn unpack(origins: &[u8]) -> Vec<(ReplicaId, Seq)> {
    let (origins, _) = origins.as_chunks::<ORIGIN_BYTES>();
    let origin = |bytes: &[u8; ORIGIN_BYTES]| {
        let (replica, seq) = bytes.split_first_chunk()?;
        Some((
            ReplicaId(*replica),
            Seq(u64::from_be_bytes(seq.try_into().ok()?)),
        ))
    };
    origins.iter().filter_map(origin).collect()
}

/// What became of a replica's transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) hash: [u8; 32],
    /// The refusal, if it was refused.
    pub(super) refusal: Option<(RejectCode, String)>,
}

/// The outcome recorded for a replica's transaction, if it is still known.
pub(super) fn mark(
    conn: &Connection,
    replica: ReplicaId,
    seq: Seq,
) -> Result<Option<Mark>, StoreError> {
    let sql = "SELECT hash, code, reason FROM anabranch_marks WHERE replica = ?1 AND seq = ?2";
    let mut query = conn.prepare_cached(sql).map_err(sqlite)?;
    query
        .query_row((replica.0, number(seq)), |row| {
            let code: Option<u8> = row.get(1)?;
            let reason: Option<String> = row.get(2)?;
            let refusal =
                code.map(|code| (RejectCode::from_number(code), reason.unwrap_or_default()));
            Ok(Mark {
                hash: row.get(0)?,
                refusal,
            })
        })
        .optional()
        .map_err(sqlite)
}

/// Records an outcome.
pub(super) fn put_mark(
    conn: &Connection,
    replica: ReplicaId,
    seq: Seq,
    mark: &Mark,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO anabranch_marks(replica, seq, hash, code, reason) \
        VALUES (?1, ?2, ?3, ?4, ?5)";
    let refusal = mark.refusal.as_ref();
    let (code, reason) = (
        refusal.map(|(code, _)| code.number()),
        refusal.map(|(_, why)| why),
    );
    conn.prepare_cached(sql)
        .and_then(|mut put| put.execute((replica.0, number(seq), mark.hash, code, reason)))
        .map_err(sqlite)?;
    Ok(())
}

/// The replica's last transaction with an outcome; 0 if there is none.
pub(super) fn last_mark(conn: &Connection, replica: ReplicaId) -> Result<Seq, StoreError> {
    let sql = "SELECT max(seq) FROM anabranch_marks WHERE replica = ?1";
    let mut query = conn.prepare_cached(sql).map_err(sqlite)?;
    let last: Option<i64> = query
        .query_row([replica.0], |row| row.get(0))
        .map_err(sqlite)?;
    Ok(Seq(last.unwrap_or(0).unsigned_abs()))
}

/// Forgets the outcomes before `first_pending`, but for the last one.
pub(super) fn prune_marks(
    conn: &Connection,
    replica: ReplicaId,
    first_pending: Seq,
) -> Result<(), StoreError> {
    let kept = last_mark(conn, replica)?.min(first_pending);
    conn.prepare_cached("DELETE FROM anabranch_marks WHERE replica = ?1 AND seq < ?2")
        .and_then(|mut prune| prune.execute((replica.0, number(kept))))
        .map_err(sqlite)?;
    Ok(())
}

fn number(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}

const ORIGIN_BYTES: usize = 24;
