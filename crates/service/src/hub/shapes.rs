//! The shapes being served: which rows are in each, and what each recent transaction did to that.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use anabranch_crdt::{Delta, Millis, RowKey, TableId};
use anabranch_protocol::Position;
use anabranch_shape::{Shape, schema::Schema};
use anabranch_store::{StoreTransaction, Visibility};

use super::{ShapeId, Ticket, log::Log};

/// What a transaction did to a shape: which of its deltas concern it, and whether that row is in it
/// now.
#[derive(Debug)]
pub(super) struct Effect {
    pub(super) position: Position,
    pub(super) rows: Vec<(usize, bool)>,
}

/// A shape that is, or is about to be, kept current.
#[derive(Debug)]
pub(super) struct ServedShape {
    pub(super) shape: Shape,
    /// The snapshot that tells which rows are in it to begin with; none once that is known.
    pub(super) loading: Option<Ticket>,
    pub(super) subscribers: usize,
    pub(super) idle_since: Millis,
    members: BTreeSet<RowKey>,
    effects: VecDeque<Effect>,
    /// Effects after it are complete.
    since: Position,
}

/// All shapes being served.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    served: BTreeMap<ShapeId, ServedShape>,
    by_definition: HashMap<Shape, ShapeId>,
    by_table: BTreeMap<TableId, BTreeSet<ShapeId>>,
    next: u64,
}

impl Shapes {
    pub(super) fn get(&self, id: ShapeId) -> Option<&ServedShape> {
        self.served.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ShapeId) -> Option<&mut ServedShape> {
        self.served.get_mut(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.served.len()
    }

    /// The shape of this definition, new or not; identical definitions share one.
    pub(super) fn intern(&mut self, shape: Shape) -> ShapeId {
        if let Some(id) = self.by_definition.get(&shape) {
            return *id;
        }
        let id = ShapeId(self.next);
        self.next += 1;
        self.by_definition.insert(shape.clone(), id);
        self.by_table.entry(shape.table).or_default().insert(id);
        let served = ServedShape {
            shape,
            loading: None,
            subscribers: 0,
            idle_since: Millis(0),
            members: BTreeSet::new(),
            effects: VecDeque::new(),
            since: Position(u64::MAX),
        };
        self.served.insert(id, served);
        id
    }

    /// Stops keeping a shape current.
    pub(super) fn drop_shape(&mut self, id: ShapeId) {
        if let Some(served) = self.served.remove(&id) {
            self.by_definition.remove(&served.shape);
            if let Some(shapes) = self.by_table.get_mut(&served.shape.table) {
                shapes.remove(&id);
            }
        }
    }

    /// The shapes that have had no subscriber since before `limit`.
    pub(super) fn idle_since(&self, limit: Millis) -> Vec<ShapeId> {
        let idle = self
            .served
            .iter()
            .filter(|(_, served)| served.subscribers == 0 && served.idle_since < limit);
        idle.map(|(id, _)| *id).collect()
    }

    /// Brings every current shape up to date with a transaction; returns those it concerns.
    pub(super) fn apply(
        &mut self,
        schema: &Schema,
        transaction: &StoreTransaction,
    ) -> BTreeSet<ShapeId> {
        let mut rows: BTreeMap<ShapeId, Vec<(usize, bool)>> = BTreeMap::new();
        for (index, delta) in transaction.deltas.iter().enumerate() {
            for id in self.by_table.get(&delta.table).into_iter().flatten() {
                let Some(served) = self.served.get_mut(id) else {
                    continue;
                };
                if !served.is_current() {
                    continue;
                }
                if let Some(inside) = served.step(schema, delta) {
                    rows.entry(*id).or_default().push((index, inside));
                }
            }
        }
        let concerned = rows.keys().copied().collect();
        for (id, rows) in rows {
            if let Some(served) = self.served.get_mut(&id) {
                served.effects.push_back(Effect {
                    position: transaction.position,
                    rows,
                });
            }
        }
        concerned
    }

    /// Forgets effects of transactions that the log no longer has.
    pub(super) fn trim(&mut self, log_start: Position) {
        for served in self.served.values_mut() {
            while served
                .effects
                .front()
                .is_some_and(|effect| effect.position <= log_start)
            {
                served.effects.pop_front();
            }
        }
    }
}

impl ServedShape {
    /// Whether it is known which rows are in it.
    pub(super) fn is_current(&self) -> bool {
        self.loading.is_none() && self.since != Position(u64::MAX)
    }

    /// Whether a replica that stands at `position` can go on from there.
    pub(super) fn resumes_from(&self, position: Position) -> bool {
        self.is_current() && self.since <= position
    }

    /// Starts over: which rows are in it is to be read with `ticket`.
    pub(super) fn load_with(&mut self, ticket: Ticket) {
        self.loading = Some(ticket);
        self.members.clear();
        self.effects.clear();
        self.since = Position(u64::MAX);
    }

    /// Notes rows of the snapshot it is loaded from.
    pub(super) fn load(&mut self, rows: &[Delta]) {
        self.members
            .extend(rows.iter().map(|delta| delta.key.clone()));
    }

    /// The snapshot, which joins the log at `from`, is complete: catches up with the log.
    pub(super) fn loaded(
        &mut self,
        schema: &Schema,
        log: &Log,
        from: Position,
        visibility: &Visibility,
    ) {
        self.loading = None;
        self.since = from;
        for entry in log.between(from, Position(u64::MAX)) {
            let seen = visibility.saw(entry);
            let mut rows = Vec::new();
            for (index, delta) in entry.deltas.iter().enumerate() {
                if delta.table != self.shape.table {
                    continue;
                }
                // What the snapshot saw is in the members already. For replicas whose own snapshot
                // did not see it, the outcome is told all the same; telling it twice does no harm.
                let inside = if seen {
                    Some(self.contains(schema, delta))
                } else {
                    self.step(schema, delta)
                };
                rows.extend(inside.map(|inside| (index, inside)));
            }
            if !rows.is_empty() {
                self.effects.push_back(Effect {
                    position: entry.position,
                    rows,
                });
            }
        }
    }

    /// What the transaction at `position` did to it.
    pub(super) fn effect_at(&self, position: Position) -> Option<&Effect> {
        let index = self
            .effects
            .binary_search_by_key(&position, |effect| effect.position)
            .ok()?;
        self.effects.get(index)
    }

    fn contains(&self, schema: &Schema, delta: &Delta) -> bool {
        let table = schema.table(delta.table);
        table.is_some_and(|table| self.shape.contains(&delta.key, &delta.state, table))
    }

    /// Whether the row is in the shape now; `None` if it neither is nor was.
    fn step(&mut self, schema: &Schema, delta: &Delta) -> Option<bool> {
        if self.contains(schema, delta) {
            self.members.insert(delta.key.clone());
            Some(true)
        } else {
            self.members.remove(&delta.key).then_some(false)
        }
    }
}
