//! A shell that outlives its owner, to end the server and remove the directory.
//!
//! Destructors are not enough: statics are never dropped, and a test that is killed drops nothing.
//! The guardian reads the server's process id from a pipe; the pipe's end means that the owner has
//! let go or has died, and either way the guardian cleans up.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
};

use super::{ClusterError, error::Doing};

/// Ends the server and removes the directory once its owner lets go of it or dies.
#[derive(Debug)]
pub(super) struct Guardian {
    shell: Child,
    pipe: Option<ChildStdin>,
}

impl Guardian {
    /// Takes charge of `directory`.
    pub(super) fn start(directory: &Path) -> Result<Self, ClusterError> {
        let mut shell = Command::new("sh")
            .args(["-c", SCRIPT, "anabranch-cluster-guardian"])
            .arg(directory)
            .current_dir("/")
            // An interrupt at the terminal is for the owner to handle.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .doing("start the shell that cleans up after a cluster")?;
        let pipe = shell.stdin.take();
        Ok(Self { shell, pipe })
    }

    /// Takes charge of the server with the process id `pid`.
    pub(super) fn watch(&mut self, pid: u32) -> Result<(), ClusterError> {
        self.tell(&pid.to_string())
    }

    /// The server has ended, and its process id may soon be another program's.
    pub(super) fn forget(&mut self) -> Result<(), ClusterError> {
        self.tell("")
    }

    /// Has it clean up, and waits for that.
    pub(super) fn finish(&mut self) {
        drop(self.pipe.take());
        let _ = self.shell.wait();
    }

    fn tell(&mut self, line: &str) -> Result<(), ClusterError> {
        match &mut self.pipe {
            Some(pipe) => writeln!(pipe, "{line}").doing("reach the cluster's guardian"),
            None => Ok(()),
        }
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.finish();
    }
}

/// An immediate shutdown, since nobody will read the data again. The server removes its pid file as
/// it goes, which shows that it has gone even while its parent has not yet collected it.
const SCRIPT: &str = r#"
pid=
while read -r line; do pid=$line; done
if [ -n "$pid" ]; then
    kill -s QUIT "$pid"
    tries=0
    while [ -e "$1/data/postmaster.pid" ] && [ "$tries" -lt 100 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    [ -e "$1/data/postmaster.pid" ] && kill -s KILL "$pid"
fi
rm -rf "$1"
"#;
