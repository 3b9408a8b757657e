//! The tailer: follows the log and tells the service of each transaction, with complete row states.
//!
//! A row change and the row of `anabranch.clocks` that goes with it are in one transaction of the
//! log and are joined there. Where that does not tell a row's whole state, the row is read again by
//! its key; a newer state than the transaction's does no harm, for states merge.

mod image;
mod slot;
mod xid;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anabranch_crdt::{Delta, TableId};
use anabranch_protocol::Position;
use anabranch_store::{LogEvent, StoreError, StoreTransaction};
use tokio::sync::{mpsc, watch};

pub(crate) use self::slot::check_wal_level;
use self::{
    image::{Images, Verdict},
    xid::XidEpoch,
};
use crate::{
    catalog::{Catalog, PgTable},
    config::PUBLICATION,
    errors::{Failure, store_error},
    limits,
    live::LiveCatalog,
    pool::{Lease, Pool},
    replication::{self, LoggedTransaction, RowImage, Streamed},
    rows::{self, StoredRow, TextKey},
    writer::{Mending, mend},
};

/// Begins to follow the log by the slot called `slot`, which is made if it is not there.
pub(crate) async fn follow(
    pool: &Arc<Pool>,
    catalog: &Arc<LiveCatalog>,
    config: &tokio_postgres::Config,
    slot: &str,
) -> Result<mpsc::Receiver<LogEvent>, StoreError> {
    let mut lease = pool.lease().await?;
    slot::ensure(&mut lease, slot).await?;
    catalog.refresh(&mut lease).await?;
    let period = slot::feedback_period(&mut lease).await?;
    let epoch = XidEpoch::read(&mut lease).await?;
    drop(lease);

    let connection = start_replication(config, slot).await?;
    let (durable, durable_seen) = watch::channel(0);
    let streamed = replication::start(connection, durable_seen, period);
    let (events, receiver) = mpsc::channel(limits::EVENTS_AHEAD);
    let tailer = Tailer {
        schema_told: catalog.get().schema.version,
        pool: Arc::clone(pool),
        catalog: Arc::clone(catalog),
        relations: BTreeMap::new(),
        epoch,
        events,
        durable,
    };
    tokio::spawn(tailer.run(streamed));
    Ok(receiver)
}

/// Starts the copy, waiting for an earlier session that has not yet let go of the slot.
async fn start_replication(
    config: &tokio_postgres::Config,
    slot: &str,
) -> Result<replication::Connection, StoreError> {
    let command = format!(
        "START_REPLICATION SLOT \"{slot}\" LOGICAL 0/0 (proto_version '1', \
         publication_names '\"{PUBLICATION}\"', messages 'true')"
    );
    let deadline = tokio::time::Instant::now() + limits::SLOT_WAIT_MAX;
    loop {
        let mut connection = replication::connect(config).await?;
        match connection.start_copy(&command).await {
            Ok(()) => return Ok(connection),
            Err(error) if error.is("55006") && tokio::time::Instant::now() < deadline => {
                tracing::info!(%error, "waiting for the replication slot");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Err(error) if error.is("55006") => {
                return Err(StoreError::Unavailable(format!(
                    "{error}; another service uses this slot: stop it, or give this one a slot of \
                     its own"
                )));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

struct Tailer {
    pool: Arc<Pool>,
    catalog: Arc<LiveCatalog>,
    /// The tables as the log last described them, and whether the catalogue agrees.
    relations: BTreeMap<u32, (Arc<replication::Relation>, bool)>,
    epoch: XidEpoch,
    events: mpsc::Sender<LogEvent>,
    durable: watch::Sender<u64>,
    /// The version of the schema that the service knows.
    schema_told: u64,
}

/// Times rows are tried to be read again: their table may be altered just then, but hardly each time.
const REREAD_ATTEMPTS_MAX: u32 = 4;

/// The rows of a transaction that the log alone does not settle.
#[derive(Default)]
struct Unsettled {
    read_again: BTreeMap<TableId, Vec<TextKey>>,
    mend: Vec<(TableId, TextKey, Mending)>,
}

/// The service has let go of the channel.
struct Abandoned;

impl Tailer {
    async fn run(mut self, mut streamed: mpsc::Receiver<Streamed>) {
        loop {
            let next = tokio::select! {
                next = streamed.recv() => next,
                () = self.events.closed() => return,
            };
            let told = match next {
                Some(Streamed::Transaction(transaction)) => self.tell(transaction).await,
                Some(Streamed::Idle(end)) => Ok(self.tell_idle(end).await),
                None => return,
            };
            match told {
                Ok(Ok(())) => {}
                Ok(Err(Abandoned)) => return,
                Err(error) => {
                    tracing::warn!(%error, "the log cannot be followed further");
                    return;
                }
            }
        }
    }

    async fn send(&self, event: LogEvent, end: u64) -> Result<(), Abandoned> {
        self.events.send(event).await.map_err(|_| Abandoned)?;
        self.durable.send_replace(end);
        Ok(())
    }

    /// Tells the service of a transaction.
    async fn tell(
        &mut self,
        logged: LoggedTransaction,
    ) -> Result<Result<(), Abandoned>, StoreError> {
        let (id, end) = (self.epoch.extend(logged.xid), logged.end);
        if logged.oversize {
            return self.skip_oversize(id, end).await;
        }
        self.adopt_relations(&logged, id).await?;
        let images = Images::join(&self.catalog.get(), logged.images, |oid| {
            self.relations.get(&oid).is_some_and(|(_, agrees)| *agrees)
        })?;
        self.adopt_tables(&images, id).await?;
        if self.tell_schema().await.is_err() {
            return Ok(Err(Abandoned));
        }
        let catalog = self.catalog.get();
        let origins = images.origins.clone();
        let (mut deltas, unsettled) = settle(&catalog, images)?;
        if !unsettled.read_again.is_empty() || !unsettled.mend.is_empty() {
            deltas.extend(self.settle_by_reading(id, unsettled).await?);
            deltas.sort_by(|a, b| (a.table, &a.key).cmp(&(b.table, &b.key)));
            if self.tell_schema().await.is_err() {
                return Ok(Err(Abandoned));
            }
        }
        let event = if deltas.is_empty() && origins.is_empty() {
            LogEvent::Idle(Position(end))
        } else {
            let position = Position(end);
            LogEvent::Transaction(StoreTransaction {
                position,
                id,
                origins,
                deltas,
            })
        };
        Ok(self.send(event, end).await)
    }

    /// Steps over a transaction that is too large to be told of. The log breaks off behind it, so
    /// the service reads its shapes again, with everything in them.
    async fn skip_oversize(&self, id: u64, end: u64) -> Result<Result<(), Abandoned>, StoreError> {
        let mut lease = self.pool.lease().await?;
        wait_until_visible(&mut lease, id).await?;
        self.durable.send_replace(end);
        Err(StoreError::Unavailable(format!(
            "transaction {id} changed more than {} bytes; shapes are read again behind it",
            limits::TRANSACTION_BYTES_MAX
        )))
    }

    async fn tell_idle(&mut self, end: u64) -> Result<(), Abandoned> {
        self.tell_schema().await?;
        self.send(LogEvent::Idle(Position(end)), end).await
    }

    /// Tells the service of a new schema, whoever has found it.
    async fn tell_schema(&mut self) -> Result<(), Abandoned> {
        let catalog = self.catalog.get();
        if catalog.schema.version == self.schema_told {
            return Ok(());
        }
        self.schema_told = catalog.schema.version;
        for (relation, agrees) in self.relations.values_mut() {
            *agrees = image::agrees(&catalog, relation);
        }
        let event = LogEvent::SchemaChanged(Arc::clone(&catalog.schema));
        self.events.send(event).await.map_err(|_| Abandoned)
    }

    /// Compares tables that the log describes anew with the catalogue, and reads that again where
    /// they differ.
    async fn adopt_relations(
        &mut self,
        logged: &LoggedTransaction,
        id: u64,
    ) -> Result<(), StoreError> {
        for image in &logged.images {
            let (RowImage::Put { relation, .. } | RowImage::Gone { relation, .. }) = image else {
                continue;
            };
            let known = self.relations.get(&relation.oid);
            if relation.namespace == "anabranch"
                || known.is_some_and(|(known, _)| Arc::ptr_eq(known, relation))
            {
                continue;
            }
            let mut agrees = image::agrees(&self.catalog.get(), relation);
            if !agrees {
                self.refresh_catalog(id).await?;
                agrees = image::agrees(&self.catalog.get(), relation);
            }
            self.relations
                .insert(relation.oid, (Arc::clone(relation), agrees));
        }
        Ok(())
    }

    /// Reads the catalogue again if there are clocks of a table that it did not have.
    async fn adopt_tables(&self, images: &Images, id: u64) -> Result<(), StoreError> {
        let catalog = self.catalog.get();
        if images
            .rows
            .keys()
            .all(|(table, _)| catalog.tables.contains_key(table))
        {
            return Ok(());
        }
        self.refresh_catalog(id).await
    }

    /// Reads the catalogue again, as the transaction left it or later.
    async fn refresh_catalog(&self, id: u64) -> Result<(), StoreError> {
        let mut lease = self.pool.lease().await?;
        wait_until_visible(&mut lease, id).await?;
        self.catalog.refresh(&mut lease).await
    }

    /// Reads rows again that the log alone does not settle, and mends what somebody wrote past the
    /// trigger; that will come by the log in a transaction of its own.
    async fn settle_by_reading(
        &self,
        id: u64,
        mut unsettled: Unsettled,
    ) -> Result<Vec<Delta>, StoreError> {
        let mut lease = self.pool.lease().await?;
        wait_until_visible(&mut lease, id).await?;
        let mut deltas = Vec::new();
        for (id, keys) in unsettled.read_again {
            for chunk in keys.chunks(limits::REREAD_ROWS_MAX) {
                let read = self
                    .read_again(&mut lease, id, chunk, &mut unsettled.mend)
                    .await?;
                deltas.extend(read);
            }
        }
        drop(lease);
        if !unsettled.mend.is_empty() {
            mend(&self.pool, &self.catalog.get(), &unsettled.mend).await?;
        }
        Ok(deltas)
    }

    /// Reads rows of a table again, by the catalogue as it is then, should the table be altered just
    /// now.
    async fn read_again(
        &self,
        lease: &mut Lease,
        id: TableId,
        keys: &[TextKey],
        mend: &mut Vec<(TableId, TextKey, Mending)>,
    ) -> Result<Vec<Delta>, StoreError> {
        let mut attempts = 0;
        loop {
            let catalog = self.catalog.get();
            let Some(table) = catalog.tables.get(&id) else {
                return Ok(Vec::new());
            };
            attempts += 1;
            match read_rows(lease, table, keys).await {
                Ok(stored) => return told(table, keys, stored, mend),
                Err(Failure::Busy(_) | Failure::Refused(_)) if attempts < REREAD_ATTEMPTS_MAX => {
                    self.catalog.refresh(lease).await?;
                }
                Err(failure) => return Err(failure.into_store_error()),
            }
        }
    }
}

/// The deltas that the log tells outright, and the rows it leaves open.
fn settle(catalog: &Catalog, images: Images) -> Result<(Vec<Delta>, Unsettled), StoreError> {
    let mut deltas = Vec::new();
    let mut unsettled = Unsettled::default();
    for ((id, text), touched) in images.rows {
        let Some(table) = catalog.tables.get(&id) else {
            continue;
        };
        let Some(key) = TextKey::parse(&table.table, &text) else {
            return Err(StoreError::Damaged(format!(
                "{text:?} is no key of {}",
                table.name()
            )));
        };
        match touched.verdict(&table.table, &text)? {
            Verdict::Told(delta) => deltas.push(delta),
            Verdict::ReadAgain => unsettled.read_again.entry(id).or_default().push(key),
            Verdict::Mend => unsettled.mend.push((id, key, Mending::Everything)),
        }
    }
    Ok((deltas, unsettled))
}

/// The deltas that tell of rows read again, and, in `mend`, the rows whose clocks say otherwise.
fn told(
    table: &PgTable,
    keys: &[TextKey],
    stored: Vec<StoredRow>,
    mend: &mut Vec<(TableId, TextKey, Mending)>,
) -> Result<Vec<Delta>, StoreError> {
    let mut deltas = Vec::with_capacity(stored.len());
    for (key, row) in keys.iter().zip(stored) {
        let clock = row.fold(&table.table)?;
        if clock.existence.is_present() == row.present {
            let parts = key.parts.iter().map(String::as_str);
            let key = crate::keys::typed(&table.table, parts);
            deltas.push(rows::delta(&table.table, key, &clock, &row.values));
        } else {
            mend.push((table.table.id, key.clone(), Mending::Existence));
        }
    }
    Ok(deltas)
}

async fn read_rows(
    lease: &mut Lease,
    table: &PgTable,
    keys: &[TextKey],
) -> Result<Vec<StoredRow>, Failure> {
    let mut work = lease.begin("set transaction read only").await?;
    let stored = rows::read(&mut work, table, keys).await?;
    work.commit().await?;
    Ok(stored)
}

/// Waits until queries see the transaction: it is in the log a moment before.
async fn wait_until_visible(lease: &mut Lease, id: u64) -> Result<(), StoreError> {
    const SQL: &str =
        "select pg_visible_in_snapshot($1::text::xid8, pg_current_snapshot()) as visible";
    let mut pause = Duration::from_millis(1);
    loop {
        let rows = lease.query(SQL, &[&id.to_string()]).await;
        let rows = rows.map_err(|error| store_error(&error))?;
        let visible = rows
            .first()
            .map_or(Ok(true), |row| crate::catalog::field(row, "visible"))?;
        if visible {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause = pause.saturating_mul(2).min(Duration::from_millis(100));
    }
}
