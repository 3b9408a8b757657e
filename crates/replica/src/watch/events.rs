//! What an application is told after a commit: changed rows, outcomes, progress.

use std::collections::{BTreeSet, VecDeque};

use anabranch_crdt::{ReplicaId, RowKey, TableId};
use anabranch_protocol::{RejectCode, Seq, SubscriptionId};

use crate::{
    MergedOver,
    limits::{EVENT_ROWS_MAX, EVENTS_MAX},
    tables::RowChange,
};

/// Something that happened, told after the commit that made it so.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Rows changed.
    Rows {
        /// Who changed them.
        origin: Origin,
        /// The changes, in their order.
        changes: Vec<RowChange>,
    },
    /// So many rows changed that they are not listed: read these tables again.
    Tables {
        /// Who changed them.
        origin: Origin,
        /// The tables.
        tables: Vec<TableId>,
    },
    /// A local transaction was sealed and waits in the outbox.
    Sealed(Seq),
    /// The store has merged a local transaction.
    Accepted(Seq),
    /// The store has refused a local transaction, which is withdrawn and kept among the rejected.
    Rejected {
        /// The transaction.
        seq: Seq,
        /// Why, for programs.
        code: RejectCode,
        /// Why, for people.
        reason: String,
    },
    /// Local transactions from this one on were stamped again: the clock had been wrong.
    Restamped(Seq),
    /// Values written here gave way to newer ones written elsewhere, in a row that local writes
    /// are pending on.
    MergedOver {
        /// The table.
        table: TableId,
        /// The row.
        key: RowKey,
        /// Both values of each column concerned.
        values: Vec<MergedOver>,
    },
    /// A session with the service has begun.
    Online,
    /// The session is over, or could not be begun.
    Offline {
        /// Why.
        reason: String,
    },
    /// Waiting transactions are being sent.
    FlushStarted,
    /// What was being sent has its outcomes.
    FlushCompleted {
        /// How many transactions got one.
        sent: u64,
        /// How many wait now.
        remaining: u64,
    },
    /// The file turned out to be a copy, or restored from one, and got an identity of its own
    /// before it wrote again.
    NewIdentity {
        /// The new identity.
        id: ReplicaId,
        /// The numbers that waiting transactions had, each with the one it has now.
        numbers: Vec<(Seq, Seq)>,
    },
    /// The schema was adopted.
    SchemaAdopted {
        /// Its version.
        version: u64,
    },
    /// Rows of a snapshot have arrived; they do not show yet.
    SnapshotProgress {
        /// The subscription.
        id: SubscriptionId,
        /// Rows arrived so far.
        rows: u64,
        /// About how many there are.
        rows_estimate: u64,
    },
    /// A snapshot is complete and shows.
    SnapshotComplete(SubscriptionId),
    /// A subscription was refused.
    SubscriptionRefused {
        /// The subscription.
        id: SubscriptionId,
        /// Why, and what to do.
        message: String,
    },
    /// Events before this point were dropped because they were not taken: read everything again.
    Lagged,
}

/// Who made a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A program writing to this file.
    Local,
    /// Another replica, or the store.
    Remote,
    /// Another process's engine on this file, which merged or sealed it and was told the rows.
    Elsewhere,
}

impl Event {
    /// The event of these changes; `None` if there are none.
    pub(crate) fn rows(origin: Origin, changes: Vec<RowChange>) -> Option<Self> {
        if changes.is_empty() {
            return None;
        }
        let mut event = Self::Rows {
            origin,
            changes: Vec::new(),
        };
        event.absorb(changes);
        Some(event)
    }

    /// The tables it tells of changes to, as they come.
    pub(crate) fn tables(&self) -> Vec<TableId> {
        match self {
            Self::Rows { changes, .. } => {
                let mut tables: Vec<TableId> = changes.iter().map(|change| change.table).collect();
                tables.dedup();
                tables
            }
            Self::Tables { tables, .. } => tables.clone(),
            _ => Vec::new(),
        }
    }

    /// What it counts towards the bound of the queue.
    fn weight(&self) -> usize {
        match self {
            Self::Rows { changes, .. } => changes.len().saturating_add(1),
            _ => 1,
        }
    }

    /// Whether it tells of rows that came from elsewhere.
    pub(crate) const fn is_remote(&self) -> bool {
        matches!(
            self,
            Self::Rows {
                origin: Origin::Remote,
                ..
            } | Self::Tables {
                origin: Origin::Remote,
                ..
            }
        )
    }

    /// Tells of these changes too; beyond what one event lists, by their tables.
    pub(crate) fn absorb(&mut self, more: Vec<RowChange>) {
        match self {
            Self::Rows { changes, .. } if changes.len() + more.len() <= EVENT_ROWS_MAX => {
                changes.extend(more);
            }
            Self::Rows { origin, changes } => {
                let tables: BTreeSet<TableId> = changes
                    .iter()
                    .chain(&more)
                    .map(|change| change.table)
                    .collect();
                *self = Self::Tables {
                    origin: *origin,
                    tables: tables.into_iter().collect(),
                };
            }
            Self::Tables { tables, .. } => {
                tables.extend(more.iter().map(|change| change.table));
                tables.sort_unstable();
                tables.dedup();
            }
            _ => {}
        }
    }
}

/// A bounded queue of events: the oldest give way, and their loss is told.
#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    events: VecDeque<Event>,
    weight: usize,
    lagged: bool,
}

impl EventQueue {
    pub(crate) fn extend(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.weight = self.weight.saturating_add(event.weight());
            self.events.push_back(event);
        }
        while self.weight > EVENTS_MAX {
            let Some(oldest) = self.events.pop_front() else {
                break;
            };
            self.weight = self.weight.saturating_sub(oldest.weight());
            self.lagged = true;
        }
    }

    pub(crate) fn take(&mut self) -> Vec<Event> {
        self.weight = 0;
        let lagged = std::mem::take(&mut self.lagged).then_some(Event::Lagged);
        lagged.into_iter().chain(self.events.drain(..)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_drops_the_oldest_and_says_so() {
        let mut queue = EventQueue::default();
        queue.extend((0..=EVENTS_MAX).map(|seq| Event::Accepted(Seq(seq as u64))));
        let taken = queue.take();
        assert_eq!(taken.first(), Some(&Event::Lagged));
        assert_eq!(taken.get(1), Some(&Event::Accepted(Seq(1))));
        assert_eq!(taken.len(), EVENTS_MAX + 1);
        assert!(queue.take().is_empty());
    }
}
