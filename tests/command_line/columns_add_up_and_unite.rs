//! Counters and sets from the configuration to the replica, and what `inspect` shows of them.

use crate::common::{Served, argument, fail, succeed, succeed_json};
use serde_json::json;

const CONFIGURATION: &str = r#"
listen = "127.0.0.1:0"
allow_spelled_shapes = true
[store]
embedded = "store.db"
schema = "schema.sql"
[tables.notes]
columns = { likes = "counter", tags = "set" }
delete = "wins_over_update"
"#;

const SCHEMA: &str = "
CREATE TABLE notes (id INTEGER PRIMARY KEY, likes INTEGER NOT NULL DEFAULT 0, tags JSON);
INSERT INTO notes VALUES (1, 5, '[\"old\"]');
";

#[test]
fn two_replicas_add_up_and_inspect_shows_who_added_what() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("schema.sql"), SCHEMA).unwrap();
    let served = Served::start(folder.path(), CONFIGURATION);
    let files = ["ann.db", "bob.db"].map(|name| folder.path().join(name));
    let [ann, bob] = files.each_ref().map(|path| argument(path));
    let sync = |file| succeed_json(&["replica", "sync", file, "--url", served.url()]);
    for file in [ann, bob] {
        succeed(&["replica", "init", file]);
        succeed(&["replica", "subscribe", file, "notes"]);
        sync(file);
    }
    let (ann_writes, bob_writes) = (
        "UPDATE notes SET likes = likes + 2, tags = '[\"old\", \"ann\"]'",
        "UPDATE notes SET likes = likes - 1, tags = '[\"bob\"]'",
    );
    succeed(&["replica", "sql", ann, ann_writes]);
    succeed(&["replica", "sql", bob, bob_writes]);
    let pending = succeed(&["inspect", ann]);
    assert!(pending.contains("likes: counter, tags: set"), "{pending}");
    assert!(
        pending.contains("notes 1: likes +2, tags {+\"ann\"}"),
        "{pending}"
    );
    let row = succeed_json(&["inspect", ann, "--table", "notes", "--key", "1"]);
    assert_eq!(row["columns"]["likes"]["pending"][0]["number"], json!(2));

    for file in [ann, bob, ann] {
        sync(file);
    }
    let row = succeed_json(&["inspect", ann, "--table", "notes", "--key", "1"]);
    let (likes, tags) = (&row["columns"]["likes"], &row["columns"]["tags"]);
    assert_eq!(likes["value"], json!(6));
    assert_eq!(likes["kind"], json!("counter"));
    assert_eq!(likes["totals"].as_array().unwrap().len(), 3);
    assert_eq!(likes["pending"], json!([]));
    assert_eq!(tags["value"], json!("[\"ann\", \"bob\"]"));
    assert_eq!(tags["elements"].as_array().unwrap().len(), 3);
    let text = succeed(&["inspect", bob, "--table", "notes", "--key", "1"]);
    assert!(text.contains("counter likes: 6"), "{text}");
    assert!(text.contains("\"old\" (removed)"), "{text}");
    assert_eq!(served.stop(), Some(0));

    let other = CONFIGURATION.replace("likes = \"counter\", ", "");
    let configuration = folder.path().join("other.toml");
    std::fs::write(&configuration, other).unwrap();
    let refused = fail(&["serve", "--config", argument(&configuration)]);
    assert!(
        refused.contains("notes.likes is replicated as a counter"),
        "{refused}"
    );
    std::fs::write(&configuration, CONFIGURATION.replace("\"set\"", "\"heap\"")).unwrap();
    let refused = fail(&["serve", "--config", argument(&configuration)]);
    assert!(refused.contains("`heap` is no rule"), "{refused}");
}
