//! Snapshots being read from the store: for a replica, for a shape that is to become current, or for
//! both at once.

use std::collections::{BTreeMap, VecDeque};

use anabranch_crdt::Delta;
use anabranch_protocol::{Position, ServerFrame, SubscriptionId};
use anabranch_store::{SnapshotQuery, Visibility};

use super::{
    Action, Hub, SessionId, ShapeId, Ticket,
    session::{Feed, SnapshotFeed, Stage},
};
use crate::limits::SNAPSHOT_CHUNKS_MAX;

/// What a snapshot is read for.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) shape: ShapeId,
    pub(super) session: SessionId,
    pub(super) subscription: SubscriptionId,
    from: Position,
    visibility: Option<Visibility>,
}

/// The snapshots being read.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    readings: BTreeMap<Ticket, Reading>,
    next: u64,
}

impl Tickets {
    fn issue(&mut self, reading: Reading) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.readings.insert(ticket, reading);
        ticket
    }

    pub(super) fn forget(&mut self, ticket: Ticket) {
        self.readings.remove(&ticket);
    }
}

impl Hub {
    /// Starts a snapshot for a subscription; it also loads the shape if nothing else does.
    pub(super) fn start_snapshot(
        &mut self,
        session: SessionId,
        subscription: SubscriptionId,
        shape: ShapeId,
    ) -> Option<Feed> {
        let reading = Reading {
            shape,
            session,
            subscription,
            from: self.position,
            visibility: None,
        };
        let ticket = self.tickets.issue(reading);
        let served = self.shapes.get_mut(shape)?;
        if !served.is_current() && served.loading.is_none() {
            served.load_with(ticket);
        }
        let query = SnapshotQuery {
            table: served.shape.table,
            filter: served.shape.filter.clone(),
            columns: served.shape.columns.clone(),
        };
        self.actions.push_back(Action::Snapshot { ticket, query });
        let snapshot = SnapshotFeed {
            ticket,
            from: self.position,
            visibility: None,
            rows_estimate: 0,
            chunks: VecDeque::new(),
            complete: false,
        };
        Some(Feed {
            shape,
            stage: Stage::Snapshot(snapshot),
        })
    }

    /// A snapshot has been taken; its rows can be read.
    pub fn snapshot_started(&mut self, ticket: Ticket, visibility: Visibility, estimate: u64) {
        let Some(reading) = self.tickets.readings.get_mut(&ticket) else {
            return;
        };
        let from = self.log.joins_snapshot_at(reading.from, &visibility);
        reading.from = from;
        reading.visibility = Some(visibility.clone());
        let session = self.sessions.get_mut(&reading.session);
        if let Some(feed) = session.and_then(|session| session.snapshot_mut(ticket)) {
            feed.from = from;
            feed.visibility = Some(visibility);
            feed.rows_estimate = estimate;
        }
        self.actions.push_back(Action::ReadMore(ticket));
    }

    /// Rows of a snapshot have been read.
    pub fn snapshot_rows(&mut self, ticket: Ticket, rows: Vec<Delta>) {
        let Some(reading) = self.tickets.readings.get(&ticket) else {
            return;
        };
        if let Some(served) = self.shapes.get_mut(reading.shape)
            && served.loading == Some(ticket)
        {
            served.load(&rows);
        }
        let session = self.sessions.get_mut(&reading.session);
        let mut room = true;
        if let Some(feed) = session.and_then(|session| session.snapshot_mut(ticket)) {
            feed.chunks.push_back(rows);
            room = feed.chunks.len() < SNAPSHOT_CHUNKS_MAX;
            self.ready.insert(reading.session);
        }
        if room {
            self.actions.push_back(Action::ReadMore(ticket));
        }
    }

    /// A snapshot has been read to its end.
    pub fn snapshot_ended(&mut self, ticket: Ticket) {
        let Some(reading) = self.tickets.readings.remove(&ticket) else {
            return;
        };
        let Some(visibility) = reading.visibility else {
            return;
        };
        if let Some(served) = self.shapes.get_mut(reading.shape)
            && served.loading == Some(ticket)
        {
            served.loaded(&self.schema, &self.log, reading.from, &visibility);
            // Others may have waited for the shape to become current.
            self.ready.extend(self.sessions.keys());
        }
        let session = self.sessions.get_mut(&reading.session);
        if let Some(feed) = session.and_then(|session| session.snapshot_mut(ticket)) {
            feed.complete = true;
            self.ready.insert(reading.session);
        }
    }

    /// A snapshot broke off, through no fault of the replica's: it is read again from the start.
    pub fn snapshot_failed(&mut self, ticket: Ticket) {
        let Some(reading) = self.tickets.readings.remove(&ticket) else {
            return;
        };
        if let Some(served) = self.shapes.get_mut(reading.shape)
            && served.loading == Some(ticket)
        {
            served.loading = None;
        }
        let session = self.sessions.get_mut(&reading.session);
        let wanted = session.is_some_and(|session| session.snapshot_mut(ticket).is_some());
        if wanted {
            self.restart_snapshot(reading.session, reading.subscription, reading.shape);
        } else {
            self.reload_if_wanted(reading.shape);
        }
    }

    /// Replaces whatever stage a subscription is in by a new snapshot.
    pub(super) fn restart_snapshot(
        &mut self,
        id: SessionId,
        subscription: SubscriptionId,
        shape: ShapeId,
    ) {
        let feed = self.start_snapshot(id, subscription, shape);
        if let (Some(session), Some(feed)) = (self.sessions.get_mut(&id), feed) {
            session.feeds.insert(subscription, feed);
            session
                .answers
                .push_back(ServerFrame::SnapshotReset(subscription));
            self.ready.insert(id);
        }
    }

    /// Lets go of a subscription. A shape that loses its loader is loaded for whoever still waits.
    pub(super) fn release(&mut self, feed: Feed) {
        let now = self.now;
        let Some(served) = self.shapes.get_mut(feed.shape) else {
            return;
        };
        served.subscribers = served.subscribers.saturating_sub(1);
        served.idle_since = now;
        if let Stage::Snapshot(SnapshotFeed { ticket, .. }) = feed.stage {
            let was_loading = served.loading == Some(ticket);
            if was_loading {
                served.loading = None;
            }
            self.tickets.forget(ticket);
            self.actions.push_back(Action::CancelSnapshot(ticket));
            if was_loading {
                self.reload_if_wanted(feed.shape);
            }
        }
    }

    /// Starts some waiting subscription of a shape over, so that it loads the shape.
    fn reload_if_wanted(&mut self, shape: ShapeId) {
        let waiting = self.sessions.iter().find_map(|(id, session)| {
            let feed = session.feeds.iter().find(|(_, feed)| feed.shape == shape);
            feed.map(|(subscription, _)| (*id, *subscription))
        });
        match waiting {
            Some((id, subscription)) => {
                let session = self.sessions.get_mut(&id);
                let old = session.and_then(|session| session.feeds.remove(&subscription));
                if let Some(Feed {
                    stage: Stage::Snapshot(old),
                    ..
                }) = old
                {
                    self.tickets.forget(old.ticket);
                    self.actions.push_back(Action::CancelSnapshot(old.ticket));
                }
                self.restart_snapshot(id, subscription, shape);
            }
            None => self.shapes.drop_shape(shape),
        }
    }
}
