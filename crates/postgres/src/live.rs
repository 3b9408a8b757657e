//! The catalogue as last read, shared by everything that needs it.

use std::sync::{Arc, PoisonError, RwLock};

use anabranch_store::StoreError;

use crate::{catalog::Catalog, pool::Lease};

/// The catalogue, replaced whole when it is read again.
#[derive(Debug)]
pub(crate) struct LiveCatalog(RwLock<Arc<Catalog>>);

impl LiveCatalog {
    pub(crate) fn new(catalog: Catalog) -> Self {
        Self(RwLock::new(Arc::new(catalog)))
    }

    /// As last read.
    pub(crate) fn get(&self) -> Arc<Catalog> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads it again.
    pub(crate) async fn refresh(&self, lease: &mut Lease) -> Result<(), StoreError> {
        let read = Arc::new(Catalog::read(lease).await?);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = read;
        Ok(())
    }
}
