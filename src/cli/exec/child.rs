//! The process of the command: start, signals, wait.
//!
//! Owns: which signals are forwarded to it, and the exit code for its end.
//! Never touches: its variables (`exec_env`).

use std::ffi::OsString;
use std::fs;
use std::future::poll_fn;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::task::Poll;

use rustix::process::{Pid, Signal, getpgrp, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// The exit codes of shells for a command that is not found, and for one that cannot be started.
const NOT_FOUND: u8 = 127;
const NOT_STARTED: u8 = 126;

/// Starts `command` with these variables in addition to those of this process. The error has the reason and
/// the exit code for it.
pub(super) fn start(command: &[OsString], variables: &[(String, String)]) -> Result<Child, (String, u8)> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(("no command is given".to_owned(), NOT_FOUND));
    };
    let variables = variables.iter().map(|(name, value)| (name, value));
    let started = Command::new(program).args(arguments).envs(variables).spawn();
    started.map_err(|error| {
        let shown = program.to_string_lossy();
        if error.kind() == io::ErrorKind::NotFound {
            let fix = "no such command, or the interpreter in its first line does not exist: write its \
                       path, or put its directory into PATH";
            (format!("{shown}: {fix}"), NOT_FOUND)
        } else {
            (format!("{shown}: cannot be started: {error}"), NOT_STARTED)
        }
    })
}

/// Waits for its end, and forwards the signals that arrive meanwhile. Returns its exit code.
pub(super) async fn wait(child: &mut Child, signals: &mut Signals) -> u8 {
    loop {
        tokio::select! {
            status = child.wait() => return status.map_or(NOT_STARTED, exit_code),
            received = signals.next() => forward(child, received),
        }
    }
}

/// The exit code as in shells: 128 plus the signal's number for a command that a signal ended.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|number| 128 + number));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

fn forward(child: &Child, signal: Signal) {
    // The process ID cannot be reused before the child is waited for, even if it has ended.
    let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) else {
        return;
    };
    if is_sent_by_terminal(signal) {
        return;
    }
    if let Err(error) = kill_process(pid, signal) {
        tracing::warn!(%error, "Signal not forwarded");
    }
}

/// Whether the command has the signal already: Ctrl-C and Ctrl-\ reach every process in the terminal's
/// foreground. A second signal would end a command that the first one asked to finish.
pub(super) fn is_sent_by_terminal(signal: Signal) -> bool {
    (signal == Signal::INT || signal == Signal::QUIT) && is_in_foreground()
}

fn is_in_foreground() -> bool {
    let Ok(terminal) = fs::File::open("/dev/tty") else { return false };
    rustix::termios::tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp())
}

/// The signals that are forwarded to the command.
const FORWARDED: [Signal; 6] =
    [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2];

/// The signals that this process receives on behalf of the command.
pub(in crate::cli) struct Signals(Vec<(Signal, tokio::signal::unix::Signal)>);

impl Signals {
    /// Listens for all but the signals that this process ignores since its start (`nohup`): the command
    /// inherits the ignored ones, as long as this process does not listen for them.
    pub(in crate::cli) fn new() -> io::Result<Self> {
        let ignored = ignored();
        let mut all = Vec::new();
        for forwarded in FORWARDED {
            let number = forwarded.as_raw();
            if ignored & (1 << (number - 1)) == 0 {
                all.push((forwarded, signal(SignalKind::from_raw(number))?));
            }
        }
        Ok(Self(all))
    }

    /// Waits for the next signal.
    pub(super) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (forwarded, stream) in &mut self.0 {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(*forwarded);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// The ignored signals as a bit mask; 0 if the system does not report them.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}
