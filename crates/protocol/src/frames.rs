//! What replica and service say to each other. The bytes are the codec's concern.

use anabranch_crdt::{Delta, Hlc, Millis, ReplicaId, RowKey, RowState, Stamp, TableId, Value};
use anabranch_shape::schema::Schema;

use crate::{Cursor, Seq, SubscriptionId, SubscriptionSet};

/// What a replica says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientFrame {
    /// The first frame of a session.
    Hello {
        /// The oldest and newest protocol version the replica speaks.
        versions: (u16, u16),
        /// Who it is.
        replica: ReplicaId,
        /// Proof of who it acts for; empty where the service asks for none.
        token: String,
        /// The version of the schema it holds, 0 for none.
        schema_version: u64,
        /// The first number it has no outcome for, be it one that a later transaction stands for: the
        /// service may forget those before.
        first_pending: Seq,
        /// How many frames the service may send before more credit is granted.
        credit_frames: u32,
    },
    /// Asks for shapes, all at once so that those at one cursor resume together.
    Subscribe(Vec<Subscription>),
    /// Lets go of a shape.
    Unsubscribe(SubscriptionId),
    /// Local transactions, in their order.
    Push(Vec<LocalTransaction>),
    /// The service may send this many more frames.
    Credit(u32),
}

/// A replica's subscription to a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The replica's number for it.
    pub id: SubscriptionId,
    /// The shape.
    pub shape: ShapeRequest,
    /// Where the replica stands in it; `None` asks for a snapshot.
    pub cursor: Option<Cursor>,
}

/// A shape, as a replica asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ShapeRequest {
    /// One that the service's configuration defines.
    Named {
        /// Its name there.
        name: String,
        /// The values of its parameters, by name.
        parameters: Vec<(String, Value)>,
    },
    /// One spelled out, where the service allows that.
    Spelled {
        /// The table, by name or `namespace.name`.
        table: String,
        /// The rows: a condition in SQL, every row where there is none.
        filter: Option<String>,
        /// The columns, every one where empty; the key comes along in any case.
        columns: Vec<String>,
        /// The values of its parameters, by name.
        parameters: Vec<(String, Value)>,
    },
}

/// A transaction made and stamped by a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalTransaction {
    /// Its number.
    pub seq: Seq,
    /// Its stamp: of every register it writes and every row it adds.
    pub stamp: Stamp,
    /// What it did, at most one delta a row, ordered by table and key.
    pub deltas: Vec<Delta>,
    /// Which of the deltas insert their row, and so hold the whole of it. The others were written to
    /// a row that the replica had: a store that has it no more, not even as a tombstone, cannot take
    /// them.
    pub inserts: Inserts,
    /// How many transactions before it, whose numbers come right before its own, it stands for: nobody
    /// had seen them when they were squashed into this one.
    pub replaces: u64,
}

impl LocalTransaction {
    /// The first number that it stands for: its own, unless it replaces others.
    pub const fn first(&self) -> Seq {
        Seq(self.seq.0.saturating_sub(self.replaces))
    }

    /// The numbers that it stands for, its own last.
    pub fn numbers(&self) -> impl Iterator<Item = Seq> + use<> {
        (self.first().0..=self.seq.0).map(Seq)
    }
}

/// Which deltas of a transaction insert their row, by their place: one bit each, the first deltas in
/// the low bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inserts(Vec<u8>);

impl Inserts {
    /// That all of `count` deltas do.
    pub fn all(count: usize) -> Self {
        (0..count).map(|_| true).collect()
    }

    /// Whether the delta at this place inserts its row.
    pub fn contains(&self, place: usize) -> bool {
        self.0
            .get(place >> 3)
            .is_some_and(|bits| bits & (1 << (place & 7)) != 0)
    }

    /// The bits, as the codec writes them.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Reads the bits of `count` deltas; `None` unless they are just as many bytes as that takes,
    /// without a bit beyond.
    pub(crate) fn from_bytes(bytes: Vec<u8>, count: usize) -> Option<Self> {
        let stray = match (count & 7, bytes.last()) {
            (0, _) | (_, None) => 0,
            (used, Some(last)) => last >> used,
        };
        (bytes.len() == count.div_ceil(8) && stray == 0).then_some(Self(bytes))
    }
}

impl FromIterator<bool> for Inserts {
    fn from_iter<T: IntoIterator<Item = bool>>(inserts: T) -> Self {
        let mut bits = Vec::new();
        for (place, inserts) in inserts.into_iter().enumerate() {
            if place & 7 == 0 {
                bits.push(0);
            }
            if let Some(last) = bits.last_mut().filter(|_| inserts) {
                *last |= 1 << (place & 7);
            }
        }
        Self(bits)
    }
}

/// What the service says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFrame {
    /// The answer to a hello.
    Welcome {
        /// The protocol version of the session.
        version: u16,
        /// The service's clock, to correct the replica's by.
        server_time: Millis,
        /// How far ahead of that clock stamps may be.
        drift_max_ms: u64,
        /// The replica's last transaction that the store has an outcome for.
        merged_through: Seq,
        /// The store remembers no row that was removed before this. What the replica stamped before
        /// it and never shared must be stamped anew, from here on.
        horizon: Hlc,
        /// How many transactions may be pushed before more credit is granted.
        credit_transactions: u32,
        /// The schema, where it differs from the one the replica named.
        schema: Option<Schema>,
    },
    /// The schema has changed.
    Schema(Schema),
    /// Rows of a shape's snapshot. They show only with the last: see `SnapshotEnd`.
    Snapshot {
        /// The subscription.
        id: SubscriptionId,
        /// Complete row states, of the columns of the shape.
        rows: Vec<Delta>,
        /// About how many rows the whole snapshot has.
        rows_estimate: u64,
    },
    /// The snapshot is complete: all its rows show now, and rows that the replica held for the shape
    /// but that did not come again leave it.
    SnapshotEnd {
        /// The subscription.
        id: SubscriptionId,
        /// Where the replica now stands in the shape.
        cursor: Cursor,
    },
    /// A snapshot under way is void and starts again.
    SnapshotReset(SubscriptionId),
    /// A transaction of the store, as far as it concerns the replica's shapes.
    Transaction {
        /// Where the replica now stands in the shapes of `live`.
        cursor: Cursor,
        /// The subscriptions that this frame speaks for.
        live: SubscriptionSet,
        /// The replica's own transactions that are part of it, and so accepted.
        accepted: Vec<Seq>,
        /// What it did, at most one change a row.
        changes: Vec<Change>,
        /// Whether the service knows of more to tell already; if not, the replica is up to date.
        more: bool,
    },
    /// Own transactions were merged already, as the answer to a resent one.
    Accepted(Seq),
    /// A local transaction was refused and is withdrawn.
    Rejected {
        /// The transaction.
        seq: Seq,
        /// Why, for programs.
        code: RejectCode,
        /// Why, for people.
        reason: String,
        /// What the store holds of the refused rows, in the refused columns; a row the store has never
        /// heard of comes with an empty state.
        rows: Vec<Delta>,
    },
    /// The subscription cannot be served; the session goes on.
    SubscriptionRefused {
        /// The subscription.
        id: SubscriptionId,
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people, and what to do.
        message: String,
    },
    /// Nothing more comes for a subscription that the replica let go of; its number is free again.
    Unsubscribed(SubscriptionId),
    /// The replica may push this many more transactions.
    Credit(u32),
    /// The session cannot go on; the service closes it.
    Refused {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, for people, and what to do.
        message: String,
    },
}

/// What a transaction did to one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The table.
    pub table: TableId,
    /// The row.
    pub key: RowKey,
    /// Which of the frame's live subscriptions the row is in now. A row in none, and with no local
    /// write pending, leaves the replica.
    pub shapes: SubscriptionSet,
    /// What is to be merged; empty where the row merely left.
    pub state: RowState,
}

/// Why a transaction was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectCode {
    /// A constraint of the store: unique, check, not-null, foreign key, exclusion.
    Constraint,
    /// A value that the column's type does not take.
    InvalidValue,
    /// Not allowed.
    Forbidden,
    /// Too old: the store has forgotten the deletes it would have to know.
    Stale,
    /// A table or column that the store does not have.
    UnknownSchema,
    /// Larger than the limits allow.
    TooLarge,
    /// The number was used before with other content: the replica was copied or damaged.
    Equivocation,
    /// The store refused for a reason of its own, such as a trigger.
    Store,
}

/// Why a session or a subscription was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusalCode {
    /// No protocol version in common.
    Version,
    /// Not authenticated, or not as the one the replica belongs to.
    Unauthenticated,
    /// A frame that makes no sense at this point, or no sense at all.
    Protocol,
    /// A shape that does not parse, or names what is not there.
    InvalidShape,
    /// More than the limits allow.
    TooMuch,
    /// The service cannot serve now; worth trying again.
    Unavailable,
    /// A pushed stamp is too far ahead of the service's clock. Connecting again tells the replica the
    /// time, and it stamps anew what it has never shared.
    ClockAhead,
    /// The replica used one number for two transactions; it must not be trusted further.
    Quarantined,
}
