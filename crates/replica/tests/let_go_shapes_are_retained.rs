//! Rows of a shape that was unsubscribed from are kept for a while where the application asks for it,
//! never taken for current, and go by size, by age and where their number is wanted.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod common;

use anabranch_crdt::{Delta, Millis, RowKey, RowState, Value};
use anabranch_protocol::{Seq, SubscriptionId, SubscriptionSet, limits::SUBSCRIPTIONS_MAX};
use anabranch_replica::{OpenOptions, Replica, limits::RETAINED_AGE_MAX_MS};
use common::{Clock, NUMBERED, Site, change, cursor, delta, options, shape};

fn retaining(clock: &Clock, rows_max: u64) -> OpenOptions {
    OpenOptions {
        retained_rows_max: rows_max,
        ..options(clock, 1)
    }
}

/// A site that retains up to so many rows.
fn site(rows_max: u64) -> Site {
    let mut site = Site::new(1);
    site.replica = Replica::open(&site.path, retaining(&site.clock, rows_max)).unwrap();
    site
}

/// What the store has of the rows with these numbers.
fn rows(numbers: std::ops::Range<i64>, note: &str) -> Vec<Delta> {
    let mut author = Site::new(9);
    author.clock.advance(note.len() as u64 * 1_000);
    for number in numbers {
        author.run(&format!("INSERT INTO numbered VALUES ({number}, '{note}')"));
    }
    author
        .pending()
        .into_iter()
        .flat_map(|waits| waits.deltas)
        .collect()
}

/// Subscribes to a shape and shows its snapshot.
fn show(site: &mut Site, name: &str, rows: Vec<Delta>) -> SubscriptionId {
    let id = site.replica.subscribe(&shape(name)).unwrap();
    let count = rows.len() as u64;
    site.replica.stage_snapshot(id, rows, count).unwrap();
    site.replica.finish_snapshot(id, cursor(5)).unwrap();
    id
}

fn stale_since(site: &Site) -> Vec<Option<Millis>> {
    let status = site.replica.status().unwrap();
    status
        .subscriptions
        .iter()
        .map(|held| held.stale_since)
        .collect()
}

#[test]
fn a_shape_that_returns_shows_at_once_and_goes_on_by_its_cursor() {
    let mut site = site(100);
    let id = show(&mut site, "mine", rows(1..4, "old"));
    let since = site.clock.now();
    site.replica.unsubscribe(id).unwrap();
    assert_eq!(site.count("numbered"), 3);
    let retained = site.replica.retained().unwrap();
    assert_eq!(
        (
            retained[0].shape.clone(),
            retained[0].since,
            retained[0].rows
        ),
        (shape("mine"), since, 3)
    );
    assert!(site.replica.subscriptions().unwrap().is_empty());
    assert!(site.replica.status().unwrap().subscriptions.is_empty());
    // What is still under way for it is not heard.
    site.replica
        .stage_snapshot(id, rows(7..8, "late"), 1)
        .unwrap();
    site.replica.finish_snapshot(id, cursor(9)).unwrap();
    assert_eq!(site.count("numbered"), 3);

    site.clock.advance(10);
    assert_eq!(site.replica.subscribe(&shape("mine")).unwrap(), id);
    assert_eq!(
        site.replica.subscriptions().unwrap()[0].cursor,
        Some(cursor(5))
    );
    assert_eq!(stale_since(&site), [Some(since)]);
    assert!(site.replica.retained().unwrap().is_empty());
    let live = SubscriptionSet::only(id);
    let newer = rows(1..2, "newer").pop().unwrap();
    let left = delta(NUMBERED, RowKey(vec![Value::Integer(2)]), RowState::new());
    let changes = vec![change(&newer, live), change(&left, SubscriptionSet::EMPTY)];
    site.replica
        .merge_transaction(cursor(6), live, vec![], changes)
        .unwrap();
    assert_eq!(stale_since(&site), [None]);
    let notes = "SELECT group_concat(id || note ORDER BY id) FROM numbered";
    assert_eq!(site.text(notes).as_deref(), Some("1newer,3old"));
}

#[test]
fn nothing_new_is_news_too() {
    let mut site = site(100);
    let id = show(&mut site, "mine", rows(1..4, "old"));
    site.replica.unsubscribe(id).unwrap();
    site.replica.subscribe(&shape("mine")).unwrap();
    let live = SubscriptionSet::only(id);
    site.replica
        .merge_transaction(cursor(5), live, vec![], vec![])
        .unwrap();
    assert_eq!(stale_since(&site), [None]);
    assert_eq!(
        site.replica.subscriptions().unwrap()[0].cursor,
        Some(cursor(5))
    );
}

#[test]
fn a_snapshot_takes_out_what_has_gone_meanwhile() {
    let mut site = site(100);
    let id = show(&mut site, "mine", rows(1..4, "old"));
    site.replica.unsubscribe(id).unwrap();
    show(&mut site, "mine", rows(3..5, "newer"));
    let notes = "SELECT group_concat(id || note ORDER BY id) FROM numbered";
    assert_eq!(site.text(notes).as_deref(), Some("3newer,4newer"));
    assert_eq!(stale_since(&site), [None]);
}

#[test]
fn the_least_recently_used_goes_first() {
    let mut site = site(5);
    for (name, numbers) in [("a", 1..3), ("b", 3..5), ("c", 5..7), ("huge", 10..20)] {
        let id = show(&mut site, name, rows(numbers, "x"));
        site.clock.advance(1);
        site.replica.unsubscribe(id).unwrap();
    }
    // What is larger than all there may be goes alone, and at once.
    let kept = |site: &Site| -> Vec<_> {
        site.replica
            .retained()
            .unwrap()
            .into_iter()
            .map(|kept| kept.shape)
            .collect()
    };
    assert_eq!(kept(&site), [shape("b"), shape("c")]);
    assert_eq!(
        site.text("SELECT group_concat(id ORDER BY id) FROM numbered")
            .as_deref(),
        Some("3,4,5,6")
    );
    // Used again, it is the most recent.
    let b = show(&mut site, "b", rows(3..5, "x"));
    site.clock.advance(1);
    site.replica.unsubscribe(b).unwrap();
    assert_eq!(kept(&site), [shape("c"), shape("b")]);
    assert_eq!(site.replica.release_retained().unwrap(), 2);
    assert_eq!(
        (site.count("numbered"), site.count("anabranch_clock_4")),
        (0, 0)
    );
}

#[test]
fn what_is_too_old_goes_at_the_next_opportunity() {
    let mut site = site(100);
    for occasion in 0..3 {
        let id = show(&mut site, "mine", rows(1..4, "old"));
        site.replica.unsubscribe(id).unwrap();
        site.clock.advance(RETAINED_AGE_MAX_MS);
        site.replica.seal().unwrap();
        assert_eq!(site.count("numbered"), 3, "{occasion}");
        site.clock.advance(1);
        let now = site.clock.now();
        match occasion {
            0 => drop(
                site.replica
                    .welcome(&common::welcome(now, Seq(0)), None)
                    .unwrap(),
            ),
            1 => drop(site.replica.subscribe(&shape("other")).unwrap()),
            _ => drop(Replica::open(&site.path, retaining(&site.clock, 100)).unwrap()),
        }
        let other = site.replica.subscribe(&shape("other")).unwrap();
        site.replica.finish_snapshot(other, cursor(9)).unwrap();
        assert_eq!(site.count("numbered"), 0, "{occasion}");
        site.replica.unsubscribe(other).unwrap();
    }
}

#[test]
fn a_new_shape_takes_a_retained_ones_number_where_there_is_no_other() {
    let mut site = site(100);
    let id = show(&mut site, "mine", rows(1..4, "old"));
    site.replica.unsubscribe(id).unwrap();
    for number in 1..SUBSCRIPTIONS_MAX {
        let other = site
            .replica
            .subscribe(&shape(&format!("other {number}")))
            .unwrap();
        site.replica.finish_snapshot(other, cursor(5)).unwrap();
    }
    assert_eq!(site.replica.retained().unwrap().len(), 1);
    assert_eq!(site.count("numbered"), 3);
    assert_eq!(site.replica.subscribe(&shape("one more")).unwrap(), id);
    site.replica.finish_snapshot(id, cursor(5)).unwrap();
    assert_eq!(
        (
            site.count("numbered"),
            site.replica.retained().unwrap().len()
        ),
        (0, 0)
    );
    assert!(site.replica.subscribe(&shape("too many")).is_err());
}

#[test]
fn what_the_service_does_not_stand_by_is_not_retained() {
    let mut site = site(100);
    let unserved = site.replica.subscribe(&shape("never served")).unwrap();
    site.replica.unsubscribe(unserved).unwrap();
    let refused = show(&mut site, "mine", rows(1..4, "old"));
    site.replica
        .subscription_refused(refused, "no longer".to_owned())
        .unwrap();
    site.replica.unsubscribe(refused).unwrap();
    assert!(site.replica.retained().unwrap().is_empty());
    assert_eq!(site.count("numbered"), 0);
}

#[test]
fn a_pending_write_on_a_retained_row_outlives_it() {
    let mut site = site(100);
    let id = show(&mut site, "mine", rows(1..3, "old"));
    site.replica.unsubscribe(id).unwrap();
    site.clock.advance(10_000);
    site.run("UPDATE numbered SET note = 'mine' WHERE id = 1");
    assert_eq!(site.replica.release_retained().unwrap(), 1);
    assert_eq!(
        site.text("SELECT group_concat(id || note) FROM numbered")
            .as_deref(),
        Some("1mine")
    );
    site.replica.accepted(Seq(1)).unwrap();
    assert_eq!(site.count("numbered"), 0);
}
