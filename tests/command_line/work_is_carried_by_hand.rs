//! A file copied while it is in use, and what a file has not sent carried into another.

use std::path::Path;

use crate::common::{Served, argument, fail, succeed, succeed_json};
use serde_json::json;

const CONFIGURATION: &str = r#"
listen = "127.0.0.1:0"
allow_spelled_shapes = true
[store]
embedded = "store.db"
schema = "schema.sql"
"#;

fn serve(folder: &Path) -> Served {
    let schema = "CREATE TABLE notes (id TEXT PRIMARY KEY, body TEXT)";
    std::fs::write(folder.join("schema.sql"), schema).unwrap();
    Served::start(folder, CONFIGURATION)
}

fn make(file: &str, served: &Served) {
    succeed(&["replica", "init", file]);
    succeed(&["replica", "subscribe", file, "notes"]);
    sync(file, served);
}

fn sync(file: &str, served: &Served) {
    succeed(&["replica", "sync", file, "--url", served.url()]);
}

fn write(file: &str, id: &str) {
    let sql = format!("INSERT INTO notes VALUES ('{id}', 'written offline')");
    succeed(&["replica", "sql", file, &sql]);
}

fn ids(file: &str) -> serde_json::Value {
    let sql = "SELECT group_concat(id, ' ' ORDER BY id) AS ids FROM notes";
    let printed = succeed_json(&["replica", "sql", file, sql]);
    printed["results"][0]["rows"][0][0].clone()
}

#[test]
fn unsent_work_goes_from_one_file_to_another() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path());
    let paths = ["old.db", "new.db", "outbox"].map(|name| folder.path().join(name));
    let [old, new, exported] = paths.each_ref().map(|path| argument(path));
    make(old, &served);
    make(new, &served);
    write(old, "a");
    write(old, "b");

    let listed = succeed(&["outbox", "list", old]);
    assert!(listed.starts_with("2 transactions pending\n"), "{listed}");
    assert!(listed.contains("notes b: body"), "{listed}");
    let done = succeed_json(&["outbox", "export", old, exported]);
    assert_eq!(done, json!({ "exported": 2 }));
    let told = fail(&["outbox", "export", old, exported]);
    assert!(told.contains("is there already"), "{told}");
    assert_eq!(succeed_json(&["outbox", "list", old])["pending"], 2);

    let done = succeed_json(&["outbox", "import", new, exported]);
    assert_eq!(done, json!({ "imported": 2 }));
    assert_eq!(ids(new), "a b");
    sync(new, &served);
    assert_eq!(succeed_json(&["outbox", "list", new])["pending"], 0);
    let told = fail(&["outbox", "import", new, old]);
    assert!(told.contains("no exported outbox"), "{told}");
    assert_eq!(served.stop(), Some(0));
}

#[test]
fn a_file_that_belongs_to_somebody_is_synced_for_them_only() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path());
    let path = folder.path().join("notes.db");
    let file = argument(&path);
    make(file, &served);
    let ann = anabranch::Fingerprint::of("here", "ann");
    let mut replica = anabranch::Replica::open(&path, anabranch::OpenOptions::system()).unwrap();
    replica.bind(ann).unwrap();
    drop(replica);
    write(file, "a");
    let told = fail(&["replica", "sync", file, "--url", served.url()]);
    assert!(told.contains("belongs to a user"), "{told}");
    let told = fail(&[
        "replica",
        "sync",
        file,
        "--url",
        served.url(),
        "--principal",
        &"0".repeat(32),
    ]);
    assert!(told.contains("another user"), "{told}");
    assert_eq!(succeed_json(&["outbox", "list", file])["pending"], 1);
    succeed(&[
        "replica",
        "sync",
        file,
        "--url",
        served.url(),
        "--principal",
        &ann.to_string(),
    ]);
    assert_eq!(succeed_json(&["outbox", "list", file])["pending"], 0);
}

#[test]
fn a_backup_is_a_replica_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let served = serve(folder.path());
    let paths = ["notes.db", "copy.db"].map(|name| folder.path().join(name));
    let [file, copy] = paths.each_ref().map(|path| argument(path));
    make(file, &served);
    write(file, "a");
    succeed(&["backup", file, copy]);
    let told = fail(&["backup", file, copy]);
    assert!(told.contains("is there already"), "{told}");
    let told = fail(&["backup", "nowhere.db", copy]);
    assert!(told.contains("there is no file"), "{told}");

    assert_eq!(ids(copy), "a");
    let id = |file| succeed_json(&["replica", "status", file])["replica"].clone();
    assert_ne!(id(copy), id(file));
    write(copy, "b");
    sync(file, &served);
    sync(copy, &served);
    sync(file, &served);
    assert_eq!(ids(file), "a b");
    assert_eq!(ids(copy), "a b");
}
