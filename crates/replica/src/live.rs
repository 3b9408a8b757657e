//! Live queries: the result of a query, kept current by looking now and then, told as differences.
//!
//! No thread and no callback: [`LiveQuery::refresh`] is called whenever something may have
//! happened, and runs the query again only if a table that it reads has changed, by whatever
//! process. Several changes between two calls are one difference.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use anabranch_crdt::{TableId, Value};
use anabranch_protocol::codec::decode_schema;
use rusqlite::{
    Connection, Statement,
    hooks::{AuthAction, AuthContext, Authorization},
    params_from_iter,
};
use thiserror::Error;

use crate::{
    ReplicaError,
    tables::{
        first, meta,
        values::{Bound, from_sql},
    },
};

/// One row of a result, in the order of the query's columns.
pub type ResultRow = Vec<Value>;

/// A query whose result is kept current.
///
/// ```
/// use anabranch_replica::{LiveQuery, OpenOptions, Replica};
///
/// # let folder = tempfile::tempdir()?;
/// let replica = Replica::open(folder.path().join("notes.db"), OpenOptions::system())?;
/// let conn = replica.connection();
/// conn.execute_batch("CREATE TABLE draft(id TEXT PRIMARY KEY, body TEXT)")?;
/// let mut live = LiveQuery::new("SELECT id, body FROM draft ORDER BY id", vec![], &["id"]);
/// assert!(live.refresh(conn)?.is_none()); // nothing there yet
/// conn.execute("INSERT INTO draft VALUES ('a', 'first words')", [])?;
/// let diff = live.refresh(conn)?.unwrap();
/// assert_eq!((diff.inserted.len(), diff.updated.len(), diff.removed.len()), (1, 0, 0));
/// assert_eq!(live.rows().len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LiveQuery {
    sql: String,
    parameters: Vec<Value>,
    key_columns: Vec<String>,
    columns: Vec<String>,
    reads: Reads,
    seen: Option<Seen>,
    rows: Vec<ResultRow>,
}

/// What a result has become since it was last looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Rows that were not there.
    pub inserted: Vec<ResultRow>,
    /// Rows that are not what they were, as they are now.
    pub updated: Vec<ResultRow>,
    /// Rows that are no more, as they were.
    pub removed: Vec<ResultRow>,
    /// Whether the rows that stayed stand in another order.
    pub reordered: bool,
}

impl Diff {
    /// Whether it tells nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a live query has no result.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LiveQueryError {
    /// SQLite refused the query, or could not run it.
    #[error("the live query cannot be run: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The file could not be read.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// It would write.
    #[error("a live query may only read; write with Replica::transaction")]
    Writes,
    /// A key column is not among the columns of the result.
    #[error("the result has no column {0}; name its columns with AS, and the key by those names")]
    NoKeyColumn(String),
    /// The key columns do not tell rows apart.
    #[error("two rows of the result have the same key; name more key columns")]
    KeyNotUnique,
}

/// What a query reads.
#[derive(Debug, Default)]
struct Reads {
    tables: BTreeSet<String>,
    /// The numbers of the replicated ones.
    replicated: Vec<u32>,
    /// Whether it reads tables that the engine does not watch.
    others: bool,
}

/// What the file was like when the query was last run or found to need no run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    schema_version: Option<i64>,
    /// Commits of other connections, and changes by this one.
    moved: (Option<i64>, u64),
    /// What the engine counts of changes of the replicated tables, and the newest write that it has
    /// not counted yet.
    counted: (i64, Option<i64>),
}

impl LiveQuery {
    /// The query `sql`, with the values of its parameters in their order. `key_columns` name the
    /// columns of the result that tell its rows apart; with none, a row is known by all of it.
    pub fn new(sql: impl Into<String>, parameters: Vec<Value>, key_columns: &[&str]) -> Self {
        Self {
            sql: sql.into(),
            parameters,
            key_columns: key_columns.iter().map(|name| (*name).to_owned()).collect(),
            columns: Vec::new(),
            reads: Reads::default(),
            seen: None,
            rows: Vec::new(),
        }
    }

    /// The result as of the last refresh, in the query's order.
    pub fn rows(&self) -> &[ResultRow] {
        &self.rows
    }

    /// The names of the result's columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The tables that it reads, through views too.
    pub const fn tables(&self) -> &BTreeSet<String> {
        &self.reads.tables
    }

    /// Brings the result up to date; what has changed, if anything has.
    ///
    /// Call it always with the same connection to the replica's file, any that reads. It looks at
    /// two counters if nobody has written, and at a few more if nobody has written to a table that
    /// the query reads. An authorizer that the connection has is taken off it.
    pub fn refresh(&mut self, conn: &Connection) -> Result<Option<Diff>, LiveQueryError> {
        let schema_version = first(conn, "PRAGMA schema_version").map_err(ReplicaError::from)?;
        let data_version = first(conn, "PRAGMA data_version").map_err(ReplicaError::from)?;
        let moved = (data_version, conn.total_changes());
        let same_schema = |seen: &Seen| seen.schema_version == schema_version;
        let known = self.seen.as_ref().is_some_and(same_schema);
        if known && self.seen.as_ref().is_some_and(|seen| seen.moved == moved) {
            return Ok(None);
        }
        if !known {
            self.reads = Reads::of(conn, &self.sql)?;
        }
        let now = Seen {
            schema_version,
            moved,
            counted: self.reads.counted(conn)?,
        };
        let counted = self.seen.as_ref().map(|seen| seen.counted);
        if known && !self.reads.others && counted == Some(now.counted) {
            self.seen = Some(now);
            return Ok(None);
        }
        let rows = self.run(conn)?;
        let diff = self.diff(&rows)?;
        self.rows = rows;
        self.seen = Some(now);
        Ok((!diff.is_empty()).then_some(diff))
    }

    fn run(&mut self, conn: &Connection) -> Result<Vec<ResultRow>, LiveQueryError> {
        let mut query = conn.prepare_cached(&self.sql)?;
        self.columns = names(&query);
        let width = self.columns.len();
        let mut rows = query.query(params_from_iter(self.parameters.iter().map(Bound)))?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            let values = (0..width).map(|at| row.get_ref(at).map(from_sql));
            out.push(values.collect::<Result<ResultRow, _>>()?);
        }
        Ok(out)
    }

    /// Where the key columns stand in the result.
    fn key_places(&self) -> Result<Vec<usize>, LiveQueryError> {
        if self.key_columns.is_empty() {
            return Ok((0..self.columns.len()).collect());
        }
        let place = |name: &String| {
            let place = self.columns.iter().position(|column| column == name);
            place.ok_or_else(|| LiveQueryError::NoKeyColumn(name.clone()))
        };
        self.key_columns.iter().map(place).collect()
    }

    fn diff(&self, now: &[ResultRow]) -> Result<Diff, LiveQueryError> {
        let places = self.key_places()?;
        let key = |row: &ResultRow| -> Vec<Value> {
            let part = |at: &usize| row.get(*at).cloned().unwrap_or(Value::Null);
            places.iter().map(part).collect()
        };
        let mut before: HashMap<Vec<Value>, (usize, &ResultRow)> = HashMap::new();
        for (at, row) in self.rows.iter().enumerate() {
            before.insert(key(row), (at, row));
        }
        let mut met = BTreeSet::new();
        let mut diff = Diff::default();
        let mut last = None;
        for row in now {
            let key = key(row);
            match before.remove(&key) {
                Some((at, was)) => {
                    diff.reordered |= last.is_some_and(|last| last > at);
                    last = Some(at);
                    if was != row {
                        diff.updated.push(row.clone());
                    }
                }
                None => diff.inserted.push(row.clone()),
            }
            if !met.insert(key) {
                return Err(LiveQueryError::KeyNotUnique);
            }
        }
        let mut removed: Vec<(usize, &ResultRow)> = before.into_values().collect();
        removed.sort_unstable_by_key(|(at, _)| *at);
        diff.removed = removed.into_iter().map(|(_, row)| row.clone()).collect();
        Ok(diff)
    }
}

impl Reads {
    /// What `sql` reads, as SQLite says when it prepares it.
    fn of(conn: &Connection, sql: &str) -> Result<Self, LiveQueryError> {
        let tables = Arc::new(Mutex::new(BTreeSet::new()));
        let found = Arc::clone(&tables);
        conn.authorizer(Some(move |context: AuthContext<'_>| {
            if let AuthAction::Read { table_name, .. } = context.action {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.insert(table_name.to_owned());
            }
            Authorization::Allow
        }))?;
        let prepared = conn.prepare(sql).map(|query| query.readonly());
        conn.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
        if !prepared? {
            return Err(LiveQueryError::Writes);
        }
        let tables = std::mem::take(&mut *tables.lock().unwrap_or_else(PoisonError::into_inner));
        let schema: Option<Vec<u8>> = meta::read(conn, "schema").map_err(ReplicaError::from)?;
        let schema = schema.map(|bytes| decode_schema(&bytes)).transpose();
        let schema = schema.map_err(ReplicaError::from)?.unwrap_or_default();
        let number = |name: &String| {
            let table = schema.table_named(name);
            table.map(|table| table.id.0)
        };
        let replicated: Vec<u32> = tables.iter().filter_map(number).collect();
        Ok(Self {
            others: replicated.len() < tables.len(),
            tables,
            replicated,
        })
    }

    /// What the engine has counted of changes of the replicated tables, and the newest write to
    /// them that is captured and not counted yet.
    fn counted(&self, conn: &Connection) -> Result<(i64, Option<i64>), LiveQueryError> {
        let mut counted = 0_i64;
        let mut captured = None;
        for table in &self.replicated {
            let count = meta::number(conn, &counter_of(*table));
            counted = counted.wrapping_add(count.map_err(ReplicaError::from)?);
            let mut newest =
                conn.prepare_cached("SELECT max(id) FROM anabranch_capture WHERE tbl = ?1")?;
            captured = captured.max(newest.query_row([*table], |row| row.get(0))?);
        }
        Ok((counted, captured))
    }
}

/// The name of the count of a replicated table's changes, in `anabranch_meta`.
pub(crate) fn counter_of(table: u32) -> String {
    format!("changes_{table}")
}

/// Counts a change of a table, for live queries of every process.
pub(crate) fn count_change(conn: &Connection, table: TableId) -> Result<(), ReplicaError> {
    conn.prepare_cached(
        "INSERT INTO anabranch_meta(name, value) VALUES (?1, 1) \
         ON CONFLICT(name) DO UPDATE SET value = value + 1",
    )?
    .execute([counter_of(table.0)])?;
    Ok(())
}

fn names(query: &Statement<'_>) -> Vec<String> {
    let names = query.column_names().into_iter();
    names.map(str::to_owned).collect()
}
