//! The merge writer: replicas' transactions into the store, many in one commit, each whole or not
//! at all. It merges in Rust, with the function the replicas merge with; SQL only reads and writes.

mod apply;
mod batch;
mod forget;
mod marks;
mod mend;
mod policies;
mod reject;

use std::{collections::BTreeSet, ops::Range, sync::Arc, time::Duration};

use anabranch_crdt::Hlc;
use anabranch_protocol::{Position, RejectCode};
use anabranch_store::{MergeOutcome, Rejection, StoreError, Upload};

use self::{
    apply::Order,
    batch::{Batch, Mismatch},
    marks::Decided,
};
pub(crate) use self::{
    forget::forget_removed,
    marks::greet,
    mend::{Mending, mend},
};
use crate::{
    catalog::Catalog,
    errors::{Failure, Refusal, store_error},
    limits,
    live::LiveCatalog,
    pool::{Lease, Pool, Work},
};

/// Marks the session's writes as a merge, so that the trigger leaves them alone, lets it wait for
/// locks only briefly, and sees to it that what is acknowledged is durable. Each statement must see
/// what was committed before it, whatever the database's default.
fn settings() -> String {
    format!(
        "set transaction isolation level read committed; set local anabranch.applying = '1'; \
         set local lock_timeout = {}; set constraints all deferred; \
         select set_config('synchronous_commit', 'on', true) \
         where current_setting('synchronous_commit') = 'off'",
        limits::LOCK_TIMEOUT.as_millis()
    )
}

/// Merges `uploads` and tells what became of each, in their order.
pub(crate) async fn merge(
    pool: &Arc<Pool>,
    catalog: &LiveCatalog,
    uploads: &[Upload],
) -> Result<Vec<MergeOutcome>, StoreError> {
    let mut lease = pool.lease().await?;
    let mut outcomes = Vec::with_capacity(uploads.len());
    // A stack, so that the ranges are taken in the order of the uploads.
    let mut ranges = without_repeats(uploads);
    ranges.reverse();
    while let Some(range) = ranges.pop() {
        let part = uploads.get(range.clone()).unwrap_or_default();
        match (attempt(&mut lease, catalog, part).await?, part) {
            (Ok(merged), _) => outcomes.extend(merged),
            (Err(refusal), [upload]) => {
                let rejection = reject::reject(&mut lease, &catalog.get(), upload, refusal).await?;
                outcomes.push(MergeOutcome::Rejected(rejection));
            }
            (Err(_), _) => {
                let middle = range.start.midpoint(range.end);
                ranges.push(middle..range.end);
                ranges.push(range.start..middle);
            }
        }
    }
    Ok(outcomes)
}

/// The uploads in stretches within which no transaction comes twice.
fn without_repeats(uploads: &[Upload]) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut seen = BTreeSet::new();
    let mut start = 0;
    for (index, upload) in uploads.iter().enumerate() {
        if !seen.insert((upload.replica, upload.transaction.seq)) {
            ranges.push(start..index);
            start = index;
            seen.clear();
            seen.insert((upload.replica, upload.transaction.seq));
        }
    }
    ranges.push(start..uploads.len());
    ranges.retain(|range| !range.is_empty());
    ranges
}

/// Merges `uploads` in one transaction, again while others are in the way. Refused if the store
/// refuses any of them.
async fn attempt(
    lease: &mut Lease,
    catalog: &LiveCatalog,
    uploads: &[Upload],
) -> Result<Result<Vec<MergeOutcome>, Refusal>, StoreError> {
    let mut order = Order::DeletesLast;
    let mut first_refusal = None;
    let mut refreshed = false;
    let mut number = 0;
    while number < limits::MERGE_ATTEMPTS_MAX {
        match merge_once(lease, &catalog.get(), uploads, order, number).await {
            Ok(outcomes) => return Ok(Ok(outcomes)),
            Err(Failure::Store(error)) => return Err(error),
            Err(Failure::Busy(reason)) => {
                tracing::debug!(reason, "a merge is tried again");
                tokio::time::sleep(backoff(number)).await;
                number = number.saturating_add(1);
            }
            Err(Failure::Refused(refusal)) => {
                let unknown = refusal.code == RejectCode::UnknownSchema;
                let reorder = refusal.unique && uploads.len() == 1;
                if unknown && !refreshed {
                    refreshed = true;
                    catalog.refresh(lease).await?;
                } else if reorder && order == Order::DeletesLast {
                    order = Order::DeletesFirst;
                    first_refusal = Some(refusal);
                } else {
                    return Ok(Err(first_refusal.unwrap_or(refusal)));
                }
            }
        }
    }
    Err(StoreError::Unavailable(
        "rows to be merged stay locked by other transactions; look for long ones in \
         pg_stat_activity"
            .to_owned(),
    ))
}

fn backoff(attempt: u32) -> Duration {
    limits::MERGE_BACKOFF.saturating_mul(1 << attempt.min(6))
}

/// One Postgres transaction.
async fn merge_once(
    lease: &mut Lease,
    catalog: &Catalog,
    uploads: &[Upload],
    order: Order,
    attempt: u32,
) -> Result<Vec<MergeOutcome>, Failure> {
    let mut work = lease.begin(&settings()).await?;
    let decided = marks::look_up(&mut work, uploads).await?;
    let open: Vec<&Upload> = uploads
        .iter()
        .zip(&decided)
        .filter_map(|(upload, decided)| decided.is_none().then_some(upload))
        .collect();

    let mismatch = if attempt < limits::MEND_AFTER_ATTEMPTS {
        Mismatch::TryAgain
    } else {
        Mismatch::Mend
    };
    let mut batch = Batch::of_uploads(catalog, &open)?;
    batch.gather(&mut work, mismatch).await?;
    // Read after the rows, so that it covers whatever is missing among them.
    let horizon = if batch.has_unknown() {
        forget::horizon(&mut work).await?
    } else {
        Hlc::ZERO
    };
    batch.merge(&open, horizon).map_err(Failure::Refused)?;
    policies::enforce(&mut work, catalog, &mut batch, mismatch).await?;
    apply::write(&mut work, catalog, &batch, order, attempt).await?;
    marks::record(&mut work, &open).await?;

    let mut outcomes = Vec::with_capacity(uploads.len());
    for (upload, decided) in uploads.iter().zip(decided) {
        outcomes.push(outcome(&mut work, catalog, upload, decided).await?);
    }
    work.commit().await?;
    Ok(outcomes)
}

/// What an upload's sender is to be told, if all goes well.
async fn outcome(
    work: &mut Work<'_>,
    catalog: &Catalog,
    upload: &Upload,
    decided: Option<Decided>,
) -> Result<MergeOutcome, Failure> {
    let refusal = match decided {
        None => return Ok(MergeOutcome::Merged),
        Some(Decided::Merged) => return Ok(MergeOutcome::Duplicate(log_position(work).await?)),
        Some(Decided::Refused(refusal)) => refusal,
        Some(Decided::Otherwise) => Refusal::new(
            RejectCode::Equivocation,
            format!(
                "transaction {} of this replica was merged before with other content: the \
                 replica's file was copied or restored",
                upload.transaction.seq.0
            ),
        ),
    };
    let rows = reject::authoritative(work, catalog, upload).await?;
    Ok(MergeOutcome::Rejected(Rejection {
        code: refusal.code,
        reason: refusal.reason,
        rows,
    }))
}

/// A position that the log is told beyond as soon as this transaction has committed: the message
/// makes it appear in the log even if it writes nothing else.
async fn log_position(work: &mut Work<'_>) -> Result<Position, Failure> {
    const SQL: &str =
        "select (pg_logical_emit_message(true, 'anabranch', 'told') - '0/0'::pg_lsn)::bigint";
    let rows = work.query(SQL, &[]).await?;
    let position: i64 = match rows.first() {
        Some(row) => row.try_get(0).map_err(|error| store_error(&error))?,
        None => 0,
    };
    Ok(Position(position.unsigned_abs()))
}
