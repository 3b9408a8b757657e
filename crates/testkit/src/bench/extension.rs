//! Loading a SQLite extension into a connection. Nothing else of this crate needs `unsafe`.

use std::path::Path;

use rusqlite::{Connection, LoadExtensionGuard};

/// Loads the extension at `path`.
#[expect(
    unsafe_code,
    reason = "what a library does once it is loaded nobody can promise"
)]
pub(super) fn load(conn: &Connection, path: &Path) -> rusqlite::Result<()> {
    // SAFETY: Loading runs the library's code in this process, and whoever names it in the
    // environment vouches for it. No SQL runs while loading is allowed, so nothing else is loaded:
    // the guard forbids it again when it is dropped.
    unsafe {
        let _guard = LoadExtensionGuard::new(conn)?;
        conn.load_extension(path, None::<&str>)
    }
}
