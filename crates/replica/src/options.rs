//! What a replica takes from outside: the time, new identities, and how to open the file.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anabranch_crdt::{Millis, ReplicaId};

use crate::{
    account::principal::Principal,
    limits::{OUTBOX_TRANSACTIONS_MAX, RETAINED_AGE_MAX_MS},
};

/// How to open a replica.
pub struct OpenOptions {
    /// The wall clock.
    pub now: Arc<dyn Fn() -> Millis + Send + Sync>,
    /// Draws over all of `u64`, for the SQL functions.
    pub random: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Makes the identity of a new replica; never the same one twice, in the whole world.
    pub new_id: Box<dyn FnMut() -> ReplicaId + Send>,
    /// How durable a local commit is.
    pub synchronous: Synchronous,
    /// How many local transactions may wait for the service; [`Replica::transaction`] refuses one
    /// more.
    ///
    /// [`Replica::transaction`]: crate::Replica::transaction
    pub outbox_transactions_max: u64,
    /// How large the file may become, its write-ahead log apart; `None` for as large as the disk lets
    /// it. A write or merge that would not fit fails, and nothing of it is done.
    pub file_bytes_max: Option<u64>,
    /// How many rows of shapes that were unsubscribed from are kept at most, to show at once when
    /// one of them is subscribed to again; 0 to let go of them with the subscription. A row of
    /// several such shapes counts several times.
    ///
    /// Queries see retained rows like any others, though nobody keeps them current: so it is 0
    /// unless the application, which knows which shapes it shows, says otherwise.
    pub retained_rows_max: u64,
    /// How long they are kept at most, counted from the last time they were current.
    pub retained_age_max_ms: u64,
    /// For whom the file is opened.
    pub principal: Principal,
    /// How long to wait for another program that is writing to the file.
    pub busy_timeout: Duration,
}

/// How durable a local commit is. No setting can damage the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Synchronous {
    /// A commit survives the program's crash; a power cut may take back the last few.
    #[default]
    Normal,
    /// A commit survives a power cut, at the price of a disk flush each.
    Full,
}

impl OpenOptions {
    /// The system's clock and random identities: the one file in this crate that reads them.
    pub fn system() -> Self {
        Self {
            now: Arc::new(system_time),
            random: Arc::new(system_random),
            new_id: Box::new(|| ReplicaId(uuid::Uuid::new_v4().into_bytes())),
            synchronous: Synchronous::Normal,
            outbox_transactions_max: OUTBOX_TRANSACTIONS_MAX,
            file_bytes_max: None,
            retained_rows_max: 0,
            retained_age_max_ms: RETAINED_AGE_MAX_MS,
            principal: Principal::Nobody,
            busy_timeout: Duration::from_secs(5),
        }
    }
}

impl fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenOptions")
            .field("synchronous", &self.synchronous)
            .field("busy_timeout", &self.busy_timeout)
            .finish_non_exhaustive()
    }
}

pub(crate) fn system_time() -> Millis {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

pub(crate) fn system_random() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0
}
