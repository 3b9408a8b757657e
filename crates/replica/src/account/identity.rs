//! Which file this is, and what a replica does that finds itself in a copy of another's.
//!
//! A replica's transactions are known by its identity and their numbers, so no two files may ever
//! use the same pair. A file that was copied or restored cannot tell which of its numbers the
//! original has used meanwhile; so it takes a new identity before it writes again.

use std::{
    collections::{BTreeSet, HashSet},
    path::Path,
};

use anabranch_crdt::{Entry, Existence, Life, ReplicaId, RowClock, RowState, Stamp, TableId};
use anabranch_protocol::Seq;
use rusqlite::Connection;

use crate::{
    Event, ReplicaError, outbox,
    tables::{TablesError, key::pack, meta},
    turn::{Bounds, Turn},
};

/// The identity that the file holds; `None` if it is no replica's.
pub(crate) fn replica(conn: &Connection) -> Result<Option<ReplicaId>, TablesError> {
    let id: Option<Vec<u8>> = meta::read(conn, "replica")?;
    let id = id.map(|id| id.try_into().map(ReplicaId)).transpose();
    id.map_err(|_| damaged("is not 16 bytes"))
}

pub(crate) fn damaged(what: &str) -> TablesError {
    TablesError::Damaged(format!("the replica's identity {what}"))
}

/// What tells the file at `path` from its copies; `None` if the system does not say.
///
/// On Unix the device and the inode: a file that is merely renamed keeps them, a copy has others.
#[cfg(unix)]
pub(crate) fn mark_of(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let file = std::fs::metadata(path).ok()?;
    Some(format!("{}:{}", file.dev(), file.ino()))
}

/// What tells the file at `path` from its copies; `None` if the system does not say.
///
/// Where there are no inodes, the path: a file that was moved counts as a copy, which costs nothing
/// but sending again what waits.
#[cfg(not(unix))]
pub(crate) fn mark_of(path: &Path) -> Option<String> {
    let path = std::fs::canonicalize(path).ok()?;
    Some(path.to_string_lossy().into_owned())
}

impl Turn<'_> {
    /// Notes which file this is; if it was another, the replica becomes a new one.
    pub(crate) fn identify(&mut self, mark: &str, new_id: ReplicaId) -> Result<(), ReplicaError> {
        let held: Option<String> = meta::read(self.tx, "file")?;
        if held.as_deref() == Some(mark) {
            return Ok(());
        }
        if held.is_some() {
            // Captured rows lie where the renumbered transactions will.
            self.seal(Bounds::Waived)?;
            self.become_another(new_id)?;
        }
        Ok(meta::write(self.tx, "file", mark)?)
    }

    /// Gives the replica, which has nothing to be sealed, a new identity: what waits in the outbox is written by the new one, under
    /// new numbers, each greater than any that the file has used.
    ///
    /// The original may have sent some of it already; under the new identity it is sent as new
    /// writes. That is harmless: the readings of the clock stay, so a register that was shared
    /// meets its own value, and loses to whatever was newer. A row that somebody has deleted
    /// meanwhile comes back, as after any concurrent insert; deletes tell of both identities, so
    /// that they reach what the original shared. Only what was added to a counter, and sent by the
    /// original after it was copied, counts twice: nobody can tell the two additions apart.
    pub(crate) fn become_another(&mut self, id: ReplicaId) -> Result<(), ReplicaError> {
        let waiting = outbox::all_after(self.tx, Seq(0))?;
        let unshared: HashSet<Stamp> = waiting.iter().map(|waits| waits.stamp).collect();
        let mut rows: BTreeSet<(TableId, Vec<u8>)> = BTreeSet::new();
        meta::write(self.tx, "first_seq", self.first_unused())?;
        let mut numbers = Vec::with_capacity(waiting.len());
        self.replica = id;
        meta::write(self.tx, "replica", id.0)?;
        for mut transaction in waiting {
            let seq = self.next_seq();
            numbers.extend(transaction.numbers().map(|number| (number, seq)));
            outbox::remove(self.tx, transaction.seq)?;
            self.numbers.settled = self.numbers.settled.saturating_add(1);
            transaction.seq = seq;
            transaction.replaces = 0;
            transaction.stamp.replica = id;
            for delta in &mut transaction.deltas {
                delta.state = state_by(&delta.state, &unshared, id);
                rows.insert((delta.table, pack(&delta.key)));
            }
            outbox::rewrite(self.tx, &transaction)?;
        }
        for (table, packed) in rows {
            let Some(table) = self.table(table) else {
                continue;
            };
            let Some(held) = table.held(self.tx, &packed)? else {
                continue;
            };
            let clock = clock_by(&held.clock, &unshared, id);
            table.put_held(self.tx, &packed, &clock, held.shapes)?;
        }
        self.numbers.outbox_rewritten();
        self.events.push(Event::NewIdentity { id, numbers });
        Ok(())
    }
}

/// The state with the unshared stamps those of the replica `id`.
pub(crate) fn state_by(state: &RowState, unshared: &HashSet<Stamp>, id: ReplicaId) -> RowState {
    let clock = clock_by(state.clock(), unshared, id);
    let mut out = RowState::of_existence(clock.existence.clone());
    for (column, other) in clock.columns() {
        out.set_column(*column, other.clone());
    }
    for (column, stamp, value) in state.cells() {
        out.set(column, stamp_by(stamp, unshared, id), value.clone());
    }
    out
}

fn clock_by(clock: &RowClock, unshared: &HashSet<Stamp>, id: ReplicaId) -> RowClock {
    let registers = clock.registers().iter();
    let mut out: RowClock = registers
        .map(|(column, stamp)| (*column, stamp_by(*stamp, unshared, id)))
        .collect();
    let existence_by = |existence: &Existence| existence_by(existence, unshared, id);
    for (column, other) in clock.columns() {
        let other = other.restamped(|stamp| stamp_by(stamp, unshared, id), existence_by);
        out.set_column(*column, other);
    }
    out.existence = existence_by(&clock.existence);
    out
}

fn existence_by(existence: &Existence, unshared: &HashSet<Stamp>, id: ReplicaId) -> Existence {
    let mut out = Existence::new();
    for entry in existence.entries() {
        let stamp = stamp_by(entry.stamp, unshared, id);
        out.join(Entry { stamp, ..*entry });
        if entry.life == Life::Removed {
            out.join(*entry);
        }
    }
    out
}

fn stamp_by(stamp: Stamp, unshared: &HashSet<Stamp>, id: ReplicaId) -> Stamp {
    if unshared.contains(&stamp) {
        Stamp::new(stamp.hlc, id)
    } else {
        stamp
    }
}
