//! A replica in step with a service, as an application holds it.

use std::{
    path::PathBuf,
    sync::{Arc, MutexGuard, PoisonError},
};

use anabranch_crdt::RowKey;
use anabranch_protocol::session::RetryPolicy;
use anabranch_replica::{Diff, LiveQuery, LiveQueryError, Replica, ReplicaError};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    Changes, Driver, Status, live,
    shared::{Shared, lock, now},
    task::Sync,
};

/// Where to find the service, and how to try.
#[derive(Clone, Default)]
pub struct ClientOptions {
    /// The service's URL, such as `ws://127.0.0.1:4600/v1/sync`.
    pub url: String,
    /// Proof of who the replica acts for; empty where the service asks for none.
    pub token: String,
    /// How to try again where the service cannot be reached.
    pub retry: RetryPolicy,
}

impl ClientOptions {
    /// The service at `url`, which is shown `token`.
    pub fn new(url: impl Into<String>, token: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            token: token.into(),
            retry: RetryPolicy::default(),
        }
    }
}

/// A replica that is kept in step with a service by a task of its own. Dropping it ends the task;
/// the file stays good whatever happens.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    status: watch::Receiver<Status>,
    task: JoinHandle<()>,
}

impl Client {
    /// Starts keeping `replica` in step with the service. Must be called within a tokio runtime.
    pub fn start(replica: Replica, options: ClientOptions) -> Self {
        let driver = Driver::new(options.token).retrying(options.retry);
        let shared = Arc::new(Shared::new(replica, driver));
        let (tell, status) = watch::channel(shared.status());
        let sync = Sync::new(Arc::clone(&shared), options.url, tell);
        let task = tokio::spawn(sync.run());
        Self {
            shared,
            status,
            task,
        }
    }

    /// The replica, to read and write; the sync task waits meanwhile, so hold it briefly. What was
    /// written goes up once the guard is dropped.
    pub fn replica(&self) -> ReplicaGuard<'_> {
        ReplicaGuard {
            replica: lock(&self.shared.replica),
            shared: &self.shared,
        }
    }

    /// How the replica stands with the service, to look at and to watch.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits until everything is sent, acknowledged and received, or nothing more is tried.
    pub async fn settled(&self) -> Status {
        let mut told = self.status.clone();
        self.shared.woken.notify_one();
        loop {
            // What was told last may be older than what was written last, so look afresh.
            let status = self.shared.status();
            let refused = status.connection.final_reason().is_some();
            if status.is_settled() || refused || told.changed().await.is_err() {
                return status;
            }
        }
    }

    /// Tries to connect at once, whatever the wait or the refusal was, as if nothing had failed yet.
    pub fn retry_now(&self) {
        lock(&self.shared.driver).retry_now(now());
        self.shared.woken.notify_one();
    }

    /// Holds local transactions back until [`Client::resume`]; what others write comes meanwhile.
    pub fn pause(&self) {
        lock(&self.shared.driver).pause();
        self.shared.woken.notify_one();
    }

    /// Goes on sending.
    pub fn resume(&self) {
        lock(&self.shared.driver).resume();
        self.shared.woken.notify_one();
    }

    /// What happens from now on, as it happens: changed rows, outcomes, progress.
    ///
    /// ```no_run
    /// # async fn follow(client: anabranch_client::Client) {
    /// let mut changes = client.changes();
    /// while let Some(events) = changes.recv().await {
    ///     println!("{} events", events.len());
    /// }
    /// # }
    /// ```
    pub fn changes(&self) -> Changes {
        let observer = lock(&self.shared.replica).observe();
        Changes::new(observer, self.shared.changed.subscribe())
    }

    /// Changes of a table from now on.
    pub fn changes_of_table(&self, table: &str) -> Result<Changes, ReplicaError> {
        let observer = lock(&self.shared.replica).observe_table(table)?;
        Ok(Changes::new(observer, self.shared.changed.subscribe()))
    }

    /// Changes of one row from now on, be it there or not.
    pub fn changes_of_row(&self, table: &str, key: RowKey) -> Result<Changes, ReplicaError> {
        let observer = lock(&self.shared.replica).observe_row(table, key)?;
        Ok(Changes::new(observer, self.shared.changed.subscribe()))
    }

    /// Keeps the result of a query current, on a connection and a thread of its own: tells the rows
    /// there are as inserted, then each change as it comes, those that nobody has taken yet as one.
    /// Ends with an error, or when the receiver is dropped.
    pub fn live(&self, query: LiveQuery) -> mpsc::Receiver<Result<Diff, LiveQueryError>> {
        let path = lock(&self.shared.replica)
            .connection()
            .path()
            .map(PathBuf::from);
        live::follow(path.unwrap_or_default(), query)
    }

    /// Ends the task and gives the replica back, with the connection closed in an orderly way.
    pub async fn stop(mut self) -> Option<Replica> {
        self.shared.stop.notify_one();
        let _ = (&mut self.task).await;
        let Self { shared, .. } = &self;
        let shared = Arc::clone(shared);
        drop(self);
        let shared = Arc::into_inner(shared)?;
        Some(
            shared
                .replica
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The replica, locked. See [`Client::replica`].
#[derive(Debug)]
pub struct ReplicaGuard<'a> {
    replica: MutexGuard<'a, Replica>,
    shared: &'a Shared,
}

impl std::ops::Deref for ReplicaGuard<'_> {
    type Target = Replica;

    fn deref(&self) -> &Replica {
        &self.replica
    }
}

impl std::ops::DerefMut for ReplicaGuard<'_> {
    fn deref_mut(&mut self) -> &mut Replica {
        &mut self.replica
    }
}

impl Drop for ReplicaGuard<'_> {
    fn drop(&mut self) {
        self.shared.woken.notify_one();
        // Who is told now finds the events, though the replica is still locked.
        self.shared.changed.send_replace(());
    }
}
