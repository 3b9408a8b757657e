//! Merging into SQLite: rows that are new, newer, older, partial, deleted, written by many.

use std::time::Duration;

use super::{
    BenchError, Figure, MergeOptions, compare, rate,
    rows::{HELD, What, keys, ordered_keys, shuffled},
    sides::{Merge, Ours, Plain},
};

/// One case: what is there, what comes, in batches of how many rows.
struct Case {
    name: &'static str,
    held: Held,
    incoming: What,
    size: usize,
    /// One in so many rows comes in: small batches are slow, and a part of the rows tells as much.
    part: usize,
}

/// What the table holds before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    Nothing,
    /// Nothing, and keys come in their order.
    NothingOrdered,
    Rows,
    /// Rows that ten replicas have written.
    TenWriters,
}

const CASES: [Case; 11] = [
    case("fresh", Held::Nothing, What::Row(HELD)),
    case("fresh_ordered", Held::NothingOrdered, What::Row(HELD)),
    Case {
        size: 100,
        part: 5,
        ..case("fresh_100", Held::Nothing, What::Row(HELD))
    },
    Case {
        size: 1,
        part: 50,
        ..case("fresh_1", Held::Nothing, What::Row(HELD))
    },
    case("all_win", Held::Rows, What::Row(HELD + 1)),
    Case {
        size: 100,
        part: 5,
        ..case("all_win_100", Held::Rows, What::Row(HELD + 1))
    },
    case("all_lose", Held::Rows, What::Row(HELD - 1)),
    case("half", Held::Rows, What::Half(HELD - 1, HELD + 1)),
    case("single_column", Held::Rows, What::Column(HELD + 1)),
    case("deletes", Held::Rows, What::Delete(HELD)),
    case("ten_writers", Held::TenWriters, What::Row(HELD + 100)),
];

const fn case(name: &'static str, held: Held, incoming: What) -> Case {
    Case {
        name,
        held,
        incoming,
        size: BATCH,
        part: 1,
    }
}

/// Measures every case.
pub(super) fn cases(
    options: &MergeOptions,
    tell: &mut impl FnMut(Figure),
) -> Result<(), BenchError> {
    growth(options, tell)?;
    let random = keys(options.rows);
    let ordered = ordered_keys(options.rows);
    for case in CASES.iter().filter(|case| options.wants(case.name)) {
        let held = match case.held {
            Held::NothingOrdered => &ordered,
            _ => &random,
        };
        let incoming = match case.held {
            Held::Nothing | Held::NothingOrdered => held.clone(),
            Held::Rows | Held::TenWriters => shuffled(held),
        };
        let count = (options.rows / case.part).max(1);
        let incoming = incoming.get(..count).unwrap_or(&incoming);
        let mut ours = || Ok(rate(count, case.run(Ours::new()?, held, incoming)?));
        let mut limit = || {
            let plain = Plain::with_clock(&Ours::new()?.path())?;
            Ok(rate(count, case.run(plain, held, incoming)?))
        };
        tell(compare(
            options.rounds,
            case.name,
            "rows/s",
            &mut ours,
            &mut limit,
        )?);
    }
    Ok(())
}

/// The engine's rate in a case.
pub(super) fn ours(name: &str, rows: usize) -> Result<f64, BenchError> {
    let Some(case) = CASES.iter().find(|case| case.name == name) else {
        return Ok(f64::NAN);
    };
    let held = keys(rows);
    let incoming = match case.held {
        Held::Nothing => held.clone(),
        _ => shuffled(&held),
    };
    Ok(rate(rows, case.run(Ours::new()?, &held, &incoming)?))
}

/// Keys in their order into a table that gets ten times as large, beside one that does not: whether
/// the rate holds.
fn growth(options: &MergeOptions, tell: &mut impl FnMut(Figure)) -> Result<(), BenchError> {
    if !options.asks_for(GROWTH) {
        return Ok(());
    }
    let case = case(GROWTH, Held::NothingOrdered, What::Row(HELD));
    let (many, few) = (ordered_keys(options.rows * 10), ordered_keys(options.rows));
    let rate_of = |keys: &[String]| Ok(rate(keys.len(), case.run(Ours::new()?, keys, keys)?));
    let (mut ours, mut limit) = (|| rate_of(&many), || rate_of(&few));
    let figure = compare(options.rounds, GROWTH, "rows/s", &mut ours, &mut limit)?;
    tell(figure);
    Ok(())
}

impl Case {
    fn run(
        &self,
        mut side: impl Merge,
        held: &[String],
        incoming: &[String],
    ) -> Result<Duration, BenchError> {
        match self.held {
            Held::Nothing | Held::NothingOrdered => {}
            Held::Rows => {
                side.all(held, What::Row(HELD), BATCH)?;
            }
            Held::TenWriters => {
                side.all(held, What::Row(HELD), BATCH)?;
                for writer in 1..=9 {
                    side.all(held, What::Writer(writer), BATCH)?;
                }
            }
        }
        side.all(incoming, self.incoming, self.size)
    }
}

const BATCH: usize = 10_000;
const GROWTH: &str = "growth_ordered";
