//! After a commit the application is told what changed and by whom.
mod common;

use anabranch_protocol::Seq;
use anabranch_replica::{ChangeKind, Event, Origin, RowChange};
use common::{DONE, Site, TASKS, TITLE, key, uuid};

#[test]
fn local_and_remote_changes_are_told_with_their_columns() {
    let (mut ann, mut bob) = (Site::new(1), Site::new(2));
    bob.keep_everything();
    bob.replica.take_events();
    ann.run(&format!(
        "INSERT INTO tasks(id, title, created) VALUES ('{}', 'one', 'c')",
        uuid(1)
    ));
    ann.run("UPDATE tasks SET done = 1");
    ann.run("DELETE FROM tasks");
    let change = |columns: &[_], kind| RowChange {
        table: TASKS,
        key: key(1),
        columns: columns.to_vec(),
        kind,
    };
    let all = [TITLE, DONE, common::PROJECT, anabranch_crdt::ColumnId(5)];
    let expected = [
        change(&all, ChangeKind::Inserted),
        change(&[DONE], ChangeKind::Updated),
        change(&[], ChangeKind::Removed),
    ];
    let mut told = Vec::new();
    for (seq, expected) in (1..).zip(expected.clone()) {
        told.push(Event::Rows {
            origin: Origin::Local,
            changes: vec![expected],
        });
        told.push(Event::Sealed(Seq(seq)));
    }
    assert_eq!(ann.replica.take_events(), told);

    for (transaction, expected) in ann.pending().into_iter().zip(expected) {
        bob.hear(&[transaction]);
        let told = vec![Event::Rows {
            origin: Origin::Remote,
            changes: vec![expected],
        }];
        assert_eq!(bob.replica.take_events(), told);
    }
    // The same once more is no news.
    bob.hear(&ann.pending());
    assert_eq!(bob.replica.take_events(), []);
}

#[test]
fn what_was_rolled_back_is_not_told() {
    let mut site = Site::new(1);
    let _ = site.replica.transaction(|tx| {
        tx.execute("INSERT INTO numbered VALUES (1, 'x')", [])
            .unwrap();
        Err::<(), _>("no")
    });
    assert_eq!(site.replica.take_events(), []);
}
