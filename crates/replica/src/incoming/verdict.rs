//! Refusal and a wrong clock: taking back what was never shared, and stamping it again.

use std::collections::{BTreeMap, HashMap, btree_map::Entry as Slot};

use anabranch_crdt::{
    Delta, Entry, Existence, Hlc, HlcClock, Millis, RowClock, RowKey, RowState, Stamp, TableId,
};
use anabranch_protocol::{LocalTransaction, RejectCode, Seq};

use crate::{
    Event, ReplicaError,
    incoming::told,
    outbox::{self, RejectedTransaction},
    subscriptions,
    tables::{Held, RowChange, TableSql, key::pack},
    turn::{Turn, newest},
    watch::changes,
};

impl Turn<'_> {
    /// Withdraws a refused transaction: just the cells and additions that it wrote give way to what
    /// the store holds, other waiting transactions are merged on top, and it moves whole to the
    /// rejected ones.
    pub(crate) fn reject(
        &mut self,
        seq: Seq,
        code: RejectCode,
        reason: String,
        rows: Vec<Delta>,
    ) -> Result<(), ReplicaError> {
        let Some(transaction) = self.take(seq, false)? else {
            return Ok(());
        };
        self.observe(newest(rows.iter().map(|row| &row.state)));
        let store: HashMap<(TableId, RowKey), RowState> = rows
            .into_iter()
            .map(|row| ((row.table, row.key), row.state))
            .collect();
        let waiting = self.waiting_on(&transaction)?;
        let settled = subscriptions::waiting(self.tx)?.is_empty();
        let nothing = RowState::new();
        for delta in &transaction.deltas {
            let Some(table) = self.table(delta.table) else {
                continue;
            };
            let row = (delta.table, delta.key.clone());
            let authority = store.get(&row).unwrap_or(&nothing);
            let others = waiting.get(&row).map_or(&[][..], Vec::as_slice);
            self.withdraw(table, delta, authority, others)?;
            self.release(table, &delta.key, settled)?;
        }
        self.forget_told(&transaction.deltas)?;
        changes::count_taken_back(self.tx)?;
        let at = self.corrected_now();
        let numbers = transaction.numbers();
        let rejected = RejectedTransaction {
            transaction,
            code,
            reason: reason.clone(),
            at,
        };
        outbox::reject(self.tx, &rejected)?;
        for seq in numbers {
            let reason = reason.clone();
            self.events.push(Event::Rejected { seq, code, reason });
        }
        Ok(())
    }

    /// What other waiting transactions say of the rows of this one.
    fn waiting_on(
        &mut self,
        transaction: &LocalTransaction,
    ) -> Result<BTreeMap<(TableId, RowKey), Vec<RowState>>, ReplicaError> {
        let mut waiting: BTreeMap<(TableId, RowKey), Vec<RowState>> = BTreeMap::new();
        for delta in &transaction.deltas {
            let Some(table) = self.table(delta.table) else {
                continue;
            };
            if self.is_pending(table, &pack(&delta.key))? {
                waiting.insert((delta.table, delta.key.clone()), Vec::new());
            }
        }
        if waiting.is_empty() {
            return Ok(waiting);
        }
        outbox::each_after(self.tx, Seq(0), |other, _| {
            for delta in other.deltas {
                if let Some(states) = waiting.get_mut(&(delta.table, delta.key)) {
                    states.push(delta.state);
                }
            }
            Ok(true)
        })?;
        Ok(waiting)
    }

    fn withdraw(
        &mut self,
        table: &TableSql,
        refused: &Delta,
        authority: &RowState,
        waiting: &[RowState],
    ) -> Result<(), ReplicaError> {
        let key = &refused.key;
        let held = self.held(table, &pack(key))?;
        // The row is as the refused write has left it.
        let held = Held::with_pending(held, Some(refused.state.clock())).unwrap_or_default();
        let before = table.state_of(self.tx, key, &held.clock)?;
        let mut after = without(&before, &refused.state);
        let _ = after.merge(authority);
        if let Some(told) = told::get(self.tx, table.id(), &pack(key))? {
            let _ = after.merge(&told);
        }
        for state in waiting {
            let _ = after.merge(state);
        }
        table.replace(self.tx, key, &after, held.shapes)?;
        let presence = (
            before.existence().is_present(),
            after.existence().is_present(),
        );
        let columns: Vec<_> = table
            .table
            .registers()
            .map(|column| column.id)
            .filter(|column| before.value(*column) != after.value(*column))
            .collect();
        self.note(
            RowChange::of(table.id(), key, presence, columns)
                .into_iter()
                .collect(),
        );
        Ok(())
    }

    /// Stamps the transactions after `shared` again, from the corrected clock: none of them has
    /// ever left this replica. They stay above everything this replica has seen, as they were.
    pub(crate) fn restamp_unshared(&mut self, shared: Seq) -> Result<(), ReplicaError> {
        let mut newest_shared = self.numbers.shared_hlc;
        let mut unshared = Vec::new();
        for transaction in outbox::all_after(self.tx, Seq(0))? {
            if transaction.seq <= shared {
                newest_shared = newest_shared.max(transaction.stamp.hlc);
            } else {
                unshared.push(transaction);
            }
        }
        let mut clock = HlcClock::resume(newest_shared);
        let mut stamps = HashMap::new();
        for transaction in &unshared {
            let stamp = Stamp::new(clock.tick(self.corrected_now())?, self.replica);
            stamps.insert(transaction.stamp, stamp);
        }
        self.tell_restamped(&unshared);
        self.restamp(unshared, &stamps)?;
        self.numbers.hlc = clock.last();
        Ok(())
    }

    /// Stamps those of the transactions after `shared` again that lie before `horizon`: just above it,
    /// so that they win over nothing that came since, and in their order.
    pub(crate) fn restamp_old(&mut self, shared: Seq, horizon: Hlc) -> Result<(), ReplicaError> {
        if outbox::oldest_stamp(self.tx, shared)?.is_none_or(|oldest| oldest >= horizon) {
            return Ok(());
        }
        let mut clock = HlcClock::resume(horizon);
        let mut stamps = HashMap::new();
        // The later ones keep their stamps, and may speak of those that change.
        let unshared = outbox::all_after(self.tx, shared)?;
        for transaction in &unshared {
            let stamp = if transaction.stamp.hlc > clock.last() {
                transaction.stamp
            } else {
                Stamp::new(clock.tick(Millis(0))?, self.replica)
            };
            stamps.insert(transaction.stamp, stamp);
        }
        self.tell_restamped(&unshared);
        self.restamp(unshared, &stamps)?;
        self.numbers.hlc = self.numbers.hlc.max(clock.last());
        Ok(())
    }

    fn tell_restamped(&mut self, transactions: &[LocalTransaction]) {
        if let Some(first) = transactions.first() {
            self.events.push(Event::Restamped(first.first()));
        }
    }

    /// Stamps waiting transactions as `stamps` says, which has all of theirs. Values that have given
    /// way to newer ones are left out: under a later stamp they would win after all, in the store and
    /// not here.
    pub(crate) fn restamp(
        &mut self,
        transactions: Vec<LocalTransaction>,
        stamps: &HashMap<Stamp, Stamp>,
    ) -> Result<(), ReplicaError> {
        // Each row once, since a new stamp may equal another transaction's old one.
        let mut settled: BTreeMap<(TableId, Vec<u8>), RowClock> = BTreeMap::new();
        for mut transaction in transactions {
            transaction.stamp = *stamps.get(&transaction.stamp).unwrap_or(&transaction.stamp);
            let mut inserts = Vec::with_capacity(transaction.deltas.len());
            for (place, delta) in transaction.deltas.iter_mut().enumerate() {
                let clock = match settled.entry((delta.table, pack(&delta.key))) {
                    Slot::Occupied(row) => row.into_mut(),
                    Slot::Vacant(row) => {
                        let (table, packed) = row.key();
                        let clock = self.take_back_clock(*table, packed, stamps)?;
                        row.insert(clock)
                    }
                };
                let kept = standing(&delta.state, clock);
                // What is not whole any more does not insert a row that the store has let go of.
                inserts.push(transaction.inserts.contains(place) && kept == delta.state);
                delta.state = restamped_state(&kept, stamps);
            }
            transaction.inserts = inserts.into_iter().collect();
            outbox::rewrite(self.tx, &transaction)?;
        }
        self.numbers.outbox_rewritten();
        Ok(())
    }

    /// Takes what transactions with these stamps say out of the clock beside a row, where merging left
    /// it: the outbox says it too. What is left of the clock.
    fn take_back_clock(
        &self,
        table: TableId,
        packed: &[u8],
        stamps: &HashMap<Stamp, Stamp>,
    ) -> Result<RowClock, ReplicaError> {
        let Some(table) = self.table(table) else {
            return Ok(RowClock::new());
        };
        let Some(held) = table.held(self.tx, packed)? else {
            return Ok(RowClock::new());
        };
        let clock = held
            .clock
            .without_stamps(|stamp| stamps.contains_key(&stamp));
        if clock != held.clock {
            table.put_held(self.tx, packed, &clock, held.shapes)?;
        }
        Ok(clock)
    }
}

/// What `written` says without the registers that have given way to newer ones in `held`.
fn standing(written: &RowState, held: &RowClock) -> RowState {
    written.project(|column| {
        let stamp = written.clock().register(column);
        stamp.is_none() || stamp >= held.register(column)
    })
}

/// `held` without the registers and entries that `refused` put there.
fn without(held: &RowState, refused: &RowState) -> RowState {
    let mut state = RowState::of_existence(held.existence().without(refused.existence()));
    for (column, stamp, value) in held.cells() {
        if refused.clock().register(column) != Some(stamp) {
            state.set(column, stamp, value.clone());
        }
    }
    for (column, other) in held.clock().columns() {
        let kept = match refused.clock().column(*column) {
            Some(refused) => other.without(refused),
            None => other.clone(),
        };
        if !kept.is_empty() || refused.clock().column(*column).is_none() {
            state.set_column(*column, kept);
        }
    }
    state
}

/// The state with its stamps changed as `stamps` says.
pub(crate) fn restamped_state(state: &RowState, stamps: &HashMap<Stamp, Stamp>) -> RowState {
    let clock = restamped_clock(state.clock(), stamps);
    let mut out = RowState::of_existence(clock.existence.clone());
    for (column, other) in clock.columns() {
        out.set_column(*column, other.clone());
    }
    for (column, stamp, value) in state.cells() {
        out.set(column, *stamps.get(&stamp).unwrap_or(&stamp), value.clone());
    }
    out
}

fn restamped_clock(clock: &RowClock, stamps: &HashMap<Stamp, Stamp>) -> RowClock {
    let again = |stamp: Stamp| *stamps.get(&stamp).unwrap_or(&stamp);
    let registers = clock
        .registers()
        .iter()
        .map(|(column, stamp)| (*column, again(*stamp)));
    let mut out: RowClock = registers.collect();
    let existence_again = |existence: &Existence| -> Existence {
        let entries = existence.entries().iter();
        let entries = entries.map(|entry| Entry {
            stamp: again(entry.stamp),
            life: entry.life,
        });
        entries.collect()
    };
    for (column, other) in clock.columns() {
        out.set_column(*column, other.restamped(again, existence_again));
    }
    out.existence = existence_again(&clock.existence);
    out
}

#[cfg(test)]
mod tests {
    use anabranch_crdt::{ColumnId, Life, ReplicaId, Value};

    use super::*;

    fn stamp(ms: u64, replica: u8) -> Stamp {
        Stamp::new(Hlc::new(Millis(ms), 0).unwrap(), ReplicaId([replica; 16]))
    }

    #[test]
    fn only_what_the_refused_delta_put_there_is_taken_back() {
        let (a, b) = (ColumnId(1), ColumnId(2));
        let mut refused = RowState::live(stamp(5, 1));
        refused.set(a, stamp(5, 1), Value::Integer(1));
        refused.set(b, stamp(5, 1), Value::Integer(1));
        let mut held = refused.clone();
        held.set(b, stamp(7, 2), Value::Integer(2));
        held.existence_mut().add(stamp(7, 2));

        let kept = without(&held, &refused);
        assert_eq!(kept.value(a), None);
        assert_eq!(kept.value(b), Some(&Value::Integer(2)));
        let expected: Existence = [Entry {
            stamp: stamp(7, 2),
            life: Life::Live,
        }]
        .into_iter()
        .collect();
        assert_eq!(kept.existence(), &expected);
    }
}
