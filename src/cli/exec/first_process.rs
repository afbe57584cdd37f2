//! `larder exec` as the first process of a container: it adopts the orphans of all other processes.
//!
//! Owns: reaping them, and forwarding signals. Never touches: the command: a second process of larder runs it
//! as everywhere, and waits only for its own children.

use std::env;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};

use rustix::process::{Pid, WaitOptions, getpid, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::exec::child::{self, Signals};

/// Runs this program again as a child, reaps until it ends, and returns its exit code. `None`: this is not
/// the first process, or the child cannot be started.
pub(super) fn run_as_child() -> Option<u8> {
    if !getpid().is_init() {
        return None;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime.and_then(|runtime| runtime.block_on(reap_until_end()));
    ended.inspect_err(|error| tracing::warn!(%error, "Orphans are not reaped")).ok()
}

async fn reap_until_end() -> io::Result<u8> {
    let mut signals = Signals::new()?;
    // Before the start, so that no end is missed.
    let mut ends = signal(SignalKind::child())?;
    let mut command = Command::new(env::current_exe()?);
    let larder = command.args(env::args_os().skip(1)).spawn()?;
    let pid = pid_of(&larder)?;
    loop {
        tokio::select! {
            _ = ends.recv() => {
                if let Some(code) = reap(pid)? {
                    return Ok(code);
                }
            }
            received = signals.next() => {
                if !child::is_sent_by_terminal(received) {
                    // It may have ended just now.
                    let _sent = kill_process(pid, received);
                }
            }
        }
    }
}

fn pid_of(child: &Child) -> io::Result<Pid> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Reaps every process that has ended. Returns the exit code of `larder` if it is one of them.
fn reap(larder: Pid) -> io::Result<Option<u8>> {
    let mut code = None;
    while let Some((pid, status)) = wait(WaitOptions::NOHANG)? {
        if pid == larder {
            code = Some(child::exit_code(ExitStatus::from_raw(status.as_raw())));
            break;
        }
    }
    Ok(code)
}
