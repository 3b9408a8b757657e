//! Any program with any SQLite library may write to the file, and nothing is missed.
mod common;

use std::process::Command;

use anabranch_crdt::Value;
use anabranch_protocol::Seq;
use common::{DONE, Site, TITLE, key, uuid, written};

#[test]
fn a_second_connection_is_sealed_at_the_next_turn() {
    let mut site = Site::new(1);
    assert_eq!(site.replica.seal_foreign_writes().unwrap(), None);
    let foreign = site.foreign();
    foreign
        .execute("INSERT INTO tasks(id, title) VALUES (?1, 'one')", [uuid(1)])
        .unwrap();
    assert_eq!(site.replica.seal_foreign_writes().unwrap(), Some(Seq(1)));
    assert_eq!(site.replica.seal_foreign_writes().unwrap(), None);
    assert_eq!(written(&site.last().deltas[0]), [2, 3, 4]);

    // REPLACE by a connection without recursive triggers: every column is told anew.
    foreign
        .execute(
            "INSERT OR REPLACE INTO tasks(id, title, created) VALUES (?1, 'two', 'c')",
            [uuid(1)],
        )
        .unwrap();
    assert_eq!(site.replica.seal_foreign_writes().unwrap(), Some(Seq(2)));
    assert_eq!(written(&site.last().deltas[0]), [2, 3, 4, 5]);
}

#[test]
fn foreign_writes_are_a_transaction_of_their_own_before_the_next_local_one() {
    let mut site = Site::new(1);
    site.foreign()
        .execute("INSERT INTO numbered VALUES (1, 'theirs')", [])
        .unwrap();
    assert_eq!(
        site.run("INSERT INTO numbered VALUES (2, 'ours')"),
        Some(Seq(2))
    );
    let pending = site.pending();
    assert_eq!(pending.len(), 2);
    assert!(pending[0].stamp < pending[1].stamp);
    assert_eq!(
        pending[0].deltas[0].state.value(TITLE),
        Some(&Value::text("theirs"))
    );
}

#[test]
fn foreign_writes_are_sealed_before_a_merge_and_win_over_what_they_overwrote() {
    let mut site = Site::new(1);
    let mut other = Site::new(2);
    other.run("INSERT INTO numbered VALUES (1, 'remote')");
    let id = site.keep_everything();
    site.hear(&other.pending());
    site.clock.advance(10);
    site.foreign()
        .execute("UPDATE numbered SET note = 'foreign'", [])
        .unwrap();
    other.run("UPDATE numbered SET note = 'remote, earlier'");
    site.hear(&other.pending());
    assert_eq!(
        site.text("SELECT note FROM numbered").as_deref(),
        Some("foreign")
    );
    assert_eq!(site.pending().len(), 1);
    site.replica.unsubscribe(id).unwrap();
}

#[test]
fn the_stock_sqlite3_program_is_captured() {
    let mut site = Site::new(1);
    let script = format!(
        "INSERT INTO tasks(id, title) VALUES ('{0}', 'one'), ('{1}', 'two');
         UPDATE tasks SET done = 1 WHERE id = '{0}';
         DELETE FROM tasks WHERE id = '{1}';",
        uuid(1),
        uuid(2)
    );
    let run = Command::new("sqlite3")
        .arg(&site.path)
        .arg(&script)
        .output();
    let Ok(output) = run else {
        println!("skipped: there is no sqlite3 program on this machine");
        return;
    };
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    site.replica.seal().unwrap();
    let last = site.last();
    assert_eq!(last.deltas.len(), 1);
    assert_eq!(last.deltas[0].key, key(1));
    assert_eq!(last.deltas[0].state.value(DONE), Some(&Value::Integer(1)));
}

#[test]
fn triggers_that_a_table_rebuild_dropped_are_made_anew() {
    let mut site = Site::new(1);
    let foreign = site.foreign();
    foreign
        .execute_batch(
            "CREATE TABLE rebuilt(id INTEGER PRIMARY KEY NOT NULL, note TEXT);
             INSERT INTO rebuilt SELECT * FROM numbered;
             DROP TABLE numbered;
             ALTER TABLE rebuilt RENAME TO numbered;",
        )
        .unwrap();
    assert_eq!(site.replica.seal().unwrap(), None);
    foreign
        .execute("INSERT INTO numbered VALUES (1, 'seen')", [])
        .unwrap();
    assert_eq!(site.replica.seal_foreign_writes().unwrap(), Some(Seq(1)));
}

#[test]
fn rows_that_a_replace_evicts_through_a_users_index_are_removed() {
    let mut site = Site::new(1);
    let foreign = site.foreign();
    foreign
        .execute_batch("CREATE UNIQUE INDEX one_note ON numbered(note COLLATE NOCASE)")
        .unwrap();
    site.run("INSERT INTO numbered VALUES (1, 'a'), (2, 'b'), (3, 'c')");
    let removed = |site: &Site| -> Vec<i64> {
        let deltas = site.last().deltas;
        let gone = deltas
            .iter()
            .filter(|row| !row.state.existence().is_present());
        gone.map(|row| match row.key.0[0] {
            Value::Integer(id) => id,
            _ => panic!("keys are integers"),
        })
        .collect()
    };
    // With SQLite's defaults no delete trigger fires for the row that is in the way.
    foreign
        .execute_batch("INSERT OR REPLACE INTO numbered VALUES (4, 'A')")
        .unwrap();
    assert_eq!(site.replica.seal().unwrap(), Some(Seq(2)));
    assert_eq!(removed(&site), [1]);
    foreign
        .execute_batch("UPDATE OR REPLACE numbered SET note = 'B' WHERE id = 3")
        .unwrap();
    assert_eq!(site.replica.seal().unwrap(), Some(Seq(3)));
    assert_eq!(removed(&site), [2]);
    // Where nothing is replaced nothing is captured.
    foreign
        .execute_batch(
            "INSERT OR IGNORE INTO numbered VALUES (5, 'B');
             INSERT INTO numbered VALUES (6, 'a') ON CONFLICT DO NOTHING",
        )
        .unwrap();
    assert_eq!(site.replica.seal().unwrap(), None);
    assert_eq!(site.count("anabranch_dead_4"), 2);
}

#[test]
fn what_a_table_rebuild_brought_and_left_out_is_found() {
    let mut site = Site::new(1);
    let id = site.keep_everything();
    site.replica.finish_snapshot(id, common::cursor(1)).unwrap();
    let mut other = Site::new(2);
    other.run("INSERT INTO numbered VALUES (4, 'heard')");
    site.hear(&other.pending());
    site.run("INSERT INTO numbered VALUES (1, 'one'), (2, 'two')");
    assert_eq!(site.count("numbered"), 3);
    site.foreign()
        .execute_batch(
            "CREATE TABLE rebuilt(id INTEGER PRIMARY KEY NOT NULL, note TEXT);
             INSERT INTO rebuilt SELECT * FROM numbered WHERE id = 1;
             DROP TABLE numbered;
             ALTER TABLE rebuilt RENAME TO numbered;
             INSERT INTO numbered VALUES (3, 'while nothing watched')",
        )
        .unwrap();
    assert_eq!(site.replica.seal().unwrap(), Some(Seq(2)));
    let [row] = &site.last().deltas[..] else {
        panic!("one row came");
    };
    assert_eq!(row.key.0, [Value::Integer(3)]);
    // What did not come along is asked for again, and not deleted for everybody; what was not sent
    // yet is given back.
    let states = site.replica.row_states("numbered").unwrap();
    let keys: Vec<&Value> = states.iter().map(|(key, _)| &key.0[0]).collect();
    assert_eq!(keys, [1, 2, 3].map(Value::Integer).each_ref());
    assert_eq!(site.count("numbered WHERE note = 'two'"), 1);
    assert_eq!(site.replica.subscriptions().unwrap()[0].cursor, None);
}
