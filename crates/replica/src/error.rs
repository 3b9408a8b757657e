//! What can go wrong with a replica, operation by operation.

use anabranch_crdt::HlcError;
use anabranch_protocol::{SubscriptionId, codec::CodecError};
use thiserror::Error;

use crate::{limits::TRANSACTION_BYTES_MAX, tables::TablesError};

/// Why a file could not be opened as a replica.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is not a replica, and not an empty file either.
    #[error("{path} is {what}, not a replica; name another file, or a new one")]
    Foreign {
        /// The file.
        path: String,
        /// What it is instead.
        what: &'static str,
    },
    /// A newer version of the engine has written it.
    #[error("{path} has format {found}, this version knows up to {known}; upgrade Anabranch")]
    NewerFormat {
        /// The file.
        path: String,
        /// Its format.
        found: i64,
        /// The newest format known here.
        known: i64,
    },
    /// A version of the engine has written it whose layout this one no longer reads.
    #[error("{path} has format {found}, this version reads {known} only; start a new file")]
    OlderFormat {
        /// The file.
        path: String,
        /// Its format.
        found: i64,
        /// The format known here.
        known: i64,
    },
    /// SQLite cannot open it.
    #[error("{path} cannot be opened: {source}")]
    Unopenable {
        /// The file.
        path: String,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// It opened, but what is in it could not be read or set up.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
}

/// Why a replica could not do as asked. Nothing of it was done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReplicaError {
    /// The tables could not be read or written.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// No stamp could be made.
    #[error(transparent)]
    Clock(#[from] HlcError),
    /// What the file holds could not be read, or does not fit what may be sent.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// The outbox holds as much as it may.
    #[error(
        "the outbox is full: {pending} transactions wait for the service; connect, or raise \
         OpenOptions::outbox_transactions_max"
    )]
    OutboxFull {
        /// How many wait.
        pending: u64,
    },
    /// One transaction is too large to be sent.
    #[error("the transaction takes {bytes} bytes, more than {TRANSACTION_BYTES_MAX}; split it")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Every subscription number is taken.
    #[error("all {max} subscriptions are taken; unsubscribe from a shape first")]
    TooManySubscriptions {
        /// How many there are.
        max: u8,
    },
    /// There is no such subscription.
    #[error("there is no subscription {}", .0.number())]
    NoSubscription(SubscriptionId),
    /// The bytes are no exported outbox, or only a part of one.
    #[error("these bytes are no exported outbox; export it again")]
    NoOutbox,
    /// A file could not be written beside the replica's.
    #[error("{path} cannot be written: {source}; name a new file, in a folder with room")]
    Unwritable {
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is no such table.
    #[error("there is no replicated table {0}; subscribe to a shape of it first")]
    NoTable(String),
    /// The file belongs to somebody else.
    #[error(
        "this file belongs to another user; open a file of your own (Fingerprint::file_name), or \
         have its owner sign out"
    )]
    OtherPrincipal,
    /// The file belongs to somebody, and was opened for nobody.
    #[error("this file belongs to a user; open it for them, with OpenOptions::principal")]
    PrincipalNeeded,
    /// The file's owner has signed out since this replica was opened.
    #[error("the user has signed out of this file; open it again to sign in")]
    SignedOut,
}

impl From<rusqlite::Error> for ReplicaError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Tables(error.into())
    }
}

/// Why a local transaction did not happen. Nothing of it was written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TransactionError<E> {
    /// The application's own error, as it returned it.
    #[error("{0}")]
    Work(E),
    /// The application ended the transaction itself, so that its writes could not be sealed with
    /// it.
    #[error("the transaction was ended from within; leave COMMIT and ROLLBACK to the replica")]
    Ended,
    /// The transaction could not be sealed or committed.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
}
