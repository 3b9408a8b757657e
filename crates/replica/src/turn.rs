//! One SQLite transaction of the engine: clock, sealing and eviction, as everything else needs
//! them.
//!
//! What must agree with the file (the clock, the next number) is read from it at the start of each
//! turn and never kept across turns, since another process may write to the same file.

use std::collections::{BTreeMap, BTreeSet};

use anabranch_crdt::{
    Delta, Hlc, HlcClock, HlcError, Millis, ReplicaId, RowClock, RowKey, RowState, Stamp, TableId,
};
use anabranch_protocol::{LocalTransaction, Seq, SubscriptionSet};
use rusqlite::Transaction;

use crate::{
    Event, Origin, ReplicaError,
    account::identity,
    incoming::told,
    incoming::unknown,
    numbers::{Numbers, Stored},
    outbox,
    outbox::pending::PendingIndex,
    tables::{
        Clocks, Held, Incoming, Outcome, RowChange, TableSql, Tables, is_waiting, key, meta, seal,
        unpack_key,
    },
    watch::changes,
    watch::changes::Carried,
};

/// A turn under way.
pub(crate) struct Turn<'a> {
    /// The open transaction.
    pub(crate) tx: &'a Transaction<'a>,
    /// The replicated tables.
    pub(crate) tables: &'a Tables,
    /// Which rows wait for an outcome.
    pub(crate) pending: &'a mut PendingIndex,
    /// This replica.
    pub(crate) replica: ReplicaId,
    /// The wall clock, uncorrected.
    pub(crate) now: Millis,
    /// What the turn has made of the numbers so far.
    pub(crate) numbers: Numbers,
    /// What to tell once it is committed.
    pub(crate) events: Vec<Event>,
    stored: Stored,
    /// The tables it changed, with how often they have been changed now.
    pub(crate) counted: Vec<(TableId, i64)>,
}

/// Whether a transaction that is too large, or one too many, is an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bounds {
    /// It is: the application can be told.
    Enforced {
        /// How many transactions may wait.
        transactions_max: u64,
    },
    /// It is not: another program has committed it already.
    Waived,
}

impl<'a> Turn<'a> {
    /// Begins a turn in `tx`.
    pub(crate) fn begin(
        tx: &'a Transaction<'a>,
        tables: &'a Tables,
        pending: &'a mut PendingIndex,
        now: Millis,
    ) -> Result<Self, ReplicaError> {
        let (numbers, stored) = Numbers::read(tx)?;
        let replica = identity::replica(tx)?;
        let replica = replica.ok_or_else(|| identity::damaged("has none"))?;
        Ok(Self {
            tx,
            tables,
            pending,
            replica,
            now,
            numbers,
            events: Vec::new(),
            stored,
            counted: Vec::new(),
        })
    }

    /// Writes back what the turn changed; to be called before the commit.
    pub(crate) fn finish(&mut self) -> Result<(), ReplicaError> {
        self.numbers.write(self.tx, self.stored)?;
        let changed: BTreeSet<TableId> = self.events.iter().flat_map(Event::tables).collect();
        for table in changed {
            if !self.counted.iter().any(|(counted, _)| *counted == table) {
                let count = changes::count(self.tx, table)?;
                self.counted.push((table, count));
            }
        }
        Ok(())
    }

    /// The time by the service's clock.
    pub(crate) fn corrected_now(&self) -> Millis {
        Millis(
            self.now
                .0
                .saturating_add_signed(self.numbers.clock_offset_ms),
        )
    }

    /// Takes note of what the service has told or accepted.
    pub(crate) fn observe(&mut self, seen: Hlc) {
        self.numbers.hlc = self.numbers.hlc.max(seen);
        self.numbers.shared_hlc = self.numbers.shared_hlc.max(seen);
    }

    pub(crate) fn stamp(&mut self) -> Result<Stamp, HlcError> {
        let mut clock = HlcClock::resume(self.numbers.hlc);
        self.numbers.hlc = clock.tick(self.corrected_now())?;
        Ok(Stamp::new(self.numbers.hlc, self.replica))
    }

    /// The number of the next local transaction, which is then taken.
    pub(crate) const fn next_seq(&mut self) -> Seq {
        let seq = self.numbers.next_seq;
        self.numbers.next_seq = seq.saturating_add(1);
        Seq(seq.unsigned_abs())
    }

    /// The number that the next local transaction would get.
    pub(crate) const fn first_unused(&self) -> i64 {
        self.numbers.next_seq
    }

    /// Whether the store knows of more transactions of this replica than the file does.
    pub(crate) const fn is_outrun(&self, merged_through: Seq) -> bool {
        self.numbers.next_seq.unsigned_abs() <= merged_through.0
    }

    /// Seals whatever was captured since the last time into one transaction; its number, unless
    /// there was nothing or it cancelled out.
    pub(crate) fn seal(&mut self, bounds: Bounds) -> Result<Option<Seq>, ReplicaError> {
        if !is_waiting(self.tx)? {
            return Ok(None);
        }
        let stamp = self.stamp()?;
        self.pending.refresh(self.tx, &self.numbers)?;
        let pending = &*self.pending;
        let clock_of = |table, packed: &[u8]| pending.clock(table, packed);
        let sealed = seal(self.tx, self.tables, stamp, Clocks::Pending(&clock_of))?;
        if sealed.deltas.is_empty() {
            return Ok(None);
        }
        let carried = self.count_local(&sealed.changes)?;
        let seq = self.next_seq();
        let transaction = LocalTransaction {
            seq,
            stamp,
            deltas: sealed.deltas,
            inserts: sealed.inserts,
            replaces: 0,
        };
        match bounds {
            Bounds::Enforced { transactions_max } => {
                let pending = self.numbers.waiting().saturating_sub(1);
                outbox::append(
                    self.tx,
                    &transaction,
                    Some(&carried),
                    pending,
                    transactions_max,
                )?;
            }
            Bounds::Waived => outbox::append_unbounded(self.tx, &transaction, &carried)?,
        }
        self.pending
            .appended(&transaction, sealed.packed, &self.numbers);
        self.events
            .extend(Event::rows(Origin::Local, sealed.changes));
        self.events.push(Event::Sealed(seq));
        Ok(Some(seq))
    }

    /// Counts what a local transaction changes; the counts that are to lie beside it.
    fn count_local(&mut self, made: &[RowChange]) -> Result<Carried, ReplicaError> {
        let tables: BTreeSet<TableId> = made.iter().map(|change| change.table).collect();
        let (carried, counted) = changes::count_local(self.tx, tables)?;
        self.counted.extend(counted);
        Ok(carried)
    }

    /// Takes a transaction out of the outbox, `accepted` or refused; `None` if it is not there.
    pub(crate) fn take(
        &mut self,
        seq: Seq,
        accepted: bool,
    ) -> Result<Option<LocalTransaction>, ReplicaError> {
        let taken = outbox::remove(self.tx, seq)?;
        if let Some(transaction) = &taken {
            self.numbers.settled = self.numbers.settled.saturating_add(1);
            let deltas = &transaction.deltas;
            self.pending.taken(deltas, accepted, &self.numbers);
        }
        Ok(taken)
    }

    /// How many transactions wait in the outbox.
    pub(crate) const fn waiting(&self) -> u64 {
        self.numbers.waiting()
    }

    /// Forgets what was not sent, and what was refused.
    pub(crate) fn empty_outbox(&mut self) -> Result<(), ReplicaError> {
        outbox::clear(self.tx)?;
        self.numbers.settled = self.numbers.next_seq.saturating_sub(1);
        self.numbers.outbox_rewritten();
        Ok(())
    }

    /// What is held of a row, settled and pending.
    pub(crate) fn held(
        &mut self,
        table: &TableSql,
        packed: &[u8],
    ) -> Result<Option<Held>, ReplicaError> {
        self.pending.refresh(self.tx, &self.numbers)?;
        let held = table.held(self.tx, packed)?;
        Ok(Held::with_pending(
            held,
            self.pending.clock(table.id(), packed),
        ))
    }

    /// Merges a delta into a row, under what is pending on it.
    pub(crate) fn merge_row(
        &mut self,
        table: &TableSql,
        key: &RowKey,
        state: &RowState,
    ) -> Result<Outcome, ReplicaError> {
        self.pending.refresh(self.tx, &self.numbers)?;
        let packed = &key::pack(key);
        let row = Incoming {
            key,
            packed,
            state,
            pending: self.pending.clock(table.id(), packed),
        };
        let outcomes = table.merge_batch(self.tx, &[row], |_, held| held)?;
        Ok(outcomes.into_iter().next().unwrap_or_default())
    }

    /// Takes note of what the service told of a row, if local writes are pending on it.
    pub(crate) fn note_told(
        &mut self,
        table: &TableSql,
        key: &RowKey,
        packed: &[u8],
        state: &RowState,
    ) -> Result<(), ReplicaError> {
        if self.numbers.waiting() == 0 {
            return Ok(());
        }
        if self.is_pending(table, packed)? {
            self.note_merged_over(table, key, packed, state)?;
            told::note(self.tx, (table.id(), key, packed), state)?;
        }
        Ok(())
    }

    /// Forgets what was told of rows that no local write is pending on any more.
    pub(crate) fn forget_told(&mut self, deltas: &[Delta]) -> Result<(), ReplicaError> {
        if !told::is_any(self.tx)? {
            return Ok(());
        }
        for delta in deltas {
            let packed = key::pack(&delta.key);
            self.pending.refresh(self.tx, &self.numbers)?;
            if !self.pending.contains(delta.table, &packed) {
                told::forget(self.tx, delta.table, &packed)?;
            }
        }
        Ok(())
    }

    /// Whether a waiting transaction touches the row.
    pub(crate) fn is_pending(
        &mut self,
        table: &TableSql,
        packed: &[u8],
    ) -> Result<bool, ReplicaError> {
        self.pending.refresh(self.tx, &self.numbers)?;
        Ok(self.pending.contains(table.id(), packed))
    }

    /// The whole state of a row; `None` if nothing is known of it.
    pub(crate) fn row_state(
        &mut self,
        table: &TableSql,
        key: &RowKey,
    ) -> Result<Option<RowState>, ReplicaError> {
        let held = self.held(table, &key::pack(key))?;
        let state = held.map(|held| table.state_of(self.tx, key, &held.clock));
        Ok(state.transpose()?)
    }

    /// The whole state of every known row of a table, in the order of packed keys.
    pub(crate) fn row_states(
        &mut self,
        table: &TableSql,
    ) -> Result<Vec<(RowKey, RowState)>, ReplicaError> {
        self.pending.refresh(self.tx, &self.numbers)?;
        let mut clocks: BTreeMap<Vec<u8>, RowClock> = BTreeMap::new();
        table.each_held(self.tx, |packed, held| {
            clocks.insert(packed, held.clock);
            Ok(())
        })?;
        for (packed, pending) in self.pending.rows_of(table.id()) {
            clocks.entry(packed.to_vec()).or_default().join(pending);
        }
        let mut out = Vec::with_capacity(clocks.len());
        for (packed, clock) in clocks {
            let key = unpack_key(&packed)?;
            let state = table.state_of(self.tx, &key, &clock)?;
            out.push((key, state));
        }
        Ok(out)
    }

    /// Lets go of a row that no shape holds and no local write waits on.
    pub(crate) fn evict(&mut self, table: &TableSql, key: &RowKey) -> Result<(), ReplicaError> {
        let packed = key::pack(key);
        let held = table.held(self.tx, &packed)?;
        table.evict(self.tx, key)?;
        unknown::forget(self.tx, table.id(), &packed)?;
        if held.is_some_and(|held| held.clock.existence.is_present()) {
            self.changes_removed(table, key);
        }
        Ok(())
    }

    fn changes_removed(&mut self, table: &TableSql, key: &RowKey) {
        let change = RowChange::of(table.id(), key, (true, false), Vec::new());
        self.note(change.into_iter().collect());
    }

    /// Adds changes to what the turn will tell.
    pub(crate) fn note(&mut self, changes: Vec<RowChange>) {
        match self.events.last_mut() {
            Some(last) if last.is_remote() => last.absorb(changes),
            _ => self.events.extend(Event::rows(Origin::Remote, changes)),
        }
    }

    /// Lets go of every row in no shape, unless a local write waits on it.
    pub(crate) fn sweep(&mut self) -> Result<(), ReplicaError> {
        let tables = self.tables;
        for table in tables.iter() {
            for packed in table.keys_in(self.tx, SubscriptionSet::EMPTY)? {
                if !self.is_pending(table, &packed)? {
                    self.evict(table, &unpack_key(&packed)?)?;
                }
            }
        }
        meta::write(self.tx, "sweep_due", 0)?;
        Ok(())
    }

    /// Lets go of the row if nothing holds it: now if `settled`, else at the next sweep, since a
    /// subscription that is behind may be about to claim it.
    pub(crate) fn release(
        &mut self,
        table: &TableSql,
        key: &RowKey,
        settled: bool,
    ) -> Result<(), ReplicaError> {
        let packed = key::pack(key);
        let Some(held) = table.held(self.tx, &packed)? else {
            return Ok(());
        };
        if !held.shapes.is_empty() || self.is_pending(table, &packed)? {
            return Ok(());
        }
        if settled {
            self.evict(table, key)
        } else {
            Ok(meta::write(self.tx, "sweep_due", 1)?)
        }
    }

    /// The table that an application calls `name`.
    pub(crate) fn table_named(&self, name: &str) -> Result<&'a TableSql, ReplicaError> {
        let table = self.tables.schema().table_named(name);
        let table = table.and_then(|table| self.tables.get(table.id));
        table.ok_or_else(|| ReplicaError::NoTable(name.to_owned()))
    }

    /// The table numbered `id`; `None`, and a word in the log, if this file does not have it.
    pub(crate) fn table(&self, id: TableId) -> Option<&'a TableSql> {
        let table = self.tables.get(id);
        if table.is_none() {
            tracing::warn!(table = id.0, "rows of a table that is not in the schema");
        }
        table
    }
}

/// The newest clock reading in a delta.
pub(crate) fn newest<'d>(states: impl IntoIterator<Item = &'d RowState>) -> Hlc {
    let readings = states.into_iter().map(|state| state.clock().newest());
    readings.max().unwrap_or(Hlc::ZERO)
}
