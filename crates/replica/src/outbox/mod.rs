//! The durable queues of local transactions: those that wait for an outcome, and the rejected ones.
//!
//! The outbox is a view over the table that the triggers append to: a sealed transaction takes the
//! place of what was captured, at the end of the same B-tree, so that a local write dirties one page
//! for both.

pub(crate) mod carry;
pub(crate) mod pending;
pub(crate) mod resend;
pub(crate) mod squash;

use anabranch_crdt::{Delta, Hlc, Millis};
use anabranch_protocol::{
    LocalTransaction, RejectCode, Seq,
    codec::{decode_transaction, encode_transaction},
};
use rusqlite::{Connection, OptionalExtension};

use crate::{
    ReplicaError,
    limits::TRANSACTION_BYTES_MAX,
    numbers::Numbers,
    tables::{SEALED, TablesError, first, meta},
    watch::changes::{self, Carried},
};

/// A local transaction that the store refused: withdrawn, and kept whole until discarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedTransaction {
    /// What it did.
    pub transaction: LocalTransaction,
    /// Why it was refused, for programs.
    pub code: RejectCode,
    /// Why it was refused, for people.
    pub reason: String,
    /// When the refusal arrived.
    pub at: Millis,
}

/// What has become of a local transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionState {
    /// It waits in the outbox.
    Pending,
    /// The store has it.
    Accepted,
    /// The store refused it; it is among the rejected.
    Rejected,
    /// It was refused and discarded, or this replica never used the number.
    Unknown,
}

/// What has become of the transaction numbered `seq`.
pub(crate) fn state(conn: &Connection, seq: Seq) -> Result<TransactionState, ReplicaError> {
    if stands_in(conn, "anabranch_outbox", seq)? {
        return Ok(TransactionState::Pending);
    }
    if stands_in(conn, "anabranch_rejected", seq)? {
        return Ok(TransactionState::Rejected);
    }
    let (numbers, _) = Numbers::read(conn)?;
    let used = seq.0 >= meta::number(conn, "first_seq")?.max(1).unsigned_abs()
        && seq.0 < numbers.next_seq.unsigned_abs();
    let discarded = meta::number(conn, &discarded_name(seq))? != 0;
    Ok(if used && !discarded {
        TransactionState::Accepted
    } else {
        TransactionState::Unknown
    })
}

/// Whether the transaction numbered `seq` is in `table`, or has been squashed into one that is.
fn stands_in(conn: &Connection, table: &str, seq: Seq) -> Result<bool, ReplicaError> {
    let sql = format!("SELECT seq, payload FROM {table} WHERE seq >= ?1 ORDER BY seq LIMIT 1");
    let mut query = conn.prepare_cached(&sql)?;
    let mut rows = query.query([number(seq)])?;
    let Some(row) = rows.next()? else {
        return Ok(false);
    };
    if row.get::<_, i64>(0)? == number(seq) {
        return Ok(true);
    }
    let payload = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
    Ok(decode_transaction(payload)?.first() <= seq)
}

/// Discards a rejected transaction; whether there was one.
pub(crate) fn discard(conn: &Connection, seq: Seq) -> Result<bool, ReplicaError> {
    let sql = "DELETE FROM anabranch_rejected WHERE seq = ?1 RETURNING payload";
    let mut query = conn.prepare_cached(sql)?;
    let payload: Option<Vec<u8>> = query
        .query_row([number(seq)], |row| row.get(0))
        .optional()?;
    let Some(payload) = payload else {
        return Ok(false);
    };
    // So that it is not taken for accepted later.
    for seq in decode_transaction(&payload)?.numbers() {
        meta::write(conn, &discarded_name(seq), 1)?;
    }
    Ok(true)
}

fn discarded_name(seq: Seq) -> String {
    format!("discarded_{}", seq.0)
}

/// Appends a transaction, which must fit, behind `pending` others. It carries these counts of
/// changes, or those of the transaction before it.
pub(crate) fn append(
    conn: &Connection,
    transaction: &LocalTransaction,
    carried: Option<&Carried>,
    pending: u64,
    transactions_max: u64,
) -> Result<(), ReplicaError> {
    let payload = encode_transaction(transaction)?;
    if payload.len() > TRANSACTION_BYTES_MAX {
        return Err(ReplicaError::TooLarge {
            bytes: payload.len(),
        });
    }
    if pending >= transactions_max {
        return Err(ReplicaError::OutboxFull { pending });
    }
    put(conn, transaction, &payload, carried)
}

/// Appends a transaction that another program has committed already, of any size.
pub(crate) fn append_unbounded(
    conn: &Connection,
    transaction: &LocalTransaction,
    carried: &Carried,
) -> Result<(), ReplicaError> {
    let payload = encode_transaction(transaction)?;
    put(conn, transaction, &payload, Some(carried))
}

/// Writes a transaction over what has its number, if anything has.
pub(crate) fn rewrite(
    conn: &Connection,
    transaction: &LocalTransaction,
) -> Result<(), ReplicaError> {
    put(conn, transaction, &encode_transaction(transaction)?, None)
}

fn put(
    conn: &Connection,
    transaction: &LocalTransaction,
    payload: &[u8],
    carried: Option<&Carried>,
) -> Result<(), ReplicaError> {
    // Without counts of its own it carries those of the newest, which it may become.
    let sql = "INSERT OR REPLACE INTO anabranch_capture(id, tbl, op, changed, k0, k1) \
               VALUES (?1, 0, ?2, ?3, ?4, coalesce(?5, (SELECT k1 FROM anabranch_capture \
               WHERE op = 0 ORDER BY id DESC LIMIT 1)))";
    let carried = carried.map(Carried::to_bytes);
    let hlc = transaction.stamp.hlc.to_i64();
    let seq = number(transaction.seq);
    conn.prepare_cached(sql)?
        .execute((seq, SEALED, hlc, payload, carried))?;
    Ok(())
}

/// The first number that waits, be its transaction squashed into another.
pub(crate) fn first_seq(conn: &Connection) -> Result<Option<Seq>, ReplicaError> {
    let mut first = None;
    each_after(conn, Seq(0), |transaction, _| {
        first = Some(transaction.first());
        Ok(false)
    })?;
    Ok(first)
}

fn newest_seq(conn: &Connection) -> Result<Option<Seq>, TablesError> {
    let sql = "SELECT seq FROM anabranch_outbox ORDER BY seq DESC LIMIT 1";
    Ok(first::<i64>(conn, sql)?.map(seq))
}

/// The transaction numbered `seq`, if it waits.
pub(crate) fn get(conn: &Connection, seq: Seq) -> Result<Option<LocalTransaction>, ReplicaError> {
    let mut query = conn.prepare_cached("SELECT payload FROM anabranch_outbox WHERE seq = ?1")?;
    let payload: Option<Vec<u8>> = query
        .query_row([number(seq)], |row| row.get(0))
        .optional()?;
    Ok(payload
        .map(|payload| decode_transaction(&payload))
        .transpose()?)
}

/// Visits the transactions after `after`, in their order, until `visit` says to stop.
pub(crate) fn each_after(
    conn: &Connection,
    after: Seq,
    mut visit: impl FnMut(LocalTransaction, usize) -> Result<bool, ReplicaError>,
) -> Result<(), ReplicaError> {
    let sql = "SELECT payload FROM anabranch_outbox WHERE seq > ?1 ORDER BY seq";
    let mut query = conn.prepare_cached(sql)?;
    let mut rows = query.query([number(after)])?;
    while let Some(row) = rows.next()? {
        let payload = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
        if !visit(decode_transaction(payload)?, payload.len())? {
            break;
        }
    }
    Ok(())
}

/// The oldest stamp of the transactions after `after`, of which one that was imported may be older
/// than those before it.
pub(crate) fn oldest_stamp(conn: &Connection, after: Seq) -> Result<Option<Hlc>, ReplicaError> {
    let sql = "SELECT min(hlc) FROM anabranch_outbox WHERE seq > ?1";
    let mut query = conn.prepare_cached(sql)?;
    let oldest: Option<i64> = query.query_row([number(after)], |row| row.get(0))?;
    Ok(oldest.map(Hlc::from_i64).transpose()?)
}

/// All transactions after `after`, in their order.
pub(crate) fn all_after(
    conn: &Connection,
    after: Seq,
) -> Result<Vec<LocalTransaction>, ReplicaError> {
    let mut all = Vec::new();
    each_after(conn, after, |transaction, _| {
        all.push(transaction);
        Ok(true)
    })?;
    Ok(all)
}

/// Takes everything out, the rejected ones too.
pub(crate) fn clear(conn: &Connection) -> Result<(), ReplicaError> {
    changes::settle(conn)?;
    conn.execute_batch(
        "DELETE FROM anabranch_capture WHERE op = 0;
         DELETE FROM anabranch_rejected;
         DELETE FROM anabranch_meta WHERE name GLOB 'discarded_*'",
    )?;
    Ok(())
}

/// The newest transaction after `after` with a delta that `matters`; `None` if none has.
pub(crate) fn newest_where(
    conn: &Connection,
    after: Seq,
    mut matters: impl FnMut(&Delta) -> bool,
) -> Result<Option<Seq>, ReplicaError> {
    let mut newest = None;
    each_after(conn, after, |transaction, _| {
        if transaction.deltas.iter().any(&mut matters) {
            newest = Some(transaction.seq);
        }
        Ok(true)
    })?;
    Ok(newest)
}

/// Takes a transaction out; `None` if it is not there.
pub(crate) fn remove(
    conn: &Connection,
    seq: Seq,
) -> Result<Option<LocalTransaction>, ReplicaError> {
    let transaction = get(conn, seq)?;
    if transaction.is_some() {
        if newest_seq(conn)? == Some(seq) {
            changes::settle(conn)?;
        }
        let sql = "DELETE FROM anabranch_capture WHERE id = ?1";
        conn.prepare_cached(sql)?.execute([number(seq)])?;
    }
    Ok(transaction)
}

/// Keeps a refused transaction.
pub(crate) fn reject(
    conn: &Connection,
    rejected: &RejectedTransaction,
) -> Result<(), ReplicaError> {
    let payload = encode_transaction(&rejected.transaction)?;
    let at = i64::try_from(rejected.at.0).unwrap_or(i64::MAX);
    conn.prepare_cached(
        "INSERT OR REPLACE INTO anabranch_rejected(seq, payload, code, reason, at_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute((
        number(rejected.transaction.seq),
        payload,
        rejected.code.number(),
        &rejected.reason,
        at,
    ))?;
    Ok(())
}

/// The rejected transactions, in their order.
pub(crate) fn rejected(conn: &Connection) -> Result<Vec<RejectedTransaction>, ReplicaError> {
    let mut query = conn.prepare_cached(
        "SELECT payload, code, reason, at_ms FROM anabranch_rejected ORDER BY seq",
    )?;
    let mut rows = query.query([])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        let payload = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
        out.push(RejectedTransaction {
            transaction: decode_transaction(payload)?,
            code: RejectCode::from_number(row.get(1)?),
            reason: row.get(2)?,
            at: Millis(row.get::<_, i64>(3)?.unsigned_abs()),
        });
    }
    Ok(out)
}

fn number(seq: Seq) -> i64 {
    i64::try_from(seq.0).unwrap_or(i64::MAX)
}

fn seq(number: i64) -> Seq {
    Seq(number.unsigned_abs())
}
