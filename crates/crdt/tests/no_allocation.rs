//! A delta that loses, and one that comes again, cost no allocation. Counted by the allocator.
#![allow(clippy::unwrap_used, missing_docs)]
#![allow(
    unsafe_code,
    reason = "an allocator that counts cannot be written without it"
)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use anabranch_crdt::{ColumnId, Hlc, Merged, Millis, ReplicaId, RowState, Stamp, Value, merge};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is handed to the system's allocator as it is; counting touches a thread-local
// that needs neither allocation nor destruction.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `block` came from the system's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn allocations(run: impl FnOnce() -> Merged) -> (usize, Merged) {
    let before = ALLOCATIONS.get();
    let merged = run();
    (ALLOCATIONS.get() - before, merged)
}

fn row(time: u64, text: &str) -> RowState {
    let stamp = Stamp::new(Hlc::new(Millis(time), 0).unwrap(), ReplicaId([1; 16]));
    let mut state = RowState::live(stamp);
    for column in 1..=8 {
        state.set(ColumnId(column), stamp, Value::text(text));
    }
    state
}

#[test]
fn a_losing_or_repeated_delta_allocates_nothing() {
    let (older, newer) = (
        row(1, "a text of some length"),
        row(2, "another text of some length"),
    );
    for delta in [&older, &newer] {
        let mut held = newer.clone();
        let (count, merged) = allocations(|| held.merge(delta));
        assert_eq!((count, merged.changed), (0, false));

        let mut clock = newer.clock().clone();
        let (count, merged) = allocations(|| {
            merge(&mut clock, delta, |column, value| {
                newer.value(column).cmp(&Some(value))
            })
        });
        assert_eq!((count, merged.changed), (0, false));
    }
}

#[test]
fn a_winning_delta_is_seen_to_allocate() {
    let mut held = row(1, "a text of some length");
    let delta = row(2, "another text of some length");
    let (count, merged) = allocations(|| held.merge(&delta));
    assert!(count > 0 && merged.changed);
}
