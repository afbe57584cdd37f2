//! The command: started, told of signals, waited for.
//!
//! Owns: which signals it is sent, and the exit code that stands for its end.
//! Never touches: its variables (`launch`).

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

/// The exit code of an ended command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct ExitCode(pub(in crate::cli) u8);

/// What shells say of a command that is not there, and of one that cannot be started.
const NOT_FOUND: u8 = 127;
const NOT_STARTED: u8 = 126;

/// Starts `command` with these variables besides the ones of this process; or why not, and the exit
/// code that says so.
pub(super) fn start(
    command: &[OsString],
    variables: &[(String, String)],
) -> Result<Child, (String, u8)> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(("no command is named".to_owned(), NOT_FOUND));
    };
    let variables = variables.iter().map(|(name, value)| (name, value));
    let started = Command::new(program).args(arguments).envs(variables).spawn();
    started.map_err(|error| {
        let shown = program.to_string_lossy();
        if error.kind() == io::ErrorKind::NotFound {
            let fix = "no such command, or what its first line names is not there: write its path, \
                       or put its directory into PATH";
            (format!("{shown}: {fix}"), NOT_FOUND)
        } else {
            (format!("{shown}: cannot be started: {error}"), NOT_STARTED)
        }
    })
}

/// Waits for its end; signals that come meanwhile are for it.
pub(super) async fn wait(child: &mut Child, signals: &mut Signals) -> ExitCode {
    loop {
        tokio::select! {
            status = child.wait() => return ExitCode(status.map_or(NOT_STARTED, code)),
            told = signals.next() => forward(child, told),
        }
    }
}

/// As shells do it: 128 and the signal's number.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|number| 128 + number));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

fn forward(child: &Child, told: Signal) {
    // Ended, but not yet waited for: its number is not reused before.
    let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) else {
        return;
    };
    if is_of_terminal(told) {
        return;
    }
    if let Err(error) = kill_process(pid, told) {
        tracing::warn!(%error, "Signal not passed on");
    }
}

/// Ctrl-C and Ctrl-\ reach everybody in the terminal's foreground, so the command has had it: a
/// second one ends what the first let finish.
fn is_of_terminal(told: Signal) -> bool {
    (told == Signal::INT || told == Signal::QUIT) && is_in_foreground()
}

fn is_in_foreground() -> bool {
    let Ok(terminal) = fs::File::open("/dev/tty") else { return false };
    rustix::termios::tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp())
}

/// The signals that a command may be sent.
const PASSED_ON: [Signal; 6] =
    [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2];

/// The signals that come to this process instead of the command.
pub(in crate::cli) struct Signals(Vec<(Signal, tokio::signal::unix::Signal)>);

impl Signals {
    /// Listens for all but those that this process was started to ignore (`nohup`): the command
    /// inherits that, as long as nobody listens for them here.
    pub(in crate::cli) fn new() -> io::Result<Self> {
        let ignored = ignored();
        let mut all = Vec::new();
        for told in PASSED_ON {
            let number = told.as_raw();
            if ignored & (1 << (number - 1)) == 0 {
                all.push((told, signal(SignalKind::from_raw(number))?));
            }
        }
        Ok(Self(all))
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (told, stream) in &mut self.0 {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(*told);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// A bit for each ignored signal; where the system does not tell, none.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}
