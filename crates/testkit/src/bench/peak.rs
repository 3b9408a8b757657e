//! The most memory that merging takes, each side in a process of its own: what one has taken and
//! given back would make the other look frugal.
//!
//! The program runs itself again, with the same arguments, and a variable of the environment that
//! names a side and the file for the answer.

use std::{
    env, fs,
    process::{Command, Stdio},
};

use super::{
    BenchError, Figure, MergeOptions, compare,
    rows::{HELD, What, keys},
    sides::{Merge, Ours, Plain},
};

/// Measures both sides.
pub(super) fn cases(
    options: &MergeOptions,
    tell: &mut impl FnMut(Figure),
) -> Result<(), BenchError> {
    if !options.wants(CASE) {
        return Ok(());
    }
    let (mut ours, mut limit) = (|| in_a_child(OURS), || in_a_child(LIMIT));
    tell(compare(
        options.rounds.min(1),
        CASE,
        "MiB",
        &mut ours,
        &mut limit,
    )?);
    Ok(())
}

/// Whether this process was started to measure one side.
pub(super) fn is_child() -> bool {
    env::var_os(SIDE).is_some()
}

/// Measures the side that this process was started for.
pub(super) fn measure(options: &MergeOptions) -> Result<(), BenchError> {
    let keys = keys(options.rows);
    let like = Ours::new()?;
    let peak = if env::var(SIDE).is_ok_and(|side| side == OURS) {
        peak_of(like, &keys)?
    } else {
        peak_of(Plain::with_clock(&like.path())?, &keys)?
    };
    fs::write(env::var_os(ANSWER).unwrap_or_default(), peak.to_string())?;
    Ok(())
}

fn in_a_child(side: &str) -> Result<f64, BenchError> {
    let folder = tempfile::tempdir()?;
    let answer = folder.path().join("peak");
    let status = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(SIDE, side)
        .env(ANSWER, &answer)
        // What it prints of its own run is nobody's.
        .stdout(Stdio::null())
        .status()?;
    let told = fs::read_to_string(&answer).unwrap_or_default();
    told.parse().map_err(|_| BenchError::Child(status))
}

/// The peak of resident memory while all rows are merged, above what the process had, in MiB. Only
/// Linux tells it.
fn peak_of(mut side: impl Merge, keys: &[String]) -> Result<f64, BenchError> {
    let before = resident_mib("VmRSS:");
    side.all(keys, What::Row(HELD), BATCH)?;
    Ok(resident_mib("VmHWM:") - before)
}

/// What the system tells of this process's memory under that name.
fn resident_mib(name: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let told = status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse::<f64>().ok());
    told.map_or(0.0, |kib| kib / 1024.0)
}

const CASE: &str = "peak_memory";
const BATCH: usize = 10_000;
const SIDE: &str = "ANABRANCH_BENCH_SIDE";
const ANSWER: &str = "ANABRANCH_BENCH_ANSWER";
const OURS: &str = "ours";
const LIMIT: &str = "limit";
