//! Live queries: the result of a query, kept current by looking now and then, told as differences.
//!
//! No thread and no callback: [`LiveQuery::refresh`] is called whenever something may have
//! happened, and runs the query again only if a table or a row that it reads has changed, by whatever
//! process. Several changes between two calls are one difference.

use std::collections::{BTreeSet, HashMap};

use anabranch_crdt::Value;
use rusqlite::{Connection, Statement, params_from_iter};
use thiserror::Error;

use crate::{
    ReplicaError,
    tables::{
        Tables, first,
        values::{Bound, from_sql},
    },
    watch::live_reads::{Look, Reads, Rows, schema_of},
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
    /// The rows that it is to be of, where it has no SQL of its own.
    of_rows: Option<Rows>,
    /// The only rows that it depends on, of the tables named.
    only: Vec<Rows>,
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

/// What the file was like when the query was last run or found to need no run.
#[derive(Debug)]
struct Seen {
    schema_version: Option<i64>,
    /// Commits of other connections, and changes by this one.
    moved: (Option<i64>, u64),
    /// What the tables looked like that it reads.
    looks: Vec<Look>,
}

impl LiveQuery {
    /// The query `sql`, with the values of its parameters in their order. `key_columns` name the
    /// columns of the result that tell its rows apart; with none, a row is known by all of it.
    pub fn new(sql: impl Into<String>, parameters: Vec<Value>, key_columns: &[&str]) -> Self {
        Self {
            sql: sql.into(),
            parameters,
            key_columns: key_columns.iter().map(|name| (*name).to_owned()).collect(),
            of_rows: None,
            only: Vec::new(),
            columns: Vec::new(),
            reads: Reads::default(),
            seen: None,
            rows: Vec::new(),
        }
    }

    /// The rows of a replicated table whose primary key begins with these values: one row where they
    /// are the whole key. All its columns, in the order of the key. It runs again only if one of
    /// these rows has changed.
    pub fn of_rows(table: impl Into<String>, key: Vec<Value>) -> Self {
        let rows = Rows {
            table: table.into(),
            key,
        };
        let mut query = Self::new(String::new(), rows.key.clone(), &[]);
        query.only.push(rows.clone());
        query.of_rows = Some(rows);
        query
    }

    /// The same query, which depends on no rows of `table` but those whose primary key begins with
    /// these values, and others named so: it runs again only if one of these has changed. That this
    /// is so is the caller's to see to, as where the query has that key in its condition.
    ///
    /// ```
    /// # use anabranch_replica::LiveQuery;
    /// # use anabranch_crdt::Value;
    /// let room = || vec![Value::text("room 1")];
    /// // messages has the key (room, sent, id)
    /// let sql = "SELECT sum(likes) FROM messages WHERE room = ?1";
    /// let query = LiveQuery::new(sql, room(), &[]).only("messages", room());
    /// ```
    #[must_use]
    pub fn only(mut self, table: impl Into<String>, key: Vec<Value>) -> Self {
        let table = table.into();
        self.only.push(Rows { table, key });
        self
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
        self.reads.tables()
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
            self.prepare(conn)?;
        }
        let before = self.seen.as_ref().filter(|_| known);
        let before = before.map_or(&[][..], |seen| &seen.looks);
        let looks = self.reads.look(conn, before)?;
        let same = known && self.reads.are_as(before, &looks);
        let now = Seen {
            schema_version,
            moved,
            looks,
        };
        if same {
            self.seen = Some(now);
            return Ok(None);
        }
        let rows = self.run(conn)?;
        let diff = self.diff(&rows)?;
        self.rows = rows;
        self.seen = Some(now);
        Ok((!diff.is_empty()).then_some(diff))
    }

    /// Makes out what it reads, by the schema as it is now.
    fn prepare(&mut self, conn: &Connection) -> Result<(), LiveQueryError> {
        let tables = Tables::new(schema_of(conn)?);
        if let Some(rows) = &self.of_rows {
            let found = tables.schema().table_named(&rows.table);
            let table = found.ok_or_else(|| ReplicaError::NoTable(rows.table.clone()))?;
            self.sql = rows.sql(table);
            self.key_columns = table.key_columns().map(|key| key.name.clone()).collect();
        }
        self.reads = Reads::of(conn, &self.sql, &tables, &self.only)?;
        Ok(())
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

fn names(query: &Statement<'_>) -> Vec<String> {
    let names = query.column_names().into_iter();
    names.map(str::to_owned).collect()
}
