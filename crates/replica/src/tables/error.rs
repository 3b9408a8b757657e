//! What can go wrong between the engine and the tables of its file.

use anabranch_crdt::{DecodeError, TableId};
use thiserror::Error;

use crate::limits::REPLICAS_MAX;

/// Why reading or writing the tables failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TablesError {
    /// Another connection held the write lock for longer than the timeout.
    #[error("another program is writing to the file; try again, or raise the busy timeout")]
    Busy,
    /// The disk is full, or the file as large as it may be.
    #[error(
        "there is no room to write to the file: {0}; free space on the disk, or raise \
         OpenOptions::file_bytes_max, and try again"
    )]
    Full(rusqlite::Error),
    /// The system refused to read or write.
    #[error(
        "the system does not let the file be read or written: {0}; look at the disk, its quota and \
         the rights to the file's folder, and try again"
    )]
    Io(rusqlite::Error),
    /// An index or trigger that somebody gave the file stands against what the service tells.
    #[error(
        "a rule that only this file has stands against what the service tells: {0}; drop the index \
         or trigger, and the merge goes on"
    )]
    OwnRule(rusqlite::Error),
    /// SQLite refused or failed.
    #[error("SQLite: {0}")]
    Sqlite(rusqlite::Error),
    /// A packed clock cannot be read.
    #[error("a clock of table {} cannot be read: {source}; restore the file", table.0)]
    Clock {
        /// The table.
        table: TableId,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// More replicas have written than a file can number.
    #[error("clocks of more than {REPLICAS_MAX} replicas; start a new file")]
    TooManyReplicas,
    /// A side table holds what the engine never writes.
    #[error("the file is damaged: {0}; restore it from a backup or start a new one")]
    Damaged(String),
    /// The schema asks for something that this file cannot hold.
    #[error("{0}")]
    Schema(String),
}

impl From<rusqlite::Error> for TablesError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                Self::Busy
            }
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full(error),
            Some(rusqlite::ErrorCode::SystemIoFailure) => Self::Io(error),
            _ => Self::Sqlite(error),
        }
    }
}

impl TablesError {
    /// This error, where it came up in merging what holds in the store.
    pub(crate) fn while_merging(self) -> Self {
        match self {
            Self::Sqlite(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) =>
            {
                Self::OwnRule(error)
            }
            other => other,
        }
    }
}
