//! The recent transactions of the store, in commit order: what sessions read from, each at its own
//! pace, so that a slow one costs no memory of its own.

use std::collections::VecDeque;

use anabranch_protocol::{Position, limits::FRAME_BYTES_MAX};
use anabranch_store::{StoreTransaction, Visibility};

use crate::limits::{LOG_BYTES_MAX, LOG_TRANSACTIONS_MAX};

/// A bounded stretch of the store's log.
#[derive(Debug)]
pub(super) struct Log {
    entries: VecDeque<(StoreTransaction, usize)>,
    bytes: usize,
    /// Whatever lies at or before it cannot be told any more.
    start: Position,
}

impl Log {
    pub(super) const fn starting_after(start: Position) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            start,
        }
    }

    /// Appends a transaction and forgets the oldest beyond the bounds. One that does not fit a frame
    /// cannot be told, and nothing before it either: replicas must take snapshots instead.
    pub(super) fn push(&mut self, mut transaction: StoreTransaction) {
        let mut size = size_bytes(&transaction);
        if size > FRAME_BYTES_MAX {
            size = 0;
            self.bytes = 0;
            self.entries.clear();
            self.start = transaction.position;
            // Its number stays: a new snapshot may not see it yet.
            transaction.deltas.clear();
        }
        self.bytes = self.bytes.saturating_add(size);
        self.entries.push_back((transaction, size));
        while self.entries.len() > LOG_TRANSACTIONS_MAX || self.bytes > LOG_BYTES_MAX {
            let Some((oldest, size)) = self.entries.pop_front() else {
                return;
            };
            self.bytes = self.bytes.saturating_sub(size);
            self.start = oldest.position;
        }
    }

    /// The position from which on every transaction can be told.
    pub(super) const fn start(&self) -> Position {
        self.start
    }

    /// The transaction at `position`.
    pub(super) fn get(&self, position: Position) -> Option<&StoreTransaction> {
        let index = self.after(position).checked_sub(1)?;
        let (entry, _) = self.entries.get(index)?;
        (entry.position == position).then_some(entry)
    }

    /// The transactions after `after`, up to and including `through`.
    pub(super) fn between(
        &self,
        after: Position,
        through: Position,
    ) -> impl Iterator<Item = &StoreTransaction> {
        let range = self.after(after)..self.after(through.max(after));
        self.entries.range(range).map(|(entry, _)| entry)
    }

    /// How many transactions there are after `after`, up to and including `through`.
    pub(super) fn count(&self, after: Position, through: Position) -> usize {
        self.after(through).saturating_sub(self.after(after))
    }

    /// The index of the first transaction after `position`.
    fn after(&self, position: Position) -> usize {
        self.entries
            .partition_point(|(entry, _)| entry.position <= position)
    }

    /// From where on the log and a snapshot that was asked for at `asked_at` together have no hole:
    /// the last position before the first transaction that the snapshot did not see, which the log
    /// may well have told before. A position before [`Log::start`] if there is a hole.
    pub(super) fn joins_snapshot_at(
        &self,
        asked_at: Position,
        told: Position,
        visibility: &Visibility,
    ) -> Position {
        if asked_at < self.start {
            return asked_at;
        }
        let mut before = self.start;
        for (entry, _) in &self.entries {
            if !visibility.saw(entry) {
                let untold = entry.position <= self.start;
                return if untold { Position(0) } else { before };
            }
            before = entry.position;
        }
        told
    }
}

/// At least what the transaction takes in a frame, and about what it takes in memory.
fn size_bytes(transaction: &StoreTransaction) -> usize {
    const ROW_OVERHEAD_BYTES: usize = 128;
    const CELL_OVERHEAD_BYTES: usize = 64;
    let rows = transaction.deltas.iter().map(|delta| {
        let key = delta.key.0.iter();
        let key: usize = key
            .map(|value| value.size_bytes() + CELL_OVERHEAD_BYTES)
            .sum();
        let entries = delta.state.existence().entries().len();
        let columns = delta.state.columns().count();
        let overhead = ROW_OVERHEAD_BYTES + (columns + entries) * CELL_OVERHEAD_BYTES;
        overhead + key + delta.state.size_bytes()
    });
    rows.sum()
}
