//! The shapes a replica subscribes to or retains, where it stands in each, and snapshots still
//! arriving.

pub(crate) mod retained;

use anabranch_crdt::{Delta, Millis};
use anabranch_protocol::{
    Cursor, Epoch, Position, ShapeRequest, Subscription, SubscriptionId, SubscriptionSet,
    codec::{decode_deltas, decode_shape_request, encode_deltas, encode_shape_request},
    limits::SUBSCRIPTIONS_MAX,
};
use rusqlite::Connection;

use crate::{ReplicaError, tables::TablesError};

/// How a subscription is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionStatus {
    /// The subscription.
    pub subscription: Subscription,
    /// Rows of a snapshot that have arrived and do not show yet.
    pub rows_staged: u64,
    /// About how many rows that snapshot has.
    pub rows_estimate: u64,
    /// Why the service refused it, if it did.
    pub refused: Option<String>,
    /// Since when its rows have not been kept current, where they are those of an earlier
    /// subscription to the same shape and the service has told nothing since.
    pub stale_since: Option<Millis>,
}

/// A shape that was unsubscribed from and whose rows are kept for a while. The service tells nothing
/// of it: they are as they were, but for what other shapes bring and for local writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetainedShape {
    /// The shape.
    pub shape: ShapeRequest,
    /// Since when its rows have not been kept current.
    pub since: Millis,
    /// How many rows it had when it was unsubscribed from.
    pub rows: u64,
}

/// The retained shapes under their numbers, the longest retained first.
pub(crate) fn retained(
    conn: &Connection,
) -> Result<Vec<(SubscriptionId, RetainedShape)>, ReplicaError> {
    let mut query = conn.prepare_cached(
        "SELECT id, shape, retained_ms, retained_rows FROM anabranch_subscription \
         WHERE retained_ms IS NOT NULL ORDER BY retained_ms, id",
    )?;
    let mut rows = query.query([])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        let shape = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
        let retained = RetainedShape {
            shape: decode_shape_request(shape)?,
            since: Millis(row.get::<_, i64>(2)?.unsigned_abs()),
            rows: row.get::<_, i64>(3)?.unsigned_abs(),
        };
        out.push((id(row.get(0)?)?, retained));
    }
    Ok(out)
}

/// Keeps a subscription's rows, and no more than that.
pub(crate) fn retain(
    conn: &Connection,
    id: SubscriptionId,
    since: Millis,
    rows: u64,
) -> Result<(), TablesError> {
    unstage(conn, id)?;
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    conn.prepare_cached(
        "UPDATE anabranch_subscription SET retained_rows = ?3, \
         retained_ms = coalesce(stale_ms, ?2), stale_ms = NULL WHERE id = ?1",
    )?
    .execute((id.number(), number(since.0), number(rows)))?;
    Ok(())
}

/// Whether a subscription has rows that the service stands by.
pub(crate) fn is_served(conn: &Connection, id: SubscriptionId) -> Result<bool, TablesError> {
    let sql = "SELECT 1 FROM anabranch_subscription \
               WHERE id = ?1 AND epoch IS NOT NULL AND refused IS NULL";
    Ok(conn.prepare_cached(sql)?.exists([id.number()])?)
}

/// Every subscription, in order.
pub(crate) fn all(conn: &Connection) -> Result<Vec<SubscriptionStatus>, ReplicaError> {
    let mut query = conn.prepare_cached(
        "SELECT id, shape, epoch, position, refused, rows_staged, rows_estimate, stale_ms \
         FROM anabranch_subscription WHERE retained_ms IS NULL ORDER BY id",
    )?;
    let mut rows = query.query([])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        let shape = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
        let cursor = match (row.get::<_, Option<i64>>(2)?, row.get::<_, Option<i64>>(3)?) {
            (Some(epoch), Some(position)) => Some(Cursor {
                epoch: Epoch(epoch.cast_unsigned()),
                position: Position(position.cast_unsigned()),
            }),
            _ => None,
        };
        out.push(SubscriptionStatus {
            subscription: Subscription {
                id: id(row.get(0)?)?,
                shape: decode_shape_request(shape)?,
                cursor,
            },
            rows_staged: row.get::<_, i64>(5)?.unsigned_abs(),
            rows_estimate: row.get::<_, i64>(6)?.unsigned_abs(),
            refused: row.get(4)?,
            stale_since: row
                .get::<_, Option<i64>>(7)?
                .map(|at| Millis(at.unsigned_abs())),
        });
    }
    Ok(out)
}

/// Those the service serves, or will.
pub(crate) fn active(conn: &Connection) -> Result<SubscriptionSet, TablesError> {
    set(
        conn,
        "SELECT id FROM anabranch_subscription WHERE refused IS NULL AND retained_ms IS NULL",
    )
}

/// Those whose first snapshot is not complete.
pub(crate) fn waiting(conn: &Connection) -> Result<SubscriptionSet, TablesError> {
    set(
        conn,
        "SELECT id FROM anabranch_subscription \
         WHERE refused IS NULL AND epoch IS NULL AND retained_ms IS NULL",
    )
}

fn set(conn: &Connection, sql: &str) -> Result<SubscriptionSet, TablesError> {
    let mut query = conn.prepare_cached(sql)?;
    let mut rows = query.query([])?;
    let mut set = SubscriptionSet::EMPTY;
    while let Some(row) = rows.next()? {
        set = set.with(id(row.get(0)?)?);
    }
    Ok(set)
}

/// Adds a subscription under the lowest free number; an identical one is found again.
pub(crate) fn add(conn: &Connection, shape: &ShapeRequest) -> Result<SubscriptionId, ReplicaError> {
    let held = all(conn)?;
    if let Some(same) = held.iter().find(|held| held.subscription.shape == *shape) {
        return Ok(same.subscription.id);
    }
    let kept = retained(conn)?;
    if let Some((id, _)) = kept.iter().find(|(_, kept)| kept.shape == *shape) {
        let sql = "UPDATE anabranch_subscription \
                   SET stale_ms = retained_ms, retained_ms = NULL WHERE id = ?1";
        conn.prepare_cached(sql)?.execute([id.number()])?;
        return Ok(*id);
    }
    let id = free(conn)?.ok_or(ReplicaError::TooManySubscriptions {
        max: SUBSCRIPTIONS_MAX,
    })?;
    let sql = "INSERT INTO anabranch_subscription(id, shape) VALUES (?1, ?2)";
    conn.prepare_cached(sql)?
        .execute((id.number(), encode_shape_request(shape)?))?;
    Ok(id)
}

/// The lowest number that neither a subscription nor a retained shape has.
pub(crate) fn free(conn: &Connection) -> Result<Option<SubscriptionId>, TablesError> {
    let taken = set(conn, "SELECT id FROM anabranch_subscription")?;
    let mut all = (0..SUBSCRIPTIONS_MAX).filter_map(SubscriptionId::new);
    Ok(all.find(|id| taken.with(*id) != taken))
}

/// Removes a subscription and what was staged for it.
pub(crate) fn remove(conn: &Connection, id: SubscriptionId) -> Result<(), ReplicaError> {
    unstage(conn, id)?;
    let sql = "DELETE FROM anabranch_subscription WHERE id = ?1";
    match conn.prepare_cached(sql)?.execute([id.number()])? {
        0 => Err(ReplicaError::NoSubscription(id)),
        _ => Ok(()),
    }
}

/// Whether there is such a subscription.
pub(crate) fn exists(conn: &Connection, id: SubscriptionId) -> Result<bool, TablesError> {
    let sql = "SELECT 1 FROM anabranch_subscription WHERE id = ?1 AND retained_ms IS NULL";
    Ok(conn.prepare_cached(sql)?.exists([id.number()])?)
}

/// Moves a cursor; within one epoch only forward, since a frame may come twice.
pub(crate) fn advance(
    conn: &Connection,
    id: SubscriptionId,
    cursor: Cursor,
) -> Result<(), TablesError> {
    let (epoch, position) = (
        cursor.epoch.0.cast_signed(),
        cursor.position.0.cast_signed(),
    );
    conn.prepare_cached(
        "UPDATE anabranch_subscription SET epoch = ?2, stale_ms = NULL, \
         position = iif(epoch IS ?2, max(position, ?3), ?3) \
         WHERE id = ?1 AND retained_ms IS NULL \
         AND (epoch IS NOT ?2 OR position < ?3 OR stale_ms IS NOT NULL)",
    )?
    .execute((id.number(), epoch, position))?;
    Ok(())
}

/// Notes that the service refused a subscription, or with `None` that it may be asked again.
pub(crate) fn refuse(
    conn: &Connection,
    id: Option<SubscriptionId>,
    message: Option<&str>,
) -> Result<(), TablesError> {
    let sql = "UPDATE anabranch_subscription SET refused = ?2 WHERE ?1 IS NULL OR id = ?1";
    conn.prepare_cached(sql)?
        .execute((id.map(SubscriptionId::number), message))?;
    Ok(())
}

/// Puts rows of a snapshot aside; how many have arrived so far.
pub(crate) fn stage(
    conn: &Connection,
    id: SubscriptionId,
    rows: &[Delta],
    rows_estimate: u64,
) -> Result<u64, ReplicaError> {
    let sql = "INSERT INTO anabranch_staging(subscription, rows) VALUES (?1, ?2)";
    conn.prepare_cached(sql)?
        .execute((id.number(), encode_deltas(rows)?))?;
    let arrived = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let estimate = i64::try_from(rows_estimate).unwrap_or(i64::MAX);
    let staged: i64 = conn
        .prepare_cached(
            "UPDATE anabranch_subscription SET rows_staged = rows_staged + ?2, rows_estimate = ?3 \
             WHERE id = ?1 RETURNING rows_staged",
        )?
        .query_row((id.number(), arrived, estimate), |row| row.get(0))?;
    Ok(staged.unsigned_abs())
}

/// Visits the chunks put aside, in the order they came.
pub(crate) fn each_staged(
    conn: &Connection,
    id: SubscriptionId,
    mut visit: impl FnMut(Vec<Delta>) -> Result<(), ReplicaError>,
) -> Result<(), ReplicaError> {
    let sql = "SELECT rows FROM anabranch_staging WHERE subscription = ?1 ORDER BY n";
    let mut query = conn.prepare_cached(sql)?;
    let mut rows = query.query([id.number()])?;
    while let Some(row) = rows.next()? {
        let chunk = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
        visit(decode_deltas(chunk)?)?;
    }
    Ok(())
}

/// Drops what was put aside for a subscription.
pub(crate) fn unstage(conn: &Connection, id: SubscriptionId) -> Result<(), TablesError> {
    let sql = "DELETE FROM anabranch_staging WHERE subscription = ?1";
    conn.prepare_cached(sql)?.execute([id.number()])?;
    let sql = "UPDATE anabranch_subscription SET rows_staged = 0, rows_estimate = 0 WHERE id = ?1";
    conn.prepare_cached(sql)?.execute([id.number()])?;
    Ok(())
}

/// Drops what was put aside for any subscription: a snapshot does not go on in another session.
pub(crate) fn unstage_all(conn: &Connection) -> Result<(), TablesError> {
    conn.execute("DELETE FROM anabranch_staging", [])?;
    conn.execute(
        "UPDATE anabranch_subscription SET rows_staged = 0, rows_estimate = 0",
        [],
    )?;
    Ok(())
}

fn id(number: i64) -> Result<SubscriptionId, TablesError> {
    u8::try_from(number)
        .ok()
        .and_then(SubscriptionId::new)
        .ok_or_else(|| TablesError::Damaged(format!("{number} is not a subscription")))
}
