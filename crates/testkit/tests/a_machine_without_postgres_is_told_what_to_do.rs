//! Where the programs are not found, the error says where they were looked for and how to get them.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{env, process::Command};

use anabranch_testkit::cluster::shared_cluster;

const VARIABLE: &str = "ANABRANCH_PG_BIN";

#[test]
fn the_error_helps() {
    if env::var(VARIABLE).is_ok_and(|directory| directory == "/nowhere") {
        shared_cluster();
        return;
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--nocapture"])
        .env(VARIABLE, "/nowhere")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{text}");
    for part in [
        "ANABRANCH_PG_BIN names /nowhere",
        "apt-get install postgresql",
        "./scripts/test",
    ] {
        assert!(text.contains(part), "no {part:?} in: {text}");
    }
}
