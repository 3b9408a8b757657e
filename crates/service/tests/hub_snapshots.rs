//! Snapshots: at the replica's pace, joined to the log without a hole, and one replica's none of
//! another's business.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use anabranch_crdt::Millis;
use anabranch_protocol::{ClientFrame, RefusalCode, ServerFrame, SubscriptionSet};
use anabranch_service::limits::{SNAPSHOT_CHUNKS_MAX, SNAPSHOT_STALL_MAX_MS};
use common::{
    Bench, Job, NOW, at, is_up_to_date,
    store::{self, key},
    sub,
};

fn rows_of(frames: &[ServerFrame]) -> usize {
    let rows = frames.iter().map(|frame| match frame {
        ServerFrame::Snapshot { rows, .. } => rows.len(),
        _ => 0,
    });
    rows.sum()
}

fn ends(frames: &[ServerFrame]) -> usize {
    let end = |frame: &&ServerFrame| matches!(frame, ServerFrame::SnapshotEnd { .. });
    frames.iter().filter(end).count()
}

/// A bench whose store holds `count` rows of owner 1, all of them told.
fn filled(count: i64) -> Bench {
    let mut bench = Bench::new();
    for number in 0..count {
        bench.store.write(&[(number, Some((1, "a")))]);
    }
    bench.tell();
    bench
}

/// Does what the hub asks for up to the first snapshot for a replica, and not that.
fn work_up_to_rows(bench: &mut Bench) -> Job {
    bench.collect();
    loop {
        match bench.jobs.pop_front().expect("no snapshot for a replica") {
            Job::Start(ticket, query) if !query.columns.is_empty() => {
                return Job::Start(ticket, query);
            }
            job => bench.perform(job),
        }
    }
}

#[test]
fn a_snapshot_waits_for_credit_and_its_reader_for_the_replica() {
    let mut bench = filled(40);
    let id = bench.open(1, 0);
    bench.subscribe(id, 0, "", None);
    bench.work();
    let unread = |bench: &Bench| {
        bench
            .reading
            .values()
            .map(|chunks| chunks.len())
            .sum::<usize>()
    };
    let chunks = 40 / bench.rows_per_chunk;
    assert_eq!(
        unread(&bench),
        chunks - SNAPSHOT_CHUNKS_MAX,
        "read ahead of the replica"
    );
    assert!(bench.hear(id).is_empty(), "rows without credit");

    bench.say(id, ClientFrame::Credit(3));
    let frames = bench.hear(id);
    assert_eq!((frames.len(), rows_of(&frames)), (3, 6));
    bench.collect();
    assert_eq!(bench.jobs.len(), 1, "one reader reads one chunk at a time");
    bench.work();
    assert_eq!(unread(&bench), chunks - SNAPSHOT_CHUNKS_MAX - 3);

    bench.say(id, ClientFrame::Credit(1_000));
    let mut frames = Vec::new();
    for _ in 0..chunks {
        frames.extend(bench.hear(id));
        bench.work();
    }
    assert_eq!((rows_of(&frames), ends(&frames)), (34, 1));
    let ServerFrame::Snapshot { rows_estimate, .. } = frames[0] else {
        panic!("{frames:?}")
    };
    assert_eq!(rows_estimate, 40);
    assert!(is_up_to_date(frames.last().unwrap()));
}

#[test]
fn a_snapshot_ends_only_when_the_log_has_been_told_to_its_fence() {
    let mut bench = filled(2);
    bench.store.write(&[(9, Some((1, "committed, not told")))]);
    let id = bench.open(1, 100);
    bench.subscribe(id, 0, "", None);
    bench.work();
    let frames = bench.hear(id);
    assert_eq!((rows_of(&frames), ends(&frames)), (3, 0));
    bench.ready();
    bench.tell_one();
    assert!(bench.ready().contains(&id), "nobody looks again");
    let frames = bench.hear(id);
    assert!(matches!(frames[0], ServerFrame::SnapshotEnd { cursor, .. } if cursor == at(30)));
    assert!(is_up_to_date(&frames[1]), "{frames:?}");
    assert_eq!(frames.len(), 2, "told again what the snapshot saw");
}

#[test]
fn a_fence_beyond_the_last_transaction_is_reached_by_the_idle_log() {
    let mut bench = filled(1);
    bench.store.position.0 += 7;
    let id = bench.open(1, 100);
    bench.subscribe(id, 0, "", None);
    bench.work();
    assert_eq!(ends(&bench.hear(id)), 0);
    bench.ready();
    bench.tell();
    assert!(bench.ready().contains(&id), "nobody looks again");
    let frames = bench.hear(id);
    assert!(is_up_to_date(frames.last().unwrap()), "{frames:?}");
}

#[test]
fn what_the_log_told_before_the_snapshot_saw_it_is_told_after_it() {
    let mut bench = filled(1);
    bench.store.write(&[(2, Some((1, "hidden")))]);
    bench.store.hide_newest();
    bench.store.write(&[(3, Some((1, "seen")))]);
    bench.tell();
    let id = bench.open(1, 100);
    bench.subscribe(id, 0, "", None);
    bench.work();
    bench.store.invisible.clear();
    let frames = bench.hear(id);
    assert_eq!(rows_of(&frames), 2, "rows 0 and 3");
    let rest = &frames[1..];
    let [
        ServerFrame::SnapshotEnd { cursor, .. },
        ServerFrame::Transaction {
            changes,
            cursor: moved,
            ..
        },
        last,
    ] = rest
    else {
        panic!("{rest:?}")
    };
    assert_eq!((*cursor, *moved), (at(10), at(20)));
    assert_eq!((changes.len(), &changes[0].key), (1, &key(2)));
    assert!(is_up_to_date(last), "{rest:?}");
}

#[test]
fn what_a_snapshot_saw_is_not_told_after_it() {
    let mut bench = filled(4);
    bench.follow(9, &["owner = 1"]);
    bench.store.write(&[(2, Some((1, "hidden")))]);
    bench.store.hide_newest();
    // Told of this, the replica would lose the row and get it back.
    bench.store.write(&[(3, Some((5, "leaves")))]);
    bench.store.write(&[(3, Some((1, "returns")))]);
    bench.tell();
    let id = bench.open(1, 100);
    bench.subscribe(id, 0, "owner = 1", None);
    bench.work();
    let frames = bench.hear(id);
    let told: Vec<_> = frames
        .iter()
        .flat_map(|frame| match frame {
            ServerFrame::Transaction { changes, .. } => changes.as_slice(),
            _ => &[],
        })
        .collect();
    assert_eq!((told.len(), &told[0].key), (1, &key(2)), "{frames:?}");
    assert!(is_up_to_date(frames.last().unwrap()));
}

#[test]
fn transactions_during_a_snapshot_follow_it() {
    let mut bench = filled(1);
    let id = bench.open(1, 100);
    bench.subscribe(id, 0, "owner = 1", None);
    let start = work_up_to_rows(&mut bench);
    bench.perform(start);
    bench
        .store
        .write(&[(0, Some((2, "leaves"))), (5, Some((1, "enters")))]);
    bench.settle();
    let frames = bench.hear(id);
    assert_eq!((rows_of(&frames), ends(&frames)), (1, 1));
    let last = frames.last().unwrap();
    let ServerFrame::Transaction { changes, more, .. } = last else {
        panic!("{frames:?}")
    };
    let inside: Vec<_> = changes
        .iter()
        .map(|change| !change.shapes.is_empty())
        .collect();
    assert_eq!(inside, [false, true]);
    assert!(!more, "{frames:?}");
}

#[test]
fn a_replica_that_takes_nothing_holds_up_no_other() {
    let mut bench = filled(40);
    let stalled = bench.open(1, 0);
    bench.subscribe(stalled, 0, "", None);
    bench.work();
    let id = bench.open(2, 1_000);
    bench.subscribe(id, 0, "", None);
    let mut frames = Vec::new();
    for _ in 0..40 {
        bench.settle();
        frames.extend(bench.hear(id));
    }
    assert_eq!(rows_of(&frames), 40);
    assert!(is_up_to_date(frames.last().unwrap()), "held up by another");
}

#[test]
fn two_replicas_share_what_is_known_of_a_shape() {
    let mut bench = filled(4);
    let (first, second) = (bench.open(1, 100), bench.open(2, 100));
    bench.subscribe(first, 0, "", None);
    bench.collect();
    bench.subscribe(second, 0, "", None);
    bench.collect();
    assert_eq!(bench.jobs.len(), 1, "the members are read once, and first");
    // The first leaves while they are read.
    let job = bench.jobs.pop_front().unwrap();
    bench.perform(job);
    bench.hub.disconnect(first);
    bench.settle();
    assert!(is_up_to_date(bench.hear(second).last().unwrap()));
    assert_eq!(bench.hub.shape_count(), 1);
    assert!(
        bench
            .reading
            .values()
            .all(std::collections::VecDeque::is_empty)
    );
}

#[test]
fn a_disconnect_cancels_every_snapshot_of_the_session() {
    let mut bench = filled(40);
    let id = bench.open(1, 0);
    // Two of them are of one shape.
    let wanted = [(0, ""), (1, ""), (2, "owner = 1")];
    let wanted = wanted.map(|(number, filter)| common::subscription(number, filter, None));
    bench.say(id, ClientFrame::Subscribe(wanted.to_vec()));
    bench.work();
    let full = |bench: &Bench| {
        bench
            .reading
            .values()
            .filter(|left| !left.is_empty())
            .count()
    };
    assert_eq!(full(&bench), 3);
    bench.hub.disconnect(id);
    bench.collect();
    assert_eq!(full(&bench), 0, "a reader is left behind");
}

#[test]
fn a_snapshot_that_breaks_off_starts_again() {
    let mut bench = filled(6);
    let id = bench.open(1, 100);
    bench.subscribe(id, 0, "", None);
    let start = work_up_to_rows(&mut bench);
    let Job::Start(ticket, _) = &start else {
        unreachable!()
    };
    let ticket = *ticket;
    bench.perform(start);
    let chunk = bench.jobs.pop_back().unwrap();
    bench.perform(chunk);
    assert_eq!(rows_of(&bench.hear(id)), 2);
    bench.cancelled.insert(ticket);
    bench.hub.snapshot_failed(ticket);
    bench.settle();
    let frames = bench.hear(id);
    assert_eq!(frames[0], ServerFrame::SnapshotReset(sub(0)));
    assert_eq!((rows_of(&frames), ends(&frames)), (6, 1));
}

#[test]
fn members_that_cannot_be_read_are_read_again() {
    let mut bench = filled(3);
    let id = bench.open(1, 100);
    bench.subscribe(id, 0, "owner = 1", None);
    bench.collect();
    let start = bench.jobs.pop_front().unwrap();
    let Job::Start(ticket, query) = &start else {
        panic!("{start:?}")
    };
    assert!(query.columns.is_empty(), "members need no columns");
    let ticket = *ticket;
    bench.perform(start);
    bench.cancelled.insert(ticket);
    bench.hub.snapshot_failed(ticket);
    bench.settle();
    let frames = bench.hear(id);
    assert_eq!((rows_of(&frames), ends(&frames)), (3, 1));
    assert!(is_up_to_date(frames.last().unwrap()), "{frames:?}");
    bench.store.write(&[(1, Some((2, "leaves")))]);
    bench.settle();
    assert_eq!(bench.hear(id).len(), 1);
}

#[test]
fn a_replica_that_keeps_a_snapshot_waiting_too_long_is_cut_off() {
    let mut bench = filled(40);
    let id = bench.open(1, 1);
    bench.hub.tick(NOW);
    bench.subscribe(id, 0, "", None);
    bench.work();
    assert_eq!(bench.hear(id).len(), 1);
    bench.hub.tick(Millis(NOW.0 + SNAPSHOT_STALL_MAX_MS));
    assert!(bench.hear(id).is_empty());
    bench.hub.tick(Millis(NOW.0 + SNAPSHOT_STALL_MAX_MS + 1));
    let frames = bench.hear(id);
    assert!(
        matches!(
            &frames[..],
            [ServerFrame::Refused {
                code: RefusalCode::Unavailable,
                ..
            }]
        ),
        "{frames:?}"
    );
    bench.collect();
    assert!(
        bench
            .reading
            .values()
            .all(std::collections::VecDeque::is_empty)
    );
}

#[test]
fn a_later_subscription_catches_up_on_its_own_and_then_goes_along() {
    let mut bench = filled(1);
    let id = bench.follow(1, &["owner = 1"]);
    bench.subscribe(id, 1, "title = 'a'", None);
    let start = work_up_to_rows(&mut bench);
    bench.perform(start);
    bench.store.write(&[(2, Some((1, "a")))]);
    bench.tell();
    assert_eq!(
        bench.hear(id).len(),
        1,
        "the first subscription waits for nothing"
    );
    bench.settle();
    let frames = bench.hear(id);
    let only_second = SubscriptionSet::only(sub(1));
    let alone = frames.iter().filter(|frame| {
        matches!(frame, ServerFrame::Transaction { live, changes, .. }
            if *live == only_second && !changes.is_empty())
    });
    assert_eq!(alone.count(), 1, "{frames:?}");
    assert!(is_up_to_date(frames.last().unwrap()));
    bench.store.write(&[(3, Some((1, "a")))]);
    bench.settle();
    let frames = bench.hear(id);
    let [ServerFrame::Transaction { live, changes, .. }] = frames.as_slice() else {
        panic!("{frames:?}")
    };
    assert_eq!(*live, only_second.with(sub(0)));
    assert_eq!(changes[0].shapes, *live);
    assert_eq!(changes[0].table, store::NOTES);
}
