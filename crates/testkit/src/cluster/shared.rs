//! One cluster for all tests of a binary, since making one takes seconds and a database does not.

use std::sync::OnceLock;

use super::{Cluster, ClusterError, ClusterOptions, PgBinaries};

/// The cluster that all tests of this process share: take a [`Cluster::fresh_database`] in it, and
/// give replication slots names of their own, since slots belong to the cluster. Started at first
/// use, with the default options; it ends with the process. A test that stops its server needs a
/// cluster of its own, which is why this one is lent immutably.
///
/// Panics where there is no Postgres, saying what to install: a test that cannot run has failed.
#[expect(
    clippy::panic,
    reason = "it is for tests, which have no better way to say it"
)]
pub fn shared_cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Result<Cluster, ClusterError>> = OnceLock::new();
    let started = CLUSTER.get_or_init(|| {
        let binaries = PgBinaries::find()?;
        Cluster::start(&binaries, ClusterOptions::default())
    });
    match started {
        Ok(cluster) => cluster,
        Err(error) => panic!("{error}"),
    }
}
