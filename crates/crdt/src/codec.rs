//! The packed form of a row's clocks: the bytes kept beside each row in SQLite and Postgres.
//!
//! One clock has one encoding, so that equal states are equal bytes. Written down byte by byte in
//! `docs/storage.md`. Nothing here speaks to the network: frames are the protocol crate's.

mod columns;

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use thiserror::Error;

use crate::{
    ColumnId, ColumnState, Entry, Existence, Hlc, Life, ReplicaId, RowClock, RowState, Stamp, Value,
};

/// Why bytes are not a packed clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("the packed clock ends too early")]
    Truncated,
    /// There are bytes after the end.
    #[error("the packed clock has bytes after its end")]
    TrailingBytes,
    /// The first byte names a form this version does not know.
    #[error("the packed clock has form {0}, which this version does not know; upgrade Anabranch")]
    UnknownForm(u8),
    /// A field holds what no clock can hold.
    #[error("the packed clock is damaged: {0}")]
    Damaged(&'static str),
}

/// The form of rows that have registers only.
const REGISTERS_ONLY: u8 = 1;
/// The form of rows that have counters or sets too.
const ALL_COLUMNS: u8 = 2;
const HLC_BYTES: usize = 8;
const REPLICA_BYTES: usize = 16;

impl RowClock {
    /// The packed form.
    ///
    /// Registers are grouped by stamp, newest first, since most rows were written by one or a few
    /// transactions; an existence entry made by one of those transactions refers to its group.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_as(&mut |out, stamp| {
            put_hlc(out, stamp);
            out.extend_from_slice(&stamp.replica.0);
        })
    }

    /// The same with a number, below 2^21, in the place of each replica: for a file that numbers the
    /// replicas it knows.
    pub fn encode_numbered(&self, mut number: impl FnMut(ReplicaId) -> u32) -> Vec<u8> {
        self.encode_as(&mut |out, stamp| {
            put_hlc(out, stamp);
            put_long_varint(out, u64::from(number(stamp.replica)));
        })
    }

    fn encode_as(&self, put_stamp: &mut PutStamp<'_>) -> Vec<u8> {
        let mut groups: Vec<Stamp> = Vec::new();
        for (_, stamp) in self.registers() {
            if groups.last() != Some(stamp) && !groups.contains(stamp) {
                groups.push(*stamp);
            }
        }
        groups.sort_unstable_by_key(|stamp| core::cmp::Reverse(*stamp));

        let mut out = Vec::with_capacity(40);
        let mut references = References::new(groups.iter().copied());
        let plain = self.columns().is_empty();
        out.push(if plain { REGISTERS_ONLY } else { ALL_COLUMNS });
        put_varint(&mut out, groups.len());
        for stamp in &groups {
            put_stamp(&mut out, *stamp);
            let columns = self.registers().iter().filter(|(_, held)| held == stamp);
            put_columns(&mut out, columns.map(|(column, _)| *column));
        }
        if !plain {
            let more = references.extend(self.columns());
            put_varint(&mut out, more.len());
            for stamp in more {
                put_stamp(&mut out, stamp);
            }
        }
        references.put_existence(&mut out, &self.existence, put_stamp);
        if !plain {
            columns::put(&mut out, self.columns(), &references, put_stamp);
        }
        out
    }

    /// Reads a packed clock back.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_as(bytes, &mut |input| {
            let replica = input.take(REPLICA_BYTES)?;
            let replica = replica.try_into().map_err(|_| DecodeError::Truncated)?;
            Ok(ReplicaId(replica))
        })
    }

    /// Reads a packed clock back that has a number in the place of each replica.
    pub fn decode_numbered(
        bytes: &[u8],
        mut replica: impl FnMut(u32) -> Option<ReplicaId>,
    ) -> Result<Self, DecodeError> {
        Self::decode_as(bytes, &mut |input| {
            let number = u32::try_from(input.varint()?).ok();
            let unknown = DecodeError::Damaged("a replica has a number that is not given out");
            number.and_then(&mut replica).ok_or(unknown)
        })
    }

    fn decode_as(bytes: &[u8], replica: &mut ReadReplica<'_>) -> Result<Self, DecodeError> {
        let mut input = Input {
            rest: Rest(bytes),
            replica,
        };
        let plain = match input.byte()? {
            REGISTERS_ONLY => true,
            ALL_COLUMNS => false,
            other => return Err(DecodeError::UnknownForm(other)),
        };
        let mut clock = Self::new();
        let mut stamps = Vec::new();
        for _ in 0..input.varint()? {
            let stamp = input.stamp()?;
            stamps.push(stamp);
            input.columns(|column| clock.set(column, stamp))?;
        }
        if !plain {
            for _ in 0..input.varint()? {
                stamps.push(input.stamp()?);
            }
        }
        clock.existence = input.existence(&stamps)?;
        if !plain {
            columns::read(&mut input, &stamps, &mut clock)?;
        }
        if input.rest.0.is_empty() {
            Ok(clock)
        } else {
            Err(DecodeError::TrailingBytes)
        }
    }
}

impl RowState {
    /// The whole row state as canonical bytes: equal bytes mean equal states. For comparing
    /// states and for hashing; not for storing, since the values lie in the row itself.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.clock().encode();
        for (_, _, value) in self.cells() {
            put_value(&mut out, value);
        }
        out
    }
}

/// Appends a stamp.
type PutStamp<'f> = dyn FnMut(&mut Vec<u8>, Stamp) + 'f;

/// Reads who made a stamp.
type ReadReplica<'f> = dyn FnMut(&mut Rest<'_>) -> Result<ReplicaId, DecodeError> + 'f;

/// The stamps that entries can refer to, numbered from 1.
struct References {
    /// Those of the registers, which are few.
    groups: Vec<Stamp>,
    /// Those that only other columns have, which may be many.
    more: BTreeMap<Stamp, usize>,
}

impl References {
    fn new(stamps: impl Iterator<Item = Stamp>) -> Self {
        Self {
            groups: stamps.collect(),
            more: BTreeMap::new(),
        }
    }

    /// Adds the stamps of columns that are no registers; which are new, in their order.
    fn extend(&mut self, columns: &[(ColumnId, ColumnState)]) -> Vec<Stamp> {
        let stamps = columns.iter().flat_map(|(_, state)| state.stamps());
        let new: BTreeSet<Stamp> = stamps.filter(|stamp| self.to(*stamp) == 0).collect();
        let first = self.groups.len().saturating_add(1);
        self.more = new.iter().copied().zip(first..).collect();
        new.into_iter().collect()
    }

    /// The number of a stamp; 0 if it has none.
    fn to(&self, stamp: Stamp) -> usize {
        let place = self.groups.iter().position(|held| *held == stamp);
        let number = place.map(|place| place.saturating_add(1));
        number.unwrap_or_else(|| self.more.get(&stamp).copied().unwrap_or(0))
    }

    fn put_existence(
        &self,
        out: &mut Vec<u8>,
        existence: &Existence,
        put_stamp: &mut PutStamp<'_>,
    ) {
        put_varint(out, existence.entries().len());
        for entry in existence.entries() {
            let reference = self.to(entry.stamp);
            let removed = usize::from(entry.life == Life::Removed);
            put_varint(out, (reference << 1) | removed);
            if reference == 0 {
                put_stamp(out, entry.stamp);
            }
        }
    }
}

fn put_varint(out: &mut Vec<u8>, number: usize) {
    put_long_varint(out, u64::try_from(number).unwrap_or(u64::MAX));
}

fn put_long_varint(out: &mut Vec<u8>, number: u64) {
    let mut rest = number;
    while rest >= 0x80 {
        out.push(low_seven_bits(rest) | 0x80);
        rest >>= 7;
    }
    out.push(low_seven_bits(rest));
}

const fn low_seven_bits(number: u64) -> u8 {
    (number & 0x7f) as u8
}

fn put_hlc(out: &mut Vec<u8>, stamp: Stamp) {
    out.extend_from_slice(&stamp.hlc.to_i64().to_be_bytes());
}

/// A bitmap of the columns, as long as the last one needs, after its length in bytes.
fn put_columns(out: &mut Vec<u8>, columns: impl DoubleEndedIterator<Item = ColumnId> + Clone) {
    let last = columns.clone().next_back();
    let last = last.map_or(0, |column| usize::from(column.0));
    let length = (last >> 3).saturating_add(1);
    put_varint(out, length);
    let start = out.len();
    out.resize(start.saturating_add(length), 0);
    for column in columns {
        let byte = start.saturating_add(usize::from(column.0 >> 3));
        if let Some(byte) = out.get_mut(byte) {
            *byte |= 1 << (column.0 & 7);
        }
    }
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0),
        Value::Integer(number) => {
            out.push(1);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Real(real) => {
            out.push(2);
            out.extend_from_slice(&real.get().to_be_bytes());
        }
        Value::Text(text) => put_bytes(out, 3, text.as_bytes()),
        Value::Blob(bytes) => put_bytes(out, 4, bytes),
    }
}

fn put_bytes(out: &mut Vec<u8>, class: u8, bytes: &[u8]) {
    out.push(class);
    put_long_bytes(out, bytes);
}

fn put_long_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// The bytes that have not been read yet.
struct Rest<'a>(&'a [u8]);

/// A packed clock being read, and how it names replicas.
struct Input<'a, 'f> {
    rest: Rest<'a>,
    replica: &'f mut ReadReplica<'f>,
}

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        self.take(1)?.first().copied().ok_or(DecodeError::Truncated)
    }

    /// Numbers here count columns, replicas and elements of one row, so three bytes are plenty.
    fn varint(&mut self) -> Result<usize, DecodeError> {
        let mut number = 0;
        for shift in [0, 7, 14] {
            let byte = self.byte()?;
            number |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::Damaged("a number is too long"))
    }
}

impl<'a> Input<'a, '_> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        self.rest.take(count)
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        self.rest.byte()
    }

    fn varint(&mut self) -> Result<usize, DecodeError> {
        self.rest.varint()
    }

    fn existence(&mut self, stamps: &[Stamp]) -> Result<Existence, DecodeError> {
        let entries = 0..self.varint()?;
        entries.map(|_| self.entry(stamps)).collect()
    }

    fn stamp(&mut self) -> Result<Stamp, DecodeError> {
        let bytes = self.take(HLC_BYTES)?;
        let bytes = bytes.first_chunk().ok_or(DecodeError::Truncated)?;
        let hlc = Hlc::from_i64(i64::from_be_bytes(*bytes))
            .map_err(|_| DecodeError::Damaged("a clock reading is negative"))?;
        Ok(Stamp::new(hlc, (self.replica)(&mut self.rest)?))
    }

    fn columns(&mut self, mut found: impl FnMut(ColumnId)) -> Result<(), DecodeError> {
        let length = self.varint()?;
        if length > usize::from(u16::MAX >> 3).saturating_add(1) {
            return Err(DecodeError::Damaged("a column number is too large"));
        }
        for (index, byte) in (0_u16..).zip(self.take(length)?) {
            for bit in 0..8 {
                if byte & (1 << bit) != 0 {
                    found(ColumnId((index << 3) | bit));
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, stamps: &[Stamp]) -> Result<Entry, DecodeError> {
        let head = self.varint()?;
        let life = if head & 1 == 0 {
            Life::Live
        } else {
            Life::Removed
        };
        let stamp = self.referred(head >> 1, stamps)?;
        Ok(Entry { stamp, life })
    }

    /// The stamp that a reference means: the one that follows, or one that came before.
    fn referred(&mut self, reference: usize, stamps: &[Stamp]) -> Result<Stamp, DecodeError> {
        match reference.checked_sub(1) {
            None => self.stamp(),
            Some(place) => stamps.get(place).copied().ok_or(DecodeError::Damaged(
                "an entry refers to a stamp that is not there",
            )),
        }
    }
}

impl FromIterator<(ColumnId, Stamp)> for RowClock {
    fn from_iter<T: IntoIterator<Item = (ColumnId, Stamp)>>(registers: T) -> Self {
        let mut clock = Self::new();
        for (column, stamp) in registers {
            clock.set(column, stamp);
        }
        clock
    }
}
