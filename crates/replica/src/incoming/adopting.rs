//! A new schema of the store, adopted while local writes may be waiting.
//!
//! Nothing waiting is taken out or changed: whether a transaction still fits is the store's to say,
//! which refuses what touches a table or column that is gone (`UnknownSchema`) or a value that the
//! column's new type does not take (`InvalidValue`), with what it holds instead. The refused
//! transaction is then withdrawn and kept like any other refused one; those before and after it go
//! their way in their order, and nobody waits.

use anabranch_protocol::codec::encode_schema;
use anabranch_shape::schema::Schema;

use crate::{
    Event, ReplicaError,
    incoming::told,
    tables::{Rules, Tables, audit, drop_all, layout, meta},
    turn::Turn,
};

impl Turn<'_> {
    /// Brings the file to a newer schema. The tables this turn knows are then out of date.
    pub(crate) fn adopt(&mut self, schema: &Schema) -> Result<(), ReplicaError> {
        if schema == self.tables.schema() {
            return Ok(());
        }
        drop_all(self.tx)?;
        layout::migrate(self.tx, self.tables.schema(), schema)?;
        meta::write(self.tx, "schema", encode_schema(schema)?)?;
        let tables = Tables::new(schema.clone());
        // In this transaction, so that no other program finds the tables without triggers.
        audit(self.tx, &tables, Rules::NotNull)?;
        self.retype(&tables)?;
        self.merge_unknown(&tables)?;
        self.events.push(Event::SchemaAdopted {
            version: schema.version,
        });
        Ok(())
    }

    /// Columns whose type has changed: the store has rewritten their values and tells them anew.
    /// Waiting writes stay on top: what they say lies in the outbox.
    fn retype(&self, tables: &Tables) -> Result<(), ReplicaError> {
        for table in tables.iter() {
            let Some(held) = self.tables.get(table.id()) else {
                continue;
            };
            let columns = table.retyped(&held.table);
            if columns.is_empty() {
                continue;
            }
            table.forget_registers(self.tx, &columns)?;
            told::forget_columns(self.tx, table.id(), &columns)?;
        }
        Ok(())
    }
}
