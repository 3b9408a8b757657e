//! The replica: one file, the two connections to it, and every operation as one transaction.

use std::{fmt, path::Path};

use anabranch_crdt::{Delta, Hlc, Millis, ReplicaId, RowKey, RowState, TableId};
use anabranch_protocol::{
    Change, Cursor, LocalTransaction, RejectCode, Seq, Subscription, SubscriptionId,
    SubscriptionSet, codec::decode_schema,
};
use anabranch_shape::schema::Schema;
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::{
    Event, OpenError, OpenOptions, RejectedTransaction, ReplicaError, Status, TransactionError,
    TransactionState,
    account::identity,
    account::principal::{self, Principal},
    doctor,
    file::{Purpose, connect, establish},
    numbers::Numbers,
    outbox,
    outbox::pending::PendingIndex,
    subscriptions,
    subscriptions::retained::Retention,
    tables::{Rules, Tables, audit, first, is_waiting, meta},
    turn::{Bounds, Turn},
    watch::elsewhere::Counts,
    watch::events::EventQueue,
    watch::observe::Observers,
};

/// One SQLite file and the engine over it.
///
/// Any program may read and write the file's ordinary tables; what it writes is captured and sealed
/// at the engine's next turn. [`Replica::transaction`] seals with the transaction itself.
pub struct Replica {
    application: Connection,
    merging: Connection,
    options: OpenOptions,
    id: ReplicaId,
    tables: Tables,
    /// SQLite's own schema counter when `tables` was read and the triggers audited.
    schema_cookie: Option<i64>,
    /// SQLite's counter of other connections' commits, when the merging connection last looked.
    data_version: Option<i64>,
    pending: PendingIndex,
    events: EventQueue,
    counts: Counts,
    pub(crate) observers: Observers,
}

/// What a local transaction returned, and the number it was sealed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed<T> {
    /// What the application's function returned.
    pub value: T,
    /// The number, unless the transaction wrote nothing that is replicated.
    pub seq: Option<Seq>,
}

/// What the service says of itself and of this replica when a session begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The service's clock.
    pub server_time: Millis,
    /// How far ahead of it stamps may be.
    pub drift_max_ms: u64,
    /// This replica's last transaction that the store has an outcome for.
    pub merged_through: Seq,
    /// The store remembers no row that was removed before this.
    pub horizon: Hlc,
}

/// Whether a session may go on after the welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeted {
    /// It may.
    Known,
    /// It must be begun again: the replica has a new identity now.
    Anew,
}

impl Replica {
    /// Opens the replica in the file at `path`, making a new one if there is none.
    pub fn open(path: impl AsRef<Path>, mut options: OpenOptions) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let application = connect(path, Purpose::Application, &options)?;
        let id = establish(&application, path, || (options.new_id)())?;
        principal::admit(&application, options.principal)?;
        let merging = connect(path, Purpose::Merge, &options)?;
        let counts = Counts::read(&merging)?;
        let mut replica = Self {
            application,
            merging,
            options,
            id,
            tables: Tables::default(),
            schema_cookie: None,
            data_version: None,
            pending: PendingIndex::default(),
            events: EventQueue::default(),
            counts,
            observers: Observers::default(),
        };
        replica.identify(path)?;
        replica.seal()?;
        let retention = replica.retention();
        replica.turn(|turn| turn.trim_retained(retention))?;
        if let Principal::Is(owner) = replica.options.principal {
            replica.bind(owner)?;
        }
        Ok(replica)
    }

    /// Makes sure that no other file has this identity, before anything is written under it.
    fn identify(&mut self, path: &Path) -> Result<(), ReplicaError> {
        let Some(mark) = identity::mark_of(path) else {
            return Ok(());
        };
        // Made beforehand, since a turn cannot reach the options; a name unused costs nothing.
        let id = self.new_id();
        self.turn(|turn| turn.identify(&mark, id))
    }

    /// Who this replica is.
    pub const fn id(&self) -> ReplicaId {
        self.id
    }

    /// The schema it holds; version 0 and no tables before the first welcome.
    pub const fn schema(&self) -> &Schema {
        self.tables.schema()
    }

    /// The application's connection, for reading. Writing with it is allowed: the writes are
    /// captured and sealed at the engine's next turn.
    pub const fn connection(&self) -> &Connection {
        &self.application
    }

    /// A connection of the caller's own for reading, on which nothing can be written: readers wait
    /// for nobody and nobody waits for them. One for each thread.
    ///
    /// ```
    /// use anabranch_replica::{OpenOptions, Replica};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// let replica = Replica::open(folder.path().join("notes.db"), OpenOptions::system())?;
    /// let reader = replica.reader()?;
    /// std::thread::spawn(move || {
    ///     reader.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))
    /// });
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reader(&self) -> Result<Connection, OpenError> {
        let path = self.application.path().unwrap_or_default();
        let reader = connect(Path::new(path), Purpose::Application, &self.options)?;
        let only = reader.pragma_update(None, "query_only", true);
        only.map_err(ReplicaError::from)?;
        Ok(reader)
    }

    /// Runs `work` in one transaction and seals what it wrote before the commit. If it returns an
    /// error, or cannot be sealed or committed, nothing is written.
    pub fn transaction<T, E>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, E>,
    ) -> Result<Committed<T>, TransactionError<E>> {
        let transactions_max = self.options.outbox_transactions_max;
        let served = self.options.principal;
        self.turn_on(Purpose::Application, |turn| {
            principal::still_admits(turn.tx, served)?;
            turn.seal(Bounds::Waived)?;
            let value = work(turn.tx).map_err(TransactionError::Work)?;
            if turn.tx.is_autocommit() {
                return Err(TransactionError::Ended);
            }
            let seq = turn.seal(Bounds::Enforced { transactions_max })?;
            Ok(Committed { value, seq })
        })
    }

    /// Seals what other connections and programs have written; the number, unless there was
    /// nothing.
    pub fn seal(&mut self) -> Result<Option<Seq>, ReplicaError> {
        self.turn(|turn| turn.seal(Bounds::Waived))
    }

    /// The same, for calling often: a look at a counter if nobody has written since the last call.
    /// Tells with [`Origin::Elsewhere`] what engines of other processes have changed.
    ///
    /// [`Origin::Elsewhere`]: crate::Origin::Elsewhere
    pub fn seal_foreign_writes(&mut self) -> Result<Option<Seq>, ReplicaError> {
        let version = first(&self.merging, "PRAGMA data_version")?;
        if version == self.data_version {
            return Ok(None);
        }
        let sealed = if is_waiting(&self.merging)? {
            self.seal()?
        } else {
            None
        };
        if let Some(event) = self.counts.look(&self.merging)? {
            self.tell(event);
        }
        self.data_version = version;
        Ok(sealed)
    }

    /// Begins a session with the service: corrects the clock by the service's, stamps again what
    /// was never shared and would be too far ahead or behind what the store remembers, and adopts the
    /// schema if it is new.
    ///
    /// Where the store knows more transactions of this replica than the file does, the file was
    /// restored from a copy: it gets a new identity, and the session must end.
    pub fn welcome(
        &mut self,
        welcome: &Welcome,
        schema: Option<&Schema>,
    ) -> Result<Greeted, ReplicaError> {
        let new_id = self.new_id();
        let retention = self.retention();
        let served = self.options.principal;
        let greeted = self.turn(|turn| {
            principal::still_admits(turn.tx, served)?;
            turn.seal(Bounds::Waived)?;
            if turn.is_outrun(welcome.merged_through) {
                turn.become_another(new_id)?;
                return Ok(Greeted::Anew);
            }
            turn.welcome(welcome, schema)?;
            turn.trim_retained(retention)?;
            Ok(Greeted::Known)
        })?;
        self.refresh_tables()?;
        Ok(greeted)
    }

    /// Brings the file's tables to a newer schema. Changes only ever add; what the store has
    /// dropped stays here, out of replication.
    pub fn adopt_schema(&mut self, schema: Schema) -> Result<(), ReplicaError> {
        self.turn(|turn| {
            turn.seal(Bounds::Waived)?;
            turn.adopt(&schema)
        })?;
        self.refresh_tables()
    }

    /// Puts rows of a snapshot aside until [`Replica::finish_snapshot`].
    pub fn stage_snapshot(
        &mut self,
        id: SubscriptionId,
        rows: Vec<Delta>,
        rows_estimate: u64,
    ) -> Result<(), ReplicaError> {
        let served = self.options.principal;
        self.turn(|turn| {
            principal::still_admits(turn.tx, served)?;
            turn.stage(id, &rows, rows_estimate)
        })
    }

    /// Shows a complete snapshot at once: merges its rows, lets go of rows that did not come again.
    pub fn finish_snapshot(
        &mut self,
        id: SubscriptionId,
        cursor: Cursor,
    ) -> Result<(), ReplicaError> {
        self.synced(|turn| turn.finish_snapshot(id, cursor))
    }

    /// Drops what has come of a snapshot; it starts again.
    pub fn reset_snapshot(&mut self, id: SubscriptionId) -> Result<(), ReplicaError> {
        self.turn(|turn| Ok(subscriptions::unstage(turn.tx, id)?))
    }

    /// Merges a transaction of the store, moves the cursors of the `live` subscriptions, takes the
    /// accepted transactions out of the outbox, and lets go of rows that nothing holds any more.
    pub fn merge_transaction(
        &mut self,
        cursor: Cursor,
        live: SubscriptionSet,
        accepted: Vec<Seq>,
        changes: Vec<Change>,
    ) -> Result<(), ReplicaError> {
        self.synced(|turn| turn.merge_transaction(cursor, live, &accepted, changes))
    }

    /// An own transaction had been merged before: the answer to a resent one.
    pub fn accepted(&mut self, seq: Seq) -> Result<(), ReplicaError> {
        self.synced(|turn| turn.acknowledge(seq))
    }

    /// Withdraws a refused transaction; `rows` is what the store holds of the refused rows in the
    /// refused columns.
    pub fn rejected(
        &mut self,
        seq: Seq,
        code: RejectCode,
        reason: String,
        rows: Vec<Delta>,
    ) -> Result<(), ReplicaError> {
        self.synced(|turn| turn.reject(seq, code, reason, rows))
    }

    /// Notes that the service refused a subscription. It is asked again in the next session.
    pub fn subscription_refused(
        &mut self,
        id: SubscriptionId,
        message: String,
    ) -> Result<(), ReplicaError> {
        self.turn(|turn| {
            subscriptions::refuse(turn.tx, Some(id), Some(&message))?;
            turn.events.push(Event::SubscriptionRefused { id, message });
            Ok(())
        })
    }

    /// The subscriptions, with where this replica stands in each.
    pub fn subscriptions(&self) -> Result<Vec<Subscription>, ReplicaError> {
        let all = subscriptions::all(&self.merging)?;
        Ok(all.into_iter().map(|status| status.subscription).collect())
    }

    /// The transactions after `after` that wait for an outcome, in their order: about `bytes_max`
    /// bytes of them, at least one if there is any.
    pub fn pending(
        &self,
        after: Seq,
        bytes_max: usize,
    ) -> Result<Vec<LocalTransaction>, ReplicaError> {
        self.still_admits()?;
        let mut out = Vec::new();
        let mut total = 0_usize;
        outbox::each_after(&self.merging, after, |transaction, bytes| {
            total = total.saturating_add(bytes);
            if !out.is_empty() && total > bytes_max {
                return Ok(false);
            }
            out.push(transaction);
            Ok(true)
        })?;
        Ok(out)
    }

    /// The first number that waits for an outcome, be its transaction squashed into a later one; or
    /// the number that the next one will get.
    pub fn first_pending(&self) -> Result<Seq, ReplicaError> {
        let tx = self.merging.unchecked_transaction()?;
        let (numbers, _) = Numbers::read(&tx)?;
        let next = Seq(numbers.next_seq.unsigned_abs());
        Ok(outbox::first_seq(&tx)?.unwrap_or(next))
    }

    /// The transactions that the store refused, whole, until discarded.
    pub fn rejected_list(&self) -> Result<Vec<RejectedTransaction>, ReplicaError> {
        outbox::rejected(&self.merging)
    }

    /// Discards a rejected transaction; whether there was one.
    pub fn discard_rejected(&mut self, seq: Seq) -> Result<bool, ReplicaError> {
        self.turn(|turn| outbox::discard(turn.tx, seq))
    }

    /// What has become of a local transaction, for a mark beside what it wrote.
    pub fn transaction_state(&self, seq: Seq) -> Result<TransactionState, ReplicaError> {
        let tx = self.merging.unchecked_transaction()?;
        outbox::state(&tx, seq)
    }

    /// Copies the file as it is now to a new one at `path`, while it is in use. Opened, the copy is
    /// a replica of its own: it gets a new identity.
    pub fn backup_to(&mut self, path: impl AsRef<Path>) -> Result<(), ReplicaError> {
        self.seal()?;
        let name = path.as_ref().to_string_lossy();
        self.merging.execute("VACUUM INTO ?1", [&*name])?;
        // Whatever inode it has: the original's could be free one day.
        let copy = Connection::open(path)?;
        meta::write(&copy, "file", "a backup")?;
        Ok(())
    }

    /// Adds an event that the replica's driver has to tell, such as [`Event::Online`].
    pub fn tell(&mut self, event: Event) {
        self.observers.tell(std::slice::from_ref(&event));
        self.events.extend([event]);
    }

    /// What has happened since the last call, in its order.
    pub fn take_events(&mut self) -> Vec<Event> {
        self.events.take()
    }

    /// The whole state of a row, present or removed; `None` if nothing is known of it.
    pub fn row_state(
        &mut self,
        table: &str,
        key: &RowKey,
    ) -> Result<Option<RowState>, ReplicaError> {
        self.turn(|turn| {
            turn.seal(Bounds::Waived)?;
            turn.row_state(turn.table_named(table)?, key)
        })
    }

    /// The whole state of every known row of a table, present or removed, in the order of packed
    /// keys.
    pub fn row_states(&mut self, table: &str) -> Result<Vec<(RowKey, RowState)>, ReplicaError> {
        self.turn(|turn| {
            turn.seal(Bounds::Waived)?;
            turn.row_states(turn.table_named(table)?)
        })
    }

    /// A new identity.
    pub(crate) fn new_id(&mut self) -> ReplicaId {
        (self.options.new_id)()
    }

    /// From now on it is open for this one.
    pub(crate) const fn serve(&mut self, principal: Principal) {
        self.options.principal = principal;
    }

    /// What becomes of the rows of a shape that was unsubscribed from.
    pub(crate) const fn retention(&self) -> Retention {
        Retention {
            rows_max: self.options.retained_rows_max,
            age_max_ms: self.options.retained_age_max_ms,
        }
    }

    /// For whom it is open, and a connection to look who that is.
    pub(crate) const fn served(&self) -> (&Connection, Principal) {
        (&self.merging, self.options.principal)
    }

    /// Takes what was deleted off the disk as well, as far as other programs let it.
    pub(crate) fn wipe(&self) {
        let wiped = self.merging.execute_batch("VACUUM");
        let wiped = wiped.and_then(|()| {
            let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
            self.merging.query_row(sql, [], |row| row.get::<_, i64>(0))
        });
        if !matches!(wiped, Ok(0)) {
            tracing::warn!(?wiped, "deleted rows are still in the file's free space");
        }
    }

    pub(crate) const fn outbox_transactions_max(&self) -> u64 {
        self.options.outbox_transactions_max
    }

    /// How the replica is doing.
    pub fn status(&self) -> Result<Status, ReplicaError> {
        let tx = self.merging.unchecked_transaction()?;
        let (numbers, _) = Numbers::read(&tx)?;
        let rejected = first::<i64>(&tx, "SELECT count(*) FROM anabranch_rejected")?;
        Ok(Status {
            schema_version: self.tables.schema().version,
            pending: numbers.waiting(),
            rejected: rejected.unwrap_or(0).unsigned_abs(),
            last_synced: meta::read::<i64>(&tx, "last_synced_ms")?
                .map(|at| Millis(at.unsigned_abs())),
            clock_offset_ms: numbers.clock_offset_ms,
            subscriptions: subscriptions::all(&tx)?,
        })
    }

    /// A turn that brings news of the service: seals first, so that what is captured is not taken
    /// for what is merged, and notes the time.
    fn synced<T>(
        &mut self,
        work: impl FnOnce(&mut Turn<'_>) -> Result<T, ReplicaError>,
    ) -> Result<T, ReplicaError> {
        let served = self.options.principal;
        self.turn(|turn| {
            principal::still_admits(turn.tx, served)?;
            turn.seal(Bounds::Waived)?;
            let value = work(turn).map_err(|error| match error {
                ReplicaError::Tables(error) => error.while_merging().into(),
                other => other,
            })?;
            let now = i64::try_from(turn.corrected_now().0).unwrap_or(i64::MAX);
            meta::write(turn.tx, "last_synced_ms", now)?;
            Ok(value)
        })
    }

    pub(crate) fn turn<T>(
        &mut self,
        work: impl FnOnce(&mut Turn<'_>) -> Result<T, ReplicaError>,
    ) -> Result<T, ReplicaError> {
        self.turn_on(Purpose::Merge, work)
    }

    /// Runs `work` in one transaction. Events are told and the index stands only if it commits.
    fn turn_on<T, E: From<ReplicaError>>(
        &mut self,
        purpose: Purpose,
        work: impl FnOnce(&mut Turn<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let now = (self.options.now)();
        let result = self.run(purpose, now, work);
        match result {
            Ok(done) => {
                let Done {
                    value,
                    events,
                    counted,
                } = done;
                let missed = self.counts.advance(&counted);
                missed
                    .into_iter()
                    .chain(events)
                    .for_each(|event| self.tell(event));
                Ok(value)
            }
            Err(error) => {
                self.pending.invalidate();
                self.schema_cookie = None;
                Err(error)
            }
        }
    }

    fn run<T, E: From<ReplicaError>>(
        &mut self,
        purpose: Purpose,
        now: Millis,
        work: impl FnOnce(&mut Turn<'_>) -> Result<T, E>,
    ) -> Result<Done<T>, E> {
        let conn = match purpose {
            Purpose::Application => &self.application,
            Purpose::Merge => &self.merging,
        };
        let tx = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)
            .map_err(ReplicaError::from)?;
        reload(&tx, &mut self.schema_cookie, &mut self.tables)?;
        let mut turn = Turn::begin(&tx, &self.tables, &mut self.pending, now)?;
        let value = work(&mut turn)?;
        turn.finish()?;
        let (id, events, counted) = (turn.replica, turn.events, turn.counted);
        tx.commit().map_err(ReplicaError::from)?;
        self.id = id;
        Ok(Done {
            value,
            events,
            counted,
        })
    }

    /// Reads the tables again and sets the triggers up, after a change of the schema.
    fn refresh_tables(&mut self) -> Result<(), ReplicaError> {
        self.turn(|_| Ok(()))
    }
}

/// What a turn came to, once it is committed.
struct Done<T> {
    value: T,
    events: Vec<Event>,
    /// The tables it changed, with how often they have been changed now.
    counted: Vec<(TableId, i64)>,
}

/// Reads the tables again and audits the triggers, if the file's schema has changed by whatever
/// hand.
fn reload(
    conn: &Connection,
    cookie: &mut Option<i64>,
    tables: &mut Tables,
) -> Result<(), ReplicaError> {
    let found = first(conn, "PRAGMA schema_version")?;
    if found == *cookie {
        return Ok(());
    }
    let schema: Option<Vec<u8>> = meta::read(conn, "schema")?;
    let schema = schema.map(|bytes| decode_schema(&bytes)).transpose()?;
    *tables = Tables::new(schema.unwrap_or_default());
    // Somebody has rebuilt a table, or given it an index through which rows are evicted.
    for id in audit(conn, tables, Rules::NotNull)? {
        if let Some(table) = tables.get(id) {
            doctor::notice(conn, table)?;
        }
    }
    *cookie = first(conn, "PRAGMA schema_version")?;
    Ok(())
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
