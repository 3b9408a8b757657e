//! Squashing: transactions in a row that nobody has seen, and that write the same rows, become one.
//!
//! Hours of typing into one note so go up as one transaction and not as thousands. What lay between is
//! never seen by anybody else, and what goes up in the end is the same. It happens when a session
//! begins, for only then is it certain which transactions the store has not got.

use std::collections::HashMap;

use anabranch_crdt::{Delta, Stamp};
use anabranch_protocol::{Inserts, LocalTransaction, Seq};

use crate::{ReplicaError, limits::SQUASHED_BYTES_MAX, outbox, turn::Turn};

impl Turn<'_> {
    /// Squashes the transactions after `shared`.
    pub(crate) fn squash(&mut self, shared: Seq) -> Result<(), ReplicaError> {
        let mut squashing = Squashing::default();
        outbox::each_after(self.tx, shared, |transaction, bytes| {
            squashing.add(transaction, bytes);
            Ok(true)
        })?;
        if squashing.stamps.is_empty() {
            return Ok(());
        }
        for seq in &squashing.replaced {
            outbox::remove(self.tx, *seq)?;
            self.numbers.settled = self.numbers.settled.saturating_add(1);
        }
        self.restamp(squashing.done, &squashing.stamps)
    }
}

/// Transactions being squashed, in their order.
#[derive(Debug, Default)]
struct Squashing {
    done: Vec<LocalTransaction>,
    /// About how large the last one is.
    bytes: usize,
    /// The stamps of those replaced, and of those that stand for them now.
    stamps: HashMap<Stamp, Stamp>,
    /// The stamps that the last one has replaced.
    last_stamps: Vec<Stamp>,
    /// The numbers of those replaced.
    replaced: Vec<Seq>,
}

impl Squashing {
    fn add(&mut self, next: LocalTransaction, bytes: usize) {
        let total = self.bytes.saturating_add(bytes);
        match self.done.last_mut() {
            Some(last) if total <= SQUASHED_BYTES_MAX && writes_the_same_rows(last, &next) => {
                self.replaced.push(last.seq);
                self.last_stamps.push(last.stamp);
                for stamp in self.last_stamps.iter().chain([&next.stamp]) {
                    self.stamps.insert(*stamp, next.stamp);
                }
                squash_into(last, next);
                self.bytes = total;
            }
            _ => {
                self.last_stamps.clear();
                self.bytes = bytes;
                self.done.push(next);
            }
        }
    }
}

/// Whether both write just the same rows and delete none.
fn writes_the_same_rows(one: &LocalTransaction, next: &LocalTransaction) -> bool {
    let only_writes = |delta: &Delta| {
        let entries = delta.state.existence().entries();
        entries
            .iter()
            .all(|entry| entry.life == anabranch_crdt::Life::Live)
    };
    one.deltas.len() == next.deltas.len()
        && one.deltas.iter().zip(&next.deltas).all(|(one, next)| {
            one.table == next.table && one.key == next.key && only_writes(one) && only_writes(next)
        })
}

/// What both do, under the later one's number and stamp. The cells keep the stamps they had.
fn squash_into(held: &mut LocalTransaction, next: LocalTransaction) {
    let inserts = (0..next.deltas.len())
        .map(|place| held.inserts.contains(place) || next.inserts.contains(place));
    held.inserts = inserts.collect::<Inserts>();
    for (held, next) in held.deltas.iter_mut().zip(&next.deltas) {
        let _ = held.state.merge(&next.state);
    }
    let replaced = next.seq.0.saturating_sub(held.first().0);
    held.seq = next.seq;
    held.stamp = next.stamp;
    held.replaces = replaced;
}
