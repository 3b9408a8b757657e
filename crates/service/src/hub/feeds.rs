//! What a session is told next: answers, then snapshots, then the log.

use anabranch_protocol::{
    Cursor, Position, RefusalCode, ServerFrame, Subscription, SubscriptionId, session::Refusal,
};
use anabranch_store::Visibility;

use super::{
    Action, Hub, SessionId, admission,
    log::Log,
    session::{Feed, Stage},
    telling::Telling,
};
use crate::limits::{CREDIT_BATCH_MIN, SHAPES_MAX, SNAPSHOT_CHUNKS_MAX};

impl Hub {
    pub(super) fn subscribe(&mut self, id: SessionId, subscriptions: Vec<Subscription>) {
        let mut resumed = Vec::new();
        for subscription in subscriptions {
            match self.open_feed(id, &subscription) {
                Ok(position) => resumed.extend(position),
                Err(refusal) => self.refuse_subscription(id, subscription.id, refusal),
            }
        }
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.announce = true;
        // Where nothing is live yet, the log is told from where the replica stands, so that shapes at
        // one cursor resume together and transactions across them stay whole.
        if session.live().is_empty() {
            let earliest = resumed.into_iter().min();
            session.position = earliest.map_or(session.position, |at| at.min(session.position));
        }
    }

    fn refuse_subscription(
        &mut self,
        id: SessionId,
        subscription: SubscriptionId,
        refusal: Refusal,
    ) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.protocol.released(subscription);
            session.answers.push_back(ServerFrame::SubscriptionRefused {
                id: subscription,
                code: refusal.code,
                message: refusal.message,
            });
        }
    }

    /// Begins to serve a subscription; where it goes on, if it need not begin with a snapshot.
    fn open_feed(
        &mut self,
        id: SessionId,
        wanted: &Subscription,
    ) -> Result<Option<Position>, Refusal> {
        let definition = admission::define(&self.config, &self.schema, &wanted.shape)?;
        let shape = match self.shapes.find(&definition) {
            Some(shape) => shape,
            None => {
                self.make_room_for_shape()?;
                self.shapes.add(definition, self.now)
            }
        };
        let (epoch, log_start, told) = (self.epoch, self.log.start(), self.position);
        let resumable = |cursor: &Cursor| {
            cursor.epoch == epoch && cursor.position >= log_start && cursor.position <= told
        };
        let cursor = wanted.cursor.filter(resumable);
        let served = self.shapes.get_mut(shape);
        let resumed = served.and_then(|served| {
            served.subscribers.insert((id, wanted.id));
            let position = cursor?.position;
            served.resumes_from(position).then_some(position)
        });
        let stage = match resumed {
            Some(position) => Stage::Catching {
                position,
                visibility: None,
            },
            None => self.begin_snapshot(id, shape),
        };
        if let Some(session) = self.sessions.get_mut(&id) {
            session.feeds.insert(wanted.id, Feed { shape, stage });
        }
        Ok(resumed)
    }

    /// Where no more shapes may be served, the one that nobody has asked for the longest goes.
    fn make_room_for_shape(&mut self) -> Result<(), Refusal> {
        if self.shapes.len() < SHAPES_MAX {
            return Ok(());
        }
        let Some((_, longest)) = self.shapes.idle().min() else {
            let message = "the service serves as many shapes as it may; try again later";
            return Err(Refusal::new(RefusalCode::Unavailable, message));
        };
        self.drop_shape(longest);
        Ok(())
    }

    /// The next frame for a session, if its replica may be sent one. Ask for those that
    /// [`Hub::poll_ready`] names, and again whenever a connection can take more.
    pub fn poll_frame(&mut self, id: SessionId) -> Option<ServerFrame> {
        self.start_over_where_log_is_gone(id);
        let session = self.sessions.get_mut(&id)?;
        if let Some(answer) = session.answers.pop_front() {
            return Some(answer);
        }
        if session.closing || !session.protocol.is_open() {
            return None;
        }
        if session.answered >= CREDIT_BATCH_MIN {
            return session.grant();
        }
        if session.protocol.may_send() {
            let frame = self.snapshot_frame(id).or_else(|| self.log_frame(id));
            if let Some(frame) = frame {
                let session = self.sessions.get_mut(&id)?;
                session.protocol.spend();
                return Some(frame);
            }
        }
        let session = self.sessions.get_mut(&id)?;
        // An own transaction that no frame of the log has acknowledged is so here, but only once the
        // replica holds what came of it.
        match session.owed.first().copied() {
            Some((position, seq)) if session.stands_at(position) => {
                session.owed.pop_first();
                session.answered += 1;
                Some(ServerFrame::Accepted(seq))
            }
            _ => session.grant(),
        }
    }

    /// The log no longer reaches back to where the replica stands: its shapes are sent anew.
    fn start_over_where_log_is_gone(&mut self, id: SessionId) {
        let start = self.log.start();
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let live_are_behind = session.position < start;
        let behind = |feed: &Feed| match &feed.stage {
            Stage::Waiting => false,
            Stage::Snapshot(snapshot) => snapshot.visibility.is_some() && snapshot.from < start,
            Stage::Catching { position, .. } => *position < start,
            Stage::Live { .. } => live_are_behind,
        };
        let feeds = session.feeds.iter().filter(|(_, feed)| behind(feed));
        let restart: Vec<SubscriptionId> = feeds.map(|(subscription, _)| *subscription).collect();
        if live_are_behind {
            session.position = self.position;
        }
        for subscription in restart {
            self.restart_snapshot(id, subscription);
        }
    }

    fn snapshot_frame(&mut self, id: SessionId) -> Option<ServerFrame> {
        let session = self.sessions.get_mut(&id)?;
        for (subscription, feed) in &mut session.feeds {
            let Stage::Snapshot(snapshot) = &mut feed.stage else {
                continue;
            };
            if let Some(rows) = snapshot.chunks.pop_front() {
                session.took_at = self.now;
                // The reader stopped when the queue was full.
                if snapshot.chunks.len() + 1 == SNAPSHOT_CHUNKS_MAX {
                    self.actions.push_back(Action::ReadMore(snapshot.ticket));
                }
                return Some(ServerFrame::Snapshot {
                    id: *subscription,
                    rows,
                    rows_estimate: snapshot.rows_estimate,
                });
            }
            let Some(visibility) = snapshot.visibility.as_ref().filter(|_| snapshot.complete)
            else {
                continue;
            };
            if self.position < visibility.fence {
                continue;
            }
            let (position, visibility) = standing_after(&self.log, snapshot.from, visibility);
            feed.stage = Stage::Catching {
                position,
                visibility,
            };
            let cursor = Cursor {
                epoch: self.epoch,
                position,
            };
            return Some(ServerFrame::SnapshotEnd {
                id: *subscription,
                cursor,
            });
        }
        None
    }

    fn log_frame(&mut self, id: SessionId) -> Option<ServerFrame> {
        let session = self.sessions.get_mut(&id)?;
        Telling {
            shapes: &self.shapes,
            log: &self.log,
            epoch: self.epoch,
            position: self.position,
        }
        .next(session)
    }
}

/// Where a replica stands once it holds a snapshot: at the fence, unless the log up to there holds
/// something that the snapshot did not see.
fn standing_after(
    log: &Log,
    from: Position,
    visibility: &Visibility,
) -> (Position, Option<Visibility>) {
    let fence = visibility.fence.max(from);
    if log.between(from, fence).all(|entry| visibility.saw(entry)) {
        (fence, None)
    } else {
        (from, Some(visibility.clone()))
    }
}
