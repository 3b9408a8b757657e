//! What engines of other processes have changed in this file: noticed by the count that every engine
//! keeps of each table's changes. Which rows they were, only the other process was told.

use std::collections::HashMap;

use anabranch_crdt::TableId;
use rusqlite::Connection;

use crate::{Event, Origin, ReplicaError, watch::changes};

/// The counts as this process knows them.
#[derive(Debug, Default)]
pub(crate) struct Counts(HashMap<TableId, i64>);

impl Counts {
    /// The counts as they are in the file.
    pub(crate) fn read(conn: &Connection) -> Result<Self, ReplicaError> {
        Ok(Self(changes::all(conn)?))
    }

    /// Takes note of changes that this process has counted; what others have counted in between.
    pub(crate) fn advance(&mut self, counted: &[(TableId, i64)]) -> Option<Event> {
        let mut missed = Vec::new();
        for (table, count) in counted {
            let before = self.0.insert(*table, *count).unwrap_or(0);
            if before.wrapping_add(1) != *count {
                missed.push(*table);
            }
        }
        told(missed)
    }

    /// Looks at the file; what others have counted since the last time.
    pub(crate) fn look(&mut self, conn: &Connection) -> Result<Option<Event>, ReplicaError> {
        let now = changes::all(conn)?;
        let changed = now.iter().filter(|(table, count)| {
            let known = self.0.get(table).copied().unwrap_or(0);
            known != **count
        });
        let missed = changed.map(|(table, _)| *table).collect();
        self.0 = now;
        Ok(told(missed))
    }
}

fn told(mut tables: Vec<TableId>) -> Option<Event> {
    tables.sort_unstable();
    let origin = Origin::Elsewhere;
    (!tables.is_empty()).then_some(Event::Tables { origin, tables })
}
