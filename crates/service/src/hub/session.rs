//! One replica's session as the hub sees it: where it stands in the log and in each of its shapes.

use std::collections::{BTreeMap, VecDeque};

use anabranch_crdt::Delta;
use anabranch_protocol::{Position, Seq, ServerFrame, SubscriptionId, session::ServerSession};
use anabranch_store::Visibility;

use super::{ShapeId, Ticket};

/// A session.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) protocol: ServerSession,
    /// Answers that cost no credit; at most a few for each frame of the replica.
    pub(super) answers: VecDeque<ServerFrame>,
    /// The live feeds have been told of every transaction up to here.
    pub(super) position: Position,
    /// Transactions passed over, since they did not concern it, after the last frame.
    pub(super) skipped: usize,
    pub(super) feeds: BTreeMap<SubscriptionId, Feed>,
    /// Resent transactions, to be acknowledged once the log has been told up to a position.
    pub(super) held: VecDeque<(Position, Seq)>,
    /// Whether the replica waits to hear that it is up to date.
    pub(super) announce: bool,
    /// Whether to close once the answers are sent.
    pub(super) closing: bool,
    /// The version of the schema the replica holds.
    pub(super) schema_version: u64,
}

/// A subscription being served.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) shape: ShapeId,
    pub(super) stage: Stage,
}

/// How far a subscription has come.
#[derive(Debug)]
pub(super) enum Stage {
    /// Its snapshot is being read and sent.
    Snapshot(SnapshotFeed),
    /// It has been told everything up to `position`, on its own, and joins the session's live feeds
    /// when that is where they stand.
    Catching {
        position: Position,
        /// The snapshot it began with, while the log may still tell what that saw.
        visibility: Option<Visibility>,
    },
    /// It is told each transaction together with the other live feeds.
    Live { visibility: Option<Visibility> },
}

/// A snapshot on its way to a replica.
#[derive(Debug)]
pub(super) struct SnapshotFeed {
    pub(super) ticket: Ticket,
    pub(super) from: Position,
    pub(super) visibility: Option<Visibility>,
    pub(super) rows_estimate: u64,
    pub(super) chunks: VecDeque<Vec<Delta>>,
    pub(super) complete: bool,
}

impl Session {
    /// The subscription whose snapshot is read with `ticket`.
    pub(super) fn snapshot_mut(&mut self, ticket: Ticket) -> Option<&mut SnapshotFeed> {
        self.feeds
            .values_mut()
            .find_map(|feed| match &mut feed.stage {
                Stage::Snapshot(snapshot) if snapshot.ticket == ticket => Some(snapshot),
                _ => None,
            })
    }
}
