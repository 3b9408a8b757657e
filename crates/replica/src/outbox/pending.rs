//! Which rows waiting transactions have written, and what they say of the rows' clocks.
//!
//! What is pending lies in the outbox and nowhere else: the clock beside a row tells what is settled,
//! and the clock of the row is both joined. So a local write costs no second B-tree, and its clock
//! is written once, when it is accepted.

use std::collections::HashMap;

use anabranch_crdt::{Delta, RowClock, TableId};
use anabranch_protocol::{LocalTransaction, Seq};
use rusqlite::Connection;

use crate::{ReplicaError, numbers::Numbers, outbox, tables::key};

/// An index in memory over the outbox. It follows what this process does; what another has appended
/// is read, and if another has done more it is made anew.
#[derive(Debug, Default)]
pub(crate) struct PendingIndex {
    /// The state of the outbox that this is an index of; `None` if it must be made anew.
    state: Option<OutboxState>,
    rows: HashMap<TableId, HashMap<Vec<u8>, PendingRow>>,
}

/// A row that waiting transactions have written.
#[derive(Debug, Default)]
struct PendingRow {
    /// How many.
    transactions: u32,
    /// Their clocks, joined.
    clock: RowClock,
}

/// What tells two states of the outbox apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OutboxState {
    next_seq: i64,
    settled: i64,
    rewritten: i64,
}

impl OutboxState {
    const fn of(numbers: &Numbers) -> Self {
        Self {
            next_seq: numbers.next_seq,
            settled: numbers.settled,
            rewritten: numbers.rewritten,
        }
    }
}

impl PendingIndex {
    /// Makes it true of the outbox.
    pub(crate) fn refresh(
        &mut self,
        conn: &Connection,
        numbers: &Numbers,
    ) -> Result<(), ReplicaError> {
        let now = OutboxState::of(numbers);
        if self.state == Some(now) {
            return Ok(());
        }
        let appended_since = self.state.filter(|held| {
            let appended = OutboxState {
                next_seq: now.next_seq,
                ..*held
            };
            appended == now && held.next_seq < now.next_seq
        });
        if appended_since.is_none() {
            self.rows.clear();
        }
        let after = appended_since.map_or(0, |held| held.next_seq.saturating_sub(1));
        // It is neither the one nor the other until everything is read.
        self.state = None;
        outbox::each_after(conn, Seq(after.unsigned_abs()), |transaction, _| {
            self.add_all(&transaction.deltas);
            Ok(true)
        })?;
        self.state = Some(now);
        Ok(())
    }

    /// It may be wrong: a change of the outbox was rolled back.
    pub(crate) const fn invalidate(&mut self) {
        self.state = None;
    }

    /// This process has just appended a transaction, the one before the next; `packed` are the keys
    /// of its rows.
    pub(crate) fn appended(
        &mut self,
        transaction: &LocalTransaction,
        packed: Vec<Vec<u8>>,
        numbers: &Numbers,
    ) {
        let now = OutboxState::of(numbers);
        let before = OutboxState {
            next_seq: now.next_seq.saturating_sub(1),
            ..now
        };
        if self.state == Some(before) {
            for (delta, packed) in transaction.deltas.iter().zip(packed) {
                self.add(delta, packed);
            }
            self.state = Some(now);
        }
    }

    /// This process has just taken an accepted transaction out, or with `accepted` false a refused
    /// one.
    pub(crate) fn taken(&mut self, deltas: &[Delta], accepted: bool, numbers: &Numbers) {
        let now = OutboxState::of(numbers);
        let before = OutboxState {
            settled: now.settled.saturating_sub(1),
            ..now
        };
        if self.state != Some(before) {
            return;
        }
        let mut unclear = false;
        for delta in deltas {
            unclear |= self.remove(delta);
        }
        // What the others say alone is to be read again; what was accepted does not hurt.
        self.state = (accepted || !unclear).then_some(now);
    }

    /// What waiting transactions say of the row's clock; `None` if none has written it.
    pub(crate) fn clock(&self, table: TableId, packed: &[u8]) -> Option<&RowClock> {
        let row = self.rows.get(&table)?.get(packed)?;
        Some(&row.clock)
    }

    /// Whether a waiting transaction has written the row.
    pub(crate) fn contains(&self, table: TableId, packed: &[u8]) -> bool {
        self.clock(table, packed).is_some()
    }

    /// The rows of a table that waiting transactions have written, by packed key, in no order.
    pub(crate) fn rows_of(&self, table: TableId) -> impl Iterator<Item = (&[u8], &RowClock)> {
        let rows = self.rows.get(&table).into_iter().flatten();
        rows.map(|(packed, row)| (&packed[..], &row.clock))
    }

    fn add_all(&mut self, deltas: &[Delta]) {
        for delta in deltas {
            self.add(delta, key::pack(&delta.key));
        }
    }

    fn add(&mut self, delta: &Delta, packed: Vec<u8>) {
        let rows = self.rows.entry(delta.table).or_default();
        let row = rows.entry(packed).or_default();
        row.transactions = row.transactions.saturating_add(1);
        row.clock.join(delta.state.clock());
    }

    /// Takes a row of a transaction out; whether others have written it too.
    fn remove(&mut self, delta: &Delta) -> bool {
        let Some(rows) = self.rows.get_mut(&delta.table) else {
            return false;
        };
        let packed = key::pack(&delta.key);
        let Some(row) = rows.get_mut(&packed) else {
            return false;
        };
        row.transactions = row.transactions.saturating_sub(1);
        if row.transactions == 0 {
            rows.remove(&packed);
        }
        rows.contains_key(&packed)
    }
}
