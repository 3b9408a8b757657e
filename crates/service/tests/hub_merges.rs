//! What becomes of pushed transactions: which are let in, and when the replica is told of the outcome.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use anabranch_crdt::{Entry, Existence, Hlc, Life, Millis, ReplicaId, Stamp, Value};
use anabranch_protocol::{
    ClientFrame, LocalTransaction, RefusalCode, RejectCode, Seq, ServerFrame,
    limits::UP_CREDIT_TRANSACTIONS,
};
use common::{
    Bench, Job, NOW, at, hello,
    store::{TITLE, local},
};

fn stamp(millis: u64, replica: u8) -> Stamp {
    Stamp::new(
        Hlc::new(Millis(millis), 0).unwrap(),
        ReplicaId([replica; 16]),
    )
}

fn refused(transaction: LocalTransaction) -> Option<RefusalCode> {
    let mut bench = Bench::new();
    let id = bench.open(1, 4);
    bench.push(id, vec![transaction]);
    bench.collect();
    match bench.hear(id).first() {
        Some(ServerFrame::Refused { code, .. }) => {
            assert!(bench.jobs.is_empty(), "merged in spite of the refusal");
            Some(*code)
        }
        _ => None,
    }
}

fn acknowledged(frames: &[ServerFrame]) -> Vec<Seq> {
    let mut all = Vec::new();
    for frame in frames {
        match frame {
            ServerFrame::Transaction { accepted, .. } => all.extend(accepted),
            ServerFrame::Accepted(seq) => all.push(*seq),
            _ => {}
        }
    }
    all
}

fn granted(frames: &[ServerFrame]) -> u32 {
    let credit = frames.iter().map(|frame| match frame {
        ServerFrame::Credit(more) => *more,
        _ => 0,
    });
    credit.sum()
}

#[test]
fn a_stamp_may_be_ahead_by_the_drift_and_no_further() {
    let stamped = |millis| {
        let mut transaction = local(1, 1, 5, 1, "x");
        transaction.stamp = stamp(millis, 1);
        transaction.deltas.clear();
        transaction
    };
    assert_eq!(refused(stamped(NOW.0 + 1_000)), None);
    assert_eq!(
        refused(stamped(NOW.0 + 1_001)),
        Some(RefusalCode::ClockAhead)
    );
}

#[test]
fn forged_stamps_are_refused() {
    assert_eq!(refused(local(1, 1, 5, 1, "honest")), None);

    let mut register = local(1, 1, 5, 1, "x");
    register.deltas[0]
        .state
        .set(TITLE, stamp(2, 9), Value::text("forged"));
    assert_eq!(refused(register), Some(RefusalCode::Protocol));

    let mut addition = local(1, 1, 5, 1, "x");
    addition.deltas[0].state.existence_mut().add(stamp(2, 9));
    assert_eq!(refused(addition), Some(RefusalCode::Protocol));

    let mut removal = local(1, 1, 5, 1, "x");
    let removes = |at_ms| {
        let stamp = stamp(at_ms, 9);
        Existence::from_iter([Entry {
            stamp,
            life: Life::Removed,
        }])
    };
    let made_at = removal.stamp.hlc.millis().0;
    *removal.deltas[0].state.existence_mut() = removes(made_at);
    assert_eq!(refused(removal.clone()), None, "an observed addition");
    *removal.deltas[0].state.existence_mut() = removes(made_at + 1);
    assert_eq!(
        refused(removal),
        Some(RefusalCode::Protocol),
        "one it cannot have observed"
    );

    let stranger = local(9, 1, 5, 1, "x");
    assert_eq!(refused(stranger), Some(RefusalCode::Protocol));
}

#[test]
fn a_merge_is_acknowledged_by_the_frame_that_brings_its_result() {
    let mut bench = Bench::new();
    let id = bench.follow(1, &["owner = 1"]);
    bench.push(id, vec![local(1, 1, 5, 1, "in"), local(1, 2, 6, 2, "out")]);
    bench.work();
    assert_eq!(
        acknowledged(&bench.hear(id)),
        [],
        "acknowledged before the log told of it"
    );
    bench.tell();
    assert!(bench.ready().contains(&id));
    let frames = bench.hear(id);
    let ServerFrame::Transaction {
        accepted, changes, ..
    } = &frames[0]
    else {
        panic!("{frames:?}")
    };
    assert_eq!((accepted.as_slice(), changes.len()), (&[Seq(1)][..], 1));
    let ServerFrame::Transaction {
        accepted, changes, ..
    } = &frames[1]
    else {
        panic!("{frames:?}")
    };
    assert_eq!((accepted.as_slice(), changes.len()), (&[Seq(2)][..], 0));
    assert_eq!(granted(&frames), 2);
}

#[test]
fn credit_comes_back_with_the_outcomes_and_not_before() {
    let mut bench = Bench::new();
    let id = bench.open(1, 0);
    let most = u64::from(UP_CREDIT_TRANSACTIONS);
    let transactions = (1..=most).map(|seq| local(1, seq, 5, 1, "x"));
    bench.push(id, transactions.collect());
    bench.settle();
    assert_eq!(
        granted(&bench.hear(id)),
        0,
        "credit for what the replica has not heard of"
    );
    bench.say(id, ClientFrame::Credit(1_000));
    let frames = bench.hear(id);
    assert_eq!(acknowledged(&frames).len(), 256);
    assert_eq!(granted(&frames), UP_CREDIT_TRANSACTIONS);
    bench.push(id, vec![local(1, most + 1, 5, 1, "x")]);
    bench.collect();
    assert!(!bench.closed.contains(&id));
}

#[test]
fn a_rejection_tells_why_and_what_the_store_holds() {
    let mut bench = Bench::new();
    let id = bench.open(1, 4);
    bench.push(
        id,
        vec![local(1, 1, 5, 1, "refuse"), local(1, 2, 5, 1, "fine")],
    );
    bench.settle();
    let frames = bench.hear(id);
    let ServerFrame::Rejected {
        seq, code, rows, ..
    } = &frames[0]
    else {
        panic!("{frames:?}")
    };
    assert_eq!(
        (*seq, *code, rows.len()),
        (Seq(1), RejectCode::Constraint, 1)
    );
    assert_eq!(acknowledged(&frames), [Seq(2)]);
    assert_eq!(granted(&frames), 2);
}

#[test]
fn a_resent_transaction_is_acknowledged_only_once_the_log_has_told_of_it() {
    let mut bench = Bench::new();
    let lost = bench.open(1, 0);
    bench.push(lost, vec![local(1, 1, 5, 1, "x")]);
    bench.work();
    bench.hub.disconnect(lost);
    let id = bench.open(1, 10);
    bench.push(id, vec![local(1, 1, 5, 1, "x")]);
    bench.work();
    assert_eq!(acknowledged(&bench.hear(id)), []);
    bench.ready();
    bench.tell();
    assert!(bench.ready().contains(&id), "nobody looks again");
    assert_eq!(acknowledged(&bench.hear(id)), [Seq(1)]);
}

#[test]
fn a_resent_transaction_is_acknowledged_only_once_its_row_is_back() {
    // The replica knows an earlier stretch of the log, so its shape is sent anew. Told before of the
    // acceptance, it would let go of the row for a while.
    let mut bench = Bench::new();
    let lost = bench.open(1, 0);
    bench.push(lost, vec![local(1, 1, 5, 1, "x")]);
    bench.settle();
    bench.hub.disconnect(lost);
    let id = bench.open(1, 10);
    bench.subscribe(id, 0, "owner = 1", None);
    bench.push(id, vec![local(1, 1, 5, 1, "x")]);
    bench.collect();
    let place = bench
        .jobs
        .iter()
        .position(|job| matches!(job, Job::Merge(..)));
    let merge = bench.jobs.remove(place.unwrap()).unwrap();
    bench.perform(merge);
    assert_eq!(
        acknowledged(&bench.hear(id)),
        [],
        "acknowledged before the snapshot"
    );
    bench.work();
    let frames = bench.hear(id);
    let place = |wanted: fn(&ServerFrame) -> bool| frames.iter().position(wanted).unwrap();
    let end = place(|frame| matches!(frame, ServerFrame::SnapshotEnd { .. }));
    let acknowledged = place(|frame| matches!(frame, ServerFrame::Accepted(Seq(1))));
    assert!(end < acknowledged, "{frames:?}");
}

#[test]
fn merges_of_a_closed_session_are_nobodys_business() {
    let mut bench = Bench::new();
    let id = bench.open(1, 10);
    bench.push(id, vec![local(1, 1, 5, 1, "refuse")]);
    bench.hub.garbage(id, "nonsense");
    bench.settle();
    assert!(matches!(
        bench.hear(id).as_slice(),
        [ServerFrame::Refused { .. }]
    ));
    bench.hub.disconnect(id);
    bench.settle();
    assert_eq!(bench.hub.session_count(), 0);
}

#[test]
fn a_replica_without_subscriptions_still_hears_of_its_own_transactions() {
    let mut bench = Bench::new();
    let id = bench.connect();
    bench.say(id, hello(1, 10));
    bench.work();
    bench.hear(id);
    bench.store.write(&[(1, Some((1, "somebody else's")))]);
    bench.push(id, vec![local(1, 1, 5, 1, "own")]);
    bench.settle();
    let frames = bench.hear(id);
    let [
        ServerFrame::Transaction {
            cursor,
            live,
            accepted,
            changes,
            more,
        },
        ServerFrame::Credit(1),
    ] = frames.as_slice()
    else {
        panic!("{frames:?}")
    };
    assert_eq!(
        (*cursor, accepted.as_slice(), *more),
        (at(20), &[Seq(1)][..], false)
    );
    assert!(live.is_empty() && changes.is_empty());
}
