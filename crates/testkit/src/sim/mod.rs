//! The simulator: real replicas, the real sessions, hub and embedded store, over a virtual network
//! and clock. One seed is one run, on every machine.
//!
//! What is real: SQLite files and everything the engine does with them, the session state machines,
//! the codec, the hub, the merge. What is not: sockets, tasks, threads, Postgres, TLS, a disk that
//! lies. Start with [`run`].

mod check;
mod peer;
mod rng;
mod service;
mod workload;
mod world;

use thiserror::Error;

pub use rng::Rng;
pub use world::{Options, Report};

use world::World;

/// Why a run failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Failure {
    /// Something that must hold did not.
    #[error("{0}")]
    Broken(String),
    /// The faults ended, and still not everything had arrived within the bound.
    #[error("not settled {0} virtual milliseconds after the faults had ended: {1}")]
    Stalled(u64, String),
}

impl Failure {
    fn broken(what: &str, error: impl std::fmt::Display) -> Self {
        Self::Broken(format!("{what}: {error}"))
    }
}

/// Runs the history of one seed: faults and writes, then quiet, then every replica must equal the
/// store. The same seed gives the same [`Report`], trace included.
pub fn run(seed: u64, options: &Options) -> Result<Report, Failure> {
    let mut world = World::new(seed, options.clone())?;
    world.play()?;
    world.settle()?;
    check::everything(&mut world)?;
    Ok(world.report())
}
