//! What a demo does: which shapes, which edits on which side, and which rows to explain afterwards.

use anabranch_crdt::{RowKey, Value};
use anabranch_protocol::ShapeRequest;

use crate::print::literal;

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Ann,
    Bob,
    /// A program that writes plain SQL into the store and has never heard of Anabranch.
    Program,
}

impl Side {
    pub(super) const ALL: [Self; 3] = [Self::Ann, Self::Bob, Self::Program];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ann => "Ann",
            Self::Bob => "Bob",
            Self::Program => "SQL",
        }
    }
}

/// A shape that both editors subscribe to.
#[derive(Clone, Debug)]
pub(super) struct PlannedShape {
    pub(super) table: String,
    pub(super) filter: Option<String>,
    pub(super) parameters: Vec<(String, Value)>,
}

impl PlannedShape {
    pub(super) fn request(&self) -> ShapeRequest {
        ShapeRequest::Spelled {
            table: self.table.clone(),
            filter: self.filter.clone(),
            columns: Vec::new(),
            parameters: self.parameters.clone(),
        }
    }

    /// The filter as plain SQL, for asking the store without Anabranch.
    pub(super) fn condition(&self) -> Option<String> {
        let filter = self.filter.clone()?;
        let filled = self.parameters.iter().fold(filter, |text, (name, value)| {
            text.replace(&format!(":{name}"), &literal(value))
        });
        Some(filled)
    }
}

/// One transaction of one side.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    pub(super) side: Side,
    pub(super) about: String,
    pub(super) sql: String,
}

impl Edit {
    pub(super) fn new(side: Side, about: impl Into<String>, sql: impl Into<String>) -> Self {
        Self {
            side,
            about: about.into(),
            sql: sql.into(),
        }
    }
}

/// A row that several sides wrote, and the columns worth telling of.
#[derive(Clone, Debug)]
pub(super) struct Contest {
    pub(super) title: String,
    pub(super) table: String,
    pub(super) key: RowKey,
    pub(super) columns: Vec<String>,
}

/// The edits, in the order of time, and what to explain afterwards.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) edits: Vec<Edit>,
    pub(super) contests: Vec<Contest>,
    /// How many of the editors' transactions the store must refuse, where that is known.
    pub(super) refusals: Option<usize>,
}
