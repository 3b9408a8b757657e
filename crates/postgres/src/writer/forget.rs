//! Forgetting rows that were removed long ago: their clocks and tombstones. The log tells nobody of it,
//! since nothing that a replica holds changes.

use std::sync::Arc;

use anabranch_crdt::Hlc;
use anabranch_store::StoreError;

use super::{
    backoff,
    batch::{Batch, MergedRow, Mismatch},
    settings,
};
use crate::{
    catalog::{Catalog, field, table_id, table_number},
    errors::{Failure, store_error},
    limits,
    pool::{Lease, Pool, Work},
    rows::TextKey,
};

/// Forgets the rows that were removed before `horizon`, and everything about tables that are
/// replicated no more; how many rows.
pub(crate) async fn forget_removed(
    pool: &Arc<Pool>,
    catalog: &Catalog,
    horizon: Hlc,
) -> Result<u64, StoreError> {
    const ANNOUNCE: &str =
        "update anabranch.meta set horizon = $1 where horizon < $1 returning horizon";
    let mut lease = pool.lease().await?;
    // In a transaction of its own: whoever finds a row missing must find this too.
    let announced = lease.query(ANNOUNCE, &[&horizon.to_i64()]).await;
    announced.map_err(|error| store_error(&error))?;
    let mut forgotten: u64 = 0;
    let mut after = Place::default();
    loop {
        let step = step(&mut lease, catalog, horizon, &after).await?;
        forgotten = forgotten.saturating_add(step.forgotten);
        match step.last {
            Some(last) => after = last,
            None => return Ok(forgotten),
        }
    }
}

/// The reading before which removed rows may be forgotten.
pub(crate) async fn horizon(work: &mut Work<'_>) -> Result<Hlc, Failure> {
    let rows = work
        .query("select horizon from anabranch.meta", &[])
        .await?;
    let horizon: i64 = rows.first().map_or(Ok(0), |row| field(row, "horizon"))?;
    Ok(reading(horizon)?)
}

/// A horizon as the store keeps it.
pub(crate) fn reading(horizon: i64) -> Result<Hlc, StoreError> {
    Hlc::from_i64(horizon).map_err(|error| StoreError::Damaged(error.to_string()))
}

/// A tombstone, by table and key text.
#[derive(Clone, Debug, Default)]
struct Place {
    table: i32,
    key: String,
}

#[derive(Debug, Default)]
struct Step {
    forgotten: u64,
    /// The last tombstone looked at; `None` if there was none.
    last: Option<Place>,
}

/// One transaction, again while others are in the way.
async fn step(
    lease: &mut Lease,
    catalog: &Catalog,
    horizon: Hlc,
    after: &Place,
) -> Result<Step, StoreError> {
    for attempt in 0..limits::MERGE_ATTEMPTS_MAX {
        match step_once(lease, catalog, horizon, after).await {
            Ok(step) => return Ok(step),
            Err(Failure::Store(error)) => return Err(error),
            Err(Failure::Busy(reason)) => tracing::debug!(reason, "forgetting is tried again"),
            Err(Failure::Refused(refusal)) => return Err(StoreError::Damaged(refusal.reason)),
        }
        tokio::time::sleep(backoff(attempt)).await;
    }
    Err(StoreError::Unavailable(
        "rows to be forgotten stay locked".to_owned(),
    ))
}

async fn step_once(
    lease: &mut Lease,
    catalog: &Catalog,
    horizon: Hlc,
    after: &Place,
) -> Result<Step, Failure> {
    const OLD: &str = "
        select t.table_id, t.key
        from anabranch.tombstones t
        join anabranch.clocks c on c.table_id = t.table_id and c.key = t.key
        where (t.table_id, t.key) > ($1, $2) and c.newest < $3
            and t.buried < to_timestamp(($3 >> 16) / 1000.0)
        order by t.table_id, t.key limit $4";
    const FORGET: &str = "
        with gone as (select * from unnest($1::int[], $2::text[]) as u (table_id, key)),
        clocks as (
            delete from anabranch.clocks c using gone
            where c.table_id = gone.table_id and c.key = gone.key
        )
        delete from anabranch.tombstones t using gone
        where t.table_id = gone.table_id and t.key = gone.key";
    let mut work = lease.begin(&settings()).await?;
    let Place { table, key } = after;
    let (horizon_hlc, rows_max) = (horizon.to_i64(), limits::FORGET_STEP_ROWS);
    let old = work
        .query(OLD, &[table, key, &horizon_hlc, &rows_max])
        .await?;
    let (mut numbers, mut keys) = (Vec::new(), Vec::new());
    let mut batch = Batch::default();
    let mut last = None;
    for row in &old {
        let place = Place {
            table: field(row, "table_id")?,
            key: field(row, "key")?,
        };
        let table = catalog.tables.get(&table_id(place.table)?);
        let parsed =
            table.and_then(|table| Some((table, TextKey::parse(&table.table, &place.key)?)));
        match parsed {
            Some((table, key)) => batch.add(table, key),
            None => {
                // The table is replicated no more, or has another key by now.
                numbers.push(place.table);
                keys.push(place.key.clone());
            }
        }
        last = Some(place);
    }
    batch.gather(&mut work, Mismatch::Mend).await?;
    for (number, key) in removed(&batch, horizon)? {
        numbers.push(number);
        keys.push(key);
    }
    if !keys.is_empty() {
        work.execute(FORGET, &[&numbers, &keys]).await?;
    }
    work.commit().await?;
    Ok(Step {
        forgotten: keys.len() as u64,
        last,
    })
}

/// The locked rows that are removed, and of which nothing is as new as `horizon`.
fn removed(batch: &Batch<'_>, horizon: Hlc) -> Result<Vec<(i32, String)>, StoreError> {
    let mut removed = Vec::new();
    for (id, table) in &batch.tables {
        let number = table_number(*id)?;
        let old =
            |row: &MergedRow| !row.was_present && !row.changed && row.clock.newest() < horizon;
        let rows = table.rows.iter().filter(|(_, row)| old(row));
        removed.extend(rows.map(|(key, _)| (number, key.text.clone())));
    }
    Ok(removed)
}
