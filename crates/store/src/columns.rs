//! What uploads may do to counters and sets, the same for every store. No IO.

use anabranch_crdt::{ColumnState, Delta, MergeKind, RowClock};
use anabranch_protocol::limits::{SET_BYTES_MAX, SET_ELEMENTS_MAX};
use anabranch_shape::schema::Table;

/// Why a delta cannot be merged into `table`, if it writes a column in the manner of another kind.
pub fn misfit(table: &Table, delta: &Delta) -> Option<String> {
    let clock = delta.state.clock();
    let registers = clock.registers().iter();
    let registers = registers.map(|(column, _)| (*column, MergeKind::Register));
    let others = clock.columns().iter();
    let others = others.map(|(column, state)| (*column, state.kind()));
    registers.chain(others).find_map(|(id, kind)| {
        let column = table.column(id)?;
        (column.merge != kind).then(|| {
            let (name, merge) = (&column.name, column.merge.word());
            let wants = match column.merge {
                MergeKind::Register => "write it as one",
                MergeKind::Counter => "write whole numbers",
                MergeKind::Set => "write JSON arrays",
            };
            format!("{}.{name} is a {merge}; {wants}", table.name)
        })
    })
}

/// Why a row whose clock is now `clock` has grown too large, if a set has to which `delta` added.
pub fn oversize(table: &Table, delta: &Delta, clock: &RowClock) -> Option<String> {
    delta
        .state
        .clock()
        .columns()
        .iter()
        .find_map(|(id, added)| {
            let (ColumnState::Set(added), Some(ColumnState::Set(set))) = (added, clock.column(*id))
            else {
                return None;
            };
            let adds = added
                .elements()
                .iter()
                .any(|each| each.existence.is_present());
            let count = set.elements().len();
            let bytes: usize = set.elements().iter().map(|each| each.text.len()).sum();
            (adds && (count > SET_ELEMENTS_MAX || bytes > SET_BYTES_MAX)).then(|| {
            let name = table.column(*id).map_or("?", |column| &column.name);
            format!(
                "the set {}.{name} would come to {count} elements and {bytes} bytes, those removed \
                 included; a set holds {SET_ELEMENTS_MAX} elements and {SET_BYTES_MAX} bytes: make \
                 rows of them",
                table.name
            )
        })
        })
}
