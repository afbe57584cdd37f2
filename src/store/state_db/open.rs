//! Opening the database of the state: its content, or the reason why that is unknown.
//!
//! Owns: creating a new database, reading an existing one, the definition of damage. Never touches: the
//! handling of damage (`state_db`), later writes (`writer`).

use std::any::Any;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::store::generations::{Epoch, Generation, PurgeScope, Snapshot};
use crate::store::private_file;
use crate::store::state_db::{
    COST_ROWS, FORMAT, FORMAT_KEY, GENERATIONS, LATEST_KEY, LEAST_KEY, RowOwner, Rows, SUPERSEDED, decode,
    decode_superseded, encode, key,
};

/// A locked database is retried for five seconds.
const LOCKED_TRIES: u32 = 250;
const LOCKED_PAUSE: Duration = Duration::from_millis(20);

/// Free bytes required before a database is opened: several segments of sled.
const REQUIRED_SPACE: u64 = 2 << 20;

/// Result of opening a database.
pub(super) enum Read {
    Opened(Box<OpenedState>),
    /// It was written by a later larder, in this format.
    NewerFormat(u32),
}

/// The database and all its rows.
pub(super) struct OpenedState {
    pub(super) db: sled::Db,
    pub(super) all: Snapshot,
    pub(super) cost_rows: Rows,
    pub(super) other_rows: [Rows; 2],
}

/// Reason why a database could not be opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its bytes were changed, or a part of them is lost.
    Damaged(String),
    /// The system refused a read or a write: no space, no permission, no descriptor, a failing disk. That is
    /// no sign of damage to the database.
    Unavailable(String),
}

impl From<sled::Error> for Fault {
    fn from(error: sled::Error) -> Self {
        let is_system_error = matches!(&error, sled::Error::Io(source) if source.raw_os_error().is_some());
        let reason = error.to_string();
        if is_system_error { Self::Unavailable(reason) } else { Self::from_text(reason) }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        sled::Error::from(error).into()
    }
}

impl Fault {
    /// sled reports a system error as text if it occurs on another of its threads, or if sled panics over it.
    /// Both text forms of an [`io::Error`] contain its number.
    fn from_text(reason: String) -> Self {
        let is_system_error = reason.contains("(os error ") || reason.contains("Os { code: ");
        if is_system_error { Self::Unavailable(reason) } else { Self::Damaged(reason) }
    }

    fn damaged(reason: &str) -> Self {
        Self::Damaged(reason.to_owned())
    }

    fn from_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Self::from_text(format!("the database cannot be read: {}", text.unwrap_or("the database panicked")))
    }

    fn is_locked(&self) -> bool {
        matches!(self, Self::Unavailable(reason) if reason.contains("could not acquire lock"))
    }
}

/// Opens and reads the database in `dir`. Creates it if there is none.
pub(super) fn read(dir: &Path, now: SystemTime) -> Result<Read, Fault> {
    let parent = dir.parent().unwrap_or(dir);
    private_file::create_dir(parent)?;
    check_free_space(parent)?;
    retry_while_locked(|| read_once(dir, now))
}

/// A database that was closed a moment ago may still be locked: sled releases it on a separate thread.
fn retry_while_locked(open: impl Fn() -> Result<Read, Fault>) -> Result<Read, Fault> {
    let mut tries = 0;
    loop {
        match caught(&open) {
            Err(fault) if fault.is_locked() && tries < LOCKED_TRIES => {
                tries += 1;
                std::thread::sleep(LOCKED_PAUSE);
            }
            read => return read,
        }
    }
}

/// sled panics on some damage: the panic becomes an error like any other.
fn caught(open: impl Fn() -> Result<Read, Fault>) -> Result<Read, Fault> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| Err(Fault::from_panic(&*panic)))
}

/// Opens a database again after a failed write, if there is space by now.
pub(super) fn reopen(dir: &Path) -> Result<sled::Db, Fault> {
    check_free_space(dir.parent().unwrap_or(dir))?;
    match retry_while_locked(|| read_old(dir))? {
        Read::Opened(opened) => Ok(opened.db),
        Read::NewerFormat(_) => Err(Fault::damaged("a later larder has written it")),
    }
}

/// Checked before sled writes: a failed write of sled leaves something half written.
fn check_free_space(dir: &Path) -> io::Result<()> {
    let path = dir.join("room");
    let mut file = File::create(&path)?;
    let written = io::copy(&mut io::repeat(0).take(REQUIRED_SPACE), &mut file).and_then(|_| file.sync_data());
    fs::remove_file(&path)?;
    written
}

fn read_once(dir: &Path, now: SystemTime) -> Result<Read, Fault> {
    let unfinished = unfinished(dir);
    if unfinished.try_exists()? {
        remove(dir)?;
    }
    if dir.try_exists()? {
        return read_old(dir);
    }
    create(dir, &unfinished, now).map(|opened| Read::Opened(Box::new(opened)))
}

/// This file exists beside a database from before its creation until it is complete.
fn unfinished(dir: &Path) -> PathBuf {
    dir.with_extension("unfinished")
}

/// Removes a database that never became complete, for example for lack of space. None of its writes was
/// acknowledged.
fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The marker file is removed for good before anything is acknowledged. Otherwise a crash would bring it
/// back, and the next start would remove a good database.
fn create(dir: &Path, unfinished: &Path, now: SystemTime) -> Result<OpenedState, Fault> {
    let parent = dir.parent().unwrap_or(dir);
    File::create(unfinished)?;
    private_file::sync_dir(parent)?;
    // Created before sled does it, which would make it readable by all.
    private_file::create_dir(dir)?;
    let db = config(dir).open()?;
    db.insert(FORMAT_KEY, &FORMAT.to_be_bytes())?;
    // Purges of a cache beside it are unknown: no entry of it is usable, also after a crash.
    let all = Generation { hard: Epoch::at(now), ..Generation::default() };
    db.insert(key(GENERATIONS, PurgeScope::All), encode(all))?;
    db.flush()?;
    fs::remove_file(unfinished)?;
    private_file::sync_dir(parent)?;
    let all = Snapshot { all, ..Snapshot::default() };
    Ok(OpenedState { db, all, cost_rows: Rows::new(), other_rows: Default::default() })
}

fn read_old(dir: &Path) -> Result<Read, Fault> {
    remove_half_written(dir)?;
    let db = config(dir).open()?;
    match db.get(FORMAT_KEY)?.map(|raw| parse_number(&raw)) {
        Some(found) if found > FORMAT => return Ok(Read::NewerFormat(found)),
        Some(_) => {}
        // sled opens some damage as an empty database.
        None => return Err(Fault::damaged("its content is lost")),
    }
    let mut all = generations(&db)?;
    let latest = db.get(LATEST_KEY)?.and_then(|raw| raw.as_ref().try_into().ok());
    all.latest = Epoch::from_raw(latest.map_or(0, u64::from_be_bytes));
    let least = db.get(LEAST_KEY)?.map_or(0, |raw| parse_number(&raw));
    if all.targets.len() < usize::try_from(least).unwrap_or(usize::MAX) {
        return Err(Fault::damaged("a part of it is lost"));
    }
    let cost_rows = rows(&db, COST_ROWS)?;
    let [limits, engine] = RowOwner::ALL.map(|owner| rows(&db, owner.prefix()));
    Ok(Read::Opened(Box::new(OpenedState { db, all, cost_rows, other_rows: [limits?, engine?] })))
}

/// An open that met a full disk leaves a snapshot of the database half written, under a name that a complete
/// one never has. sled takes it for the newest one, and the database for damaged.
fn remove_half_written(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn config(dir: &Path) -> sled::Config {
    sled::Config::new().path(dir).mode(sled::Mode::LowSpace).cache_capacity(4 << 20).flush_every_ms(Some(500))
}

fn parse_number(raw: &[u8]) -> u32 {
    raw.try_into().map_or(u32::MAX, u32::from_be_bytes)
}

fn generations(db: &sled::Db) -> Result<Snapshot, Fault> {
    let mut all = Snapshot::default();
    for (kind, decode) in
        [(GENERATIONS, decode as fn(&[u8]) -> Option<Generation>), (SUPERSEDED, decode_superseded)]
    {
        for (key, value) in rows(db, kind)? {
            let Some(generation) = decode(&value) else {
                return Err(Fault::damaged("a generation of another length"));
            };
            let target = <[u8; 16]>::try_from(key).ok().map(u128::from_be_bytes);
            all.join(target.map_or(PurgeScope::All, PurgeScope::Target), generation);
        }
    }
    Ok(all)
}

fn rows(db: &sled::Db, kind: &[u8]) -> sled::Result<Rows> {
    let mut rows = Rows::new();
    for item in db.scan_prefix(kind) {
        let (key, value) = item?;
        let key = key.strip_prefix(kind).unwrap_or_default();
        rows.push((key.to_vec(), value.to_vec()));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests;
