//! A replica whose clock is years ahead stamps what it never shared again, and loses nothing.
mod common;

use anabranch_crdt::{Millis, Value};
use anabranch_protocol::Seq;
use anabranch_replica::Event;
use common::{Clock, DRIFT_MS, START, Site, TITLE};

const YEARS_MS: u64 = 5 * 365 * 24 * 3600 * 1000;

#[test]
fn what_was_never_shared_is_stamped_again_in_order_and_above_what_was_seen() {
    let clock = Clock::new();
    clock.set(START + YEARS_MS);
    let mut site = Site::with_clock(1, clock);
    site.keep_everything();
    let mut other = Site::new(2);
    other.clock.advance(100);
    other.run("INSERT INTO numbered VALUES (1, 'remote')");
    site.hear(&other.pending());
    site.run("UPDATE numbered SET note = 'first'");
    site.run("INSERT INTO numbered VALUES (2, 'second')");
    site.run("DELETE FROM numbered");
    site.run("INSERT INTO numbered VALUES (1, 'third')");
    let before = site.everything();

    site.replica.take_events();
    site.replica
        .welcome(&common::welcome(Millis(START), Seq(0)), None)
        .unwrap();
    assert_eq!(site.replica.take_events(), [Event::Restamped(Seq(1))]);
    let pending = site.pending();
    assert_eq!(pending.len(), 4);
    assert!(pending.windows(2).all(|pair| pair[0].stamp < pair[1].stamp));
    assert!(
        pending
            .iter()
            .all(|transaction| transaction.stamp.hlc.millis().0 < START + DRIFT_MS)
    );
    assert!(
        pending[0].stamp > other.last().stamp,
        "it had seen the remote write"
    );
    assert_ne!(site.everything(), before);

    // Everybody agrees with what the file shows.
    other.keep_everything();
    other.hear(&pending);
    assert_eq!(
        other.text("SELECT note FROM numbered").as_deref(),
        Some("third")
    );
    assert_eq!(other.everything(), site.everything());
    // And later writes are stamped by the corrected clock.
    site.run("UPDATE numbered SET note = 'fourth'");
    let last = site.last();
    assert!(last.stamp.hlc.millis().0 < START + DRIFT_MS);
    assert!(last.stamp > pending[3].stamp);
    assert_eq!(
        last.deltas[0].state.value(TITLE),
        Some(&Value::text("fourth"))
    );
}

#[test]
fn what_the_store_has_merged_keeps_its_stamp() {
    let clock = Clock::new();
    clock.set(START + YEARS_MS);
    let mut site = Site::with_clock(1, clock);
    site.run("INSERT INTO numbered VALUES (1, 'merged, but the answer was lost')");
    site.run("INSERT INTO numbered VALUES (2, 'never sent')");
    let before = site.pending();
    site.replica
        .welcome(&common::welcome(Millis(START), Seq(1)), None)
        .unwrap();
    let after = site.pending();
    assert_eq!(before[0], after[0]);
    assert!(after[1].stamp > after[0].stamp);
}

#[test]
fn a_clock_within_the_bound_is_left_alone() {
    let mut site = Site::new(1);
    site.clock.advance(DRIFT_MS / 2);
    site.run("INSERT INTO numbered VALUES (1, 'a little ahead')");
    let before = site.pending();
    site.replica
        .welcome(&common::welcome(Millis(START), Seq(0)), None)
        .unwrap();
    assert_eq!(site.pending(), before);
    assert!(site.replica.status().unwrap().clock_offset_ms < 0);
}
