//! The demo ends with the same rows everywhere, over both stores and over a script of one's own.

use crate::common::{argument, fail, succeed, succeed_json};
use serde_json::json;

fn check_example(store: &str) {
    let report = succeed_json(&["demo", "--store", store]);
    assert_eq!(report["converged"], true, "{report}");
    assert_eq!(report["store"], store);
    assert_eq!(report["replicas"], 2);
    assert_eq!(report["tables"], 8);
    assert_eq!(report["rows"], 21);
    assert_eq!(report["transactions_pushed"], 13);
    assert_eq!(
        report["rejected"], 1,
        "the team's seats, and nothing else: {report}"
    );
    assert_eq!(report["failures"], json!([]));
    assert!(report["durations_ms"]["total"].is_u64());
}

#[test]
fn over_postgres() {
    check_example("postgres");
}

#[test]
fn over_the_embedded_store() {
    check_example("embedded");
}

#[test]
fn people_are_told_what_became_of_each_conflict_and_why() {
    let told = succeed(&["demo", "--store", "embedded"]);
    for part in [
        "Ann  'Convert to euro'",
        "gives way to a newer stamp",
        "stands: no delete had seen it, and add wins",
        "Ann's transaction 7: CHECK constraint failed: seats > 0",
        "[ok] both replicas hold the store's rows and clocks, byte for byte",
        "\nconverged: 21 rows",
    ] {
        assert!(told.contains(part), "{part} is missing in:\n{told}");
    }
}

const SCRIPT: &str = "
create table authors (name varchar(40) primary key, born date, about text);
create table books (
    isbn bigint primary key, author varchar(40) not null references authors on delete cascade,
    title varchar(60) not null, blurb text, price numeric(8, 2), printed boolean default true
);
create table shelves (room integer, shelf integer, label text not null, primary key (room, shelf));
insert into authors values ('Ada, Countess', '1815-12-10', 'notes'), ('O''Brien', null, null),
    ('Grace', '1906-12-09', 'compilers');
insert into books values (1, 'Grace', 'A', 'b', 10.50, true), (2, 'Grace', 'B', null, null, false),
    (3, 'Grace', 'C', 'b|c', 0.10, null), (4, 'O''Brien', 'D', '{\"x\": \"y\"}', 1.00, true);
insert into shelves values (1, 1, 'low'), (1, 2, 'line one
line two'), (2, 1, 'a'), (2, 2, 'b');
";

fn check_script(sql: &str, store: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script.sql");
    std::fs::write(&path, sql).unwrap();
    let report = succeed_json(&["demo", "--store", store, "--sql", argument(&path)]);
    assert_eq!(report["converged"], true, "{report}");
    assert_eq!(
        (&report["tables"], &report["rows"]),
        (&json!(3), &json!(11))
    );
    assert_eq!(report["rejected"], 0);
    let contested = report["contested_rows"].as_u64().unwrap();
    assert!(contested >= 5, "{report}");
}

#[test]
fn over_a_script_in_postgres() {
    check_script(SCRIPT, "postgres");
}

#[test]
fn over_a_script_that_makes_a_database_of_its_own() {
    let script =
        format!("drop database if exists other;\ncreate database other;\n\\c other;\n{SCRIPT}");
    check_script(&script, "postgres");
}

#[test]
fn over_a_script_in_the_embedded_store() {
    check_script(SCRIPT, "embedded");
}

#[test]
fn kept_replicas_can_be_looked_into_and_are_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let keep = folder.path().join("kept");
    succeed(&["demo", "--store", "embedded", "--keep", argument(&keep)]);
    let file = keep.join("ann.db");
    let report = succeed_json(&["inspect", argument(&file)]);
    assert_eq!(report["rejected"][0]["code"], "Constraint");
    let steps = report["tables"]
        .as_array()
        .unwrap()
        .iter()
        .find(|table| table["name"] == "steps");
    assert_eq!(steps.unwrap()["rows"], 6);
    fail(&["demo", "--store", "embedded", "--keep", argument(&keep)]);
}

#[test]
fn a_script_that_fails_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script.sql");
    std::fs::write(&path, "create table broken (;").unwrap();
    assert!(
        fail(&["demo", "--sql", argument(&path), "--store", "postgres"]).contains("syntax error")
    );
    assert!(
        fail(&["demo", "--sql", argument(&path), "--store", "embedded"]).contains("syntax error")
    );
    std::fs::write(&path, "select 1;").unwrap();
    let told = fail(&["demo", "--sql", argument(&path), "--store", "postgres"]);
    assert!(told.contains("the SQL makes no table"), "{told}");
}
