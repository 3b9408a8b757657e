//! Merging uploads into the tables, under the rules that their owner gave them.
//!
//! The owner's constraints, triggers and foreign-key actions all run. What they do beyond the
//! upload is the server's own write, stamped above it: a cascade, a trigger's `updated_at`, a
//! default, a number that a column's type stores in another form.

use anabranch_crdt::{Delta, MergeKind, RowClock, Stamp, Value};
use anabranch_protocol::RejectCode;
use anabranch_replica::tables::{Held, TableSql, TablesError, key::pack, values::is_of_class};
use anabranch_shape::schema::Column;
use rusqlite::Connection;

use crate::{
    MergeOutcome, Rejection, StoreError, Upload,
    columns::{misfit, oversize},
};

use super::{
    core::Work,
    error::{refusal, sqlite},
    log::{self, Mark},
    policies,
};

/// A row that a merge has changed, and its values before, if it was in its table.
pub(super) struct Written<'d> {
    pub(super) delta: &'d Delta,
    pub(super) before: Option<Vec<Value>>,
}

/// Merges uploads, each in a savepoint of its own.
pub(super) fn merge_all(
    work: &mut Work<'_>,
    uploads: &[Upload],
) -> Result<Vec<MergeOutcome>, StoreError> {
    let mut outcomes = Vec::with_capacity(uploads.len());
    for upload in uploads {
        outcomes.push(merge_one(work, upload)?);
        if work.conn.is_autocommit() {
            break;
        }
    }
    Ok(outcomes)
}

/// Refuses an upload that broke a rule which is checked at the commit only.
pub(super) fn refuse_at_commit(
    work: &mut Work<'_>,
    upload: &Upload,
) -> Result<MergeOutcome, StoreError> {
    if let Some(outcome) = known_outcome(work, upload)? {
        return Ok(outcome);
    }
    let why = match attempt(work, upload)? {
        Err(why) => why,
        Ok(()) => match broken_reference(work.conn)? {
            Some(reason) => (RejectCode::Constraint, reason),
            None => (
                RejectCode::Store,
                "a trigger of the store rolled it back".to_owned(),
            ),
        },
    };
    refuse(work, upload, why)
}

fn merge_one(work: &mut Work<'_>, upload: &Upload) -> Result<MergeOutcome, StoreError> {
    if let Some(outcome) = known_outcome(work, upload)? {
        return Ok(outcome);
    }
    let (replica, seq) = (upload.replica, upload.transaction.seq);
    work.conn
        .execute_batch("SAVEPOINT upload")
        .map_err(sqlite)?;
    let touched = work.touched.clone();
    let applied = apply(work, upload);
    if work.conn.is_autocommit() {
        return Ok(MergeOutcome::Merged);
    }
    match applied {
        Ok(()) => {
            work.conn.execute_batch("RELEASE upload").map_err(sqlite)?;
            log::put_mark(
                work.conn,
                replica,
                seq,
                &Mark {
                    hash: upload.hash,
                    refusal: None,
                },
            )?;
            work.origins.push((replica, seq));
            Ok(MergeOutcome::Merged)
        }
        Err(Failure::Refused(why)) => {
            work.conn
                .execute_batch("ROLLBACK TO upload; RELEASE upload")
                .map_err(sqlite)?;
            work.touched = touched;
            refuse(work, upload, why)
        }
        Err(Failure::Store(error)) => Err(error),
    }
}

/// Why an upload did not go in.
pub(super) enum Failure {
    /// It is the upload's fault.
    Refused((RejectCode, String)),
    /// It is not.
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<TablesError> for Failure {
    fn from(error: TablesError) -> Self {
        refusal(&error).map_or_else(|| Self::Store(error.into()), Self::Refused)
    }
}

/// What is known of an upload that came before.
fn known_outcome(work: &Work<'_>, upload: &Upload) -> Result<Option<MergeOutcome>, StoreError> {
    let (replica, seq) = (upload.replica, upload.transaction.seq);
    let last = log::last_mark(work.conn, replica)?;
    match log::mark(work.conn, replica, seq)? {
        Some(mark) if mark.hash != upload.hash => {
            let reason = format!("the number {} was used before for other content", seq.0);
            let why = (RejectCode::Equivocation, reason);
            rejection(work, upload, why).map(|outcome| Some(MergeOutcome::Rejected(outcome)))
        }
        Some(Mark {
            refusal: Some(why), ..
        }) => rejection(work, upload, why).map(|outcome| Some(MergeOutcome::Rejected(outcome))),
        Some(_) => Ok(Some(MergeOutcome::Duplicate(log::last(work.conn)?))),
        // The replica has said that it needs this outcome no more, so whether this is the same
        // content again cannot be told: to call it merged could lose a write.
        None if seq <= last => {
            let reason = format!(
                "the number {} is used up, and what it stood for is forgotten: the replica's file \
                 was copied or restored; write it again",
                seq.0
            );
            let why = (RejectCode::Equivocation, reason);
            rejection(work, upload, why).map(|outcome| Some(MergeOutcome::Rejected(outcome)))
        }
        None if last.0 != 0 && upload.transaction.first() != last.next() => {
            Err(StoreError::Damaged(format!(
                "transaction {} of replica {replica} came after {}: those between are missing",
                seq.0, last.0
            )))
        }
        None => Ok(None),
    }
}

/// Records a refusal and says what the store holds instead.
fn refuse(
    work: &Work<'_>,
    upload: &Upload,
    why: (RejectCode, String),
) -> Result<MergeOutcome, StoreError> {
    let mark = Mark {
        hash: upload.hash,
        refusal: Some(why.clone()),
    };
    log::put_mark(work.conn, upload.replica, upload.transaction.seq, &mark)?;
    rejection(work, upload, why).map(MergeOutcome::Rejected)
}

fn rejection(
    work: &Work<'_>,
    upload: &Upload,
    (code, reason): (RejectCode, String),
) -> Result<Rejection, StoreError> {
    let mut rows = Vec::with_capacity(upload.transaction.deltas.len());
    for refused in &upload.transaction.deltas {
        let table = work.tables.get(refused.table);
        let held = table
            .map(|table| table.state(work.conn, &refused.key))
            .transpose()?
            .flatten();
        let held = held.unwrap_or_default();
        let state = held.project(|column| refused.state.clock().knows(column));
        rows.push(Delta {
            table: refused.table,
            key: refused.key.clone(),
            state,
        });
    }
    Ok(Rejection { code, reason, rows })
}

/// Applies an upload, then takes it back; why it is refused, if it is before the commit.
fn attempt(
    work: &mut Work<'_>,
    upload: &Upload,
) -> Result<Result<(), (RejectCode, String)>, StoreError> {
    work.conn
        .execute_batch("SAVEPOINT attempt")
        .map_err(sqlite)?;
    let touched = work.touched.clone();
    let applied = apply(work, upload);
    if work.conn.is_autocommit() {
        // Begun anew, so that the refusal can be recorded.
        work.conn.execute_batch("BEGIN IMMEDIATE").map_err(sqlite)?;
        work.touched = touched;
        let why = (
            RejectCode::Store,
            "a trigger of the store rolled it back".to_owned(),
        );
        return Ok(Err(why));
    }
    let broken = match &applied {
        Ok(()) => broken_reference(work.conn)?,
        Err(_) => None,
    };
    work.conn
        .execute_batch("ROLLBACK TO attempt; RELEASE attempt")
        .map_err(sqlite)?;
    work.touched = touched;
    match (applied, broken) {
        (Ok(()), Some(reason)) => Ok(Err((RejectCode::Constraint, reason))),
        (Ok(()), None) => Ok(Ok(())),
        (Err(Failure::Refused(why)), _) => Ok(Err(why)),
        (Err(Failure::Store(error)), _) => Err(error),
    }
}

/// A row that refers to nothing, in words.
fn broken_reference(conn: &Connection) -> Result<Option<String>, StoreError> {
    let mut query = conn.prepare("PRAGMA foreign_key_check").map_err(sqlite)?;
    let mut rows = query.query([]).map_err(sqlite)?;
    let Some(row) = rows.next().map_err(sqlite)? else {
        return Ok(None);
    };
    let child: String = row.get(0).map_err(sqlite)?;
    let parent: String = row.get(2).map_err(sqlite)?;
    Ok(Some(format!(
        "FOREIGN KEY constraint failed: {child} refers to a row that {parent} lacks"
    )))
}

fn apply(work: &mut Work<'_>, upload: &Upload) -> Result<(), Failure> {
    let deltas = &upload.transaction.deltas;
    for delta in deltas {
        check(work, delta)?;
        work.observe(delta.state.clock().newest());
    }
    let stamp = work.stamp()?;
    refuse_stale(work, upload)?;
    let mut written = Vec::with_capacity(deltas.len());
    for delta in ordered(work, deltas)? {
        written.extend(merge_row(work, delta, stamp)?);
    }
    policies::enforce(work, deltas)?;
    policies::revive(work, &written, stamp)?;
    // What is still captured is what the upload set off, not what it said.
    Ok(work.seal()?)
}

/// Refuses what the tables cannot hold, before anything is written.
fn check(work: &Work<'_>, delta: &Delta) -> Result<(), Failure> {
    let unknown = |reason: String| Failure::Refused((RejectCode::UnknownSchema, reason));
    let Some(table) = work.tables.get(delta.table) else {
        return Err(unknown(format!(
            "the store has no table numbered {}",
            delta.table.0
        )));
    };
    let table = &table.table;
    if delta.key.0.len() != table.primary_key.len() {
        return Err(unknown(format!(
            "the primary key of {} has other columns",
            table.name
        )));
    }
    if let Some(reason) = misfit(table, delta) {
        return Err(Failure::Refused((RejectCode::InvalidValue, reason)));
    }
    let mut others = delta.state.clock().columns().iter();
    if let Some((column, _)) = others.find(|(id, _)| table.column(*id).is_none()) {
        return Err(unknown(format!(
            "{} has no column numbered {}",
            table.name, column.0
        )));
    }
    let keys = table.primary_key.iter().copied().zip(&delta.key.0);
    let cells = delta
        .state
        .cells()
        .map(|(column, _, value)| (column, value));
    for (column, value) in keys.chain(cells) {
        let Some(column) = table.column(column) else {
            // A row inserted before the column was dropped, which never had a value there.
            if *value == Value::Null {
                continue;
            }
            return Err(unknown(format!(
                "{} has no column numbered {}",
                table.name, column.0
            )));
        };
        let fits =
            is_of_class(column.kind, value) && !(*value == Value::Null && table.is_key(column.id));
        if !fits {
            let (name, declared) = (&column.name, &column.declared_type);
            let reason = format!(
                "{}.{name} is {declared} and cannot hold {value:.60?}",
                table.name
            );
            return Err(Failure::Refused((RejectCode::InvalidValue, reason)));
        }
    }
    Ok(())
}

/// Refuses what the store cannot judge: it says that a row lives which the store does not have, not even
/// as a tombstone, and either holds only a part of it or is older than what may be forgotten of it.
fn refuse_stale(work: &Work<'_>, upload: &Upload) -> Result<(), Failure> {
    for (place, delta) in upload.transaction.deltas.iter().enumerate() {
        let Some(table) = work.tables.get(delta.table) else {
            continue;
        };
        let is_stale = upload.needs_row(place, work.horizon);
        if is_stale && table.held(work.conn, &pack(&delta.key))?.is_none() {
            let reason = Rejection::stale_reason(&table.table.local_name());
            return Err(Failure::Refused((RejectCode::Stale, reason)));
        }
    }
    Ok(())
}

/// Updates, then removals, then inserts: a child moves to another parent before its old one goes
/// and cascades, and a unique value is free before it is taken.
fn ordered<'d>(work: &Work<'_>, deltas: &'d [Delta]) -> Result<Vec<&'d Delta>, Failure> {
    let mut ranked = Vec::with_capacity(deltas.len());
    for delta in deltas {
        let Some(table) = work.tables.get(delta.table) else {
            continue;
        };
        let held = table.held(work.conn, &pack(&delta.key))?;
        let existence = delta.state.existence();
        let rank: u8 = if !existence.is_empty() && !existence.is_present() {
            1
        } else if held.is_some_and(|held| held.clock.existence.is_present()) {
            0
        } else {
            2
        };
        ranked.push((rank, delta));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    Ok(ranked.into_iter().map(|(_, delta)| delta).collect())
}

/// Merges one delta, and tells of the row if it has changed. Where the row then differs from what the
/// merge says, the store has had the last word, and says so with a stamp of its own.
pub(super) fn merge_row<'d>(
    work: &mut Work<'_>,
    delta: &'d Delta,
    stamp: Stamp,
) -> Result<Option<Written<'d>>, Failure> {
    let conn = work.conn;
    let Some(table) = work.tables.get(delta.table) else {
        return Ok(None);
    };
    let before = table.values(conn, &delta.key, true)?;
    let mark = last_captured(conn)?;
    let outcome = table.merge(conn, &delta.key, &delta.state, |shapes| shapes)?;
    if !outcome.merged.changed {
        return Ok(None);
    }
    forget_captured(conn, table, delta, mark)?;
    settle_columns(conn, table, delta)?;
    if outcome.merged.is_present {
        settle(conn, table, delta, before.clone(), stamp)?;
    } else if table.values(conn, &delta.key, true)?.is_some() {
        // A trigger put it back.
        recapture(conn, table, delta)?;
    }
    work.touched.insert((delta.table, delta.key.clone()));
    Ok(Some(Written { delta, before }))
}

/// Settles what the delta added to counters, and refuses what makes a set too large.
fn settle_columns(conn: &Connection, table: &TableSql, delta: &Delta) -> Result<(), Failure> {
    if delta.state.clock().columns().is_empty() {
        return Ok(());
    }
    let packed = pack(&delta.key);
    let Some(Held { mut clock, shapes }) = table.held(conn, &packed)? else {
        return Ok(());
    };
    if let Some(reason) = oversize(&table.table, delta, &clock) {
        return Err(Failure::Refused((RejectCode::TooLarge, reason)));
    }
    if clock.settle() {
        table.put_held(conn, &packed, &clock, shapes)?;
    }
    Ok(())
}

/// Stamps as the server's what the row holds otherwise than the merge says.
fn settle(
    conn: &Connection,
    table: &TableSql,
    delta: &Delta,
    before: Option<Vec<Value>>,
    stamp: Stamp,
) -> Result<(), Failure> {
    let packed = pack(&delta.key);
    let Some(after) = table.values(conn, &delta.key, true)? else {
        // A trigger took it away.
        return recapture(conn, table, delta);
    };
    let Some(Held { mut clock, shapes }) = table.held(conn, &packed)? else {
        return Ok(());
    };
    let mut changed = false;
    let mut before = before.map(Vec::into_iter);
    for (column, value) in table.table.registers().zip(&after) {
        let was = before.as_mut().and_then(Iterator::next);
        if column.merge != MergeKind::Register {
            changed |= settle_column(&mut clock, column, value, stamp);
            continue;
        }
        let written = delta.state.clock().register(column.id);
        let is_winner = written.is_some() && written == clock.register(column.id);
        let expected = if is_winner {
            delta.state.value(column.id).cloned()
        } else {
            was
        };
        let is_ours = clock.register(column.id).is_none()
            || expected.is_some_and(|expected| expected != *value);
        if is_ours {
            clock.set(column.id, stamp);
            changed = true;
        }
    }
    if changed {
        table.put_held(conn, &packed, &clock, shapes)?;
    }
    Ok(())
}

/// The same for a counter or a set; whether anything changed.
fn settle_column(clock: &mut RowClock, column: &Column, value: &Value, stamp: Stamp) -> bool {
    let held = clock.column(column.id);
    let is_known = held.is_some();
    let written = column.merge.write(held, value, stamp);
    let Some(written) = written.filter(|written| !(is_known && written.is_empty())) else {
        return false;
    };
    clock.join_column(column.id, &written);
    clock.settle();
    true
}

fn last_captured(conn: &Connection) -> Result<i64, TablesError> {
    let last = anabranch_replica::tables::first(conn, "SELECT max(id) FROM anabranch_capture")?;
    Ok(last.flatten().unwrap_or(0))
}

/// Forgets that the merge itself wrote the row.
fn forget_captured(
    conn: &Connection,
    table: &TableSql,
    delta: &Delta,
    mark: i64,
) -> Result<(), TablesError> {
    let keys: Vec<String> = (0..delta.key.0.len())
        .map(|at| format!(" AND k{at} IS ?{}", at + 3))
        .collect();
    let sql = format!(
        "DELETE FROM anabranch_capture WHERE id > ?1 AND tbl = ?2{}",
        keys.concat()
    );
    bind(
        conn,
        &sql,
        &[
            Value::Integer(mark),
            Value::Integer(i64::from(table.id().0)),
        ],
        delta,
    )
}

/// Has the row sealed as it is now, as a write of the server.
fn recapture(conn: &Connection, table: &TableSql, delta: &Delta) -> Result<(), Failure> {
    let keys: Vec<String> = (0..delta.key.0.len())
        .map(|at| format!(", k{at}"))
        .collect();
    let places: Vec<String> = (0..delta.key.0.len())
        .map(|at| format!(", ?{}", at + 3))
        .collect();
    let sql = format!(
        "INSERT INTO anabranch_capture(tbl, op{}) VALUES (?2, ?1{})",
        keys.concat(),
        places.concat()
    );
    let inserted = Value::Integer(1);
    bind(
        conn,
        &sql,
        &[inserted, Value::Integer(i64::from(table.id().0))],
        delta,
    )?;
    Ok(())
}

fn bind(conn: &Connection, sql: &str, first: &[Value], delta: &Delta) -> Result<(), TablesError> {
    use anabranch_replica::tables::values::Bound;
    let values = first.iter().chain(&delta.key.0).map(Bound);
    conn.prepare_cached(sql)?
        .execute(rusqlite::params_from_iter(values))?;
    Ok(())
}
