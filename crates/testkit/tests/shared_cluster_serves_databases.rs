//! The shared cluster hands out separate databases, runs SQL in them and reports its errors.
#![allow(clippy::unwrap_used, missing_docs)]

use anabranch_testkit::cluster::{ClusterError, shared_cluster};

#[test]
fn databases_are_separate() {
    let cluster = shared_cluster();
    let (left, right) = (
        cluster.fresh_database().unwrap(),
        cluster.fresh_database().unwrap(),
    );
    assert_ne!(left, right);
    cluster
        .sql(&left, "create table notes (id int primary key, body text)")
        .unwrap();
    cluster
        .sql(&left, "insert into notes values (1, 'a|b'), (2, null)")
        .unwrap();
    assert_eq!(
        cluster
            .sql(&left, "select * from notes order by id")
            .unwrap(),
        "1|a|b\n2|\n"
    );
    assert_eq!(
        cluster
            .sql(&right, "select to_regclass('notes') is null")
            .unwrap(),
        "t\n"
    );
}

#[test]
fn names_and_values_are_quoted() {
    let cluster = shared_cluster();
    let name = r#"odd "name" with 'quotes' and \"#;
    cluster.create_database(name).unwrap();
    assert_eq!(
        cluster
            .sql(name, "select current_database()")
            .unwrap()
            .trim_end(),
        name
    );
}

#[test]
fn logical_replication_works() {
    let cluster = shared_cluster();
    let database = cluster.fresh_database().unwrap();
    let decoded = cluster
        .sql(
            &database,
            "create table notes (id int primary key);
             create publication everything for all tables;
             select slot_name from pg_create_logical_replication_slot('logical_works', 'pgoutput');
             insert into notes values (1);
             select count(*) > 0 from pg_logical_slot_get_binary_changes('logical_works', null, null,
                 'proto_version', '1', 'publication_names', 'everything');
             select pg_drop_replication_slot('logical_works');",
        )
        .unwrap();
    assert_eq!(decoded, "logical_works\nt\n\n");
}

#[test]
fn a_script_longer_than_a_pipe_runs() {
    let cluster = shared_cluster();
    let database = cluster.fresh_database().unwrap();
    let script: String = (0..20_000)
        .map(|number| format!("select {number};\n"))
        .collect();
    assert_eq!(
        cluster.sql(&database, &script).unwrap().lines().count(),
        20_000
    );
}

#[test]
fn an_error_in_sql_is_told_in_full() {
    let cluster = shared_cluster();
    let error = cluster
        .sql("postgres", "select 1;\nselect from nowhere;")
        .unwrap_err();
    assert!(matches!(error, ClusterError::Failed { .. }));
    assert!(
        error
            .to_string()
            .contains("relation \"nowhere\" does not exist"),
        "{error}"
    );
}
