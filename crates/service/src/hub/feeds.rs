//! What a session is told next: snapshots, then each subscription's way up to the others, then the
//! log, each transaction whole.

use std::collections::BTreeMap;

use anabranch_crdt::RowState;
use anabranch_protocol::{
    Change, Cursor, Epoch, Position, RefusalCode, ServerFrame, Subscription, SubscriptionId,
    SubscriptionSet, session::Refusal,
};
use anabranch_store::{StoreTransaction, Visibility};

use super::{
    Action, Hub, SessionId, ShapeId,
    log::{Log, accepted_of},
    session::{Feed, Session, Stage},
    shapes::Shapes,
};
use crate::limits::{CURSOR_LAG_MAX, SHAPES_MAX, SNAPSHOT_CHUNKS_MAX};

impl Hub {
    pub(super) fn subscribe(&mut self, id: SessionId, subscriptions: Vec<Subscription>) {
        let mut resumed = Vec::new();
        for subscription in subscriptions {
            match self.open_feed(id, &subscription) {
                Ok(feed) => {
                    if let Stage::Catching { position, .. } = feed.stage {
                        resumed.push(position);
                    }
                    if let Some(session) = self.sessions.get_mut(&id) {
                        session.feeds.insert(subscription.id, feed);
                    }
                }
                Err(refusal) => self.refuse_subscription(id, subscription.id, refusal),
            }
        }
        // Where nothing is live yet, the log is told from where the replica stands, so that shapes at
        // one cursor resume together and transactions across them stay whole.
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.announce = true;
        let live = session
            .feeds
            .values()
            .any(|feed| matches!(feed.stage, Stage::Live { .. }));
        if let Some(furthest) = resumed.into_iter().max().filter(|_| !live) {
            session.position = furthest;
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

    fn open_feed(&mut self, id: SessionId, wanted: &Subscription) -> Result<Feed, Refusal> {
        let definition = self.define(&wanted.shape)?;
        if self.shapes.len() >= SHAPES_MAX {
            let message = "the service serves as many shapes as it may; try again later";
            return Err(Refusal::new(RefusalCode::Unavailable, message));
        }
        let shape = self.shapes.intern(definition);
        let (epoch, log_start, told) = (self.epoch, self.log.start(), self.position);
        let resumable = |cursor: &Cursor| {
            cursor.epoch == epoch && cursor.position >= log_start && cursor.position <= told
        };
        let cursor = wanted.cursor.filter(resumable);
        if let Some(served) = self.shapes.get_mut(shape) {
            served.subscribers += 1;
            if let Some(cursor) = cursor.filter(|cursor| served.resumes_from(cursor.position)) {
                let stage = Stage::Catching {
                    position: cursor.position,
                    visibility: None,
                };
                return Ok(Feed { shape, stage });
            }
        }
        self.start_snapshot(id, wanted.id, shape).ok_or_else(|| {
            Refusal::new(
                RefusalCode::Unavailable,
                "the shape is being dropped; try again",
            )
        })
    }

    /// The next frame for a session, if its replica may be sent one. Ask for those that
    /// [`Hub::poll_ready`] names, and again whenever a connection can take more.
    pub fn poll_frame(&mut self, id: SessionId) -> Option<ServerFrame> {
        let session = self.sessions.get_mut(&id)?;
        if let Some(answer) = session.answers.pop_front() {
            return Some(answer);
        }
        if session.closing || !session.protocol.is_open() {
            return None;
        }
        if session.protocol.may_send() {
            let frame = self.snapshot_frame(id).or_else(|| self.log_frame(id));
            if let Some(frame) = frame {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.protocol.spend();
                }
                return Some(frame);
            }
        }
        self.acknowledgement(id)
    }

    /// The acknowledgement of a resent transaction, once the log has been told far enough that the
    /// replica holds what came of it.
    fn acknowledgement(&mut self, id: SessionId) -> Option<ServerFrame> {
        let session = self.sessions.get_mut(&id)?;
        if let Some(answer) = session.answers.pop_front() {
            return Some(answer);
        }
        let (position, seq) = session.held.front().copied()?;
        if position > session.position {
            return None;
        }
        session.held.pop_front();
        Some(ServerFrame::Accepted(seq))
    }

    fn snapshot_frame(&mut self, id: SessionId) -> Option<ServerFrame> {
        let session = self.sessions.get_mut(&id)?;
        for (subscription, feed) in &mut session.feeds {
            let Stage::Snapshot(snapshot) = &mut feed.stage else {
                continue;
            };
            if let Some(rows) = snapshot.chunks.pop_front() {
                // The reader stopped when the queue was full.
                if snapshot.chunks.len() + 1 == SNAPSHOT_CHUNKS_MAX && !snapshot.complete {
                    self.actions.push_back(Action::ReadMore(snapshot.ticket));
                }
                let rows_estimate = snapshot.rows_estimate;
                return Some(ServerFrame::Snapshot {
                    id: *subscription,
                    rows,
                    rows_estimate,
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
        let Self {
            sessions,
            shapes,
            log,
            position: told,
            epoch,
            ..
        } = self;
        let session = sessions.get_mut(&id)?;
        if session.position < log.start() {
            self.start_over(id);
            return None;
        }
        catch_up(session, shapes, log, *epoch)
            .or_else(|| go_on(session, shapes, log, *epoch, *told))
    }

    /// The log no longer reaches back to where the session stands: its shapes are sent anew.
    fn start_over(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.position = self.position;
        let behind: Vec<(SubscriptionId, ShapeId)> = session
            .feeds
            .iter()
            .filter(|(_, feed)| !matches!(feed.stage, Stage::Snapshot(_)))
            .map(|(subscription, feed)| (*subscription, feed.shape))
            .collect();
        for (subscription, shape) in behind {
            self.restart_snapshot(id, subscription, shape);
        }
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

/// A subscription that stands behind the live ones is told the log up to them, on its own.
fn catch_up(
    session: &mut Session,
    shapes: &Shapes,
    log: &Log,
    epoch: Epoch,
) -> Option<ServerFrame> {
    let Session {
        feeds,
        position: target,
        ..
    } = session;
    for (id, feed) in feeds {
        let Stage::Catching {
            position,
            visibility,
        } = &mut feed.stage
        else {
            continue;
        };
        let current = shapes
            .get(feed.shape)
            .is_some_and(|served| served.is_current());
        if !current || *position > *target {
            continue;
        }
        let mut frame = None;
        for entry in log.between(*position, *target) {
            *position = entry.position;
            let told = [(*id, feed.shape, visibility.as_ref())];
            let (live, changes) = changes_of(entry, shapes, told.into_iter());
            if !changes.is_empty() {
                let cursor = Cursor {
                    epoch,
                    position: entry.position,
                };
                let accepted = Vec::new();
                frame = Some(ServerFrame::Transaction {
                    cursor,
                    live,
                    accepted,
                    changes,
                    more: true,
                });
                break;
            }
        }
        if frame.is_some() {
            return frame;
        }
        let visibility = visibility.take();
        feed.stage = Stage::Live { visibility };
    }
    None
}

/// The live subscriptions are told the next transaction that concerns them, all together.
fn go_on(
    session: &mut Session,
    shapes: &Shapes,
    log: &Log,
    epoch: Epoch,
    told: Position,
) -> Option<ServerFrame> {
    // A subscription that stands further ahead joins where it stands.
    let ahead = session.feeds.values().filter_map(|feed| match feed.stage {
        Stage::Catching { position, .. } if position > session.position => Some(position),
        _ => None,
    });
    let through = ahead.min().map_or(told, |position| position.min(told));
    let replica = session.protocol.replica();
    let mut feeds = session.feeds.values();
    let all_live = feeds.all(|feed| matches!(feed.stage, Stage::Live { .. }));
    for entry in log.between(session.position, through) {
        session.position = entry.position;
        let accepted = accepted_of(entry, replica);
        let told = session
            .feeds
            .iter()
            .filter_map(|(id, feed)| match &feed.stage {
                Stage::Live { visibility } => Some((*id, feed.shape, visibility.as_ref())),
                _ => None,
            });
        let (live, changes) = changes_of(entry, shapes, told);
        session.skipped += 1;
        if !changes.is_empty() || !accepted.is_empty() || session.skipped >= CURSOR_LAG_MAX {
            session.skipped = 0;
            let cursor = Cursor {
                epoch,
                position: entry.position,
            };
            let more = !all_live || log.end() > entry.position;
            session.announce &= more;
            return Some(ServerFrame::Transaction {
                cursor,
                live,
                accepted,
                changes,
                more,
            });
        }
    }
    session.position = session.position.max(through);
    if !(session.announce && all_live) {
        return None;
    }
    session.announce = false;
    let ids = session.feeds.keys();
    Some(ServerFrame::Transaction {
        cursor: Cursor {
            epoch,
            position: session.position,
        },
        live: ids.fold(SubscriptionSet::EMPTY, |set, id| set.with(*id)),
        accepted: Vec::new(),
        changes: Vec::new(),
        more: false,
    })
}

/// What a transaction did to the shapes of some subscriptions, at most one change a row, and for
/// which of them that is the whole story: not those whose snapshot has seen it.
fn changes_of<'a>(
    entry: &StoreTransaction,
    shapes: &Shapes,
    told: impl Iterator<Item = (SubscriptionId, ShapeId, Option<&'a Visibility>)>,
) -> (SubscriptionSet, Vec<Change>) {
    let mut live = SubscriptionSet::EMPTY;
    let mut rows: BTreeMap<usize, (SubscriptionSet, Vec<ShapeId>)> = BTreeMap::new();
    for (id, shape, visibility) in told {
        if visibility.is_some_and(|visibility| visibility.saw(entry)) {
            continue;
        }
        live = live.with(id);
        let effect = shapes
            .get(shape)
            .and_then(|served| served.effect_at(entry.position));
        for (index, inside) in effect
            .map(|effect| effect.rows.as_slice())
            .unwrap_or_default()
        {
            let (set, holders) = rows.entry(*index).or_default();
            if *inside {
                *set = set.with(id);
                holders.push(shape);
            }
        }
    }
    let change = |(index, (set, holders)): (usize, (SubscriptionSet, Vec<ShapeId>))| {
        let delta = entry.deltas.get(index)?;
        let shown = |column| {
            let mut held = holders.iter().filter_map(|id| shapes.get(*id));
            held.any(|served| served.shape.columns.contains(&column))
        };
        let state = if !holders.is_empty() {
            delta.state.project(shown)
        } else if delta.state.existence().is_present() {
            RowState::new()
        } else {
            RowState::of_existence(delta.state.existence().clone())
        };
        Some(Change {
            table: delta.table,
            key: delta.key.clone(),
            shapes: set,
            state,
        })
    };
    (live, rows.into_iter().filter_map(change).collect())
}
