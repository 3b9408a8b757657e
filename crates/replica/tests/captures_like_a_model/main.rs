//! Random SQL by the engine's own connections and by other programs; after sealing, what was
//! captured rebuilds every table exactly, in an empty model and in another replica's file, and
//! nothing was captured of what did not happen. A failing seed prints how to replay it.
//!
//! What is not tried because it cannot be captured, or cannot happen: incremental blob writes and a
//! connection with triggers switched off go past triggers (the doctor finds the rows that came or
//! went); a foreign REPLACE that evicts a row through a UNIQUE index over nothing but expressions
//! (the doctor again); replicated columns renamed or dropped by hand, which is the store's to do; a NULL in a
//! key, since the engine's tables refuse it; text that is not UTF-8, which travels as bytes (see
//! `captures_every_kind_of_write.rs`). Tables `WITHOUT ROWID` are there where the user has rebuilt
//! one so.
#![allow(missing_docs, unreachable_pub)]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

#[path = "../common/mod.rs"]
mod common;
mod history;
mod random;
mod statements;
mod tables;
mod writers;

use std::{env, thread};

use history::History;

/// Histories in an ordinary test run; `ANABRANCH_CAPTURE_SEEDS` asks for another number.
const SEEDS: u64 = 1_000;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap())
}

fn seeds() -> std::ops::Range<u64> {
    match number("ANABRANCH_CAPTURE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ANABRANCH_CAPTURE_SEEDS").unwrap_or(SEEDS),
    }
}

/// What went wrong with a seed, if anything did.
fn play(seed: u64) -> Result<usize, String> {
    let played = std::panic::catch_unwind(|| History::new(seed).play());
    played.map_err(|panicked| {
        let said = panicked
            .downcast_ref::<String>()
            .map_or("see above", |said| said);
        format!(
            "seed {seed}: {said}\nreplay it: ANABRANCH_CAPTURE_SEED={seed} cargo test \
             -p anabranch-replica --test captures_like_a_model"
        )
    })
}

#[test]
fn what_is_captured_rebuilds_the_tables() {
    let workers = thread::available_parallelism().map_or(2, usize::from) as u64;
    let played: Vec<Result<usize, String>> = thread::scope(|scope| {
        let share = |worker| seeds().filter(move |seed| seed % workers == worker);
        let shares: Vec<_> = (0..workers)
            .map(|worker| scope.spawn(move || share(worker).map(play).collect::<Vec<_>>()))
            .collect();
        shares
            .into_iter()
            .flat_map(|share| share.join().unwrap())
            .collect()
    });
    let transactions: usize = played.iter().flatten().sum();
    println!(
        "{} histories, {transactions} transactions captured",
        played.len()
    );
    let failed: Vec<String> = played.into_iter().filter_map(Result::err).collect();
    assert!(
        failed.is_empty(),
        "{} failed\n{}",
        failed.len(),
        failed.join("\n")
    );
    assert!(
        transactions as u64 >= seeds().count() as u64,
        "next to nothing was written"
    );
}
