//! What a live query reads, and whether that has changed: by the counts that the engine keeps of each
//! table's changes, by the clocks of rows, and by writes that are captured and not sealed yet. All of
//! it lies in the file, so that it holds for the writes of every process.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use anabranch_crdt::{RowKey, Value};
use anabranch_protocol::{Seq, codec::decode_schema};
use anabranch_shape::schema::{Schema, Table};
use rusqlite::{
    Connection,
    hooks::{AuthAction, AuthContext, Authorization},
};

use crate::{
    LiveQueryError, ReplicaError,
    limits::CAPTURED_LOOKED_AT_MAX,
    numbers::Numbers,
    outbox,
    tables::{TableSql, Tables, key::pack, meta, newest_captured, quote, values::canonical},
    watch::changes,
};

/// Rows of a table whose primary key begins with some values.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    pub(crate) table: String,
    pub(crate) key: Vec<Value>,
}

impl Rows {
    /// The query of all their columns.
    pub(crate) fn sql(&self, table: &Table) -> String {
        let keys: Vec<String> = table.key_columns().map(|key| quote(&key.name)).collect();
        let named = keys.iter().zip(1..=self.key.len());
        let named: Vec<String> = named.map(|(key, at)| format!("{key} = ?{at}")).collect();
        let condition = match &named[..] {
            [] => String::new(),
            named => format!(" WHERE {}", named.join(" AND ")),
        };
        let (name, order) = (quote(&table.local_name()), keys.join(", "));
        format!("SELECT * FROM {name}{condition} ORDER BY {order}")
    }

    /// What their packed keys begin with.
    fn packed(&self, table: &Table) -> Vec<u8> {
        let values = table.key_columns().zip(&self.key);
        let values = values
            .map(|(column, value)| canonical(column.kind, value).unwrap_or_else(|| value.clone()));
        pack(&RowKey(values.collect()))
    }
}

/// What a query reads.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    tables: BTreeSet<String>,
    watches: Vec<Watch>,
    /// Whether it reads tables that the engine does not watch.
    others: bool,
}

/// A replicated table that is read.
#[derive(Debug)]
struct Watch {
    table: TableSql,
    /// What the packed keys of the rows begin with that matter; empty if all do.
    only: Vec<Vec<u8>>,
}

/// What a table looked like.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    /// How often the table had changed.
    changes: i64,
    /// The newest write that matters and was not counted yet.
    captured: Option<i64>,
    /// Stands for the clocks of the rows that matter, if only some do.
    clocks: Option<blake3::Hash>,
    /// The newest local transaction, and the newest of those that wait which wrote such a row.
    sealed: (Seq, Seq),
    /// How often local writes had been taken back: what only the outbox told of is gone without a
    /// trace in the clocks.
    taken_back: i64,
}

impl Look {
    /// Whether nothing that matters has changed in between.
    fn is_as(&self, other: &Self) -> bool {
        let as_it_was = match self.clocks {
            Some(_) => {
                self.clocks == other.clocks
                    && self.sealed.1 == other.sealed.1
                    && self.taken_back == other.taken_back
            }
            None => self.changes == other.changes,
        };
        as_it_was && self.captured == other.captured
    }
}

impl Reads {
    /// What `sql` reads, as SQLite says when it prepares it.
    pub(crate) fn of(
        conn: &Connection,
        sql: &str,
        replicated: &Tables,
        only: &[Rows],
    ) -> Result<Self, LiveQueryError> {
        let tables = tables_read(conn, sql)?;
        let watch = |name: &String| {
            let table = replicated.schema().table_named(name)?;
            let only = only.iter().filter(|rows| rows.table == *name);
            Some(Watch {
                table: TableSql::new(table.clone()),
                only: only.map(|rows| rows.packed(table)).collect(),
            })
        };
        let watches: Vec<Watch> = tables.iter().filter_map(watch).collect();
        Ok(Self {
            others: watches.len() < tables.len(),
            tables,
            watches,
        })
    }

    /// The tables, through views too.
    pub(crate) const fn tables(&self) -> &BTreeSet<String> {
        &self.tables
    }

    /// Whether `now` shows that nothing has changed since `before`.
    pub(crate) fn are_as(&self, before: &[Look], now: &[Look]) -> bool {
        let same = before.len() == now.len();
        same && !self.others
            && before
                .iter()
                .zip(now)
                .all(|(before, now)| now.is_as(before))
    }

    /// What it all looks like now, one look a table; `before` are those of the last time, or none.
    pub(crate) fn look(
        &self,
        conn: &Connection,
        before: &[Look],
    ) -> Result<Vec<Look>, ReplicaError> {
        let watches = self.watches.iter().enumerate();
        let looks = watches.map(|(at, watch)| watch.look(conn, before.get(at)));
        looks.collect()
    }
}

impl Watch {
    fn look(&self, conn: &Connection, before: Option<&Look>) -> Result<Look, ReplicaError> {
        let changes = changes::of(conn, self.table.id())?;
        if self.only.is_empty() {
            return Ok(Look {
                changes,
                captured: newest_captured(conn, &self.table, 1, |_| true)?,
                clocks: None,
                sealed: (Seq(0), Seq(0)),
                taken_back: 0,
            });
        }
        let matters = |key: &[u8]| self.only.iter().any(|prefix| key.starts_with(prefix));
        let unchanged = before.filter(|before| before.changes == changes);
        let clocks = match unchanged.and_then(|before| before.clocks) {
            Some(clocks) => clocks,
            None => self.clocks(conn)?,
        };
        let sealed = match (unchanged, before) {
            (Some(before), _) => before.sealed,
            (None, before) => self.sealed(conn, before, matters)?,
        };
        Ok(Look {
            changes,
            captured: newest_captured(conn, &self.table, CAPTURED_LOOKED_AT_MAX, matters)?,
            clocks: Some(clocks),
            sealed,
            taken_back: changes::taken_back(conn)?,
        })
    }

    /// The newest local transaction, and the newest of those that wait which wrote a row whose
    /// packed key `matters`: their clocks are not beside the rows yet.
    fn sealed(
        &self,
        conn: &Connection,
        before: Option<&Look>,
        matters: impl Fn(&[u8]) -> bool,
    ) -> Result<(Seq, Seq), ReplicaError> {
        let next = Numbers::read(conn)?.0.next_seq.unsigned_abs();
        let newest = Seq(next.saturating_sub(1));
        let Some(before) = before else {
            return Ok((newest, newest));
        };
        let wrote = outbox::newest_where(conn, before.sealed.0, |delta| {
            delta.table == self.table.id() && matters(&pack(&delta.key))
        })?;
        Ok((newest, wrote.unwrap_or(before.sealed.1)))
    }

    /// Stands for the clocks of the rows that matter: each write to a row changes its clock.
    fn clocks(&self, conn: &Connection) -> Result<blake3::Hash, ReplicaError> {
        let mut hash = blake3::Hasher::new();
        for prefix in &self.only {
            self.table.each_clock_under(conn, prefix, |key, clock| {
                for bytes in [key, clock] {
                    hash.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
                    hash.update(bytes);
                }
            })?;
        }
        Ok(hash.finalize())
    }
}

fn tables_read(conn: &Connection, sql: &str) -> Result<BTreeSet<String>, LiveQueryError> {
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
    let mut tables = tables.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *tables))
}

/// The schema that the file holds.
pub(crate) fn schema_of(conn: &Connection) -> Result<Schema, ReplicaError> {
    let schema: Option<Vec<u8>> = meta::read(conn, "schema")?;
    let schema = schema.map(|bytes| decode_schema(&bytes)).transpose()?;
    Ok(schema.unwrap_or_default())
}
