//! What is declared for tables beside their SQL: how columns merge, what a delete does against a
//! concurrent update, and what becomes of a child whose parent was deleted concurrently. Pure: stores
//! keep the declaration and apply it to the schema that they read.

use std::{collections::BTreeMap, fmt};

use anabranch_crdt::MergeKind;
use thiserror::Error;

use crate::{
    Dialect,
    schema::{Column, ColumnType, DeletePolicy, ReferencePolicy, ReferentialAction, Schema, Table},
};

/// The rules of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableRules {
    columns: BTreeMap<String, MergeKind>,
    delete: DeletePolicy,
    references: BTreeMap<String, ReferencePolicy>,
}

/// The rules of tables, by name. A table that is not named here has the usual ones: registers, a
/// delete removes what it has observed, writing a child keeps its parent.
///
/// ```
/// use anabranch_shape::{
///     MergeKind,
///     rules::{Rules, TableRules},
///     schema::{DeletePolicy, ReferencePolicy},
/// };
///
/// let notes = TableRules::new()
///     .column("likes", MergeKind::Counter)
///     .column("tags", MergeKind::Set)
///     .delete(DeletePolicy::WinsOverUpdate)
///     .reference("author_id", ReferencePolicy::Cascade);
/// let rules = Rules::new().table("notes", notes);
/// assert_eq!(rules.entries().count(), 4);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(BTreeMap<String, TableRules>);

/// One rule in words, as stores keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleEntry {
    /// The table.
    pub table: String,
    /// What it is about: `column`, `delete` or `reference`.
    pub subject: String,
    /// The column, or the columns of the reference joined by commas; empty for `delete`.
    pub name: String,
    /// The rule: a word such as `counter`.
    pub word: String,
}

/// Why a rule cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RuleError {
    /// The table is not replicated.
    #[error("there are rules for {0}, which is not replicated; install it, or take the rules out")]
    UnknownTable(String),
    /// The table has no such column, or it is part of the primary key.
    #[error("{table} has no column {column} outside its primary key, for which there is a rule")]
    UnknownColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// The column cannot hold what the kind needs.
    #[error("{table}.{column} is {declared} and cannot be a {kind}; {wanted}")]
    UnfitColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Its type.
        declared: String,
        /// The kind it was to be.
        kind: &'static str,
        /// What it would have to be.
        wanted: &'static str,
    },
    /// The table has no such foreign key.
    #[error(
        "{table} has no foreign key ({columns}) to the primary key of a replicated table, for which \
         there is a rule"
    )]
    UnknownReference {
        /// The table.
        table: String,
        /// The columns, joined by commas.
        columns: String,
    },
    /// The foreign key does something else on delete.
    #[error("the foreign key {table} ({columns}) cannot be `{policy}`; {wanted}")]
    UnfitReference {
        /// The table.
        table: String,
        /// The columns, joined by commas.
        columns: String,
        /// The policy it was to have.
        policy: &'static str,
        /// What it would have to be.
        wanted: &'static str,
    },
    /// A word that means nothing.
    #[error("`{word}` is no rule for {subject}; there are: {known}")]
    UnknownWord {
        /// The word.
        word: String,
        /// What it was to be a rule for.
        subject: String,
        /// The words that mean something.
        known: String,
    },
    /// A column that is replicated already was of another kind.
    #[error(
        "{table}.{column} is replicated as a {held} and cannot become a {wanted}: what replicas hold \
         of it would be lost; add a column of the new kind, or install the store and its replicas anew"
    )]
    KindChanged {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// What it is.
        held: &'static str,
        /// What it was to become.
        wanted: &'static str,
    },
}

impl TableRules {
    /// The usual rules.
    pub fn new() -> Self {
        Self::default()
    }

    /// How a column merges.
    #[must_use]
    pub fn column(mut self, name: &str, kind: MergeKind) -> Self {
        self.columns.insert(name.to_owned(), kind);
        self
    }

    /// What a delete does against concurrent updates.
    #[must_use]
    pub const fn delete(mut self, policy: DeletePolicy) -> Self {
        self.delete = policy;
        self
    }

    /// What becomes of a row whose parent is deleted, by the referring column; several, joined by
    /// commas, for a foreign key of several.
    #[must_use]
    pub fn reference(mut self, columns: &str, policy: ReferencePolicy) -> Self {
        let columns: Vec<&str> = columns.split(',').map(str::trim).collect();
        self.references.insert(columns.join(","), policy);
        self
    }
}

impl Rules {
    /// No rules.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a table these rules, instead of those it had.
    #[must_use]
    pub fn table(mut self, name: &str, rules: TableRules) -> Self {
        self.0.insert(name.to_owned(), rules);
        self
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes over the rules of the tables that `other` names.
    pub fn replace(&mut self, other: &Self) {
        self.0.extend(other.0.clone());
    }

    /// The rules that differ from the usual ones, in words.
    pub fn entries(&self) -> impl Iterator<Item = RuleEntry> {
        self.0.iter().flat_map(|(table, rules)| {
            let entry = |subject: &str, name: &str, word: &str| RuleEntry {
                table: table.clone(),
                subject: subject.to_owned(),
                name: name.to_owned(),
                word: word.to_owned(),
            };
            let columns = rules.columns.iter();
            let columns = columns.map(|(name, kind)| entry("column", name, kind.word()));
            let references = rules.references.iter();
            let references =
                references.map(|(name, policy)| entry("reference", name, policy.word()));
            let delete = (rules.delete != DeletePolicy::default())
                .then(|| entry("delete", "", rules.delete.word()));
            columns
                .chain(references)
                .chain(delete)
                .collect::<Vec<RuleEntry>>()
        })
    }

    /// Adds a rule that is given in words.
    pub fn add(&mut self, entry: &RuleEntry) -> Result<(), RuleError> {
        let rules = self.0.entry(entry.table.clone()).or_default();
        let unknown = |known: &[&str]| RuleError::UnknownWord {
            word: entry.word.clone(),
            subject: format!("the {} {}.{}", entry.subject, entry.table, entry.name),
            known: known.join(", "),
        };
        let (name, word) = (entry.name.as_str(), entry.word.as_str());
        let taken = std::mem::take(rules);
        *rules = match entry.subject.as_str() {
            "column" => taken.column(
                name,
                MergeKind::of_word(word).ok_or_else(|| unknown(&["register", "counter", "set"]))?,
            ),
            "delete" => taken.delete(
                DeletePolicy::of_word(word)
                    .ok_or_else(|| unknown(&["observed", "wins_over_update"]))?,
            ),
            "reference" => taken.reference(
                name,
                ReferencePolicy::of_word(word)
                    .ok_or_else(|| unknown(&["revive", "cascade", "set_null"]))?,
            ),
            _ => return Err(unknown(&["column", "delete", "reference"])),
        };
        Ok(())
    }

    /// Applies the rules to the tables of `schema`, as far as they fit; which do not.
    pub fn apply(&self, schema: &mut Schema, dialect: Dialect) -> Vec<RuleError> {
        let mut problems = Vec::new();
        for (name, rules) in &self.0 {
            let parents = schema.clone();
            let table = schema.tables.iter_mut().find(|table| table.is_called(name));
            match table {
                Some(table) => rules.apply(table, &parents, dialect, &mut problems),
                None => problems.push(RuleError::UnknownTable(name.clone())),
            }
        }
        problems
    }
}

impl TableRules {
    fn apply(
        &self,
        table: &mut Table,
        schema: &Schema,
        dialect: Dialect,
        problems: &mut Vec<RuleError>,
    ) {
        table.delete = self.delete;
        for column in &mut table.columns {
            column.merge = MergeKind::Register;
        }
        for key in &mut table.foreign_keys {
            key.policy = ReferencePolicy::Revive;
        }
        for (name, kind) in &self.columns {
            match check_column(table, name, *kind, dialect) {
                Ok(place) => {
                    if let Some(column) = table.columns.get_mut(place) {
                        column.merge = *kind;
                    }
                }
                Err(problem) => problems.push(problem),
            }
        }
        for (columns, policy) in &self.references {
            match check_reference(table, schema, columns, *policy) {
                Ok(place) => {
                    if let Some(key) = table.foreign_keys.get_mut(place) {
                        key.policy = *policy;
                    }
                }
                Err(problem) => problems.push(problem),
            }
        }
    }
}

/// Where the column is, if it may be of this kind.
fn check_column(
    table: &Table,
    name: &str,
    kind: MergeKind,
    dialect: Dialect,
) -> Result<usize, RuleError> {
    let is_it = |column: &Column| column.name == name && !table.is_key(column.id);
    let found = table.columns.iter().enumerate();
    let mut found = found.filter(|(_, column)| is_it(column));
    let Some((place, column)) = found.next() else {
        return Err(RuleError::UnknownColumn {
            table: table.local_name(),
            column: name.to_owned(),
        });
    };
    let fits = match (kind, column.kind) {
        (MergeKind::Register, _)
        | (MergeKind::Counter, ColumnType::Integer)
        | (MergeKind::Set, ColumnType::Json) => true,
        (MergeKind::Set, ColumnType::Text) => dialect == Dialect::Sqlite,
        _ => false,
    };
    let wanted = match (kind, dialect) {
        (MergeKind::Set, Dialect::Postgres) => "make it jsonb",
        (MergeKind::Set, Dialect::Sqlite) => "make it JSON or TEXT",
        _ => "make it an integer type",
    };
    fits.then_some(place).ok_or_else(|| RuleError::UnfitColumn {
        table: table.local_name(),
        column: name.to_owned(),
        declared: column.declared_type.clone(),
        kind: kind.word(),
        wanted,
    })
}

/// Where the foreign key is, if it may have this policy.
fn check_reference(
    table: &Table,
    schema: &Schema,
    columns: &str,
    policy: ReferencePolicy,
) -> Result<usize, RuleError> {
    let names = |ids: &[anabranch_crdt::ColumnId]| {
        let names = ids.iter().filter_map(|id| table.column(*id));
        let names: Vec<&str> = names.map(|column| column.name.as_str()).collect();
        names.join(",")
    };
    let keys = table.foreign_keys.iter().enumerate();
    let mut keys = keys.filter(|(_, key)| {
        let parent = schema.table(key.parent);
        names(&key.columns) == columns && parent.is_some_and(|parent| key.refers_to_key(parent))
    });
    let Some((place, key)) = keys.next() else {
        return Err(RuleError::UnknownReference {
            table: table.local_name(),
            columns: columns.to_owned(),
        });
    };
    let nullable = |id: &anabranch_crdt::ColumnId| {
        table.column(*id).is_some_and(|column| column.nullable) && !table.is_key(*id)
    };
    let wanted = match (policy, key.on_delete) {
        (ReferencePolicy::Revive, _) | (ReferencePolicy::Cascade, ReferentialAction::Cascade) => {
            None
        }
        (ReferencePolicy::Cascade, _) => Some("declare it ON DELETE CASCADE"),
        (ReferencePolicy::SetNull, ReferentialAction::SetNull) => {
            (!key.columns.iter().all(nullable))
                .then_some("let its columns be NULL, and none be part of the primary key")
        }
        (ReferencePolicy::SetNull, _) => Some("declare it ON DELETE SET NULL"),
    };
    wanted.map_or(Ok(place), |wanted| {
        Err(RuleError::UnfitReference {
            table: table.local_name(),
            columns: columns.to_owned(),
            policy: policy.word(),
            wanted,
        })
    })
}

/// The first column that is replicated already and was to become of another kind.
pub fn check_kinds(held: &Schema, wanted: &Schema) -> Result<(), RuleError> {
    for table in &wanted.tables {
        let Some(before) = held.table(table.id) else {
            continue;
        };
        for column in &table.columns {
            let was = before.column(column.id).map(|column| column.merge);
            if let Some(was) = was.filter(|was| *was != column.merge) {
                return Err(RuleError::KindChanged {
                    table: table.local_name(),
                    column: column.name.clone(),
                    held: was.word(),
                    wanted: column.merge.word(),
                });
            }
        }
    }
    Ok(())
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for entry in self.entries() {
            writeln!(
                f,
                "{} {} {} {}",
                entry.table, entry.subject, entry.name, entry.word
            )?;
        }
        Ok(())
    }
}
