//! The heart of the service: shapes, sessions and the store's log, without IO.
//!
//! Events go in (frames of replicas, transactions of the store, rows of snapshots, outcomes of
//! merges), and two things come out: [`Action`]s for the edge to carry out, and frames, which each
//! connection pulls with [`Hub::poll_frame`] as fast as its replica takes them. The same hub runs
//! under tokio and in the simulator. It keeps nothing that a restart could lose: whatever matters is
//! in the store or in the replicas' outboxes.

mod admission;
mod feeds;
mod log;
mod session;
mod shapes;
mod snapshots;
mod telling;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use anabranch_crdt::{Millis, ReplicaId};
use anabranch_protocol::{
    ClientFrame, Epoch, LocalTransaction, Position, RefusalCode, Seq, ServerFrame, SubscriptionId,
    codec::hash_transaction,
    session::{Refusal, Request},
};
use anabranch_shape::schema::Schema;
use anabranch_store::{MergeOutcome, SnapshotQuery, Standing, StoreTransaction, Upload};

use crate::limits::{ANSWERS_MAX, SESSIONS_MAX, SHAPE_IDLE_MAX_MS, SNAPSHOT_STALL_MAX_MS};
use log::Log;
use session::{Feed, Session};
use shapes::Shapes;
use snapshots::Tickets;

/// A connection, as the edge numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// A snapshot being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A shape being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct ShapeId(u64);

/// What the hub asks of the edge.
#[derive(Clone, Debug)]
pub enum Action {
    /// Call `Store::greet` and then [`Hub::greeted`], after the merges asked for before.
    Greet {
        /// For whom.
        session: SessionId,
        /// The replica.
        replica: ReplicaId,
        /// What it needs no more outcomes before.
        first_pending: Seq,
    },
    /// Call `Store::merge` and then [`Hub::merged`]; merges stay in the order asked for.
    Merge {
        /// For whom.
        session: SessionId,
        /// What to merge.
        uploads: Vec<Upload>,
    },
    /// Call `Store::snapshot` and then [`Hub::snapshot_started`].
    Snapshot {
        /// The number to report under.
        ticket: Ticket,
        /// What to read.
        query: SnapshotQuery,
    },
    /// Read one more chunk of a snapshot and call [`Hub::snapshot_rows`] or [`Hub::snapshot_ended`].
    ReadMore(Ticket),
    /// Nobody waits for a snapshot any more.
    CancelSnapshot(Ticket),
    /// Close the connection once the frames that [`Hub::poll_frame`] still gives are sent.
    Close(SessionId),
}

/// How the service is set up, as far as the hub must know.
#[derive(Clone, Debug)]
pub struct HubConfig {
    /// How far ahead of the service's clock a stamp may be.
    pub drift_max_ms: u64,
    /// What a hello must carry; nothing is asked for where there is none.
    pub token: Option<String>,
    /// The shapes that have a name.
    pub shapes: BTreeMap<String, NamedShape>,
    /// Whether replicas may spell out shapes of their own.
    pub allow_spelled_shapes: bool,
}

/// A shape that the configuration defines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedShape {
    /// The table.
    pub table: String,
    /// The rows; every row where there is none.
    pub filter: Option<String>,
    /// The columns; every one where empty.
    pub columns: Vec<String>,
}

/// The hub. See the module's text.
#[derive(Debug)]
pub struct Hub {
    config: HubConfig,
    schema: Arc<Schema>,
    epoch: Epoch,
    /// The store's log has been told up to here.
    position: Position,
    log: Log,
    shapes: Shapes,
    sessions: BTreeMap<SessionId, Session>,
    tickets: Tickets,
    actions: VecDeque<Action>,
    /// The newest session of each replica.
    by_replica: BTreeMap<ReplicaId, SessionId>,
    /// Sessions that may have a frame to give.
    ready: BTreeSet<SessionId>,
    /// Sessions that may have one once the log has been told so far.
    alarms: BTreeSet<(Position, SessionId)>,
    now: Millis,
}

impl Hub {
    /// A hub over a store whose log is followed from `position` on. `epoch` must differ from that of
    /// every hub before it over the same store.
    pub fn new(config: HubConfig, schema: Arc<Schema>, epoch: Epoch, position: Position) -> Self {
        Self {
            config,
            schema,
            epoch,
            position,
            log: Log::starting_after(position),
            shapes: Shapes::default(),
            sessions: BTreeMap::new(),
            tickets: Tickets::default(),
            actions: VecDeque::new(),
            by_replica: BTreeMap::new(),
            ready: BTreeSet::new(),
            alarms: BTreeSet::new(),
            now: Millis(0),
        }
    }

    /// What the edge is to do next; ask after every event, until there is nothing.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A session that may have frames to give; ask after every event, until there is none.
    pub fn poll_ready(&mut self) -> Option<SessionId> {
        self.ready.pop_first()
    }

    /// How many sessions are open.
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// How many different shapes are served.
    pub fn shape_count(&self) -> usize {
        self.shapes.len()
    }

    /// How far the store's log has been told.
    pub const fn position(&self) -> Position {
        self.position
    }

    /// A connection was made.
    pub fn connect(&mut self, id: SessionId) {
        let session = self.sessions.entry(id).or_default();
        session.position = self.position;
        if self.sessions.len() > SESSIONS_MAX {
            let message = "the service has as many sessions as it may; try again later";
            self.refuse(id, Refusal::new(RefusalCode::Unavailable, message));
        }
    }

    /// A connection is gone.
    pub fn disconnect(&mut self, id: SessionId) {
        self.release_all(id);
        self.sessions.remove(&id);
        self.ready.remove(&id);
    }

    /// A frame arrived.
    pub fn receive(&mut self, id: SessionId, frame: ClientFrame, now: Millis) {
        self.now = now;
        let Some(session) = self
            .sessions
            .get_mut(&id)
            .filter(|session| !session.closing)
        else {
            return;
        };
        self.ready.insert(id);
        if session.answers.len() > ANSWERS_MAX {
            session.answers.clear();
            let message = "the replica asks on without taking the answers";
            return self.refuse(id, Refusal::new(RefusalCode::TooMuch, message));
        }
        match session.protocol.receive(frame) {
            Ok(Request::Greet {
                replica,
                token,
                schema_version,
                first_pending,
            }) => {
                session.schema_version = schema_version;
                self.greet(id, replica, &token, first_pending);
            }
            Ok(Request::Subscribe(subscriptions)) => self.subscribe(id, subscriptions),
            Ok(Request::Unsubscribe(subscription)) => self.unsubscribe(id, subscription),
            Ok(Request::Merge(transactions)) => self.merge(id, transactions),
            Ok(Request::Resume) => {}
            Err(refusal) => self.refuse(id, refusal),
        }
    }

    fn unsubscribe(&mut self, id: SessionId, subscription: SubscriptionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            let answer = ServerFrame::Unsubscribed(subscription);
            session.answers.push_back(answer);
            if let Some(feed) = session.feeds.remove(&subscription) {
                self.release(id, subscription, &feed);
            }
        }
    }

    /// What arrived was no frame.
    pub fn garbage(&mut self, id: SessionId, reason: &str) {
        self.refuse(id, Refusal::new(RefusalCode::Protocol, reason));
    }

    fn greet(&mut self, id: SessionId, replica: ReplicaId, token: &str, first_pending: Seq) {
        if let Err(refusal) = admission::check_token(&self.config, token) {
            return self.refuse(id, refusal);
        }
        if let Some(earlier) = self.by_replica.insert(replica, id) {
            let message = "the replica has connected anew; this connection is the older one";
            self.refuse(earlier, Refusal::new(RefusalCode::Unavailable, message));
        }
        self.actions.push_back(Action::Greet {
            session: id,
            replica,
            first_pending,
        });
    }

    /// The store has told how the replica stands.
    pub fn greeted(&mut self, id: SessionId, standing: Standing, now: Millis) {
        self.now = now;
        let position = self.position;
        let Some(session) = self.sessions.get_mut(&id).filter(|held| !held.closing) else {
            return;
        };
        let known = session.schema_version == self.schema.version;
        let schema = (!known).then(|| (*self.schema).clone());
        let drift_max_ms = self.config.drift_max_ms;
        let standing = (standing.merged_through, standing.horizon);
        let welcome = session
            .protocol
            .welcome(standing, now, drift_max_ms, schema);
        session.answers.push_back(welcome);
        session.position = position;
        session.told = position;
        // Earlier than that, the replica asks again itself: it resends what it has no outcome for.
        session.owed.clear();
        self.ready.insert(id);
    }

    fn merge(&mut self, id: SessionId, transactions: Vec<LocalTransaction>) {
        match self.admit(id, transactions) {
            Ok(uploads) => self.actions.push_back(Action::Merge {
                session: id,
                uploads,
            }),
            Err(refusal) => self.refuse(id, refusal),
        }
    }

    fn admit(
        &self,
        id: SessionId,
        transactions: Vec<LocalTransaction>,
    ) -> Result<Vec<Upload>, Refusal> {
        let latest_ms = self.now.0.saturating_add(self.config.drift_max_ms);
        let session = self.sessions.get(&id);
        let replica = session.and_then(|session| session.protocol.replica());
        let Some(replica) = replica else {
            return Ok(Vec::new());
        };
        let admitted = transactions.into_iter().map(|transaction| {
            admission::check_stamps(&transaction, latest_ms)?;
            let hash = hash_transaction(&transaction)
                .map_err(|error| Refusal::new(RefusalCode::TooMuch, error.to_string()))?;
            Ok(Upload {
                replica,
                transaction,
                hash,
            })
        });
        admitted.collect()
    }

    /// Merges have their outcomes, in the order of the uploads.
    pub fn merged(&mut self, id: SessionId, outcomes: Vec<(Seq, MergeOutcome)>) {
        for (seq, outcome) in outcomes {
            let Some(session) = self.sessions.get_mut(&id).filter(|held| !held.closing) else {
                return;
            };
            match outcome {
                // The log tells of it, and the replica learns of it there, in its place.
                MergeOutcome::Merged => {}
                MergeOutcome::Duplicate(position) => {
                    session.owed.insert((position, seq));
                    self.wake_at(position, id);
                }
                MergeOutcome::Rejected(rejection) => {
                    session.answered += 1;
                    session.answers.push_back(ServerFrame::Rejected {
                        seq,
                        code: rejection.code,
                        reason: rejection.reason,
                        rows: rejection.rows,
                    });
                    self.ready.insert(id);
                }
            }
        }
    }

    /// The store cannot greet or merge for a session, and trying again would not help.
    pub fn failed(&mut self, id: SessionId, reason: &str) {
        self.refuse(id, Refusal::new(RefusalCode::Unavailable, reason));
    }

    /// The store has committed a transaction.
    pub fn store_transaction(&mut self, transaction: StoreTransaction) {
        let position = transaction.position;
        for shape in self.shapes.apply(&self.schema, &transaction) {
            let concerned = self.shapes.get(shape).into_iter();
            let sessions = concerned.flat_map(|shape| &shape.subscribers);
            self.ready.extend(sessions.map(|(session, _)| *session));
        }
        for (replica, seq) in &transaction.origins {
            let own = self.by_replica.get(replica);
            if let Some((id, session)) = own.and_then(|id| Some((id, self.sessions.get_mut(id)?))) {
                session.owed.insert((position, *seq));
                self.ready.insert(*id);
            }
        }
        self.log.push(transaction);
        self.idle(position);
    }

    /// The store's log has been told up to `position`, with nothing more in it that concerns anybody.
    pub fn idle(&mut self, position: Position) {
        self.position = self.position.max(position);
        while let Some((due, id)) = self.alarms.first().copied() {
            if due > self.position {
                break;
            }
            self.alarms.pop_first();
            self.ready.insert(id);
        }
    }

    /// A session may have a frame to give once the log has been told up to `position`.
    fn wake_at(&mut self, position: Position, id: SessionId) {
        if position > self.position {
            self.alarms.insert((position, id));
        } else {
            self.ready.insert(id);
        }
    }

    /// Time has passed: lets go of shapes that nobody has asked for in a while, and of replicas that
    /// keep a snapshot waiting; lets the others know where they stand.
    pub fn tick(&mut self, now: Millis) {
        self.now = now;
        self.shapes.trim(self.log.start());
        let limit = Millis(now.0.saturating_sub(SHAPE_IDLE_MAX_MS));
        let idle: Vec<_> = self.shapes.idle().filter(|(at, _)| *at < limit).collect();
        for (_, shape) in idle {
            self.drop_shape(shape);
        }
        let limit = Millis(now.0.saturating_sub(SNAPSHOT_STALL_MAX_MS));
        let mut stalled = Vec::new();
        for (id, session) in &self.sessions {
            if session.keeps_snapshot_waiting() && session.took_at < limit {
                stalled.push(*id);
            } else if session.position < self.position {
                self.ready.insert(*id);
            }
        }
        for id in stalled {
            let message = "the replica takes no rows of its snapshot; connect again";
            self.refuse(id, Refusal::new(RefusalCode::Unavailable, message));
        }
    }

    /// Ends every session, as when the store's log broke off or its schema changed. The replicas
    /// connect again by themselves and lose nothing.
    pub fn end_sessions(&mut self, reason: &str) {
        let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        for id in ids {
            self.refuse(id, Refusal::new(RefusalCode::Unavailable, reason));
        }
    }

    fn refuse(&mut self, id: SessionId, refusal: Refusal) {
        let Some(session) = self.sessions.get_mut(&id).filter(|held| !held.closing) else {
            return;
        };
        session.answers.push_back(refusal.into_frame());
        session.closing = true;
        self.release_all(id);
        self.ready.insert(id);
        self.actions.push_back(Action::Close(id));
    }

    /// Lets go of all that is done for a session.
    fn release_all(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let feeds: BTreeMap<SubscriptionId, Feed> = std::mem::take(&mut session.feeds);
        if let Some(replica) = session.protocol.replica()
            && self.by_replica.get(&replica) == Some(&id)
        {
            self.by_replica.remove(&replica);
        }
        for (subscription, feed) in feeds {
            self.release(id, subscription, &feed);
        }
    }
}
