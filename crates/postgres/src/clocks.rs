//! A row of `anabranch.clocks`: what the service packed, and what SQL writers did since. No IO.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_crdt::{
    ColumnId, ColumnState, Counter, Element, ElementSet, Entry, Hlc, Life, MergeKind, ReplicaId,
    RowClock, Stamp, Value, elements_of,
};
use anabranch_shape::schema::{Column, Table};
use anabranch_store::StoreError;

/// A row of `anabranch.clocks`; see `schema/postgres.sql` for what the columns mean.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClockRow {
    pub(crate) clock: Option<Vec<u8>>,
    pub(crate) born_before: bool,
    /// By column number; the first stands for column 1.
    pub(crate) server: Vec<Option<i64>>,
    pub(crate) server_live: Option<i64>,
    pub(crate) server_removed: bool,
    pub(crate) swept: bool,
    /// The elements of sets that are gone since, as pairs of column number and element.
    pub(crate) removed: Option<String>,
}

impl ClockRow {
    /// When SQL last wrote a column.
    fn written(&self, column: ColumnId) -> Option<Result<Stamp, StoreError>> {
        let place = usize::from(column.0).checked_sub(1)?;
        self.server.get(place).copied().flatten().map(server_stamp)
    }

    /// The elements of a set that SQL has removed.
    fn removed(&self, column: ColumnId) -> BTreeSet<String> {
        let pairs = self.removed.as_deref().map(Value::text);
        let pairs = pairs.as_ref().map(elements_of).unwrap_or_default();
        let head = format!("[{}, ", column.0);
        let element = |pair: &String| {
            let element = pair.strip_prefix(&head)?.strip_suffix(']')?;
            Some(element.to_owned())
        };
        pairs.iter().filter_map(element).collect()
    }

    /// The row's clock: what was packed, with the SQL writers' doings on top as writes of
    /// [`ReplicaId::SERVER`].
    fn fold(&self, table: &Table) -> Result<RowClock, StoreError> {
        let mut clock = match &self.clock {
            Some(bytes) => RowClock::decode(bytes)
                .map_err(|error| StoreError::Damaged(format!("table {}: {error}", table.name)))?,
            None if self.born_before => genesis(table),
            None => RowClock::new(),
        };
        for (number, hlc) in (1_u16..).zip(&self.server) {
            let is_register =
                |column: &Column| column.id.0 == number && column.merge == MergeKind::Register;
            if let Some(hlc) = hlc
                && table.columns.iter().any(is_register)
            {
                let stamp = server_stamp(*hlc)?;
                if clock.register(ColumnId(number)) < Some(stamp) {
                    clock.set(ColumnId(number), stamp);
                }
            }
        }
        if self.swept {
            clock.existence = clock.existence.removal();
        }
        if let Some(hlc) = self.server_live {
            let life = if self.server_removed {
                Life::Removed
            } else {
                Life::Live
            };
            clock.existence.join(Entry {
                stamp: server_stamp(hlc)?,
                life,
            });
        }
        Ok(clock)
    }
}

/// The clock of a row that has `row` in `anabranch.clocks`, or nothing there, and these values.
/// Columns of a row in the table that were never written, such as those added later, carry the
/// genesis stamp. Counters and sets whose values are not among `values` are as they were packed.
pub(crate) fn fold(
    row: Option<&ClockRow>,
    present: bool,
    values: &BTreeMap<ColumnId, Value>,
    table: &Table,
) -> Result<RowClock, StoreError> {
    let mut clock = match row {
        Some(row) => row.fold(table)?,
        None if present => genesis(table),
        None => RowClock::new(),
    };
    if present {
        for column in registers(table) {
            if clock.register(column.id).is_none() {
                clock.set(column.id, Stamp::GENESIS);
            }
        }
    }
    let known = present || clock != RowClock::new();
    for column in table.registers().filter(|_| known) {
        if let Some(value) = values.get(&column.id) {
            fold_column(&mut clock, row, column, value)?;
        }
    }
    Ok(clock)
}

/// The columns that are registers.
fn registers(table: &Table) -> impl Iterator<Item = &Column> {
    table
        .registers()
        .filter(|column| column.merge == MergeKind::Register)
}

/// What SQL writers made of a counter or a set shows in its value alone: whatever the others have not
/// put there, the server has.
fn fold_column(
    clock: &mut RowClock,
    row: Option<&ClockRow>,
    column: &Column,
    value: &Value,
) -> Result<(), StoreError> {
    if column.merge == MergeKind::Register {
        return Ok(());
    }
    let overlay = row.and_then(|row| row.written(column.id)).transpose()?;
    let removed = row.map(|row| row.removed(column.id)).unwrap_or_default();
    // What SQL has removed was removed, even if SQL has added it again since.
    if let Some(ColumnState::Set(held)) = clock.column(column.id) {
        let gone = held.elements().iter();
        let gone = gone.filter(|element| removed.contains(&element.text));
        let gone = gone.map(|element| Element {
            text: element.text.clone(),
            existence: element.existence.removal(),
        });
        let gone = ElementSet::of(gone);
        clock.join_column(column.id, &ColumnState::Set(gone));
    }
    write_column(clock, column, value, overlay);
    if let (Some(stamp), MergeKind::Set) = (overlay, column.merge) {
        let there = elements_of(value);
        let gone = removed.into_iter().filter(|text| !there.contains(text));
        let life = Life::Removed;
        let gone = gone.map(|text| Element {
            text,
            existence: std::iter::once(Entry { stamp, life }).collect(),
        });
        clock.join_column(column.id, &ColumnState::Set(ElementSet::of(gone)));
    }
    Ok(())
}

/// Brings a counter or a set to the value that the row holds, as a write of the server: at `stamp`, or
/// as if it had always been so.
fn write_column(clock: &mut RowClock, column: &Column, value: &Value, stamp: Option<Stamp>) {
    let held = clock.column(column.id);
    let state = match (column.merge, held) {
        (MergeKind::Register, _) => return,
        (MergeKind::Counter, held) => {
            let mut counter = match held {
                Some(ColumnState::Counter(counter)) => counter.clone(),
                _ => Counter::new(),
            };
            let value = match value {
                Value::Integer(value) => *value,
                _ => 0,
            };
            if stamp.is_some() || value != counter.value() {
                counter.imply(stamp.unwrap_or(Stamp::GENESIS), value);
            }
            ColumnState::Counter(counter)
        }
        (MergeKind::Set, held) => {
            let mut set = match held {
                Some(ColumnState::Set(set)) => set.clone(),
                _ => ElementSet::new(),
            };
            let written = set.write(value, stamp.unwrap_or(Stamp::GENESIS));
            set.merge(&written);
            ColumnState::Set(set)
        }
    };
    clock.set_column(column.id, state);
}

/// Brings a clock that says otherwise in line with whether the row is in its table: somebody wrote
/// past the trigger, and that counts as a server write at `now`.
pub(crate) fn mend(
    clock: &mut RowClock,
    present: bool,
    values: &BTreeMap<ColumnId, Value>,
    table: &Table,
    now: i64,
) -> Result<(), StoreError> {
    if present {
        stamp_all(clock, values, table, now)
    } else {
        clock.existence = clock.existence.removal();
        Ok(())
    }
}

/// Stamps the whole row as written by the server, above everything in it.
pub(crate) fn stamp_all(
    clock: &mut RowClock,
    values: &BTreeMap<ColumnId, Value>,
    table: &Table,
    now: i64,
) -> Result<(), StoreError> {
    let above = clock.newest().to_i64().saturating_add(1);
    let stamp = server_stamp(now.max(above))?;
    for column in registers(table) {
        clock.set(column.id, stamp);
    }
    for column in table.registers() {
        if let Some(value) = values.get(&column.id) {
            write_column(clock, column, value, Some(stamp));
        }
    }
    clock.existence.add(stamp);
    Ok(())
}

fn genesis(table: &Table) -> RowClock {
    RowClock::uniform(registers(table).map(|column| column.id), Stamp::GENESIS)
}

fn server_stamp(hlc: i64) -> Result<Stamp, StoreError> {
    let hlc = Hlc::from_i64(hlc).map_err(|error| StoreError::Damaged(error.to_string()))?;
    Ok(Stamp::new(hlc, ReplicaId::SERVER))
}
