//! A cluster can be stopped, killed and started again: committed rows stay, and so do the
//! connection strings.
#![allow(clippy::unwrap_used, missing_docs)]

use std::process::{Child, Command, Stdio};

use anabranch_testkit::cluster::{Cluster, ClusterError, ClusterOptions, PgBinaries};

#[test]
fn committed_rows_survive() -> Result<(), ClusterError> {
    let mut cluster = Cluster::start(&PgBinaries::find()?, ClusterOptions::default())?;
    let url = cluster.url("postgres");
    cluster.sql(
        "postgres",
        "create table notes (id int); insert into notes values (1)",
    )?;

    cluster.stop_fast()?;
    assert!(
        cluster.sql("postgres", "select 1").is_err(),
        "a stopped server answered"
    );
    cluster.start_again()?;
    cluster.sql("postgres", "insert into notes values (2)")?;

    // A session that looks at nothing but its work does not notice by itself that the server is gone.
    let mut busy = busy_session(&cluster);
    wait_until_busy(&cluster).unwrap();
    let log_before = cluster.log().len();
    cluster.kill().unwrap();
    assert!(
        !busy.wait().unwrap().success(),
        "a session outlived the server"
    );
    assert!(
        cluster.sql("postgres", "select 1").is_err(),
        "a killed server answered"
    );
    cluster.start_again()?;
    let log = cluster.log();
    assert!(
        log.split_at(log_before)
            .1
            .contains("was not properly shut down"),
        "it was no crash"
    );

    assert_eq!(
        cluster.sql("postgres", "select id from notes order by id")?,
        "1\n2\n"
    );
    assert_eq!(cluster.url("postgres"), url);

    let directory = cluster.data_dir();
    drop(cluster);
    assert!(!directory.exists(), "the directory is left behind");
    Ok(())
}

fn busy_session(cluster: &Cluster) -> Child {
    let mut session = Command::new(cluster.binaries().psql());
    session.args([
        "-X",
        "-c",
        "select count(*) from generate_series(1, 100000000000)",
    ]);
    session.arg(cluster.url("postgres")).stderr(Stdio::null());
    session.spawn().unwrap()
}

fn wait_until_busy(cluster: &Cluster) -> Result<(), ClusterError> {
    let others = "select count(*) from pg_stat_activity \
        where state = 'active' and pid <> pg_backend_pid() and backend_type = 'client backend'";
    while cluster.sql("postgres", others)? != "1\n" {}
    Ok(())
}
