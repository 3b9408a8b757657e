//! A cluster whose owner dies without a word leaves neither processes nor files.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    env, fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anabranch_testkit::cluster::shared_cluster;

const OWNER: &str = "ANABRANCH_TEST_CLUSTER_OWNER";

#[test]
fn nothing_is_left_behind() {
    if let Some(report) = env::var_os(OWNER) {
        let data = shared_cluster().data_dir();
        let pid_file = fs::read_to_string(data.join("postmaster.pid")).unwrap();
        let pid = pid_file.lines().next().unwrap();
        fs::write(report, format!("{pid}\n{}", data.display())).unwrap();
        std::process::abort();
    }
    let report = tempfile::NamedTempFile::new().unwrap();
    let owner = Command::new(env::current_exe().unwrap())
        .env(OWNER, report.path())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(!owner.success(), "the owner was to die");

    let report = fs::read_to_string(report.path()).unwrap();
    let (pid, data) = report.split_once('\n').unwrap();
    let directory = Path::new(data).parent().unwrap();
    assert!(
        eventually(|| !directory.exists()),
        "{} is left behind",
        directory.display()
    );
    assert!(
        eventually(|| !is_postgres(pid)),
        "the server still runs as process {pid}"
    );
}

fn is_postgres(pid: &str) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"/"))
}

fn eventually(holds: impl Fn() -> bool) -> bool {
    (0..300).any(|_| {
        thread::sleep(Duration::from_millis(100));
        holds()
    })
}
