//! Observers: changes of one table or one row, told to whoever asked for them.
//!
//! Each observer has a bounded queue of its own, apart from [`Replica::take_events`], so that many
//! parts of a program can watch without taking events from each other.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use anabranch_crdt::{RowKey, TableId};

use crate::{Event, Replica, ReplicaError, events::EventQueue};

/// Hears of changes to one table or one row, by whomever, from when it was made until it is
/// dropped.
///
/// ```
/// use anabranch_replica::{Event, OpenOptions, Origin, Replica};
/// # use anabranch_crdt::{ColumnId, TableId};
/// # use anabranch_shape::schema::{Column, ColumnType, Schema, Table};
/// # let folder = tempfile::tempdir()?;
/// # let mut replica = Replica::open(folder.path().join("notes.db"), OpenOptions::system())?;
/// # let id = Column {
/// #     id: ColumnId(1), name: "id".into(), kind: ColumnType::Text, declared_type: "text".into(),
/// #     nullable: false, has_default: false, bytewise_order: true,
/// # };
/// # let table = Table {
/// #     id: TableId(1), namespace: "public".into(), name: "note".into(), columns: vec![id],
/// #     primary_key: vec![ColumnId(1)], foreign_keys: vec![],
/// # };
/// # replica.adopt_schema(Schema { version: 1, tables: vec![table] })?;
/// let notes = replica.observe_table("note")?;
/// replica.transaction(|tx| tx.execute("INSERT INTO note VALUES ('a')", []))?;
/// let told = notes.take();
/// assert!(matches!(&told[..], [Event::Rows { origin: Origin::Local, changes }] if changes.len() == 1));
/// assert!(notes.take().is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Observer(Queue);

type Queue = Arc<Mutex<EventQueue>>;

impl Observer {
    /// What has happened since the last call: [`Event::Rows`] with just the rows asked for,
    /// [`Event::Tables`] where they were too many to list, [`Event::Lagged`] where this was called
    /// too seldom.
    pub fn take(&self) -> Vec<Event> {
        lock(&self.0).take()
    }
}

/// The observers there are.
#[derive(Debug, Default)]
pub(crate) struct Observers(Vec<(Interest, Weak<Mutex<EventQueue>>)>);

#[derive(Debug)]
struct Interest {
    table: TableId,
    /// The row; any where there is none.
    key: Option<RowKey>,
}

impl Observers {
    fn add(&mut self, interest: Interest) -> Observer {
        let queue = Queue::default();
        self.0.push((interest, Arc::downgrade(&queue)));
        Observer(queue)
    }

    /// Tells each what it asked for, and forgets those that are gone.
    pub(crate) fn tell(&mut self, events: &[Event]) {
        self.0.retain(|(interest, queue)| {
            let Some(queue) = queue.upgrade() else {
                return false;
            };
            lock(&queue).extend(events.iter().filter_map(|event| interest.part_of(event)));
            true
        });
    }
}

impl Interest {
    /// What of an event is asked for.
    fn part_of(&self, event: &Event) -> Option<Event> {
        match event {
            Event::Rows { origin, changes } => {
                let wanted = changes.iter().filter(|change| {
                    let is_row = self.key.as_ref().is_none_or(|key| *key == change.key);
                    change.table == self.table && is_row
                });
                Event::rows(*origin, wanted.cloned().collect())
            }
            Event::Tables { origin, tables } => {
                tables.contains(&self.table).then(|| Event::Tables {
                    origin: *origin,
                    tables: vec![self.table],
                })
            }
            _ => None,
        }
    }
}

impl Replica {
    /// Observes a table.
    pub fn observe_table(&mut self, table: &str) -> Result<Observer, ReplicaError> {
        self.observe(table, None)
    }

    /// Observes the row of `table` with this primary key, be it there or not.
    pub fn observe_row(&mut self, table: &str, key: RowKey) -> Result<Observer, ReplicaError> {
        self.observe(table, Some(key))
    }

    fn observe(&mut self, table: &str, key: Option<RowKey>) -> Result<Observer, ReplicaError> {
        let found = self.schema().table_named(table);
        let table = found
            .ok_or_else(|| ReplicaError::NoTable(table.to_owned()))?
            .id;
        Ok(self.observers.add(Interest { table, key }))
    }
}

/// A panic elsewhere leaves a queue as good as it was.
fn lock(queue: &Mutex<EventQueue>) -> std::sync::MutexGuard<'_, EventQueue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}
