//! The database of the state, and changes that are not on disk yet. A change that cannot be written, for
//! example for lack of space, is kept here and written later.
//!
//! Owns: the open database, the order of writes. Never touches: replies (`writer`), the meaning of rows.

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::store::generations::{Change, PurgeScope, Snapshot};
use crate::store::state_db::open::{Fault, reopen};
use crate::store::state_db::writer::{Changed, Command};
use crate::store::state_db::{
    GENERATIONS, LATEST_KEY, LEAST_KEY, SUPERSEDED, encode, encode_superseded, key,
};
use crate::telemetry::cost::StateRow;

/// How often changed rows are collected: a crash loses at most so much of the costs.
const COLLECT_EVERY: Duration = Duration::from_millis(300);

/// How soon after the last collection rows are collected after a nudge. If encoding the rows takes long, the
/// pause grows with it: it takes a fifth of a processor at most.
const SOON: Duration = Duration::from_millis(10);
const SHARE: u32 = 5;

/// Pause before a state that could not be written is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(5);

/// The database, and the changes that are not in it yet.
pub(super) struct WriterState {
    dir: PathBuf,
    db: Database,
    /// Targets with a persisted generation.
    targets: HashSet<u128>,
    /// Whether generations of other targets are still to be removed from the database.
    sweep_needed: bool,
    /// Rows to be written, and rows that were written but may not be on disk yet. Their keys are those of
    /// `targets` and of one collection of each of `watched`: they are bounded as those are.
    unwritten: WriteBatch,
    unflushed: WriteBatch,
    pub(super) watched: Vec<(&'static [u8], Changed)>,
    /// Time of the last collection, the duration of that and of writing, and whether the next one is due
    /// soon.
    collected_at: Instant,
    took: Duration,
    pub(super) nudged: bool,
    /// The operating system's: the thread waits by it.
    clock: Clock,
}

/// Keys and their values; `None`: the key is to be removed.
type WriteBatch = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

enum Database {
    Open(sled::Db),
    /// sled writes nothing more after a failed write: it has to be opened again.
    Lost {
        reason: String,
        tried: Instant,
    },
}

impl WriterState {
    pub(super) fn new(dir: PathBuf, db: sled::Db, targets: impl Iterator<Item = u128>) -> Self {
        let clock = Clock::system();
        Self {
            dir,
            db: Database::Open(db),
            targets: targets.collect(),
            sweep_needed: false,
            unwritten: WriteBatch::new(),
            unflushed: WriteBatch::new(),
            watched: Vec::new(),
            collected_at: clock.instant(),
            took: Duration::ZERO,
            nudged: false,
            clock,
        }
    }

    /// The next command; `None`: changed rows are to be collected, or a write is to be retried.
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
                (self.took.saturating_mul(SHARE).clamp(SOON, COLLECT_EVERY), self.collected_at)
            }
            Database::Open(_) => (COLLECT_EVERY, self.collected_at),
        };
        every.saturating_sub(self.clock.instant().saturating_duration_since(since))
    }

    pub(super) fn stage(&mut self, Change { scope, generation }: Change) {
        self.unwritten.insert(key(GENERATIONS, scope), Some(encode(generation)));
        if let Some(superseded) = encode_superseded(generation) {
            self.unwritten.insert(key(SUPERSEDED, scope), Some(superseded));
        }
        if let PurgeScope::Target(target) = scope {
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
            self.sweep_needed = true;
        }
        self.targets.clear();
        let latest = all.latest.raw().to_be_bytes().to_vec();
        self.unwritten.insert(LATEST_KEY.to_vec(), Some(latest));
        self.stage(Change { scope: PurgeScope::All, generation: all.all });
        for (target, generation) in &all.targets {
            self.stage(Change { scope: PurgeScope::Target(*target), generation: *generation });
        }
    }

    /// Writes all pending changes. With `flushes`, or when it is due, it also collects changed rows, and
    /// everything is on disk afterwards. An error loses nothing: the changes are written later.
    pub(super) fn write(&mut self, flushes: bool) -> Result<(), String> {
        let is_due = self.due_in().is_zero();
        if let Database::Lost { reason, tried } = &mut self.db {
            if !is_due {
                return Err(reason.clone());
            }
            *tried = self.clock.instant();
            self.open_again()?;
        }
        let Database::Open(db) = &self.db else { return Ok(()) };
        let db = db.clone();
        let written = caught(|| self.write_to(&db, flushes || is_due));
        if let Err(reason) = &written {
            drop(db);
            self.lose(reason);
        }
        written
    }

    /// Makes the next write retry a lost database at once.
    pub(super) fn try_now(&mut self) {
        if let Database::Lost { tried, .. } = &mut self.db {
            *tried = tried.checked_sub(RETRY_EVERY).unwrap_or(*tried);
        }
    }

    /// A covering generation is written before the covered ones are removed: no invalidated entry becomes
    /// usable, whenever the process is killed. Sources of rows treat those of the last collection as
    /// persisted when they are called again: changes left from a lost database are therefore written first.
    fn write_to(&mut self, db: &sled::Db, collects: bool) -> sled::Result<()> {
        self.put(db)?;
        if self.sweep_needed {
            self.flush(db)?;
            self.sweep(db)?;
        }
        if !collects {
            return Ok(());
        }
        let started = self.clock.instant();
        self.collect();
        self.put(db)?;
        self.collected_at = self.clock.instant();
        self.took = self.collected_at.saturating_duration_since(started);
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

    /// Collects changed rows. They are flushed before the next collection, and their sources rely on that:
    /// nothing is collected while there is no database.
    fn collect(&mut self) {
        self.nudged = false;
        for (kind, changed) in &self.watched {
            for StateRow { key, value } in changed() {
                self.unwritten.insert([*kind, &key].concat(), value);
            }
        }
    }

    /// The count reaches the disk with or after the rows that it counts, and before any of them is removed.
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
        self.sweep_needed = false;
        db.flush().map(drop)
    }

    /// A write that was not flushed may be lost with the database: it is to be written again.
    fn lose(&mut self, reason: &str) {
        let lost = Database::Lost { reason: reason.to_owned(), tried: self.clock.instant() };
        if let Database::Open(db) = std::mem::replace(&mut self.db, lost) {
            // sled waits for threads of its own there, which a failure may have ended.
            let closing = thread::Builder::new().name("larder-state-end".to_owned());
            if let Err(error) = closing.spawn(move || drop(db)) {
                tracing::error!(%error, "The state cannot be closed");
            }
        }
        self.unflushed.append(&mut self.unwritten);
        std::mem::swap(&mut self.unflushed, &mut self.unwritten);
        self.sweep_needed = true;
    }

    fn open_again(&mut self) -> Result<(), String> {
        let opened = reopen(&self.dir).map_err(|fault| match fault {
            Fault::Damaged(reason) | Fault::Unavailable(reason) => reason,
        });
        match opened {
            Ok(db) => {
                self.db = Database::Open(db);
                Ok(())
            }
            Err(new) => {
                if let Database::Lost { reason, .. } = &mut self.db {
                    reason.clone_from(&new);
                }
                Err(new)
            }
        }
    }
}

fn caught(act: impl FnOnce() -> sled::Result<()>) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(act)) {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_panic) => Err("the database panicked".to_owned()),
    }
}

#[cfg(test)]
mod tests;
