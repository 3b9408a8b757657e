//! The named values of a file: identity, clock, schema. One row each in `anabranch_meta`.

use rusqlite::{Connection, OptionalExtension, ToSql, types::FromSql};

use super::TablesError;

/// Version of the layout of the file.
pub const FORMAT: i64 = 2;

/// A named value; `None` if it was never set.
pub fn read<T: FromSql>(conn: &Connection, name: &str) -> Result<Option<T>, TablesError> {
    let mut query = conn.prepare_cached("SELECT value FROM anabranch_meta WHERE name = ?1")?;
    Ok(query.query_row([name], |row| row.get(0)).optional()?)
}

/// A number; 0 if it was never set.
pub fn number(conn: &Connection, name: &str) -> Result<i64, TablesError> {
    Ok(read(conn, name)?.unwrap_or(0))
}

/// Sets a named value.
pub fn write(conn: &Connection, name: &str, value: impl ToSql) -> Result<(), TablesError> {
    conn.prepare_cached(
        "INSERT INTO anabranch_meta(name, value) VALUES (?1, ?2) \
         ON CONFLICT(name) DO UPDATE SET value = excluded.value",
    )?
    .execute((name, value))?;
    Ok(())
}
