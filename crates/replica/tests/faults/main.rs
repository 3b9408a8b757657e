//! A replica whose process is killed, whose disk is full, whose writes fail, whose file another
//! program keeps locked: it opens again, nothing committed is lost, nothing is half done, and it
//! goes on.
#![allow(missing_docs, unreachable_pub)]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout
)]

#[path = "../common/mod.rs"]
mod common;

mod full;
mod inspection;
mod killed;
mod locked;
mod worker;
