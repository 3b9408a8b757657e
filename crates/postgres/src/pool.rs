//! A small pool of query connections, each with its prepared statements.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use anabranch_store::StoreError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::{Client, Config, Error, NoTls, Row, Statement, Transaction, types::ToSql};

use crate::{errors::store_error, limits};

/// The parameters of a statement.
pub(crate) type Parameters<'a> = [&'a (dyn ToSql + Sync)];

/// Connections to one database.
pub(crate) struct Pool {
    config: Config,
    idle: Mutex<Vec<Session>>,
    permits: Arc<Semaphore>,
}

/// A connection, lent until dropped.
pub(crate) struct Lease {
    session: Option<Session>,
    pool: Arc<Pool>,
    _permit: OwnedSemaphorePermit,
}

/// A connection and its prepared statements.
pub(crate) struct Session {
    client: Client,
    statements: BTreeMap<String, Statement>,
}

/// A transaction on a session.
pub(crate) struct Work<'a> {
    transaction: Transaction<'a>,
    statements: &'a mut BTreeMap<String, Statement>,
}

impl Pool {
    pub(crate) fn new(config: Config) -> Arc<Self> {
        let permits = Arc::new(Semaphore::new(limits::CONNECTIONS_MAX));
        Arc::new(Self {
            config,
            idle: Mutex::new(Vec::new()),
            permits,
        })
    }

    /// Lends a connection, a new one if no idle one is left.
    pub(crate) async fn lease(self: &Arc<Self>) -> Result<Lease, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| StoreError::Unavailable("shutting down".to_owned()))?;
        let session = match self.pop_idle() {
            Some(session) => session,
            None => Session {
                client: connect(&self.config).await?,
                statements: BTreeMap::new(),
            },
        };
        Ok(Lease {
            session: Some(session),
            pool: Arc::clone(self),
            _permit: permit,
        })
    }

    fn pop_idle(&self) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|session| !session.client.is_closed());
        idle.pop()
    }
}

impl Lease {
    /// The connection's session; an error only after the lease has been given back.
    pub(crate) fn session(&mut self) -> Result<&mut Session, StoreError> {
        self.session
            .as_mut()
            .ok_or_else(|| StoreError::Unavailable("shutting down".to_owned()))
    }

    /// Begins a transaction and applies `settings`.
    pub(crate) async fn begin(&mut self, settings: &str) -> Result<Work<'_>, StoreError> {
        let session = self.session()?;
        let begun = session.begin(settings).await;
        begun.map_err(|error| store_error(&error))
    }

    /// Runs a statement outside any transaction.
    pub(crate) async fn query(
        &mut self,
        sql: &str,
        parameters: &Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        match self.session.as_ref() {
            Some(session) => session.client.query(sql, parameters).await,
            None => Ok(Vec::new()),
        }
    }

    /// Closes the connection instead of giving it back.
    pub(crate) fn discard(&mut self) {
        self.session = None;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(session) = self
            .session
            .take()
            .filter(|session| !session.client.is_closed())
        {
            self.pool
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(session);
        }
    }
}

impl Session {
    async fn begin(&mut self, settings: &str) -> Result<Work<'_>, Error> {
        let transaction = self.client.transaction().await?;
        transaction.batch_execute(settings).await?;
        Ok(Work {
            transaction,
            statements: &mut self.statements,
        })
    }
}

impl Work<'_> {
    /// Runs a statement, prepared once per connection.
    pub(crate) async fn query(
        &mut self,
        sql: &str,
        parameters: &Parameters<'_>,
    ) -> Result<Vec<Row>, Error> {
        let statement = self.prepare(sql).await?;
        let rows = self.transaction.query(&statement, parameters).await;
        rows.inspect_err(|error| self.forget_spoilt(sql, error))
    }

    /// The same, for a statement whose rows do not matter.
    pub(crate) async fn execute(
        &mut self,
        sql: &str,
        parameters: &Parameters<'_>,
    ) -> Result<u64, Error> {
        let statement = self.prepare(sql).await?;
        let count = self.transaction.execute(&statement, parameters).await;
        count.inspect_err(|error| self.forget_spoilt(sql, error))
    }

    /// Runs a statement whose rows are taken one by one.
    pub(crate) async fn query_raw(
        &mut self,
        sql: &str,
        parameters: &Parameters<'_>,
    ) -> Result<tokio_postgres::RowStream, Error> {
        let statement = self.prepare(sql).await?;
        let rows = self
            .transaction
            .query_raw(&statement, parameters.iter().copied())
            .await;
        rows.inspect_err(|error| self.forget_spoilt(sql, error))
    }

    pub(crate) async fn commit(self) -> Result<(), Error> {
        self.transaction.commit().await
    }

    /// Forgets a statement whose result has changed its form ("cached plan must not change result
    /// type"), so that the next try prepares it anew.
    fn forget_spoilt(&mut self, sql: &str, error: &Error) {
        if error.code().is_some_and(|code| code.code() == "0A000") {
            self.statements.remove(sql);
        }
    }

    async fn prepare(&mut self, sql: &str) -> Result<Statement, Error> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        if self.statements.len() >= limits::STATEMENTS_MAX {
            self.statements.clear();
        }
        let statement = self.transaction.prepare(sql).await?;
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

/// Connects, and leaves the connection to a task of its own.
pub(crate) async fn connect(config: &Config) -> Result<Client, StoreError> {
    let (client, connection) = config
        .connect(NoTls)
        .await
        .map_err(|error| store_error(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a Postgres connection has ended");
        }
    });
    Ok(client)
}
