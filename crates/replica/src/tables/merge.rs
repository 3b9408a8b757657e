//! Merging: deltas joined into the rows of one table, a batch at a time.
//!
//! A batch comes in the order of packed keys, so that each B-tree is walked once: the clocks are
//! read, the rows written as each is decided, the clocks written. Expects a connection whose
//! triggers do not capture.

use std::{borrow::Cow, cmp::Ordering};

use anabranch_crdt::{ColumnId, Merged, RowClock, RowKey, RowState, TableId, Value, merge};
use anabranch_protocol::SubscriptionSet;
use rusqlite::{CachedStatement, Connection, params_from_iter};

use super::{
    ChangeKind, Held, RowChange, TablesError, key,
    names::Names,
    rows::run,
    table::{ColumnSql, TableSql},
    values::Bound,
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
        let held = self.held_in_order(conn, rows.iter().map(|row| row.packed))?;
        let mut writer = Writer::new(self, conn);
        let mut outcomes = Vec::with_capacity(rows.len());
        let mut writes: Vec<Write<'_>> = Vec::with_capacity(rows.len());
        for (at, (row, held)) in rows.iter().zip(held).enumerate() {
            // A row that comes twice has been decided once already.
            let again = writes.last().filter(|write| write.packed == row.packed);
            let held = again.map(|write| write.held.clone()).or(held);
            let held = Held::with_pending(held, row.pending);
            let known = held.is_some();
            let mut held = held.unwrap_or_default();
            let held_shapes = held.shapes;
            held.shapes = shapes(at, held_shapes);
            let shapes = held.shapes;
            let delta = self.of_known_columns(row.state);
            let merged = self.merge_clock(conn, row.key, &mut held.clock, &delta)?;
            if merged.changed {
                writer.winners(row.key, &delta, &merged, &held.clock, known)?;
            }
            if merged.changed || (known && shapes != held_shapes) {
                writes.push(Write {
                    packed: row.packed,
                    held,
                });
            }
            outcomes.push(Outcome {
                known: known || merged.changed,
                merged,
                shapes,
            });
        }
        self.put_all_held(conn, writes.iter().map(|write| (write.packed, &write.held)))?;
        Ok(outcomes)
    }

    /// What is kept beside the rows with these packed keys, which come in their order.
    ///
    /// One pass over the clocks where the keys lie close together, a search for each where not.
    pub(crate) fn held_in_order<'k>(
        &self,
        conn: &Connection,
        packed: impl ExactSizeIterator<Item = &'k [u8]>,
    ) -> Result<Vec<Option<Held>>, TablesError> {
        let mut out = Vec::with_capacity(packed.len());
        let mut wanted = packed.peekable();
        let mut query = conn.prepare_cached(&self.scan_clocks)?;
        let mut names = Names::new(conn);
        let mut recent: Option<(Vec<u8>, RowClock)> = None;
        let mut stepping = Stepping::default();
        while let Some(from) = wanted.peek() {
            let mut rows = query.query([from])?;
            let steps_max = stepping.steps_max(wanted.len());
            let mut steps = 0;
            while steps < steps_max && wanted.peek().is_some() {
                let Some(row) = rows.next()? else {
                    // Nothing lies beyond, so no other key is known either.
                    out.extend(wanted.by_ref().map(|_| None));
                    break;
                };
                let found = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
                while wanted.next_if(|key| *key < found).is_some() {
                    out.push(None);
                }
                steps += 1;
                while wanted.next_if(|key| *key == found).is_some() {
                    steps = 0;
                    let bytes = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
                    let shapes = SubscriptionSet(row.get::<_, i64>(2)?.cast_unsigned());
                    let clock = match &recent {
                        Some((held, clock)) if held == bytes => clock.clone(),
                        _ => {
                            let clock = names.unpack(self.id(), bytes)?;
                            recent = Some((bytes.to_vec(), clock.clone()));
                            clock
                        }
                    };
                    out.push(Some(Held { clock, shapes }));
                }
            }
        }
        Ok(out)
    }

    /// Writes what is kept beside rows, which come in the order of packed keys. Rows of one
    /// transaction mostly have the same clock, which is encoded once.
    pub(crate) fn put_all_held<'w>(
        &self,
        conn: &Connection,
        writes: impl Iterator<Item = (&'w [u8], &'w Held)>,
    ) -> Result<(), TablesError> {
        let mut statement = conn.prepare_cached(&self.put_clock)?;
        let mut names = Names::new(conn);
        let mut recent: Option<(&RowClock, Vec<u8>)> = None;
        for (packed, held) in writes {
            let bytes = match recent.take() {
                Some((clock, bytes)) if *clock == held.clock => bytes,
                _ => names.pack(&held.clock)?,
            };
            statement.execute((packed, &bytes, held.shapes.0.cast_signed()))?;
            recent = Some((&held.clock, bytes));
        }
        Ok(())
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

/// Cells of one row, in column order.
type Cells<'a> = [(&'a ColumnSql, &'a Value)];

/// Writes rows of one table, holding on to the statements that it used last: the rows of a batch
/// mostly write the same columns.
struct Writer<'a> {
    table: &'a TableSql,
    conn: &'a Connection,
    insert: Recent<'a>,
    update: Recent<'a>,
}

/// A statement, and the columns it writes.
type Recent<'a> = Option<(Vec<ColumnId>, CachedStatement<'a>)>;

impl<'a> Writer<'a> {
    const fn new(table: &'a TableSql, conn: &'a Connection) -> Self {
        Self {
            table,
            conn,
            insert: None,
            update: None,
        }
    }

    /// Writes what an incoming delta has won.
    fn winners(
        &mut self,
        key: &RowKey,
        delta: &RowState,
        merged: &Merged,
        clock: &RowClock,
        known: bool,
    ) -> Result<(), TablesError> {
        let registers = delta
            .cells()
            .filter(|(column, ..)| merged.won.binary_search(column).is_ok())
            .map(|(column, _, value)| (column, value));
        let others = delta.clock().columns().iter();
        let others = others
            .filter(|(column, _)| merged.won.binary_search(column).is_ok())
            .filter_map(|(column, _)| Some((*column, clock.shown(*column)?)));
        let mut won: Vec<(&ColumnSql, &Value)> = registers
            .chain(others)
            .filter_map(|(column, value)| Some((self.table.register(column)?, value)))
            .collect();
        if !delta.clock().columns().is_empty() {
            won.sort_by_key(|(register, _)| register.id);
            won.dedup_by_key(|(register, _)| register.id);
        }
        match (merged.was_present, merged.is_present) {
            (true, true) => self.update(key, &won),
            (false, true) if !known => self.insert(key, &won),
            (false, true) => self.raise(key, &won, clock),
            (true, false) => {
                run(self.conn, &self.table.bury, &key.0)?;
                run(self.conn, &self.table.delete_row, &key.0)?;
                self.update_dead(key, &won)
            }
            (false, false) => self.update_dead(key, &won),
        }
    }

    fn insert(&mut self, key: &RowKey, cells: &Cells<'_>) -> Result<(), TablesError> {
        let (table, conn) = (self.table, self.conn);
        write(&mut self.insert, key, cells, |registers| {
            Ok(conn.prepare_cached(&table.insert(registers))?)
        })
        .map(drop)
    }

    fn update(&mut self, key: &RowKey, cells: &Cells<'_>) -> Result<(), TablesError> {
        if cells.is_empty() {
            return Ok(());
        }
        let (table, conn) = (self.table, self.conn);
        let updated = write(&mut self.update, key, cells, |registers| {
            Ok(conn.prepare_cached(&table.update(registers))?)
        })?;
        // A row that vanished with the triggers off must not stop the merge.
        if updated == 0 {
            self.insert(key, cells)
        } else {
            Ok(())
        }
    }

    /// Brings a removed row back: the values it had, and the winners over them.
    fn raise(
        &mut self,
        key: &RowKey,
        won: &Cells<'_>,
        clock: &RowClock,
    ) -> Result<(), TablesError> {
        let kept = self
            .table
            .values(self.conn, key, false)?
            .unwrap_or_default();
        let kept = self.table.registers.iter().zip(&kept);
        let kept = kept.filter(|(register, _)| clock.knows(register.id));
        let mut cells: Vec<(&ColumnSql, &Value)> = kept.collect();
        for (register, value) in won {
            match cells.iter_mut().find(|(held, _)| held.id == register.id) {
                Some(cell) => cell.1 = value,
                None => cells.push((register, value)),
            }
        }
        cells.sort_unstable_by_key(|(register, _)| register.id);
        self.insert(key, &cells)?;
        run(self.conn, &self.table.delete_dead, &key.0).map(drop)
    }

    fn update_dead(&self, key: &RowKey, won: &Cells<'_>) -> Result<(), TablesError> {
        if won.is_empty() {
            return Ok(());
        }
        let registers = &self.table.registers;
        let kept = self.table.values(self.conn, key, false)?;
        let mut values = kept.unwrap_or_else(|| vec![Value::Null; registers.len()]);
        for (register, slot) in registers.iter().zip(&mut values) {
            if let Some((_, value)) = won.iter().find(|(won, _)| won.id == register.id) {
                *slot = (*value).clone();
            }
        }
        run(self.conn, &self.table.put_dead, key.0.iter().chain(&values)).map(drop)
    }
}

/// Runs the statement that writes just these cells of a row: the one used last, if it does.
fn write<'c>(
    recent: &mut Recent<'c>,
    key: &RowKey,
    cells: &Cells<'_>,
    prepare: impl FnOnce(&[&ColumnSql]) -> Result<CachedStatement<'c>, TablesError>,
) -> Result<usize, TablesError> {
    let columns = || cells.iter().map(|(register, _)| register.id);
    let values = key.0.iter().chain(cells.iter().map(|(_, value)| *value));
    let params = params_from_iter(values.map(Bound));
    if let Some((held, statement)) = recent
        && held.iter().copied().eq(columns())
    {
        return Ok(statement.execute(params)?);
    }
    let registers: Vec<&ColumnSql> = cells.iter().map(|(register, _)| *register).collect();
    let (_, statement) = recent.insert((columns().collect(), prepare(&registers)?));
    Ok(statement.execute(params)?)
}

/// Decides how far to step from a key that was searched for, before searching for the next: as far
/// as has been of use lately, and now and then farther, to see whether it would be.
#[derive(Default)]
struct Stepping {
    searches: u32,
    left: Option<usize>,
}

impl Stepping {
    /// To be asked after each search, with the number of keys that are left to be found.
    fn steps_max(&mut self, left: usize) -> u32 {
        let answered = self.left.map_or(0, |before| before.saturating_sub(left));
        self.left = Some(left);
        self.searches = self.searches.wrapping_add(1);
        if answered > 1 || self.searches % 8 == 1 {
            STEPS_MAX
        } else {
            1
        }
    }
}

/// Clocks stepped over before searching is cheaper than stepping.
const STEPS_MAX: u32 = 3;
