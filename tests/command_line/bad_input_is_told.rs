//! What cannot be done is told in one line, with what to do, and with exit code 1; a command line
//! that makes no sense has exit code 2.

use crate::common::{argument, configure, fail, run, succeed, text};
use rusqlite::Connection;

#[test]
fn a_command_line_without_sense_has_exit_code_2() {
    for line in [
        "",
        "sail",
        "demo --store oracle",
        "replica subscribe file.db",
        "replica subscribe file.db notes --shape mine",
        "replica subscribe file.db notes --param owner",
        "replica sync file.db",
        "inspect file.db --key 1",
        "install --postgres host=/nowhere",
        "install --postgres host=/nowhere --all --tables a",
    ] {
        let output = run(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(
            output.status.code(),
            Some(2),
            "{line}: {}",
            text(&output.stderr)
        );
    }
    assert!(succeed(&["--help"]).contains("replica"));
    assert!(succeed(&["limits"]).contains("FRAME_BYTES_MAX"));
}

#[test]
fn a_file_that_is_no_replica() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);

    let missing = path("missing.db");
    assert!(fail(&["replica", "status", argument(&missing)]).contains("there is no file"));
    assert!(!missing.exists(), "looking makes no file");

    let prose = path("prose.txt");
    std::fs::write(&prose, "It was a dark and stormy night. ".repeat(100)).unwrap();
    assert!(fail(&["inspect", argument(&prose)]).contains("not a SQLite file"));

    let foreign = path("foreign.db");
    Connection::open(&foreign)
        .unwrap()
        .execute_batch("CREATE TABLE t (x)")
        .unwrap();
    assert!(fail(&["replica", "status", argument(&foreign)]).contains("another program"));

    let newer = path("newer.db");
    succeed(&["replica", "init", argument(&newer)]);
    fail(&["replica", "init", argument(&newer)]);
    let file = Connection::open(&newer).unwrap();
    let sql = "UPDATE anabranch_meta SET value = 99 WHERE name = 'format'";
    assert_eq!(file.execute(sql, []).unwrap(), 1);
    let told = fail(&["replica", "status", argument(&newer)]);
    assert!(
        told.contains("format 99") && told.contains("try: upgrade Anabranch"),
        "{told}"
    );
}

#[test]
fn sql_that_fails_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replica.db");
    let file = argument(&path);
    succeed(&["replica", "init", file]);
    let told = fail(&[
        "replica",
        "sql",
        file,
        "CREATE TABLE own (x); INSERT INTO nowhere VALUES (1)",
    ]);
    assert!(told.contains("no such table: nowhere"), "{told}");
    assert_eq!(
        succeed(&["replica", "sql", file, "SELECT 7 AS seven"]),
        "seven\n-----\n7\n(1 row)\n"
    );
    fail(&["replica", "sql", file, "SELECT * FROM own"]);
    fail(&["replica", "unsubscribe", file, "3"]);
}

#[test]
fn a_configuration_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let serve = |configuration: &str| {
        let path = configure(folder.path(), configuration);
        fail(&["serve", "--config", argument(&path)])
    };
    assert!(fail(&["serve", "--config", "/nowhere/a.toml"]).contains("cannot read"));
    assert!(serve("listen = 7").contains("line 1"));
    assert!(serve("[store]").contains("names no store"));
    assert!(serve("port = 1\n[store]\nembedded = 'a.db'").contains("port"));
    assert!(serve("[store]\nembedded = 'a.db'").contains("there is no store"));
    assert!(serve("[store]\nembedded = 'a.db'\nschema = 'b.sql'").contains("cannot read the SQL"));
    std::fs::write(folder.path().join("b.sql"), "CREATE TABLE keyless (x)").unwrap();
    let told = serve("[store]\nembedded = 'a.db'\nschema = 'b.sql'");
    assert!(told.contains("keyless has no primary key"), "{told}");
}

#[test]
fn failures_are_json_for_programs() {
    let output = run(&["--json", "replica", "status", "/nowhere/replica.db"]);
    assert_eq!(output.status.code(), Some(1));
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        printed["error"]
            .as_str()
            .unwrap()
            .contains("there is no file")
    );
    assert!(printed["remedy"].is_string());
}
