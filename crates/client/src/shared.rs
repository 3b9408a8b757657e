//! What the application's side of a client and its task have in common.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use anabranch_crdt::Millis;
use anabranch_replica::Replica;
use tokio::sync::{Notify, watch};
use tracing::warn;

use crate::{ConnectionState, Driver, Status};

pub(crate) struct Shared {
    pub(crate) replica: Mutex<Replica>,
    /// Locked before the replica wherever both are.
    pub(crate) driver: Mutex<Driver>,
    /// There may be something to do for the task.
    pub(crate) woken: Notify,
    /// The task is to end.
    pub(crate) stop: Notify,
    /// There may be something to tell those who follow changes.
    pub(crate) changed: watch::Sender<()>,
}

impl Shared {
    pub(crate) fn new(replica: Replica, driver: Driver) -> Self {
        Self {
            replica: Mutex::new(replica),
            driver: Mutex::new(driver),
            woken: Notify::new(),
            stop: Notify::new(),
            changed: watch::Sender::new(()),
        }
    }

    pub(crate) fn status(&self) -> Status {
        let driver = lock(&self.driver);
        let (caught_up, paused) = (driver.is_caught_up(), driver.is_paused());
        let connection = ConnectionState::from(driver.phase());
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
                let reason = error.to_string();
                Status {
                    connection: ConnectionState::Stopped { reason },
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

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// A panic elsewhere while it held the lock leaves nothing half done here: all that matters is in
/// the file, in whole transactions.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn now() -> Millis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
