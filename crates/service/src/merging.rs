//! The task that merges: takes what sessions pushed, in order, as much as shares one transaction of
//! the store, and tries until the store is there. Greetings queue with the merges, so that a
//! replica is told of all its earlier ones.

use std::{sync::Arc, time::Duration};

use anabranch_crdt::ReplicaId;
use anabranch_protocol::Seq;
use anabranch_store::{MergeOutcome, Store, Upload};
use tokio::sync::mpsc;
use tracing::warn;

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
}

const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

pub(crate) fn start(
    store: Arc<dyn Store>,
    events: mpsc::Sender<Event>,
) -> mpsc::UnboundedSender<MergeRequest> {
    // Unbounded in itself, and bounded by the credit that each session has for its pushes.
    let (requests, mut queue) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut put_back = None;
        loop {
            let next = match put_back.take() {
                Some(request) => Some(request),
                None => queue.recv().await,
            };
            match next {
                None => return,
                Some(MergeRequest::Greet {
                    session,
                    replica,
                    first_pending,
                }) => {
                    let merged_through =
                        retried(&events, || store.greet(replica, first_pending)).await;
                    let Some(merged_through) = merged_through else {
                        return;
                    };
                    let _ = events
                        .send(Event::Greeted {
                            id: session,
                            merged_through,
                        })
                        .await;
                }
                Some(MergeRequest::Merge { session, uploads }) => {
                    let mut batch = Batch::default();
                    batch.add(session, uploads);
                    while batch.uploads.len() < MERGE_BATCH_MAX {
                        match queue.try_recv() {
                            Ok(MergeRequest::Merge { session, uploads }) => {
                                batch.add(session, uploads);
                            }
                            Ok(other) => {
                                put_back = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    let outcomes = retried(&events, || store.merge(batch.uploads.clone())).await;
                    let Some(outcomes) = outcomes else { return };
                    batch.report(outcomes, &events).await;
                }
            }
        }
    });
    requests
}

/// Uploads of several sessions that go to the store together.
#[derive(Default)]
struct Batch {
    uploads: Vec<Upload>,
    shares: Vec<(SessionId, Vec<Seq>)>,
}

impl Batch {
    fn add(&mut self, session: SessionId, uploads: Vec<Upload>) {
        let seqs = uploads
            .iter()
            .map(|upload| upload.transaction.seq)
            .collect();
        self.shares.push((session, seqs));
        self.uploads.extend(uploads);
    }

    async fn report(self, outcomes: Vec<MergeOutcome>, events: &mpsc::Sender<Event>) {
        let mut outcomes = outcomes.into_iter();
        for (id, seqs) in self.shares {
            let outcomes = seqs.into_iter().zip(outcomes.by_ref()).collect();
            let _ = events.send(Event::Merged { id, outcomes }).await;
        }
    }
}

/// Tries until it works, or until nobody is left to tell.
async fn retried<'a, T, F>(events: &mpsc::Sender<Event>, mut attempt: F) -> Option<T>
where
    F: FnMut() -> anabranch_store::BoxFuture<'a, Result<T, anabranch_store::StoreError>>,
{
    let mut wait = RETRY_MIN;
    loop {
        match attempt().await {
            Ok(value) => return Some(value),
            Err(error) => warn!(%error, "the store did not take a merge; trying again"),
        }
        if events.is_closed() {
            return None;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}
