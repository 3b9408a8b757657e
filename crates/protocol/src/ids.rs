//! Numbers with a meaning that both ends of a session share.

use crate::limits::SUBSCRIPTIONS_MAX;

/// A replica's own number for a local transaction: 1, 2, 3, ... without a gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

impl Seq {
    /// The number after this one.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A position in the store's log of transactions: in Postgres the LSN at which a commit ends, in
/// the embedded store a running number. Transactions come in the order of their positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// One unbroken stretch of a service's log. Positions of different epochs do not compare: a cursor
/// of another epoch is answered with a new snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epoch(pub u64);

/// Where a replica stands in a shape: it holds the effect of every transaction up to `position`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The stretch of log that the position lies in.
    pub epoch: Epoch,
    /// The last transaction accounted for.
    pub position: Position,
}

/// A replica's own number for one of its subscriptions, below [`SUBSCRIPTIONS_MAX`]; free for
/// another shape once unsubscribed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(u8);

impl SubscriptionId {
    /// The subscription numbered `number`, if that is below [`SUBSCRIPTIONS_MAX`].
    pub const fn new(number: u8) -> Option<Self> {
        if number < SUBSCRIPTIONS_MAX {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number.
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// A set of a replica's subscriptions, as bits: which of its shapes a row is in. Kept beside each
/// row, so that a row leaves the replica when the last shape lets go of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SubscriptionSet(pub u64);

impl SubscriptionSet {
    /// No subscription.
    pub const EMPTY: Self = Self(0);

    /// Just one.
    pub const fn only(id: SubscriptionId) -> Self {
        Self(1 << id.0)
    }

    /// This set and `id`.
    #[must_use]
    pub const fn with(self, id: SubscriptionId) -> Self {
        Self(self.0 | (1 << id.0))
    }

    /// This set without `id`.
    #[must_use]
    pub const fn without(self, id: SubscriptionId) -> Self {
        Self(self.0 & !(1 << id.0))
    }

    /// Whether `id` is in it.
    pub const fn contains(self, id: SubscriptionId) -> bool {
        self.0 & (1 << id.0) != 0
    }

    /// Whether it is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// This set, with the members that `authority` speaks for replaced by `said`.
    #[must_use]
    pub const fn updated(self, authority: Self, said: Self) -> Self {
        Self((self.0 & !authority.0) | (said.0 & authority.0))
    }

    /// The members, in order.
    pub fn iter(self) -> impl Iterator<Item = SubscriptionId> {
        (0..SUBSCRIPTIONS_MAX)
            .map(SubscriptionId)
            .filter(move |id| self.contains(*id))
    }
}
