//! Squashing: transactions in a row that nobody has seen, and that write the same rows, become one.
//!
//! Hours of typing into one note so go up as one transaction and not as thousands. What lay between is
//! never seen by anybody else, and what goes up in the end is the same. It happens when a session
//! begins, for only then is it certain which transactions the store has not got.

use std::collections::{HashMap, HashSet};

use anabranch_crdt::{Delta, Stamp};
use anabranch_protocol::{Inserts, LocalTransaction, Seq};

use crate::{
    ReplicaError, incoming::verdict::restamped_state, limits::SQUASHED_BYTES_MAX, outbox,
    turn::Turn,
};

impl Turn<'_> {
    /// Squashes the transactions after `shared`.
    pub(crate) fn squash(&mut self, shared: Seq) -> Result<(), ReplicaError> {
        let mut squashing = Squashing::default();
        outbox::each_after(self.tx, shared, |transaction, bytes| {
            squashing.add(transaction, bytes);
            Ok(true)
        })?;
        squashing.close();
        if squashing.replaced.is_empty() {
            return Ok(());
        }
        for seq in &squashing.replaced {
            outbox::remove(self.tx, *seq)?;
            self.numbers.settled = self.numbers.settled.saturating_add(1);
        }
        let Squashing {
            mut done, stamps, ..
        } = squashing;
        let squashed: HashSet<Seq> = done.iter().map(|transaction| transaction.seq).collect();
        outbox::each_after(self.tx, shared, |transaction, _| {
            // Deletes speak of additions by their stamps.
            let mut deltas = transaction.deltas.iter();
            if !squashed.contains(&transaction.seq)
                && deltas.any(|delta| restamped_state(&delta.state, &stamps) != delta.state)
            {
                done.push(transaction);
            }
            Ok(true)
        })?;
        self.restamp(done, &stamps)
    }
}

/// Transactions being squashed, in their order.
#[derive(Debug, Default)]
struct Squashing {
    /// What became of several.
    done: Vec<LocalTransaction>,
    /// The last one, into which the next may go.
    last: Option<LocalTransaction>,
    /// About how large it is.
    bytes: usize,
    /// The stamps that it has replaced.
    last_stamps: Vec<Stamp>,
    /// The stamps of all, and of those that stand for them now.
    stamps: HashMap<Stamp, Stamp>,
    /// The numbers of those replaced.
    replaced: Vec<Seq>,
}

impl Squashing {
    fn add(&mut self, next: LocalTransaction, bytes: usize) {
        self.stamps.insert(next.stamp, next.stamp);
        let total = self.bytes.saturating_add(bytes);
        match &mut self.last {
            Some(last) if total <= SQUASHED_BYTES_MAX && writes_the_same_rows(last, &next) => {
                self.replaced.push(last.seq);
                self.last_stamps.push(last.stamp);
                for stamp in &self.last_stamps {
                    self.stamps.insert(*stamp, next.stamp);
                }
                squash_into(last, next);
                self.bytes = total;
            }
            _ => {
                self.close();
                self.bytes = bytes;
                self.last = Some(next);
            }
        }
    }

    /// Nothing more goes into the last one, which is kept only if something has.
    fn close(&mut self) {
        let squashed = self.last.take().filter(|_| !self.last_stamps.is_empty());
        self.done.extend(squashed);
        self.last_stamps.clear();
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

/// What both do, under the later one's number and stamp; the cells get that stamp afterwards.
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
