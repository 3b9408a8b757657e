//! Histories with faults, and after each of them every replica equals the store. A failing seed
//! prints the command that replays it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, missing_docs)]

use std::{env, thread};

use anabranch_testkit::sim::{Options, Report, run};

/// Histories in an ordinary test run; `ANABRANCH_SIM_SEEDS` asks for another number.
const SEEDS: u64 = 500;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap())
}

fn seeds() -> std::ops::Range<u64> {
    match number("ANABRANCH_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ANABRANCH_SIM_SEEDS").unwrap_or(SEEDS),
    }
}

fn play(seed: u64) -> Result<Report, String> {
    run(seed, &Options::swarm(seed)).map_err(|failure| {
        format!(
            "seed {seed}: {failure}\nreplay it: ANABRANCH_SIM_SEED={seed} cargo test \
             -p anabranch-testkit --test simulation every_history"
        )
    })
}

#[test]
fn every_history_ends_with_all_replicas_equal_to_the_store() {
    let workers = thread::available_parallelism().map_or(2, usize::from) as u64;
    let reports: Vec<Result<Report, String>> = thread::scope(|scope| {
        let shares: Vec<_> = (0..workers)
            .map(|worker| {
                let share = seeds().filter(move |seed| seed % workers == worker);
                scope.spawn(move || share.map(play).collect::<Vec<_>>())
            })
            .collect();
        shares
            .into_iter()
            .flat_map(|share| share.join().unwrap())
            .collect()
    });
    let (passed, failed): (Vec<_>, Vec<_>) = reports.into_iter().partition(Result::is_ok);
    let passed: Vec<Report> = passed.into_iter().flatten().collect();
    let total = |figure: fn(&Report) -> u64| passed.iter().map(figure).sum::<u64>();
    println!(
        "{} histories, {} local transactions ({} refused), {} faults, {} rows compared, {} virtual \
         minutes",
        passed.len(),
        total(|report| report.transactions),
        total(|report| report.rejected),
        total(|report| report.faults),
        total(|report| report.rows_compared),
        total(|report| report.virtual_ms) / 60_000,
    );
    let failed: Vec<String> = failed.into_iter().filter_map(Result::err).collect();
    let shown = failed
        .iter()
        .take(3)
        .cloned()
        .collect::<Vec<_>>()
        .join("\n\n");
    assert!(
        failed.is_empty(),
        "{} of the histories failed:\n{shown}",
        failed.len()
    );
    if passed.len() > 50 {
        // Histories in which nothing happens prove nothing.
        assert!(total(|report| report.faults) > passed.len() as u64);
        assert!(total(|report| report.transactions) > 10 * passed.len() as u64);
        assert!(total(|report| report.rejected) > 0);
        assert!(total(|report| report.rows_compared) > 10 * passed.len() as u64);
    }
}

#[test]
fn one_seed_is_one_run() {
    for seed in seeds().take(5) {
        assert_eq!(play(seed).unwrap(), play(seed).unwrap());
    }
}
