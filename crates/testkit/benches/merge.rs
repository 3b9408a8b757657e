//! The merge benchmark as a table: `cargo bench -p anabranch-testkit --bench merge -- ROWS ROUNDS
//! CASE..`, where everything after the dashes may be left out.
#![allow(missing_docs)]

use anabranch_testkit::bench::{BenchError, MergeOptions, merge};

fn main() -> Result<(), BenchError> {
    // Cargo adds flags of its own; its test run only wants to know that it works.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_test = arguments.iter().any(|argument| argument == "--test");
    let (rows, rounds) = if is_test { (500, 1) } else { (100_000, 5) };
    let mut numbers = arguments
        .iter()
        .filter_map(|argument| argument.parse().ok());
    let is_case =
        |argument: &&String| !argument.starts_with('-') && argument.parse::<usize>().is_err();
    let options = MergeOptions {
        rows: numbers.next().unwrap_or(rows),
        rounds: numbers.next().unwrap_or(rounds),
        cases: arguments.iter().filter(is_case).cloned().collect(),
    };
    merge(&options, |figure| {
        println!(
            "{:18} ours {:>14.1}  limit {:>14.1}  ratio {:>6.2}  {}",
            figure.case,
            figure.ours,
            figure.limit,
            figure.ratio(),
            figure.unit
        );
    })
}
