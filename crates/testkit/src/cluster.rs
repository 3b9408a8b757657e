//! A private Postgres: a temporary directory, a server of its own in it, and nothing left behind
//! however the owner ends. Not for data that anybody wants to keep: `fsync` is off.
//!
//! The server listens on a Unix socket in that directory, which nobody else finds, and on a TCP
//! port of 127.0.0.1 only where [`ClusterOptions::tcp_password`] asks for one.

mod binaries;
mod error;
mod guardian;
mod options;
mod process;
mod shared;

use std::{
    fs,
    io::{Seek, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

pub use self::{
    binaries::{NotFound, PgBinaries},
    error::ClusterError,
    options::{ClusterOptions, WalLevel},
    shared::shared_cluster,
};
use self::{error::Doing, guardian::Guardian, process::ServerUser};

/// The role that owns every cluster; over the socket it needs no password.
pub const SUPERUSER: &str = "postgres";

/// A Postgres server of one's own. Dropping it stops the server and removes the directory.
#[derive(Debug)]
pub struct Cluster {
    binaries: PgBinaries,
    options: ClusterOptions,
    directory: PathBuf,
    user: Option<ServerUser>,
    port: u16,
    guardian: Guardian,
    server: Option<Child>,
    databases_made: AtomicU32,
}

impl Cluster {
    /// Makes a cluster and starts its server. Takes about as long as `initdb`: some seconds.
    pub fn start(binaries: &PgBinaries, options: ClusterOptions) -> Result<Self, ClusterError> {
        let directory = make_directory()?;
        let guardian = Guardian::start(&directory)?;
        let user = process::server_user(&directory)?;
        let mut cluster = Self {
            binaries: binaries.clone(),
            options,
            directory,
            user,
            port: DEFAULT_PORT,
            guardian,
            server: None,
            databases_made: AtomicU32::new(0),
        };
        cluster.initialise()?;
        cluster.start_on_a_free_port()?;
        Ok(cluster)
    }

    /// The connection string of a database, for libpq and tokio-postgres, as [`SUPERUSER`].
    pub fn url(&self, database: &str) -> String {
        self.url_as(SUPERUSER, database)
    }

    /// The connection string of a database as another role, without a password.
    pub fn url_as(&self, role: &str, database: &str) -> String {
        let host = self.directory.display().to_string();
        self.connection_string(&host, role, database)
    }

    /// The connection string of a database over TCP, with the password, where the cluster listens
    /// on TCP.
    pub fn tcp_url(&self, database: &str) -> Option<String> {
        let password = self.options.tcp_password.as_deref()?;
        let url = self.connection_string("127.0.0.1", SUPERUSER, database);
        Some(format!("{url} password={}", quoted(password)))
    }

    /// The port: of the socket's name, and of TCP where the cluster listens there.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Creates an empty database.
    pub fn create_database(&self, name: &str) -> Result<(), ClusterError> {
        let name = name.replace('"', "\"\"");
        self.sql("postgres", &format!("create database \"{name}\""))
            .map(|_| ())
    }

    /// Creates an empty database with a name not used before in this cluster, and returns the name.
    pub fn fresh_database(&self) -> Result<String, ClusterError> {
        let number = self.databases_made.fetch_add(1, Ordering::Relaxed);
        let name = format!("fresh_{number}");
        self.create_database(&name)?;
        Ok(name)
    }

    /// Runs SQL through `psql`, stopping at the first error. Returns the rows as `psql` prints them
    /// unaligned: one a line, `|` between the values.
    pub fn sql(&self, database: &str, text: &str) -> Result<String, ClusterError> {
        // A file, not a pipe: nobody would drain the output while a long script is being written.
        let mut script = tempfile::tempfile().doing("create a temporary file for SQL")?;
        script
            .write_all(text.as_bytes())
            .doing("write the SQL to run")?;
        script.rewind().doing("rewind the SQL to run")?;
        let mut psql = process::command(self.binaries.psql(), None, &self.directory);
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"])
            .arg(self.url(database))
            .stdin(Stdio::from(script));
        process::run(&mut psql)
    }

    /// Stops the server in good order (`fast`: open sessions are cut, everything is written). Fails
    /// when the server has not stopped within a minute, as with a replication client that hangs.
    pub fn stop_fast(&mut self) -> Result<(), ClusterError> {
        let Some(server) = &mut self.server else {
            return Ok(());
        };
        process::signal("INT", &[server.id()])?;
        process::wait_for_exit(server, STOP_TIMEOUT)
            .map_err(|error| error.with_log(&self.directory))?;
        self.server = None;
        self.guardian.forget()
    }

    /// Kills the server and all its processes at once, as a crash of the machine's power would, but
    /// for what the operating system had accepted. Committed transactions survive it.
    pub fn kill(&mut self) -> Result<(), ClusterError> {
        let Some(server) = &mut self.server else {
            return Ok(());
        };
        process::kill_tree(server)?;
        self.server = None;
        self.guardian.forget()
    }

    /// Starts the server again after [`Cluster::stop_fast`] or [`Cluster::kill`], on the same port;
    /// recovers first where it must. Does nothing while the server runs.
    pub fn start_again(&mut self) -> Result<(), ClusterError> {
        if self.server.is_some() {
            return Ok(());
        }
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join(LOG_FILE))
            .doing("open the server's log")?;
        let mut postgres = self.server_command("postgres");
        postgres.arg("-D").arg(self.data_dir()).stdin(Stdio::null());
        postgres
            .stdout(log.try_clone().doing("open the server's log")?)
            .stderr(log);
        let data = self.data_dir();
        let server = self
            .server
            .insert(postgres.spawn().doing("start the server")?);
        self.guardian.watch(server.id())?;
        if let Err(error) = process::wait_until_ready(server, &data, START_TIMEOUT) {
            let error = error.with_log(&self.directory);
            self.kill()?;
            return Err(error);
        }
        Ok(())
    }

    /// The server's data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join(LOG_FILE)).unwrap_or_default()
    }

    /// The programs the cluster was made with.
    pub const fn binaries(&self) -> &PgBinaries {
        &self.binaries
    }

    fn initialise(&self) -> Result<(), ClusterError> {
        let mut initdb = self.server_command("initdb");
        initdb.args([
            "--no-sync",
            "--encoding=UTF8",
            "--locale=C",
            "--auth-local=trust",
        ]);
        initdb
            .args(["--auth-host=scram-sha-256", "-U", SUPERUSER, "-D"])
            .arg(self.data_dir());
        if let Some(password) = &self.options.tcp_password {
            let file = self.directory.join("password");
            fs::write(&file, password).doing("write the password for initdb")?;
            process::hand_over(&file, self.user)?;
            initdb.arg("--pwfile").arg(file);
        }
        process::run(&mut initdb).map(|_| ())
    }

    /// A free port may be taken by another program before the server binds it, so this tries again.
    fn start_on_a_free_port(&mut self) -> Result<(), ClusterError> {
        let fresh_configuration = fs::read_to_string(self.data_dir().join(CONFIGURATION_FILE))
            .doing("read the configuration that initdb wrote")?;
        let mut attempts_left = 3;
        loop {
            if self.options.tcp_password.is_some() {
                self.port = free_port()?;
            }
            let settings = self.options.configuration(&self.directory, self.port);
            fs::write(
                self.data_dir().join(CONFIGURATION_FILE),
                format!("{fresh_configuration}\n{settings}"),
            )
            .doing("write the server's configuration")?;
            attempts_left -= 1;
            match self.start_again() {
                Err(_) if attempts_left > 0 && self.log().contains("Address already in use") => {}
                outcome => return outcome,
            }
        }
    }

    /// One of the server's programs, to run as a user it agrees to run as.
    fn server_command(&self, program: &str) -> Command {
        process::command(
            &self.binaries.directory().join(program),
            self.user,
            &self.directory,
        )
    }

    fn connection_string(&self, host: &str, role: &str, database: &str) -> String {
        let (host, role, database) = (quoted(host), quoted(role), quoted(database));
        format!(
            "host={host} port={} user={role} dbname={database}",
            self.port
        )
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.guardian.finish();
        if let Some(server) = &mut self.server {
            // The guardian has ended it, unless somebody ended the guardian. What is left is to collect
            // its exit status.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn make_directory() -> Result<PathBuf, ClusterError> {
    let mut parent = std::env::temp_dir();
    if parent.as_os_str().len() > TEMPORARY_PATH_BYTES_MAX {
        parent = PathBuf::from("/tmp");
    }
    let directory = tempfile::Builder::new()
        .prefix("anabranch-pg-")
        .tempdir_in(&parent)
        .doing("create a temporary directory")?;
    Ok(directory.keep())
}

fn free_port() -> Result<u16, ClusterError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).doing("find a free TCP port")?;
    Ok(listener.local_addr().doing("find a free TCP port")?.port())
}

/// A value in a libpq connection string.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join(LOG_FILE)
}

const CONFIGURATION_FILE: &str = "postgresql.conf";
const LOG_FILE: &str = "server.log";

/// Only names the socket where the cluster does not listen on TCP.
const DEFAULT_PORT: u16 = 5432;

/// A Unix socket's path has at most 107 bytes; this leaves room for the directory's own name and
/// `/.s.PGSQL.65535`.
const TEMPORARY_PATH_BYTES_MAX: usize = 70;

/// Long enough for crash recovery on a machine that is busy building something.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Long enough for a checkpoint on a busy machine; a shutdown that takes longer waits for a client.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
