//! What Anabranch's tests stand on: private Postgres clusters. `anabranch demo` starts one too.
//!
//! Nothing here knows the engine, and nothing needs an async runtime: a cluster is a few processes
//! and a temporary directory. Start with [`cluster::shared_cluster`] in a test and with
//! [`cluster::Cluster::start`] anywhere else.

pub mod cluster;
