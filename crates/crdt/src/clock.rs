//! The clocks of one row, apart from its values: what is kept beside a row that lies in SQL.

use alloc::vec::Vec;

use crate::{ColumnId, ColumnState, Existence, Hlc, Stamp, Value};

/// The stamps of a row's registers, its counters and sets, and its existence: the whole CRDT state
/// of a row but for the registers' values, which the row itself holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RowClock {
    /// The registers' stamps, in column order, at most one a column.
    registers: Vec<(ColumnId, Stamp)>,
    /// The columns that are no registers, in column order.
    columns: Vec<(ColumnId, ColumnState)>,
    /// Whether the row is in the table.
    pub existence: Existence,
}

impl RowClock {
    /// Nothing is known of the row.
    pub const fn new() -> Self {
        Self {
            registers: Vec::new(),
            columns: Vec::new(),
            existence: Existence::new(),
        }
    }

    /// The clock of a row whose `columns` were all written at `stamp`, which also added it. With
    /// [`Stamp::GENESIS`], the clock of a row that nobody has touched since installation.
    pub fn uniform(columns: impl IntoIterator<Item = ColumnId>, stamp: Stamp) -> Self {
        let mut clock = Self::new();
        for column in columns {
            clock.set(column, stamp);
        }
        clock.existence.add(stamp);
        clock
    }

    /// The registers' stamps, in column order.
    pub fn registers(&self) -> &[(ColumnId, Stamp)] {
        &self.registers
    }

    /// The stamp of a column's register, if it was ever written.
    pub fn register(&self, column: ColumnId) -> Option<Stamp> {
        let position = self.position(column).ok()?;
        self.registers.get(position).map(|(_, stamp)| *stamp)
    }

    /// Sets a register's stamp, whatever it was. Not a merge: for stamping a local write, and for
    /// taking back a refused one.
    pub fn set(&mut self, column: ColumnId, stamp: Stamp) {
        if self.registers.last().is_none_or(|(last, _)| *last < column) {
            self.registers.push((column, stamp));
            return;
        }
        match self.position(column) {
            Ok(position) => {
                if let Some(register) = self.registers.get_mut(position) {
                    register.1 = stamp;
                }
            }
            Err(position) => self.registers.insert(position, (column, stamp)),
        }
    }

    /// Forgets a register. For taking back a refused write of a column never written before.
    pub fn unset(&mut self, column: ColumnId) {
        self.registers.retain(|(held, _)| *held != column);
    }

    /// The columns that are no registers, in column order.
    pub fn columns(&self) -> &[(ColumnId, ColumnState)] {
        &self.columns
    }

    /// The state of a column that is no register, if anything is known of it.
    pub fn column(&self, column: ColumnId) -> Option<&ColumnState> {
        let place = self.column_place(column).ok()?;
        self.columns.get(place).map(|(_, state)| state)
    }

    /// Sets the state of a column that is no register, whatever it was. Not a merge.
    pub fn set_column(&mut self, column: ColumnId, state: ColumnState) {
        match self.column_place(column) {
            Ok(place) => {
                if let Some(held) = self.columns.get_mut(place) {
                    held.1 = state;
                }
            }
            Err(place) => self.columns.insert(place, (column, state)),
        }
    }

    /// Joins in what is known of a column that is no register; whether that changed anything.
    pub fn join_column(&mut self, column: ColumnId, state: &ColumnState) -> bool {
        match self.column_place(column) {
            Ok(place) => {
                let held = self.columns.get_mut(place);
                held.is_some_and(|(_, held)| held.merge(state))
            }
            Err(place) => {
                self.columns.insert(place, (column, state.clone()));
                true
            }
        }
    }

    /// Settles what was added to counters; see [`Counter::settle`](crate::Counter::settle). Whether
    /// there was any.
    pub fn settle(&mut self) -> bool {
        let mut settled = false;
        for (_, state) in &mut self.columns {
            if let ColumnState::Counter(counter) = state {
                settled |= counter.settle();
            }
        }
        settled
    }

    /// What a column that is no register holds.
    pub fn shown(&self, column: ColumnId) -> Option<&Value> {
        self.column(column).map(ColumnState::shown)
    }

    /// Whether anything is known of the column, of whatever kind it is.
    pub fn knows(&self, column: ColumnId) -> bool {
        self.position(column).is_ok() || self.column_place(column).is_ok()
    }

    /// Joins another clock of the same row in, apart from the values: for two that are known to be
    /// of one history, where equal stamps mean equal values.
    pub fn join(&mut self, other: &Self) {
        if *self == Self::new() {
            self.clone_from(other);
            return;
        }
        for (column, stamp) in &other.registers {
            if self.register(*column) < Some(*stamp) {
                self.set(*column, *stamp);
            }
        }
        for (column, state) in &other.columns {
            self.join_column(*column, state);
        }
        self.existence.merge(&other.existence);
    }

    fn column_place(&self, column: ColumnId) -> Result<usize, usize> {
        self.columns
            .binary_search_by_key(&column, |(held, _)| *held)
    }

    /// This clock without what was written at stamps that are `gone`.
    pub fn without_stamps(&self, gone: impl Fn(Stamp) -> bool) -> Self {
        let registers = self.registers.iter().copied();
        let mut kept: Self = registers.filter(|(_, stamp)| !gone(*stamp)).collect();
        for (column, state) in &self.columns {
            let left = state.without_stamps(&gone);
            if left == *state || !left.is_empty() {
                kept.set_column(*column, left);
            }
        }
        kept.existence = self.existence.without_stamps(&gone);
        kept
    }

    /// Where the column's register is, or where it would go.
    pub(crate) fn position(&self, column: ColumnId) -> Result<usize, usize> {
        self.registers
            .binary_search_by_key(&column, |(held, _)| *held)
    }

    /// The newest clock reading in the row: a write stamped above it wins every register.
    pub fn newest(&self) -> Hlc {
        let register = self.registers.iter().map(|(_, stamp)| stamp.hlc).max();
        let stamps = self.columns.iter().flat_map(|(_, state)| state.stamps());
        let column = stamps.map(|stamp| stamp.hlc).max();
        let newest = register.max(column).max(self.existence.newest());
        newest.unwrap_or(Hlc::ZERO)
    }
}
