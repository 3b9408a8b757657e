//! Row states and transactions on the wire. Stamps stand once in a table at the head, and cells
//! refer to them by index: a transaction has one stamp and may have a hundred thousand cells.

use std::{borrow::Cow, collections::BTreeMap};

use anabranch_crdt::{
    ColumnId, Delta, Entry, Existence, Hlc, Life, Real, ReplicaId, RowKey, RowState, Stamp,
    TableId, Value,
};
use bincode::{Decode, Encode};

use super::{CodecError, columns::WireColumn, malformed};
use crate::{Inserts, LocalTransaction, Seq};

#[derive(Encode, Decode)]
pub(super) enum WireValue<'a> {
    Null,
    Integer(i64),
    Real(f64),
    Text(Cow<'a, str>),
    Blob(Cow<'a, [u8]>),
}

#[derive(Encode, Decode)]
pub(super) struct WireStamp {
    hlc: i64,
    replica: [u8; 16],
}

#[derive(Encode, Decode)]
pub(super) struct WireState<'a> {
    cells: Vec<WireCell<'a>>,
    entries: Vec<WireEntry>,
    columns: Vec<WireColumn>,
}

#[derive(Encode, Decode)]
struct WireCell<'a> {
    column: u16,
    stamp: u32,
    value: WireValue<'a>,
}

#[derive(Encode, Decode)]
pub(super) struct WireEntry {
    stamp: u32,
    removed: bool,
}

#[derive(Encode, Decode)]
struct WireDelta<'a> {
    table: u32,
    key: Vec<WireValue<'a>>,
    state: WireState<'a>,
}

#[derive(Encode, Decode)]
pub(super) struct WireDeltas<'a> {
    stamps: Vec<WireStamp>,
    deltas: Vec<WireDelta<'a>>,
}

#[derive(Encode, Decode)]
pub(super) struct WireTransaction<'a> {
    seq: u64,
    stamp: WireStamp,
    deltas: WireDeltas<'a>,
    inserts: Vec<u8>,
    replaces: u64,
}

/// Collects the stamps of a frame while it is written.
#[derive(Default)]
pub(super) struct StampWriter {
    stamps: Vec<WireStamp>,
    index: BTreeMap<Stamp, u32>,
}

impl StampWriter {
    pub(super) fn refer(&mut self, stamp: Stamp) -> u32 {
        let next = u32::try_from(self.stamps.len()).unwrap_or(u32::MAX);
        *self.index.entry(stamp).or_insert_with(|| {
            self.stamps.push(stamp.into());
            next
        })
    }

    pub(super) fn state<'a>(&mut self, state: &'a RowState) -> WireState<'a> {
        let cells = state.cells().map(|(column, stamp, value)| WireCell {
            column: column.0,
            stamp: self.refer(stamp),
            value: value.into(),
        });
        let cells = cells.collect();
        WireState {
            entries: self.existence(state.existence()),
            columns: self.columns(state.clock()),
            cells,
        }
    }

    pub(super) fn existence(&mut self, existence: &Existence) -> Vec<WireEntry> {
        let entries = existence.entries().iter().map(|entry| WireEntry {
            stamp: self.refer(entry.stamp),
            removed: entry.life == Life::Removed,
        });
        entries.collect()
    }

    pub(super) fn finish(self) -> Vec<WireStamp> {
        self.stamps
    }
}

/// Looks the stamps of a frame up while it is read.
pub(super) struct StampReader(Vec<Stamp>);

impl StampReader {
    pub(super) fn new(stamps: Vec<WireStamp>) -> Result<Self, CodecError> {
        stamps
            .into_iter()
            .map(Stamp::try_from)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    pub(super) fn look_up(&self, index: u32) -> Result<Stamp, CodecError> {
        let stamp = usize::try_from(index)
            .ok()
            .and_then(|index| self.0.get(index));
        stamp
            .copied()
            .ok_or_else(|| malformed("row state", &"it refers to a missing stamp"))
    }

    pub(super) fn state(&self, wire: WireState<'_>) -> Result<RowState, CodecError> {
        let mut state = RowState::of_existence(self.existence(wire.entries)?);
        for cell in wire.cells {
            let stamp = self.look_up(cell.stamp)?;
            state.set(ColumnId(cell.column), stamp, cell.value.try_into()?);
        }
        self.columns(wire.columns, &mut state)?;
        Ok(state)
    }

    pub(super) fn existence(&self, wire: Vec<WireEntry>) -> Result<Existence, CodecError> {
        let entry = |entry: WireEntry| {
            let life = if entry.removed {
                Life::Removed
            } else {
                Life::Live
            };
            let stamp = self.look_up(entry.stamp)?;
            Ok(Entry { stamp, life })
        };
        wire.into_iter().map(entry).collect()
    }
}

impl<'a> WireDeltas<'a> {
    pub(super) fn new(deltas: &'a [Delta]) -> Self {
        let mut stamps = StampWriter::default();
        let deltas = deltas.iter().map(|delta| WireDelta {
            table: delta.table.0,
            key: wire_key(&delta.key),
            state: stamps.state(&delta.state),
        });
        let deltas = deltas.collect();
        Self {
            stamps: stamps.finish(),
            deltas,
        }
    }
}

impl TryFrom<WireDeltas<'_>> for Vec<Delta> {
    type Error = CodecError;

    fn try_from(wire: WireDeltas<'_>) -> Result<Self, CodecError> {
        let stamps = StampReader::new(wire.stamps)?;
        let read = |delta: WireDelta<'_>| {
            Ok(Delta {
                table: TableId(delta.table),
                key: read_key(delta.key)?,
                state: stamps.state(delta.state)?,
            })
        };
        wire.deltas.into_iter().map(read).collect()
    }
}

impl<'a> From<&'a LocalTransaction> for WireTransaction<'a> {
    fn from(transaction: &'a LocalTransaction) -> Self {
        Self {
            seq: transaction.seq.0,
            stamp: transaction.stamp.into(),
            deltas: WireDeltas::new(&transaction.deltas),
            inserts: transaction.inserts.as_bytes().to_vec(),
            replaces: transaction.replaces,
        }
    }
}

impl TryFrom<WireTransaction<'_>> for LocalTransaction {
    type Error = CodecError;

    fn try_from(wire: WireTransaction<'_>) -> Result<Self, CodecError> {
        let deltas: Vec<Delta> = wire.deltas.try_into()?;
        let inserts = Inserts::from_bytes(wire.inserts, deltas.len());
        if wire.replaces >= wire.seq.max(1) {
            return Err(malformed(
                "transaction",
                &"it replaces more than there were",
            ));
        }
        Ok(Self {
            seq: Seq(wire.seq),
            stamp: wire.stamp.try_into()?,
            inserts: inserts
                .ok_or_else(|| malformed("transaction", &"its inserts are not one bit a delta"))?,
            deltas,
            replaces: wire.replaces,
        })
    }
}

pub(super) fn wire_key(key: &RowKey) -> Vec<WireValue<'_>> {
    key.0.iter().map(WireValue::from).collect()
}

pub(super) fn read_key(wire: Vec<WireValue<'_>>) -> Result<RowKey, CodecError> {
    wire.into_iter()
        .map(Value::try_from)
        .collect::<Result<_, _>>()
        .map(RowKey)
}

impl<'a> From<&'a Value> for WireValue<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Integer(number) => Self::Integer(*number),
            Value::Real(real) => Self::Real(real.get()),
            Value::Text(text) => Self::Text(Cow::Borrowed(text)),
            Value::Blob(bytes) => Self::Blob(Cow::Borrowed(bytes)),
        }
    }
}

impl TryFrom<WireValue<'_>> for Value {
    type Error = CodecError;

    fn try_from(wire: WireValue<'_>) -> Result<Self, CodecError> {
        Ok(match wire {
            WireValue::Null => Self::Null,
            WireValue::Integer(number) => Self::Integer(number),
            WireValue::Real(number) => {
                Self::Real(Real::new(number).ok_or_else(|| malformed("value", &"a real is NaN"))?)
            }
            WireValue::Text(text) => Self::Text(text.into_owned()),
            WireValue::Blob(bytes) => Self::Blob(bytes.into_owned()),
        })
    }
}

impl From<Stamp> for WireStamp {
    fn from(stamp: Stamp) -> Self {
        Self {
            hlc: stamp.hlc.to_i64(),
            replica: stamp.replica.0,
        }
    }
}

impl TryFrom<WireStamp> for Stamp {
    type Error = CodecError;

    fn try_from(wire: WireStamp) -> Result<Self, CodecError> {
        let hlc = Hlc::from_i64(wire.hlc).map_err(|error| malformed("stamp", &error))?;
        Ok(Self::new(hlc, ReplicaId(wire.replica)))
    }
}
