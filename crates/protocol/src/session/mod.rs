//! The two ends of a session as state machines: what may be said when, and how much.

mod backoff;
mod client;
mod server;

pub use backoff::{Backoff, RetryPolicy};
pub use client::{ClientPhase, ClientSession, Greeting, Stopped, Violation};
pub use server::{Refusal, Request, ServerSession};
