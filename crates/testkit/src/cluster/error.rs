//! Why a private cluster could not be had, with what the server or the program said.

use std::{fs, io, path::Path};

use thiserror::Error;

use super::{NotFound, log_path};

/// Why a private cluster could not do as asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// There is no Postgres on this machine.
    #[error(transparent)]
    NotFound(#[from] NotFound),
    /// Running as root, and there is no other user to run the server as.
    #[error(
        "Postgres refuses to run as root, and /etc/passwd has neither `postgres` nor `nobody`; \
         create one of them or run as an ordinary user"
    )]
    NoUnprivilegedUser,
    /// The operating system refused.
    #[error("could not {doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} failed ({status}):\n{output}")]
    Failed {
        /// The program.
        program: String,
        /// Its exit status.
        status: String,
        /// What it printed to its standard error.
        output: String,
    },
    /// The server ended while it should have started.
    #[error("the server ended ({status}) instead of starting; its log ends:\n{log}")]
    Ended {
        /// Its exit status.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// The server did not start or stop in time.
    #[error("the server did not {doing} within {seconds} s; its log ends:\n{log}")]
    TimedOut {
        /// What it should have done.
        doing: &'static str,
        /// For how long it was waited for.
        seconds: u64,
        /// The end of its log.
        log: String,
    },
}

impl ClusterError {
    /// Fills in the end of the server's log, where the error shows it.
    pub(super) fn with_log(mut self, directory: &Path) -> Self {
        if let Self::Ended { log, .. } | Self::TimedOut { log, .. } = &mut self {
            *log = fs::read_to_string(log_path(directory)).map_or_else(
                |error| format!("(the log cannot be read: {error})"),
                |text| last_lines(&text),
            );
        }
        self
    }
}

/// Says what was being done when the operating system refused.
pub(super) trait Doing<T> {
    fn doing(self, what: &str) -> Result<T, ClusterError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: &str) -> Result<T, ClusterError> {
        self.map_err(|source| ClusterError::Io {
            doing: what.to_owned(),
            source,
        })
    }
}

fn last_lines(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().rev().take(LOG_LINES_SHOWN).collect();
    lines.reverse();
    lines.join("\n")
}

/// Enough to hold a failed start with its hints.
const LOG_LINES_SHOWN: usize = 30;
