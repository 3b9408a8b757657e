//! Rows that a REPLACE evicts because they stand in the way in another UNIQUE index than the key's.
//!
//! SQLite fires no delete trigger for them unless the writing connection has `recursive_triggers`
//! on, which is off by default. So a table with such an index, which only the file's user can have
//! made, gets triggers that look before a write for the rows that it may evict, and note them as
//! deleted. Sealing passes over those that are still there.

use rusqlite::Connection;

use super::{
    TablesError,
    table::{TableSql, dead_column, dead_table, list, quote},
    triggers::{DELETE, mark_from},
};

/// A UNIQUE index beside the primary key's: its columns with their collations. Of a partial index
/// all rows are looked at; expressions are left out.
pub(super) struct UniqueIndex {
    columns: Vec<(String, String)>,
    has_expressions: bool,
}

/// The UNIQUE indexes of a table. One over nothing but expressions is not among them: what is
/// evicted through it, the doctor finds.
pub(super) fn unique_indexes(
    conn: &Connection,
    table: &TableSql,
) -> Result<Vec<UniqueIndex>, TablesError> {
    let mut indexes = conn.prepare_cached(
        "SELECT name FROM pragma_index_list(?1) WHERE \"unique\" AND origin <> 'pk' ORDER BY name",
    )?;
    let mut columns = conn
        .prepare_cached("SELECT name, coll FROM pragma_index_xinfo(?1) WHERE key ORDER BY seqno")?;
    let names = indexes.query_map([table.table.local_name()], |row| row.get::<_, String>(0))?;
    let mut out = Vec::new();
    for name in names {
        let found = columns.query_map([name?], |row| {
            let name: Option<String> = row.get(0)?;
            Ok(name.zip(row.get(1)?))
        })?;
        let found = found.collect::<Result<Vec<_>, _>>()?;
        let has_expressions = found.contains(&None);
        let columns: Vec<(String, String)> = found.into_iter().flatten().collect();
        if !columns.is_empty() {
            out.push(UniqueIndex {
                columns,
                has_expressions,
            });
        }
    }
    Ok(out)
}

/// The triggers that note what a write to the table may evict, by name.
pub(super) fn evictions(table: &TableSql, indexes: &[UniqueIndex]) -> Vec<(String, String)> {
    if indexes.is_empty() {
        return Vec::new();
    }
    let itself = table
        .keys
        .iter()
        .map(|column| format!("{0} IS OLD.{0}", column.name));
    let itself = itself.collect::<Vec<_>>().join(" AND ");
    let columns = table.table.columns.iter();
    let columns: Vec<String> = columns.map(|column| quote(&column.name)).collect();
    let indexed = indexes.iter().flat_map(|index| &index.columns);
    let indexed: Vec<String> = indexed.map(|(name, _)| quote(name)).collect();
    let update = if indexes.iter().any(|index| index.has_expressions) {
        "UPDATE".to_owned()
    } else {
        format!("UPDATE OF {}", list(&indexed))
    };
    let others = format!(" AND NOT ({itself})");
    let trigger = |what: &str, event: &str, condition: &str| {
        let name = format!("anabranch_{}_{what}", table.id().0);
        let on = quote(&table.table.local_name());
        let rows = indexes.iter().map(|index| index.rows(&on, condition));
        let rows: Vec<String> = rows.collect();
        let any = rows.iter().map(|rows| format!("EXISTS (SELECT 1 {rows})"));
        let when = any.collect::<Vec<_>>().join(" OR ");
        let body: String = rows
            .iter()
            .map(|rows| note(table, &columns, rows))
            .collect();
        let sql =
            format!("CREATE TRIGGER {name} BEFORE {event} ON {on} WHEN {when} BEGIN {body}END");
        (name, sql)
    };
    vec![
        trigger("evict", "INSERT", ""),
        trigger("evict_update", &update, &others),
    ]
}

impl UniqueIndex {
    /// `FROM` and `WHERE` of the rows that have in this index what the new row will have. NULLs
    /// equal nothing, as in the index.
    fn rows(&self, table: &str, condition: &str) -> String {
        let same = self.columns.iter().map(|(name, collation)| {
            let (name, collation) = (quote(name), quote(collation));
            format!("{name} COLLATE {collation} = NEW.{name}")
        });
        let same = same.collect::<Vec<_>>().join(" AND ");
        format!("FROM {table} WHERE {same}{condition}")
    }
}

/// Notes rows as deleted and saves them.
fn note(table: &TableSql, columns: &[String], rows: &str) -> String {
    let dead = dead_table(table.id());
    let dead_keys = list(table.keys.iter().map(|column| &column.dead));
    let keys = list(table.keys.iter().map(|column| &column.name));
    let dead_columns: Vec<String> = table
        .table
        .columns
        .iter()
        .map(|column| dead_column(column.id))
        .collect();
    // A row with a NULL in its key is nobody's.
    let whole = table.keys.iter();
    let whole: String = whole
        .map(|column| format!(" AND {} IS NOT NULL", column.name))
        .collect();
    format!(
        "DELETE FROM {dead} WHERE ({dead_keys}) IN (SELECT {keys} {rows}); \
         INSERT INTO {dead}({}) SELECT {} {rows}{whole}; {}",
        list(&dead_columns),
        list(columns),
        mark_from(table, DELETE, rows)
    )
}
