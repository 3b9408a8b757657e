//! The recent transactions of the store, in commit order: what sessions read from, each at its own
//! pace, so that a slow one costs no memory of its own.

use std::{collections::VecDeque, sync::Arc};

use anabranch_crdt::ReplicaId;
use anabranch_protocol::{Position, Seq};
use anabranch_store::{StoreTransaction, Visibility};

use crate::limits::{LOG_BYTES_MAX, LOG_TRANSACTIONS_MAX};

/// A bounded stretch of the store's log.
#[derive(Debug)]
pub(super) struct Log {
    entries: VecDeque<(Arc<StoreTransaction>, usize)>,
    bytes: usize,
    /// Whatever lies at or before it is no longer here.
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

    /// Appends a transaction and forgets the oldest beyond the bounds.
    pub(super) fn push(&mut self, transaction: Arc<StoreTransaction>) {
        let size = size_bytes(&transaction);
        self.bytes = self.bytes.saturating_add(size);
        self.entries.push_back((transaction, size));
        while self.entries.len() > LOG_TRANSACTIONS_MAX
            || (self.bytes > LOG_BYTES_MAX && self.entries.len() > 1)
        {
            if let Some((oldest, size)) = self.entries.pop_front() {
                self.bytes = self.bytes.saturating_sub(size);
                self.start = oldest.position;
            }
        }
    }

    /// The position from which on every transaction is here.
    pub(super) const fn start(&self) -> Position {
        self.start
    }

    /// The position of the newest transaction.
    pub(super) fn end(&self) -> Position {
        let newest = self.entries.back().map(|(entry, _)| entry.position);
        newest.unwrap_or(self.start)
    }

    /// The transactions after `after`, up to and including `through`.
    pub(super) fn between(
        &self,
        after: Position,
        through: Position,
    ) -> impl Iterator<Item = &Arc<StoreTransaction>> {
        let first = self
            .entries
            .partition_point(|(entry, _)| entry.position <= after);
        let entries = self.entries.range(first..).map(|(entry, _)| entry);
        entries.take_while(move |entry| entry.position <= through)
    }

    /// The last position before the first transaction that a snapshot did not see: from there on the
    /// log and the snapshot together have no hole. A transaction can be told by the log before a new
    /// snapshot sees it.
    pub(super) fn joins_snapshot_at(&self, now: Position, visibility: &Visibility) -> Position {
        let mut before = self.start;
        for (entry, _) in &self.entries {
            if !visibility.saw(entry) {
                return before.min(now);
            }
            before = entry.position;
        }
        now
    }
}

/// The replica's own transactions in `transaction`.
pub(super) fn accepted_of(transaction: &StoreTransaction, replica: Option<ReplicaId>) -> Vec<Seq> {
    let own = transaction
        .origins
        .iter()
        .filter(|(origin, _)| Some(*origin) == replica);
    own.map(|(_, seq)| *seq).collect()
}

fn size_bytes(transaction: &StoreTransaction) -> usize {
    const ROW_OVERHEAD_BYTES: usize = 128;
    const CELL_OVERHEAD_BYTES: usize = 64;
    let rows = transaction.deltas.iter().map(|delta| {
        let cells = delta.state.cells().map(|(_, _, value)| value.size_bytes());
        ROW_OVERHEAD_BYTES
            + cells
                .map(|bytes| bytes + CELL_OVERHEAD_BYTES)
                .sum::<usize>()
    });
    rows.sum()
}
