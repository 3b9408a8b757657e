//! Snapshots being read from the store. A shape's members are read first, as fast as the store gives
//! them, so that no replica holds up another; then each replica's rows, as fast as it takes them.
//! Whatever the members' snapshot saw, the later ones see too.

use std::collections::{BTreeMap, VecDeque};

use anabranch_crdt::{ColumnId, Delta};
use anabranch_protocol::{ServerFrame, SubscriptionId};
use anabranch_store::{SnapshotQuery, Visibility};

use super::{
    Action, Hub, SessionId, ShapeId, Ticket,
    session::{Feed, SnapshotFeed, Stage},
    shapes::Members,
};
use crate::limits::SNAPSHOT_CHUNKS_MAX;

/// What a snapshot is read for.
#[derive(Clone, Copy, Debug)]
enum Reading {
    /// To learn which rows are in a shape.
    Members(ShapeId),
    /// For a replica.
    Rows(SessionId),
}

/// The snapshots being read.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    readings: BTreeMap<Ticket, Reading>,
    next: u64,
}

impl Hub {
    /// A snapshot has been taken; its rows can be read.
    pub fn snapshot_started(&mut self, ticket: Ticket, visibility: Visibility, estimate: u64) {
        let told = self.position;
        match self.tickets.readings.get(&ticket) {
            Some(Reading::Members(shape)) => {
                let shape = *shape;
                let Some(served) = self.shapes.get_mut(shape) else {
                    return;
                };
                if let Members::Asked { at, .. } = served.members {
                    let from = self.log.joins_snapshot_at(at, told, &visibility);
                    served.members = Members::Loading {
                        ticket,
                        from,
                        visibility,
                    };
                }
                for (session, subscription) in served.subscribers.clone() {
                    self.start_if_waiting(session, subscription);
                }
            }
            Some(Reading::Rows(session)) => {
                let session = self.sessions.get_mut(session);
                if let Some(feed) = session.and_then(|session| session.snapshot_mut(ticket)) {
                    feed.from = self.log.joins_snapshot_at(feed.from, told, &visibility);
                    feed.visibility = Some(visibility);
                    feed.rows_estimate = estimate;
                }
            }
            None => return,
        }
        self.actions.push_back(Action::ReadMore(ticket));
    }

    /// Rows of a snapshot have been read.
    pub fn snapshot_rows(&mut self, ticket: Ticket, rows: Vec<Delta>) {
        let mut room = true;
        match self.tickets.readings.get(&ticket) {
            Some(Reading::Members(shape)) => {
                if let Some(served) = self.shapes.get_mut(*shape) {
                    served.load(rows);
                }
            }
            Some(Reading::Rows(id)) => {
                let Some(session) = self.sessions.get_mut(id) else {
                    return;
                };
                if !session.keeps_snapshot_waiting() {
                    session.took_at = self.now;
                }
                if let Some(feed) = session.snapshot_mut(ticket) {
                    feed.chunks.push_back(rows);
                    room = feed.chunks.len() < SNAPSHOT_CHUNKS_MAX;
                }
                self.ready.insert(*id);
            }
            None => return,
        }
        if room {
            self.actions.push_back(Action::ReadMore(ticket));
        }
    }

    /// A snapshot has been read to its end.
    pub fn snapshot_ended(&mut self, ticket: Ticket) {
        match self.tickets.readings.remove(&ticket) {
            Some(Reading::Members(shape)) => {
                let Some(served) = self.shapes.get_mut(shape) else {
                    return;
                };
                if served.loaded(&self.schema, &self.log) {
                    let waiting = served.subscribers.iter();
                    self.ready.extend(waiting.map(|(session, _)| *session));
                } else {
                    self.reload(shape);
                }
            }
            Some(Reading::Rows(id)) => {
                let session = self.sessions.get_mut(&id);
                if let Some(feed) = session.and_then(|session| session.snapshot_mut(ticket)) {
                    feed.complete = true;
                    let fence = feed.visibility.as_ref().map(|visibility| visibility.fence);
                    self.wake_at(fence.unwrap_or_default(), id);
                }
            }
            None => {}
        }
    }

    /// A snapshot broke off, through no fault of the replica's: it is read again from the start.
    pub fn snapshot_failed(&mut self, ticket: Ticket) {
        match self.tickets.readings.remove(&ticket) {
            Some(Reading::Members(shape)) => self.reload(shape),
            Some(Reading::Rows(id)) => {
                let session = self.sessions.get(&id);
                let failed = session.and_then(|session| {
                    let mut feeds = session.feeds.iter();
                    feeds.find(|(_, feed)| feed.reads_with(ticket))
                });
                if let Some((subscription, _)) = failed {
                    self.restart_snapshot(id, *subscription);
                }
            }
            None => {}
        }
    }

    /// Begins a snapshot for a subscription, once the shape's members are being read.
    pub(super) fn begin_snapshot(&mut self, id: SessionId, shape: ShapeId) -> Stage {
        let Some(served) = self.shapes.get_mut(shape) else {
            return Stage::Waiting;
        };
        match served.members {
            Members::Unknown => {
                let ticket = self.read(shape, Reading::Members(shape));
                if let (Some(served), Some(ticket)) = (self.shapes.get_mut(shape), ticket) {
                    let at = self.position;
                    served.members = Members::Asked { ticket, at };
                }
                Stage::Waiting
            }
            Members::Asked { .. } => Stage::Waiting,
            Members::Loading { .. } | Members::Known { .. } => {
                let ticket = self.read(shape, Reading::Rows(id));
                ticket.map_or(Stage::Waiting, |ticket| {
                    Stage::Snapshot(SnapshotFeed {
                        ticket,
                        from: self.position,
                        visibility: None,
                        rows_estimate: 0,
                        chunks: VecDeque::new(),
                        complete: false,
                    })
                })
            }
        }
    }

    fn read(&mut self, shape: ShapeId, reading: Reading) -> Option<Ticket> {
        let shape = &self.shapes.get(shape)?.shape;
        let columns: &[ColumnId] = match reading {
            Reading::Members(_) => &[],
            Reading::Rows(_) => &shape.columns,
        };
        let query = SnapshotQuery {
            table: shape.table,
            filter: shape.filter.clone(),
            columns: columns.to_vec(),
        };
        let ticket = Ticket(self.tickets.next);
        self.tickets.next += 1;
        self.tickets.readings.insert(ticket, reading);
        self.actions.push_back(Action::Snapshot { ticket, query });
        Some(ticket)
    }

    fn start_if_waiting(&mut self, id: SessionId, subscription: SubscriptionId) {
        let feed = self.feed(id, subscription);
        if let Some(shape) = feed
            .filter(|feed| matches!(feed.stage, Stage::Waiting))
            .map(|feed| feed.shape)
        {
            let stage = self.begin_snapshot(id, shape);
            if let Some(feed) = self.feed(id, subscription) {
                feed.stage = stage;
            }
        }
    }

    fn feed(&mut self, id: SessionId, subscription: SubscriptionId) -> Option<&mut Feed> {
        self.sessions.get_mut(&id)?.feeds.get_mut(&subscription)
    }

    /// Replaces whatever stage a subscription is in by a new snapshot.
    pub(super) fn restart_snapshot(&mut self, id: SessionId, subscription: SubscriptionId) {
        let Some(feed) = self.feed(id, subscription) else {
            return;
        };
        let shape = feed.shape;
        let old = std::mem::replace(&mut feed.stage, Stage::Waiting);
        self.cancel(&old);
        let stage = self.begin_snapshot(id, shape);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.feeds.insert(subscription, Feed { shape, stage });
            session.announce = true;
            let reset = ServerFrame::SnapshotReset(subscription);
            session.answers.push_back(reset);
            self.ready.insert(id);
        }
    }

    /// Lets go of a subscription.
    pub(super) fn release(&mut self, id: SessionId, subscription: SubscriptionId, feed: &Feed) {
        self.cancel(&feed.stage);
        if let Some(served) = self.shapes.get_mut(feed.shape) {
            served.subscribers.remove(&(id, subscription));
            served.idle_since = self.now;
        }
    }

    /// Stops serving a shape that nobody subscribes to.
    pub(super) fn drop_shape(&mut self, shape: ShapeId) {
        if let Some(ticket) = self.shapes.remove(shape).and_then(|shape| shape.ticket()) {
            self.cancel_ticket(ticket);
        }
    }

    /// Reads a shape's members again. Snapshots that began under the old ones are void: they need not
    /// have seen what the new ones have.
    fn reload(&mut self, shape: ShapeId) {
        let Some(served) = self.shapes.get_mut(shape) else {
            return;
        };
        served.forget();
        let subscribers = served.subscribers.clone();
        if subscribers.is_empty() {
            self.drop_shape(shape);
        }
        for (session, subscription) in subscribers {
            self.restart_snapshot(session, subscription);
        }
    }

    fn cancel(&mut self, stage: &Stage) {
        if let Stage::Snapshot(snapshot) = stage {
            self.cancel_ticket(snapshot.ticket);
        }
    }

    fn cancel_ticket(&mut self, ticket: Ticket) {
        // One that has been read to its end is not read any more.
        if self.tickets.readings.remove(&ticket).is_some() {
            self.actions.push_back(Action::CancelSnapshot(ticket));
        }
    }
}
