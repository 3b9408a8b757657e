//! Opening and installing the stores that the service can replicate.

use std::{path::Path, sync::Arc};

use anabranch_postgres::{PostgresOptions, PostgresStore, TableSelection};
use anabranch_service::config::StoreConfig;
use anabranch_shape::rules::Rules;
use anabranch_store::{Store, StoreError, embedded::EmbeddedStore};

use crate::failure::Failure;

/// Opens the store of a configuration.
pub(crate) async fn open(config: &StoreConfig, rules: &Rules) -> Result<Arc<dyn Store>, Failure> {
    match config {
        StoreConfig::Postgres { url, slot } => open_postgres(url, slot, rules).await,
        StoreConfig::Embedded { path, schema } => open_embedded(path, schema.as_deref(), rules),
    }
}

/// Opens a Postgres database in which Anabranch is installed.
pub(crate) async fn open_postgres(
    url: &str,
    slot: &str,
    rules: &Rules,
) -> Result<Arc<dyn Store>, Failure> {
    let options = PostgresOptions {
        url: url.to_owned(),
        slot: slot.to_owned(),
        rules: rules.clone(),
    };
    Ok(Arc::new(PostgresStore::connect(&options).await?))
}

/// Takes tables of a Postgres database under replication, every one where none is named.
pub(crate) async fn install_postgres(
    url: &str,
    tables: Option<Vec<String>>,
    rules: &Rules,
) -> Result<Vec<String>, Failure> {
    let tables = tables.map_or(TableSelection::All, TableSelection::Named);
    Ok(anabranch_postgres::install_with(url, &tables, rules).await?)
}

/// Opens an embedded store; where its file is new, the SQL in the file `schema` makes its tables.
pub(crate) fn open_embedded(
    path: &Path,
    schema: Option<&Path>,
    rules: &Rules,
) -> Result<Arc<dyn Store>, Failure> {
    let sql = schema
        .map(std::fs::read_to_string)
        .transpose()
        .map_err(|error| {
            let schema = schema.unwrap_or(path).display();
            Failure::new(format!("cannot read the SQL in {schema}: {error}"))
        })?;
    // A file made without tables would not be new when the SQL for them is given later.
    if sql.is_none() && !path.exists() {
        return Err(
            Failure::new(format!("there is no store at {}", path.display()))
                .advising("name the file that makes its tables as `store.schema`, or another file"),
        );
    }
    Ok(Arc::new(EmbeddedStore::open_with(
        path,
        sql.as_deref(),
        rules,
    )?))
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::of(error)
    }
}
