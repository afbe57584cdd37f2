//! The thread that writes the state: changes that came in together reach the disk by one flush. It asks the
//! ledger and the limits for their rows by itself: calls must not wait for it, nor it for a moment without
//! calls.
//!
//! Owns: the open database, the order of writes. Never touches: what they mean.

use std::collections::HashSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvError, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::account::ledger::Row;
use crate::clock::monotonic;
use crate::store::generations::{All, Change, Reach};
use crate::store::state::{LEAST_KEY, encode, key};

/// Gives the rows that changed since it was asked last; those of the last time are on disk by then.
pub(super) type Changed = Box<dyn Fn() -> Vec<Row> + Send>;

/// How often it is asked: a crash loses so much of the ledger at most.
const ASK_EVERY: Duration = Duration::from_millis(300);

/// How soon after the last time it is asked when a nudge came. Where encoding the rows takes long, the
/// pause grows with it: it takes a fifth of a processor at most.
const SOON: Duration = Duration::from_millis(10);
const SHARE: u32 = 5;

/// What the thread is told.
pub(super) enum Command {
    /// Keep this.
    Keep(Change),
    /// Keep these generations and no others.
    Replace(All),
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
pub(super) struct Keeper {
    commands: Sender<Command>,
}

impl Keeper {
    /// Starts the thread on an open database.
    pub(super) fn start(
        db: sled::Db,
        targets: impl Iterator<Item = u128>,
        ill: Arc<Mutex<Option<String>>>,
    ) -> io::Result<Self> {
        let (commands, incoming) = mpsc::channel();
        let (nudged, unflushed, took) = (false, false, Duration::ZERO);
        let (targets, watched, asked) = (targets.collect(), Vec::new(), monotonic());
        let mut kept = Kept { db, targets, watched, asked, took, nudged, unflushed };
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

/// The database, and whose generations are in it.
struct Kept {
    db: sled::Db,
    targets: HashSet<u128>,
    watched: Vec<(&'static [u8], Changed)>,
    /// When those were asked last, how long that took, and whether they are to be asked soon.
    asked: Instant,
    took: Duration,
    nudged: bool,
    /// Whether rows were kept that no flush has followed yet.
    unflushed: bool,
}

/// Until it is stopped, or nobody is left to say anything.
fn run(
    kept: &mut Kept,
    incoming: &Receiver<Command>,
    ill: &Mutex<Option<String>>,
) -> Option<Sender<()>> {
    let mut stopped = None;
    while stopped.is_none() {
        let Ok(first) = kept.next(incoming) else { break };
        let mut waiting = Vec::new();
        let mut outcome = Ok(());
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
                Command::Keep(change) => {
                    outcome = outcome.and_then(|()| caught(|| kept.keep(change)));
                }
                Command::Replace(all) => {
                    outcome = outcome.and_then(|()| caught(|| kept.replace(&all)));
                }
            }
            next = incoming.try_recv().ok();
        }
        if stopped.is_some() || !waiting.is_empty() || kept.ask_in().is_zero() {
            outcome = outcome.and_then(|()| caught(|| kept.ask()));
        }
        if !waiting.is_empty() || kept.unflushed {
            outcome = outcome.and_then(|()| caught(|| kept.flush()));
        }
        let told = note(outcome, ill);
        for done in waiting {
            let _gone = done.send(told.clone());
        }
    }
    if let Err(why) = caught(|| kept.ask().and_then(|()| kept.flush())) {
        tracing::error!(%why, "The state could not be written at the end");
    }
    stopped
}

/// An error stays: what one write lost, a later flush does not bring back.
fn note(outcome: Result<(), String>, ill: &Mutex<Option<String>>) -> Result<(), String> {
    let mut ill = ill.lock();
    if let Err(why) = outcome {
        if ill.is_none() {
            tracing::error!(
                %why,
                "The state cannot be written: neither purges nor what is spent and held will outlast a \
                 restart"
            );
        }
        *ill = Some(why);
    }
    ill.clone().map_or(Ok(()), Err)
}

impl Kept {
    /// The next command; `None`: it is time to ask for what has changed.
    fn next(&self, incoming: &Receiver<Command>) -> Result<Option<Command>, RecvError> {
        if self.watched.is_empty() {
            return incoming.recv().map(Some);
        }
        match incoming.recv_timeout(self.ask_in()) {
            Ok(command) => Ok(Some(command)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(RecvError),
        }
    }

    fn ask_in(&self) -> Duration {
        let soon = self.took.saturating_mul(SHARE).clamp(SOON, ASK_EVERY);
        let every = if self.nudged { soon } else { ASK_EVERY };
        every.saturating_sub(monotonic().saturating_duration_since(self.asked))
    }

    /// Writes the rows that changed. They are flushed before this asks again, and their givers rely on
    /// that.
    fn ask(&mut self) -> sled::Result<()> {
        let begun = monotonic();
        (self.asked, self.nudged) = (begun, false);
        for (kind, changed) in &self.watched {
            for Row { key, value } in changed() {
                self.unflushed = true;
                let key = [*kind, &key].concat();
                match value {
                    Some(value) => drop(self.db.insert(key, value)?),
                    None => drop(self.db.remove(key)?),
                }
            }
        }
        self.asked = monotonic();
        self.took = self.asked.saturating_duration_since(begun);
        Ok(())
    }

    fn keep(&mut self, Change { reach, generation }: Change) -> sled::Result<()> {
        self.db.insert(key(reach), &encode(generation))?;
        if let Reach::Target(target) = reach {
            self.targets.insert(target);
        }
        Ok(())
    }

    /// First what covers, then what is covered goes: whenever the process is cut, nothing comes back.
    fn replace(&mut self, all: &All) -> sled::Result<()> {
        self.keep(Change { reach: Reach::All, generation: all.all })?;
        for (target, generation) in &all.targets {
            self.keep(Change { reach: Reach::Target(*target), generation: *generation })?;
        }
        let gone: Vec<u128> =
            self.targets.iter().filter(|one| !all.targets.contains_key(one)).copied().collect();
        if gone.is_empty() {
            return Ok(());
        }
        self.targets.retain(|target| all.targets.contains_key(target));
        self.flush()?;
        for target in gone {
            self.db.remove(key(Reach::Target(target)))?;
        }
        Ok(())
    }

    /// The number reaches the disk with or after what it counts, and before any of that goes.
    fn flush(&mut self) -> sled::Result<()> {
        let least = u32::try_from(self.targets.len()).unwrap_or(u32::MAX);
        self.db.insert(LEAST_KEY, &least.to_be_bytes())?;
        self.db.flush()?;
        self.unflushed = false;
        Ok(())
    }
}

fn caught(act: impl FnOnce() -> sled::Result<()>) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_panic) => Err("the database gave up".to_owned()),
    }
}
