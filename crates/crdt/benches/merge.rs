//! How many cells a second the merge takes, in memory: into nothing, all winning, all losing. Rows
//! of four columns, as states with their values and as clocks apart from them.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{cmp::Ordering, hint::black_box};

use anabranch_crdt::{ColumnId, Hlc, Millis, ReplicaId, RowClock, RowState, Stamp, Value, merge};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const ROWS: u16 = 1000;
const COLUMNS: u16 = 4;

fn rows(time: u64, replica: u8) -> Vec<RowState> {
    (0..ROWS)
        .map(|row| {
            let stamp = Stamp::new(
                Hlc::new(Millis(time), row).unwrap(),
                ReplicaId([replica; 16]),
            );
            let mut state = RowState::live(stamp);
            for column in 1..=COLUMNS {
                state.set(ColumnId(column), stamp, Value::Integer(row.into()));
            }
            state
        })
        .collect()
}

fn merges(criterion: &mut Criterion) {
    let (older, newer) = (rows(1, 1), rows(2, 2));
    let nothing = vec![RowState::new(); ROWS.into()];
    let cases = [
        ("fresh", &nothing, &newer),
        ("all win", &older, &newer),
        ("all lose", &newer, &older),
    ];
    let mut group = criterion.benchmark_group("merge");
    group.throughput(Throughput::Elements(u64::from(ROWS) * u64::from(COLUMNS)));
    for (name, held, deltas) in cases {
        group.bench_function(format!("states/{name}"), |bencher| {
            bencher.iter_batched_ref(
                || held.clone(),
                |held: &mut Vec<RowState>| {
                    for (row, delta) in held.iter_mut().zip(deltas) {
                        let _ = black_box(row.merge(delta));
                    }
                },
                BatchSize::LargeInput,
            );
        });
        let clocks: Vec<RowClock> = held.iter().map(|row| row.clock().clone()).collect();
        group.bench_function(format!("clocks/{name}"), |bencher| {
            bencher.iter_batched_ref(
                || clocks.clone(),
                |clocks: &mut Vec<RowClock>| {
                    for (clock, delta) in clocks.iter_mut().zip(deltas) {
                        let _ = black_box(merge(clock, delta, |_, _| Ordering::Equal));
                    }
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, merges);
criterion_main!(benches);
