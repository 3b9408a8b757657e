//! One replica's session as the hub sees it: where it stands in the log and in each of its shapes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anabranch_crdt::{Delta, Millis};
use anabranch_protocol::{
    Position, Seq, ServerFrame, SubscriptionId, SubscriptionSet, session::ServerSession,
};
use anabranch_store::Visibility;

use super::{ShapeId, Ticket};

/// A session.
#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) protocol: ServerSession,
    /// Answers that cost no credit; bounded by `ANSWERS_MAX`.
    pub(super) answers: VecDeque<ServerFrame>,
    /// The live feeds have been told of every transaction up to here.
    pub(super) position: Position,
    /// The newest cursor that the replica holds of its live feeds.
    pub(super) told: Position,
    pub(super) feeds: BTreeMap<SubscriptionId, Feed>,
    /// Own transactions that were merged and are still to be acknowledged, and where the log tells of
    /// them. Bounded by the credit for pushes.
    pub(super) owed: BTreeSet<(Position, Seq)>,
    /// Own transactions whose outcome was told after credit was last granted.
    pub(super) answered: usize,
    /// Whether the replica has still to hear that it is up to date.
    pub(super) announce: bool,
    /// Whether to close once the answers are sent.
    pub(super) closing: bool,
    /// The version of the schema the replica holds.
    pub(super) schema_version: u64,
    /// When it last took a part of a snapshot, or last had all there was.
    pub(super) took_at: Millis,
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
    /// The shape's members are about to be read; then its snapshot will be.
    Waiting,
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
    /// Where it was asked for; once it is taken, where it joins the log.
    pub(super) from: Position,
    /// What it saw; nothing until it is taken.
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

    /// The subscriptions.
    pub(super) fn all(&self) -> SubscriptionSet {
        self.feeds
            .keys()
            .fold(SubscriptionSet::EMPTY, |set, id| set.with(*id))
    }

    /// The live subscriptions.
    pub(super) fn live(&self) -> SubscriptionSet {
        let live = self.feeds.iter().filter(|(_, feed)| feed.is_live());
        live.fold(SubscriptionSet::EMPTY, |set, (id, _)| set.with(*id))
    }

    /// Whether the replica has been told, in every shape, what became of it up to `position`.
    pub(super) fn stands_at(&self, position: Position) -> bool {
        let behind = |feed: &Feed| match feed.stage {
            Stage::Waiting | Stage::Snapshot(_) => true,
            Stage::Catching { position: at, .. } => at < position,
            Stage::Live { .. } => false,
        };
        self.position >= position && !self.feeds.values().any(behind)
    }

    /// Acknowledges the own transactions up to the session's position.
    pub(super) fn accept(&mut self) -> Vec<Seq> {
        let mut accepted = Vec::new();
        while let Some((position, seq)) = self.owed.first().copied() {
            if position > self.position {
                break;
            }
            self.owed.pop_first();
            accepted.push(seq);
        }
        self.answered += accepted.len();
        accepted
    }

    /// Grants the replica as much as it was answered.
    pub(super) fn grant(&mut self) -> Option<ServerFrame> {
        match std::mem::take(&mut self.answered) {
            0 => None,
            count => Some(self.protocol.settled(count)),
        }
    }

    /// Whether part of a snapshot waits for the replica to take it.
    pub(super) fn keeps_snapshot_waiting(&self) -> bool {
        self.feeds.values().any(
            |feed| matches!(&feed.stage, Stage::Snapshot(snapshot) if !snapshot.chunks.is_empty()),
        )
    }
}

impl Feed {
    pub(super) const fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Live { .. })
    }

    pub(super) fn reads_with(&self, ticket: Ticket) -> bool {
        matches!(&self.stage, Stage::Snapshot(snapshot) if snapshot.ticket == ticket)
    }
}
