//! The file: recognising it, creating it, and the connections to it.

use std::{path::Path, sync::Arc};

use anabranch_crdt::ReplicaId;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, config::DbConfig};

use crate::{
    OpenError, OpenOptions, ReplicaError, Synchronous,
    account::identity,
    limits::{CACHE_KIB, PAGE_BYTES, STATEMENTS_CACHED, WAL_PAGES},
    sql::functions,
    tables::{
        first,
        layout::{self, COMMON},
        meta::{self, FORMAT},
    },
};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The application's statements: triggers capture them, foreign keys hold.
    Application,
    /// Merging: triggers and foreign-key actions off, since what they did elsewhere arrives as
    /// deltas of its own.
    Merge,
}

/// Opens a connection to the file for one purpose.
pub(crate) fn connect(
    path: &Path,
    purpose: Purpose,
    options: &OpenOptions,
) -> Result<Connection, OpenError> {
    let unopenable = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => foreign(path, "not a SQLite file"),
        _ => OpenError::Unopenable {
            path: path.display().to_string(),
            source,
        },
    };
    let conn = Connection::open(path).map_err(unopenable)?;
    configure(&conn, purpose, options).map_err(unopenable)?;
    Ok(conn)
}

fn configure(
    conn: &Connection,
    purpose: Purpose,
    options: &OpenOptions,
) -> Result<(), rusqlite::Error> {
    conn.busy_timeout(options.busy_timeout)?;
    let (now, random) = (Arc::clone(&options.now), Arc::clone(&options.random));
    functions::register(conn, move || now(), move || random())?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    conn.pragma_update(None, "page_size", PAGE_BYTES)?;
    // Reading the header first tells a file that is not a database from one that is.
    conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| {
        row.get::<_, i64>(0)
    })?;
    let synchronous = match options.synchronous {
        Synchronous::Normal => "NORMAL",
        Synchronous::Full => "FULL",
    };
    conn.pragma_update(None, "synchronous", synchronous)?;
    conn.pragma_update(None, "cache_size", -i64::from(CACHE_KIB))?;
    conn.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    if let Some(bytes) = options.file_bytes_max {
        let page_bytes: i64 = conn.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        let pages = i64::try_from(bytes).unwrap_or(i64::MAX) / page_bytes.max(1);
        // With 0 the pragma would do nothing; SQLite never goes below what the file has already.
        conn.pragma_update(None, "max_page_count", pages.clamp(1, PAGES_MAX))?;
    }
    match purpose {
        Purpose::Application => {
            conn.pragma_update(None, "recursive_triggers", true)?;
            conn.pragma_update(None, "foreign_keys", true)?;
        }
        Purpose::Merge => {
            conn.pragma_update(None, "foreign_keys", false)?;
            conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        }
    }
    Ok(())
}

/// Makes sure that the file is a replica, making one of it if it is empty; its identity.
pub(crate) fn establish(
    conn: &Connection,
    path: &Path,
    new_id: impl FnOnce() -> ReplicaId,
) -> Result<ReplicaId, OpenError> {
    // Looked at before anything is written, so that a file of another program stays as it is.
    let found = recognise(conn, path)?;
    conn.pragma_update(None, "journal_mode", "WAL")
        .map_err(ReplicaError::from)?;
    if let Some(id) = found {
        return Ok(id);
    }
    let tx = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)
        .map_err(ReplicaError::from)?;
    // Another process may have been quicker.
    if let Some(id) = recognise(&tx, path)? {
        return Ok(id);
    }
    let id = new_id();
    create(&tx, id)?;
    tx.commit().map_err(ReplicaError::from)?;
    Ok(id)
}

/// The identity of the replica in the file; `None` if the file is empty.
pub(crate) fn recognise(conn: &Connection, path: &Path) -> Result<Option<ReplicaId>, OpenError> {
    if !layout::exists(conn, "anabranch_meta").map_err(ReplicaError::from)? {
        let objects = "SELECT count(*) FROM sqlite_schema";
        let objects: Option<i64> = first(conn, objects).map_err(ReplicaError::from)?;
        return match objects {
            Some(0) => Ok(None),
            _ => Err(foreign(path, "the database of another program")),
        };
    }
    let format = meta::number(conn, "format").map_err(ReplicaError::from)?;
    if format > FORMAT {
        let path = path.display().to_string();
        return Err(OpenError::NewerFormat {
            path,
            found: format,
            known: FORMAT,
        });
    }
    if format < FORMAT {
        let path = path.display().to_string();
        return Err(OpenError::OlderFormat {
            path,
            found: format,
            known: FORMAT,
        });
    }
    match identity::replica(conn).map_err(ReplicaError::from)? {
        Some(id) => Ok(Some(id)),
        None => Err(foreign(path, "an embedded store")),
    }
}

fn create(conn: &Connection, id: ReplicaId) -> Result<(), ReplicaError> {
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    conn.execute_batch(COMMON)?;
    conn.execute_batch(REPLICA)?;
    meta::write(conn, "format", FORMAT)?;
    meta::write(conn, "replica", id.0)?;
    Ok(())
}

fn foreign(path: &Path, what: &'static str) -> OpenError {
    OpenError::Foreign {
        path: path.display().to_string(),
        what,
    }
}

/// `ANAB`, in the header of every replica.
const APPLICATION_ID: i32 = 0x414e_4142;

/// The most pages that SQLite lets a file have.
const PAGES_MAX: i64 = 4_294_967_294;

/// The side tables that only a replica has.
const REPLICA: &str = "
CREATE VIEW anabranch_outbox(seq, hlc, payload) AS
  SELECT id, changed, k0 FROM anabranch_capture WHERE op = 0;
CREATE TABLE anabranch_rejected(
  seq INTEGER PRIMARY KEY, payload BLOB NOT NULL, code INTEGER NOT NULL, reason TEXT NOT NULL,
  at_ms INTEGER NOT NULL);
CREATE TABLE anabranch_subscription(
  id INTEGER PRIMARY KEY, shape BLOB NOT NULL, epoch INTEGER, position INTEGER, refused TEXT,
  rows_staged INTEGER NOT NULL DEFAULT 0, rows_estimate INTEGER NOT NULL DEFAULT 0,
  retained_ms INTEGER, retained_rows INTEGER NOT NULL DEFAULT 0, stale_ms INTEGER);
CREATE TABLE anabranch_staging(
  n INTEGER PRIMARY KEY, subscription INTEGER NOT NULL, rows BLOB NOT NULL);
CREATE TABLE anabranch_told(
  tbl INTEGER NOT NULL, key BLOB NOT NULL, state BLOB NOT NULL, PRIMARY KEY (tbl, key))
  WITHOUT ROWID;
CREATE TABLE anabranch_unknown(
  tbl INTEGER NOT NULL, key BLOB NOT NULL, state BLOB NOT NULL, PRIMARY KEY (tbl, key))
  WITHOUT ROWID;
CREATE INDEX anabranch_staging_subscription ON anabranch_staging(subscription);
";
