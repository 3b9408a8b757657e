//! Drives a replica through a session, without IO of its own but the replica's file: frames of the
//! service in, frames of the replica out. The tokio client and the simulator run this same code.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anabranch_crdt::{Millis, ReplicaId};
use anabranch_protocol::{
    ClientFrame, Seq, ServerFrame, ShapeRequest, Subscription, SubscriptionId, SubscriptionSet,
    limits::PUSH_BYTES_MAX,
    session::{ClientPhase, ClientSession, Greeting, RetryPolicy, Stopped, Violation},
};
use anabranch_replica::{Event, Greeted, Replica, ReplicaError, Welcome};
use anabranch_shape::schema::Schema;
use thiserror::Error;

/// Why a session must end. The replica keeps what it has; connecting again goes on from there.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DriveError {
    /// The service broke the protocol.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The replica could not take a frame in.
    #[error("the replica could not take in what the service sent: {0}")]
    Replica(#[from] ReplicaError),
    /// The file was restored from a copy: the replica has a new identity, and greets under that.
    #[error("the replica's file was restored from a copy; it goes on under a new identity")]
    NewIdentity,
    /// The work was broken off, as when the program ends.
    #[error("the replica was interrupted")]
    Interrupted,
}

impl DriveError {
    /// Whether the replica must not be sent, whatever the service says.
    const fn is_forbidden(&self) -> bool {
        matches!(
            self,
            Self::Replica(
                ReplicaError::OtherPrincipal
                    | ReplicaError::PrincipalNeeded
                    | ReplicaError::SignedOut
            )
        )
    }
}

/// A replica's side of its sessions, one after another.
#[derive(Debug, Default)]
pub struct Driver {
    session: ClientSession,
    token: String,
    /// Who the service has been told this is.
    greeted: Option<ReplicaId>,
    outgoing: VecDeque<ClientFrame>,
    /// The subscriptions that the service has been told of in this session.
    told: BTreeMap<SubscriptionId, ShapeRequest>,
    /// Those let go of, for which frames may still be on their way.
    leaving: BTreeSet<SubscriptionId>,
    /// Whether the replica may have new subscriptions.
    subscriptions_changed: bool,
    /// Whether the service has told all it knows.
    caught_up: bool,
    /// Whether sending waits for the application.
    paused: bool,
    flush: Option<Flush>,
}

/// Transactions being sent.
#[derive(Clone, Copy, Debug)]
struct Flush {
    /// The last one sent so far.
    through: Seq,
    /// How many were sent.
    sent: u64,
}

impl Driver {
    /// A driver that presents `token` to the service; empty where it asks for none.
    pub fn new(token: impl Into<String>) -> Self {
        Self {
            token: token.into(),
            ..Self::default()
        }
    }

    /// The same driver, which tries again as `policy` says.
    #[must_use]
    pub fn retrying(mut self, policy: RetryPolicy) -> Self {
        self.session = ClientSession::new(policy);
        self
    }

    /// Where the session stands.
    pub const fn phase(&self) -> &ClientPhase {
        self.session.phase()
    }

    /// Whether the session is open and the service has told all it knew.
    pub fn is_caught_up(&self) -> bool {
        let served = self.caught_up || self.told.is_empty() && !self.subscriptions_changed;
        served && *self.phase() == ClientPhase::Open
    }

    /// Whether to connect now; see [`ClientSession::poll_connect`].
    pub fn poll_connect(&mut self, now: Millis) -> bool {
        self.session.poll_connect(now)
    }

    /// When to ask [`Self::poll_connect`] again, if ever.
    pub const fn poll_timeout(&self) -> Option<Millis> {
        self.session.poll_timeout()
    }

    /// Tries at once, whatever the wait or the refusal was.
    pub fn retry_now(&mut self, now: Millis) {
        self.session.retry_now(now);
    }

    /// Holds local transactions back until [`Self::resume`]; the service is listened to meanwhile.
    pub const fn pause(&mut self) {
        self.paused = true;
    }

    /// Goes on sending.
    pub const fn resume(&mut self) {
        self.paused = false;
    }

    /// Whether sending is paused.
    pub const fn is_paused(&self) -> bool {
        self.paused
    }

    /// The connection stands.
    pub fn connected(&mut self, replica: &mut Replica) -> Result<(), DriveError> {
        replica.still_admits()?;
        self.greeted = Some(replica.id());
        let greeting = Greeting {
            replica: replica.id(),
            token: self.token.clone(),
            schema_version: replica.schema().version,
            first_pending: replica.first_pending()?,
        };
        self.outgoing.clear();
        self.told.clear();
        self.leaving.clear();
        self.flush = None;
        self.caught_up = false;
        self.subscriptions_changed = true;
        self.outgoing.push_back(self.session.connected(greeting));
        Ok(())
    }

    /// The connection is gone, or could not be made. `random` is a draw over all of `u64`.
    pub fn disconnected(&mut self, now: Millis, random: u64, reason: impl Into<String>) {
        self.outgoing.clear();
        self.session.disconnected(now, random, reason);
    }

    /// The session ended for a reason on this side. What the next one may meet again is tried less
    /// and less often, and in the end not at all; a replica whose user has signed out is not tried.
    pub fn failed(&mut self, now: Millis, random: u64, error: &DriveError) {
        self.outgoing.clear();
        let reason = error.to_string();
        match error {
            DriveError::NewIdentity | DriveError::Interrupted => {
                self.session.disconnected(now, random, reason);
            }
            _ if error.is_forbidden() => self.session.stop(Stopped::Forbidden, reason),
            _ => self.session.broke(now, random, reason),
        }
    }

    /// The replica's subscriptions may have changed.
    pub const fn subscriptions_changed(&mut self) {
        self.subscriptions_changed = true;
    }

    /// Takes a frame in. After an error the connection is to be closed.
    pub fn receive(&mut self, replica: &mut Replica, frame: ServerFrame) -> Result<(), DriveError> {
        self.session.receive(&frame)?;
        let costs_credit = matches!(
            frame,
            ServerFrame::Snapshot { .. }
                | ServerFrame::SnapshotEnd { .. }
                | ServerFrame::Transaction { .. }
        );
        let greets = matches!(frame, ServerFrame::Welcome { .. });
        self.apply(replica, frame)?;
        self.tell_flushed(replica)?;
        if self.is_caught_up() && !greets {
            self.session.mended();
        }
        if costs_credit {
            self.outgoing.extend(self.session.applied());
        }
        Ok(())
    }

    fn apply(&mut self, replica: &mut Replica, frame: ServerFrame) -> Result<(), DriveError> {
        let applied = match frame {
            ServerFrame::Welcome {
                server_time,
                drift_max_ms,
                merged_through,
                horizon,
                schema,
                ..
            } => {
                let welcome = Welcome {
                    server_time,
                    drift_max_ms,
                    merged_through,
                    horizon,
                };
                return begin(replica, &welcome, schema.as_ref());
            }
            ServerFrame::Schema(schema) => replica.adopt_schema(schema),
            ServerFrame::Snapshot { id, .. } | ServerFrame::SnapshotEnd { id, .. }
                if !self.told.contains_key(&id) =>
            {
                Ok(())
            }
            ServerFrame::Snapshot {
                id,
                rows,
                rows_estimate,
            } => replica.stage_snapshot(id, rows, rows_estimate),
            ServerFrame::SnapshotEnd { id, cursor } => replica.finish_snapshot(id, cursor),
            ServerFrame::SnapshotReset(id) if self.told.contains_key(&id) => {
                replica.reset_snapshot(id)
            }
            ServerFrame::Transaction {
                cursor,
                live,
                accepted,
                changes,
                more,
            } => {
                let heard = live.intersection(self.heard());
                replica.merge_transaction(cursor, heard, accepted, changes)?;
                self.caught_up = !more && heard == self.heard();
                Ok(())
            }
            ServerFrame::Accepted(seq) => replica.accepted(seq),
            ServerFrame::Rejected {
                seq,
                code,
                reason,
                rows,
            } => replica.rejected(seq, code, reason, rows),
            ServerFrame::SubscriptionRefused { id, message, .. } => {
                self.told.remove(&id);
                replica.subscription_refused(id, message)
            }
            ServerFrame::Unsubscribed(id) => {
                self.leaving.remove(&id);
                self.subscriptions_changed = true;
                Ok(())
            }
            ServerFrame::SnapshotReset(_)
            | ServerFrame::Credit(_)
            | ServerFrame::Refused { .. } => Ok(()),
        };
        Ok(applied?)
    }

    /// The subscriptions that frames may speak for: those let go of are heard no more.
    fn heard(&self) -> SubscriptionSet {
        let told = self.told.keys();
        told.fold(SubscriptionSet::EMPTY, |set, id| set.with(*id))
    }

    /// The next frame to send, if any; ask after every event, and whenever the replica was written to.
    pub fn poll_frame(&mut self, replica: &mut Replica) -> Result<Option<ClientFrame>, DriveError> {
        if self.greeted.is_some_and(|greeted| greeted != replica.id()) {
            return Err(DriveError::NewIdentity);
        }
        if self.outgoing.is_empty() && *self.session.phase() == ClientPhase::Open {
            if self.subscriptions_changed {
                self.subscriptions_changed = false;
                self.tell_subscriptions(replica)?;
            }
            if self.outgoing.is_empty() {
                self.push(replica)?;
            }
        }
        Ok(self.outgoing.pop_front())
    }

    fn tell_subscriptions(&mut self, replica: &Replica) -> Result<(), ReplicaError> {
        let wanted = replica.subscriptions()?;
        let gone = |id: &SubscriptionId, shape: &ShapeRequest| {
            let kept = wanted
                .iter()
                .any(|sub| sub.id == *id && sub.shape == *shape);
            !kept
        };
        let let_go: Vec<SubscriptionId> = self
            .told
            .iter()
            .filter(|(id, shape)| gone(id, shape))
            .map(|(id, _)| *id)
            .collect();
        for id in let_go {
            self.told.remove(&id);
            self.leaving.insert(id);
            self.outgoing.push_back(ClientFrame::Unsubscribe(id));
        }
        let fresh: Vec<Subscription> = wanted
            .into_iter()
            .filter(|sub| !self.told.contains_key(&sub.id) && !self.leaving.contains(&sub.id))
            .map(|sub| Subscription {
                id: sub.id,
                shape: sub.shape,
                cursor: sub.cursor,
            })
            .collect();
        for subscription in &fresh {
            self.told
                .insert(subscription.id, subscription.shape.clone());
        }
        if !fresh.is_empty() {
            self.caught_up = false;
            self.outgoing.push_back(ClientFrame::Subscribe(fresh));
        }
        Ok(())
    }

    /// Tells that everything sent has its outcome, once it has.
    fn tell_flushed(&mut self, replica: &mut Replica) -> Result<(), ReplicaError> {
        let Some(flush) = self.flush else {
            return Ok(());
        };
        if replica.first_pending()? > flush.through {
            self.flush = None;
            replica.tell(Event::FlushCompleted {
                sent: flush.sent,
                remaining: replica.status()?.pending,
            });
        }
        Ok(())
    }

    fn note_sent(&mut self, replica: &mut Replica, through: Seq, count: u32) {
        if self.flush.is_none() {
            replica.tell(Event::FlushStarted);
        }
        let before = self.flush.map_or(0, |flush| flush.sent);
        let sent = before.saturating_add(u64::from(count));
        self.flush = Some(Flush { through, sent });
    }

    fn push(&mut self, replica: &mut Replica) -> Result<(), ReplicaError> {
        if self.paused {
            return Ok(());
        }
        let Some((after, most)) = self.session.push_window() else {
            return Ok(());
        };
        let mut transactions = replica.pending(after, PUSH_BYTES_MAX)?;
        transactions.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        let Some(last) = transactions.last() else {
            return Ok(());
        };
        let count = u32::try_from(transactions.len()).unwrap_or(u32::MAX);
        let through = last.seq;
        self.session.pushed(through, count);
        self.note_sent(replica, through, count);
        self.outgoing.push_back(ClientFrame::Push(transactions));
        Ok(())
    }
}

/// Begins a session on the replica's side.
fn begin(
    replica: &mut Replica,
    welcome: &Welcome,
    schema: Option<&Schema>,
) -> Result<(), DriveError> {
    match replica.welcome(welcome, schema)? {
        Greeted::Known => {
            replica.tell(Event::Online);
            Ok(())
        }
        Greeted::Anew => Err(DriveError::NewIdentity),
    }
}
