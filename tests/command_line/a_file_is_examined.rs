//! `anabranch doctor`: what is wrong with a file is named, explained and repaired, and what cannot be
//! repaired is left as it is.

use std::path::Path;

use crate::common::{Served, argument, run, succeed, succeed_json, text};
use rusqlite::{Connection, config::DbConfig};
use serde_json::{Value as Json, json};

const CONFIGURATION: &str = r#"
listen = "127.0.0.1:0"
allow_spelled_shapes = true
[store]
embedded = "store.db"
schema = "schema.sql"
"#;

const SCHEMA: &str = "
CREATE TABLE notes (id INTEGER PRIMARY KEY, body TEXT NOT NULL);
WITH RECURSIVE number(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM number WHERE id < 500)
INSERT INTO notes SELECT id, 'note ' || id FROM number;
";

fn serve(folder: &Path) -> Served {
    std::fs::write(folder.join("schema.sql"), SCHEMA).unwrap();
    Served::start(folder, CONFIGURATION)
}

/// What the doctor prints, with exit code 1.
fn troubled(arguments: &[&str]) -> String {
    let output = run(&[&["doctor"], arguments].concat());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn count(path: &Path) -> i64 {
    let conn = Connection::open(path).unwrap();
    conn.query_row("SELECT count(*) FROM notes", [], |row| row.get(0))
        .unwrap()
}

/// Writes as no program should: with the triggers off, and one of them gone.
fn meddle(path: &Path) {
    let conn = Connection::open(path).unwrap();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)
        .unwrap();
    conn.execute_batch("DELETE FROM notes WHERE id <= 2; INSERT INTO notes VALUES (900, 'unseen')")
        .unwrap();
    let trigger = "SELECT name FROM sqlite_schema WHERE type = 'trigger' AND name GLOB '*_update'";
    let trigger: String = conn.query_row(trigger, [], |row| row.get(0)).unwrap();
    conn.execute_batch(&format!("DROP TRIGGER {trigger}"))
        .unwrap();
}

#[test]
fn troubles_are_explained_and_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path());
    let path = folder.path().join("replica.db");
    let file = argument(&path);
    let sync = || succeed(&["replica", "sync", file, "--url", served.url()]);
    succeed(&["replica", "init", file]);
    succeed(&["replica", "subscribe", file, "notes"]);
    sync();
    assert_eq!(count(&path), 500);
    assert!(succeed(&["doctor", file]).contains("is sound"));
    assert_eq!(succeed_json(&["doctor", file]), json!({ "findings": [] }));

    meddle(&path);
    let told = troubled(&[file]);
    for said in [
        "capture triggers are missing",
        "notes: rows were written while the triggers were off or missing (1)",
        "notes: rows were deleted while the triggers were off or missing (2)",
        "a repair sends the rows as local writes",
        "nothing was changed; --repair",
    ] {
        assert!(told.contains(said), "{said}: {told}");
    }
    let found: Json = serde_json::from_str(&troubled(&[file, "--json"])).unwrap();
    assert_eq!(found["findings"][2]["trouble"], "ClockWithoutRow");
    assert_eq!(found["findings"][2]["count"], 2);
    assert_eq!(found["findings"][2]["repaired"], false);

    assert!(succeed(&["doctor", file, "--repair"]).contains("repaired: makes the triggers anew"));
    assert!(succeed(&["doctor", file]).contains("is sound"));
    sync();
    assert_eq!(
        count(&path),
        501,
        "what was deleted unseen is fetched again"
    );
    assert_eq!(count(&folder.path().join("store.db")), 501);
}

#[test]
fn a_damaged_file_is_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path());
    let path = folder.path().join("replica.db");
    let file = argument(&path);
    succeed(&["replica", "init", file]);
    succeed(&["replica", "subscribe", file, "notes"]);
    succeed(&["replica", "sync", file, "--url", served.url()]);
    drop(served);
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'notes'";
    let conn = Connection::open(&path).unwrap();
    let root: i64 = conn.query_row(root, [], |row| row.get(0)).unwrap();
    conn.close().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    // The middle of the table's first page; pages are 8 KiB and counted from 1.
    let at = (usize::try_from(root).unwrap() - 1) * 8_192 + 2_000;
    bytes[at - 1_990..at].fill(0xa5);
    std::fs::write(&path, &bytes).unwrap();
    let told = troubled(&[file, "--repair"]);
    assert!(told.contains("integrity check fails"), "{told}");
    assert!(told.contains("nothing can be done here"), "{told}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}
