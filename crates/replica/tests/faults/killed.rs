//! `kill -9` at any moment, again and again, of the process that writes and merges.

use std::{env, thread, time::Duration};

use crate::{
    inspection::{goes_on, inspect},
    worker::{command, log_of, prepare},
};

/// How often in an ordinary test run; `ANABRANCH_KILLS` asks for another number.
const KILLS: u64 = 60;

/// Spreads the kills over the worker's first tenth of a second, opening the file included.
fn lifetime(round: u64) -> Duration {
    Duration::from_micros(round.wrapping_mul(7_919_777) % 100_000)
}

#[test]
fn a_killed_process_loses_nothing_it_committed() {
    let kills = env::var("ANABRANCH_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("replica.db");
    prepare(&file);
    for round in 0..kills {
        let mut worker = command(&file, &[]).spawn().unwrap();
        // Every second round it gets as far as working, the others it may be killed while it opens.
        while round % 2 == 0 && !log_of(&file).exists() {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(lifetime(round));
        worker.kill().unwrap();
        worker.wait().unwrap();
        let log = inspect(&file);
        assert!(log.failed.is_empty(), "{:?}", log.failed);
    }
    let log = inspect(&file);
    assert!(
        log.done.len() as u64 > kills / 4,
        "the workers hardly worked"
    );
    println!(
        "{kills} kills: {} transactions, {} merges",
        log.done.len(),
        log.merged
    );
    goes_on(&file);
}
