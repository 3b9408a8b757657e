//! Refused transactions: recorded once, and answered with what the store holds instead.

use anabranch_crdt::{Delta, RowState};
use anabranch_store::{Rejection, StoreError, Upload};

use super::{batch::addressed, marks};
use crate::{
    catalog::{Catalog, PgTable},
    errors::{Failure, Refusal, store_error},
    pool::{Lease, Work},
    rows::{self, StoredRow},
};

/// Records that an upload is refused and says so.
pub(crate) async fn reject(
    lease: &mut Lease,
    catalog: &Catalog,
    upload: &Upload,
    refusal: Refusal,
) -> Result<Rejection, StoreError> {
    let mut work = lease.begin("").await?;
    let recorded = marks::record_refusal(&mut work, upload, &refusal).await;
    recorded.map_err(Failure::into_store_error)?;
    work.commit().await.map_err(|error| store_error(&error))?;

    let mut rows = Vec::with_capacity(upload.transaction.deltas.len());
    for delta in &upload.transaction.deltas {
        // Each by itself: the key of one of them may be what the store refuses.
        let mut work = lease.begin("set transaction read only").await?;
        match held(&mut work, catalog, delta).await {
            Ok(row) => rows.push(row),
            Err(Failure::Store(error)) => return Err(error),
            Err(_) => rows.push(unheard_of(delta)),
        }
    }
    Ok(Rejection {
        code: refusal.code,
        reason: refusal.reason,
        rows,
    })
}

/// What the store holds of the rows an upload is about, in its columns.
pub(crate) async fn authoritative(
    work: &mut Work<'_>,
    catalog: &Catalog,
    upload: &Upload,
) -> Result<Vec<Delta>, Failure> {
    let mut rows = Vec::with_capacity(upload.transaction.deltas.len());
    for delta in &upload.transaction.deltas {
        rows.push(held(work, catalog, delta).await?);
    }
    Ok(rows)
}

async fn held(work: &mut Work<'_>, catalog: &Catalog, delta: &Delta) -> Result<Delta, Failure> {
    let Ok((table, key)) = addressed(catalog, delta) else {
        return Ok(unheard_of(delta));
    };
    let rows = rows::read(work, table, std::slice::from_ref(&key)).await?;
    match rows.first().filter(|row| row.is_known()) {
        Some(row) => Ok(told(table, delta, row)?),
        None => Ok(unheard_of(delta)),
    }
}

fn told(table: &PgTable, delta: &Delta, row: &StoredRow) -> Result<Delta, StoreError> {
    let clock = row.fold(&table.table)?;
    let asked = |column| delta.state.clock().knows(column);
    let state = rows::state(&clock, &row.values, asked);
    Ok(Delta {
        table: delta.table,
        key: delta.key.clone(),
        state,
    })
}

fn unheard_of(delta: &Delta) -> Delta {
    Delta {
        table: delta.table,
        key: delta.key.clone(),
        state: RowState::new(),
    }
}
