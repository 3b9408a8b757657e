//! The commands, but for the demo.

pub(crate) mod bench;
pub(crate) mod doctor;
pub(crate) mod inspect;
pub(crate) mod install;
pub(crate) mod limits;
pub(crate) mod outbox;
pub(crate) mod replica;
pub(crate) mod serve;
mod sync;
