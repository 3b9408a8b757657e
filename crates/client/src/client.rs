//! A replica in step with a service, as an application holds it.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anabranch_crdt::Millis;
use anabranch_protocol::{ClientFrame, ServerFrame, session::ClientPhase};
use anabranch_replica::{
    Diff, Event, LiveQuery, LiveQueryError, Replica, ReplicaError, SubscriptionStatus,
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};
use tracing::{debug, warn};

use crate::{DriveError, Driver, connection::Connection, live};

/// How often the file is looked at for writes of other programs.
const FOREIGN_WRITES_INTERVAL: Duration = Duration::from_millis(100);

/// Where to find the service.
#[derive(Clone)]
pub struct ClientOptions {
    /// The service's URL, such as `ws://127.0.0.1:4600/v1/sync`.
    pub url: String,
    /// Proof of who the replica acts for; empty where the service asks for none.
    pub token: String,
}

/// Where the connection stands, for a badge or a banner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// No connection; the next try is due at this time.
    Offline {
        /// When.
        retry_at: Millis,
        /// Why the last try failed.
        reason: Option<String>,
    },
    /// A connection is being made.
    Connecting,
    /// In step, or getting there.
    Connected,
    /// The service refused; trying again is up to the application ([`Client::retry_now`]).
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}

/// How the replica stands with the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Where the connection stands.
    pub connection: ConnectionState,
    /// Local transactions that the service has not acknowledged.
    pub pending: u64,
    /// Local transactions that the service refused and the application has not dealt with.
    pub rejected: u64,
    /// Whether the application holds local transactions back ([`Client::pause`]).
    pub paused: bool,
    /// Whether the service has told all it knew, of every subscription.
    pub caught_up: bool,
    /// When the service last told anything, by its clock.
    pub last_synced: Option<Millis>,
    /// The subscriptions, with their progress.
    pub subscriptions: Vec<SubscriptionStatus>,
}

impl Status {
    /// Whether everything is sent, acknowledged and received, as far as is known here.
    pub fn is_settled(&self) -> bool {
        let served = |subscription: &SubscriptionStatus| {
            subscription.subscription.cursor.is_some() || subscription.refused.is_some()
        };
        self.connection == ConnectionState::Connected
            && self.pending == 0
            && self.caught_up
            && self.subscriptions.iter().all(served)
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

struct Shared {
    replica: Mutex<Replica>,
    driver: Mutex<Driver>,
    woken: Notify,
    stop: Notify,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Client {
    /// Starts keeping `replica` in step with the service. Must be called within a tokio runtime.
    pub fn start(replica: Replica, options: ClientOptions) -> Self {
        let shared = Arc::new(Shared {
            replica: Mutex::new(replica),
            driver: Mutex::new(Driver::new(options.token.clone())),
            woken: Notify::new(),
            stop: Notify::new(),
        });
        let (tell, status) = watch::channel(shared.status());
        let sync = Sync {
            shared: Arc::clone(&shared),
            url: options.url,
            tell,
        };
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
            woken: &self.shared.woken,
        }
    }

    /// How the replica stands with the service, to look at and to watch.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Waits until everything is sent, acknowledged and received, or the service refuses.
    pub async fn settled(&self) -> Status {
        let mut told = self.status.clone();
        self.shared.woken.notify_one();
        loop {
            // What was told last may be older than what was written last, so look afresh.
            let status = self.shared.status();
            let refused = matches!(status.connection, ConnectionState::Refused { .. });
            if status.is_settled() || refused || told.changed().await.is_err() {
                return status;
            }
        }
    }

    /// Tries to connect at once, whatever the wait or the refusal was.
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
    woken: &'a Notify,
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
        self.woken.notify_one();
    }
}

impl Shared {
    fn status(&self) -> Status {
        let driver = lock(&self.driver);
        let (caught_up, paused) = (driver.is_caught_up(), driver.is_paused());
        let connection = match driver.phase() {
            ClientPhase::Waiting { until, reason } => ConnectionState::Offline {
                retry_at: *until,
                reason: reason.clone(),
            },
            ClientPhase::Connecting | ClientPhase::Greeting => ConnectionState::Connecting,
            ClientPhase::Open => ConnectionState::Connected,
            ClientPhase::Stopped { reason, .. } => ConnectionState::Refused {
                reason: reason.clone(),
            },
        };
        drop(driver);
        match lock(&self.replica).status() {
            Ok(held) => Status {
                connection,
                pending: held.pending,
                rejected: held.rejected,
                paused,
                caught_up,
                last_synced: held.last_synced,
                subscriptions: held.subscriptions,
            },
            Err(error) => {
                warn!(%error, "the replica's file cannot be read");
                Status {
                    connection: ConnectionState::Refused {
                        reason: error.to_string(),
                    },
                    pending: 0,
                    rejected: 0,
                    paused,
                    caught_up: false,
                    last_synced: None,
                    subscriptions: Vec::new(),
                }
            }
        }
    }
}

/// The task that syncs.
struct Sync {
    shared: Arc<Shared>,
    url: String,
    tell: watch::Sender<Status>,
}

/// Why a session is over.
enum Over {
    Stopped,
    Disconnected(String),
}

impl Sync {
    async fn run(self) {
        loop {
            self.tell_status();
            let (due, timeout) = {
                let mut driver = lock(&self.shared.driver);
                (driver.poll_connect(now()), driver.poll_timeout())
            };
            if due {
                let over = tokio::select! {
                    opened = Connection::open(&self.url) => match opened {
                        Ok(connection) => self.session(connection).await,
                        Err(reason) => Over::Disconnected(reason),
                    },
                    () = self.shared.stop.notified() => Over::Stopped,
                };
                let (reason, stopped) = match over {
                    Over::Stopped => ("stopped".to_owned(), true),
                    Over::Disconnected(reason) => (reason, false),
                };
                debug!(%reason, "the session is over");
                lock(&self.shared.driver).disconnected(now(), random(), reason.clone());
                lock(&self.shared.replica).tell(Event::Offline { reason });
                self.tell_status();
                if stopped {
                    return;
                }
                continue;
            }
            let wait_ms = timeout.map_or(u64::MAX, |until| until.0.saturating_sub(now().0).max(1));
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(wait_ms.min(1_000))) => {}
                () = self.shared.woken.notified() => {}
                () = self.shared.stop.notified() => return,
            }
        }
    }

    async fn session(&self, mut connection: Connection) -> Over {
        let mut foreign = tokio::time::interval(FOREIGN_WRITES_INTERVAL);
        let mut step = Step::Connected;
        loop {
            // What the service says last is why it then closes the connection.
            let refused = step.refusal();
            let frames = match self.take(step).await {
                Ok(frames) => frames,
                Err(error) => {
                    warn!(%error, "the session cannot go on");
                    return Over::Disconnected(error.to_string());
                }
            };
            if let Some(reason) = refused {
                return Over::Disconnected(reason);
            }
            self.tell_status();
            for frame in &frames {
                if let Err(reason) = connection.send(frame).await {
                    return Over::Disconnected(reason);
                }
            }
            step = tokio::select! {
                received = connection.receive() => match received {
                    Ok(frame) => Step::Received(Box::new(frame)),
                    Err(reason) => return Over::Disconnected(reason),
                },
                () = self.shared.woken.notified() => Step::Woken,
                _ = foreign.tick() => Step::LookForForeignWrites,
                () = self.shared.stop.notified() => {
                    connection.close().await;
                    return Over::Stopped;
                }
            };
        }
    }

    /// Takes a step on a thread that may wait for the disk; returns what is to be sent.
    async fn take(&self, step: Step) -> Result<Vec<ClientFrame>, DriveError> {
        let shared = Arc::clone(&self.shared);
        let taken = tokio::task::spawn_blocking(move || {
            // The driver is locked first wherever both are.
            let mut driver = lock(&shared.driver);
            let mut replica = lock(&shared.replica);
            step.take(&mut driver, &mut replica)
        });
        match taken.await {
            Ok(frames) => frames,
            Err(_) => Err(DriveError::Interrupted),
        }
    }

    fn tell_status(&self) {
        let status = self.shared.status();
        self.tell.send_if_modified(|told| {
            let changed = *told != status;
            *told = status;
            changed
        });
    }
}

/// What happened in a session.
enum Step {
    Connected,
    Received(Box<ServerFrame>),
    Woken,
    LookForForeignWrites,
}

impl Step {
    /// Why the service ends the session, if it does.
    fn refusal(&self) -> Option<String> {
        match self {
            Self::Received(frame) => match &**frame {
                ServerFrame::Refused { message, .. } => Some(message.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    fn take(
        self,
        driver: &mut Driver,
        replica: &mut Replica,
    ) -> Result<Vec<ClientFrame>, DriveError> {
        match self {
            Self::Connected => driver.connected(replica)?,
            Self::Received(frame) => driver.receive(replica, *frame)?,
            Self::Woken => driver.subscriptions_changed(),
            Self::LookForForeignWrites => look_for_foreign_writes(replica)?,
        }
        let mut frames = Vec::new();
        while let Some(frame) = driver.poll_frame(replica)? {
            frames.push(frame);
        }
        Ok(frames)
    }
}

fn look_for_foreign_writes(replica: &mut Replica) -> Result<(), ReplicaError> {
    replica.seal_foreign_writes()?;
    Ok(())
}

/// A panic elsewhere while it held the lock leaves nothing half done here: all that matters is in
/// the file, in whole transactions.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now() -> Millis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
