//! A snapshot is never seen in part, merges into what is there, and takes out what did not come
//! again.
mod common;

use anabranch_replica::Event;
use common::{Hub, Site, count, cursor, shape, uuid};

fn hub_with(rows: u32) -> Hub {
    let mut hub = Hub::default();
    let mut author = Site::new(9);
    for row in 0..rows {
        author.run(&format!(
            "INSERT INTO tasks(id, title) VALUES ('{}', 't{row}')",
            uuid(row)
        ));
    }
    hub.push(&author);
    hub
}

#[test]
fn nothing_shows_before_the_last_row_has_come() {
    let hub = hub_with(5);
    let mut site = Site::new(1);
    let id = site.replica.subscribe(&shape("tasks")).unwrap();
    let rows: Vec<_> = hub
        .log
        .iter()
        .flat_map(|(_, _, states)| states.clone())
        .collect();
    let foreign = site.foreign();
    for chunk in rows.chunks(2) {
        site.replica.stage_snapshot(id, chunk.to_vec(), 5).unwrap();
        assert_eq!(count(&foreign, "tasks"), 0);
    }
    let status = &site.replica.status().unwrap().subscriptions[0];
    assert_eq!((status.rows_staged, status.rows_estimate), (5, 5));
    assert_eq!(status.subscription.cursor, None);
    site.replica.finish_snapshot(id, cursor(7)).unwrap();
    assert_eq!(count(&foreign, "tasks"), 5);
    assert_eq!(
        site.replica.subscriptions().unwrap()[0].cursor,
        Some(cursor(7))
    );
    assert!(
        site.replica
            .take_events()
            .contains(&Event::SnapshotComplete(id))
    );
    assert_eq!(site.count("anabranch_staging"), 0);
}

#[test]
fn a_reset_drops_what_has_come() {
    let hub = hub_with(2);
    let mut site = Site::new(1);
    let id = site.replica.subscribe(&shape("tasks")).unwrap();
    let (_, _, first) = &hub.log[0];
    site.replica.stage_snapshot(id, first.clone(), 2).unwrap();
    site.replica.reset_snapshot(id).unwrap();
    site.replica
        .stage_snapshot(id, hub.log[1].2.clone(), 1)
        .unwrap();
    site.replica.finish_snapshot(id, cursor(1)).unwrap();
    assert_eq!(
        site.text("SELECT group_concat(title) FROM tasks")
            .as_deref(),
        Some("t1")
    );
}

#[test]
fn a_second_snapshot_merges_into_what_is_there_and_takes_out_the_rest() {
    let mut hub = hub_with(3);
    let mut site = Site::new(1);
    let id = site.replica.subscribe(&shape("tasks")).unwrap();
    hub.snapshot(&mut site, id);
    site.run(&format!(
        "UPDATE tasks SET title = 'mine' WHERE id = '{}'",
        uuid(0)
    ));
    site.run(&format!(
        "INSERT INTO tasks(id, title) VALUES ('{}', 'new')",
        uuid(7)
    ));
    // A row leaves the shape unseen, and one that has a local write waiting does too.
    hub.rows
        .retain(|(_, key), _| *key != common::key(2) && *key != common::key(0));
    hub.snapshot(&mut site, id);
    let titles = "SELECT group_concat(title) FROM (SELECT title FROM tasks ORDER BY id)";
    assert_eq!(site.text(titles).as_deref(), Some("mine,t1,new"));
    assert_eq!(site.pending().len(), 2);
}

#[test]
fn a_stale_session_leaves_no_staged_rows() {
    let hub = hub_with(1);
    let mut site = Site::new(1);
    let id = site.replica.subscribe(&shape("tasks")).unwrap();
    site.replica
        .stage_snapshot(id, hub.log[0].2.clone(), 1)
        .unwrap();
    let now = site.clock.now();
    site.replica
        .welcome(&common::welcome(now, anabranch_protocol::Seq(0)), None)
        .unwrap();
    assert_eq!(site.count("anabranch_staging"), 0);
}
