//! The task that merges: takes what sessions pushed, in order, as much as shares one transaction of
//! the store, and tries until the store is there. Greetings queue with the merges, so that a
//! replica is told of all its earlier ones.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use anabranch_crdt::ReplicaId;
use anabranch_protocol::Seq;
use anabranch_store::{BoxFuture, MergeOutcome, Store, StoreError, Upload};
use tokio::sync::mpsc;
use tracing::{error, warn};

use crate::{engine::Event, hub::SessionId, limits::MERGE_BATCH_MAX};

/// What the task is asked for.
#[derive(Debug)]
pub(crate) enum MergeRequest {
    Greet {
        session: SessionId,
        replica: ReplicaId,
        first_pending: Seq,
    },
    Merge {
        session: SessionId,
        uploads: Vec<Upload>,
    },
    /// The session is over and asks for nothing more.
    Forget(SessionId),
}

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

pub(crate) fn start(
    store: Arc<dyn Store>,
    events: mpsc::Sender<Event>,
) -> mpsc::UnboundedSender<MergeRequest> {
    // Unbounded in itself, and bounded by the credit that each session has for its pushes.
    let (requests, queue) = mpsc::unbounded_channel();
    let merger = Merger {
        store,
        events,
        queue,
        put_back: None,
        failed: BTreeSet::new(),
    };
    tokio::spawn(merger.run());
    requests
}

struct Merger {
    store: Arc<dyn Store>,
    events: mpsc::Sender<Event>,
    queue: mpsc::UnboundedReceiver<MergeRequest>,
    /// Taken off the queue too early.
    put_back: Option<MergeRequest>,
    /// Sessions that something could not be merged for. Nothing that follows is merged either: it would
    /// leave a gap in the replica's order.
    failed: BTreeSet<SessionId>,
}

/// Nobody is left to tell.
struct Abandoned;

impl Merger {
    async fn run(mut self) {
        loop {
            let next = match self.put_back.take() {
                Some(request) => Some(request),
                None => self.queue.recv().await,
            };
            let done = match next {
                None => return,
                Some(MergeRequest::Greet {
                    session,
                    replica,
                    first_pending,
                }) => self.greet(session, replica, first_pending).await,
                Some(MergeRequest::Merge { session, uploads }) => {
                    let batch = self.batch(session, uploads);
                    self.merge(batch).await
                }
                Some(MergeRequest::Forget(session)) => {
                    self.failed.remove(&session);
                    Ok(())
                }
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn greet(
        &self,
        id: SessionId,
        replica: ReplicaId,
        first_pending: Seq,
    ) -> Result<(), Abandoned> {
        let greeted = self
            .retried(|| self.store.greet(replica, first_pending))
            .await?;
        let event = match greeted {
            Ok(standing) => Event::Greeted { id, standing },
            Err(error) => failure(id, &error),
        };
        self.events.send(event).await.map_err(|_| Abandoned)
    }

    /// What waits in the queue and may share a transaction of the store with `uploads`.
    fn batch(&mut self, session: SessionId, uploads: Vec<Upload>) -> Batch {
        let mut batch = Batch::default();
        batch.add(session, uploads);
        while batch.count < MERGE_BATCH_MAX {
            match self.queue.try_recv() {
                Ok(MergeRequest::Merge { session, uploads }) => batch.add(session, uploads),
                Ok(other) => {
                    self.put_back = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        batch
    }

    async fn merge(&mut self, batch: Batch) -> Result<(), Abandoned> {
        let mut batches = VecDeque::from([batch]);
        while let Some(mut batch) = batches.pop_front() {
            let failed = &self.failed;
            batch.shares.retain(|(id, _)| !failed.contains(id));
            if batch.shares.is_empty() {
                continue;
            }
            match self.retried(|| self.store.merge(batch.uploads())).await? {
                Ok(outcomes) => self.report(batch, outcomes).await?,
                // The store should have blamed an upload and has blamed itself. Whoever's it was, the
                // others must not suffer for it.
                Err(_) if batch.shares.len() > 1 => batches.extend(batch.apart()),
                Err(error) => {
                    for (id, _) in batch.shares {
                        self.failed.insert(id);
                        let sent = self.events.send(failure(id, &error)).await;
                        sent.map_err(|_| Abandoned)?;
                    }
                }
            }
        }
        Ok(())
    }

    async fn report(&self, batch: Batch, outcomes: Vec<MergeOutcome>) -> Result<(), Abandoned> {
        let mut outcomes = outcomes.into_iter();
        for (id, uploads) in batch.shares {
            let seqs = uploads.into_iter().map(|upload| upload.transaction.seq);
            let outcomes = seqs.zip(outcomes.by_ref()).collect();
            let sent = self.events.send(Event::Merged { id, outcomes }).await;
            sent.map_err(|_| Abandoned)?;
        }
        Ok(())
    }

    /// Tries until the store is there.
    async fn retried<'a, T>(
        &'a self,
        mut attempt: impl FnMut() -> BoxFuture<'a, Result<T, StoreError>>,
    ) -> Result<Result<T, StoreError>, Abandoned> {
        let mut wait = RETRY_MIN;
        loop {
            match attempt().await {
                Err(error @ StoreError::Unavailable(_)) => {
                    warn!(%error, "the store did not take a merge; trying again");
                }
                done => return Ok(done),
            }
            if self.events.is_closed() {
                return Err(Abandoned);
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
        }
    }
}

/// Uploads of several sessions that go to the store together.
#[derive(Default)]
struct Batch {
    shares: Vec<(SessionId, Vec<Upload>)>,
    count: usize,
}

impl Batch {
    fn add(&mut self, session: SessionId, uploads: Vec<Upload>) {
        self.count += uploads.len();
        self.shares.push((session, uploads));
    }

    fn uploads(&self) -> Vec<Upload> {
        let uploads = self.shares.iter().flat_map(|(_, uploads)| uploads);
        uploads.cloned().collect()
    }

    /// Each session's uploads on their own, in their order.
    fn apart(self) -> impl Iterator<Item = Self> {
        self.shares.into_iter().map(|(session, uploads)| {
            let mut batch = Self::default();
            batch.add(session, uploads);
            batch
        })
    }
}

fn failure(id: SessionId, error: &StoreError) -> Event {
    error!(%error, session = id.0, "the store cannot serve a session");
    let reason = error.to_string();
    Event::Failed { id, reason }
}
