//! Rows removed before the horizon are forgotten, and what was written to them too late is refused
//! instead of bringing half a row back.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod common;

use std::sync::atomic::Ordering;

use anabranch_crdt::{Delta, Hlc, Millis, Value};
use anabranch_protocol::{Inserts, RejectCode, Seq};
use anabranch_store::{MergeOutcome, Upload};
use common::{START, Site, key, removal, replica, stamp, upload, write};

const TABLES: &str = "CREATE TABLE note (id INTEGER PRIMARY KEY, title TEXT, body TEXT)";

/// An upload that updates rows.
fn update(id: u8, seq: u64, ms: u64, deltas: Vec<Delta>) -> Upload {
    let mut made = upload(id, seq, stamp(ms, id), deltas);
    made.transaction.inserts = Inserts::default();
    made
}

fn at(ms: u64) -> Hlc {
    Hlc::new(Millis(START + ms), 0).unwrap()
}

fn text(text: &str) -> Value {
    Value::text(text)
}

/// A store in which replica 1 has inserted rows 1 and 2, and replica 2 has deleted row 1.
fn site() -> Site {
    let mut site = Site::new(TABLES);
    site.time.store(START + 30, Ordering::SeqCst);
    let note = site.table("note");
    let made = stamp(10, 1);
    let rows = [1, 2].map(|id| {
        write(
            note,
            key(id),
            made,
            &[(2, text("title")), (3, text("body"))],
        )
    });
    let added = upload(1, 1, made, rows.to_vec());
    let seen = added.transaction.deltas[0].state.existence().clone();
    assert_eq!(site.merge(added), MergeOutcome::Merged);
    let gone = update(2, 1, 20, vec![removal(note, key(1), &seen)]);
    assert_eq!(site.merge(gone), MergeOutcome::Merged);
    site
}

/// Forgets row 1, just after it was removed; the horizon is then at 31.
fn forget(site: &mut Site) {
    assert_eq!(site.core.forget_removed(at(31)).unwrap(), 1);
}

fn counted(site: &Site, table: &str) -> Option<String> {
    site.text(&format!("SELECT count(*) || '' FROM {table}"))
}

#[test]
fn nothing_is_left_of_a_row_removed_before_the_horizon() {
    let mut site = site();
    assert_eq!(site.core.forget_removed(at(30)).unwrap(), 0, "just found");
    site.time.store(START + 1_000, Ordering::SeqCst);
    assert_eq!(site.core.forget_removed(at(30)).unwrap(), 0, "too new");
    assert_eq!(counted(&site, "anabranch_clock_1").as_deref(), Some("2"));
    assert_eq!(site.core.forget_removed(at(31)).unwrap(), 1);
    assert_eq!(counted(&site, "anabranch_clock_1").as_deref(), Some("1"));
    assert_eq!(counted(&site, "anabranch_dead_1").as_deref(), Some("0"));
    assert_eq!(
        site.rows("note").len(),
        1,
        "the live row stays, old as it is"
    );
    assert_eq!(site.core.forget_removed(at(31)).unwrap(), 0);
    assert_eq!(counted(&site, "anabranch_removed").as_deref(), Some("0"));
}

#[test]
fn a_row_that_came_back_and_went_again_is_remembered_from_then_on() {
    let mut site = site();
    let note = site.table("note");
    site.core.forget_removed(at(0)).unwrap();
    let again = write(
        note,
        key(1),
        stamp(40, 1),
        &[(2, text("a")), (3, text("b"))],
    );
    let seen = again.state.existence().clone();
    site.merge(upload(1, 2, stamp(40, 1), vec![again]));
    site.merge(update(1, 3, 41, vec![removal(note, key(1), &seen)]));
    site.time.store(START + 1_000, Ordering::SeqCst);
    assert_eq!(site.core.forget_removed(at(900)).unwrap(), 0, "found anew");
    assert_eq!(site.core.forget_removed(at(1_001)).unwrap(), 1);
}

#[test]
fn an_update_of_a_forgotten_row_is_stale_and_alone_is_refused() {
    let mut site = site();
    let note = site.table("note");
    forget(&mut site);
    let late = write(note, key(1), stamp(15, 3), &[(2, text("late"))]);
    let other = write(note, key(2), stamp(16, 3), &[(2, text("on time"))]);
    let outcomes = site
        .core
        .merge(vec![
            update(3, 1, 15, vec![late]),
            update(3, 2, 16, vec![other]),
        ])
        .unwrap();
    let MergeOutcome::Rejected(rejection) = &outcomes[0] else {
        panic!("{outcomes:?}")
    };
    assert_eq!(rejection.code, RejectCode::Stale);
    assert!(rejection.reason.contains("note"), "{}", rejection.reason);
    assert_eq!(outcomes[1], MergeOutcome::Merged);
    let rows = site.rows("note");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].1.cells().next().unwrap().2, &text("on time"));
}

#[test]
fn before_it_is_forgotten_an_update_brings_the_row_back_whole() {
    let mut site = site();
    let note = site.table("note");
    let concurrent = write(note, key(1), stamp(15, 3), &[(2, text("saved"))]);
    let made = update(3, 1, 15, vec![concurrent]);
    assert_eq!(site.merge(made), MergeOutcome::Merged);
    let rows = site.rows("note");
    let values: Vec<_> = rows[0].1.cells().map(|(_, _, value)| value).collect();
    assert_eq!(values, [&text("saved"), &text("body")]);
}

#[test]
fn an_insert_counts_from_the_horizon_on() {
    let mut site = site();
    let note = site.table("note");
    forget(&mut site);
    let cells = [(2, text("again")), (3, text("anew"))];
    // Others may hold newer values of the row's earlier life, which the store cannot compare with.
    let old = upload(
        3,
        1,
        stamp(30, 3),
        vec![write(note, key(1), stamp(30, 3), &cells)],
    );
    let MergeOutcome::Rejected(rejection) = site.merge(old) else {
        panic!("merged")
    };
    assert_eq!(rejection.code, RejectCode::Stale);
    let new = upload(
        3,
        2,
        stamp(31, 3),
        vec![write(note, key(1), stamp(31, 3), &cells)],
    );
    assert_eq!(site.merge(new), MergeOutcome::Merged);
    assert_eq!(site.rows("note").len(), 2);
}

#[test]
fn a_delete_of_a_forgotten_row_is_as_good_as_done() {
    let mut site = site();
    let note = site.table("note");
    let seen = write(note, key(1), stamp(10, 1), &[])
        .state
        .existence()
        .clone();
    forget(&mut site);
    let late = update(3, 1, 15, vec![removal(note, key(1), &seen)]);
    assert_eq!(site.merge(late), MergeOutcome::Merged);
    assert_eq!(site.rows("note").len(), 1);
}

#[test]
fn replicas_are_told_the_horizon_and_it_never_goes_back() {
    let mut site = site();
    let horizon = |site: &mut Site| site.core.greet(replica(1), Seq(1)).unwrap().horizon;
    assert_eq!(horizon(&mut site), Hlc::ZERO);
    forget(&mut site);
    site.core.forget_removed(at(5)).unwrap();
    site.reopen();
    assert_eq!(horizon(&mut site), at(31));
}
