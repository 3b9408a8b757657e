//! A replica holds no row outside its shapes and its own unacknowledged writes.
mod common;

use anabranch_protocol::{Seq, SubscriptionSet};
use common::{Hub, Site, change, cursor, delta, shape, uuid};

#[test]
fn a_row_leaves_when_the_last_shape_lets_go() {
    let mut hub = Hub::default();
    let mut author = Site::new(9);
    author.run(&format!(
        "INSERT INTO tasks(id, title) VALUES ('{}', 't')",
        uuid(1)
    ));
    hub.push(&author);
    let mut site = Site::new(1);
    let first = site.replica.subscribe(&shape("first")).unwrap();
    let second = site.replica.subscribe(&shape("second")).unwrap();
    assert_eq!(site.replica.subscribe(&shape("first")).unwrap(), first);
    hub.snapshot(&mut site, first);
    hub.snapshot(&mut site, second);
    site.replica.unsubscribe(first).unwrap();
    assert_eq!(site.count("tasks"), 1);
    site.replica.unsubscribe(second).unwrap();
    assert_eq!(site.count("tasks"), 0);
    assert_eq!(site.count("anabranch_clock_2"), 0);
    assert!(site.pending().is_empty(), "leaving is not deleting");
    // The number is free again.
    assert_eq!(site.replica.subscribe(&shape("third")).unwrap(), first);
}

#[test]
fn a_row_that_moves_out_leaves_and_its_tombstone_too() {
    let mut hub = Hub::default();
    let mut author = Site::new(9);
    author.run(&format!(
        "INSERT INTO tasks(id, title) VALUES ('{}', 't')",
        uuid(1)
    ));
    author.run(&format!(
        "INSERT INTO tasks(id, title) VALUES ('{}', 'u')",
        uuid(2)
    ));
    hub.push(&author);
    let mut site = Site::new(1);
    let id = site.replica.subscribe(&shape("tasks")).unwrap();
    hub.snapshot(&mut site, id);
    author.run(&format!("DELETE FROM tasks WHERE id = '{}'", uuid(1)));
    hub.push(&author);
    hub.tell(&mut site, id, 2);
    assert_eq!(
        (site.count("tasks"), site.count("anabranch_dead_2")),
        (1, 0)
    );
    let row = delta(
        common::TASKS,
        common::key(2),
        anabranch_crdt::RowState::new(),
    );
    site.replica
        .merge_transaction(
            cursor(9),
            SubscriptionSet::only(id),
            Vec::new(),
            vec![change(&row, SubscriptionSet::EMPTY)],
        )
        .unwrap();
    assert_eq!(
        (site.count("tasks"), site.count("anabranch_clock_2")),
        (0, 0)
    );
}

#[test]
fn a_local_write_outside_every_shape_leaves_once_accepted() {
    let mut site = Site::new(1);
    let id = site.replica.subscribe(&shape("others")).unwrap();
    site.replica.finish_snapshot(id, cursor(0)).unwrap();
    site.run("INSERT INTO numbered VALUES (1, 'kept until it is safe elsewhere')");
    site.run("UPDATE numbered SET note = 'twice'");
    let live = SubscriptionSet::only(id);
    site.replica
        .merge_transaction(cursor(1), live, vec![Seq(1)], Vec::new())
        .unwrap();
    assert_eq!(site.count("numbered"), 1, "the second write still waits");
    site.replica.accepted(Seq(2)).unwrap();
    assert_eq!(site.count("numbered"), 0);
    assert_eq!(site.replica.status().unwrap().pending, 0);
}

#[test]
fn a_row_is_not_dropped_while_a_subscription_that_may_claim_it_is_behind() {
    let mut hub = Hub::default();
    let mut site = Site::new(1);
    site.run("INSERT INTO numbered VALUES (1, 'mine')");
    hub.push(&site);
    let behind = site.replica.subscribe(&shape("behind")).unwrap();
    site.replica.accepted(Seq(1)).unwrap();
    assert_eq!(site.count("numbered"), 1);
    hub.snapshot(&mut site, behind);
    assert_eq!(site.count("numbered"), 1);

    site.run("INSERT INTO numbered VALUES (2, 'not in the shape')");
    let other = site.replica.subscribe(&shape("other")).unwrap();
    site.replica.accepted(Seq(2)).unwrap();
    assert_eq!(site.count("numbered"), 2);
    site.replica.finish_snapshot(other, cursor(1)).unwrap();
    assert_eq!(site.count("numbered"), 1, "nobody claimed it");
}
