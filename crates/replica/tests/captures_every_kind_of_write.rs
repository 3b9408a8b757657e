//! Whatever statement writes, its net effect is captured: nothing is missed, nothing is phantom.
mod common;

use anabranch_crdt::{RowKey, Value};
use anabranch_protocol::LocalTransaction;
use anabranch_replica::{Committed, TransactionError};
use common::{DONE, PROJECTS, Site, TASKS, TITLE, key, uuid, written};

fn summary(transaction: &LocalTransaction) -> Vec<(u32, RowKey, Vec<u16>, bool)> {
    let deltas = transaction.deltas.iter();
    deltas
        .map(|delta| {
            let live = delta.state.existence().is_present();
            (delta.table.0, delta.key.clone(), written(delta), live)
        })
        .collect()
}

#[test]
fn inserts_updates_and_deletes_become_deltas_of_what_they_wrote() {
    let mut site = Site::new(1);
    site.run(&format!(
        "INSERT INTO tasks(id, title) VALUES ('{}', 'one')",
        uuid(1)
    ));
    // The column that the store fills in is left out.
    assert_eq!(summary(&site.last()), [(2, key(1), vec![2, 3, 4], true)]);

    site.run("UPDATE tasks SET done = 1");
    assert_eq!(summary(&site.last()), [(2, key(1), vec![3], true)]);

    site.run("DELETE FROM tasks");
    assert_eq!(summary(&site.last()), [(2, key(1), vec![], false)]);
    assert_eq!(site.count("tasks"), 0);
    let state = site.replica.row_state("tasks", &key(1)).unwrap().unwrap();
    assert_eq!(state.value(TITLE), Some(&Value::text("one")));
    assert_eq!(state.value(DONE), Some(&Value::Integer(1)));
}

#[test]
fn what_changes_nothing_is_no_transaction() {
    let mut site = Site::new(1);
    site.run(&format!(
        "INSERT INTO tasks(id, title) VALUES ('{}', 'one')",
        uuid(1)
    ));
    assert_eq!(
        site.run("UPDATE tasks SET title = 'one', done = NULL"),
        None
    );
    let transient = format!(
        "INSERT INTO tasks(id, title) VALUES ('{0}', 'x'); DELETE FROM tasks WHERE id = '{0}'",
        uuid(2)
    );
    assert_eq!(site.run(&transient), None);
    assert_eq!(site.pending().len(), 1);
    assert_eq!(site.count("anabranch_dead_2"), 0);
}

#[test]
fn replace_and_upsert_and_a_delete_before_an_insert_are_seen() {
    let mut site = Site::new(1);
    let id = uuid(1);
    site.run(&format!(
        "INSERT INTO tasks(id, title, created) VALUES ('{id}', 'one', 'now')"
    ));
    site.run(&format!(
        "INSERT OR REPLACE INTO tasks(id, title, created) VALUES ('{id}', 'two', 'x')"
    ));
    assert_eq!(summary(&site.last()), [(2, key(1), vec![2, 3, 4, 5], true)]);
    site.run(&format!(
        "INSERT INTO tasks(id, title) VALUES ('{id}', 'x')
         ON CONFLICT(id) DO UPDATE SET title = 'three'"
    ));
    assert_eq!(summary(&site.last()), [(2, key(1), vec![2], true)]);
    site.run(&format!(
        "DELETE FROM tasks; INSERT INTO tasks(id, title, created) VALUES ('{id}', 'four', 'x')"
    ));
    assert_eq!(summary(&site.last()), [(2, key(1), vec![2, 3, 4, 5], true)]);
    assert_eq!(site.count("anabranch_dead_2"), 0);
}

#[test]
fn a_changed_key_is_a_removed_row_and_a_new_one() {
    let mut site = Site::new(1);
    site.run("INSERT INTO numbered VALUES (1, 'one')");
    site.run("UPDATE numbered SET id = 2");
    let expected = [
        (4, RowKey(vec![Value::Integer(1)]), vec![], false),
        (4, RowKey(vec![Value::Integer(2)]), vec![2], true),
    ];
    assert_eq!(summary(&site.last()), expected);
}

#[test]
fn a_cascade_takes_the_children_along() {
    let mut site = Site::new(1);
    site.run(&format!("INSERT INTO projects VALUES ('{}', 'p')", uuid(9)));
    site.run(&format!(
        "INSERT INTO tasks(id, title, project) VALUES ('{}', 'one', '{}')",
        uuid(1),
        uuid(9)
    ));
    // The child makes its parent live, so that a concurrent delete of the parent loses.
    let expected = [(1, key(9), vec![], true), (2, key(1), vec![2, 3, 4], true)];
    assert_eq!(summary(&site.last()), expected);

    site.run("DELETE FROM projects");
    let expected = [(1, key(9), vec![], false), (2, key(1), vec![], false)];
    assert_eq!(summary(&site.last()), expected);
}

#[test]
fn rollbacks_leave_nothing() {
    let mut site = Site::new(1);
    let id = uuid(1);
    let rolled_back = site.replica.transaction(|tx| {
        tx.execute("INSERT INTO tasks(id, title) VALUES (?1, 'one')", [&id])
            .unwrap();
        Err::<(), &str>("changed my mind")
    });
    assert!(matches!(
        rolled_back,
        Err(TransactionError::Work("changed my mind"))
    ));
    let kept = site.replica.transaction(|tx| {
        tx.execute("INSERT INTO tasks(id, title) VALUES (?1, 'one')", [&id])?;
        tx.execute_batch("SAVEPOINT s; UPDATE tasks SET title = 'two', done = 1; ROLLBACK TO s")?;
        // A statement that fails on its second row takes its first one back.
        let failed = tx.execute(
            "INSERT INTO tasks(id, title) VALUES (?1, 'fresh'), (?2, 'again')",
            [&uuid(2), &id],
        );
        assert!(failed.is_err());
        Ok::<_, rusqlite::Error>(())
    });
    assert!(matches!(kept, Ok(Committed { seq: Some(_), .. })));
    assert_eq!(summary(&site.last()), [(2, key(1), vec![2, 3, 4], true)]);
    assert_eq!(
        site.last().deltas[0].state.value(TITLE),
        Some(&Value::text("one"))
    );
    assert_eq!(site.pending().len(), 1);
}

#[test]
fn ending_the_transaction_from_within_is_an_error() {
    let mut site = Site::new(1);
    let ended = site.replica.transaction(|tx| tx.execute_batch("ROLLBACK"));
    assert!(matches!(ended, Err(TransactionError::Ended)));
    site.run("INSERT INTO numbered VALUES (1, 'works again')");
    assert_eq!(site.pending().len(), 1);
}

#[test]
fn not_null_holds_for_applications() {
    let mut site = Site::new(1);
    let id = uuid(1);
    let refused = site
        .replica
        .transaction(|tx| tx.execute("INSERT INTO tasks(id) VALUES (?1)", [&id]));
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("NOT NULL constraint failed: tasks.title")
    );
    site.run(&format!(
        "INSERT INTO tasks(id, title) VALUES ('{id}', 'one')"
    ));
    let refused = site
        .replica
        .transaction(|tx| tx.execute("UPDATE tasks SET title = NULL", []));
    assert!(refused.is_err());
}

#[test]
fn foreign_keys_hold_for_applications() {
    let mut site = Site::new(1);
    let refused = site.replica.transaction(|tx| {
        tx.execute(
            "INSERT INTO tasks(id, title, project) VALUES (?1, 'x', ?2)",
            [uuid(1), uuid(2)],
        )
    });
    assert!(refused.unwrap_err().to_string().contains("FOREIGN KEY"));
    assert_eq!(site.pending().len(), 0);
    // Deferred, so that the order within a transaction does not matter.
    site.run(&format!(
        "INSERT INTO tasks(id, title, project) VALUES ('{}', 'x', '{1}');
         INSERT INTO projects VALUES ('{1}', 'later')",
        uuid(1),
        uuid(2)
    ));
    let tables: Vec<_> = site.last().deltas.iter().map(|delta| delta.table).collect();
    assert_eq!(tables, [PROJECTS, TASKS]);
}

#[test]
fn values_are_made_canonical_in_the_row_and_in_the_delta() {
    let mut site = Site::new(1);
    let id = "{0B6E0D1A-0000-4000-8000-00000000ABCD}";
    site.run(&format!("INSERT INTO projects VALUES ('{id}', 'p')"));
    site.run(&format!(
        "INSERT INTO tasks(id, title, done) VALUES ('{id}', 5, 'true')"
    ));
    let canonical = RowKey(vec![Value::text("0b6e0d1a-0000-4000-8000-00000000abcd")]);
    let last = site.last();
    assert_eq!(last.deltas[0].key, canonical);
    assert_eq!(last.deltas[0].state.value(DONE), Some(&Value::Integer(1)));
    assert_eq!(last.deltas[0].state.value(TITLE), Some(&Value::text("5")));
    assert_eq!(
        site.text("SELECT id || typeof(done) FROM tasks").as_deref(),
        Some("0b6e0d1a-0000-4000-8000-00000000abcdinteger")
    );
    // The same row under another spelling.
    site.run(&format!(
        "INSERT INTO tasks(id, title) VALUES ('{id}', 'again')"
    ));
    assert_eq!(site.count("tasks"), 1);
    assert_eq!(
        site.text("SELECT title FROM tasks").as_deref(),
        Some("again")
    );
}

#[test]
fn every_kind_of_key_is_captured() {
    let mut site = Site::new(1);
    site.run(
        "INSERT INTO keyed VALUES ('a', 1, 'x', 1.50), ('a', 2, 'y', '2.50'), ('', -1, NULL, NULL)",
    );
    let keys: Vec<RowKey> = site
        .last()
        .deltas
        .iter()
        .map(|delta| delta.key.clone())
        .collect();
    let expected = [("", -1), ("a", 1), ("a", 2)]
        .map(|(tenant, number)| RowKey(vec![Value::text(tenant), Value::Integer(number)]));
    assert_eq!(keys, expected);
    site.run("UPDATE keyed SET note = 'z' WHERE number = 2");
    assert_eq!(
        summary(&site.last()),
        [(3, expected[2].clone(), vec![3], true)]
    );
}

#[test]
fn text_that_is_not_utf8_stays_here_and_travels_as_bytes() {
    let mut site = Site::new(1);
    site.run("INSERT INTO numbered VALUES (1, CAST(x'ff41' AS TEXT))");
    let value = site.last().deltas[0].state.value(TITLE).cloned();
    assert_eq!(value, Some(Value::Blob(vec![0xff, 0x41])));
    assert_eq!(
        site.text("SELECT hex(note) || typeof(note) FROM numbered")
            .as_deref(),
        Some("FF41text")
    );
}
