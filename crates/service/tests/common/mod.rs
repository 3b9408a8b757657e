//! A bench for the hub: it carries out what the hub asks for over a model store, when the test says so,
//! and hands the frames out.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    dead_code,
    unreachable_pub
)]

pub mod replica;
pub mod store;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anabranch_crdt::{Delta, Hlc, Millis, ReplicaId};
use anabranch_protocol::{
    ClientFrame, Cursor, Epoch, LocalTransaction, Position, Seq, ServerFrame, ShapeRequest,
    Subscription, SubscriptionId,
};
use anabranch_service::hub::{Action, Hub, HubConfig, SessionId, Ticket};
use anabranch_store::{SnapshotQuery, Standing, Upload};

use store::ModelStore;

pub const EPOCH: Epoch = Epoch(77);
pub const NOW: Millis = Millis(1_000_000_000);

/// Something the edge is to do.
#[derive(Debug)]
pub enum Job {
    Greet(SessionId, ReplicaId),
    Merge(SessionId, Vec<Upload>),
    Start(Ticket, SnapshotQuery),
    Chunk(Ticket),
}

pub struct Bench {
    pub hub: Hub,
    pub store: ModelStore,
    pub jobs: VecDeque<Job>,
    pub reading: BTreeMap<Ticket, VecDeque<Vec<Delta>>>,
    pub cancelled: BTreeSet<Ticket>,
    pub closed: BTreeSet<SessionId>,
    pub rows_per_chunk: usize,
    pub now: Millis,
    sessions: u64,
}

pub fn config() -> HubConfig {
    HubConfig {
        drift_max_ms: 1_000,
        token: None,
        shapes: BTreeMap::new(),
        allow_spelled_shapes: true,
    }
}

impl Bench {
    pub fn new() -> Self {
        Self::with(config())
    }

    pub fn with(config: HubConfig) -> Self {
        let store = ModelStore::new();
        let hub = Hub::new(config, store.schema(), EPOCH, Position(0));
        Self {
            hub,
            store,
            jobs: VecDeque::new(),
            reading: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            closed: BTreeSet::new(),
            rows_per_chunk: 2,
            now: NOW,
            sessions: 0,
        }
    }

    /// A connection that has said nothing.
    pub fn connect(&mut self) -> SessionId {
        self.sessions += 1;
        let id = SessionId(self.sessions);
        self.hub.connect(id);
        id
    }

    /// A connection that has been welcomed.
    pub fn open(&mut self, replica: u8, credit_frames: u32) -> SessionId {
        let id = self.connect();
        self.say(id, hello(replica, credit_frames));
        self.work();
        let welcome = self.frame(id);
        assert!(
            matches!(welcome, Some(ServerFrame::Welcome { .. })),
            "{welcome:?}"
        );
        id
    }

    /// A welcomed connection that holds the shapes and has been told that it is up to date.
    pub fn follow(&mut self, replica: u8, filters: &[&str]) -> SessionId {
        let id = self.open(replica, 10_000);
        let wanted = filters.iter().zip(0..);
        let wanted = wanted.map(|(filter, number)| subscription(number, filter, None));
        self.say(id, ClientFrame::Subscribe(wanted.collect()));
        self.settle();
        let frames = self.hear(id);
        assert!(is_up_to_date(frames.last().unwrap()), "{frames:?}");
        id
    }

    pub fn say(&mut self, id: SessionId, frame: ClientFrame) {
        self.hub.receive(id, frame, self.now);
    }

    pub fn subscribe(&mut self, id: SessionId, number: u8, filter: &str, cursor: Option<Cursor>) {
        let wanted = subscription(number, filter, cursor);
        self.say(id, ClientFrame::Subscribe(vec![wanted]));
    }

    pub fn push(&mut self, id: SessionId, transactions: Vec<LocalTransaction>) {
        self.say(id, ClientFrame::Push(transactions));
    }

    /// The next frame for a session.
    pub fn frame(&mut self, id: SessionId) -> Option<ServerFrame> {
        self.hub.poll_frame(id)
    }

    /// Every frame there is for a session.
    pub fn hear(&mut self, id: SessionId) -> Vec<ServerFrame> {
        std::iter::from_fn(|| self.hub.poll_frame(id)).collect()
    }

    /// The sessions that the hub has something for, all of which it must have named.
    pub fn ready(&mut self) -> BTreeSet<SessionId> {
        std::iter::from_fn(|| self.hub.poll_ready()).collect()
    }

    /// Takes note of what the hub asks for.
    pub fn collect(&mut self) {
        while let Some(action) = self.hub.poll_action() {
            match action {
                Action::Greet {
                    session, replica, ..
                } => {
                    self.jobs.push_back(Job::Greet(session, replica));
                }
                Action::Merge { session, uploads } => {
                    self.jobs.push_back(Job::Merge(session, uploads));
                }
                Action::Snapshot { ticket, query } => {
                    self.jobs.push_back(Job::Start(ticket, query));
                }
                Action::ReadMore(ticket) => self.jobs.push_back(Job::Chunk(ticket)),
                Action::CancelSnapshot(ticket) => {
                    self.reading.remove(&ticket);
                    self.cancelled.insert(ticket);
                }
                Action::Close(session) => {
                    self.closed.insert(session);
                }
            }
        }
    }

    /// Does one thing that the hub asked for.
    pub fn perform(&mut self, job: Job) {
        match job {
            Job::Greet(session, replica) => {
                let standing = Standing {
                    merged_through: self.store.merged_through(replica),
                    horizon: Hlc::ZERO,
                };
                self.hub.greeted(session, standing, self.now);
            }
            Job::Merge(session, uploads) => {
                let merged = uploads.iter().map(|upload| self.store.merge(upload));
                let outcomes: Vec<_> = merged.collect();
                let seqs = uploads.iter().map(|upload| upload.transaction.seq);
                self.hub.merged(session, seqs.zip(outcomes).collect());
            }
            Job::Start(ticket, query) if !self.cancelled.contains(&ticket) => {
                let (visibility, rows) = self.store.snapshot(&query);
                let chunks = rows.chunks(self.rows_per_chunk).map(<[Delta]>::to_vec);
                self.reading.insert(ticket, chunks.collect());
                self.hub
                    .snapshot_started(ticket, visibility, rows.len() as u64);
            }
            Job::Chunk(ticket) if !self.cancelled.contains(&ticket) => {
                let chunks = self.reading.get_mut(&ticket).expect("a chunk of nothing");
                match chunks.pop_front() {
                    Some(rows) => self.hub.snapshot_rows(ticket, rows),
                    None => self.hub.snapshot_ended(ticket),
                }
            }
            Job::Start(..) | Job::Chunk(_) => {}
        }
        self.collect();
    }

    /// Does everything that the hub asks for, but tells nothing of the log.
    pub fn work(&mut self) {
        self.collect();
        while let Some(job) = self.jobs.pop_front() {
            self.perform(job);
        }
    }

    /// Tells the log to its end and does everything that the hub asks for.
    pub fn settle(&mut self) {
        self.work();
        self.tell();
        self.work();
    }

    /// Tells the hub of everything that the store has committed.
    pub fn tell(&mut self) {
        while self.tell_one() {}
        self.hub.idle(self.store.position);
    }

    /// Tells the hub of one more transaction; whether there was one.
    pub fn tell_one(&mut self) -> bool {
        let next = self.store.untold();
        let told = next.is_some();
        if let Some(transaction) = next {
            self.hub.store_transaction(transaction);
        }
        self.collect();
        told
    }
}

pub fn hello(replica: u8, credit_frames: u32) -> ClientFrame {
    ClientFrame::Hello {
        versions: (1, 1),
        replica: ReplicaId([replica; 16]),
        token: String::new(),
        schema_version: store::SCHEMA_VERSION,
        first_pending: Seq(1),
        credit_frames,
    }
}

pub fn sub(number: u8) -> SubscriptionId {
    SubscriptionId::new(number).unwrap()
}

pub fn spelled(filter: &str) -> ShapeRequest {
    ShapeRequest::Spelled {
        table: "notes".to_owned(),
        filter: (!filter.is_empty()).then(|| filter.to_owned()),
        columns: Vec::new(),
        parameters: Vec::new(),
    }
}

pub fn subscription(number: u8, filter: &str, cursor: Option<Cursor>) -> Subscription {
    Subscription {
        id: sub(number),
        shape: spelled(filter),
        cursor,
    }
}

pub fn at(position: u64) -> Cursor {
    Cursor {
        epoch: EPOCH,
        position: Position(position),
    }
}

pub fn is_up_to_date(frame: &ServerFrame) -> bool {
    matches!(frame, ServerFrame::Transaction { more: false, .. })
}
