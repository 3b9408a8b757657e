//! How a command fails: one line says what went wrong, one line what to do about it.

use std::{fmt::Display, process::ExitCode};

use anabranch_replica::{OpenError, ReplicaError};

/// A command that could not do as asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    what: String,
    remedy: Option<String>,
}

impl Failure {
    /// A failure that nothing can be advised for.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            remedy: None,
        }
    }

    /// The failure that an error of the engine tells of. Their messages say what is wrong and then, after
    /// a semicolon, what to do.
    pub(crate) fn of(error: impl Display) -> Self {
        let message = error.to_string();
        match message.split_once("; ") {
            Some((what, remedy)) if !what.contains('\n') => Self::new(what).advising(remedy),
            _ => Self::new(message),
        }
    }

    /// The same failure, with what to do.
    #[must_use]
    pub(crate) fn advising(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Tells of it: people on standard error, programs on standard output.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        if json {
            println!(
                "{}",
                serde_json::json!({ "error": self.what, "remedy": self.remedy })
            );
        }
        eprintln!("error: {}", self.what);
        if let Some(remedy) = &self.remedy {
            eprintln!("  try: {remedy}");
        }
        ExitCode::FAILURE
    }
}

/// Lets `?` turn the errors of other crates into failures.
macro_rules! failures {
    ($($error:ty),+ $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::of(error)
            }
        })+
    };
}

failures!(OpenError, ReplicaError);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_parted_into_what_and_what_to_do() {
        let parted = Failure::of("the sea is rough; stay ashore; or swim");
        assert_eq!(
            parted,
            Failure::new("the sea is rough").advising("stay ashore; or swim")
        );
        assert_eq!(Failure::of("plain"), Failure::new("plain"));
        let log = "it ended:\nLOG: a; b";
        assert_eq!(Failure::of(log), Failure::new(log));
    }
}
