//! Subscribing and letting go. What was unsubscribed from may be retained for a while, so that it
//! shows at once when it is subscribed to again: the least recently used goes first.

use anabranch_crdt::Millis;
use anabranch_protocol::{ShapeRequest, SubscriptionId, SubscriptionSet};

use crate::{
    Replica, ReplicaError, RetainedShape,
    account::principal,
    subscriptions,
    turn::{Bounds, Turn},
};

/// How much to retain, and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    pub(crate) rows_max: u64,
    pub(crate) age_max_ms: u64,
}

impl Replica {
    /// Subscribes to a shape; asking for the same one again finds the subscription there is. Where
    /// its rows are still retained they are its rows at once, [stale] until the service has told
    /// what they missed.
    ///
    /// [stale]: crate::SubscriptionStatus::stale_since
    pub fn subscribe(&mut self, shape: &ShapeRequest) -> Result<SubscriptionId, ReplicaError> {
        let retention = self.retention();
        let (_, served) = self.served();
        self.turn(|turn| {
            principal::still_admits(turn.tx, served)?;
            turn.trim_retained(retention)?;
            turn.make_room(shape)?;
            subscriptions::add(turn.tx, shape)
        })
    }

    /// Lets go of a subscription, and of the rows that it alone held: now, or later as
    /// [`OpenOptions::retained_rows_max`] says.
    ///
    /// [`OpenOptions::retained_rows_max`]: crate::OpenOptions::retained_rows_max
    pub fn unsubscribe(&mut self, id: SubscriptionId) -> Result<(), ReplicaError> {
        let retention = self.retention();
        self.turn(|turn| {
            turn.seal(Bounds::Waived)?;
            if !subscriptions::exists(turn.tx, id)? {
                return Err(ReplicaError::NoSubscription(id));
            }
            turn.retain(id, retention)?;
            turn.trim_retained(retention)
        })
    }

    /// The shapes that are retained, the longest retained first.
    pub fn retained(&self) -> Result<Vec<RetainedShape>, ReplicaError> {
        let (conn, _) = self.served();
        let all = subscriptions::retained(conn)?.into_iter();
        Ok(all.map(|(_, shape)| shape).collect())
    }

    /// Lets go of everything that is retained; how many shapes that were.
    pub fn release_retained(&mut self) -> Result<usize, ReplicaError> {
        let nothing = Retention {
            rows_max: 0,
            age_max_ms: 0,
        };
        self.turn(|turn| {
            let retained = subscriptions::retained(turn.tx)?.len();
            turn.trim_retained(nothing)?;
            Ok(retained)
        })
    }
}

impl Turn<'_> {
    /// Retains the rows of a subscription, or lets go of them where they are not to be kept.
    fn retain(&mut self, id: SubscriptionId, retention: Retention) -> Result<(), ReplicaError> {
        if retention.rows_max == 0 || !subscriptions::is_served(self.tx, id)? {
            return self.unsubscribe(id);
        }
        let mut rows = 0_u64;
        for table in self.tables.iter() {
            let keys = table.keys_in(self.tx, SubscriptionSet::only(id))?.len();
            rows = rows.saturating_add(u64::try_from(keys).unwrap_or(u64::MAX));
        }
        if rows > retention.rows_max {
            return self.unsubscribe(id);
        }
        Ok(subscriptions::retain(
            self.tx,
            id,
            self.corrected_now(),
            rows,
        )?)
    }

    /// Lets go of the least recently used shapes, and of those retained too long.
    pub(crate) fn trim_retained(&mut self, retention: Retention) -> Result<(), ReplicaError> {
        let retained = subscriptions::retained(self.tx)?;
        let oldest_kept = self.corrected_now().0.saturating_sub(retention.age_max_ms);
        let mut rows: u64 = retained.iter().map(|(_, shape)| shape.rows).sum();
        for (id, shape) in retained {
            let expired = shape.since < Millis(oldest_kept) || retention.rows_max == 0;
            if expired || rows > retention.rows_max {
                self.seal(Bounds::Waived)?;
                self.unsubscribe(id)?;
                rows = rows.saturating_sub(shape.rows);
            }
        }
        Ok(())
    }

    /// Where every number is taken, a new shape gets that of the least recently used one.
    fn make_room(&mut self, shape: &ShapeRequest) -> Result<(), ReplicaError> {
        let retained = subscriptions::retained(self.tx)?;
        let returns = retained.iter().any(|(_, kept)| kept.shape == *shape);
        if returns || subscriptions::free(self.tx)?.is_some() {
            return Ok(());
        }
        if let Some((id, _)) = retained.first() {
            self.seal(Bounds::Waived)?;
            self.unsubscribe(*id)?;
        }
        Ok(())
    }
}
