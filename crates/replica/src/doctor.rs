//! Examining a replica's file: whether SQLite finds it whole, and whether rows, clocks, triggers and
//! outbox agree; and bringing them to agree again. Opening a file as a replica does not look at
//! every row; this does.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
};

use anabranch_crdt::{RowClock, RowKey, RowState, TableId, Value};
use anabranch_protocol::{Seq, SubscriptionSet, codec::decode_schema};
use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params_from_iter};

use crate::{
    OpenError, OpenOptions, ReplicaError,
    file::{Purpose, connect, recognise},
    numbers::Numbers,
    outbox,
    outbox::pending::PendingIndex,
    tables::{
        Held, Rules, TableSql, Tables, TablesError, audit, first,
        key::pack,
        meta, quote, unpack_key,
        values::{Bound, canonical, from_sql},
    },
};

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The kind of trouble.
    pub trouble: Trouble,
    /// The table concerned, if it is one table's.
    pub table: Option<String>,
    /// How many rows, triggers or messages it concerns.
    pub count: u64,
}

/// A kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// SQLite finds the file damaged.
    Damaged,
    /// Capture triggers are missing or altered.
    Triggers,
    /// Rows are there that the engine knows nothing of, or takes for removed.
    RowWithoutClock,
    /// Clocks tell of rows that are not there.
    ClockWithoutRow,
    /// The count of waiting transactions is not that of the outbox.
    OutboxCount,
}

impl Trouble {
    /// How it comes about.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::Damaged => "SQLite's integrity check fails: the disk or a program damaged it",
            Self::Triggers => "capture triggers are missing or altered: writes went unnoticed",
            Self::RowWithoutClock => "rows were written while the triggers were off or missing",
            Self::ClockWithoutRow => "rows were deleted while the triggers were off or missing",
            Self::OutboxCount => "the count of waiting transactions is wrong",
        }
    }

    /// What a repair does about it; `None` if nothing can be done here.
    pub const fn repair(self) -> Option<&'static str> {
        match self {
            Self::Damaged => None,
            Self::Triggers => Some("makes the triggers anew"),
            Self::RowWithoutClock => Some("sends the rows as local writes"),
            Self::ClockWithoutRow => Some(
                "forgets the rows but for what pending writes say, and fetches them again at the \
                 next connection",
            ),
            Self::OutboxCount => Some("counts them again"),
        }
    }
}

/// Examines the replica in the file at `path`, and with `repair` repairs what can be repaired, in
/// one transaction. The findings are those before the repair.
pub fn examine(path: &Path, repair: bool) -> Result<Vec<Finding>, OpenError> {
    let conn = connect(path, Purpose::Merge, &OpenOptions::system())?;
    if recognise(&conn, path)?.is_none() {
        return Ok(Vec::new());
    }
    Ok(examine_replica(&conn, repair)?)
}

fn examine_replica(conn: &Connection, repair: bool) -> Result<Vec<Finding>, ReplicaError> {
    let damage = damage(conn)?;
    if damage > 0 {
        // What a damaged file says of itself is worth nothing.
        return Ok(vec![Finding {
            trouble: Trouble::Damaged,
            table: None,
            count: damage,
        }]);
    }
    let tx = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
    let schema: Option<Vec<u8>> = meta::read(&tx, "schema")?;
    let schema = schema.map(|bytes| decode_schema(&bytes)).transpose()?;
    let tables = Tables::new(schema.unwrap_or_default());
    let mut findings = Vec::new();
    let mut found = |trouble, table: Option<&TableSql>, count: usize| {
        if count > 0 {
            findings.push(Finding {
                trouble,
                table: table.map(|table| table.table.local_name()),
                count: u64::try_from(count).unwrap_or(u64::MAX),
            });
        }
    };
    found(Trouble::Triggers, None, mended_triggers(&tx, &tables)?);
    for table in tables.iter() {
        let unnoticed = notice(&tx, table)?;
        found(Trouble::RowWithoutClock, Some(table), unnoticed.came);
        found(Trouble::ClockWithoutRow, Some(table), unnoticed.went);
    }
    found(Trouble::OutboxCount, None, recounted(&tx)?);
    if repair {
        tx.commit()?;
    }
    Ok(findings)
}

/// Rows of a table that came and went while its triggers were off or missing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unnoticed {
    pub(crate) came: usize,
    pub(crate) went: usize,
}

/// Captures the rows of a table that came unnoticed, as if they were written now, and forgets those
/// that went, to fetch them again: whether they were meant to go, nobody can tell. What pending
/// writes say of them stays.
pub(crate) fn notice(conn: &Connection, table: &TableSql) -> Result<Unnoticed, ReplicaError> {
    let captured = captured(conn, table)?;
    let mut pending = PendingIndex::default();
    pending.refresh(conn, &Numbers::read(conn)?.0)?;
    let came = rows_without_clock(conn, table, &captured, &pending)?;
    let went = clocks_without_row(conn, table, &captured, &pending)?;
    came.iter()
        .try_for_each(|key| capture(conn, table.id(), key))?;
    went.iter().try_for_each(|key| table.evict(conn, key))?;
    restore_pending(conn, table, &went)?;
    if !went.is_empty() {
        let sql = "UPDATE anabranch_subscription SET epoch = NULL, position = NULL";
        conn.execute(sql, [])?;
    }
    Ok(Unnoticed {
        came: came.len(),
        went: went.len(),
    })
}

/// How many complaints SQLite has.
fn damage(conn: &Connection) -> Result<u64, ReplicaError> {
    let mut query = conn.prepare("PRAGMA integrity_check")?;
    let complaints = query.query_map([], |row| row.get::<_, String>(0))?;
    let mut count = 0;
    for complaint in complaints {
        // A file may be too damaged for the check itself.
        match complaint {
            Ok(said) if said == "ok" => {}
            Ok(_) => count += 1,
            Err(_) => return Ok(count + 1),
        }
    }
    Ok(count)
}

/// Makes the capture triggers what they should be; how many were not.
fn mended_triggers(conn: &Connection, tables: &Tables) -> Result<usize, ReplicaError> {
    let all = || -> Result<HashSet<(String, String)>, rusqlite::Error> {
        let mut query = conn.prepare(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND name GLOB 'anabranch_*'",
        )?;
        let found = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        found.collect()
    };
    let before = all()?;
    audit(conn, tables, Rules::NotNull)?;
    let after = all()?;
    let names: HashSet<&String> = before
        .symmetric_difference(&after)
        .map(|(name, _)| name)
        .collect();
    Ok(names.len())
}

/// The keys of rows that were written and not sealed yet: their clocks are behind by right.
fn captured(conn: &Connection, table: &TableSql) -> Result<HashSet<Vec<u8>>, ReplicaError> {
    let sql = "SELECT k0, k1, k2, k3, k4, k5, k6, k7 FROM anabranch_capture WHERE tbl = ?1";
    let mut query = conn.prepare(sql)?;
    let mut rows = query.query([table.id().0])?;
    let mut keys = HashSet::new();
    while let Some(row) = rows.next()? {
        keys.insert(pack(&key_in(table, row)?));
    }
    Ok(keys)
}

/// The key that a row of a result begins with, in canonical form.
fn key_in(table: &TableSql, row: &Row<'_>) -> Result<RowKey, TablesError> {
    let value = |(at, column): (usize, &anabranch_shape::schema::Column)| {
        let value = from_sql(row.get_ref(at)?);
        Ok(canonical(column.kind, &value).unwrap_or(value))
    };
    let columns = table.table.key_columns().enumerate();
    let key: Result<Vec<Value>, rusqlite::Error> = columns.map(value).collect();
    Ok(RowKey(key?))
}

fn rows_without_clock(
    conn: &Connection,
    table: &TableSql,
    captured: &HashSet<Vec<u8>>,
    pending: &PendingIndex,
) -> Result<Vec<RowKey>, ReplicaError> {
    let columns: Vec<String> = table
        .table
        .key_columns()
        .map(|column| quote(&column.name))
        .collect();
    let name = quote(&table.table.local_name());
    let mut query = conn.prepare(&format!("SELECT {} FROM {name}", columns.join(", ")))?;
    let mut rows = query.query([])?;
    let mut unknown = Vec::new();
    while let Some(row) = rows.next()? {
        let key = key_in(table, row)?;
        let packed = pack(&key);
        if captured.contains(&packed) || key.0.contains(&Value::Null) {
            continue;
        }
        let held = table.held(conn, &packed)?;
        let held = Held::with_pending(held, pending.clock(table.id(), &packed));
        if held.is_none_or(|held| !held.clock.existence.is_present()) {
            unknown.push(key);
        }
    }
    Ok(unknown)
}

fn clocks_without_row(
    conn: &Connection,
    table: &TableSql,
    captured: &HashSet<Vec<u8>>,
    pending: &PendingIndex,
) -> Result<Vec<RowKey>, ReplicaError> {
    let mut clocks: BTreeMap<Vec<u8>, RowClock> = BTreeMap::new();
    table.each_held(conn, |packed, held| {
        clocks.insert(packed, held.clock);
        Ok(())
    })?;
    for (packed, clock) in pending.rows_of(table.id()) {
        clocks.entry(packed.to_vec()).or_default().join(clock);
    }
    let mut gone = Vec::new();
    for (packed, clock) in clocks {
        if clock.existence.is_present() && !captured.contains(&packed) {
            let key = unpack_key(&packed)?;
            if table.values(conn, &key, true)?.is_none() {
                gone.push(key);
            }
        }
    }
    Ok(gone)
}

/// Gives rows back what pending writes say of them.
fn restore_pending(
    conn: &Connection,
    table: &TableSql,
    gone: &[RowKey],
) -> Result<(), ReplicaError> {
    if gone.is_empty() {
        return Ok(());
    }
    let mut states: HashMap<&RowKey, RowState> = HashMap::new();
    let gone: HashSet<&RowKey> = gone.iter().collect();
    outbox::each_after(conn, Seq(0), |transaction, _| {
        for delta in transaction.deltas {
            let key = gone.get(&delta.key);
            if let Some(key) = key.filter(|_| delta.table == table.id()) {
                let _ = states.entry(key).or_default().merge(&delta.state);
            }
        }
        Ok(true)
    })?;
    for (key, state) in states {
        table.replace(conn, key, &state, SubscriptionSet::EMPTY)?;
    }
    Ok(())
}

/// Notes a row as inserted, as its trigger would have.
fn capture(conn: &Connection, table: TableId, key: &RowKey) -> Result<(), ReplicaError> {
    let columns: String = (0..key.0.len()).map(|at| format!(", k{at}")).collect();
    let places: String = (0..key.0.len())
        .map(|at| format!(", ?{}", at + 1))
        .collect();
    let id = table.0;
    let sql = format!("INSERT INTO anabranch_capture(tbl, op{columns}) VALUES ({id}, 1{places})");
    conn.prepare_cached(&sql)?
        .execute(params_from_iter(key.0.iter().map(Bound)))?;
    Ok(())
}

/// Counts the outbox again; 1 if the count was wrong.
fn recounted(conn: &Connection) -> Result<usize, ReplicaError> {
    let count: i64 = first(conn, "SELECT count(*) FROM anabranch_outbox")?.unwrap_or(0);
    let (mut numbers, stored) = Numbers::read(conn)?;
    if numbers.waiting() == count.unsigned_abs() {
        return Ok(0);
    }
    numbers.settled = numbers.next_seq.saturating_sub(1).saturating_sub(count);
    numbers.outbox_rewritten();
    numbers.write(conn, stored)?;
    Ok(1)
}
