//! Counters and sets on the wire.

use anabranch_crdt::{
    ColumnId, ColumnState, Counter, Element, ElementSet, Increment, RowClock, RowState, Stamp,
    Total, is_spelled,
};
use bincode::{Decode, Encode};

use super::{
    CodecError, malformed,
    rows::{StampReader, StampWriter, WireEntry},
};

#[derive(Encode, Decode)]
pub(super) struct WireColumn {
    column: u16,
    state: WireColumnState,
}

#[derive(Encode, Decode)]
enum WireColumnState {
    Counter {
        totals: Vec<WireShare>,
        increments: Vec<WireShare>,
    },
    Set(Vec<WireElement>),
}

#[derive(Encode, Decode)]
struct WireShare {
    stamp: u32,
    number: i64,
}

#[derive(Encode, Decode)]
struct WireElement {
    text: String,
    entries: Vec<WireEntry>,
}

impl StampWriter {
    pub(super) fn columns(&mut self, clock: &RowClock) -> Vec<WireColumn> {
        let columns = clock.columns().iter();
        let columns = columns.map(|(column, state)| WireColumn {
            column: column.0,
            state: match state {
                ColumnState::Counter(counter) => self.counter(counter),
                ColumnState::Set(set) => self.set(set),
            },
        });
        columns.collect()
    }

    fn share(&mut self, (stamp, number): (Stamp, i64)) -> WireShare {
        WireShare {
            stamp: self.refer(stamp),
            number,
        }
    }

    fn counter(&mut self, counter: &Counter) -> WireColumnState {
        let totals = counter.totals().iter();
        let totals = totals.map(|total| self.share((total.through, total.sum)));
        let totals = totals.collect();
        let increments = counter.increments().iter();
        let increments = increments.map(|open| self.share((open.stamp, open.amount)));
        let increments = increments.collect();
        WireColumnState::Counter { totals, increments }
    }

    fn set(&mut self, set: &ElementSet) -> WireColumnState {
        let elements = set.elements().iter().map(|element| WireElement {
            text: element.text.clone(),
            entries: self.existence(&element.existence),
        });
        WireColumnState::Set(elements.collect())
    }
}

impl StampReader {
    pub(super) fn columns(
        &self,
        wire: Vec<WireColumn>,
        state: &mut RowState,
    ) -> Result<(), CodecError> {
        for WireColumn {
            column,
            state: wire,
        } in wire
        {
            let column_state = match wire {
                WireColumnState::Counter { totals, increments } => {
                    ColumnState::Counter(self.counter(totals, increments)?)
                }
                WireColumnState::Set(elements) => ColumnState::Set(self.set(elements)?),
            };
            state.set_column(ColumnId(column), column_state);
        }
        Ok(())
    }

    fn counter(
        &self,
        totals: Vec<WireShare>,
        increments: Vec<WireShare>,
    ) -> Result<Counter, CodecError> {
        let total = |share: WireShare| {
            let (through, sum) = (self.look_up(share.stamp)?, share.number);
            Ok(Total { through, sum })
        };
        let increment = |share: WireShare| {
            let (stamp, amount) = (self.look_up(share.stamp)?, share.number);
            Ok(Increment { stamp, amount })
        };
        let totals = totals.into_iter().map(total);
        let totals: Vec<Total> = totals.collect::<Result<_, CodecError>>()?;
        let increments = increments.into_iter().map(increment);
        let increments: Vec<Increment> = increments.collect::<Result<_, CodecError>>()?;
        Ok(Counter::of(totals, increments))
    }

    fn set(&self, wire: Vec<WireElement>) -> Result<ElementSet, CodecError> {
        let element = |wire: WireElement| {
            if !is_spelled(&wire.text) {
                let detail = &"an element of a set is not spelled as it must be";
                return Err(malformed("row state", detail));
            }
            Ok(Element {
                text: wire.text,
                existence: self.existence(wire.entries)?,
            })
        };
        let elements = wire.into_iter().map(element);
        let elements: Vec<Element> = elements.collect::<Result<_, _>>()?;
        Ok(ElementSet::of(elements))
    }
}
