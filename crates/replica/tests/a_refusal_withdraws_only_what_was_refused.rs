//! A refused transaction's cells give way to what the store holds; no other local write moves, and
//! the transaction is kept whole.
#![allow(clippy::unwrap_used)]

mod common;

use anabranch_crdt::{Delta, RowState};
use anabranch_protocol::{RejectCode, Seq};
use anabranch_replica::Event;
use common::{Hub, Site, TASKS, delta, key, uuid};

fn refuse(site: &mut Site, seq: Seq, rows: Vec<Delta>) {
    site.replica
        .rejected(
            seq,
            RejectCode::Constraint,
            "tasks_title_key".to_owned(),
            rows,
        )
        .unwrap();
}

/// A replica with one task that the store knows as well.
fn with_a_shared_task(hub: &mut Hub) -> Site {
    let mut site = Site::new(1);
    let id = site.keep_everything();
    site.run(&format!(
        "INSERT INTO tasks(id, title, created) VALUES ('{}', 'shared', 'c')",
        uuid(1)
    ));
    hub.push(&site);
    hub.snapshot(&mut site, id);
    hub.tell(&mut site, id, 0);
    assert!(site.pending().is_empty());
    site
}

#[test]
fn refused_cells_go_back_and_later_writes_stay() {
    let mut hub = Hub::default();
    let mut site = with_a_shared_task(&mut hub);
    let store = hub.rows[&(TASKS, key(1))].clone();
    let refused = site
        .run("UPDATE tasks SET title = 'taken', done = 1")
        .unwrap();
    site.run("UPDATE tasks SET done = 0");
    let authority = store.project(|column| column.0 == 2 || column.0 == 3);
    site.replica.take_events();
    refuse(&mut site, refused, vec![delta(TASKS, key(1), authority)]);

    assert_eq!(
        site.text("SELECT title || done FROM tasks").as_deref(),
        Some("shared0")
    );
    assert_eq!(site.pending().len(), 1);
    let rejected = site.replica.rejected_list().unwrap();
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].transaction.deltas.len(), 1);
    assert_eq!(rejected[0].reason, "tasks_title_key");
    let events = site.replica.take_events();
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::Rejected { seq, .. } if *seq == refused))
    );
    assert!(site.replica.discard_rejected(refused).unwrap());
    assert!(site.replica.rejected_list().unwrap().is_empty());

    // What the store would hold after merging the rest is what the replica holds.
    hub.push(&site);
    let held = site.replica.row_state("tasks", &key(1)).unwrap().unwrap();
    assert_eq!(held.to_bytes(), hub.rows[&(TASKS, key(1))].to_bytes());
}

#[test]
fn a_refused_insert_is_gone_unless_something_else_made_it() {
    let mut hub = Hub::default();
    let mut site = with_a_shared_task(&mut hub);
    let insert = format!(
        "INSERT INTO tasks(id, title) VALUES ('{}', 'taken')",
        uuid(2)
    );
    let refused = site.run(&insert).unwrap();
    refuse(
        &mut site,
        refused,
        vec![delta(TASKS, key(2), RowState::new())],
    );
    assert_eq!(site.count("tasks"), 1);
    assert_eq!(site.count("anabranch_clock_2"), 1);
    assert_eq!(site.count("anabranch_dead_2"), 0);
    assert_eq!(site.replica.row_state("tasks", &key(2)).unwrap(), None);
}

#[test]
fn a_refused_delete_brings_the_row_back_whole() {
    let mut hub = Hub::default();
    let mut site = with_a_shared_task(&mut hub);
    let store = hub.rows[&(TASKS, key(1))].clone();
    let refused = site.run("DELETE FROM tasks").unwrap();
    assert_eq!(site.count("tasks"), 0);
    let authority = RowState::of_existence(store.existence().clone());
    refuse(&mut site, refused, vec![delta(TASKS, key(1), authority)]);
    assert_eq!(
        site.text("SELECT title || created FROM tasks").as_deref(),
        Some("sharedc")
    );
    let held = site.replica.row_state("tasks", &key(1)).unwrap().unwrap();
    assert_eq!(held.to_bytes(), store.to_bytes());
}

#[test]
fn an_update_waiting_on_a_refused_insert_is_kept() {
    let mut site = Site::new(1);
    site.keep_everything();
    let refused = site
        .run(&format!(
            "INSERT INTO tasks(id, title) VALUES ('{}', 'refused')",
            uuid(1)
        ))
        .unwrap();
    site.run("UPDATE tasks SET done = 1");
    refuse(&mut site, refused, Vec::new());
    assert_eq!(
        site.text("SELECT ifnull(title, 'none') || done FROM tasks")
            .as_deref(),
        Some("none1")
    );
}

#[test]
fn a_remote_write_that_won_already_stays() {
    let mut hub = Hub::default();
    let mut site = with_a_shared_task(&mut hub);
    let id = site.replica.subscriptions().unwrap()[0].id;
    let refused = site.run("UPDATE tasks SET title = 'taken'").unwrap();
    let mut other = Site::new(2);
    let other_id = other.keep_everything();
    hub.snapshot(&mut other, other_id);
    other.clock.advance(1_000);
    other.run("UPDATE tasks SET title = 'remote'");
    hub.push(&other);
    hub.tell(&mut site, id, 1);
    let authority = hub.rows[&(TASKS, key(1))].project(|column| column.0 == 2);
    refuse(&mut site, refused, vec![delta(TASKS, key(1), authority)]);
    assert_eq!(
        site.text("SELECT title FROM tasks").as_deref(),
        Some("remote")
    );
}

#[test]
fn a_refusal_that_comes_twice_changes_nothing_more() {
    let mut site = Site::new(1);
    let seq = site.run("INSERT INTO numbered VALUES (1, 'x')").unwrap();
    refuse(&mut site, seq, Vec::new());
    site.run("INSERT INTO numbered VALUES (1, 'y')");
    refuse(&mut site, seq, Vec::new());
    assert_eq!(site.text("SELECT note FROM numbered").as_deref(), Some("y"));
    assert_eq!(site.replica.status().unwrap().rejected, 1);
    assert_eq!(site.replica.status().unwrap().pending, 1);
}

/// The other's write is told while the refused one still beats it, and the refusal was made before
/// the store had it: it must not be lost with the write that beat it.
#[test]
fn a_remote_write_that_lost_to_the_refused_one_comes_back() {
    let mut hub = Hub::default();
    let mut site = with_a_shared_task(&mut hub);
    let id = site.replica.subscriptions().unwrap()[0].id;
    let mut other = Site::new(2);
    let other_id = other.keep_everything();
    hub.snapshot(&mut other, other_id);
    other.run("UPDATE tasks SET title = 'earlier'");
    site.clock.advance(1_000);
    let refused = site.run("UPDATE tasks SET title = 'taken'").unwrap();
    let authority = hub.rows[&(TASKS, key(1))].project(|column| column.0 == 2);

    let told = hub.position();
    hub.push(&other);
    hub.tell(&mut site, id, told);
    let title = "SELECT title FROM tasks";
    assert_eq!(site.text(title).as_deref(), Some("taken"));
    refuse(&mut site, refused, vec![delta(TASKS, key(1), authority)]);

    assert_eq!(site.text(title).as_deref(), Some("earlier"));
    let held = site.replica.row_state("tasks", &key(1)).unwrap().unwrap();
    assert_eq!(held.to_bytes(), hub.rows[&(TASKS, key(1))].to_bytes());
    assert_eq!(site.count("anabranch_told"), 0);
}
