//! The shapes being served: which rows are in each, and what each recent transaction did to that.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use anabranch_crdt::{Delta, Millis, RowKey, TableId};
use anabranch_protocol::{Position, SubscriptionId};
use anabranch_shape::{Shape, schema::Schema};
use anabranch_store::{StoreTransaction, Visibility};

use super::{SessionId, ShapeId, Ticket, log::Log};

/// What a transaction did to a shape: which of its deltas concern it, and whether that row is in it
/// now.
#[derive(Debug)]
pub(super) struct Effect {
    pub(super) position: Position,
    pub(super) rows: Vec<(usize, bool)>,
}

/// How much is known of which rows are in a shape.
#[derive(Debug)]
pub(super) enum Members {
    /// Nothing, and nothing is being done about it.
    Unknown,
    /// They are to be read, as asked for at a position.
    Asked { ticket: Ticket, at: Position },
    /// They are being read, from a snapshot that joins the log at `from`.
    Loading {
        ticket: Ticket,
        from: Position,
        visibility: Visibility,
    },
    /// They are known, and each transaction brings them up to date that the snapshot did not see.
    Known { visibility: Visibility },
}

/// A shape that is, or is about to be, kept current.
#[derive(Debug)]
pub(super) struct ServedShape {
    pub(super) shape: Shape,
    pub(super) members: Members,
    pub(super) subscribers: BTreeSet<(SessionId, SubscriptionId)>,
    /// When the last subscriber left.
    pub(super) idle_since: Millis,
    rows: BTreeSet<RowKey>,
    effects: VecDeque<Effect>,
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

    /// The shape of this definition, if it is served.
    pub(super) fn find(&self, shape: &Shape) -> Option<ShapeId> {
        self.by_definition.get(shape).copied()
    }

    /// Serves a shape that is not served yet.
    pub(super) fn add(&mut self, shape: Shape, now: Millis) -> ShapeId {
        let id = ShapeId(self.next);
        self.next += 1;
        self.by_definition.insert(shape.clone(), id);
        self.by_table.entry(shape.table).or_default().insert(id);
        let served = ServedShape {
            shape,
            members: Members::Unknown,
            subscribers: BTreeSet::new(),
            idle_since: now,
            rows: BTreeSet::new(),
            effects: VecDeque::new(),
        };
        self.served.insert(id, served);
        id
    }

    /// Stops keeping a shape current.
    pub(super) fn remove(&mut self, id: ShapeId) -> Option<ServedShape> {
        let served = self.served.remove(&id)?;
        self.by_definition.remove(&served.shape);
        if let Some(shapes) = self.by_table.get_mut(&served.shape.table) {
            shapes.remove(&id);
        }
        Some(served)
    }

    /// The shapes without a subscriber, and since when.
    pub(super) fn idle(&self) -> impl Iterator<Item = (Millis, ShapeId)> {
        let idle = self.served.iter();
        idle.filter(|(_, served)| served.subscribers.is_empty())
            .map(|(id, served)| (served.idle_since, *id))
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
                match &served.members {
                    Members::Known { visibility } if !visibility.saw(transaction) => {}
                    _ => continue,
                }
                if let Some(inside) = served.step(schema, delta) {
                    rows.entry(*id).or_default().push((index, inside));
                }
            }
        }
        let concerned = rows.keys().copied().collect();
        for (id, rows) in rows {
            if let Some(served) = self.served.get_mut(&id) {
                let position = transaction.position;
                served.effects.push_back(Effect { position, rows });
            }
        }
        concerned
    }

    /// Forgets effects of transactions that the log no longer has.
    pub(super) fn trim(&mut self, log_start: Position) {
        for served in self.served.values_mut() {
            let gone = |effect: &Effect| effect.position <= log_start;
            let count = served.effects.partition_point(gone);
            served.effects.drain(..count);
        }
    }
}

impl ServedShape {
    /// Whether it is known which rows are in it.
    pub(super) const fn is_current(&self) -> bool {
        matches!(self.members, Members::Known { .. })
    }

    /// Whether a replica that holds it as of `position` can go on from there.
    pub(super) fn resumes_from(&self, position: Position) -> bool {
        // What the members' snapshot saw is told to nobody, and all of it lies before the fence.
        matches!(&self.members, Members::Known { visibility } if visibility.fence <= position)
    }

    /// The snapshot being read to learn its members.
    pub(super) const fn ticket(&self) -> Option<Ticket> {
        match self.members {
            Members::Asked { ticket, .. } | Members::Loading { ticket, .. } => Some(ticket),
            Members::Unknown | Members::Known { .. } => None,
        }
    }

    /// Forgets which rows are in it.
    pub(super) fn forget(&mut self) {
        self.members = Members::Unknown;
        self.rows.clear();
        self.effects.clear();
    }

    /// Notes rows of the snapshot that its members are read from.
    pub(super) fn load(&mut self, rows: Vec<Delta>) {
        self.rows.extend(rows.into_iter().map(|delta| delta.key));
    }

    /// The snapshot is complete: catches up with the log. False if that has a hole by now.
    pub(super) fn loaded(&mut self, schema: &Schema, log: &Log) -> bool {
        let Members::Loading {
            from, visibility, ..
        } = &self.members
        else {
            return false;
        };
        let (from, visibility) = (*from, visibility.clone());
        if from < log.start() {
            return false;
        }
        for entry in log.between(from, Position(u64::MAX)) {
            if visibility.saw(entry) {
                continue;
            }
            let mut rows = Vec::new();
            for (index, delta) in entry.deltas.iter().enumerate() {
                if delta.table == self.shape.table {
                    let inside = self.step(schema, delta);
                    rows.extend(inside.map(|inside| (index, inside)));
                }
            }
            if !rows.is_empty() {
                let position = entry.position;
                self.effects.push_back(Effect { position, rows });
            }
        }
        self.members = Members::Known { visibility };
        true
    }

    /// The first transaction after `position` that did something to it.
    pub(super) fn next_after(&self, position: Position) -> Option<&Effect> {
        let index = self
            .effects
            .partition_point(|effect| effect.position <= position);
        self.effects.get(index)
    }

    /// What the transaction at `position` did to it.
    pub(super) fn effect_at(&self, position: Position) -> Option<&Effect> {
        let index = self
            .effects
            .binary_search_by_key(&position, |effect| effect.position)
            .ok()?;
        self.effects.get(index)
    }

    /// Whether the row is in the shape now; `None` if it neither is nor was.
    fn step(&mut self, schema: &Schema, delta: &Delta) -> Option<bool> {
        let table = schema.table(delta.table)?;
        if self.shape.contains(&delta.key, &delta.state, table) {
            self.rows.insert(delta.key.clone());
            Some(true)
        } else {
            self.rows.remove(&delta.key).then_some(false)
        }
    }
}
