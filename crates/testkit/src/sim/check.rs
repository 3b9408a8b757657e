//! What must hold at the end, and the model it is held against: every admitted delta, joined in any
//! order, with nothing else clever about it.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_crdt::{Hlc, ReplicaId, RowKey, RowState, Stamp, TableId, Value};
use anabranch_protocol::{Seq, ShapeRequest};
use anabranch_shape::{Shape, schema::Schema};
use anabranch_store::{MergeOutcome, SnapshotQuery, StoreTransaction, Upload};

use super::{Failure, world::World};

/// All that the store has admitted.
#[derive(Debug, Default)]
pub(super) struct Model {
    rows: BTreeMap<(TableId, RowKey), RowState>,
    merged: BTreeSet<(ReplicaId, Seq)>,
    broken: Option<String>,
    /// What other programs have added to the counters that are added up.
    hits: i64,
}

impl Model {
    pub(super) fn merged(&mut self, uploads: &[Upload], outcomes: &[(Seq, MergeOutcome)]) {
        for (upload, (_, outcome)) in uploads.iter().zip(outcomes) {
            if *outcome != MergeOutcome::Merged {
                continue;
            }
            for seq in upload.transaction.numbers() {
                if !self.merged.insert((upload.replica, seq)) {
                    self.broken = Some(format!("{} {seq:?} was merged twice", upload.replica));
                }
            }
            for delta in &upload.transaction.deltas {
                self.join(delta.table, &delta.key, &delta.state);
            }
        }
    }

    pub(super) fn count(&mut self, hits: i64) {
        self.hits += hits;
    }

    pub(super) fn told(&mut self, transaction: &StoreTransaction) {
        for delta in &transaction.deltas {
            self.join(delta.table, &delta.key, &delta.state);
        }
    }

    /// The store has forgotten what was removed before `horizon`.
    pub(super) fn forget_removed(&mut self, horizon: Hlc) {
        self.rows
            .retain(|_, state| state.existence().is_present() || state.clock().newest() >= horizon);
    }

    fn join(&mut self, table: TableId, key: &RowKey, state: &RowState) {
        let held = self.rows.entry((table, key.clone())).or_default();
        let _ = held.merge(state);
    }
}

type Rows = BTreeMap<RowKey, RowState>;

/// Everything that must hold once all is quiet.
pub(super) fn everything(world: &mut World) -> Result<(), Failure> {
    if let Some(broken) = world.model.broken.take() {
        return Err(Failure::Broken(broken));
    }
    let schema = world.service.store.schema();
    let forgetting = world.options.forgetting > 0;
    let held = store_rows(world, &schema)?;
    sums(world, &schema, &held)?;
    let mut compared = 0;
    for (table, rows) in &held {
        for (key, state) in rows {
            let model = world.model.rows.get(&(*table, key.clone()));
            // A row that nobody has touched since the start is in no transaction.
            let model = model.map(|model| seen(model, forgetting));
            let state = seen(state, forgetting);
            if model
                .as_ref()
                .is_some_and(|model| model.to_bytes() != state.to_bytes())
            {
                let what =
                    format!("{table:?} {key:?}: the store holds {state:?}, the model {model:?}");
                return Err(Failure::Broken(what));
            }
        }
    }
    for index in 0..world.peers.len() {
        compared += replica(world, index, &schema, &held)?;
    }
    world.rows_compared = compared;
    Ok(())
}

/// The counters hold what was added in every transaction that was merged, each once, and nothing else.
fn sums(world: &World, schema: &Schema, held: &BTreeMap<TableId, Rows>) -> Result<(), Failure> {
    let Some(tally) = schema.table_named("tally") else {
        return Ok(());
    };
    let hits = tally.column_named("hits").map(|column| column.id);
    let rows = held.get(&tally.id).into_iter().flatten();
    let found = rows.map(|(_, state)| match hits.and_then(|hits| state.value(hits)) {
        Some(Value::Integer(hits)) => *hits,
        _ => 0,
    });
    let added = world.hits.iter();
    let merged = added.filter(|(transaction, _)| world.model.merged.contains(transaction));
    let expected = merged.map(|(_, hits)| hits).sum::<i64>() + world.model.hits;
    let found = found.sum::<i64>();
    if found == expected {
        return Ok(());
    }
    let what = format!("{expected} were added to the counters, which hold {found}");
    Err(Failure::Broken(what))
}

fn store_rows(world: &mut World, schema: &Schema) -> Result<BTreeMap<TableId, Rows>, Failure> {
    let mut all = BTreeMap::new();
    for table in &schema.tables {
        let query = SnapshotQuery {
            table: table.id,
            filter: None,
            columns: table.registers().map(|column| column.id).collect(),
        };
        let read = world.service.store.snapshot(&query);
        let (_, rows) = read.map_err(|error| Failure::broken("no snapshot", error))?;
        let rows = rows.into_iter().map(|delta| (delta.key, delta.state));
        all.insert(table.id, rows.collect());
    }
    Ok(all)
}

/// A replica holds exactly the rows of its shapes, each in exactly the store's state.
fn replica(
    world: &mut World,
    index: usize,
    schema: &Schema,
    held: &BTreeMap<TableId, Rows>,
) -> Result<u64, Failure> {
    let forgetting = world.options.forgetting > 0;
    let Some(peer) = world.peers.get_mut(index) else {
        return Ok(0);
    };
    let replica = peer.replica()?;
    let failed = |error| Failure::broken("the replica cannot be read", error);
    // Retained rows are nobody's to keep current; what is left without them must be exact.
    replica.release_retained().map_err(failed)?;
    let mut expected: BTreeMap<TableId, Rows> = BTreeMap::new();
    for subscription in replica.subscriptions().map_err(failed)? {
        let shape = define(schema, &subscription.shape)?;
        let Some(table) = schema.table(shape.table) else {
            continue;
        };
        for (key, state) in held.get(&shape.table).into_iter().flatten() {
            if shape.contains(key, state, table) {
                let rows = expected.entry(shape.table).or_default();
                let row = rows.entry(key.clone()).or_default();
                let _ = row.merge(&shape.project(state));
            }
        }
    }
    let mut compared = 0;
    for table in &schema.tables {
        let agreed = |rows: Rows| -> Rows {
            let rows = rows.into_iter();
            rows.map(|(key, state)| (key, seen(&state, forgetting)))
                .collect()
        };
        let wanted = agreed(expected.remove(&table.id).unwrap_or_default());
        let found = replica.row_states(&table.local_name()).map_err(failed)?;
        let found = agreed(found.into_iter().collect());
        compared += wanted.len() as u64;
        if wanted != found {
            let what = format!(
                "replica {index}, {}: {}",
                table.name,
                difference(&wanted, &found)
            );
            return Err(Failure::Broken(what));
        }
    }
    Ok(compared)
}

/// A row's state as far as everybody must agree on it: all of it, unless the store has forgotten removed
/// rows. Whoever was away meanwhile then still knows of additions from before, which nobody else does
/// and which change nothing: a delete takes a row out of all shapes, whatever is known of it.
fn seen(state: &RowState, forgetting: bool) -> RowState {
    if !forgetting {
        return state.clone();
    }
    let mut seen = RowState::new();
    for (column, stamp, value) in state.cells() {
        seen.set(column, stamp, value.clone());
    }
    if state.existence().is_present() {
        seen.existence_mut().add(Stamp::GENESIS);
    }
    seen
}

fn difference(wanted: &Rows, found: &Rows) -> String {
    let keys: BTreeSet<&RowKey> = wanted.keys().chain(found.keys()).collect();
    let differing = keys
        .into_iter()
        .filter(|key| wanted.get(*key) != found.get(*key));
    let lines = differing.map(|key| {
        format!(
            "\n  {key:?}\n    store   {:?}\n    replica {:?}",
            wanted.get(key),
            found.get(key)
        )
    });
    lines.take(3).collect()
}

fn define(schema: &Schema, request: &ShapeRequest) -> Result<Shape, Failure> {
    let ShapeRequest::Spelled {
        table,
        filter,
        columns,
        parameters,
    } = request
    else {
        return Err(Failure::Broken("the workload names no shapes".to_owned()));
    };
    Shape::define(schema, table, filter.as_deref(), columns, parameters)
        .map_err(|error| Failure::broken("no shape", error))
}
