//! A live query runs again only when a table that it reads has changed, whoever changed it, and
//! tells what became of the rows of its result.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod common;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anabranch_crdt::Value;
use anabranch_protocol::{RejectCode, Seq};
use anabranch_replica::{Diff, LiveQuery, LiveQueryError};
use common::{Site, open_foreign};
use rusqlite::functions::FunctionFlags;

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

/// A connection on which `ran()` counts how often it was asked.
fn counting(site: &Site) -> (rusqlite::Connection, Arc<AtomicU64>) {
    let conn = open_foreign(&site.path);
    let runs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&runs);
    conn.create_scalar_function("ran", 0, FunctionFlags::default(), move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok(1_i64)
    })
    .unwrap();
    (conn, runs)
}

#[test]
fn a_query_of_some_rows_runs_again_for_these_rows_only() {
    let mut site = Site::new(1);
    site.keep_everything();
    let (reader, runs) = counting(&site);
    let ran = || runs.swap(0, Ordering::Relaxed);
    let ann = || vec![Value::text("ann")];
    // One row of a result without GROUP BY, so `ran()` counts the runs.
    let sql = "SELECT count(*), ran() FROM keyed WHERE tenant = ?1";
    let mut live = LiveQuery::new(sql, ann(), &[]).only("keyed", ann());
    assert!(live.refresh(&reader).unwrap().is_some());
    assert_eq!(ran(), 1);

    site.run("INSERT INTO keyed(tenant, number) VALUES ('bob', 1), ('anna', 1), ('an', 1)");
    assert_eq!((live.refresh(&reader).unwrap(), ran()), (None, 0));
    site.run("INSERT INTO keyed(tenant, number) VALUES ('ann', 1)");
    assert!(live.refresh(&reader).unwrap().is_some());
    assert_eq!(ran(), 1);

    // By another program: known before anybody seals it.
    let foreign = site.foreign();
    foreign
        .execute("UPDATE keyed SET note = 'x' WHERE tenant = 'bob'", [])
        .unwrap();
    assert_eq!((live.refresh(&reader).unwrap(), ran()), (None, 0));
    foreign
        .execute("DELETE FROM keyed WHERE tenant = 'ann'", [])
        .unwrap();
    assert!(live.refresh(&reader).unwrap().is_some());
    site.replica.seal().unwrap();
    assert_eq!(live.refresh(&reader).unwrap(), None);

    // Merged.
    let mut other = Site::new(2);
    other.clock.advance(1_000);
    other.run("INSERT INTO keyed(tenant, number) VALUES ('bob', 7)");
    ran();
    site.hear(&other.pending());
    assert_eq!((live.refresh(&reader).unwrap(), ran()), (None, 0));
    other.run("INSERT INTO keyed(tenant, number) VALUES ('ann', 7)");
    site.hear(&other.pending());
    assert!(live.refresh(&reader).unwrap().is_some());
}

#[test]
fn a_row_is_followed_by_its_key() {
    let mut site = Site::new(1);
    site.keep_everything();
    let reader = open_foreign(&site.path);
    let upper = Value::text(&common::uuid(0xa).to_uppercase());
    let mut one = LiveQuery::of_rows("projects", vec![Value::text(&common::uuid(0xa))]);
    let mut prefix = LiveQuery::of_rows("keyed", vec![Value::text("ann")]);
    let mut all = LiveQuery::of_rows("numbered", vec![]);
    for live in [&mut one, &mut prefix, &mut all] {
        assert_eq!(live.refresh(&reader).unwrap(), None);
    }
    site.run(&format!(
        "INSERT INTO projects VALUES ('{}', 'a'), ('{}', 'b');
         INSERT INTO keyed(tenant, number, note) VALUES ('ann', 2, 'y'), ('ann', 1, 'x'), ('bob', 1, 'z');
         INSERT INTO numbered VALUES (5, 'five')",
        common::uuid(0xa),
        common::uuid(0xb)
    ));
    let told = one.refresh(&reader).unwrap().unwrap();
    assert_eq!(
        told.inserted,
        [vec![Value::text(&common::uuid(0xa)), Value::text("a")]]
    );
    let told = prefix.refresh(&reader).unwrap().unwrap();
    let numbers: Vec<&Value> = told.inserted.iter().map(|row| &row[1]).collect();
    assert_eq!(numbers, [&Value::Integer(1), &Value::Integer(2)]);
    assert_eq!(
        all.refresh(&reader).unwrap().unwrap().inserted,
        [row(5, "five")]
    );

    site.run(&format!(
        "UPDATE projects SET name = 'c' WHERE id = '{}'",
        common::uuid(0xa)
    ));
    let told = one.refresh(&reader).unwrap().unwrap();
    assert_eq!((told.updated.len(), told.inserted.len()), (1, 0));
    site.run(&format!(
        "DELETE FROM projects WHERE id = '{}'",
        common::uuid(0xa)
    ));
    assert_eq!(one.refresh(&reader).unwrap().unwrap().removed.len(), 1);

    // However the key is spelled, what is watched is the row.
    let sql = "SELECT count(*) FROM projects";
    let mut spelled = LiveQuery::new(sql, vec![], &[]).only("projects", vec![upper]);
    spelled.refresh(&reader).unwrap();
    site.run(&format!(
        "INSERT INTO projects VALUES ('{}', 'again')",
        common::uuid(0xa)
    ));
    assert!(spelled.refresh(&reader).unwrap().is_some());
    let mut nowhere = LiveQuery::of_rows("nothing", vec![]);
    assert!(
        nowhere
            .refresh(&reader)
            .unwrap_err()
            .to_string()
            .contains("no replicated table")
    );
}

#[test]
fn a_row_that_is_taken_back_is_gone_from_a_query_of_that_row() {
    let mut site = Site::new(1);
    site.keep_everything();
    site.run("INSERT INTO numbered VALUES (1, 'kept')");
    let stored = site.last().deltas;
    site.replica.accepted(Seq(1)).unwrap();
    let reader = open_foreign(&site.path);
    let mut live = LiveQuery::of_rows("numbered", vec![Value::Integer(1)]);
    let refused = site.run("UPDATE numbered SET note = 'refused'").unwrap();
    live.refresh(&reader).unwrap();
    assert_eq!(live.rows(), [row(1, "refused")]);
    site.replica
        .rejected(refused, RejectCode::Constraint, "no".into(), stored)
        .unwrap();
    live.refresh(&reader).unwrap();
    assert_eq!(live.rows(), [row(1, "kept")]);
}
