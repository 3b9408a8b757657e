//! SQLite's failures as the store's, and as reasons to refuse one transaction.

use anabranch_protocol::RejectCode;
use anabranch_replica::tables::TablesError;
use rusqlite::{Error, ErrorCode, ffi};

use crate::StoreError;

/// A failure of SQLite that is nobody's upload's fault.
pub(super) fn sqlite(error: Error) -> StoreError {
    TablesError::from(error).into()
}

impl From<TablesError> for StoreError {
    fn from(error: TablesError) -> Self {
        match &error {
            TablesError::Busy => Self::Unavailable(error.to_string()),
            TablesError::Sqlite(cause) => match cause.sqlite_error_code() {
                Some(ErrorCode::DiskFull | ErrorCode::OutOfMemory | ErrorCode::SystemIoFailure) => {
                    Self::Unavailable(error.to_string())
                }
                Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                    Self::Misconfigured(error.to_string())
                }
                _ => Self::Damaged(error.to_string()),
            },
            TablesError::Schema(_) => Self::Misconfigured(error.to_string()),
            _ => Self::Damaged(error.to_string()),
        }
    }
}

/// Why the store's own rules refuse a write, if that is what the failure says.
pub(super) fn refusal(error: &TablesError) -> Option<(RejectCode, String)> {
    let TablesError::Sqlite(Error::SqliteFailure(failure, message)) = error else {
        return None;
    };
    let code = match (failure.code, failure.extended_code) {
        (ErrorCode::ConstraintViolation, ffi::SQLITE_CONSTRAINT_TRIGGER) => RejectCode::Store,
        (ErrorCode::ConstraintViolation, ffi::SQLITE_CONSTRAINT_DATATYPE) => {
            RejectCode::InvalidValue
        }
        (ErrorCode::ConstraintViolation, _) => RejectCode::Constraint,
        (ErrorCode::TypeMismatch, _) => RejectCode::InvalidValue,
        (ErrorCode::TooBig, _) => RejectCode::TooLarge,
        _ => return None,
    };
    Some((code, message.clone().unwrap_or_else(|| failure.to_string())))
}
