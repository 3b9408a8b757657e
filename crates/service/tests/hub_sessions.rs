//! How a session begins, and what ends it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use anabranch_crdt::Hlc;
use anabranch_protocol::{
    ClientFrame, RefusalCode, Seq, ServerFrame,
    limits::{SUBSCRIPTIONS_MAX, UP_CREDIT_TRANSACTIONS},
};
use anabranch_service::{
    hub::{HubConfig, SessionId},
    limits::{ANSWERS_MAX, SESSIONS_MAX},
};
use common::{Bench, NOW, config, hello, store, sub};

/// The one thing a session is told: that it is over.
fn refusal(bench: &mut Bench, id: SessionId) -> RefusalCode {
    let frames = bench.hear(id);
    bench.collect();
    assert!(bench.closed.contains(&id), "refused, but not closed");
    match frames.as_slice() {
        [ServerFrame::Refused { code, message }] if !message.is_empty() => *code,
        other => panic!("not just a refusal: {other:?}"),
    }
}

#[test]
fn a_hello_is_answered_with_what_the_replica_must_know() {
    let mut bench = Bench::new();
    let id = bench.connect();
    bench.say(id, hello(1, 4));
    assert!(
        bench.hear(id).is_empty(),
        "greeted before the store was asked"
    );
    bench.work();
    let expected = ServerFrame::Welcome {
        version: 1,
        server_time: NOW,
        drift_max_ms: 1_000,
        merged_through: Seq(0),
        horizon: Hlc::ZERO,
        credit_transactions: UP_CREDIT_TRANSACTIONS,
        schema: None,
    };
    assert_eq!(bench.hear(id), [expected]);
}

#[test]
fn the_schema_comes_along_only_where_it_differs() {
    let mut bench = Bench::new();
    let id = bench.connect();
    let ClientFrame::Hello {
        versions,
        replica,
        token,
        first_pending,
        credit_frames,
        ..
    } = hello(1, 4)
    else {
        unreachable!()
    };
    bench.say(
        id,
        ClientFrame::Hello {
            versions,
            replica,
            token,
            schema_version: store::SCHEMA_VERSION - 1,
            first_pending,
            credit_frames,
        },
    );
    bench.work();
    let frames = bench.hear(id);
    let [
        ServerFrame::Welcome {
            schema: Some(schema),
            ..
        },
    ] = frames.as_slice()
    else {
        panic!("{frames:?}")
    };
    assert_eq!(*schema, *bench.store.schema());
}

#[test]
fn a_wrong_token_is_refused_before_the_store_is_asked() {
    let mut bench = Bench::with(HubConfig {
        token: Some("sesame".to_owned()),
        ..config()
    });
    let id = bench.connect();
    bench.say(id, hello(1, 4));
    assert_eq!(refusal(&mut bench, id), RefusalCode::Unauthenticated);
    assert!(bench.jobs.is_empty());

    let id = bench.connect();
    let mut right = hello(1, 4);
    if let ClientFrame::Hello { token, .. } = &mut right {
        *token = "sesame".to_owned();
    }
    bench.say(id, right);
    bench.work();
    assert!(matches!(bench.hear(id)[0], ServerFrame::Welcome { .. }));
}

#[test]
fn frames_out_of_order_end_the_session() {
    let mut bench = Bench::new();
    let early = bench.connect();
    bench.say(early, ClientFrame::Credit(1));
    assert_eq!(refusal(&mut bench, early), RefusalCode::Protocol);

    let hasty = bench.connect();
    bench.say(hasty, hello(1, 4));
    bench.say(hasty, ClientFrame::Subscribe(Vec::new()));
    assert_eq!(refusal(&mut bench, hasty), RefusalCode::Protocol);
    bench.work();
    assert!(bench.hear(hasty).is_empty(), "welcomed after the refusal");

    let twice = bench.open(2, 4);
    bench.say(twice, hello(2, 4));
    assert_eq!(refusal(&mut bench, twice), RefusalCode::Protocol);
    bench.say(twice, ClientFrame::Credit(1));
    assert!(bench.hear(twice).is_empty(), "goes on after the refusal");
}

#[test]
fn what_is_no_frame_ends_the_session_and_says_why() {
    let mut bench = Bench::new();
    let id = bench.open(1, 4);
    bench.hub.garbage(id, "the bytes are not a valid frame");
    bench.hub.garbage(id, "nor are these");
    assert_eq!(refusal(&mut bench, id), RefusalCode::Protocol);
}

#[test]
fn a_replica_that_connects_anew_replaces_its_older_connection() {
    let mut bench = Bench::new();
    let older = bench.follow(1, &[""]);
    let newer = bench.open(1, 4);
    assert_eq!(refusal(&mut bench, older), RefusalCode::Unavailable);
    bench.hub.disconnect(older);
    bench.push(newer, vec![store::local(1, 1, 5, 1, "new")]);
    bench.settle();
    let told = bench.hear(newer);
    let accepted = told.iter().any(
        |frame| matches!(frame, ServerFrame::Transaction { accepted, .. } if *accepted == [Seq(1)]),
    );
    assert!(
        accepted,
        "the older connection took the newer one's place with it: {told:?}"
    );
}

#[test]
fn no_more_sessions_are_served_than_may_be() {
    let mut bench = Bench::new();
    for _ in 0..SESSIONS_MAX {
        bench.connect();
    }
    let beyond = bench.connect();
    assert_eq!(refusal(&mut bench, beyond), RefusalCode::Unavailable);
    bench.hub.disconnect(beyond);
    assert_eq!(bench.hub.session_count(), SESSIONS_MAX);
}

#[test]
fn a_replica_that_asks_on_without_listening_is_cut_off() {
    let mut bench = Bench::new();
    let id = bench.open(1, 4);
    for _ in 0..=ANSWERS_MAX {
        bench.say(id, ClientFrame::Unsubscribe(sub(0)));
    }
    assert!(!bench.closed.contains(&id));
    bench.say(id, ClientFrame::Unsubscribe(sub(0)));
    assert_eq!(refusal(&mut bench, id), RefusalCode::TooMuch);
}

#[test]
fn subscriptions_in_one_frame_are_counted_and_their_numbers_told_apart() {
    let mut bench = Bench::new();
    let id = bench.open(1, 4);
    let wanted = (0..SUBSCRIPTIONS_MAX).map(|number| common::subscription(number, "", None));
    bench.say(id, ClientFrame::Subscribe(wanted.collect()));
    bench.settle();
    assert!(!bench.closed.contains(&id));
    bench.subscribe(id, 0, "owner = 1", None);
    bench.collect();
    assert!(
        bench.closed.contains(&id),
        "one number for two subscriptions"
    );
}

#[test]
fn when_the_log_breaks_off_every_session_is_told_to_come_back() {
    let mut bench = Bench::new();
    let ids = [bench.follow(1, &[""]), bench.open(2, 4), bench.connect()];
    bench.hub.end_sessions("the log broke off");
    for id in ids {
        assert_eq!(refusal(&mut bench, id), RefusalCode::Unavailable);
    }
    assert_eq!(bench.hub.session_count(), 3);
}
