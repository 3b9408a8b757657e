//! Writes to the same rows that nobody has seen go up as one transaction, and all that was promised of
//! each still holds.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod common;

use anabranch_crdt::{Millis, RowKey, Value};
use anabranch_protocol::{RejectCode, Seq};
use anabranch_replica::{Event, Greeted, TransactionState};
use common::{Clock, Hub, START, Site, counting};

fn greet(site: &mut Site, merged_through: u64) {
    let welcome = common::welcome(Millis(START + 1_000), Seq(merged_through));
    let greeted = site.replica.welcome(&welcome, None).unwrap();
    assert_eq!(greeted, Greeted::Known);
}

fn typed(site: &mut Site, notes: &[&str]) {
    for note in notes {
        site.run(&format!("UPDATE numbered SET note = '{note}' WHERE id = 1"));
    }
}

#[test]
fn typing_into_one_row_goes_up_as_one_transaction() {
    let mut site = Site::new(1);
    site.keep_everything();
    site.run("INSERT INTO numbered VALUES (1, '')");
    typed(&mut site, &["h", "he", "hel"]);
    site.run("INSERT INTO numbered VALUES (2, 'another row')");
    typed(&mut site, &["hell", "hello"]);
    let everything = site.everything();
    let written = site.pending();
    greet(&mut site, 0);

    let pending = site.pending();
    let numbers: Vec<_> = pending
        .iter()
        .map(|made| (made.first(), made.seq))
        .collect();
    assert_eq!(
        numbers,
        [(Seq(1), Seq(4)), (Seq(5), Seq(5)), (Seq(6), Seq(7))]
    );
    assert!(pending[0].inserts.contains(0) && !pending[2].inserts.contains(0));
    assert_eq!(pending[0].stamp, written[3].stamp);
    assert_eq!(site.replica.status().unwrap().pending, 3);

    // Whoever hears the three has what whoever hears the seven has, values and all.
    let mut other = Site::new(2);
    other.keep_everything();
    other.hear(&pending);
    assert_eq!(other.everything(), site.everything());
    let texts = |site: &Site| site.text("SELECT group_concat(note) FROM numbered");
    assert_eq!(texts(&other).as_deref(), Some("hello,another row"));
    assert_eq!(texts(&site), texts(&other));
    assert_eq!(site.everything(), everything, "the file is as it was");
}

#[test]
fn what_the_store_has_is_left_alone() {
    let mut site = Site::new(1);
    site.keep_everything();
    site.run("INSERT INTO numbered VALUES (1, '')");
    typed(&mut site, &["a", "b", "c"]);
    let written = site.pending();
    greet(&mut site, 2);
    let pending = site.pending();
    assert_eq!(pending[..2], written[..2]);
    assert_eq!((pending[2].first(), pending[2].seq), (Seq(3), Seq(4)));
}

#[test]
fn deletes_stand_alone() {
    let mut site = Site::new(1);
    site.keep_everything();
    site.run("INSERT INTO numbered VALUES (1, 'a')");
    site.run("DELETE FROM numbered");
    site.run("INSERT INTO numbered VALUES (1, 'b')");
    greet(&mut site, 0);
    assert_eq!(site.pending().len(), 3);
}

#[test]
fn every_number_has_its_outcome() {
    let mut site = Site::new(1);
    site.keep_everything();
    site.run("INSERT INTO numbered VALUES (1, '')");
    typed(&mut site, &["a", "b"]);
    site.run("INSERT INTO numbered VALUES (2, 'x')");
    site.run("UPDATE numbered SET note = 'y' WHERE id = 2");
    greet(&mut site, 0);
    let states = |site: &Site| -> Vec<TransactionState> {
        let state = |seq| site.replica.transaction_state(Seq(seq)).unwrap();
        (1..=5).map(state).collect()
    };
    use TransactionState::{Accepted, Pending, Rejected, Unknown};
    assert_eq!(states(&site), [Pending; 5]);

    site.replica.take_events();
    site.replica.accepted(Seq(3)).unwrap();
    let events = site.replica.take_events();
    for seq in 1..=3 {
        assert!(events.contains(&Event::Accepted(Seq(seq))), "{events:?}");
    }
    assert_eq!(
        states(&site),
        [Accepted, Accepted, Accepted, Pending, Pending]
    );

    let refused = site
        .replica
        .rejected(Seq(5), RejectCode::Constraint, "no".into(), vec![]);
    refused.unwrap();
    assert_eq!(
        states(&site),
        [Accepted, Accepted, Accepted, Rejected, Rejected]
    );
    let rejected = site.replica.rejected_list().unwrap();
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].transaction.first(), Seq(4));
    assert_eq!(site.count("numbered"), 1);
    assert_eq!(site.replica.status().unwrap().pending, 0);

    assert!(site.replica.discard_rejected(Seq(5)).unwrap());
    assert_eq!(
        states(&site),
        [Accepted, Accepted, Accepted, Unknown, Unknown]
    );
}

/// A row that two replicas have and the store knows.
fn shared(hub: &mut Hub) -> (Site, Site) {
    let clock = Clock::new();
    let mut here = Site::adopting(1, clock.clone(), counting());
    let mut there = Site::adopting(2, clock, counting());
    let id = there.keep_everything();
    there.run("INSERT INTO keyed VALUES ('t', 1, 'first', 0, '[]')");
    hub.push(&there);
    hub.tell(&mut there, id, 0);
    let id = here.keep_everything();
    hub.snapshot(&mut here, id);
    (here, there)
}

fn agree(hub: &mut Hub, here: &mut Site, there: &mut Site, from: u64) {
    hub.push(here);
    let id = here.replica.subscriptions().unwrap()[0].id;
    hub.tell(here, id, from);
    hub.tell(there, id, 0);
    assert_eq!(here.everything(), there.everything());
    let shown = "SELECT note || amount || tags FROM keyed";
    assert_eq!(here.text(shown), there.text(shown));
}

#[test]
fn the_first_number_that_waits_is_that_of_the_first_squashed() {
    let mut site = Site::new(1);
    site.keep_everything();
    site.run("INSERT INTO numbered VALUES (1, '')");
    typed(&mut site, &["a", "b"]);
    greet(&mut site, 0);
    assert_eq!(site.replica.first_pending().unwrap(), Seq(1));
}

#[test]
fn what_has_given_way_to_a_newer_value_does_not_come_back() {
    let mut hub = Hub::default();
    let (mut here, mut there) = shared(&mut hub);
    here.run("UPDATE keyed SET note = 'a older' WHERE number = 1");
    there.run("UPDATE keyed SET note = 'newer' WHERE number = 1");
    hub.push(&there);
    let (id, from) = (here.replica.subscriptions().unwrap()[0].id, hub.position());
    hub.tell(&mut here, id, from - 1);
    here.run("UPDATE keyed SET amount = 1 WHERE number = 1");
    greet(&mut here, 0);
    assert_eq!(here.pending().len(), 1);
    let note = |site: &Site| site.text("SELECT note FROM keyed");
    assert_eq!(note(&here).as_deref(), Some("newer"));
    agree(&mut hub, &mut here, &mut there, from);
    assert_eq!(note(&here).as_deref(), Some("newer"));
}

#[test]
fn what_merging_left_beside_the_row_is_squashed_as_well() {
    let mut hub = Hub::default();
    let (mut here, mut there) = shared(&mut hub);
    here.run("UPDATE keyed SET amount = 5, tags = '[\"x\"]' WHERE number = 1");
    here.run("UPDATE keyed SET tags = '[]' WHERE number = 1");
    there.run("UPDATE keyed SET note = 'meanwhile' WHERE number = 1");
    hub.push(&there);
    let (id, from) = (here.replica.subscriptions().unwrap()[0].id, hub.position());
    hub.tell(&mut here, id, from - 1);
    here.run("UPDATE keyed SET amount = 2, tags = '[\"x\"]' WHERE number = 1");
    let before = here.text("SELECT note || amount || tags FROM keyed");
    assert_eq!(before.as_deref(), Some("meanwhile2[\"x\"]"));

    greet(&mut here, 0);
    let key = RowKey(vec![Value::text("t"), Value::Integer(1)]);
    let state = here.replica.row_state("keyed", &key).unwrap().unwrap();
    let shown = |column| {
        state
            .clock()
            .shown(anabranch_crdt::ColumnId(column))
            .cloned()
    };
    assert_eq!(shown(4), Some(Value::Integer(2)));
    assert_eq!(shown(5), Some(Value::text("[\"x\"]")));
    here.run("UPDATE keyed SET amount = amount + 1 WHERE number = 1");
    agree(&mut hub, &mut here, &mut there, from);
    let after = there.text("SELECT amount || tags FROM keyed");
    assert_eq!(after.as_deref(), Some("3[\"x\"]"));
}
