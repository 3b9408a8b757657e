//! The service in the simulator: the real hub over the real embedded store, with an edge that takes
//! its time and may be killed between any two things it does.

use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
};

use anabranch_crdt::{Delta, Hlc, Millis};
use anabranch_protocol::{Epoch, Position, Seq, limits::DRIFT_MAX_MS};
use anabranch_service::hub::{Action, Hub, HubConfig, SessionId, Ticket};
use anabranch_store::{
    MergeOutcome, SnapshotQuery, StoreTransaction, Upload, embedded::EmbeddedCore,
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    Failure, Rng, workload,
    world::{Happening, World},
};

/// Something the edge does, some time after it was asked.
#[derive(Debug)]
pub(super) enum Job {
    Greet {
        session: SessionId,
        replica: anabranch_crdt::ReplicaId,
        first_pending: Seq,
    },
    Merge {
        session: SessionId,
        uploads: Vec<Upload>,
    },
    TellMerged {
        session: SessionId,
        outcomes: Vec<(Seq, MergeOutcome)>,
    },
    Snapshot {
        ticket: Ticket,
        query: SnapshotQuery,
    },
    Chunk(Ticket),
    Tail,
    Tick,
}

pub(super) struct Service {
    pub(super) store: EmbeddedCore,
    pub(super) path: PathBuf,
    hub: Option<Hub>,
    generation: u64,
    /// Greetings and merges keep their order: each is done after the one before.
    queue_free_at: u64,
    told: Position,
    snapshots: BTreeMap<Ticket, VecDeque<Vec<Delta>>>,
    time_ms: Arc<AtomicU64>,
}

const CHUNK_ROWS: usize = 5;
const TICK_MS: u64 = 1_000;

impl Service {
    pub(super) fn new(folder: &Path, now_ms: u64, rng: &mut Rng) -> Result<Self, Failure> {
        let path = folder.join("store.db");
        workload::make_store(&path, rng)?;
        let time_ms = Arc::new(AtomicU64::new(now_ms));
        let store = open(&path, &time_ms)?;
        Ok(Self {
            store,
            path,
            hub: None,
            generation: 0,
            queue_free_at: 0,
            told: Position(0),
            snapshots: BTreeMap::new(),
            time_ms,
        })
    }

    fn start(&mut self, rng: &mut Rng) -> Result<(), Failure> {
        let config = HubConfig {
            drift_max_ms: DRIFT_MAX_MS,
            token: None,
            shapes: BTreeMap::new(),
            allow_spelled_shapes: true,
        };
        let schema = self.store.schema();
        let position = self
            .store
            .position()
            .map_err(|error| Failure::broken("store", error))?;
        self.told = position;
        self.hub = Some(Hub::new(config, schema, Epoch(rng.next()), position));
        Ok(())
    }

    pub(super) const fn is_up(&self) -> bool {
        self.hub.is_some()
    }

    pub(super) fn with_hub(&mut self, act: impl FnOnce(&mut Hub)) {
        if let Some(hub) = &mut self.hub {
            act(hub);
        }
    }

    pub(super) fn is_settled(&mut self) -> Result<bool, Failure> {
        let end = self
            .store
            .position()
            .map_err(|error| Failure::broken("store", error))?;
        Ok(self.hub.is_some() && self.told == end)
    }

    fn set_time(&self, now_ms: u64) {
        self.time_ms.store(now_ms, Ordering::Relaxed);
    }
}

fn open(path: &Path, time_ms: &Arc<AtomicU64>) -> Result<EmbeddedCore, Failure> {
    let time = Arc::clone(time_ms);
    let now = Box::new(move || Millis(time.load(Ordering::Relaxed)));
    EmbeddedCore::open(path, now).map_err(|error| Failure::broken("cannot open the store", error))
}

impl World {
    /// Kills the service. Its store's file stays; everything else it knew is gone.
    pub(super) fn kill_service(&mut self) -> Result<(), Failure> {
        if !self.service.is_up() {
            return Ok(());
        }
        self.service.hub = None;
        self.service.generation += 1;
        self.service.snapshots.clear();
        self.service.store = open(&self.service.path, &self.service.time_ms)?;
        let sessions: Vec<SessionId> = self.links.keys().copied().collect();
        for session in sessions {
            self.break_link(session);
        }
        let down_ms = self.rng.below(3_000);
        self.after(down_ms, Happening::ServiceStarts);
        Ok(())
    }

    pub(super) fn start_service(&mut self) -> Result<(), Failure> {
        // The hub begins where the log ends; the model keeps all that the log ever told.
        let failed = |error| Failure::broken("no log", error);
        loop {
            let missed = self
                .service
                .store
                .changes_since(self.service.told)
                .map_err(failed)?;
            let Some(last) = missed.last() else { break };
            self.service.told = last.position;
            for transaction in &missed {
                self.model.told(transaction);
            }
        }
        let Self { service, rng, .. } = self;
        service.start(rng)?;
        self.job(TICK_MS, Job::Tick);
        Ok(())
    }

    /// The store forgets the rows that were removed before now: sooner than any service would, so
    /// that replicas are behind in every way.
    pub(super) fn forget_removed(&mut self) -> Result<(), Failure> {
        self.service.set_time(self.now);
        let now = Millis(self.now);
        let horizon = Hlc::new(now, 0).map_err(|error| Failure::broken("no horizon", error))?;
        let forgotten = self.service.store.forget_removed(horizon);
        forgotten.map_err(|error| Failure::broken("cannot forget", error))?;
        self.model.forget_removed(horizon);
        self.store_written();
        Ok(())
    }

    /// Another program has written to the store, or a merge has: the log will tell.
    pub(super) fn store_written(&mut self) {
        let delay = self.rng.below(60);
        self.job(delay, Job::Tail);
    }

    fn job(&mut self, delay_ms: u64, job: Job) {
        let generation = self.service.generation;
        self.after(delay_ms, Happening::Job { generation, job });
    }

    /// Carries out what the hub asks for and sends what it has to say.
    pub(super) fn pump_service(&mut self) -> Result<(), Failure> {
        loop {
            let Some(hub) = &mut self.service.hub else {
                return Ok(());
            };
            if let Some(action) = hub.poll_action() {
                self.act(action);
            } else if let Some(session) = hub.poll_ready() {
                while let Some(frame) = self
                    .service
                    .hub
                    .as_mut()
                    .and_then(|hub| hub.poll_frame(session))
                {
                    self.send_down(session, &frame)?;
                }
            } else {
                return Ok(());
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Greet {
                session,
                replica,
                first_pending,
            } => {
                self.queued(Job::Greet {
                    session,
                    replica,
                    first_pending,
                });
            }
            Action::Merge { session, uploads } => self.queued(Job::Merge { session, uploads }),
            Action::Snapshot { ticket, query } => {
                let delay = self.rng.below(150);
                self.job(delay, Job::Snapshot { ticket, query });
            }
            Action::ReadMore(ticket) => {
                let delay = self.rng.below(30);
                self.job(delay, Job::Chunk(ticket));
            }
            Action::CancelSnapshot(ticket) => {
                self.service.snapshots.remove(&ticket);
            }
            Action::Close(session) => {
                // What has been said still arrives; then the connection is gone.
                let delay = 400 + self.rng.below(100);
                self.after(delay, Happening::ServiceLost(session));
                self.after(delay, Happening::ReplicaLost(session));
            }
        }
    }

    fn queued(&mut self, job: Job) {
        let delay = self.rng.below(80);
        let time = self.service.queue_free_at.max(self.now + delay);
        self.service.queue_free_at = time;
        self.job(time - self.now, job);
    }

    pub(super) fn service_job(&mut self, generation: u64, job: Job) -> Result<(), Failure> {
        if generation != self.service.generation || !self.service.is_up() {
            return Ok(());
        }
        self.service.set_time(self.now);
        let failed = |error| Failure::broken("the store failed", error);
        match job {
            Job::Greet {
                session,
                replica,
                first_pending,
            } => {
                let standing = self
                    .service
                    .store
                    .greet(replica, first_pending)
                    .map_err(failed)?;
                let now = Millis(self.now);
                self.service
                    .with_hub(|hub| hub.greeted(session, standing, now));
            }
            Job::Merge { session, uploads } => {
                let outcomes = self.service.store.merge(uploads.clone()).map_err(failed)?;
                let seqs = uploads.iter().map(|upload| upload.transaction.seq);
                let outcomes: Vec<_> = seqs.zip(outcomes).collect();
                self.model.merged(&uploads, &outcomes);
                self.store_written();
                let delay = self.rng.below(60);
                self.job(delay, Job::TellMerged { session, outcomes });
            }
            Job::TellMerged { session, outcomes } => {
                self.service.with_hub(|hub| hub.merged(session, outcomes));
            }
            Job::Snapshot { ticket, query } => self.take_snapshot(ticket, &query)?,
            Job::Chunk(ticket) => self.read_chunk(ticket),
            Job::Tail => self.tail()?,
            Job::Tick => {
                let now = Millis(self.now);
                self.service.with_hub(|hub| hub.tick(now));
                self.job(TICK_MS, Job::Tick);
            }
        }
        Ok(())
    }

    fn take_snapshot(&mut self, ticket: Ticket, query: &SnapshotQuery) -> Result<(), Failure> {
        let taken = self.service.store.snapshot(query);
        let (visibility, rows) = taken.map_err(|error| Failure::broken("no snapshot", error))?;
        let chunks = rows.chunks(CHUNK_ROWS).map(<[Delta]>::to_vec).collect();
        self.service.snapshots.insert(ticket, chunks);
        let estimate = rows.len() as u64;
        self.service
            .with_hub(|hub| hub.snapshot_started(ticket, visibility, estimate));
        // What other programs wrote was sealed by the snapshot's reading.
        self.store_written();
        Ok(())
    }

    fn read_chunk(&mut self, ticket: Ticket) {
        let breaks = !self.quiet && self.rng.chance(20);
        let Some(chunks) = self.service.snapshots.get_mut(&ticket) else {
            return;
        };
        let chunk = chunks.pop_front();
        self.service.with_hub(|hub| match chunk {
            _ if breaks => hub.snapshot_failed(ticket),
            Some(rows) => hub.snapshot_rows(ticket, rows),
            None => hub.snapshot_ended(ticket),
        });
    }

    fn tail(&mut self) -> Result<(), Failure> {
        let after = self.service.told;
        let read = self.service.store.changes_since(after);
        let transactions: Vec<StoreTransaction> =
            read.map_err(|error| Failure::broken("no log", error))?;
        if !transactions.is_empty() {
            // The store tells a bounded number at a time.
            self.store_written();
        }
        for transaction in transactions {
            self.service.told = transaction.position;
            self.model.told(&transaction);
            self.service
                .with_hub(|hub| hub.store_transaction(transaction));
        }
        Ok(())
    }
}
