//! From a bare Postgres database to a synced replica and back to a bare database.

use crate::common::{Served, argument, configure, eventually, fail, succeed, succeed_json};
use anabranch_testkit::cluster::{Cluster, ClusterOptions, PgBinaries, WalLevel, shared_cluster};
use rusqlite::Connection;
use serde_json::json;

const SCHEMA: &str = "
create table notes (id bigint primary key, body text not null);
create table keyless (x integer);
insert into notes values (1, 'one'), (2, 'two');
";

#[test]
fn install_serve_sync_uninstall() {
    let cluster = shared_cluster();
    let database = cluster.fresh_database().unwrap();
    cluster.sql(&database, SCHEMA).unwrap();
    let url = cluster.url(&database);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replica.db");
    let file = argument(&path);

    let configuration = format!(
        "listen = '127.0.0.1:0'\n[store]\npostgres = \"{url}\"\nslot = 'install_serve_sync'\n"
    );
    let told = fail(&[
        "serve",
        "--config",
        argument(&configure(folder.path(), &configuration)),
    ]);
    assert!(told.contains("is not installed"), "{told}");
    let installed = succeed_json(&["install", "--postgres", &url, "--tables", "notes"]);
    assert_eq!(installed, json!({ "installed": ["notes"] }));
    succeed(&["install", "--postgres", &url, "--tables", "notes"]);

    let served = Served::start(folder.path(), &configuration);
    succeed(&["replica", "init", file]);
    succeed(&["replica", "subscribe", file, "notes"]);
    succeed(&["replica", "sync", file, "--url", served.url()]);
    succeed(&[
        "replica",
        "sql",
        file,
        "UPDATE notes SET body = 'zwei' WHERE id = 2",
    ]);
    cluster
        .sql(&database, "update notes set body = 'eins' where id = 1")
        .unwrap();
    let body = || {
        succeed(&["replica", "sync", file, "--url", served.url()]);
        let replica = Connection::open(&path).unwrap();
        let sql = "SELECT group_concat(body) FROM (SELECT body FROM notes ORDER BY id)";
        replica
            .query_row(sql, [], |row| row.get::<_, String>(0))
            .unwrap()
    };
    eventually(&"eins,zwei".to_owned(), body);
    let stored = cluster
        .sql(&database, "select id, body from notes order by id")
        .unwrap();
    assert_eq!(stored, "1|eins\n2|zwei\n");
    assert_eq!(served.stop(), Some(0));

    succeed(&[
        "uninstall",
        "--postgres",
        &url,
        "--slot",
        "install_serve_sync",
    ]);
    let left = "select (select count(*) from pg_namespace where nspname = 'anabranch')
        + (select count(*) from pg_publication) + (select count(*) from pg_trigger where not tgisinternal)
        + (select count(*) from pg_replication_slots where slot_name = 'install_serve_sync')";
    assert_eq!(cluster.sql(&database, left).unwrap(), "0\n");
    assert!(succeed(&["replica", "sql", file, "SELECT body FROM notes"]).contains("eins"));
}

#[test]
fn what_postgres_does_not_allow_is_told() {
    let options = ClusterOptions {
        wal_level: WalLevel::Replica,
        tcp_password: Some("right".to_owned()),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(&PgBinaries::find().unwrap(), options).unwrap();
    let url = cluster.tcp_url("postgres").unwrap();

    let told = fail(&["install", "--postgres", &url, "--all"]);
    assert!(told.contains("wal_level"), "{told}");
    let wrong = url.replace("right", "wrong");
    let told = fail(&["install", "--postgres", &wrong, "--all"]);
    assert!(
        told.contains("password") && !told.contains("wrong"),
        "{told}"
    );
    let told = fail(&[
        "install",
        "--postgres",
        "host=127.0.0.1 port=1 user=x",
        "--all",
    ]);
    assert!(
        told.contains("127.0.0.1") || told.contains("connect"),
        "{told}"
    );
    let told = fail(&["install", "--postgres", "http://x", "--all"]);
    assert!(told.contains("URL"), "{told}");
}

#[test]
fn a_table_without_primary_key_is_refused_and_nothing_installed() {
    let cluster = shared_cluster();
    let database = cluster.fresh_database().unwrap();
    cluster.sql(&database, SCHEMA).unwrap();
    let url = cluster.url(&database);
    let told = fail(&["install", "--postgres", &url, "--all"]);
    assert!(told.contains("keyless has no primary key"), "{told}");
    assert!(
        told.contains("try: add one, or leave the table out"),
        "{told}"
    );
    let told = fail(&["install", "--postgres", &url, "--tables", "notes,nowhere"]);
    assert!(told.contains("there is no table nowhere"), "{told}");
    let left = "select count(*) from pg_namespace where nspname = 'anabranch'";
    assert_eq!(cluster.sql(&database, left).unwrap(), "0\n");
}
