//! The thread that writes the state: changes that came in together reach the disk by one flush. It asks the
//! ledger and the limits for their rows by itself: calls must not wait for it, nor it for a moment without
//! calls. What cannot be written, for want of room say, is kept here and written once it can be.
//!
//! Owns: the open database, the order of writes, what is not on disk yet. Never touches: what they mean.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvError, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::account::ledger::Row;
use crate::clock::monotonic;
use crate::store::generations::{All, Change, Reach};
use crate::store::state::open::{Fault, again};
use crate::store::state::{LEAST_KEY, encode, key};

/// Gives the rows that changed since it was asked last; those of the last time are on disk by then.
pub(super) type Changed = Box<dyn Fn() -> Vec<Row> + Send>;

/// How often it is asked: a crash loses so much of the ledger at most.
const ASK_EVERY: Duration = Duration::from_millis(300);

/// How soon after the last time it is asked when a nudge came. Where encoding the rows takes long, the
/// pause grows with it: it takes a fifth of a processor at most.
const SOON: Duration = Duration::from_millis(10);
const SHARE: u32 = 5;

/// How long a state that cannot be written is left in peace before it is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(5);

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
    /// Starts the thread on the open database in `dir`.
    pub(super) fn start(
        dir: PathBuf,
        db: sled::Db,
        targets: impl Iterator<Item = u128>,
        ill: Arc<Mutex<Option<String>>>,
    ) -> io::Result<Self> {
        let (commands, incoming) = mpsc::channel();
        let mut kept = Kept::new(dir, db, targets);
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

/// The database, and what is not in it yet.
struct Kept {
    dir: PathBuf,
    db: Database,
    /// The targets that a generation is kept of.
    targets: HashSet<u128>,
    /// Whether generations of other targets are still to be removed from the database.
    sweeps: bool,
    /// Rows to be written, and rows that were written but may not be on disk yet. Their keys are those
    /// of `targets` and of one answer of each of `watched`: they are bounded as those are.
    unwritten: Writes,
    unflushed: Writes,
    watched: Vec<(&'static [u8], Changed)>,
    /// When those were asked last, how long that and writing took, and whether they are to be asked soon.
    asked: Instant,
    took: Duration,
    nudged: bool,
}

/// Keys and their values; `None`: the key is to be removed.
type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

enum Database {
    Open(sled::Db),
    /// sled writes nothing more after a write that failed: it has to be opened again.
    Lost {
        why: String,
        tried: Instant,
    },
}

/// Until it is stopped, or no sender is left.
fn run(
    kept: &mut Kept,
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

impl Kept {
    fn new(dir: PathBuf, db: sled::Db, targets: impl Iterator<Item = u128>) -> Self {
        Self {
            dir,
            db: Database::Open(db),
            targets: targets.collect(),
            sweeps: false,
            unwritten: Writes::new(),
            unflushed: Writes::new(),
            watched: Vec::new(),
            asked: monotonic(),
            took: Duration::ZERO,
            nudged: false,
        }
    }

    /// The next command; `None`: it is time to ask for what has changed, or to try again.
    fn next(&self, incoming: &Receiver<Command>) -> Result<Option<Command>, RecvError> {
        if self.watched.is_empty() && matches!(self.db, Database::Open(_)) {
            return incoming.recv().map(Some);
        }
        match incoming.recv_timeout(self.due_in()) {
            Ok(command) => Ok(Some(command)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(RecvError),
        }
    }

    fn due_in(&self) -> Duration {
        let (every, since) = match &self.db {
            Database::Lost { tried, .. } => (RETRY_EVERY, *tried),
            Database::Open(_) if self.nudged => {
                (self.took.saturating_mul(SHARE).clamp(SOON, ASK_EVERY), self.asked)
            }
            Database::Open(_) => (ASK_EVERY, self.asked),
        };
        every.saturating_sub(monotonic().saturating_duration_since(since))
    }

    fn keep(&mut self, Change { reach, generation }: Change) {
        self.unwritten.insert(key(reach), Some(encode(generation).to_vec()));
        if let Reach::Target(target) = reach {
            self.targets.insert(target);
        }
    }

    fn replace(&mut self, all: &All) {
        for target in self.targets.iter().filter(|one| !all.targets.contains_key(one)) {
            let key = key(Reach::Target(*target));
            self.unwritten.remove(&key);
            self.unflushed.remove(&key);
            self.sweeps = true;
        }
        self.targets.clear();
        self.keep(Change { reach: Reach::All, generation: all.all });
        for (target, generation) in &all.targets {
            self.keep(Change { reach: Reach::Target(*target), generation: *generation });
        }
    }

    /// Writes what is to be written; with `settles`, or when it is time, also the rows that changed, and
    /// all of it is on disk then. Nothing is lost by an error: it is written later.
    fn write(&mut self, settles: bool) -> Result<(), String> {
        let is_due = self.due_in().is_zero();
        if let Database::Lost { why, tried } = &mut self.db {
            if !is_due {
                return Err(why.clone());
            }
            *tried = monotonic();
            self.open_again()?;
        }
        let Database::Open(db) = &self.db else { return Ok(()) };
        let db = db.clone();
        let written = caught(|| self.write_to(&db, settles || is_due));
        if let Err(why) = &written {
            drop(db);
            self.lose(why);
        }
        written
    }

    /// Has the next write try a database that was lost.
    fn try_now(&mut self) {
        if let Database::Lost { tried, .. } = &mut self.db {
            *tried = tried.checked_sub(RETRY_EVERY).unwrap_or(*tried);
        }
    }

    /// First what covers, then what is covered goes: whenever the process is cut, nothing comes back.
    /// Givers of rows take those of the last time for kept when they are asked: what was lost comes first.
    fn write_to(&mut self, db: &sled::Db, asks: bool) -> sled::Result<()> {
        self.put(db)?;
        if self.sweeps {
            self.flush(db)?;
            self.sweep(db)?;
        }
        if !asks {
            return Ok(());
        }
        let begun = monotonic();
        self.ask();
        self.put(db)?;
        self.asked = monotonic();
        self.took = self.asked.saturating_duration_since(begun);
        if self.unflushed.is_empty() { Ok(()) } else { self.flush(db) }
    }

    fn put(&mut self, db: &sled::Db) -> sled::Result<()> {
        for (key, value) in &self.unwritten {
            match value {
                Some(value) => drop(db.insert(key, value.as_slice())?),
                None => drop(db.remove(key)?),
            }
        }
        self.unflushed.append(&mut self.unwritten);
        Ok(())
    }

    /// Takes the rows that changed. They are flushed before this asks again, and their givers rely on
    /// that: it does not ask while there is no database.
    fn ask(&mut self) {
        self.nudged = false;
        for (kind, changed) in &self.watched {
            for Row { key, value } in changed() {
                self.unwritten.insert([*kind, &key].concat(), value);
            }
        }
    }

    /// The number reaches the disk with or after what it counts, and before any of that goes.
    fn flush(&mut self, db: &sled::Db) -> sled::Result<()> {
        let least = u32::try_from(self.targets.len()).unwrap_or(u32::MAX);
        db.insert(LEAST_KEY, &least.to_be_bytes())?;
        db.flush()?;
        self.unflushed.clear();
        Ok(())
    }

    fn sweep(&mut self, db: &sled::Db) -> sled::Result<()> {
        let everything = key(Reach::All);
        for found in db.scan_prefix(&everything).keys() {
            let found = found?;
            let target = found.strip_prefix(&*everything).and_then(|raw| raw.try_into().ok());
            if target.is_some_and(|raw| !self.targets.contains(&u128::from_be_bytes(raw))) {
                db.remove(found)?;
            }
        }
        self.sweeps = false;
        db.flush().map(drop)
    }

    /// What was written but not flushed may be lost with the database: it is to be written again.
    fn lose(&mut self, why: &str) {
        let lost = Database::Lost { why: why.to_owned(), tried: monotonic() };
        if let Database::Open(db) = std::mem::replace(&mut self.db, lost) {
            // sled waits for threads of its own there, which a failure may have ended.
            let closing = thread::Builder::new().name("larder-state-end".to_owned());
            if let Err(error) = closing.spawn(move || drop(db)) {
                tracing::error!(%error, "The state cannot be closed");
            }
        }
        self.unflushed.append(&mut self.unwritten);
        std::mem::swap(&mut self.unflushed, &mut self.unwritten);
        self.sweeps = true;
    }

    fn open_again(&mut self) -> Result<(), String> {
        let opened = again(&self.dir).map_err(|fault| match fault {
            Fault::Damaged(why) | Fault::Unavailable(why) => why,
        });
        match opened {
            Ok(db) => {
                self.db = Database::Open(db);
                Ok(())
            }
            Err(new) => {
                if let Database::Lost { why, .. } = &mut self.db {
                    why.clone_from(&new);
                }
                Err(new)
            }
        }
    }
}

fn caught(act: impl FnOnce() -> sled::Result<()>) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_panic) => Err("the database gave up".to_owned()),
    }
}

#[cfg(test)]
mod tests;
