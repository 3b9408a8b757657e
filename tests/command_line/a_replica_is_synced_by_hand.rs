//! A replica made, subscribed, synced, written to and looked into with the program alone, against a
//! service over the embedded store.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use crate::common::{Served, anabranch, argument, eventually, fail, succeed, succeed_json};
use rusqlite::Connection;
use serde_json::json;

const CONFIGURATION: &str = r#"
listen = "127.0.0.1:0"
token = "open sesame"
allow_spelled_shapes = true
[store]
embedded = "store.db"
schema = "schema.sql"
[shapes.notes_of]
table = "notes"
where = "owner = :owner"
"#;

const SCHEMA: &str = "
CREATE TABLE notes (
    id INTEGER PRIMARY KEY, owner TEXT NOT NULL, body TEXT NOT NULL CHECK (body <> ''),
    done BOOLEAN NOT NULL DEFAULT false
);
INSERT INTO notes (id, owner, body) VALUES (1, 'ann', 'buy milk'), (2, 'bob', 'sell milk'),
    (3, 'ann', 'call Bob');
";

fn serve(folder: &Path) -> Served {
    std::fs::write(folder.join("schema.sql"), SCHEMA).unwrap();
    let served = Served::start(folder, CONFIGURATION);
    assert_eq!(served.announced["tables"], json!(["notes"]));
    assert_eq!(served.announced["shapes"], json!(["notes_of"]));
    served
}

fn sync(file: &str, served: &Served) -> serde_json::Value {
    succeed_json(&[
        "replica",
        "sync",
        file,
        "--url",
        served.url(),
        "--token",
        "open sesame",
    ])
}

/// The rows that `SELECT id, body` gives in a SQLite file, read without Anabranch.
fn rows(path: &Path) -> Vec<(i64, String)> {
    let file = Connection::open(path).unwrap();
    let mut query = file
        .prepare("SELECT id, body FROM notes ORDER BY id")
        .unwrap();
    let rows = query
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

fn row(id: i64, body: &str) -> (i64, String) {
    (id, body.to_owned())
}

#[test]
fn from_nothing_to_in_step_and_back() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path());
    let path = folder.path().join("ann.db");
    let file = argument(&path);

    succeed(&["replica", "init", file]);
    succeed(&[
        "replica",
        "subscribe",
        file,
        "--shape",
        "notes_of",
        "--param",
        "owner=ann",
    ]);
    let again = [
        "replica",
        "subscribe",
        file,
        "--shape",
        "notes_of",
        "--param",
        "owner=ann",
    ];
    assert_eq!(
        succeed_json(&again),
        json!({ "subscription": 0 }),
        "the same shape, once"
    );
    assert!(succeed(&["replica", "status", file]).contains("not fetched yet"));
    sync(file, &served);
    assert_eq!(rows(&path), [row(1, "buy milk"), row(3, "call Bob")]);

    // Offline, in one transaction.
    let sql = "UPDATE notes SET body = 'buy oat milk' WHERE id = 1;
        INSERT INTO notes (id, owner, body, done) VALUES (10, 'ann', 'rest', 0);
        SELECT count(*) AS notes FROM notes";
    let written = succeed_json(&["replica", "sql", file, sql]);
    assert_eq!(
        written["results"],
        json!([{ "columns": ["notes"], "rows": [[3]] }])
    );
    let number = written["transaction"].as_u64().unwrap();
    let inspected = succeed_json(&["inspect", file]);
    assert_eq!(inspected["outbox"][0]["number"], number);
    assert_eq!(inspected["pending"], 1);

    let synced = sync(file, &served);
    assert_eq!(
        (&synced["synced"], &synced["pushed"]),
        (&json!(true), &json!(1))
    );
    let store = folder.path().join("store.db");
    let expected = [
        row(1, "buy oat milk"),
        row(2, "sell milk"),
        row(3, "call Bob"),
        row(10, "rest"),
    ];
    assert_eq!(rows(&store), expected);
    assert_eq!(succeed_json(&["replica", "status", file])["pending"], 0);

    // What another program writes into the store comes back with the next sync.
    let other = Connection::open(&store).unwrap();
    other.execute("DELETE FROM notes WHERE id = 3", []).unwrap();
    eventually(&vec![row(1, "buy oat milk"), row(10, "rest")], || {
        sync(file, &served);
        rows(&path)
    });
}

#[test]
fn the_stock_sqlite3_writes_and_it_is_pushed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ann.db");
    let stock = |sql: &str| Command::new("sqlite3").arg(&path).arg(sql).status();
    if Command::new("sqlite3").arg("-version").output().is_err() {
        println!("skipped: there is no sqlite3 program here");
        return;
    }
    let served = serve(folder.path());
    let file = argument(&path);
    succeed(&["replica", "init", file]);
    succeed(&["replica", "subscribe", file, "notes", "--where", "id < 100"]);
    sync(file, &served);
    assert!(
        stock("UPDATE notes SET body = 'written by sqlite3' WHERE id = 2")
            .unwrap()
            .success()
    );
    sync(file, &served);
    let store = rows(&folder.path().join("store.db"));
    assert_eq!(store.get(1), Some(&row(2, "written by sqlite3")));
}

#[test]
fn a_row_is_shown_with_its_clocks() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path());
    let path = folder.path().join("ann.db");
    let file = argument(&path);
    let made = succeed_json(&["replica", "init", file]);
    succeed(&["replica", "subscribe", file, "notes"]);
    sync(file, &served);
    succeed(&[
        "replica",
        "sql",
        file,
        "UPDATE notes SET done = 1 WHERE id = 2",
    ]);

    let shown = succeed_json(&["inspect", file, "--table", "notes", "--key", "2"]);
    assert_eq!(shown["present"], true);
    let registers = &shown["registers"];
    assert_eq!(registers["done"]["value"], 1);
    assert_eq!(registers["done"]["stamp"]["replica"], made["replica"]);
    assert_eq!(
        registers["body"]["stamp"]["time_ms"], 0,
        "nobody has touched it"
    );
    assert_eq!(shown["existence"].as_array().unwrap().len(), 2);

    let told = succeed(&["inspect", file, "--table", "notes", "--key", "2"]);
    assert!(told.contains("this replica"), "{told}");
    assert!(told.contains("before installation"), "{told}");
    assert!(succeed(&["inspect", file, "--table", "notes"]).contains("present"));
    assert!(succeed(&["inspect", file]).contains("done = 1"));
    assert!(fail(&["inspect", file, "--table", "notes", "--key", "9"]).contains("has no row 9"));
    assert!(fail(&["inspect", file, "--table", "notes", "--key", "x"]).contains("is no integer"));
    assert!(fail(&["inspect", file, "--table", "nothing"]).contains("it has notes"));
}

#[test]
fn what_the_store_refuses_is_kept_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path());
    let path = folder.path().join("ann.db");
    let file = argument(&path);
    succeed(&["replica", "init", file]);
    succeed(&["replica", "subscribe", file, "notes"]);
    sync(file, &served);
    succeed(&[
        "replica",
        "sql",
        file,
        "UPDATE notes SET body = '' WHERE id = 1",
    ]);
    let synced = sync(file, &served);
    assert_eq!(synced["rejected"], 1);
    assert_eq!(rows(&path).first(), Some(&row(1, "buy milk")), "withdrawn");
    let inspected = succeed_json(&["inspect", file]);
    let reason = inspected["rejected"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("CHECK"), "{reason}");
}

#[test]
fn a_sync_that_cannot_succeed_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path());
    let path = folder.path().join("ann.db");
    let file = argument(&path);
    succeed(&["replica", "init", file]);
    succeed(&["replica", "subscribe", file, "nowhere"]);

    let told = fail(&[
        "replica",
        "sync",
        file,
        "--url",
        served.url(),
        "--token",
        "wrong",
    ]);
    assert!(told.contains("token"), "{told}");
    let right = [
        "replica",
        "sync",
        file,
        "--url",
        served.url(),
        "--token",
        "open sesame",
    ];
    let told = fail(&right);
    assert!(
        told.contains("there is no table") && told.contains("notes"),
        "{told}"
    );
    let told = fail(&["replica", "sync", file, "--url", "ws://127.0.0.1:1/v1/sync"]);
    assert!(told.contains("cannot connect"), "{told}");
}

#[test]
fn a_watched_replica_follows_until_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path());
    let path = folder.path().join("ann.db");
    let file = argument(&path);
    succeed(&["replica", "init", file]);
    succeed(&["replica", "subscribe", file, "notes"]);
    let mut watching = anabranch()
        .args(["replica", "sync", file, "--watch", "--url", served.url()])
        .args(["--token", "open sesame"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(watching.stdout.take().unwrap()).lines();
    assert!(told.any(|line| line.unwrap() == "in step"));

    let store = Connection::open(folder.path().join("store.db")).unwrap();
    store
        .execute("UPDATE notes SET body = 'called' WHERE id = 3", [])
        .unwrap();
    assert!(told.any(|line| line.unwrap() == "remote: 1 row changed"));
    assert_eq!(rows(&path).get(2), Some(&row(3, "called")));

    let id = watching.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(watching.wait().unwrap().code(), Some(0));
}

#[test]
fn letting_go_of_a_shape_deletes_nothing_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path());
    let path = folder.path().join("ann.db");
    let file = argument(&path);
    succeed(&["replica", "init", file]);
    succeed(&["replica", "subscribe", file, "notes"]);
    sync(file, &served);
    assert_eq!(rows(&path).len(), 3);
    succeed(&["replica", "unsubscribe", file, "0"]);
    assert_eq!(rows(&path), []);
    sync(file, &served);
    assert_eq!(rows(&folder.path().join("store.db")).len(), 3);
    assert_eq!(served.stop(), Some(0));
}
