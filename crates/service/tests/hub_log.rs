//! How the log is told: each transaction whole, from where the replica stands, and no more of it than
//! concerns it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use anabranch_crdt::{Millis, Value};
use anabranch_protocol::{
    ClientFrame, Cursor, Epoch, Position, Seq, ServerFrame, SubscriptionSet,
    limits::FRAME_BYTES_MAX,
};
use anabranch_service::limits::{CURSOR_LAG_MAX, LOG_TRANSACTIONS_MAX};
use common::{
    Bench, NOW, at, is_up_to_date,
    store::{TITLE, key, local},
    sub, subscription,
};

fn both() -> SubscriptionSet {
    SubscriptionSet::only(sub(0)).with(sub(1))
}

fn resets(frames: &[ServerFrame]) -> usize {
    let reset = |frame: &&ServerFrame| matches!(frame, ServerFrame::SnapshotReset(_));
    frames.iter().filter(reset).count()
}

/// What the one frame says of each row: its number, the subscriptions it is in, its title.
fn changes(frames: &[ServerFrame]) -> Vec<(Value, SubscriptionSet, Option<Value>)> {
    let [ServerFrame::Transaction { changes, .. }] = frames else {
        panic!("not one transaction: {frames:?}")
    };
    let row = changes.iter().map(|change| {
        let title = change.state.value(TITLE).cloned();
        (change.key.0[0].clone(), change.shapes, title)
    });
    row.collect()
}

#[test]
fn a_transaction_across_shapes_comes_in_one_frame_and_says_which_rows_are_in_which() {
    let mut bench = Bench::new();
    bench
        .store
        .write(&[(1, Some((1, "a"))), (2, Some((2, "b")))]);
    let id = bench.follow(1, &["owner = 1", "title = 'b'"]);
    let (first, second) = (SubscriptionSet::only(sub(0)), SubscriptionSet::only(sub(1)));

    bench.store.write(&[
        (1, Some((1, "b"))),
        (2, Some((2, "c"))),
        (3, Some((1, "z"))),
        (4, Some((5, "z"))),
    ]);
    bench.settle();
    let told = changes(&bench.hear(id));
    let expected = [
        (Value::Integer(1), both(), Some(Value::text("b"))),
        (Value::Integer(2), SubscriptionSet::EMPTY, None),
        (Value::Integer(3), first, Some(Value::text("z"))),
    ];
    assert_eq!(told, expected);

    bench.store.write(&[(1, Some((2, "b"))), (3, None)]);
    bench.settle();
    let told = changes(&bench.hear(id));
    let expected = [
        (Value::Integer(1), second, Some(Value::text("b"))),
        (Value::Integer(3), SubscriptionSet::EMPTY, None),
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_deleted_row_is_told_as_deleted_and_one_that_left_only_as_gone() {
    let mut bench = Bench::new();
    bench
        .store
        .write(&[(1, Some((1, "a"))), (2, Some((1, "b")))]);
    let id = bench.follow(1, &["owner = 1"]);
    bench.store.write(&[(1, None), (2, Some((2, "secret")))]);
    bench.settle();
    let frames = bench.hear(id);
    let [ServerFrame::Transaction { changes, .. }] = frames.as_slice() else {
        panic!("{frames:?}")
    };
    assert!(!changes[0].state.existence().is_empty() && !changes[0].state.existence().is_present());
    assert!(changes[1].state.existence().is_empty());
    assert_eq!(changes[1].state.cells().count(), 0);
}

#[test]
fn what_concerns_nobody_wakes_nobody() {
    let mut bench = Bench::new();
    let (one, two) = (
        bench.follow(1, &["owner = 1"]),
        bench.follow(2, &["owner = 2"]),
    );
    bench.ready();
    bench.store.write(&[(1, Some((1, "a")))]);
    bench.tell();
    assert_eq!(bench.ready().into_iter().collect::<Vec<_>>(), [one]);
    bench.store.write(&[(1, Some((2, "a")))]);
    bench.tell();
    assert_eq!(bench.ready().into_iter().collect::<Vec<_>>(), [one, two]);
    bench.store.write(&[(9, Some((9, "z")))]);
    bench.tell();
    assert!(bench.ready().is_empty());
}

#[test]
fn being_up_to_date_is_said_once_for_each_subscribe() {
    let mut bench = Bench::new();
    let id = bench.open(1, 100);
    bench.say(id, ClientFrame::Subscribe(Vec::new()));
    let frames = bench.hear(id);
    assert!(frames.len() == 1 && is_up_to_date(&frames[0]));
    bench.subscribe(id, 0, "", None);
    bench.settle();
    let frames = bench.hear(id);
    let said = frames.iter().filter(|frame| is_up_to_date(frame)).count();
    assert_eq!(said, 1, "{frames:?}");
    bench.hub.tick(NOW);
    assert!(bench.hear(id).is_empty());
}

#[test]
fn after_a_burst_the_replica_hears_that_there_is_no_more() {
    let mut bench = Bench::new();
    let id = bench.follow(1, &["owner = 1", "owner = 2"]);
    for number in 0..4 {
        bench.store.write(&[(number, Some((1, "a")))]);
        bench
            .store
            .write(&[(number + 10, Some((7, "of no concern")))]);
    }
    bench.settle();
    let frames = bench.hear(id);
    let more: Vec<bool> = frames.iter().map(|frame| !is_up_to_date(frame)).collect();
    assert_eq!(more, [true, true, true, false]);
    let ServerFrame::Transaction { live, .. } = frames[3] else {
        panic!("{frames:?}")
    };
    assert_eq!(live, both());
}

#[test]
fn a_replica_whose_snapshot_saw_a_transaction_still_hears_that_it_is_up_to_date() {
    // One subscription's snapshot has seen what the other is told, so that the frame speaks for only
    // one of them; the replica is up to date only when a frame speaks for both.
    let mut bench = Bench::new();
    bench.store.write(&[(1, Some((1, "hidden")))]);
    bench.store.hide_newest();
    let id = bench.follow(1, &["owner = 2"]);
    bench.store.write(&[(2, Some((2, "b")))]);
    bench.subscribe(id, 1, "", None);
    bench.settle();
    let frames = bench.hear(id);
    let last = frames.last().unwrap();
    let ServerFrame::Transaction { live, .. } = last else {
        panic!("{frames:?}")
    };
    assert!(is_up_to_date(last) && *live == both(), "{frames:?}");
}

#[test]
fn a_replica_resumes_from_its_cursor() {
    let mut bench = Bench::new();
    let id = bench.follow(1, &["owner = 1", "owner = 2"]);
    bench.store.write(&[(1, Some((1, "a")))]);
    bench.settle();
    let told = bench.hear(id);
    let [ServerFrame::Transaction { cursor, .. }] = told.as_slice() else {
        panic!("{told:?}")
    };
    bench.hub.disconnect(id);
    bench
        .store
        .write(&[(1, Some((2, "b"))), (3, Some((1, "c")))]);
    bench.settle();

    let id = bench.open(1, 100);
    let wanted = ["owner = 1", "owner = 2"].into_iter().zip(0..);
    let wanted = wanted.map(|(filter, number)| subscription(number, filter, Some(*cursor)));
    bench.say(id, ClientFrame::Subscribe(wanted.collect()));
    bench.settle();
    let frames = bench.hear(id);
    let [ServerFrame::Transaction { live, .. }] = frames.as_slice() else {
        panic!("not resumed, or not together: {frames:?}")
    };
    assert_eq!((*live, changes(&frames).len()), (both(), 2));
    assert!(is_up_to_date(&frames[0]));
}

#[test]
fn cursors_apart_come_together() {
    let mut bench = Bench::new();
    let id = bench.follow(1, &["owner = 1", "owner = 2"]);
    for _ in 0..3 {
        bench
            .store
            .write(&[(1, Some((1, "a"))), (2, Some((2, "b")))]);
    }
    bench.settle();
    bench.hub.disconnect(id);
    let id = bench.open(1, 100);
    let wanted = vec![
        subscription(0, "owner = 1", Some(at(10))),
        subscription(1, "owner = 2", Some(at(20))),
    ];
    bench.say(id, ClientFrame::Subscribe(wanted));
    let frames = bench.hear(id);
    let told: Vec<_> = frames
        .iter()
        .map(|frame| match frame {
            ServerFrame::Transaction { cursor, live, .. } => (cursor.position.0, *live),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(20, SubscriptionSet::only(sub(0))), (30, both())]);
}

#[test]
fn a_cursor_of_elsewhere_is_answered_with_a_snapshot() {
    let mut bench = Bench::new();
    bench.store.write(&[(1, Some((1, "a")))]);
    bench.follow(9, &["owner = 1"]);
    let other = Cursor {
        epoch: Epoch(1),
        position: Position(10),
    };
    for cursor in [other, at(9), at(10_000)] {
        let id = bench.open(1, 100);
        bench.subscribe(id, 0, "owner = 1", Some(cursor));
        bench.settle();
        let frames = bench.hear(id);
        assert!(
            matches!(frames[0], ServerFrame::Snapshot { .. }),
            "{cursor:?}: {frames:?}"
        );
        bench.hub.disconnect(id);
    }
}

#[test]
fn a_cursor_keeps_up_with_a_log_that_does_not_concern_it() {
    let mut bench = Bench::new();
    let id = bench.follow(1, &["owner = 1"]);
    bench.store.fill(CURSOR_LAG_MAX - 1);
    bench.tell();
    bench.hub.tick(NOW);
    assert!(bench.hear(id).is_empty());
    bench.store.fill(1);
    bench.tell();
    bench.hub.tick(NOW);
    assert!(bench.ready().contains(&id), "the cursor falls behind");
    let frames = bench.hear(id);
    let [
        ServerFrame::Transaction {
            cursor, changes, ..
        },
    ] = frames.as_slice()
    else {
        panic!("{frames:?}")
    };
    assert_eq!(cursor.position, bench.store.position);
    assert!(changes.is_empty() && is_up_to_date(&frames[0]));
}

#[test]
fn a_replica_too_slow_for_the_log_starts_over_and_misses_nothing() {
    let mut bench = Bench::new();
    let id = bench.open(1, 4);
    bench.subscribe(id, 0, "owner = 1", None);
    bench.settle();
    assert!(is_up_to_date(bench.hear(id).last().unwrap()));
    // It has no credit left for most of this.
    bench.push(id, vec![local(1, 1, 5, 1, "own")]);
    bench.settle();
    for number in 0..5 {
        bench.store.write(&[(number, Some((1, "a")))]);
    }
    bench.store.fill(LOG_TRANSACTIONS_MAX);
    bench.settle();
    bench.say(id, ClientFrame::Credit(1_000));
    bench.settle();
    let mut frames = bench.hear(id);
    bench.settle();
    frames.extend(bench.hear(id));
    assert_eq!(resets(&frames), 1, "{frames:?}");
    let end = frames
        .iter()
        .position(|frame| matches!(frame, ServerFrame::SnapshotEnd { .. }));
    // The log that told of its own transaction is gone, and still it hears of it; after its row.
    let told = frames
        .iter()
        .position(|frame| matches!(frame, ServerFrame::Accepted(Seq(1))));
    assert!(end.is_some() && told > end, "{frames:?}");
    assert!(frames.iter().any(is_up_to_date));
}

#[test]
fn a_snapshot_overtaken_by_the_log_is_taken_again() {
    let mut bench = Bench::new();
    bench.store.write(&[(1, Some((1, "a")))]);
    bench.follow(9, &["owner = 1"]);
    let id = bench.open(1, 0);
    bench.subscribe(id, 0, "owner = 1", None);
    bench.settle();
    bench.store.write(&[(2, Some((1, "missed")))]);
    bench.store.fill(LOG_TRANSACTIONS_MAX + 1);
    bench.settle();
    bench.say(id, ClientFrame::Credit(100));
    bench.settle();
    let mut frames = bench.hear(id);
    bench.settle();
    frames.extend(bench.hear(id));
    assert_eq!(frames[0], ServerFrame::SnapshotReset(sub(0)));
    let rows: usize = frames
        .iter()
        .map(|frame| match frame {
            ServerFrame::Snapshot { rows, .. } => rows.len(),
            _ => 0,
        })
        .sum();
    assert_eq!(rows, 2);
}

#[test]
fn a_transaction_too_large_for_a_frame_is_told_by_snapshots() {
    let mut bench = Bench::new();
    let id = bench.follow(1, &["owner = 1"]);
    let large = "x".repeat(FRAME_BYTES_MAX);
    bench
        .store
        .write(&[(1, Some((1, "small"))), (2, Some((2, &large)))]);
    bench.store.hide_newest();
    bench.tell();
    bench.hub.tick(Millis(NOW.0 + 1));
    assert!(bench.ready().contains(&id));
    // The new snapshot does not see it yet either, and so is no good.
    let first = bench.hear(id);
    assert_eq!(first, [ServerFrame::SnapshotReset(sub(0))]);
    bench.work();
    assert_eq!(bench.hear(id), [ServerFrame::SnapshotReset(sub(0))]);
    bench.store.invisible.clear();
    bench.settle();
    let mut frames = bench.hear(id);
    bench.settle();
    frames.extend(bench.hear(id));
    let rows = frames.iter().find_map(|frame| match frame {
        ServerFrame::Snapshot { rows, .. } => Some(rows),
        _ => None,
    });
    assert_eq!(rows.unwrap()[0].key, key(1));
    assert!(is_up_to_date(frames.last().unwrap()));
}
