//! Row state: registers with their values, and existence. A partial one is a delta.

use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::{
    ColumnId, ColumnState, Existence, Merged, RowClock, Stamp, Value,
    merge::{Row, join},
};

/// What is known of one row: some or all of its columns, some or all of its existence. Local
/// operations, rows of a snapshot and remote operations are all row states, and differ only in how
/// much they know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RowState {
    clock: RowClock,
    /// The value of each register of `clock`, at the same index.
    values: Vec<Value>,
}

impl RowState {
    /// Nothing is known of the row.
    pub const fn new() -> Self {
        Self {
            clock: RowClock::new(),
            values: Vec::new(),
        }
    }

    /// The row was added at `stamp`; nothing else is known of it.
    pub fn live(stamp: Stamp) -> Self {
        let mut state = Self::new();
        state.clock.existence.add(stamp);
        state
    }

    /// The row's existence is `existence`; nothing else is known of it.
    pub fn of_existence(existence: Existence) -> Self {
        let mut state = Self::new();
        state.clock.existence = existence;
        state
    }

    /// Sets a register, whatever it held. Not a merge.
    pub fn set(&mut self, column: ColumnId, stamp: Stamp, value: Value) {
        let last = self.clock.registers().last();
        if last.is_none_or(|(last, _)| *last < column) {
            self.clock.set(column, stamp);
            self.values.push(value);
            return;
        }
        let position = self.clock.position(column);
        self.clock.set(column, stamp);
        match position {
            Ok(held) => {
                if let Some(slot) = self.values.get_mut(held) {
                    *slot = value;
                }
            }
            Err(free) => self.values.insert(free, value),
        }
    }

    /// Sets a column that is no register, whatever it held. Not a merge.
    pub fn set_column(&mut self, column: ColumnId, state: ColumnState) {
        self.clock.set_column(column, state);
    }

    /// The registers: column, stamp and value, in column order.
    pub fn cells(&self) -> impl ExactSizeIterator<Item = (ColumnId, Stamp, &Value)> + Clone {
        let registers = self.clock.registers().iter();
        registers
            .zip(&self.values)
            .map(|((column, stamp), value)| (*column, *stamp, value))
    }

    /// The value of a column of whatever kind, if this state knows it.
    pub fn value(&self, column: ColumnId) -> Option<&Value> {
        match self.clock.position(column) {
            Ok(position) => self.values.get(position),
            Err(_) => self.clock.shown(column),
        }
    }

    /// The columns that this state knows, of whatever kind.
    pub fn columns(&self) -> impl Iterator<Item = ColumnId> {
        let registers = self.clock.registers().iter().map(|(column, _)| *column);
        registers.chain(self.clock.columns().iter().map(|(column, _)| *column))
    }

    /// How many bytes the columns take in memory, about: for limits and accounting.
    pub fn size_bytes(&self) -> usize {
        let values = self.values.iter().map(Value::size_bytes);
        let columns = self.clock.columns().iter();
        let columns = columns.map(|(_, state)| state.size_bytes());
        values.chain(columns).fold(0, usize::saturating_add)
    }

    /// The clocks, apart from the values.
    pub const fn clock(&self) -> &RowClock {
        &self.clock
    }

    /// Whether the row is in the table.
    pub const fn existence(&self) -> &Existence {
        &self.clock.existence
    }

    /// The same, to be changed.
    pub const fn existence_mut(&mut self) -> &mut Existence {
        &mut self.clock.existence
    }

    /// This state, without the columns that `keep` refuses.
    pub fn project(&self, mut keep: impl FnMut(ColumnId) -> bool) -> Self {
        let mut kept = Self::of_existence(self.clock.existence.clone());
        for (column, stamp, value) in self.cells() {
            if keep(column) {
                kept.set(column, stamp, value.clone());
            }
        }
        for (column, state) in self.clock.columns() {
            if keep(*column) {
                kept.set_column(*column, state.clone());
            }
        }
        kept
    }

    /// Joins another state of the same row in.
    pub fn merge(&mut self, other: &Self) -> Merged {
        join(self, other)
    }
}

impl Row for RowState {
    fn clock(&mut self) -> &mut RowClock {
        &mut self.clock
    }

    fn compare_held(&mut self, column: ColumnId, incoming: &Value) -> Ordering {
        let held = self.clock.position(column).ok();
        let held = held.and_then(|position| self.values.get(position));
        held.cmp(&Some(incoming))
    }

    fn take(&mut self, column: ColumnId, stamp: Stamp, incoming: &Value) {
        self.set(column, stamp, incoming.clone());
    }
}
