//! The heart of the service: shapes, sessions and the store's log, without IO.
//!
//! Events go in (frames of replicas, transactions of the store, rows of snapshots, outcomes of
//! merges), and two things come out: [`Action`]s for the edge to carry out, and frames, which each
//! connection pulls with [`Hub::poll_frame`] as fast as its replica takes them. The same hub runs
//! under tokio and in the simulator. It keeps nothing that a restart could lose: whatever matters is
//! in the store or in the replicas' outboxes.

mod feeds;
mod log;
mod session;
mod shapes;
mod snapshots;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use anabranch_crdt::{Millis, ReplicaId};
use anabranch_protocol::{
    ClientFrame, Epoch, LocalTransaction, Position, RefusalCode, Seq, ServerFrame, ShapeRequest,
    codec::hash_transaction,
    session::{Refusal, Request},
};
use anabranch_shape::{Shape, schema::Schema};
use anabranch_store::{MergeOutcome, SnapshotQuery, StoreTransaction, Upload};

use crate::limits::{SESSIONS_MAX, SHAPE_IDLE_MAX_MS};
use log::Log;
use session::Session;
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
    /// Sessions that may have a frame to give.
    ready: BTreeSet<SessionId>,
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
            ready: BTreeSet::new(),
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
        self.ready.remove(&id);
        if let Some(session) = self.sessions.remove(&id) {
            for feed in session.feeds.into_values() {
                self.release(feed);
            }
        }
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
            Ok(Request::Unsubscribe(subscription)) => {
                session
                    .answers
                    .push_back(ServerFrame::Unsubscribed(subscription));
                if let Some(feed) = session.feeds.remove(&subscription) {
                    self.release(feed);
                }
            }
            Ok(Request::Merge(transactions)) => self.merge(id, transactions),
            Ok(Request::Resume) => {}
            Err(refusal) => self.refuse(id, refusal),
        }
    }

    /// What arrived was no frame.
    pub fn garbage(&mut self, id: SessionId, reason: &str) {
        self.refuse(id, Refusal::new(RefusalCode::Protocol, reason));
    }

    fn greet(&mut self, id: SessionId, replica: ReplicaId, token: &str, first_pending: Seq) {
        if let Some(expected) = &self.config.token
            && !equal_in_constant_time(expected.as_bytes(), token.as_bytes())
        {
            let message = "the token is not the one this service asks for; check `token`";
            return self.refuse(id, Refusal::new(RefusalCode::Unauthenticated, message));
        }
        let earlier = self.sessions.iter().find(|(other, session)| {
            **other != id && session.protocol.replica() == Some(replica) && !session.closing
        });
        if let Some((earlier, _)) = earlier {
            let message = "the replica has connected anew; this connection is the older one";
            self.refuse(*earlier, Refusal::new(RefusalCode::Unavailable, message));
        }
        self.actions.push_back(Action::Greet {
            session: id,
            replica,
            first_pending,
        });
    }

    /// The store knows the replica's transactions up to `merged_through`.
    pub fn greeted(&mut self, id: SessionId, merged_through: Seq, now: Millis) {
        self.now = now;
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let schema =
            (session.schema_version != self.schema.version).then(|| (*self.schema).clone());
        let drift_max_ms = self.config.drift_max_ms;
        let welcome = session
            .protocol
            .welcome(merged_through, now, drift_max_ms, schema);
        session.answers.push_back(welcome);
        session.position = self.position;
        self.ready.insert(id);
    }

    fn merge(&mut self, id: SessionId, transactions: Vec<LocalTransaction>) {
        let Some(replica) = self
            .sessions
            .get(&id)
            .and_then(|session| session.protocol.replica())
        else {
            return;
        };
        let latest = self.now.0.saturating_add(self.config.drift_max_ms);
        let mut uploads = Vec::with_capacity(transactions.len());
        for transaction in transactions {
            if transaction.stamp.hlc.millis().0 > latest || !stamps_are_its_own(&transaction) {
                return self.refuse(id, stamp_refusal(&transaction, latest));
            }
            match hash_transaction(&transaction) {
                Ok(hash) => uploads.push(Upload {
                    replica,
                    transaction,
                    hash,
                }),
                Err(error) => {
                    return self.refuse(id, Refusal::new(RefusalCode::TooMuch, error.to_string()));
                }
            }
        }
        self.actions.push_back(Action::Merge {
            session: id,
            uploads,
        });
    }

    /// Merges have their outcomes, in the order of the uploads.
    pub fn merged(&mut self, id: SessionId, outcomes: Vec<(Seq, MergeOutcome)>) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        let credit = session.protocol.settled(outcomes.len());
        for (seq, outcome) in outcomes {
            match outcome {
                // The log tells of it, and the replica learns of it there, in its place.
                MergeOutcome::Merged => {}
                MergeOutcome::Duplicate(position) => session.held.push_back((position, seq)),
                MergeOutcome::Rejected(rejection) => {
                    session.answers.push_back(ServerFrame::Rejected {
                        seq,
                        code: rejection.code,
                        reason: rejection.reason,
                        rows: rejection.rows,
                    });
                }
            }
        }
        session.answers.push_back(credit);
        self.ready.insert(id);
    }

    /// The store has committed a transaction.
    pub fn store_transaction(&mut self, transaction: StoreTransaction) {
        self.position = self.position.max(transaction.position);
        self.shapes.apply(&self.schema, &transaction);
        self.log.push(Arc::new(transaction));
        self.shapes.trim(self.log.start());
        self.ready.extend(self.sessions.keys());
    }

    /// The store's log has been told up to `position`, with nothing in it that concerns anybody.
    pub fn idle(&mut self, position: Position) {
        if position > self.position {
            self.position = position;
            self.ready.extend(self.sessions.keys());
        }
    }

    /// Time has passed: lets go of shapes that nobody has asked for in a while.
    pub fn tick(&mut self, now: Millis) {
        self.now = now;
        let limit = Millis(now.0.saturating_sub(SHAPE_IDLE_MAX_MS));
        for id in self.shapes.idle_since(limit) {
            if let Some(ticket) = self.shapes.get(id).and_then(|served| served.loading) {
                self.tickets.forget(ticket);
                self.actions.push_back(Action::CancelSnapshot(ticket));
            }
            self.shapes.drop_shape(id);
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
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.answers.push_back(refusal.into_frame());
        session.closing = true;
        let feeds = std::mem::take(&mut session.feeds);
        for feed in feeds.into_values() {
            self.release(feed);
        }
        self.ready.insert(id);
        self.actions.push_back(Action::Close(id));
    }

    fn define(&self, request: &ShapeRequest) -> Result<Shape, Refusal> {
        let invalid = |message: String| Refusal::new(RefusalCode::InvalidShape, message);
        let (table, filter, columns, parameters) = match request {
            ShapeRequest::Named { name, parameters } => {
                let shape = self.config.shapes.get(name).ok_or_else(|| {
                    let known: Vec<&str> = self.config.shapes.keys().map(String::as_str).collect();
                    invalid(format!(
                        "no shape is called `{name}`; there are: {}",
                        known.join(", ")
                    ))
                })?;
                (&shape.table, &shape.filter, &shape.columns, parameters)
            }
            ShapeRequest::Spelled { .. } if !self.config.allow_spelled_shapes => {
                let message = "this service serves only the shapes it has names for";
                return Err(invalid(message.to_owned()));
            }
            ShapeRequest::Spelled {
                table,
                filter,
                columns,
                parameters,
            } => (table, filter, columns, parameters),
        };
        Shape::define(&self.schema, table, filter.as_deref(), columns, parameters)
            .map_err(|error| invalid(error.to_string()))
    }
}

/// Whether every register a transaction writes and every row it adds carries its own stamp, as is
/// true of local writes. Removals carry the stamps they have observed.
fn stamps_are_its_own(transaction: &LocalTransaction) -> bool {
    use anabranch_crdt::Life;
    transaction.deltas.iter().all(|delta| {
        let entries = delta.state.existence().entries();
        delta
            .state
            .cells()
            .all(|(_, stamp, _)| stamp == transaction.stamp)
            && entries.iter().all(|entry| match entry.life {
                Life::Live => entry.stamp == transaction.stamp,
                Life::Removed => entry.stamp.hlc <= transaction.stamp.hlc,
            })
    })
}

fn stamp_refusal(transaction: &LocalTransaction, latest_ms: u64) -> Refusal {
    let at_ms = transaction.stamp.hlc.millis().0;
    if at_ms > latest_ms {
        let message = format!(
            "transaction {} is stamped {} ms beyond what this service admits; the replica's clock \
             is ahead",
            transaction.seq.0,
            at_ms - latest_ms
        );
        return Refusal::new(RefusalCode::ClockAhead, message);
    }
    let message = format!(
        "transaction {} carries stamps not its own",
        transaction.seq.0
    );
    Refusal::new(RefusalCode::Protocol, message)
}

/// Compares secrets without telling by the time taken where they differ.
fn equal_in_constant_time(left: &[u8], right: &[u8]) -> bool {
    let difference = left.iter().zip(right).fold(0, |all, (a, b)| all | (a ^ b));
    left.len() == right.len() && difference == 0
}
