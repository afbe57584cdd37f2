//! The database and the bodies beside it. Every call catches errors and panics of the database engine.
//!
//! Owns: how the engine is called. Only plain gets, inserts, removes and scans: its batches and transactions
//! make every later call of the process many times slower. Never touches: the meaning of keys and values; the
//! handling of a fault.

use std::any::Any;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use rustix::io::Errno;
use sled::{IVec, Mode};

use crate::store::disk::body_file::Bodies;

/// Cache size of the database. It is small because larder has its own memory tier.
const MEMORY: u64 = 16 << 20;
/// How often writes are synced: a crash loses at most so much.
const FLUSH_EVERY_MS: u64 = 1000;

/// A row that identifies the database as larder's.
const MARKER: (&[u8], &[u8]) = (b"F", b"larder cache 1");

/// An open database with its bodies.
#[derive(Debug)]
pub(super) struct Database {
    tree: Option<sled::Db>,
    pub(super) bodies: Bodies,
    closing: Sender<()>,
}

/// Receives a message when a [`Database`] has released its files.
pub(super) type Closed = Receiver<()>;

/// Reason why a call failed. Its text may be logged: it contains no key and no value.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{0}")]
    Engine(#[from] sled::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("panic: {0}")]
    Panic(String),
    #[error("the database does not belong to larder")]
    Foreign,
    #[error("the database is closed")]
    Closed,
    #[error("opening took longer than {0:?}")]
    Slow(std::time::Duration),
}

impl Fault {
    /// Whether the fault is transient, and no sign of damage on disk.
    pub(super) fn is_transient(&self) -> bool {
        let (Self::Io(error) | Self::Engine(sled::Error::Io(error))) = self else { return false };
        let transient = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN];
        Errno::from_io_error(error).is_some_and(|errno| transient.contains(&errno))
    }
}

/// A key and its value.
pub(super) type Pair = (IVec, IVec);

/// Runs `call`, and turns a panic into a [`Fault`].
pub(super) fn caught<T>(call: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    // Unwind safety: after a fault in a write the whole database is closed; reads change nothing.
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(Fault::Panic(panic_text(&*panic))))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    // The first line: further ones are dumps of memory.
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

impl Database {
    /// Opens the database in these directories. May take long; the caller must catch panics.
    pub(super) fn open(database: &Path, bodies: Bodies) -> Result<(Self, Closed), Fault> {
        let tree = sled::Config::new()
            .path(database)
            .cache_capacity(MEMORY)
            .flush_every_ms(Some(FLUSH_EVERY_MS))
            .mode(Mode::LowSpace)
            .open()?;
        let (key, marker) = MARKER;
        match tree.get(key)? {
            Some(found) if found == marker => {}
            None if tree.is_empty() => {
                tree.insert(key, marker)?;
                tree.flush()?;
            }
            Some(_) | None => return Err(Fault::Foreign),
        }
        let (closing, closed) = mpsc::channel();
        Ok((Self { tree: Some(tree), bodies, closing }, closed))
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<IVec>, Fault> {
        self.call(|tree| tree.get(key))
    }

    /// Returns the previous value.
    pub(super) fn insert(&self, key: &[u8], value: Vec<u8>) -> Result<Option<IVec>, Fault> {
        self.call(|tree| tree.insert(key, value))
    }

    /// Returns the removed value.
    pub(super) fn remove(&self, key: &[u8]) -> Result<Option<IVec>, Fault> {
        self.call(|tree| tree.remove(key))
    }

    /// The first `limit` pairs whose keys begin with `prefix`, after `after` where that is given.
    pub(super) fn scan(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Pair>, Fault> {
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        let range = (from, Bound::Unbounded);
        // A range that begins behind its end would panic in the engine.
        if after.is_some_and(|after| after < prefix) {
            return Ok(Vec::new());
        }
        self.call(|tree| scan(tree, range, prefix, limit))
    }

    /// Flushes writes to disk.
    pub(super) fn flush(&self) -> Result<(), Fault> {
        self.call(|tree| tree.flush().map(drop))
    }

    /// Bytes of the database's files, bodies not counted.
    pub(super) fn size(&self) -> Result<u64, Fault> {
        self.call(sled::Db::size_on_disk)
    }

    fn call<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, Fault> {
        // The tree is present until `self` is dropped.
        let tree = self.tree.as_ref().ok_or(Fault::Closed)?;
        caught(|| Ok(call(tree)?))
    }
}

fn scan<'a>(
    tree: &sled::Db,
    range: impl RangeBounds<&'a [u8]>,
    prefix: &[u8],
    limit: usize,
) -> sled::Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for pair in tree.range(range).take(limit) {
        let pair = pair?;
        if !pair.0.starts_with(prefix) {
            break;
        }
        pairs.push(pair);
    }
    Ok(pairs)
}

impl Drop for Database {
    /// Closes on a separate thread: closing writes what is left and hangs where the disk does.
    fn drop(&mut self) {
        let (tree, closing) = (self.tree.take(), self.closing.clone());
        let close = move || {
            let _fault = caught(|| {
                drop(tree);
                Ok(())
            });
            // The receiver may be gone.
            let _receiver_gone = closing.send(());
        };
        let _closing = thread::Builder::new().name("larder-close".to_owned()).spawn(close);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_faults_without_damage_to_files_are_transient() {
        let io = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
        assert!(Fault::Io(io(Errno::MFILE)).is_transient());
        assert!(Fault::Engine(sled::Error::Io(io(Errno::NOMEM))).is_transient());
        for fault in [Fault::Io(io(Errno::NOSPC)), Fault::Io(io(Errno::IO)), Fault::Foreign] {
            assert!(!fault.is_transient(), "{fault}");
        }
        assert!(!Fault::Engine(sled::Error::ReportableBug(String::new())).is_transient());
    }

    #[test]
    fn a_panic_becomes_a_fault_of_one_short_line() {
        let fault = caught::<()>(|| panic!("first line {}\nsecond line", "x".repeat(1000)));
        let message = fault.unwrap_err().to_string();
        assert!(message.starts_with("panic: first line x") && message.len() < 300, "{message}");
        assert!(!message.contains('\n'));
    }
}
