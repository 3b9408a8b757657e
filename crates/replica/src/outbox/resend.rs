//! A refused transaction, sent once more: as a new local transaction, perhaps amended.

use anabranch_crdt::{Delta, RowState, Stamp};
use anabranch_protocol::{LocalTransaction, Seq};

use crate::{
    Event, Origin, Replica, ReplicaError, outbox,
    tables::{TableSql, key::pack},
    turn::{Bounds, Turn},
};

impl Replica {
    /// Does what a refused transaction did once more, as a new local transaction, and takes it off
    /// the list of refused ones. `amend` may change what is written to each row before: its values;
    /// the stamps are made anew. Tables and columns that are gone are left out. Returns the new
    /// number; `None`, and the list stays as it is, if there is no such transaction or nothing of it
    /// can be written any more.
    ///
    /// ```no_run
    /// # use anabranch_replica::{Replica, ReplicaError};
    /// # fn retry(replica: &mut Replica) -> Result<(), ReplicaError> {
    /// for refused in replica.rejected_list()? {
    ///     replica.resend_rejected(refused.transaction.seq, |_| {})?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn resend_rejected(
        &mut self,
        seq: Seq,
        amend: impl FnMut(&mut Delta),
    ) -> Result<Option<Seq>, ReplicaError> {
        let transactions_max = self.outbox_transactions_max();
        self.turn(|turn| {
            turn.seal(Bounds::Waived)?;
            turn.resend(seq, amend, transactions_max)
        })
    }
}

impl Turn<'_> {
    fn resend(
        &mut self,
        refused: Seq,
        mut amend: impl FnMut(&mut Delta),
        transactions_max: u64,
    ) -> Result<Option<Seq>, ReplicaError> {
        let list = outbox::rejected(self.tx)?;
        let found = list
            .into_iter()
            .find(|held| held.transaction.seq == refused);
        let Some(found) = found else { return Ok(None) };
        let stamp = self.stamp()?;
        let mut deltas = Vec::with_capacity(found.transaction.deltas.len());
        let mut changes = Vec::new();
        let mut inserts = Vec::with_capacity(deltas.capacity());
        for (place, mut delta) in found.transaction.deltas.into_iter().enumerate() {
            amend(&mut delta);
            let Some(table) = self.table(delta.table) else {
                continue;
            };
            let Some(state) = self.written_again(table, &delta, stamp)? else {
                continue;
            };
            let merged = self.merge_row(table, &delta.key, &state)?;
            changes.extend(merged.into_change(table.id(), delta.key.clone()));
            inserts.push(found.transaction.inserts.contains(place));
            deltas.push(Delta { state, ..delta });
        }
        if deltas.is_empty() {
            return Ok(None);
        }
        let pending = self.waiting();
        let seq = self.next_seq();
        let transaction = LocalTransaction {
            seq,
            stamp,
            deltas,
            inserts: inserts.into_iter().collect(),
            replaces: 0,
        };
        outbox::append(self.tx, &transaction, None, pending, transactions_max)?;
        outbox::discard(self.tx, refused)?;
        let packed = transaction.deltas.iter().map(|delta| pack(&delta.key));
        let packed = packed.collect();
        self.pending.appended(&transaction, packed, &self.numbers);
        self.events.extend(Event::rows(Origin::Local, changes));
        self.events.push(Event::Sealed(seq));
        Ok(Some(seq))
    }

    /// What a delta wrote, as far as its columns are still there, at a new stamp; `None` if they are
    /// all gone.
    fn written_again(
        &mut self,
        table: &TableSql,
        delta: &Delta,
        stamp: Stamp,
    ) -> Result<Option<RowState>, ReplicaError> {
        let held = self.held(table, &pack(&delta.key))?.unwrap_or_default();
        let existence = delta.state.existence();
        let mut state = if existence.is_present() {
            RowState::live(stamp)
        } else if existence.is_empty() {
            // An update, where updates do not say that the row is there.
            RowState::new()
        } else {
            RowState::of_existence(held.clock.existence.removal())
        };
        let is_there = |id| table.table.column(id).is_some();
        for (column, _, value) in delta.state.cells().filter(|(id, ..)| is_there(*id)) {
            state.set(column, stamp, value.clone());
        }
        let others = delta.state.clock().columns().iter();
        for (column, other) in others.filter(|(id, _)| is_there(*id)) {
            state.set_column(*column, other.again(held.clock.column(*column), stamp));
        }
        let wrote = delta.state.columns().next().is_some();
        Ok((state.columns().next().is_some() || !wrote).then_some(state))
    }
}
