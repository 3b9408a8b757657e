//! Whether a row exists: one element of an observed-remove set, without a tombstone per removal.
//!
//! After the optimised OR-set of Bieniusa et al. (2012): one entry per replica instead of one per
//! addition. A replica's own additions follow one another, so its newest one stands for all.

use alloc::vec::Vec;

use crate::{Hlc, Stamp};

/// Whether a replica's newest addition of the row still stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Life {
    /// It stands.
    Live,
    /// A delete has observed and removed it. At an equal clock reading removed wins.
    Removed,
}

/// The newest addition of the row by one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Who added, and when.
    pub stamp: Stamp,
    /// Whether the addition still stands.
    pub life: Life,
}

/// A row's existence: the newest addition of each replica that ever added it, at most one entry a
/// replica, in replica order. The row is present while any entry is live.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Existence {
    entries: Vec<Entry>,
}

impl Existence {
    /// Nobody has added the row.
    pub const fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    /// Whether the row is in the table.
    pub fn is_present(&self) -> bool {
        self.entries.iter().any(|entry| entry.life == Life::Live)
    }

    /// Whether nothing is known of the row's existence.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries, in replica order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Adds the row at `stamp`.
    pub fn add(&mut self, stamp: Stamp) {
        self.join(Entry {
            stamp,
            life: Life::Live,
        });
    }

    /// What a delete here and now says: every addition observed so far is removed. An addition
    /// that this replica has not seen survives it.
    pub fn removal(&self) -> Self {
        let removed = |entry: &Entry| Entry {
            life: Life::Removed,
            ..*entry
        };
        Self {
            entries: self.entries.iter().map(removed).collect(),
        }
    }

    /// Joins one entry in; whether that changed anything.
    pub fn join(&mut self, entry: Entry) -> bool {
        let last = self.entries.last();
        if last.is_none_or(|last| last.stamp.replica < entry.stamp.replica) {
            self.entries.push(entry);
            return true;
        }
        match self
            .entries
            .binary_search_by_key(&entry.stamp.replica, |held| held.stamp.replica)
        {
            Err(position) => {
                self.entries.insert(position, entry);
                true
            }
            Ok(position) => match self.entries.get_mut(position) {
                Some(held) if (held.stamp.hlc, held.life) < (entry.stamp.hlc, entry.life) => {
                    *held = entry;
                    true
                }
                _ => false,
            },
        }
    }

    /// Joins another existence in; whether that changed anything.
    pub fn merge(&mut self, other: &Self) -> bool {
        let mut changed = false;
        for entry in &other.entries {
            changed |= self.join(*entry);
        }
        changed
    }

    /// This existence without the entries that `refused` put there.
    pub fn without(&self, refused: &Self) -> Self {
        let entries = self.entries.iter();
        let kept = entries.filter(|entry| !refused.entries.contains(entry));
        kept.copied().collect()
    }

    /// This existence without the entries whose stamps are `gone`.
    pub fn without_stamps(&self, gone: impl Fn(Stamp) -> bool) -> Self {
        let kept = self.entries.iter().filter(|entry| !gone(entry.stamp));
        kept.copied().collect()
    }

    /// The newest clock reading in it.
    pub fn newest(&self) -> Option<Hlc> {
        self.entries.iter().map(|entry| entry.stamp.hlc).max()
    }
}

impl FromIterator<Entry> for Existence {
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        let mut existence = Self::new();
        for entry in entries {
            existence.join(entry);
        }
        existence
    }
}
