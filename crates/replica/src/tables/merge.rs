//! Merging: deltas joined into the rows of one table, a batch at a time.
//!
//! A batch comes in the order of packed keys, so that each B-tree is walked once. Of rows that are
//! known the clocks are read, the rows written as each is decided, the clocks written; where rows
//! are new, nothing is looked for. Expects a connection whose
//! triggers do not capture.

use std::{borrow::Cow, cmp::Ordering};

use anabranch_crdt::{Merged, RowClock, RowKey, RowState, TableId, Value, merge, merge_first};
use anabranch_protocol::SubscriptionSet;
use rusqlite::Connection;

use super::{
    ChangeKind, Held, RowChange, TablesError, clocks::ClockWriter, key, table::TableSql,
    writer::Writer,
};

/// A delta to be merged.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// The row.
    pub key: &'a RowKey,
    /// Its packed key.
    pub packed: &'a [u8],
    /// What comes in.
    pub state: &'a RowState,
    /// What pending writes say of the row beside what its clock does, if there are any.
    pub pending: Option<&'a RowClock>,
}

/// What merging a delta did to a row.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What the merge decided.
    pub merged: Merged,
    /// The shapes the row is in now.
    pub shapes: SubscriptionSet,
    /// Whether the row is known now, present or removed.
    pub known: bool,
}

impl Outcome {
    /// The change that an application can see, if it can see any.
    pub fn into_change(self, table: TableId, key: RowKey) -> Option<RowChange> {
        let presence = (self.merged.was_present, self.merged.is_present);
        let kind = ChangeKind::of(presence, &self.merged.won)?;
        let columns = match kind {
            ChangeKind::Removed => Vec::new(),
            _ => self.merged.won,
        };
        Some(RowChange {
            table,
            key,
            columns,
            kind,
        })
    }
}

impl TableSql {
    /// Merges a delta into a row on which no writes are pending, and sets the shapes it is in to
    /// what `shapes` makes of them.
    pub fn merge(
        &self,
        conn: &Connection,
        key: &RowKey,
        delta: &RowState,
        shapes: impl FnOnce(SubscriptionSet) -> SubscriptionSet,
    ) -> Result<Outcome, TablesError> {
        let packed = &key::pack(key);
        let mut shapes = Some(shapes);
        let row = Incoming {
            key,
            packed,
            state: delta,
            pending: None,
        };
        let outcomes = self.merge_batch(conn, &[row], |_, held| {
            shapes.take().map_or(held, |shapes| shapes(held))
        })?;
        Ok(outcomes.into_iter().next().unwrap_or_default())
    }

    /// Merges deltas, which come in the order of packed keys, and sets the shapes that each row is
    /// in to what `shapes` makes of its place in the batch and of those it was in.
    pub fn merge_batch(
        &self,
        conn: &Connection,
        rows: &[Incoming<'_>],
        mut shapes: impl FnMut(usize, SubscriptionSet) -> SubscriptionSet,
    ) -> Result<Vec<Outcome>, TablesError> {
        let mut batch = Batch {
            table: self,
            conn,
            writer: Writer::new(self, conn),
            clocks: ClockWriter::of_new_rows(self, conn)?,
            writes: Vec::new(),
            outcomes: Vec::with_capacity(rows.len()),
        };
        let mut rest = rows;
        while !rest.is_empty() {
            let keys = rest.iter().map(|row| row.packed);
            let held = self.held_until_unknown(conn, keys)?;
            for held in held {
                rest = batch.row(rest, held, &mut shapes)?;
            }
            // Where one row is new, the next ones mostly are.
            rest = batch.new_rows(rest, &mut shapes)?;
        }
        let writes = batch.writes.iter();
        self.put_all_held(conn, writes.map(|write| (write.packed, &write.held)))?;
        Ok(batch.outcomes)
    }

    /// The delta without columns that this file does not have yet.
    fn of_known_columns<'a>(&self, delta: &'a RowState) -> Cow<'a, RowState> {
        if delta
            .columns()
            .all(|column| self.register(column).is_some())
        {
            Cow::Borrowed(delta)
        } else {
            Cow::Owned(delta.project(|column| self.register(column).is_some()))
        }
    }

    /// The decision; the row is read only where two stamps are equal.
    fn merge_clock(
        &self,
        conn: &Connection,
        key: &RowKey,
        clock: &mut RowClock,
        delta: &RowState,
    ) -> Result<Merged, TablesError> {
        let present = clock.existence.is_present();
        let mut values: Option<Vec<Value>> = None;
        let mut failure = None;
        let merged = merge(clock, delta, |column, incoming| {
            if values.is_none() {
                match self.values(conn, key, present) {
                    Ok(read) => values = Some(read.unwrap_or_default()),
                    Err(error) => {
                        failure.get_or_insert(error);
                    }
                }
            }
            let position = self
                .registers
                .binary_search_by_key(&column, |register| register.id);
            let held = position.ok().and_then(|at| values.as_ref()?.get(at));
            held.map_or(Ordering::Less, |held| held.cmp(incoming))
        });
        match failure {
            Some(error) => Err(error),
            None => Ok(merged),
        }
    }
}

/// What is to be kept beside a row.
struct Write<'a> {
    packed: &'a [u8],
    held: Held,
}

/// A batch being merged.
struct Batch<'a> {
    table: &'a TableSql,
    conn: &'a Connection,
    writer: Writer<'a>,
    clocks: ClockWriter<'a>,
    /// The clocks to be written in the end.
    writes: Vec<Write<'a>>,
    outcomes: Vec<Outcome>,
}

impl<'a> Batch<'a> {
    /// Merges the first of these rows, of which `held` is known; the others.
    fn row<'r>(
        &mut self,
        rows: &'r [Incoming<'a>],
        held: Option<Held>,
        shapes: &mut impl FnMut(usize, SubscriptionSet) -> SubscriptionSet,
    ) -> Result<&'r [Incoming<'a>], TablesError> {
        let Some((row, rest)) = rows.split_first() else {
            return Ok(rows);
        };
        // A row that comes twice has been decided once already.
        let again = self.writes.last();
        let again = again.filter(|write| write.packed == row.packed);
        let held = again.map(|write| write.held.clone()).or(held);
        let held = Held::with_pending(held, row.pending);
        let known = held.is_some();
        let mut held = held.unwrap_or_default();
        let held_shapes = held.shapes;
        held.shapes = shapes(self.outcomes.len(), held_shapes);
        let shapes = held.shapes;
        let delta = self.table.of_known_columns(row.state);
        let clock = &mut held.clock;
        let merged = self.table.merge_clock(self.conn, row.key, clock, &delta)?;
        if merged.changed {
            let writer = &mut self.writer;
            writer.winners(row.key, &delta, &merged, &held.clock, known)?;
        }
        if merged.changed || (known && shapes != held_shapes) {
            let packed = row.packed;
            self.writes.push(Write { packed, held });
        }
        self.outcomes.push(Outcome {
            known: known || merged.changed,
            merged,
            shapes,
        });
        Ok(rest)
    }

    /// Merges rows for as long as they are not known: the clock that comes in is the row's then, and
    /// writing it tells whether it was known. The others.
    fn new_rows<'r>(
        &mut self,
        mut rows: &'r [Incoming<'a>],
        shapes: &mut impl FnMut(usize, SubscriptionSet) -> SubscriptionSet,
    ) -> Result<&'r [Incoming<'a>], TablesError> {
        while let Some((row, rest)) = rows.split_first() {
            let (clock, merged) = (row.state.clock(), merge_first(row.state));
            let all_known = matches!(self.table.of_known_columns(row.state), Cow::Borrowed(_));
            if row.pending.is_some() || !merged.changed || !all_known || self.is_written(row) {
                break;
            }
            let shapes = shapes(self.outcomes.len(), SubscriptionSet::EMPTY);
            if !self.clocks.add(row.packed, clock, shapes)? {
                break;
            }
            let writer = &mut self.writer;
            writer.winners(row.key, row.state, &merged, clock, false)?;
            self.outcomes.push(Outcome {
                known: true,
                merged,
                shapes,
            });
            rows = rest;
        }
        Ok(rows)
    }

    /// Whether the row has come just before, and its clock is to be written yet.
    fn is_written(&self, row: &Incoming<'_>) -> bool {
        let last = self.writes.last();
        last.is_some_and(|write| write.packed == row.packed)
    }
}
