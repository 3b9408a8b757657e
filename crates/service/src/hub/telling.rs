//! How the log is told to a session: subscriptions that join later catch up on their own, then all go
//! on together, each transaction whole.

use std::collections::BTreeMap;

use anabranch_crdt::RowState;
use anabranch_protocol::{
    Change, Cursor, Epoch, Position, ServerFrame, SubscriptionId, SubscriptionSet,
};
use anabranch_store::{StoreTransaction, Visibility};

use super::{
    ShapeId,
    log::Log,
    session::{Session, Stage},
    shapes::Shapes,
};
use crate::limits::CURSOR_LAG_MAX;

/// What there is to tell.
pub(super) struct Telling<'a> {
    pub(super) shapes: &'a Shapes,
    pub(super) log: &'a Log,
    pub(super) epoch: Epoch,
    /// The log is known up to here.
    pub(super) position: Position,
}

impl Telling<'_> {
    /// The next frame for a session, if there is something to tell it.
    pub(super) fn next(&self, session: &mut Session) -> Option<ServerFrame> {
        loop {
            let frame = self.catch_up(session);
            if frame.is_some() {
                return frame;
            }
            let before = session.position;
            let frame = self.go_on(session);
            if frame.is_some() {
                return frame;
            }
            // Going on may have come to where another subscription joins.
            if session.position == before {
                return self.standing(session);
            }
        }
    }

    /// A subscription that stands behind the live ones is told the log up to them, on its own.
    fn catch_up(&self, session: &mut Session) -> Option<ServerFrame> {
        let target = session.position;
        for (id, feed) in &mut session.feeds {
            let Stage::Catching {
                position,
                visibility,
            } = &mut feed.stage
            else {
                continue;
            };
            let current = self.shapes.get(feed.shape);
            let Some(served) = current.filter(|served| served.is_current()) else {
                continue;
            };
            if *position > target {
                continue;
            }
            while let Some(effect) = served
                .next_after(*position)
                .filter(|effect| effect.position <= target)
            {
                *position = effect.position;
                let entry = self.log.get(*position)?;
                let told = [(*id, feed.shape, visibility.as_ref())];
                let (live, changes) = self.changes_of(entry, told.into_iter());
                if !changes.is_empty() {
                    session.announce = true;
                    return Some(ServerFrame::Transaction {
                        cursor: self.cursor(*position),
                        live,
                        accepted: Vec::new(),
                        changes,
                        more: true,
                    });
                }
            }
            let visibility = visibility.take();
            feed.stage = Stage::Live { visibility };
        }
        None
    }

    /// The live subscriptions are told the next transaction that concerns them, all together.
    fn go_on(&self, session: &mut Session) -> Option<ServerFrame> {
        // A subscription that stands further ahead joins where it stands.
        let ahead = session.feeds.values().filter_map(|feed| match feed.stage {
            Stage::Catching { position, .. } if position > session.position => Some(position),
            _ => None,
        });
        let through = ahead
            .min()
            .map_or(self.position, |at| at.min(self.position));
        while let Some(position) = self.next_concern(session, through) {
            session.position = position;
            let entry = self.log.get(position)?;
            let accepted = session.accept();
            let feeds = session.feeds.iter();
            let told = feeds.filter_map(|(id, feed)| match &feed.stage {
                Stage::Live { visibility } => Some((*id, feed.shape, visibility.as_ref())),
                _ => None,
            });
            let (live, changes) = self.changes_of(entry, told);
            if changes.is_empty() && accepted.is_empty() {
                continue;
            }
            let unspoken_for = live != session.all();
            let more = unspoken_for || self.next_concern(session, self.position).is_some();
            session.told = position;
            session.announce = more;
            return Some(ServerFrame::Transaction {
                cursor: self.cursor(position),
                live,
                accepted,
                changes,
                more,
            });
        }
        session.position = session.position.max(through);
        None
    }

    /// There is nothing to tell but where the session stands: if the replica waits to hear that it is
    /// up to date, or if its cursor would otherwise fall off the log.
    fn standing(&self, session: &mut Session) -> Option<ServerFrame> {
        let live = session.live();
        let more = live != session.all();
        let lag = self.log.count(session.told, session.position);
        let due = session.announce && !more || lag >= CURSOR_LAG_MAX && !live.is_empty();
        if !due {
            return None;
        }
        session.told = session.position;
        session.announce = more;
        Some(ServerFrame::Transaction {
            cursor: self.cursor(session.position),
            live,
            accepted: Vec::new(),
            changes: Vec::new(),
            more,
        })
    }

    /// The next transaction, not after `through`, that did something to a live subscription or is the
    /// replica's own.
    fn next_concern(&self, session: &Session, through: Position) -> Option<Position> {
        let live = session.feeds.values().filter(|feed| feed.is_live());
        let effects = live.filter_map(|feed| {
            let effect = self.shapes.get(feed.shape)?.next_after(session.position)?;
            Some(effect.position)
        });
        let owed = session.owed.iter().map(|(position, _)| *position);
        let own = owed
            .filter(|position| *position > session.position)
            .find(|position| self.log.get(*position).is_some());
        let next = effects.chain(own).min();
        next.filter(|position| *position <= through)
    }

    fn cursor(&self, position: Position) -> Cursor {
        Cursor {
            epoch: self.epoch,
            position,
        }
    }

    /// What a transaction did to the shapes of some subscriptions, at most one change a row, and for
    /// which of them that is the whole story: not those whose snapshot has seen it.
    fn changes_of<'a>(
        &self,
        entry: &StoreTransaction,
        told: impl Iterator<Item = (SubscriptionId, ShapeId, Option<&'a Visibility>)>,
    ) -> (SubscriptionSet, Vec<Change>) {
        let mut live = SubscriptionSet::EMPTY;
        let mut rows: BTreeMap<usize, (SubscriptionSet, Vec<ShapeId>)> = BTreeMap::new();
        for (id, shape, visibility) in told {
            if visibility.is_some_and(|visibility| visibility.saw(entry)) {
                continue;
            }
            live = live.with(id);
            let served = self.shapes.get(shape);
            let effect = served.and_then(|served| served.effect_at(entry.position));
            for (index, inside) in effect.iter().flat_map(|effect| &effect.rows) {
                let (set, holders) = rows.entry(*index).or_default();
                if *inside {
                    *set = set.with(id);
                    holders.push(shape);
                }
            }
        }
        let change = |(index, (shapes, holders)): (usize, (SubscriptionSet, Vec<ShapeId>))| {
            let delta = entry.deltas.get(index)?;
            Some(Change {
                table: delta.table,
                key: delta.key.clone(),
                shapes,
                state: self.shown(&delta.state, &holders),
            })
        };
        (live, rows.into_iter().filter_map(change).collect())
    }

    /// As much of a row as the shapes it is in show; where it is in none, only whether it is gone.
    fn shown(&self, state: &RowState, holders: &[ShapeId]) -> RowState {
        if !holders.is_empty() {
            return state.project(|column| {
                let mut held = holders.iter().filter_map(|id| self.shapes.get(*id));
                held.any(|served| served.shape.columns.contains(&column))
            });
        }
        if state.existence().is_present() {
            RowState::new()
        } else {
            RowState::of_existence(state.existence().clone())
        }
    }
}
