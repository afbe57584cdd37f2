//! The thread that writes the state. Changes that arrive together reach the disk with one flush. The thread
//! collects changed rows of costs and limits by itself: calls must not wait for it, and it must not wait for
//! a moment without calls.
//!
//! Owns: the thread, the time of its writes, the replies. Never touches: the database (`pending`).

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
use crate::telemetry::cost::StateRow;

/// Returns the rows that changed since the last call; those of the last call are on disk by then.
pub(super) type Changed = Box<dyn Fn() -> Vec<StateRow> + Send>;

/// A command to the thread.
pub(super) enum Command {
    /// Persist this.
    Persist(Change),
    /// Persist these generations and no others.
    Replace(Snapshot),
    /// Collect the changed rows of a kind from this function and persist them, again and again.
    Watch(&'static [u8], Changed),
    /// Collect changed rows soon.
    Nudge,
    /// Reply when everything before is on disk.
    Flush(oneshot::Sender<Result<(), String>>),
    /// Close the database and reply; later commands are lost.
    Stop(Sender<()>),
}

/// Handle of the thread.
pub(super) struct StateWriter {
    commands: Sender<Command>,
}

impl StateWriter {
    /// Starts the thread on the open database in `dir`.
    pub(super) fn start(
        dir: PathBuf,
        db: sled::Db,
        targets: impl Iterator<Item = u128>,
        failure: Arc<Mutex<Option<String>>>,
    ) -> io::Result<Self> {
        let (commands, incoming) = mpsc::channel();
        let mut state = WriterState::new(dir, db, targets);
        thread::Builder::new().name("larder-state".to_owned()).spawn(move || {
            let stopped = run(&mut state, &incoming, &failure);
            drop(state);
            if let Some(stopped) = stopped {
                let _receiver_gone = stopped.send(());
            }
        })?;
        Ok(Self { commands })
    }

    /// Sends a command to the thread; it is lost if the thread was stopped.
    pub(super) fn send(&self, command: Command) {
        let _ended = self.commands.send(command);
    }

    /// Stops the thread, and waits for its end at most this long.
    pub(super) fn stop(&self, within: Duration) {
        let (stopped, ended) = mpsc::channel();
        self.send(Command::Stop(stopped));
        if ended.recv_timeout(within) == Err(RecvTimeoutError::Timeout) {
            tracing::error!("The state could not be closed in time; what was acknowledged is safe");
        }
    }
}

/// Runs until a stop command, or until no sender is left.
fn run(
    state: &mut WriterState,
    incoming: &Receiver<Command>,
    failure: &Mutex<Option<String>>,
) -> Option<Sender<()>> {
    let mut stopped = None;
    while stopped.is_none() {
        let Ok(first) = state.next(incoming) else { break };
        let mut waiting = Vec::new();
        let mut next = first;
        while let Some(command) = next.take() {
            match command {
                Command::Flush(done) => waiting.push(done),
                Command::Stop(done) => {
                    stopped = Some(done);
                    break;
                }
                Command::Watch(kind, changed) => state.watched.push((kind, changed)),
                Command::Nudge => state.nudged = true,
                Command::Persist(change) => state.stage(change),
                Command::Replace(all) => state.replace(&all),
            }
            next = incoming.try_recv().ok();
        }
        let outcome = record_outcome(state.write(!waiting.is_empty()), failure);
        for done in waiting {
            let _gone = done.send(outcome.clone());
        }
    }
    state.try_now();
    if let Err(reason) = state.write(true) {
        tracing::error!(%reason, "The state could not be written at the end");
    }
    stopped
}

/// Logs when writes begin to fail, and when all pending writes are on disk again.
fn record_outcome(outcome: Result<(), String>, failure: &Mutex<Option<String>>) -> Result<(), String> {
    let mut failure = failure.lock();
    match &outcome {
        Err(reason) if failure.is_none() => tracing::error!(
            %reason,
            "The state cannot be written: until it can be, neither purges nor costs and cooldowns \
             survive a restart"
        ),
        Ok(()) if failure.is_some() => {
            tracing::warn!("The state is written again: nothing of it was lost");
        }
        Ok(()) | Err(_) => {}
    }
    *failure = outcome.clone().err();
    outcome
}
