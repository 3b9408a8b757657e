//! What the service tells, merged: snapshots and the store's transactions.

use std::collections::HashSet;

use anabranch_crdt::{Delta, Millis, RowKey, TableId};
use anabranch_protocol::{Change, Cursor, Seq, SubscriptionId, SubscriptionSet};
use anabranch_shape::schema::Schema;

use crate::{
    Event, ReplicaError, subscriptions,
    tables::{RowChange, drop_all, key, layout, meta, unpack_key},
    turn::{Turn, newest},
};

impl Turn<'_> {
    /// Begins a session: corrects the clock, stamps again what would be too far ahead, adopts the
    /// schema.
    pub(crate) fn welcome(
        &mut self,
        server_time: Millis,
        drift_max_ms: u64,
        merged_through: Seq,
        schema: Option<&Schema>,
    ) -> Result<(), ReplicaError> {
        let offset = i128::from(server_time.0).saturating_sub(i128::from(self.now.0));
        self.numbers.clock_offset_ms = i64::try_from(offset).unwrap_or(0);
        subscriptions::unstage_all(self.tx)?;
        subscriptions::refuse(self.tx, None, None)?;
        let bound_ms = server_time.0.saturating_add(drift_max_ms);
        if self.numbers.hlc.millis().0 > bound_ms {
            self.restamp(merged_through)?;
        }
        schema.map_or(Ok(()), |schema| self.adopt(schema))
    }

    /// Brings the file to a newer schema. The tables this turn knows are then out of date.
    pub(crate) fn adopt(&mut self, schema: &Schema) -> Result<(), ReplicaError> {
        if schema == self.tables.schema() {
            return Ok(());
        }
        drop_all(self.tx)?;
        layout::migrate(self.tx, self.tables.schema(), schema)?;
        meta::write(
            self.tx,
            "schema",
            anabranch_protocol::codec::encode_schema(schema)?,
        )?;
        self.events.push(Event::SchemaAdopted {
            version: schema.version,
        });
        Ok(())
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
            rows.sort_by_cached_key(|row| (row.table, key::pack(&row.key)));
            let mut changes = Vec::new();
            for row in &rows {
                let Some(table) = self.table(row.table) else {
                    continue;
                };
                self.note_told(table, &row.key, &row.state)?;
                let merged = table
                    .merge(conn, &row.key, &row.state, |held| held.with(id))?
                    .merged;
                let presence = (merged.was_present, merged.is_present);
                changes.extend(RowChange::of(row.table, &row.key, presence, &merged.won));
                if !left.is_empty() {
                    left.remove(&(row.table, key::pack(&row.key)));
                }
            }
            self.note(changes);
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
        changes.sort_by_cached_key(|change| (change.table, key::pack(&change.key)));
        let mut visible = Vec::new();
        for change in changes {
            let Some(table) = self.table(change.table) else {
                continue;
            };
            self.note_told(table, &change.key, &change.state)?;
            let shapes = |held: SubscriptionSet| held.updated(live, change.shapes);
            let outcome = table.merge(self.tx, &change.key, &change.state, shapes)?;
            let presence = (outcome.merged.was_present, outcome.merged.is_present);
            visible.extend(RowChange::of(
                table.id(),
                &change.key,
                presence,
                &outcome.merged.won,
            ));
            if outcome.known && outcome.shapes.is_empty() {
                released.push((change.table, change.key));
            }
        }
        self.note(visible);
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

    /// Takes accepted transactions out of the outbox; the rows they touched.
    pub(crate) fn accept(
        &mut self,
        accepted: &[Seq],
    ) -> Result<Vec<(TableId, RowKey)>, ReplicaError> {
        let mut touched = Vec::new();
        for seq in accepted {
            let Some(transaction) = self.take(*seq)? else {
                continue;
            };
            self.observe(transaction.stamp.hlc);
            self.forget_told(&transaction.deltas)?;
            touched.extend(
                transaction
                    .deltas
                    .into_iter()
                    .map(|delta| (delta.table, delta.key)),
            );
            self.events.push(Event::Accepted(*seq));
        }
        Ok(touched)
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
