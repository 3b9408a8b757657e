//! TCP with a password, the level of the log and further settings come out as asked for; a setting
//! that Postgres refuses is reported with what the server said.
#![allow(clippy::unwrap_used, missing_docs)]

use std::process::Command;

use anabranch_testkit::cluster::{Cluster, ClusterError, ClusterOptions, PgBinaries, WalLevel};

#[test]
fn tcp_asks_for_the_password() {
    let options = ClusterOptions {
        wal_level: WalLevel::Replica,
        tcp_password: Some(r"p'ss \word".to_owned()),
        settings: vec![("cluster_name".to_owned(), "it's \\ ours".to_owned())],
    };
    let cluster = Cluster::start(&PgBinaries::find().unwrap(), options).unwrap();
    let url = cluster.tcp_url("postgres").unwrap();
    assert_eq!(
        psql(&cluster, &url).unwrap(),
        "replica\nit's \\ ours\n127.0.0.1\n"
    );

    let wrong = url.replace("word'", "ward'");
    let refusal = psql(&cluster, &wrong).unwrap_err();
    assert!(
        refusal.contains("password authentication failed"),
        "{refusal}"
    );
}

#[test]
fn a_refused_setting_is_reported() {
    let settings = vec![("wal_sender_timeout".to_owned(), "soon".to_owned())];
    let options = ClusterOptions {
        settings,
        ..ClusterOptions::default()
    };
    let error = Cluster::start(&PgBinaries::find().unwrap(), options).unwrap_err();
    assert!(matches!(error, ClusterError::Ended { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("\"wal_sender_timeout\": \"soon\""),
        "{error}"
    );
}

fn psql(cluster: &Cluster, url: &str) -> Result<String, String> {
    let output = Command::new(cluster.binaries().psql())
        .args([
            "-X",
            "-A",
            "-t",
            "-c",
            "show wal_level",
            "-c",
            "show cluster_name",
        ])
        .args(["-c", "select inet_server_addr()", url])
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}
