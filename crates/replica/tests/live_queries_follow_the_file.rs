//! A live query runs again only when a table that it reads has changed, whoever changed it, and
//! tells what became of the rows of its result.
mod common;

use anabranch_crdt::Value;
use anabranch_replica::{Diff, LiveQuery, LiveQueryError};
use common::{Site, open_foreign};

fn notes() -> LiveQuery {
    let sql = "SELECT id, note FROM numbered WHERE id < ?1 ORDER BY note, id";
    LiveQuery::new(sql, vec![Value::Integer(100)], &["id"])
}

fn row(id: i64, note: &str) -> Vec<Value> {
    vec![Value::Integer(id), Value::text(note)]
}

#[test]
fn changes_of_every_writer_are_told_as_differences() {
    let mut site = Site::new(1);
    site.keep_everything();
    let reader = open_foreign(&site.path);
    let mut live = notes();
    assert_eq!(live.refresh(&reader).unwrap(), None);
    site.run("INSERT INTO numbered VALUES (1, 'b'), (2, 'c'), (500, 'outside')");
    let expected = Diff {
        inserted: vec![row(1, "b"), row(2, "c")],
        ..Diff::default()
    };
    assert_eq!(live.refresh(&reader).unwrap(), Some(expected));
    assert_eq!(live.refresh(&reader).unwrap(), None);

    // Another program, whose write nobody has sealed yet.
    site.foreign()
        .execute("UPDATE numbered SET note = 'a' WHERE id = 2", [])
        .unwrap();
    let expected = Diff {
        updated: vec![row(2, "a")],
        reordered: true,
        ..Diff::default()
    };
    assert_eq!(live.refresh(&reader).unwrap(), Some(expected));
    site.replica.seal().unwrap();
    assert_eq!(live.refresh(&reader).unwrap(), None);

    // Another replica, merged.
    let mut other = Site::new(2);
    other.clock.advance(1_000);
    other.run("INSERT INTO numbered VALUES (3, 'd')");
    site.hear(&other.pending());
    site.run("DELETE FROM numbered WHERE id = 1");
    let expected = Diff {
        inserted: vec![row(3, "d")],
        removed: vec![row(1, "b")],
        ..Diff::default()
    };
    assert_eq!(live.refresh(&reader).unwrap(), Some(expected));
    assert_eq!(live.rows(), [row(2, "a"), row(3, "d")]);
}

#[test]
fn it_does_not_run_for_writes_to_other_tables() {
    let mut site = Site::new(1);
    site.keep_everything();
    let reader = open_foreign(&site.path);
    // It would fail if it ran: the key is unique until another row shares the note.
    let mut live = LiveQuery::new("SELECT note FROM numbered", vec![], &["note"]);
    site.run("INSERT INTO numbered VALUES (1, 'same')");
    live.refresh(&reader).unwrap();
    assert_eq!(live.tables().iter().collect::<Vec<_>>(), ["numbered"]);
    // Changed behind the engine's back, with the triggers off, so that nothing counts it.
    let conn = site.foreign();
    conn.set_db_config(
        rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER,
        false,
    )
    .unwrap();
    conn.execute("INSERT INTO numbered VALUES (2, 'same')", [])
        .unwrap();
    site.run("INSERT INTO keyed VALUES ('t', 1, 'n', NULL)");
    assert_eq!(live.refresh(&reader).unwrap(), None);
    site.run("INSERT INTO numbered VALUES (3, 'other')");
    assert!(matches!(
        live.refresh(&reader),
        Err(LiveQueryError::KeyNotUnique)
    ));
}

#[test]
fn views_and_tables_of_the_applications_own_are_followed_too() {
    let mut site = Site::new(1);
    let own = site.replica.connection();
    own.execute_batch(
        "CREATE TABLE mine(x); CREATE VIEW both AS SELECT x FROM mine UNION SELECT id FROM numbered",
    )
    .unwrap();
    let mut live = LiveQuery::new("SELECT x FROM both", vec![], &[]);
    let reader = open_foreign(&site.path);
    assert_eq!(live.refresh(&reader).unwrap(), None);
    site.run("INSERT INTO mine VALUES (7)");
    assert_eq!(live.refresh(&reader).unwrap().unwrap().inserted.len(), 1);
    site.run("INSERT INTO numbered VALUES (8, 'x')");
    assert_eq!(live.refresh(&reader).unwrap().unwrap().inserted.len(), 1);
}

#[test]
fn what_cannot_be_followed_is_refused_with_a_reason() {
    let site = Site::new(1);
    let conn = site.replica.connection();
    let refresh = |sql: &str, key: &[&str]| LiveQuery::new(sql, vec![], key).refresh(conn);
    let refused = refresh("DELETE FROM numbered", &[]);
    assert!(matches!(refused, Err(LiveQueryError::Writes)));
    let refused = refresh("SELECT id FROM numbered", &["number"]).unwrap_err();
    assert!(refused.to_string().contains("no column number"));
    assert!(matches!(
        refresh("SELECT * FROM nowhere", &[]),
        Err(LiveQueryError::Sqlite(_))
    ));
}
