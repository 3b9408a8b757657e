//! A transaction merged at once ends as its rows merged one by one, and as the CRDT alone: whatever is
//! held already, however often a row comes, in whatever order.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use anabranch_crdt::{
    ColumnId, Delta, Entry, Hlc, Life, Millis, ReplicaId, RowKey, RowState, Stamp, Value,
};
use anabranch_protocol::SubscriptionSet;
use common::{Site, TASKS, change, cursor, delta, key};
use proptest::prelude::*;

fn stamp() -> impl Strategy<Value = Stamp> {
    (0..6_u64, 1..4_u8)
        .prop_map(|(ms, who)| Stamp::new(Hlc::new(Millis(ms), 0).unwrap(), ReplicaId([who; 16])))
}

/// A value that its stamp and column decide, as they do unless a replica breaks the rules.
fn value(column: ColumnId, stamp: Stamp) -> Value {
    let number = stamp.hlc.millis().0 * 10 + u64::from(stamp.replica.0[0]);
    match column.0 {
        3 => Value::Integer(i64::from(number.is_multiple_of(2))),
        _ if number.is_multiple_of(5) => Value::Null,
        _ => Value::Text(format!("{number}")),
    }
}

fn incoming(rows: u32) -> impl Strategy<Value = Delta> {
    // A state that says nothing makes no row, so each says something of the row's existence.
    let cells = prop::collection::vec((2..6_u16, stamp()), 0..4);
    let entries = prop::collection::vec((stamp(), any::<bool>()), 1..3);
    (0..rows, cells, entries).prop_map(|(row, cells, entries)| {
        let mut state = RowState::new();
        for (column, stamp) in cells {
            let column = ColumnId(column);
            state.set(column, stamp, value(column, stamp));
        }
        for (stamp, removed) in entries {
            let life = if removed { Life::Removed } else { Life::Live };
            state.existence_mut().join(Entry { stamp, life });
        }
        delta(TASKS, key(row), state)
    })
}

/// A replica told of each batch in one transaction, with every row in its shape.
fn told(batches: &[&[Delta]]) -> BTreeMap<RowKey, RowState> {
    let mut site = Site::new(9);
    let id = site.keep_everything();
    let all = SubscriptionSet::only(id);
    for (position, batch) in (1..).zip(batches) {
        let changes = batch.iter().map(|delta| change(delta, all)).collect();
        site.replica
            .merge_transaction(cursor(position), all, Vec::new(), changes)
            .unwrap();
    }
    let rows = site.replica.row_states("tasks").unwrap();
    let present = rows
        .iter()
        .filter(|(_, state)| state.existence().is_present());
    // What SQL sees are just the rows that are there.
    assert_eq!(site.count("tasks"), i64::try_from(present.count()).unwrap());
    rows.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn at_once_and_one_by_one_and_by_the_crdt_alone(
        deltas in prop_oneof![
            prop::collection::vec(incoming(6), 1..40),
            prop::collection::vec(incoming(300), 1..120),
        ],
        cut in any::<prop::sample::Index>(),
    ) {
        let mut model: BTreeMap<RowKey, RowState> = BTreeMap::new();
        for delta in &deltas {
            let _ = model.entry(delta.key.clone()).or_default().merge(&delta.state);
        }
        let singly: Vec<&[Delta]> = deltas.chunks(1).collect();
        let (first, rest) = deltas.split_at(cut.index(deltas.len()));
        prop_assert_eq!(&told(&[&deltas]), &model);
        prop_assert_eq!(&told(&singly), &model);
        prop_assert_eq!(&told(&[first, rest]), &model);
    }
}
