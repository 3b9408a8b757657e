//! The store itself: the interface of `anabranch-store` over everything else here.

use std::sync::Arc;

use anabranch_crdt::{Hlc, ReplicaId};
use anabranch_protocol::Seq;
use anabranch_shape::schema::Schema;
use anabranch_store::{
    BoxFuture, LogEvent, MergeOutcome, Snapshot, SnapshotQuery, Standing, Store, StoreError, Upload,
};
use tokio::sync::{Semaphore, mpsc};
use tokio_postgres::Config;

use crate::{
    catalog::Catalog,
    config::{self, PostgresOptions},
    install, limits,
    live::LiveCatalog,
    pool::Pool,
    snapshot, tailer, writer,
};

/// A Postgres database as a store. Anabranch must have been installed in it; see
/// [`install`](crate::install).
pub struct PostgresStore {
    config: Config,
    slot: String,
    pool: Arc<Pool>,
    catalog: Arc<LiveCatalog>,
    snapshots: Arc<Semaphore>,
}

impl std::fmt::Debug for PostgresStore {
    // The configuration holds the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore")
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects and reads the catalogue.
    pub async fn connect(options: &PostgresOptions) -> Result<Self, StoreError> {
        let config = config::parse(&options.url)?;
        let slot = config::slot_name(&options.slot)?.to_owned();
        install::declare(&options.url, &options.rules).await?;
        let pool = Pool::new(config.clone());
        let mut lease = pool.lease().await?;
        let catalog = Catalog::read(&mut lease).await?;
        drop(lease);
        Ok(Self {
            config,
            slot,
            pool,
            catalog: Arc::new(LiveCatalog::new(catalog)),
            snapshots: Arc::new(Semaphore::new(limits::SNAPSHOTS_MAX)),
        })
    }
}

impl Store for PostgresStore {
    fn schema(&self) -> BoxFuture<'_, Result<Arc<Schema>, StoreError>> {
        Box::pin(async {
            let mut lease = self.pool.lease().await?;
            self.catalog.refresh(&mut lease).await?;
            Ok(Arc::clone(&self.catalog.get().schema))
        })
    }

    fn greet(
        &self,
        replica: ReplicaId,
        first_pending: Seq,
    ) -> BoxFuture<'_, Result<Standing, StoreError>> {
        Box::pin(async move {
            let mut lease = self.pool.lease().await?;
            writer::greet(&mut lease, replica, first_pending).await
        })
    }

    fn merge(&self, uploads: Vec<Upload>) -> BoxFuture<'_, Result<Vec<MergeOutcome>, StoreError>> {
        Box::pin(async move { writer::merge(&self.pool, &self.catalog, &uploads).await })
    }

    fn forget_removed(&self, horizon: Hlc) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(
            async move { writer::forget_removed(&self.pool, &self.catalog.get(), horizon).await },
        )
    }

    fn snapshot(&self, query: SnapshotQuery) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        Box::pin(async move {
            let permit = Arc::clone(&self.snapshots).acquire_owned().await;
            let permit = permit.map_err(|_| StoreError::Unavailable("shutting down".to_owned()))?;
            let lease = self.pool.lease().await?;
            snapshot::read(lease, permit, self.catalog.get(), query).await
        })
    }

    fn follow(&self) -> BoxFuture<'_, Result<mpsc::Receiver<LogEvent>, StoreError>> {
        Box::pin(tailer::follow(
            &self.pool,
            &self.catalog,
            &self.config,
            &self.slot,
        ))
    }
}
