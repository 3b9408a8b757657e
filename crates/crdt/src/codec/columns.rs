//! The part of a packed clock that tells of counters and sets; rows without them do not have it.

use alloc::{borrow::ToOwned, vec::Vec};

use super::{
    DecodeError, Input, PutStamp, References, put_long_bytes, put_long_varint, put_varint,
};
use crate::{
    ColumnId, ColumnState, Counter, Element, ElementSet, Increment, MergeKind, RowClock, Stamp,
    Total,
};

/// Appends the columns, whose stamps all have a number in `references`.
pub(super) fn put(
    out: &mut Vec<u8>,
    columns: &[(ColumnId, ColumnState)],
    references: &References,
    put_stamp: &mut PutStamp<'_>,
) {
    put_varint(out, columns.len());
    for (column, state) in columns {
        put_varint(out, usize::from(column.0));
        out.push(state.kind().number());
        match state {
            ColumnState::Counter(counter) => {
                let totals = counter.totals().iter();
                put_shares(
                    out,
                    references,
                    totals.map(|total| (total.through, total.sum)),
                );
                let open = counter.increments().iter();
                put_shares(
                    out,
                    references,
                    open.map(|share| (share.stamp, share.amount)),
                );
            }
            ColumnState::Set(set) => {
                put_varint(out, set.elements().len());
                for element in set.elements() {
                    put_long_bytes(out, element.text.as_bytes());
                    references.put_existence(out, &element.existence, put_stamp);
                }
            }
        }
    }
}

fn put_shares(
    out: &mut Vec<u8>,
    references: &References,
    shares: impl ExactSizeIterator<Item = (Stamp, i64)>,
) {
    put_varint(out, shares.len());
    for (stamp, number) in shares {
        put_varint(out, references.to(stamp));
        put_number(out, number);
    }
}

/// Reads the columns into `clock`.
pub(super) fn read(
    input: &mut Input<'_, '_>,
    stamps: &[Stamp],
    clock: &mut RowClock,
) -> Result<(), DecodeError> {
    for _ in 0..input.varint()? {
        let column = u16::try_from(input.varint()?)
            .map_err(|_| DecodeError::Damaged("a column number is too large"))?;
        let state = match MergeKind::numbered(input.byte()?) {
            Some(MergeKind::Counter) => ColumnState::Counter(read_counter(input, stamps)?),
            Some(MergeKind::Set) => ColumnState::Set(read_set(input, stamps)?),
            Some(MergeKind::Register) | None => {
                return Err(DecodeError::Damaged("a column is of an unknown kind"));
            }
        };
        clock.set_column(ColumnId(column), state);
    }
    Ok(())
}

fn read_counter(input: &mut Input<'_, '_>, stamps: &[Stamp]) -> Result<Counter, DecodeError> {
    let mut totals = Vec::new();
    for _ in 0..input.varint()? {
        let (through, sum) = read_share(input, stamps)?;
        totals.push(Total { through, sum });
    }
    let mut increments = Vec::new();
    for _ in 0..input.varint()? {
        let (stamp, amount) = read_share(input, stamps)?;
        increments.push(Increment { stamp, amount });
    }
    Ok(Counter::of(totals, increments))
}

fn read_share(input: &mut Input<'_, '_>, stamps: &[Stamp]) -> Result<(Stamp, i64), DecodeError> {
    let reference = input.varint()?;
    Ok((input.referred(reference, stamps)?, read_number(input)?))
}

fn read_set(input: &mut Input<'_, '_>, stamps: &[Stamp]) -> Result<ElementSet, DecodeError> {
    let mut elements = Vec::new();
    for _ in 0..input.varint()? {
        let length = input.long_varint()?;
        let length =
            usize::try_from(length).map_err(|_| DecodeError::Damaged("an element is too long"))?;
        let text = core::str::from_utf8(input.take(length)?)
            .map_err(|_| DecodeError::Damaged("an element is no text"))?;
        elements.push(Element {
            text: text.to_owned(),
            existence: input.existence(stamps)?,
        });
    }
    Ok(ElementSet::of(elements))
}

/// A signed number, small ones of either sign short: 0, -1, 1, -2 and so on.
fn put_number(out: &mut Vec<u8>, number: i64) {
    put_long_varint(out, ((number << 1) ^ (number >> 63)).cast_unsigned());
}

fn read_number(input: &mut Input<'_, '_>) -> Result<i64, DecodeError> {
    let folded = input.long_varint()?;
    Ok((folded >> 1).cast_signed() ^ (folded & 1).cast_signed().wrapping_neg())
}

impl Input<'_, '_> {
    /// A number that may take all of 64 bits.
    fn long_varint(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::Damaged("a number is too long"))
    }
}
