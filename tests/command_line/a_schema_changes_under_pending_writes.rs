//! The store's schema changes while a replica is offline with work of its own: what still has a place
//! is merged in its order, what has none is refused with the reason and kept.

use std::path::Path;

use crate::common::{Served, argument, succeed, succeed_json};
use rusqlite::Connection;
use serde_json::json;

const CONFIGURATION: &str = r#"
listen = "127.0.0.1:0"
allow_spelled_shapes = true
[store]
embedded = "store.db"
schema = "schema.sql"
"#;

const SCHEMA: &str = "
CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT, mood TEXT, rank TEXT);
INSERT INTO notes VALUES (1, 'one', 'fine', '7'), (2, 'two', 'fine', '8');
";

/// Without the mood, with a color, and with numbers for ranks: as a migration tool does it.
const REBUILD: &str = "
BEGIN;
CREATE TABLE rebuilt (id INTEGER PRIMARY KEY, body TEXT, rank INTEGER, color TEXT DEFAULT 'red');
INSERT INTO rebuilt (id, body, rank) SELECT id, body, rank FROM notes;
DROP TABLE notes;
ALTER TABLE rebuilt RENAME TO notes;
COMMIT;
";

fn rows(path: &Path) -> Vec<String> {
    let file = Connection::open(path).unwrap();
    let sql = "SELECT id || body || quote(rank) || quote(color) FROM notes ORDER BY id";
    let mut query = file.prepare(sql).unwrap();
    let rows = query.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[test]
fn nothing_is_lost_and_nobody_waits() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("schema.sql"), SCHEMA).unwrap();
    let (path, store) = (
        folder.path().join("replica.db"),
        folder.path().join("store.db"),
    );
    let file = argument(&path);
    let sync = |served: &Served| succeed_json(&["replica", "sync", file, "--url", served.url()]);
    let served = Served::start(folder.path(), CONFIGURATION);
    succeed(&["replica", "init", file]);
    succeed(&["replica", "subscribe", file, "notes"]);
    sync(&served);
    assert_eq!(served.stop(), Some(0));

    for sql in [
        "UPDATE notes SET body = 'first' WHERE id = 1",
        "UPDATE notes SET mood = 'lost', body = 'refused' WHERE id = 2",
        "INSERT INTO notes (id, body) VALUES (3, 'last')",
    ] {
        succeed(&["replica", "sql", file, sql]);
    }
    Connection::open(&store)
        .unwrap()
        .execute_batch(REBUILD)
        .unwrap();

    let served = Served::start(folder.path(), CONFIGURATION);
    let synced = sync(&served);
    assert_eq!(synced["synced"], true);
    let expected = ["1first7'red'", "2two8'red'", "3lastNULL'red'"];
    assert_eq!(rows(&store), expected);
    assert_eq!(rows(&path), expected);
    let inspected = succeed_json(&["inspect", file]);
    assert_eq!(inspected["pending"], 0);
    let refused = &inspected["rejected"];
    assert_eq!(refused.as_array().unwrap().len(), 1, "{refused}");
    assert_eq!(refused[0]["transaction"]["number"], json!(2));
    assert_eq!(refused[0]["code"], "UnknownSchema");
    // What the store dropped stays readable.
    let old = Connection::open(&path).unwrap();
    let mood: String = old
        .query_row("SELECT mood FROM notes WHERE id = 1", [], |row| row.get(0))
        .unwrap();
    assert_eq!(mood, "fine");
    assert!(succeed(&["doctor", file]).contains("is sound"));
}
