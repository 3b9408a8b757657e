//! The embedded store without threads: one connection that writes, one transaction at a time.

use std::{collections::BTreeSet, fmt, path::Path, path::PathBuf, sync::Arc};

use anabranch_crdt::{Delta, Hlc, HlcClock, Millis, ReplicaId, RowKey, Stamp, TableId};
use anabranch_protocol::{Position, Seq};
use anabranch_replica::tables::{Clocks, Tables, first, is_waiting, meta, seal};
use anabranch_shape::{rules::Rules, schema::Schema};
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::{
    MergeOutcome, SnapshotQuery, Standing, StoreError, StoreTransaction, Upload, Visibility,
};

use super::{
    catalog::{self, Unfit},
    error::sqlite,
    file::{connect, establish, load, schema_cookie},
    forget::{self, ForgetPass},
    limits::{LOG_ENTRY_BYTES, ROW_BYTES},
    log, reader, writer,
};

/// The wall clock, passed in.
pub type WallClock = Box<dyn Fn() -> Millis + Send>;

/// A store in one SQLite file, which any program may read and write with plain SQL.
///
/// What other programs write is captured by triggers and sealed as the server's writes at the next
/// call. Everything here blocks; [`EmbeddedStore`](super::EmbeddedStore) is the same for the
/// service.
pub struct EmbeddedCore {
    path: PathBuf,
    conn: Connection,
    now: WallClock,
    tables: Arc<Tables>,
    schema: Arc<Schema>,
    /// SQLite's own schema counter when `tables` was read; `None` to read them again.
    schema_cookie: Option<i64>,
    /// SQLite's counter of other connections' commits, when last looked at.
    data_version: Option<i64>,
}

/// One transaction of the store under way.
pub(super) struct Work<'a> {
    pub(super) conn: &'a Connection,
    pub(super) tables: &'a Tables,
    pub(super) now: Millis,
    hlc: Hlc,
    /// Rows removed before this may be forgotten: what is older says nothing against them any more.
    pub(super) horizon: Hlc,
    /// The rows changed so far, for the log.
    pub(super) touched: BTreeSet<(TableId, RowKey)>,
    /// The replicas' transactions merged so far.
    pub(super) origins: Vec<(ReplicaId, Seq)>,
}

impl EmbeddedCore {
    /// Takes tables of the file at `path` under replication, in which they must exist: every
    /// ordinary one, those created later too, where none is named. May be called again for more.
    pub fn install(path: &Path, tables: &[String]) -> Result<(), StoreError> {
        Self::install_with(path, tables, &Rules::new())
    }

    /// The same, with rules for the tables that they name. How a column merges is fixed when its table
    /// is taken under replication; the other rules may change.
    pub fn install_with(path: &Path, tables: &[String], rules: &Rules) -> Result<(), StoreError> {
        let conn = connect(path)?;
        let tx = Transaction::new_unchecked(&conn, TransactionBehavior::Immediate);
        let tx = tx.map_err(sqlite)?;
        establish(&tx, path)?;
        catalog::choose(&tx, tables)?;
        catalog::declare(&tx, rules)?;
        load(&tx, Unfit::Refuse)?;
        tx.commit().map_err(sqlite)
    }

    /// Opens the store in the file at `path`. A file in which nothing is installed yet is taken
    /// under replication with every table it has.
    pub fn open(path: &Path, now: WallClock) -> Result<Self, StoreError> {
        Self::open_with(path, now, &Rules::new())
    }

    /// The same, with rules as [`EmbeddedCore::install_with`] takes them.
    pub fn open_with(path: &Path, now: WallClock, rules: &Rules) -> Result<Self, StoreError> {
        let conn = connect(path)?;
        let tx = Transaction::new_unchecked(&conn, TransactionBehavior::Immediate);
        let tx = tx.map_err(sqlite)?;
        if establish(&tx, path)? {
            catalog::choose(&tx, &[])?;
        }
        catalog::declare(&tx, rules)?;
        let tables = Arc::new(load(&tx, Unfit::Refuse)?);
        tx.commit().map_err(sqlite)?;
        let schema = Arc::new(tables.schema().clone());
        let mut core = Self {
            path: path.to_owned(),
            conn,
            now,
            tables,
            schema,
            schema_cookie: None,
            data_version: None,
        };
        core.seal()?;
        Ok(core)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The schema of the replicated tables, as of the last call that read or wrote the file.
    pub fn schema(&self) -> Arc<Schema> {
        Arc::clone(&self.schema)
    }

    /// The replicated tables.
    pub(super) fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables)
    }

    /// Seals what other programs have written since the last call.
    pub fn seal(&mut self) -> Result<(), StoreError> {
        self.work(|_| Ok(()))
    }

    /// The same, for calling often: a look at a counter if nobody has written since.
    pub fn seal_foreign_writes(&mut self) -> Result<(), StoreError> {
        let version = first(&self.conn, "PRAGMA data_version")?;
        if version != self.data_version {
            self.seal()?;
            self.data_version = version;
        }
        Ok(())
    }

    /// The last position of the log, after sealing what other programs have written.
    pub fn position(&mut self) -> Result<Position, StoreError> {
        self.seal_foreign_writes()?;
        log::last(&self.conn)
    }

    /// How a replica stands with the store, after forgetting the outcomes before `first_pending`.
    pub fn greet(
        &mut self,
        replica: ReplicaId,
        first_pending: Seq,
    ) -> Result<Standing, StoreError> {
        self.work(|work| {
            log::prune_marks(work.conn, replica, first_pending)?;
            Ok(Standing {
                merged_through: log::last_mark(work.conn, replica)?,
                horizon: work.horizon,
            })
        })
    }

    /// Merges transactions, each whole or not at all; the outcomes are in their order.
    pub fn merge(&mut self, uploads: Vec<Upload>) -> Result<Vec<MergeOutcome>, StoreError> {
        if let Some(outcomes) = self.work_or_refusal(|work| writer::merge_all(work, &uploads))? {
            return Ok(outcomes);
        }
        // Something in the batch broke a rule that SQLite checks at the end only: one at a time.
        let mut outcomes = Vec::with_capacity(uploads.len());
        for upload in &uploads {
            let alone = std::slice::from_ref(upload);
            let merged = self.work_or_refusal(|work| writer::merge_all(work, alone))?;
            outcomes.extend(match merged {
                Some(merged) => merged,
                None => vec![self.work(|work| writer::refuse_at_commit(work, upload))?],
            });
        }
        Ok(outcomes)
    }

    /// Forgets the rows that were removed before `horizon`; how many. For tests and small files: the
    /// service goes step by step.
    ///
    /// When a row was removed is known from the first such pass that finds it so.
    pub fn forget_removed(&mut self, horizon: Hlc) -> Result<u64, StoreError> {
        let mut pass = ForgetPass::new(horizon);
        while self.forget_step(&mut pass)? {}
        Ok(pass.forgotten)
    }

    /// Takes one step of a pass, in a transaction of its own; whether there is more to do.
    pub(super) fn forget_step(&mut self, pass: &mut ForgetPass) -> Result<bool, StoreError> {
        self.work(|work| forget::step(work, pass))
    }

    /// The rows of a shape and what they are as of, read whole. For tests and small tables; the
    /// service reads in chunks.
    pub fn snapshot(
        &mut self,
        query: &SnapshotQuery,
    ) -> Result<(Visibility, Vec<Delta>), StoreError> {
        let mut reader = reader::Reader::begin(self)?;
        let mut rows = Vec::new();
        reader.each_chunk(query, |chunk| {
            rows.extend(chunk);
            true
        })?;
        Ok((reader.visibility(), rows))
    }

    /// The next transactions after `after`, after sealing what other programs have written.
    pub fn changes_since(&mut self, after: Position) -> Result<Vec<StoreTransaction>, StoreError> {
        self.seal_foreign_writes()?;
        log::after(&self.conn, after)?.ok_or_else(|| {
            StoreError::Damaged(format!(
                "the log no longer reaches back to position {}; the shapes must be read again",
                after.0
            ))
        })
    }

    /// Runs `work` in one transaction that first seals what other programs have written and at the
    /// end writes the log.
    fn work<T>(
        &mut self,
        work: impl FnOnce(&mut Work<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.work_or_refusal(work)?.ok_or_else(|| {
            StoreError::Damaged("a rule of the tables is broken by what they hold already".into())
        })
    }

    /// The same; `None`, with nothing done, if a rule of the tables forbids the commit.
    fn work_or_refusal<T>(
        &mut self,
        work: impl FnOnce(&mut Work<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let result = self.run(work);
        if !matches!(result, Ok(Some(_))) {
            self.schema_cookie = None;
        }
        result
    }

    fn run<T>(
        &mut self,
        work: impl FnOnce(&mut Work<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        let now = (self.now)();
        let tx = Transaction::new_unchecked(&self.conn, TransactionBehavior::Immediate);
        let tx = tx.map_err(sqlite)?;
        // Within a transaction the order of its writes must not matter.
        tx.pragma_update(None, "defer_foreign_keys", true)
            .map_err(sqlite)?;
        let mut loaded = None;
        if self.schema_cookie != Some(schema_cookie(&tx)?) {
            loaded = Some((Arc::new(load(&tx, Unfit::LeaveOut)?), schema_cookie(&tx)?));
        }
        let tables = loaded.as_ref().map_or(&self.tables, |(tables, _)| tables);
        let mut work_state = Work::begin(&tx, tables, now)?;
        work_state.seal_and_log()?;
        let value = work(&mut work_state)?;
        if tx.is_autocommit() {
            // A trigger of the tables' owner has rolled the whole transaction back.
            return Ok(None);
        }
        work_state.finish()?;
        let committed = tx.execute_batch("COMMIT");
        if let Err(error) = committed {
            let is_rule =
                error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation);
            return if is_rule {
                Ok(None)
            } else {
                Err(sqlite(error))
            };
        }
        drop(tx);
        if let Some((tables, cookie)) = loaded {
            self.schema = Arc::new(tables.schema().clone());
            self.tables = tables;
            self.schema_cookie = Some(cookie);
        }
        Ok(Some(value))
    }
}

impl<'a> Work<'a> {
    fn begin(conn: &'a Connection, tables: &'a Tables, now: Millis) -> Result<Self, StoreError> {
        let reading = |name| {
            Hlc::from_i64(meta::number(conn, name)?)
                .map_err(|error| StoreError::Damaged(error.to_string()))
        };
        let (hlc, horizon) = (reading("hlc")?, reading(forget::HORIZON)?);
        let touched = BTreeSet::new();
        Ok(Self {
            conn,
            tables,
            now,
            hlc,
            horizon,
            touched,
            origins: Vec::new(),
        })
    }

    /// Takes note of a reading, so that the server's next write is stamped above it.
    pub(super) fn observe(&mut self, seen: Hlc) {
        self.hlc = self.hlc.max(seen);
    }

    /// A stamp of the server, above everything in the store.
    pub(super) fn stamp(&mut self) -> Result<Stamp, StoreError> {
        let mut clock = HlcClock::resume(self.hlc);
        self.hlc = clock
            .tick(self.now)
            .map_err(|error| StoreError::Misconfigured(error.to_string()))?;
        Ok(Stamp::new(self.hlc, ReplicaId::SERVER))
    }

    /// Seals what was captured as writes of the server.
    pub(super) fn seal(&mut self) -> Result<(), StoreError> {
        if is_waiting(self.conn)? {
            let stamp = self.stamp()?;
            let sealed = seal(self.conn, self.tables, stamp, Clocks::Written)?;
            self.touched.extend(
                sealed
                    .deltas
                    .into_iter()
                    .map(|delta| (delta.table, delta.key)),
            );
        }
        Ok(())
    }

    /// What other programs wrote is a transaction of its own, before everything else.
    fn seal_and_log(&mut self) -> Result<(), StoreError> {
        self.seal()?;
        self.log()
    }

    /// Appends what has been done so far to the log. A bulk load by another program, larger than
    /// what could be sent as one, is told in parts.
    fn log(&mut self) -> Result<(), StoreError> {
        if self.touched.is_empty() && self.origins.is_empty() {
            return Ok(());
        }
        let origins = std::mem::take(&mut self.origins);
        let mut deltas = Vec::new();
        let mut bytes = 0_usize;
        for (id, key) in std::mem::take(&mut self.touched) {
            let Some(table) = self.tables.get(id) else {
                continue;
            };
            let Some(state) = table.state(self.conn, &key)? else {
                continue;
            };
            bytes = bytes
                .saturating_add(state.size_bytes())
                .saturating_add(ROW_BYTES);
            deltas.push(Delta {
                table: id,
                key,
                state,
            });
            if bytes > LOG_ENTRY_BYTES && origins.is_empty() {
                log::append(self.conn, &[], &deltas)?;
                deltas.clear();
                bytes = 0;
            }
        }
        if deltas.is_empty() && origins.is_empty() {
            return Ok(());
        }
        log::append(self.conn, &origins, &deltas)
    }

    fn finish(&mut self) -> Result<(), StoreError> {
        self.log()?;
        Ok(meta::write(self.conn, "hlc", self.hlc.to_i64())?)
    }
}

impl fmt::Debug for EmbeddedCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedCore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
