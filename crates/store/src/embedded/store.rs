//! The embedded store as the service wants it: asynchronous, with the file's work on threads that
//! may wait for the disk.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use anabranch_crdt::{Hlc, Millis, ReplicaId};
use anabranch_protocol::{Position, Seq};
use anabranch_shape::{rules::Rules, schema::Schema};
use rusqlite::Connection;
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
};

use crate::{
    BoxFuture, LogEvent, MergeOutcome, Snapshot, SnapshotQuery, Standing, Store, StoreError, Upload,
};

use super::{
    core::EmbeddedCore,
    error::sqlite,
    forget::ForgetPass,
    limits::{FOLLOW_EVENTS, FOREIGN_WRITES_POLL, SNAPSHOT_CHUNKS},
    reader::Reader,
};

/// One SQLite file as a service's store.
#[derive(Clone, Debug)]
pub struct EmbeddedStore {
    core: Arc<Mutex<EmbeddedCore>>,
    /// Moves whenever this process has written, so that followers need not wait for their next
    /// look.
    written: watch::Sender<()>,
}

impl EmbeddedStore {
    /// Opens the store in the file at `path`, with the system's clock. Where the file is new, the
    /// SQL in `schema` makes its tables; what is not installed yet is, with every table.
    pub fn open(path: &Path, schema: Option<&str>) -> Result<Self, StoreError> {
        Self::open_with(path, schema, &Rules::new())
    }

    /// The same, with rules as [`EmbeddedCore::install_with`] takes them.
    pub fn open_with(path: &Path, schema: Option<&str>, rules: &Rules) -> Result<Self, StoreError> {
        let is_new = !path.exists() || path.metadata().is_ok_and(|file| file.len() == 0);
        if let Some(schema) = schema.filter(|_| is_new) {
            let conn = Connection::open(path).map_err(sqlite)?;
            let made = conn.execute_batch(&format!("BEGIN; {schema}\n; COMMIT"));
            made.map_err(|error| {
                StoreError::Misconfigured(format!("the SQL that makes the tables fails: {error}"))
            })?;
        }
        let now = || {
            let since = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
        };
        EmbeddedCore::open_with(path, Box::new(now), rules).map(Self::new)
    }

    /// The store over an open file.
    pub fn new(core: EmbeddedCore) -> Self {
        Self {
            core: Arc::new(Mutex::new(core)),
            written: watch::Sender::new(()),
        }
    }

    /// Does work on the file on a thread that may wait for the disk.
    async fn on_file<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut EmbeddedCore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let core = Arc::clone(&self.core);
        joined(spawn_blocking(move || work(&mut lock(&core))).await)
    }
}

impl Store for EmbeddedStore {
    fn schema(&self) -> BoxFuture<'_, Result<Arc<Schema>, StoreError>> {
        Box::pin(self.on_file(|core| {
            core.seal_foreign_writes()?;
            Ok(core.schema())
        }))
    }

    fn greet(
        &self,
        replica: ReplicaId,
        first_pending: Seq,
    ) -> BoxFuture<'_, Result<Standing, StoreError>> {
        Box::pin(self.on_file(move |core| core.greet(replica, first_pending)))
    }

    fn merge(&self, uploads: Vec<Upload>) -> BoxFuture<'_, Result<Vec<MergeOutcome>, StoreError>> {
        Box::pin(async move {
            let outcomes = self.on_file(move |core| core.merge(uploads)).await;
            self.written.send_replace(());
            outcomes
        })
    }

    fn snapshot(&self, query: SnapshotQuery) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        Box::pin(async move {
            let table = query.table;
            let begun = self.on_file(move |core| {
                let reader = Reader::begin(core)?;
                let rows_estimate = reader.rows_estimate(table)?;
                Ok((reader, rows_estimate))
            });
            let (mut reader, rows_estimate) = begun.await?;
            self.written.send_replace(());
            let visibility = reader.visibility();
            let (chunk, chunks) = mpsc::channel(SNAPSHOT_CHUNKS);
            spawn_blocking(move || {
                let read = reader.each_chunk(&query, |rows| chunk.blocking_send(Ok(rows)).is_ok());
                if let Err(error) = read {
                    // Nobody is there to hear it if the receiver is gone.
                    let _ = chunk.blocking_send(Err(error));
                }
            });
            Ok(Snapshot {
                visibility,
                rows_estimate,
                chunks,
            })
        })
    }

    fn forget_removed(&self, horizon: Hlc) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            let mut pass = ForgetPass::new(horizon);
            loop {
                let step = move |core: &mut EmbeddedCore| {
                    let more = core.forget_step(&mut pass)?;
                    Ok((pass, more))
                };
                let (taken, more) = self.on_file(step).await?;
                if !more {
                    return Ok(taken.forgotten);
                }
                pass = taken;
            }
        })
    }

    fn follow(&self) -> BoxFuture<'_, Result<mpsc::Receiver<LogEvent>, StoreError>> {
        Box::pin(async move {
            let (position, schema) = self
                .on_file(|core| Ok((core.position()?, core.schema())))
                .await?;
            let (events, receiver) = mpsc::channel(FOLLOW_EVENTS);
            let follower = Follower {
                store: self.clone(),
                events,
                position,
                schema,
            };
            tokio::spawn(follower.run());
            Ok(receiver)
        })
    }
}

/// Reads the log on behalf of one service.
struct Follower {
    store: EmbeddedStore,
    events: mpsc::Sender<LogEvent>,
    position: Position,
    schema: Arc<Schema>,
}

impl Follower {
    /// Ends when nobody listens any more, or the log breaks off.
    async fn run(mut self) {
        let mut written = self.store.written.subscribe();
        // Where the log stands, for a service that starts over a store at rest.
        let _ = self.events.send(LogEvent::Idle(self.position)).await;
        loop {
            let told = match self.tell().await {
                Ok(told) => told,
                Err(StoreError::Unavailable(reason)) => {
                    tracing::warn!(reason, "the store's log cannot be read now");
                    false
                }
                Err(error) => {
                    tracing::error!(%error, "the store's log breaks off");
                    return;
                }
            };
            if self.events.is_closed() {
                return;
            }
            if told {
                continue;
            }
            tokio::select! {
                () = self.events.closed() => return,
                _ = written.changed() => {}
                () = tokio::time::sleep(FOREIGN_WRITES_POLL) => {}
            }
        }
    }

    /// Tells what is new; whether there was anything.
    async fn tell(&mut self) -> Result<bool, StoreError> {
        let after = self.position;
        let read = self.store.on_file(move |core| {
            let transactions = core.changes_since(after)?;
            Ok((transactions, core.schema()))
        });
        let (transactions, schema) = read.await?;
        let mut told = false;
        if schema != self.schema {
            self.schema = Arc::clone(&schema);
            told = self
                .events
                .send(LogEvent::SchemaChanged(schema))
                .await
                .is_ok();
        }
        for transaction in transactions {
            self.position = transaction.position;
            told = self
                .events
                .send(LogEvent::Transaction(transaction))
                .await
                .is_ok();
        }
        Ok(told)
    }
}

/// A panic on the other thread left nothing half done: all that matters is in the file.
fn joined<T>(
    result: Result<Result<T, StoreError>, tokio::task::JoinError>,
) -> Result<T, StoreError> {
    result.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
}

fn lock(core: &Mutex<EmbeddedCore>) -> MutexGuard<'_, EmbeddedCore> {
    core.lock().unwrap_or_else(PoisonError::into_inner)
}
