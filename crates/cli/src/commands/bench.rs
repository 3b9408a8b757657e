//! `anabranch bench`: measures this machine and prints the figures. What is measured, and how, is
//! the test kit's.

use anabranch_testkit::bench::{Figure, MergeOptions, merge as measure};
use serde_json::{Value as Json, json};

use crate::{args::BenchMergeArgs, failure::Failure};

/// Measures merging. Text comes figure by figure, JSON at the end.
pub(crate) fn merge(args: BenchMergeArgs, json: bool) -> Result<(), Failure> {
    let options = MergeOptions {
        rows: usize::try_from(args.rows).map_err(Failure::of)?,
        rounds: usize::try_from(args.rounds).map_err(Failure::of)?,
        cases: args.cases,
    };
    let mut results = Vec::new();
    if !json {
        println!(
            "{:18} {:>14} {:>14} {:>7}",
            "case", "ours", "limit", "ratio"
        );
    }
    measure(&options, |figure| {
        if json {
            results.push(as_json(&figure));
        } else {
            println!(
                "{:18} {:>14.1} {:>14.1} {:>7.2}  {}",
                figure.case,
                figure.ours,
                figure.limit,
                figure.ratio(),
                figure.unit
            );
        }
    })
    .map_err(Failure::of)?;
    if json {
        println!("{}", json!({ "bench": "merge", "results": results }));
    }
    Ok(())
}

fn as_json(figure: &Figure) -> Json {
    json!({
        "case": figure.case,
        "ours": figure.ours,
        "limit": figure.limit,
        "ratio": figure.ratio(),
        "unit": figure.unit,
    })
}
