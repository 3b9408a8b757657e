//! Clocks that somebody wrote past, brought in line with their rows. What changes travels by the log
//! like any other write.

use std::sync::Arc;

use anabranch_crdt::{Stamp, TableId};
use anabranch_store::StoreError;

use super::{
    apply, backoff,
    batch::{Batch, Mismatch, hlc_now},
    settings,
};
use crate::{
    catalog::Catalog,
    clocks,
    errors::Failure,
    limits,
    pool::{Lease, Pool},
    rows::TextKey,
};

/// What is known of how a row and its clock came apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mending {
    /// The row is there and its clock says it is not, or the other way about.
    Existence,
    /// The row was written and its clock was not: nobody knows in which columns.
    Everything,
}

/// Mends the clocks of these rows.
pub(crate) async fn mend(
    pool: &Arc<Pool>,
    catalog: &Catalog,
    rows: &[(TableId, TextKey, Mending)],
) -> Result<(), StoreError> {
    let mut lease = pool.lease().await?;
    for attempt in 0..limits::MERGE_ATTEMPTS_MAX {
        match mend_once(&mut lease, catalog, rows).await {
            Ok(()) => return Ok(()),
            Err(Failure::Store(error)) => return Err(error),
            Err(Failure::Busy(reason)) => tracing::debug!(reason, "mending is tried again"),
            Err(Failure::Refused(refusal)) => {
                // The table has changed since: whatever is there will be read again.
                tracing::warn!(
                    reason = refusal.reason,
                    "clocks of rows could not be mended"
                );
                return Ok(());
            }
        }
        tokio::time::sleep(backoff(attempt)).await;
    }
    Err(StoreError::Unavailable(
        "rows to be mended stay locked".to_owned(),
    ))
}

async fn mend_once(
    lease: &mut Lease,
    catalog: &Catalog,
    rows: &[(TableId, TextKey, Mending)],
) -> Result<(), Failure> {
    let mut work = lease.begin(&settings()).await?;
    let mut batch = Batch::default();
    for (id, key, _) in rows {
        if let Some(table) = catalog.tables.get(id) {
            batch.add(table, key.clone());
        }
    }
    batch.gather(&mut work, Mismatch::Mend).await?;
    let now = hlc_now(&mut work).await?;
    for (id, key, mending) in rows {
        let table = batch.tables.get_mut(id);
        let Some((table, row)) =
            table.and_then(|batch| Some((batch.table, batch.rows.get_mut(key)?)))
        else {
            continue;
        };
        if *mending == Mending::Everything && row.was_present {
            clocks::stamp_all(&mut row.clock, &row.values, &table.table, now)?;
        } else if *mending == Mending::Everything {
            // It may have been there since before installation, and then has no clock to say so.
            row.clock.existence.add(Stamp::GENESIS);
            row.clock.existence = row.clock.existence.removal();
        }
        // Even a clock that was right is written, so that the log tells of the row.
        row.changed = true;
    }
    apply::write_clocks(&mut work, &batch).await?;
    work.commit().await?;
    Ok(())
}
