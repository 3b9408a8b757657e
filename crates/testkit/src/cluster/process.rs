//! The processes of a cluster: as whom they run, how they are run, signalled and waited for.

use std::{
    env, fs,
    os::unix::{
        fs::{MetadataExt, chown},
        process::CommandExt,
    },
    path::Path,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use super::{ClusterError, error::Doing};

/// A user other than root, as whom the server agrees to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServerUser {
    uid: u32,
    gid: u32,
}

/// As whom to run the server, `None` meaning as oneself; and makes `directory` that user's. Nobody
/// else can look into it, but for root: that is what guards a socket that asks for no password.
pub(super) fn server_user(directory: &Path) -> Result<Option<ServerUser>, ClusterError> {
    // A directory just made belongs to whoever runs this.
    let own_uid = fs::metadata(directory)
        .doing("look at the temporary directory")?
        .uid();
    let user = if own_uid == 0 {
        Some(unprivileged_user()?)
    } else {
        None
    };
    hand_over(directory, user)?;
    Ok(user)
}

/// Makes a file or directory the server's.
pub(super) fn hand_over(path: &Path, user: Option<ServerUser>) -> Result<(), ClusterError> {
    match user {
        Some(user) => chown(path, Some(user.uid), Some(user.gid))
            .doing(&format!("give {} to the server's user", path.display())),
        None => Ok(()),
    }
}

/// `postgres` where it exists, since its packages made it for this; `nobody` works as well. A user
/// id that is not in the list of users does not: Postgres looks its own name up.
fn unprivileged_user() -> Result<ServerUser, ClusterError> {
    let users = fs::read_to_string("/etc/passwd").doing("read /etc/passwd")?;
    ["postgres", "nobody"]
        .iter()
        .find_map(|name| users.lines().find_map(|line| parse_user(line, name)))
        .ok_or(ClusterError::NoUnprivilegedUser)
}

fn parse_user(line: &str, wanted: &str) -> Option<ServerUser> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let _password = fields.next()?;
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    (name == wanted).then_some(ServerUser { uid, gid })
}

/// A program of Postgres, run as `user`, undisturbed by the caller's own libpq settings.
pub(super) fn command(program: &Path, user: Option<ServerUser>, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(directory)
        .process_group(0)
        .env("LC_ALL", "C");
    let own_settings = env::vars_os().map(|(name, _)| name);
    for name in own_settings.filter(|name| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// Runs a program to its end and returns what it printed.
pub(super) fn run(command: &mut Command) -> Result<String, ClusterError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().doing(&format!("run {program}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(ClusterError::Failed {
        program,
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Sends a signal. The shell has `kill` built in, while some systems have no program of that name.
pub(super) fn signal(name: &str, pids: &[u32]) -> Result<(), ClusterError> {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"kill -s "$@""#, "sh", name]);
    run(shell.args(pids.iter().map(u32::to_string))).map(|_| ())
}

/// Waits until the server answers, which it says in the eighth line of its pid file.
pub(super) fn wait_until_ready(
    server: &mut Child,
    data: &Path,
    timeout: Duration,
) -> Result<(), ClusterError> {
    let pid = server.id().to_string();
    wait_for("start", timeout, || {
        if let Some(status) = server.try_wait().doing("wait for the server")? {
            return Err(ClusterError::Ended {
                status: status.to_string(),
                log: String::new(),
            });
        }
        let file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        let mut lines = file.lines().map(str::trim);
        // After a crash the file of the server before may still be there.
        Ok(lines.next() == Some(&pid) && lines.nth(6) == Some("ready"))
    })
}

/// Waits until the server has ended.
pub(super) fn wait_for_exit(server: &mut Child, timeout: Duration) -> Result<(), ClusterError> {
    wait_for("stop", timeout, || {
        Ok(server.try_wait().doing("wait for the server")?.is_some())
    })
}

/// Kills the server and its children, all of them before any can react.
pub(super) fn kill_tree(server: &mut Child) -> Result<(), ClusterError> {
    if server.try_wait().doing("wait for the server")?.is_some() {
        return Ok(());
    }
    // Stopped, it can have no more children while they are being counted.
    signal("STOP", &[server.id()])?;
    let children = children_of(server.id());
    server.kill().doing("kill the server")?;
    for child in &children {
        // One that has ended by itself meanwhile is none to worry about.
        let _ = signal("KILL", &[*child]);
    }
    server.wait().doing("wait for the server")?;
    wait_for("stop", KILL_TIMEOUT, || {
        Ok(!children.iter().any(|child| is_running(*child)))
    })
}

/// The children of a process, from `/proc`. Without that there are none to be found, and the
/// server's children end by themselves when they notice that it is gone.
fn children_of(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| state_and_parent(*pid).is_some_and(|(_, held)| held == parent))
        .collect()
}

/// Whether a process still holds anything: one that has ended but is not collected does not.
fn is_running(pid: u32) -> bool {
    state_and_parent(pid).is_some_and(|(state, _)| state != "Z" && state != "X")
}

fn state_and_parent(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, so the fields start after the last of them.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.to_owned();
    Some((state, fields.next()?.parse().ok()?))
}

fn wait_for(
    doing: &'static str,
    timeout: Duration,
    mut done: impl FnMut() -> Result<bool, ClusterError>,
) -> Result<(), ClusterError> {
    let start = Instant::now();
    while !done()? {
        if start.elapsed() > timeout {
            let seconds = timeout.as_secs();
            return Err(ClusterError::TimedOut {
                doing,
                seconds,
                log: String::new(),
            });
        }
        thread::sleep(POLL_INTERVAL);
    }
    Ok(())
}

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A killed process goes as soon as the kernel gets to it.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);
