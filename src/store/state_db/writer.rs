//! The thread that writes the state: changes that came in together reach the disk by one flush. It asks the
//! ledger and the limits for their rows by itself: calls must not wait for it, nor it for a moment without
//! calls.
//!
//! Owns: the thread, when it writes, who is told of the outcome. Never touches: the database (`kept`).

mod pending;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::store::generations::{Change, Snapshot};
use crate::store::state_db::writer::pending::WriterState;
use crate::telemetry::cost::UsageRow;

/// Gives the rows that changed since it was asked last; those of the last time are on disk by then.
pub(super) type Changed = Box<dyn Fn() -> Vec<UsageRow> + Send>;

/// What the thread is told.
pub(super) enum Command {
    /// Keep this.
    Keep(Change),
    /// Keep these generations and no others.
    Replace(Snapshot),
    /// Ask this for the rows of a kind that changed, and keep them, again and again.
    Watch(&'static [u8], Changed),
    /// Ask soon.
    Nudge,
    /// Say when everything before is on disk.
    Settle(oneshot::Sender<Result<(), String>>),
    /// Close the database and say so; whatever comes later is lost.
    Stop(Sender<()>),
}

/// The thread, as its owner sees it.
pub(super) struct StateWriter {
    commands: Sender<Command>,
}

impl StateWriter {
    /// Starts the thread on the open database in `dir`.
    pub(super) fn start(
        dir: PathBuf,
        db: sled::Db,
        targets: impl Iterator<Item = u128>,
        ill: Arc<Mutex<Option<String>>>,
    ) -> io::Result<Self> {
        let (commands, incoming) = mpsc::channel();
        let mut kept = WriterState::new(dir, db, targets);
        thread::Builder::new().name("larder-state".to_owned()).spawn(move || {
            let stopped = run(&mut kept, &incoming, &ill);
            drop(kept);
            if let Some(stopped) = stopped {
                let _nobody_waits = stopped.send(());
            }
        })?;
        Ok(Self { commands })
    }

    /// Tells the thread something; nobody listens once it was stopped.
    pub(super) fn send(&self, command: Command) {
        let _ended = self.commands.send(command);
    }

    /// Lets the thread finish, and waits for it no longer than this.
    pub(super) fn stop(&self, within: Duration) {
        let (stopped, ended) = mpsc::channel();
        self.send(Command::Stop(stopped));
        if ended.recv_timeout(within) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("The state could not be closed in time; what was acknowledged is safe");
        }
    }
}

/// Until it is stopped, or no sender is left.
fn run(
    kept: &mut WriterState,
    incoming: &Receiver<Command>,
    ill: &Mutex<Option<String>>,
) -> Option<Sender<()>> {
    let mut stopped = None;
    while stopped.is_none() {
        let Ok(first) = kept.next(incoming) else { break };
        let mut waiting = Vec::new();
        let mut next = first;
        while let Some(command) = next.take() {
            match command {
                Command::Settle(done) => waiting.push(done),
                Command::Stop(done) => {
                    stopped = Some(done);
                    break;
                }
                Command::Watch(kind, changed) => kept.watched.push((kind, changed)),
                Command::Nudge => kept.nudged = true,
                Command::Keep(change) => kept.keep(change),
                Command::Replace(all) => kept.replace(&all),
            }
            next = incoming.try_recv().ok();
        }
        let told = note(kept.write(!waiting.is_empty()), ill);
        for done in waiting {
            let _gone = done.send(told.clone());
        }
    }
    kept.try_now();
    if let Err(why) = kept.write(true) {
        tracing::error!(%why, "The state could not be written at the end");
    }
    stopped
}

/// Says so when writing begins to fail, and when all that could not be written is on disk.
fn note(outcome: Result<(), String>, ill: &Mutex<Option<String>>) -> Result<(), String> {
    let mut ill = ill.lock();
    match &outcome {
        Err(why) if ill.is_none() => tracing::error!(
            %why,
            "The state cannot be written: until it can be, neither purges nor what is spent and held \
             will outlast a restart"
        ),
        Ok(()) if ill.is_some() => {
            tracing::warn!("The state is written again: nothing of it was lost");
        }
        Ok(()) | Err(_) => {}
    }
    *ill = outcome.clone().err();
    outcome
}
