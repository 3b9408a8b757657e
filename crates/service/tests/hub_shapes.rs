//! Which shapes are served, to whom, and for how long.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use std::collections::BTreeMap;

use anabranch_crdt::{Millis, Value};
use anabranch_protocol::{
    ClientFrame, RefusalCode, ServerFrame, ShapeRequest, Subscription, SubscriptionSet,
};
use anabranch_service::{
    hub::{HubConfig, NamedShape, SessionId},
    limits::SHAPE_IDLE_MAX_MS,
};
use common::{Bench, Job, NOW, at, config, is_up_to_date, spelled, sub};

fn ask(bench: &mut Bench, id: SessionId, number: u8, shape: ShapeRequest) -> Vec<ServerFrame> {
    let wanted = Subscription {
        id: sub(number),
        shape,
        cursor: None,
    };
    bench.say(id, ClientFrame::Subscribe(vec![wanted]));
    bench.settle();
    bench.hear(id)
}

fn refused(frames: &[ServerFrame]) -> Option<(RefusalCode, &str)> {
    frames.iter().find_map(|frame| match frame {
        ServerFrame::SubscriptionRefused { code, message, .. } => Some((*code, message.as_str())),
        _ => None,
    })
}

#[test]
fn a_shape_that_cannot_be_served_is_refused_and_the_session_goes_on() {
    let table = |table: &str| ShapeRequest::Spelled {
        table: table.to_owned(),
        filter: None,
        columns: Vec::new(),
        parameters: Vec::new(),
    };
    let column = ShapeRequest::Spelled {
        table: "notes".to_owned(),
        filter: None,
        columns: vec!["colour".to_owned()],
        parameters: Vec::new(),
    };
    let name = ShapeRequest::Named {
        name: "mine".to_owned(),
        parameters: Vec::new(),
    };
    let cases = [
        (spelled("owner = = 1"), ""),
        (spelled("colour = 1"), "colour"),
        (spelled("owner = :owner"), "owner"),
        (table("nets"), "notes"),
        (column, "colour"),
        (name, "mine"),
    ];
    let mut bench = Bench::new();
    let id = bench.open(1, 100);
    for (shape, told) in cases {
        let frames = ask(&mut bench, id, 0, shape.clone());
        let (code, message) = refused(&frames).unwrap_or_else(|| panic!("served: {shape:?}"));
        assert_eq!(code, RefusalCode::InvalidShape);
        assert!(message.contains(told), "{message}");
        // The number is free again, and the replica knows that it is up to date as it is.
        assert!(is_up_to_date(frames.last().unwrap()), "{frames:?}");
    }
    let frames = ask(&mut bench, id, 0, spelled("owner = 1"));
    assert_eq!(refused(&frames), None);
    assert_eq!(bench.hub.shape_count(), 1);
}

#[test]
fn where_shapes_have_names_only_those_are_served() {
    let mine = NamedShape {
        table: "notes".to_owned(),
        filter: Some("owner = :owner".to_owned()),
        columns: vec!["title".to_owned()],
    };
    let mut bench = Bench::with(HubConfig {
        shapes: BTreeMap::from([("mine".to_owned(), mine)]),
        allow_spelled_shapes: false,
        ..config()
    });
    bench
        .store
        .write(&[(1, Some((1, "a"))), (2, Some((2, "b")))]);
    let id = bench.open(1, 100);
    let frames = ask(&mut bench, id, 0, spelled("owner = 1"));
    assert_eq!(refused(&frames).unwrap().0, RefusalCode::InvalidShape);
    let named = ShapeRequest::Named {
        name: "mine".to_owned(),
        parameters: vec![("owner".to_owned(), Value::Integer(2))],
    };
    let frames = ask(&mut bench, id, 0, named);
    let ServerFrame::Snapshot { rows, .. } = &frames[0] else {
        panic!("{frames:?}")
    };
    let cells: Vec<_> = rows[0].state.cells().map(|(_, _, value)| value).collect();
    assert_eq!((rows.len(), cells), (1, vec![&Value::text("b")]));
}

#[test]
fn a_number_is_free_again_once_unsubscribed() {
    let mut bench = Bench::new();
    bench
        .store
        .write(&[(1, Some((1, "a"))), (2, Some((2, "b")))]);
    let id = bench.follow(1, &["owner = 1", "owner = 2"]);
    bench.say(id, ClientFrame::Unsubscribe(sub(0)));
    bench.subscribe(id, 0, "owner = 2", None);
    bench.settle();
    let frames = bench.hear(id);
    assert_eq!(frames[0], ServerFrame::Unsubscribed(sub(0)));
    let both = SubscriptionSet::only(sub(0)).with(sub(1));
    let last = frames.last().unwrap();
    assert!(
        matches!(last, ServerFrame::Transaction { live, more: false, .. } if *live == both),
        "{frames:?}"
    );
    // The shape that nobody wants any more says nothing more.
    bench.ready();
    bench.store.write(&[(1, Some((1, "changed")))]);
    bench.tell();
    assert!(!bench.ready().contains(&id));
    assert!(bench.hear(id).is_empty());
}

#[test]
fn unsubscribing_what_holds_the_others_up_lets_them_be_up_to_date() {
    let mut bench = Bench::new();
    let id = bench.follow(1, &["owner = 1"]);
    bench.subscribe(id, 1, "owner = 2", None);
    bench.collect();
    assert!(bench.hear(id).is_empty());
    bench.say(id, ClientFrame::Unsubscribe(sub(1)));
    let frames = bench.hear(id);
    let [ServerFrame::Unsubscribed(_), last] = frames.as_slice() else {
        panic!("{frames:?}")
    };
    assert!(is_up_to_date(last));
    bench.collect();
    while let Some(job) = bench.jobs.pop_front() {
        let rows = matches!(&job, Job::Start(_, query) if !query.columns.is_empty());
        assert!(!rows, "a snapshot is read for nobody");
        bench.perform(job);
    }
}

#[test]
fn a_shape_is_kept_current_a_while_for_replicas_that_come_back() {
    let mut bench = Bench::new();
    let id = bench.follow(1, &["owner = 1"]);
    bench.hub.tick(NOW);
    bench.hub.disconnect(id);
    assert_eq!(bench.hub.shape_count(), 1);
    bench.hub.tick(Millis(NOW.0 + SHAPE_IDLE_MAX_MS));
    assert_eq!(bench.hub.shape_count(), 1);
    let back = bench.open(1, 10);
    bench.subscribe(back, 0, "owner = 1", Some(at(0)));
    let frames = bench.hear(back);
    assert!(frames.len() == 1 && is_up_to_date(&frames[0]), "{frames:?}");
    bench.hub.disconnect(back);
    bench.hub.tick(Millis(NOW.0 + SHAPE_IDLE_MAX_MS * 3));
    assert_eq!(bench.hub.shape_count(), 0);
}

#[test]
fn a_shape_dropped_while_it_is_loaded_takes_its_reader_with_it() {
    let mut bench = Bench::new();
    let id = bench.open(1, 10);
    bench.subscribe(id, 0, "owner = 1", None);
    bench.collect();
    let job = bench.jobs.pop_front().unwrap();
    bench.perform(job);
    assert_eq!(bench.reading.len(), 1);
    bench.hub.disconnect(id);
    bench.hub.tick(Millis(NOW.0 + SHAPE_IDLE_MAX_MS * 2));
    bench.collect();
    assert!(bench.reading.is_empty());
    assert_eq!(bench.hub.shape_count(), 0);
}
