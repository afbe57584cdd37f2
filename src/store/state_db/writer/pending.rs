//! The database of the state, and what is not on disk yet. What cannot be written, for want of room say, is
//! kept here and written once it can be.
//!
//! Owns: the open database, the order of writes. Never touches: who is told (`keeper`), what rows mean.

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::clock::monotonic;
use crate::store::generations::{Change, PurgeScope, Snapshot};
use crate::store::state_db::open::{Fault, again};
use crate::store::state_db::writer::{Changed, Command};
use crate::store::state_db::{
    GENERATIONS, LATEST_KEY, LEAST_KEY, SUPERSEDED, encode, encode_superseded, key,
};
use crate::telemetry::cost::UsageRow;

/// How often givers are asked for rows: a crash loses so much of the ledger at most.
const ASK_EVERY: Duration = Duration::from_millis(300);

/// How soon after the last time they are asked when a nudge came. Where encoding the rows takes long, the
/// pause grows with it: it takes a fifth of a processor at most.
const SOON: Duration = Duration::from_millis(10);
const SHARE: u32 = 5;

/// How long a state that cannot be written is left in peace before it is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// The database, and what is not in it yet.
pub(super) struct WriterState {
    dir: PathBuf,
    db: Database,
    /// The targets that a generation is kept of.
    targets: HashSet<u128>,
    /// Whether generations of other targets are still to be removed from the database.
    sweeps: bool,
    /// Rows to be written, and rows that were written but may not be on disk yet. Their keys are those
    /// of `targets` and of one answer of each of `watched`: they are bounded as those are.
    unwritten: WriteBatch,
    unflushed: WriteBatch,
    pub(super) watched: Vec<(&'static [u8], Changed)>,
    /// When those were asked last, how long that and writing took, and whether they are to be asked soon.
    asked: Instant,
    took: Duration,
    pub(super) nudged: bool,
}

/// Keys and their values; `None`: the key is to be removed.
type WriteBatch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

enum Database {
    Open(sled::Db),
    /// sled writes nothing more after a write that failed: it has to be opened again.
    Lost {
        why: String,
        tried: Instant,
    },
}

impl WriterState {
    pub(super) fn new(dir: PathBuf, db: sled::Db, targets: impl Iterator<Item = u128>) -> Self {
        Self {
            dir,
            db: Database::Open(db),
            targets: targets.collect(),
            sweeps: false,
            unwritten: WriteBatch::new(),
            unflushed: WriteBatch::new(),
            watched: Vec::new(),
            asked: monotonic(),
            took: Duration::ZERO,
            nudged: false,
        }
    }

    /// The next command; `None`: it is time to ask for what has changed, or to try again.
    pub(super) fn next(&self, incoming: &Receiver<Command>) -> Result<Option<Command>, RecvError> {
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

    pub(super) fn keep(&mut self, Change { reach, generation }: Change) {
        self.unwritten.insert(key(GENERATIONS, reach), Some(encode(generation)));
        if let Some(superseded) = encode_superseded(generation) {
            self.unwritten.insert(key(SUPERSEDED, reach), Some(superseded));
        }
        if let PurgeScope::Target(target) = reach {
            self.targets.insert(target);
        }
    }

    pub(super) fn replace(&mut self, all: &Snapshot) {
        for target in self.targets.iter().filter(|one| !all.targets.contains_key(one)) {
            for kind in [GENERATIONS, SUPERSEDED] {
                let key = key(kind, PurgeScope::Target(*target));
                self.unwritten.remove(&key);
                self.unflushed.remove(&key);
            }
            self.sweeps = true;
        }
        self.targets.clear();
        let latest = all.latest.raw().to_be_bytes().to_vec();
        self.unwritten.insert(LATEST_KEY.to_vec(), Some(latest));
        self.keep(Change { reach: PurgeScope::All, generation: all.all });
        for (target, generation) in &all.targets {
            self.keep(Change { reach: PurgeScope::Target(*target), generation: *generation });
        }
    }

    /// Writes what is to be written; with `settles`, or when it is time, also the rows that changed, and
    /// all of it is on disk then. Nothing is lost by an error: it is written later.
    pub(super) fn write(&mut self, settles: bool) -> Result<(), String> {
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
    pub(super) fn try_now(&mut self) {
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
            for UsageRow { key, value } in changed() {
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
        for kind in [GENERATIONS, SUPERSEDED] {
            for found in db.scan_prefix(kind).keys() {
                let found = found?;
                let target = found.strip_prefix(kind).and_then(|raw| raw.try_into().ok());
                if target.is_some_and(|raw| !self.targets.contains(&u128::from_be_bytes(raw))) {
                    db.remove(found)?;
                }
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
