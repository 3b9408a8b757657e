//! What SQL can call on the engine's connections.

pub(crate) mod functions;
pub(crate) mod order;
