//! What columns do when two write at once: registers keep the newest value, counters add up, sets
//! unite. The state of a column that is no register.

use alloc::vec::Vec;

use crate::{Counter, ElementSet, Existence, Stamp, Value};

/// How concurrent writes of a column merge. Kinds for text and documents have their numbers reserved
/// ([`MergeKind::number`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MergeKind {
    /// The last writer wins.
    #[default]
    Register,
    /// What everybody added, added up.
    Counter,
    /// A set of JSON values, shown as an array: additions and removals of elements merge.
    Set,
}

/// In the order of their numbers; 3 is kept for text, 4 for documents.
const KINDS: [(MergeKind, &str); 3] = [
    (MergeKind::Register, "register"),
    (MergeKind::Counter, "counter"),
    (MergeKind::Set, "set"),
];

impl MergeKind {
    /// The number that stands for it on the wire and on disk.
    pub const fn number(self) -> u8 {
        match self {
            Self::Register => 0,
            Self::Counter => 1,
            Self::Set => 2,
        }
    }

    /// The kind that has this number.
    pub fn numbered(number: u8) -> Option<Self> {
        KINDS.get(usize::from(number)).map(|(kind, _)| *kind)
    }

    /// The word for it in configurations.
    pub fn word(self) -> &'static str {
        let known = KINDS.iter().find(|(kind, _)| *kind == self);
        known.map_or("register", |(_, word)| word)
    }

    /// The kind that a word means.
    pub fn of_word(word: &str) -> Option<Self> {
        let known = KINDS.iter().find(|(_, known)| *known == word);
        known.map(|(kind, _)| *kind)
    }

    /// The delta that says that a transaction stamped `stamp` wrote `value` over `held`; `None` for a
    /// register, and for a value that is none of this kind's, which is then written as a register's
    /// and left to the store to refuse.
    pub fn write(
        self,
        held: Option<&ColumnState>,
        value: &Value,
        stamp: Stamp,
    ) -> Option<ColumnState> {
        match self {
            Self::Register => None,
            Self::Counter => {
                let value = match value {
                    Value::Null => 0,
                    Value::Integer(value) => *value,
                    _ => return None,
                };
                let delta = match held {
                    Some(ColumnState::Counter(held)) => held.write(value, stamp),
                    _ => Counter::new().write(value, stamp),
                };
                Some(ColumnState::Counter(delta))
            }
            Self::Set => {
                let delta = match held {
                    Some(ColumnState::Set(held)) => held.write(value, stamp),
                    _ => ElementSet::new().write(value, stamp),
                };
                Some(ColumnState::Set(delta))
            }
        }
    }
}

/// The state of a column that is no register.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ColumnState {
    /// Of a counter.
    Counter(Counter),
    /// Of a set.
    Set(ElementSet),
}

impl ColumnState {
    /// What kind of column this is the state of.
    pub const fn kind(&self) -> MergeKind {
        match self {
            Self::Counter(_) => MergeKind::Counter,
            Self::Set(_) => MergeKind::Set,
        }
    }

    /// What the column holds.
    pub const fn shown(&self) -> &Value {
        match self {
            Self::Counter(counter) => counter.shown(),
            Self::Set(set) => set.shown(),
        }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.stamps().is_empty()
    }

    /// The stamps in it.
    pub fn stamps(&self) -> Vec<Stamp> {
        match self {
            Self::Counter(counter) => counter.stamps().collect(),
            Self::Set(set) => set.stamps().collect(),
        }
    }

    /// Joins another state in; whether that changed anything. Of two kinds, which only a peer that
    /// breaks the rules makes meet, the later one wins, so that even this ends the same everywhere.
    pub fn merge(&mut self, other: &Self) -> bool {
        match (&mut *self, other) {
            (Self::Counter(held), Self::Counter(other)) => held.merge(other),
            (Self::Set(held), Self::Set(other)) => held.merge(other),
            (held, other) if held.kind() < other.kind() => {
                *self = other.clone();
                true
            }
            _ => false,
        }
    }

    /// This state without what `refused` put there.
    pub fn without(&self, refused: &Self) -> Self {
        match (self, refused) {
            (Self::Counter(held), Self::Counter(refused)) => Self::Counter(held.without(refused)),
            (Self::Set(held), Self::Set(refused)) => Self::Set(held.without(refused)),
            _ => self.clone(),
        }
    }

    /// This state without what was added at stamps that are `gone`.
    pub fn without_stamps(&self, gone: impl Fn(Stamp) -> bool) -> Self {
        match self {
            Self::Counter(counter) => Self::Counter(counter.without_stamps(gone)),
            Self::Set(set) => Self::Set(set.without_stamps(gone)),
        }
    }

    /// The same with other stamps on its increments and other existences for its elements. For
    /// stamping again what was never shared.
    pub fn restamped(
        &self,
        stamp: impl Fn(Stamp) -> Stamp,
        existence: impl Fn(&Existence) -> Existence,
    ) -> Self {
        match self {
            Self::Counter(counter) => Self::Counter(counter.restamped(stamp)),
            Self::Set(set) => Self::Set(set.mapped(existence)),
        }
    }

    /// The delta that does what this one did once more, at another stamp: adds as much, and adds the
    /// same elements; removes those that it removed as far as `held` has them.
    #[must_use]
    pub fn again(&self, held: Option<&Self>, stamp: Stamp) -> Self {
        match (self, held) {
            (Self::Counter(counter), _) => Self::Counter(counter.restamped(|_| stamp)),
            (Self::Set(set), Some(Self::Set(held))) => Self::Set(set.again(held, stamp)),
            (Self::Set(set), _) => Self::Set(set.again(&ElementSet::new(), stamp)),
        }
    }

    /// How many bytes it takes in memory, about: for limits and accounting.
    pub fn size_bytes(&self) -> usize {
        const STAMPED: usize = size_of::<Stamp>() + size_of::<i64>();
        let stamps = self.stamps().len().saturating_mul(STAMPED);
        match self {
            Self::Counter(_) => stamps,
            Self::Set(set) => set.elements().iter().fold(stamps, |sum, element| {
                sum.saturating_add(element.text.len())
            }),
        }
    }
}
