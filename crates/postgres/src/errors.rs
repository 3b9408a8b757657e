//! What an error of Postgres means: for the store as a whole, or for one upload.

use anabranch_protocol::RejectCode;
use anabranch_store::StoreError;
use tokio_postgres::{Error, error::DbError};

/// Why a statement of a merge failed, by what to do next.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody's fault: try the same again.
    Busy(String),
    /// An upload's fault: the store will never take it.
    Refused(Refusal),
    /// The store's fault.
    Store(StoreError),
}

/// Why the store refuses an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: RejectCode,
    pub(crate) reason: String,
    /// Whether a unique constraint refused: another order of the same writes may do.
    pub(crate) unique: bool,
}

impl Refusal {
    pub(crate) fn new(code: RejectCode, reason: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
            unique: false,
        }
    }
}

impl Failure {
    /// What it means where there is no upload to blame.
    pub(crate) fn into_store_error(self) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Busy(reason) => StoreError::Unavailable(reason),
            Self::Refused(refusal) => StoreError::Unavailable(refusal.reason),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let Some(db) = error.as_db_error() else {
            return Self::Store(store_error(&error));
        };
        let code = db.code().code();
        match (class(code), code) {
            // "cached plan must not change result type": the table was altered meanwhile.
            ("40", _) | (_, "55P03" | "0A000") => Self::Busy(describe(&error)),
            // Two services were sent the same transaction; one of them has just recorded it.
            ("23", _) if db.schema() == Some("anabranch") => Self::Busy(describe(&error)),
            ("23", _) => {
                let unique = code == "23505";
                Self::Refused(Refusal {
                    unique,
                    ..refusal(RejectCode::Constraint, db)
                })
            }
            ("22", _) => Self::Refused(refusal(RejectCode::InvalidValue, db)),
            ("54", _) => Self::Refused(refusal(RejectCode::TooLarge, db)),
            (_, "42501") => Self::Refused(refusal(RejectCode::Forbidden, db)),
            (_, "42P01" | "42703" | "42704") => {
                Self::Refused(refusal(RejectCode::UnknownSchema, db))
            }
            ("08" | "25" | "28" | "53" | "55" | "57" | "58" | "XX", _) => {
                Self::Store(store_error(&error))
            }
            _ => Self::Refused(refusal(RejectCode::Store, db)),
        }
    }
}

fn class(code: &str) -> &str {
    code.get(..2).unwrap_or_default()
}

fn refusal(code: RejectCode, db: &DbError) -> Refusal {
    let mut reason = db.message().to_owned();
    let named = [
        ("constraint", db.constraint()),
        ("column", db.column()),
        ("table", db.table()),
    ];
    for (what, name) in named {
        // Postgres quotes most of them in its message already.
        if let Some(name) = name.filter(|name| !reason.contains(&format!("\"{name}\""))) {
            reason.push_str(&format!(" ({what} \"{name}\")"));
        }
    }
    Refusal::new(code, reason)
}

/// What an error means for the store as a whole.
pub(crate) fn store_error(error: &Error) -> StoreError {
    let text = describe(error);
    let Some(db) = error.as_db_error() else {
        return StoreError::Unavailable(text);
    };
    match db.code().code() {
        "28P01" | "28000" => StoreError::Misconfigured(format!(
            "Postgres refuses the login: {text}; correct the user or the password in the URL, or \
             pg_hba.conf"
        )),
        "3D000" => StoreError::Misconfigured(format!(
            "{text}; create the database or correct its name in the URL"
        )),
        "42501" => StoreError::Misconfigured(format!(
            "the role lacks a right: {text}; grant it, or connect as the role that installed \
             Anabranch"
        )),
        "42P01" | "42883" | "3F000" if text.contains("anabranch") => StoreError::Misconfigured(
            format!("Anabranch is not installed in this database: {text}; run the installation"),
        ),
        _ => StoreError::Unavailable(text),
    }
}

/// The error in words, with its SQLSTATE, which `Error`'s own text leaves out.
pub(crate) fn describe(error: &Error) -> String {
    use std::error::Error as _;
    match (error.as_db_error(), error.source()) {
        (Some(db), _) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}
