//! Observers: changes of one table or one row, or all that happens, told to whoever asked.
//!
//! Each observer has a bounded queue of its own, apart from [`Replica::take_events`], so that many
//! parts of a program can watch without taking events from each other.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use anabranch_crdt::{RowKey, TableId};

use crate::{Event, Replica, ReplicaError, watch::events::EventQueue};

/// Hears of changes to one table or one row, or of all that happens, by whomever, from when it was made until it is
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
/// #     nullable: false, has_default: false, bytewise_order: true, merge: Default::default(),
/// # };
/// # let table = Table {
/// #     id: TableId(1), namespace: "public".into(), name: "note".into(), columns: vec![id],
/// #     primary_key: vec![ColumnId(1)], foreign_keys: vec![], delete: Default::default(),
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
enum Interest {
    /// Everything that happens.
    All,
    Table(TableId),
    Row(TableId, RowKey),
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
        let (table, key) = match self {
            Self::All => return Some(event.clone()),
            Self::Table(table) => (*table, None),
            Self::Row(table, key) => (*table, Some(key)),
        };
        match event {
            Event::Rows { origin, changes } => {
                let wanted = changes.iter().filter(|change| {
                    change.table == table && key.is_none_or(|key| *key == change.key)
                });
                Event::rows(*origin, wanted.cloned().collect())
            }
            Event::Tables { origin, tables } => tables.contains(&table).then(|| Event::Tables {
                origin: *origin,
                tables: vec![table],
            }),
            _ => None,
        }
    }
}

impl Replica {
    /// Observes all that happens, as [`Replica::take_events`] tells it.
    pub fn observe(&mut self) -> Observer {
        self.observers.add(Interest::All)
    }

    /// Observes a table.
    pub fn observe_table(&mut self, table: &str) -> Result<Observer, ReplicaError> {
        let table = self.number_of(table)?;
        Ok(self.observers.add(Interest::Table(table)))
    }

    /// Observes the row of `table` with this primary key, be it there or not.
    pub fn observe_row(&mut self, table: &str, key: RowKey) -> Result<Observer, ReplicaError> {
        let table = self.number_of(table)?;
        Ok(self.observers.add(Interest::Row(table, key)))
    }

    fn number_of(&self, table: &str) -> Result<TableId, ReplicaError> {
        let found = self.schema().table_named(table);
        let found = found.ok_or_else(|| ReplicaError::NoTable(table.to_owned()))?;
        Ok(found.id)
    }
}

/// A panic elsewhere leaves a queue as good as it was.
fn lock(queue: &Mutex<EventQueue>) -> std::sync::MutexGuard<'_, EventQueue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}
