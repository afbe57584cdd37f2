//! Opening the database of the state: what it holds, or why that is not known.
//!
//! Owns: the making of a new database, the reading of an old one, what counts as damage of it.
//! Never touches: what follows from damage (`state`), later writes (`keeper`).

use std::any::Any;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::store::generations::{Epoch, Generation, PurgeScope, Snapshot};
use crate::store::private_file;
use crate::store::state_db::{
    FORMAT, FORMAT_KEY, GENERATIONS, LATEST_KEY, LEAST_KEY, LEDGER, RowOwner, Rows, SUPERSEDED,
    decode, decode_superseded, encode, key,
};

/// A locked database is tried for five seconds.
const LOCKED_TRIES: u32 = 250;
const LOCKED_PAUSE: Duration = Duration::from_millis(20);

/// Bytes that have to be free before a database is opened: several segments of sled.
const ROOM: u64 = 2 << 20;

/// A database that could be opened.
pub(super) enum Read {
    Known(Box<OpenedState>),
    /// It is of a later larder, in this format.
    Later(u32),
}

/// The database and all that it holds.
pub(super) struct OpenedState {
    pub(super) db: sled::Db,
    pub(super) all: Snapshot,
    pub(super) ledger: Rows,
    pub(super) others: [Rows; 2],
}

/// Why a database could not be opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its bytes are not those that were written, or a part of them is lost.
    Damaged(String),
    /// The system refused a read or a write: no room, no right, no descriptor, a failing disk. This
    /// says nothing of what the database holds.
    Unavailable(String),
}

impl From<sled::Error> for Fault {
    fn from(error: sled::Error) -> Self {
        let is_of_the_system =
            matches!(&error, sled::Error::Io(source) if source.raw_os_error().is_some());
        let why = error.to_string();
        if is_of_the_system { Self::Unavailable(why) } else { Self::of(why) }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        sled::Error::from(error).into()
    }
}

impl Fault {
    /// sled hands an error of the system on as text, where it does so from another of its threads or
    /// panics over it. Both forms of an [`io::Error`] name its number.
    fn of(why: String) -> Self {
        let is_of_the_system = why.contains("(os error ") || why.contains("Os { code: ");
        if is_of_the_system { Self::Unavailable(why) } else { Self::Damaged(why) }
    }

    fn damaged(why: &str) -> Self {
        Self::Damaged(why.to_owned())
    }

    fn of_panic(panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Self::of(format!("it cannot be read: {}", text.unwrap_or("the database gave up")))
    }

    fn is_locked(&self) -> bool {
        matches!(self, Self::Unavailable(why) if why.contains("could not acquire lock"))
    }
}

/// Opens the database in `dir` and reads it. Where there is none, it is made.
pub(super) fn read(dir: &Path, now: SystemTime) -> Result<Read, Fault> {
    let parent = dir.parent().unwrap_or(dir);
    private_file::directory(parent)?;
    is_room_in(parent)?;
    patiently(|| read_once(dir, now))
}

/// A database that was closed a moment ago may still be locked: sled lets go of it on a thread of its
/// own.
fn patiently(open: impl Fn() -> Result<Read, Fault>) -> Result<Read, Fault> {
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

/// sled panics on some damage: here that is an error like others.
fn caught(open: impl Fn() -> Result<Read, Fault>) -> Result<Read, Fault> {
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| Err(Fault::of_panic(&*panic)))
}

/// Opens a database again that could not be written, if there is room by now.
pub(super) fn again(dir: &Path) -> Result<sled::Db, Fault> {
    is_room_in(dir.parent().unwrap_or(dir))?;
    match patiently(|| read_old(dir))? {
        Read::Known(known) => Ok(known.db),
        Read::Later(_) => Err(Fault::damaged("it is of a later larder now")),
    }
}

/// sled is not to find out: a failure of its own leaves something half written.
fn is_room_in(dir: &Path) -> io::Result<()> {
    let path = dir.join("room");
    let mut file = File::create(&path)?;
    let written = io::copy(&mut io::repeat(0).take(ROOM), &mut file).and_then(|_| file.sync_data());
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
    make(dir, &unfinished, now).map(|known| Read::Known(Box::new(known)))
}

/// This file stands beside a database from before it is made until it is whole.
fn unfinished(dir: &Path) -> PathBuf {
    dir.with_extension("unfinished")
}

/// A database that never became whole, for want of room perhaps. Nothing was acknowledged of it.
fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The mark is gone for good before anything is acknowledged: else a crash would bring it back, and
/// the next start would remove a good database.
fn make(dir: &Path, unfinished: &Path, now: SystemTime) -> Result<OpenedState, Fault> {
    let parent = dir.parent().unwrap_or(dir);
    File::create(unfinished)?;
    private_file::settle(parent)?;
    // Before sled makes it, open to all.
    private_file::directory(dir)?;
    let db = config(dir).open()?;
    db.insert(FORMAT_KEY, &FORMAT.to_be_bytes())?;
    // What was purged of a cache beside it is not known: none of it is usable, also after a crash.
    let all = Generation { hard: Epoch::at(now), ..Generation::default() };
    db.insert(key(GENERATIONS, PurgeScope::All), encode(all))?;
    db.flush()?;
    fs::remove_file(unfinished)?;
    private_file::settle(parent)?;
    let all = Snapshot { all, ..Snapshot::default() };
    Ok(OpenedState { db, all, ledger: Rows::new(), others: Default::default() })
}

fn read_old(dir: &Path) -> Result<Read, Fault> {
    remove_half_written(dir)?;
    let db = config(dir).open()?;
    match db.get(FORMAT_KEY)?.map(|raw| number(&raw)) {
        Some(found) if found > FORMAT => return Ok(Read::Later(found)),
        Some(_) => {}
        // sled opens some damage as an empty database.
        None => return Err(Fault::damaged("its content is lost")),
    }
    let mut all = generations(&db)?;
    let latest = db.get(LATEST_KEY)?.and_then(|raw| raw.as_ref().try_into().ok());
    all.latest = Epoch::from_raw(latest.map_or(0, u64::from_be_bytes));
    let least = db.get(LEAST_KEY)?.map_or(0, |raw| number(&raw));
    if all.targets.len() < usize::try_from(least).unwrap_or(usize::MAX) {
        return Err(Fault::damaged("a part of it is lost"));
    }
    let ledger = rows(&db, LEDGER)?;
    let [limits, engine] = RowOwner::ALL.map(|whose| rows(&db, whose.prefix()));
    Ok(Read::Known(Box::new(OpenedState { db, all, ledger, others: [limits?, engine?] })))
}

/// An open that met a full disk leaves a summary of the database half written, under a name that it
/// never has when it is whole. sled takes it for the newest one, and the database for damaged.
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
    sled::Config::new()
        .path(dir)
        .mode(sled::Mode::LowSpace)
        .cache_capacity(4 << 20)
        .flush_every_ms(Some(500))
}

fn number(raw: &[u8]) -> u32 {
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
