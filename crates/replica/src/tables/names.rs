//! The numbers that stand for replicas in the clocks of a file, so that a stamp takes nine bytes
//! instead of 24.
//!
//! Each operation asks the file anew: a rollback takes numbers back, and another process may have
//! given some out.

use std::collections::HashMap;

use anabranch_crdt::{ReplicaId, RowClock, TableId};
use rusqlite::{Connection, OptionalExtension};

use super::TablesError;
use crate::limits::REPLICAS_MAX;

/// Packs and reads the clocks of a file, for the length of one operation.
pub(super) struct Names<'c> {
    conn: &'c Connection,
    numbers: HashMap<ReplicaId, u32>,
    replicas: HashMap<u32, ReplicaId>,
}

impl<'c> Names<'c> {
    pub(super) fn new(conn: &'c Connection) -> Self {
        Self {
            conn,
            numbers: HashMap::new(),
            replicas: HashMap::new(),
        }
    }

    /// The packed form of a clock. Replicas that the file does not know yet get a number.
    pub(super) fn pack(&mut self, clock: &RowClock) -> Result<Vec<u8>, TablesError> {
        let mut failure = None;
        let bytes = clock.encode_numbered(|replica| {
            self.number(replica).unwrap_or_else(|error| {
                failure = Some(error);
                0
            })
        });
        failure.map_or(Ok(bytes), Err)
    }

    /// Reads a packed clock of `table`.
    pub(super) fn unpack(&mut self, table: TableId, bytes: &[u8]) -> Result<RowClock, TablesError> {
        let mut failure = None;
        let clock = RowClock::decode_numbered(bytes, |number| match self.replica(number) {
            Ok(replica) => replica,
            Err(error) => {
                failure = Some(error);
                None
            }
        });
        match failure {
            Some(error) => Err(error),
            None => clock.map_err(|source| TablesError::Clock { table, source }),
        }
    }

    fn number(&mut self, replica: ReplicaId) -> Result<u32, TablesError> {
        if let Some(number) = self.numbers.get(&replica) {
            return Ok(*number);
        }
        let sql = "SELECT n FROM anabranch_replica WHERE id = ?1";
        let known: Option<u32> = self
            .conn
            .prepare_cached(sql)?
            .query_row([replica.0], |row| row.get(0))
            .optional()?;
        let number = known.map_or_else(|| self.give_out(replica), Ok)?;
        self.numbers.insert(replica, number);
        Ok(number)
    }

    fn give_out(&self, replica: ReplicaId) -> Result<u32, TablesError> {
        let sql = "INSERT INTO anabranch_replica(id) VALUES (?1) RETURNING n";
        let mut statement = self.conn.prepare_cached(sql)?;
        let number = statement.query_row([replica.0], |row| row.get(0))?;
        if number > REPLICAS_MAX {
            return Err(TablesError::TooManyReplicas);
        }
        Ok(number)
    }

    fn replica(&mut self, number: u32) -> Result<Option<ReplicaId>, TablesError> {
        if let Some(replica) = self.replicas.get(&number) {
            return Ok(Some(*replica));
        }
        let sql = "SELECT id FROM anabranch_replica WHERE n = ?1";
        let id: Option<[u8; 16]> = self
            .conn
            .prepare_cached(sql)?
            .query_row([number], |row| row.get(0))
            .optional()?;
        let replica = id.map(ReplicaId);
        if let Some(replica) = replica {
            self.replicas.insert(number, replica);
        }
        Ok(replica)
    }
}
