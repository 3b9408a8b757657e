//! What the service tells, merged: snapshots and the store's transactions.

pub(crate) mod adopting;
pub(crate) mod merged_over;
pub(crate) mod told;
pub(crate) mod unknown;
pub(crate) mod verdict;

use std::collections::HashSet;

use anabranch_crdt::{Delta, RowKey, RowState, TableId};
use anabranch_protocol::{Change, Cursor, Seq, SubscriptionId, SubscriptionSet};
use anabranch_shape::schema::Schema;

use crate::{
    Event, ReplicaError, Welcome,
    outbox::pending::PendingIndex,
    subscriptions,
    tables::{Held, Incoming, TableSql, key, meta, unpack_key},
    turn::{Turn, newest},
};

impl Turn<'_> {
    /// Begins a session: corrects the clock, stamps again what would be too far ahead or too old,
    /// adopts the schema.
    pub(crate) fn welcome(
        &mut self,
        welcome: &Welcome,
        schema: Option<&Schema>,
    ) -> Result<(), ReplicaError> {
        let server_time = welcome.server_time;
        let offset = i128::from(server_time.0).saturating_sub(i128::from(self.now.0));
        self.numbers.clock_offset_ms = i64::try_from(offset).unwrap_or(0);
        subscriptions::unstage_all(self.tx)?;
        subscriptions::refuse(self.tx, None, None)?;
        let bound_ms = server_time.0.saturating_add(welcome.drift_max_ms);
        if self.numbers.hlc.millis().0 > bound_ms {
            self.restamp_unshared(welcome.merged_through)?;
        }
        self.restamp_old(welcome.merged_through, welcome.horizon)?;
        self.squash(welcome.merged_through)?;
        schema.map_or(Ok(()), |schema| self.adopt(schema))
    }

    /// Puts rows of a snapshot aside until the last has come.
    pub(crate) fn stage(
        &mut self,
        id: SubscriptionId,
        rows: &[Delta],
        rows_estimate: u64,
    ) -> Result<(), ReplicaError> {
        if subscriptions::exists(self.tx, id)? {
            let rows = subscriptions::stage(self.tx, id, rows, rows_estimate)?;
            self.events.push(Event::SnapshotProgress {
                id,
                rows,
                rows_estimate,
            });
        }
        Ok(())
    }

    /// Shows a complete snapshot: merges its rows, and lets go of those that did not come again.
    pub(crate) fn finish_snapshot(
        &mut self,
        id: SubscriptionId,
        cursor: Cursor,
    ) -> Result<(), ReplicaError> {
        if !subscriptions::exists(self.tx, id)? {
            return Ok(());
        }
        let only = SubscriptionSet::only(id);
        let mut left: HashSet<(TableId, Vec<u8>)> = HashSet::new();
        for table in self.tables.iter() {
            left.extend(
                table
                    .keys_in(self.tx, only)?
                    .into_iter()
                    .map(|key| (table.id(), key)),
            );
        }
        let conn = self.tx;
        subscriptions::each_staged(conn, id, |mut rows| {
            self.observe(newest(rows.iter().map(|row| &row.state)));
            let order = merge_order(rows.iter().map(|row| (row.table, &row.key)));
            for run in order.chunk_by(|one, next| one.table == next.table) {
                self.merge_staged(run, &mut rows, id)?;
            }
            if !left.is_empty() {
                for place in order {
                    left.remove(&(place.table, place.packed));
                }
            }
            Ok(())
        })?;
        subscriptions::unstage(self.tx, id)?;
        subscriptions::advance(self.tx, id, cursor)?;
        let settled = subscriptions::waiting(self.tx)?.is_empty();
        self.drop_from_shape(id, left, settled)?;
        self.sweep_if_due(settled)?;
        self.events.push(Event::SnapshotComplete(id));
        Ok(())
    }

    /// Merges rows of one table that a snapshot brought.
    fn merge_staged(
        &mut self,
        run: &[Place],
        staged: &mut [Delta],
        id: SubscriptionId,
    ) -> Result<(), ReplicaError> {
        let Some(table) = run.first().and_then(|place| self.table(place.table)) else {
            return Ok(());
        };
        let mut rows = Vec::with_capacity(run.len());
        for place in run {
            let Some(delta) = staged.get(place.at) else {
                continue;
            };
            self.note_told(table, &delta.key, &place.packed, &delta.state)?;
            self.keep_unknown(table, &delta.key, &place.packed, &delta.state)?;
            rows.push((&delta.key, &place.packed[..], &delta.state));
        }
        self.pending.refresh(self.tx, &self.numbers)?;
        let rows = with_pending(self.pending, table, rows);
        let outcomes = table.merge_batch(self.tx, &rows, |_, held| held.with(id))?;
        let mut visible = Vec::with_capacity(outcomes.len());
        for (place, outcome) in run.iter().zip(outcomes) {
            if let Some(delta) = staged.get_mut(place.at) {
                let key = RowKey(std::mem::take(&mut delta.key.0));
                visible.extend(outcome.into_change(table.id(), key));
            }
        }
        self.note(visible);
        Ok(())
    }

    /// Takes rows out of a shape.
    fn drop_from_shape(
        &mut self,
        id: SubscriptionId,
        rows: impl IntoIterator<Item = (TableId, Vec<u8>)>,
        settled: bool,
    ) -> Result<(), ReplicaError> {
        for (table, packed) in rows {
            let Some(table) = self.table(table) else {
                continue;
            };
            let Some(held) = table.held(self.tx, &packed)? else {
                continue;
            };
            table.put_shapes(self.tx, &packed, held.shapes.without(id))?;
            self.release(table, &unpack_key(&packed)?, settled)?;
        }
        Ok(())
    }

    /// Lets go of a subscription and of the rows that it alone held.
    pub(crate) fn unsubscribe(&mut self, id: SubscriptionId) -> Result<(), ReplicaError> {
        subscriptions::remove(self.tx, id)?;
        let settled = subscriptions::waiting(self.tx)?.is_empty();
        let tables = self.tables;
        for table in tables.iter() {
            let keys = table.keys_in(self.tx, SubscriptionSet::only(id))?;
            self.drop_from_shape(id, keys.into_iter().map(|key| (table.id(), key)), settled)?;
        }
        self.sweep_if_due(settled)
    }

    fn sweep_if_due(&mut self, settled: bool) -> Result<(), ReplicaError> {
        if settled && meta::number(self.tx, "sweep_due")? != 0 {
            self.sweep()
        } else {
            Ok(())
        }
    }

    /// Merges a transaction of the store.
    pub(crate) fn merge_transaction(
        &mut self,
        cursor: Cursor,
        live: SubscriptionSet,
        accepted: &[Seq],
        mut changes: Vec<Change>,
    ) -> Result<(), ReplicaError> {
        self.observe(newest(changes.iter().map(|change| &change.state)));
        let mut released = self.accept(accepted)?;
        // Every subscription is served up to here, so a row in none of them is in none at all.
        let settled =
            subscriptions::active(self.tx)?.intersection(live) == subscriptions::active(self.tx)?;
        let order = merge_order(changes.iter().map(|change| (change.table, &change.key)));
        for run in order.chunk_by(|one, next| one.table == next.table) {
            released.extend(self.merge_run(run, &mut changes, live)?);
        }
        for (table, key) in released {
            if let Some(table) = self.table(table) {
                self.release(table, &key, settled)?;
            }
        }
        self.sweep_if_due(settled)?;
        for id in live.iter() {
            subscriptions::advance(self.tx, id, cursor)?;
        }
        Ok(())
    }

    /// Merges the changes of one table; the rows that are in no shape then.
    fn merge_run(
        &mut self,
        run: &[Place],
        changes: &mut [Change],
        live: SubscriptionSet,
    ) -> Result<Vec<(TableId, RowKey)>, ReplicaError> {
        let Some(table) = run.first().and_then(|place| self.table(place.table)) else {
            return Ok(Vec::new());
        };
        let mut rows = Vec::with_capacity(run.len());
        let mut shapes = Vec::with_capacity(run.len());
        for place in run {
            let Some(change) = changes.get(place.at) else {
                continue;
            };
            self.note_told(table, &change.key, &place.packed, &change.state)?;
            self.keep_unknown(table, &change.key, &place.packed, &change.state)?;
            shapes.push(change.shapes);
            rows.push((&change.key, &place.packed[..], &change.state));
        }
        self.pending.refresh(self.tx, &self.numbers)?;
        let rows = with_pending(self.pending, table, rows);
        let outcomes = table.merge_batch(self.tx, &rows, |at, held| {
            shapes
                .get(at)
                .map_or(held, |shapes| held.updated(live, *shapes))
        })?;
        let mut visible = Vec::with_capacity(outcomes.len());
        let mut released = Vec::new();
        for (place, outcome) in run.iter().zip(outcomes) {
            let Some(change) = changes.get_mut(place.at) else {
                continue;
            };
            if outcome.known && outcome.shapes.is_empty() {
                released.push((table.id(), change.key.clone()));
            }
            let key = RowKey(std::mem::take(&mut change.key.0));
            visible.extend(outcome.into_change(table.id(), key));
        }
        self.note(visible);
        Ok(released)
    }

    /// Takes accepted transactions out of the outbox; the rows they touched.
    pub(crate) fn accept(
        &mut self,
        accepted: &[Seq],
    ) -> Result<Vec<(TableId, RowKey)>, ReplicaError> {
        let mut touched = Vec::new();
        for seq in accepted {
            let Some(transaction) = self.take(*seq, true)? else {
                continue;
            };
            self.observe(transaction.stamp.hlc);
            self.settle(&transaction.deltas)?;
            self.forget_told(&transaction.deltas)?;
            self.events
                .extend(transaction.numbers().map(Event::Accepted));
            touched.extend(
                transaction
                    .deltas
                    .into_iter()
                    .map(|delta| (delta.table, delta.key)),
            );
        }
        Ok(touched)
    }

    /// Writes what accepted deltas say of the rows' clocks beside the rows.
    fn settle(&self, deltas: &[Delta]) -> Result<(), ReplicaError> {
        let order = merge_order(deltas.iter().map(|delta| (delta.table, &delta.key)));
        for run in order.chunk_by(|one, next| one.table == next.table) {
            let Some(table) = run.first().and_then(|place| self.table(place.table)) else {
                continue;
            };
            let keys = run.iter().map(|place| &place.packed[..]);
            let held = table.held_in_order(self.tx, keys)?;
            let with_delta = |(place, held): (&Place, Option<Held>)| {
                let delta = deltas.get(place.at)?;
                Held::with_pending(held, Some(delta.state.clock()))
            };
            let held: Vec<Option<Held>> = run.iter().zip(held).map(with_delta).collect();
            let writes = run.iter().zip(&held);
            let writes =
                writes.filter_map(|(place, held)| Some((&place.packed[..], held.as_ref()?)));
            table.put_all_held(self.tx, writes)?;
        }
        Ok(())
    }

    /// Own transactions had been merged before, and the log has been told since.
    pub(crate) fn acknowledge(&mut self, seq: Seq) -> Result<(), ReplicaError> {
        let settled = subscriptions::waiting(self.tx)?.is_empty();
        for (table, key) in self.accept(&[seq])? {
            if let Some(table) = self.table(table) {
                self.release(table, &key, settled)?;
            }
        }
        Ok(())
    }
}

/// Rows to be merged, each with what pending writes say of it.
fn with_pending<'r>(
    pending: &'r PendingIndex,
    table: &TableSql,
    rows: Vec<(&'r RowKey, &'r [u8], &'r RowState)>,
) -> Vec<Incoming<'r>> {
    let rows = rows.into_iter().map(|(key, packed, state)| Incoming {
        key,
        packed,
        state,
        pending: pending.clock(table.id(), packed),
    });
    rows.collect()
}

/// One row of a batch in the order it is merged in.
struct Place {
    table: TableId,
    packed: Vec<u8>,
    /// Where it came in the batch.
    at: usize,
}

/// The order in which rows are merged: by table and packed key, as the clocks lie, and as they came
/// where one comes twice.
fn merge_order<'k>(rows: impl Iterator<Item = (TableId, &'k RowKey)>) -> Vec<Place> {
    let place = |(at, (table, row)): (usize, (TableId, &RowKey))| Place {
        table,
        packed: key::pack(row),
        at,
    };
    let mut order: Vec<Place> = rows.enumerate().map(place).collect();
    order.sort_unstable_by(|one, next| {
        (one.table, &one.packed, one.at).cmp(&(next.table, &next.packed, next.at))
    });
    order
}
