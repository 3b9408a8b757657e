//! The merge itself, in memory, beside a bare comparison of one clock a cell.

use std::{cmp::Ordering, hint::black_box};

use anabranch_crdt::{RowClock, RowState, Stamp, merge};

use super::{
    Figure, MergeOptions, Stopwatch, median, rate,
    rows::{COLUMNS, HELD, What, changes, keys},
};

/// Measures deltas that win and deltas that lose. The rows fit the processor's cache, so that the
/// work is seen and not the memory.
pub(super) fn cases(options: &MergeOptions, tell: &mut impl FnMut(Figure)) {
    let cases = [("memory", HELD + 1), ("memory_lose", HELD - 1)];
    for (case, ms) in cases.into_iter().filter(|(case, _)| options.wants(case)) {
        let keys = keys(ROWS);
        let states = |ms| {
            let changes = changes(&keys, What::Row(ms)).into_iter();
            changes.map(|change| change.state).collect::<Vec<_>>()
        };
        let (held, incoming) = (states(HELD), states(ms));
        let mut ours = Vec::new();
        let mut limit = Vec::new();
        for _ in 0..options.rounds.max(1) {
            ours.push(merging(&held, &incoming));
            limit.push(comparing(&held, &incoming));
        }
        tell(Figure {
            case,
            ours: median(ours),
            limit: median(limit),
            unit: "cells/s",
        });
    }
}

fn merging(held: &[RowState], incoming: &[RowState]) -> f64 {
    let held: Vec<RowClock> = held.iter().map(|state| state.clock().clone()).collect();
    let mut rounds = vec![held; ROUNDS];
    let start = Stopwatch::start();
    for clocks in &mut rounds {
        for (clock, delta) in clocks.iter_mut().zip(incoming) {
            let _ = black_box(merge(clock, delta, |_, _| Ordering::Equal));
        }
    }
    rate(cells() * ROUNDS, start.elapsed())
}

/// Clocks in arrays, one a cell: no columns to find, no existence, nothing to tell.
fn comparing(held: &[RowState], incoming: &[RowState]) -> f64 {
    let stamps = |states: &[RowState]| -> Vec<Vec<Stamp>> {
        let of = |state: &RowState| state.cells().map(|(_, stamp, _)| stamp).collect();
        states.iter().map(of).collect()
    };
    let incoming = stamps(incoming);
    let mut rounds = vec![stamps(held); ROUNDS];
    let start = Stopwatch::start();
    for rows in &mut rounds {
        for (row, delta) in rows.iter_mut().zip(&incoming) {
            for (held, stamp) in row.iter_mut().zip(delta) {
                if *stamp > *held {
                    *held = *stamp;
                }
            }
            black_box(row);
        }
    }
    rate(cells() * ROUNDS, start.elapsed())
}

fn cells() -> usize {
    ROWS * COLUMNS.len()
}

const ROWS: usize = 1_000;
const ROUNDS: usize = 100;
