//! What the demo prints: the story, what became of each conflict and why, and the verdict.

use std::{path::Path, time::Instant};

use serde_json::{Map, Value as Json, json};

use super::{
    Stage,
    plan::{Plan, Side},
    sight::{Finding, Sight},
    verify,
    world::World,
};
use crate::{failure::Failure, print::count};

/// How the demo ended.
pub(super) struct Report {
    store: &'static str,
    description: String,
    tables: usize,
    rows: usize,
    pushed: usize,
    /// What the store refused, with its reason.
    refused: Vec<String>,
    sights: Vec<Sight>,
    checks: Vec<Check>,
}

/// Something that must hold in the end, and why it does not, where it does not.
struct Check {
    what: &'static str,
    failures: Vec<String>,
}

impl Report {
    /// Looks at everything once all sides have been given the time to agree.
    pub(super) fn of(
        stage: &mut Stage,
        plan: &Plan,
        sights: Vec<Sight>,
        pushed: usize,
        differences: Vec<String>,
    ) -> Result<Self, Failure> {
        let mut refused = Vec::new();
        let mut pending = Vec::new();
        for editor in &mut stage.editors {
            let name = editor.name;
            let left = editor.pending()?;
            if left > 0 {
                pending.push(format!("{name} has {} pending", count(left, "transaction")));
            }
            let rejected = editor.with(|replica| Ok(replica.rejected_list()?))?;
            refused.extend(rejected.into_iter().map(|rejected| {
                format!(
                    "{name}'s transaction {}: {}",
                    rejected.transaction.seq.0, rejected.reason
                )
            }));
        }
        let expected = plan.refusals.filter(|expected| *expected != refused.len());
        let unexpected = expected.map(|expected| {
            format!(
                "{} refused, {expected} expected",
                count(refused.len(), "transaction")
            )
        });
        let broken = sights.iter().filter_map(Sight::broken_rule).collect();
        let checks = vec![
            Check {
                what: "both replicas hold the store's rows and clocks, byte for byte",
                failures: differences,
            },
            Check {
                what: "the newest write of every contested field stands, and add wins",
                failures: broken,
            },
            Check {
                what: "nothing is pending",
                failures: pending,
            },
            Check {
                what: "what the store's rules forbid was refused, withdrawn and kept; nothing else",
                failures: unexpected.into_iter().collect(),
            },
        ];
        Ok(Self {
            store: stage.world.kind(),
            description: stage.world.description(),
            tables: stage.schema.tables.len(),
            rows: verify::count_rows(stage)?,
            pushed,
            refused,
            sights,
            checks,
        })
    }

    /// The report of a demo that failed at its very beginning.
    pub(super) fn apart(world: &World, tables: usize, differences: Vec<String>) -> Self {
        Self {
            store: world.kind(),
            description: world.description(),
            tables,
            rows: 0,
            pushed: 0,
            refused: Vec::new(),
            sights: Vec::new(),
            checks: vec![Check {
                what: "the first sync brings both replicas in step",
                failures: differences,
            }],
        }
    }

    pub(super) fn converged(&self) -> bool {
        self.checks.iter().all(|check| check.failures.is_empty())
    }

    /// Tells the story.
    pub(super) fn tell(&self, plan: &Plan, url: &str) {
        println!(
            "store     {}, {}",
            self.description,
            count(self.tables, "table")
        );
        println!("service   {url}");
        println!("replicas  Ann and Bob, two SQLite files, each in step over a WebSocket");
        println!("\nEverybody is apart and writes:\n");
        for side in [Side::Ann, Side::Program, Side::Bob] {
            let edits: Vec<_> = plan.edits.iter().filter(|edit| edit.side == side).collect();
            for edit in edits.iter().take(EDITS_SHOWN_MAX) {
                println!("  {:<4} {}", side.name(), edit.about);
            }
            if let Some(more) = edits.len().checked_sub(EDITS_SHOWN_MAX + 1) {
                println!("  {:<4} ... and {} more", side.name(), more + 1);
            }
        }
        println!("\nEverybody is back, and this is what became of it:");
        for (number, sight) in (1_usize..).zip(self.sights.iter().take(CONTESTS_SHOWN_MAX)) {
            tell_sight(number, sight);
        }
        if let Some(more) = self.sights.len().checked_sub(CONTESTS_SHOWN_MAX + 1) {
            println!("\n... and {} more", more + 1);
        }
        if !self.refused.is_empty() {
            println!(
                "\nRefused by the store's own rules, withdrawn from its replica and kept there:\n"
            );
            self.refused
                .iter()
                .for_each(|refused| println!("  {refused}"));
        }
    }

    /// Prints the verdict.
    pub(super) fn print(&self, watch: &Stopwatch, kept: Option<&Path>, json: bool) {
        if json {
            println!("{}", self.to_json(watch));
            return;
        }
        println!();
        for check in &self.checks {
            let mark = if check.failures.is_empty() {
                "ok"
            } else {
                "NO"
            };
            println!("  [{mark}] {}", check.what);
            check
                .failures
                .iter()
                .for_each(|failure| println!("       {failure}"));
        }
        let verdict = if self.converged() {
            "converged"
        } else {
            "NOT CONVERGED"
        };
        let (rows, pushed) = (count(self.rows, "row"), count(self.pushed, "transaction"));
        println!(
            "\n{verdict}: {rows} the same on every side, {pushed} pushed, {}",
            watch.summary()
        );
        if let Some(folder) = kept {
            let file = folder.join("ann.db");
            println!("look into a replica: anabranch inspect {}", file.display());
        }
    }

    fn to_json(&self, watch: &Stopwatch) -> Json {
        let failures = self.checks.iter().flat_map(|check| &check.failures);
        json!({
            "converged": self.converged(),
            "store": self.store,
            "replicas": 2,
            "tables": self.tables,
            "rows": self.rows,
            "transactions_pushed": self.pushed,
            "rejected": self.refused.len(),
            "refusals": self.refused,
            "contested_rows": self.sights.len(),
            "failures": failures.collect::<Vec<_>>(),
            "durations_ms": watch.to_json(),
        })
    }
}

fn tell_sight(number: usize, sight: &Sight) {
    let key = crate::commands::inspect::key_text(&sight.contest.key);
    println!("\n{number}. {}", sight.contest.title);
    println!("   {} {key}", sight.contest.table);
    let findings = sight.findings();
    let width = |part: fn(&Finding) -> &str| {
        let widths = findings.iter().map(|finding| part(finding).chars().count());
        widths.max().unwrap_or(0).min(WIDTH_MAX)
    };
    let (field, did) = (
        width(|finding| &finding.field),
        width(|finding| &finding.did),
    );
    for finding in &findings {
        println!(
            "     {:<field$}  {:<4} {:<did$}  {:<12}  {}",
            finding.field,
            finding.side,
            shortened(&finding.did),
            finding.at,
            finding.verdict
        );
    }
    let end = if sight.after.is_some() {
        "the row is there"
    } else {
        "the row is gone"
    };
    println!("     everywhere: {end}");
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= WIDTH_MAX {
        return text.to_owned();
    }
    text.chars()
        .take(WIDTH_MAX - 3)
        .chain("...".chars())
        .collect()
}

/// How long each part of the demo takes.
pub(super) struct Stopwatch {
    begin: Instant,
    last: Instant,
    laps: Vec<(&'static str, u128)>,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        let now = Instant::now();
        Self {
            begin: now,
            last: now,
            laps: Vec::new(),
        }
    }

    /// Ends a part.
    pub(super) fn lap(&mut self, name: &'static str) {
        self.laps.push((name, self.last.elapsed().as_millis()));
        self.last = Instant::now();
    }

    fn summary(&self) -> String {
        format!("{:.1} s in all", self.begin.elapsed().as_secs_f64())
    }

    fn to_json(&self) -> Json {
        let total = ("total", self.begin.elapsed().as_millis());
        let laps = self.laps.iter().copied().chain([total]);
        let entry = |(name, ms): (&str, u128)| (name.to_owned(), json!(u64::try_from(ms).ok()));
        Json::Object(laps.map(entry).collect::<Map<_, _>>())
    }
}

/// A story is read; beyond this it is a list.
const EDITS_SHOWN_MAX: usize = 12;
const CONTESTS_SHOWN_MAX: usize = 12;
const WIDTH_MAX: usize = 60;
