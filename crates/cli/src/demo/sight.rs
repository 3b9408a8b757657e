//! What each side saw of a contested row before, while apart and in the end, and why it ended so. The
//! reasons are read off the stamps and existence entries; none is known in advance.

use std::cmp::Ordering;

use anabranch_crdt::{ColumnId, Life, ReplicaId, RowState, Stamp, Value};
use anabranch_shape::schema::Table;

use super::{
    Stage,
    plan::{Contest, Plan, Side},
    verify,
};
use crate::{
    failure::Failure,
    print::{literal, time_of_day},
};

/// What was seen of one contested row.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    pub(super) contest: Contest,
    table: Table,
    before: RowState,
    /// What each side held while apart, in the order of [`Side::ALL`].
    apart: Vec<Option<RowState>>,
    pub(super) after: Option<RowState>,
    /// Who Ann and Bob are.
    editors: [ReplicaId; 2],
}

/// What one side did to one field of the row, or to the row itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) field: String,
    pub(super) side: &'static str,
    pub(super) did: String,
    pub(super) at: String,
    pub(super) verdict: String,
}

impl Sight {
    /// Looks at the contested rows before anybody writes.
    pub(super) async fn before(plan: &Plan, stage: &mut Stage) -> Result<Vec<Self>, Failure> {
        let editors = [
            stage.editors[0].with(|r| Ok(r.id()))?,
            stage.editors[1].with(|r| Ok(r.id()))?,
        ];
        let mut sights = Vec::new();
        for contest in &plan.contests {
            let name = &contest.table;
            let table = stage.schema.table_named(name).cloned();
            let table = table.ok_or_else(|| Failure::new(format!("there is no table {name}")))?;
            let held =
                stage.editors[0].with(|replica| Ok(replica.row_state(name, &contest.key)?))?;
            sights.push(Self {
                contest: contest.clone(),
                table,
                before: held.unwrap_or_default(),
                apart: Vec::new(),
                after: None,
                editors,
            });
        }
        Ok(sights)
    }

    /// Looks at what each side holds while apart.
    pub(super) async fn look_on_each_side(&mut self, stage: &mut Stage) -> Result<(), Failure> {
        let (name, key) = (&self.contest.table, &self.contest.key);
        for editor in &mut stage.editors {
            let held = editor.with(|replica| Ok(replica.row_state(name, key)?))?;
            self.apart
                .push(held.filter(|state| state.existence().is_present()));
        }
        self.apart
            .push(verify::stored_row(stage, &self.table, key).await?);
        Ok(())
    }

    /// Looks at what everybody holds in the end.
    pub(super) async fn look_at_the_end(&mut self, stage: &Stage) -> Result<(), Failure> {
        self.after = verify::stored_row(stage, &self.table, &self.contest.key).await?;
        Ok(())
    }

    /// What each side did, and what became of it.
    pub(super) fn findings(&self) -> Vec<Finding> {
        let columns = self.contest.columns.iter();
        let mut findings: Vec<Finding> = columns
            .flat_map(|column| self.findings_on_column(column))
            .collect();
        findings.extend(self.findings_on_existence());
        findings
    }

    fn sides(&self) -> impl Iterator<Item = (Side, Option<&RowState>)> {
        Side::ALL
            .into_iter()
            .zip(self.apart.iter().map(Option::as_ref))
    }

    fn findings_on_column(&self, name: &str) -> Vec<Finding> {
        let Some(column) = self.table.column_named(name).map(|column| column.id) else {
            return Vec::new();
        };
        let stamp_in = |state: &RowState| state.clock().register(column);
        let before = stamp_in(&self.before);
        let after = self.after.as_ref().and_then(stamp_in);
        let writes = self.sides().filter_map(|(side, state)| {
            let state = state?;
            let stamp = stamp_in(state).filter(|stamp| Some(*stamp) > before)?;
            Some((side, stamp, state.value(column)?.clone()))
        });
        let writes: Vec<(Side, Stamp, Value)> = writes.collect();
        let alone = writes.len() == 1;
        let newest = writes.iter().map(|(_, stamp, _)| *stamp).max();
        let verdict = |stamp: Stamp| match Some(stamp).cmp(&after) {
            Ordering::Equal if alone => "stands: nobody else wrote it".to_owned(),
            Ordering::Equal => "stands: the newest stamp".to_owned(),
            Ordering::Less if Some(stamp) == newest => self.as_stored(column),
            Ordering::Less => "gives way to a newer stamp".to_owned(),
            Ordering::Greater => LOST.to_owned(),
        };
        let finding = |(side, stamp, value): &(Side, Stamp, Value)| Finding {
            field: name.to_owned(),
            side: side.name(),
            did: literal(value),
            at: time_of_day(stamp.hlc.millis()),
            verdict: verdict(*stamp),
        };
        writes.iter().map(finding).collect()
    }

    /// The newest write stands, and yet has a newer stamp: the store has put the value into its own form,
    /// as Postgres does with `jsonb`, and shared that.
    fn as_stored(&self, column: ColumnId) -> String {
        let stored = self.after.as_ref().and_then(|state| state.value(column));
        let stored = stored.map_or_else(|| "nothing".to_owned(), literal);
        format!("stands, as the store writes it: {stored}")
    }

    fn findings_on_existence(&self) -> Vec<Finding> {
        if self.sides().all(|(_, state)| state.is_some()) {
            return Vec::new();
        }
        let is_present = self.after.is_some();
        let sides = self.sides().filter_map(|(side, state)| {
            let (did, at, verdict) = match state {
                None if is_present => {
                    ("deleted", String::new(), "did not know of the writes below")
                }
                None => (
                    "deleted",
                    String::new(),
                    "stands: nobody else wrote the row",
                ),
                Some(state) => {
                    let stamp = self.addition_by(side, state)?;
                    let verdict = if self.survives(stamp) {
                        "stands: no delete had seen it, and add wins"
                    } else {
                        "is deleted"
                    };
                    ("added or kept", time_of_day(stamp.hlc.millis()), verdict)
                }
            };
            let deleted = did == "deleted";
            let finding = Finding {
                field: "the row".to_owned(),
                side: side.name(),
                did: did.to_owned(),
                at,
                verdict: verdict.to_owned(),
            };
            Some((!deleted, finding))
        });
        let mut findings: Vec<(bool, Finding)> = sides.chain(self.revivals(is_present)).collect();
        findings.sort_by_key(|(is_addition, _)| *is_addition);
        findings.into_iter().map(|(_, finding)| finding).collect()
    }

    /// Additions in the end that were in no side's own row: made for a row that refers to this one.
    fn revivals(&self, is_present: bool) -> impl Iterator<Item = (bool, Finding)> {
        let entries = self
            .after
            .iter()
            .flat_map(|state| state.existence().entries());
        let known = |stamp: Stamp| {
            self.sides().any(|(side, state)| {
                state.is_some_and(|state| self.addition_by(side, state) == Some(stamp))
            })
        };
        let unknown = entries.filter(move |entry| {
            let fresh = !self.before.existence().entries().contains(entry);
            is_present && fresh && entry.life == Life::Live && !known(entry.stamp)
        });
        unknown.map(|entry| {
            let finding = Finding {
                field: "the row".to_owned(),
                side: self.name_of(entry.stamp.replica),
                did: "kept for a row that refers to it".to_owned(),
                at: time_of_day(entry.stamp.hlc.millis()),
                verdict: "stands: no delete had seen it, and add wins".to_owned(),
            };
            (true, finding)
        })
    }

    /// The side's own addition of the row since they parted.
    fn addition_by(&self, side: Side, state: &RowState) -> Option<Stamp> {
        let entries = state.existence().entries().iter();
        let own = entries.filter(|entry| entry.stamp.replica == self.id_of(side));
        own.filter(|entry| entry.life == Life::Live && !self.was_known(entry.stamp))
            .map(|entry| entry.stamp)
            .next()
    }

    fn was_known(&self, stamp: Stamp) -> bool {
        let before = self.before.existence().entries();
        before.iter().any(|entry| entry.stamp == stamp)
    }

    fn survives(&self, stamp: Stamp) -> bool {
        let entries = self
            .after
            .iter()
            .flat_map(|state| state.existence().entries());
        entries
            .into_iter()
            .any(|entry| entry.stamp == stamp && entry.life == Life::Live)
    }

    const fn id_of(&self, side: Side) -> ReplicaId {
        match side {
            Side::Ann => self.editors[0],
            Side::Bob => self.editors[1],
            Side::Program => ReplicaId::SERVER,
        }
    }

    fn name_of(&self, replica: ReplicaId) -> &'static str {
        let side = Side::ALL
            .into_iter()
            .find(|side| self.id_of(*side) == replica);
        side.map_or("another", Side::name)
    }

    /// What the row breaks of the rules of merging, if anything: the newest stamp of a field stands, and
    /// a row that somebody wrote while apart is there.
    pub(super) fn broken_rule(&self) -> Option<String> {
        let lost = self
            .findings()
            .into_iter()
            .find(|finding| finding.verdict == LOST);
        let row = || format!("{} {:?}", self.contest.table, self.contest.key);
        if let Some(lost) = lost {
            return Some(format!(
                "{}: {}'s write of {} is lost",
                row(),
                lost.side,
                lost.field
            ));
        }
        let written = self
            .sides()
            .any(|(side, state)| state.is_some_and(|s| self.addition_by(side, s).is_some()));
        (written && self.after.is_none()).then(|| format!("{}: written, but gone", row()))
    }
}

/// What must never become of a write.
const LOST: &str = "is lost";
