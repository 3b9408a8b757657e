//! What Anabranch's tests stand on: private Postgres clusters, and the simulator, and the benchmark of
//! merging. `anabranch demo` starts a cluster too; `anabranch bench` runs the benchmark.
//!
//! Nothing here needs an async runtime: a cluster is a few processes and a temporary directory, and
//! a simulated run ([`sim::run`]) is one thread. Start with [`cluster::shared_cluster`] in a test and with
//! [`cluster::Cluster::start`] anywhere else.

pub mod bench;
pub mod cluster;
pub mod sim;
