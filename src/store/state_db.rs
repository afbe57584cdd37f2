//! Persistent state that outlives everything else: the secret of all keys, purges, API costs, cooldowns and
//! counts of upstreams.
//!
//! Owns: the directory `state/`: small, on disk before it is acknowledged, migrated and never wiped. Never
//! touches: stored responses, which are disposable (`disk`).

mod install_secret;
mod open;
mod writer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::oneshot;

pub use crate::store::state_db::install_secret::{Secret, SecretError};

use crate::store::generations::{Change, Epoch, Generation, PurgeScope, Snapshot};
use crate::store::state_db::open::{Fault, OpenedState, Read, read};
use crate::store::state_db::writer::{Command, StateWriter};
use crate::telemetry::cost::StateRow;

/// The format of the rows. A higher one was written by a later larder.
const FORMAT: u32 = 1;

/// Key of the format.
const FORMAT_KEY: &[u8] = b"format";

/// Prefix of the cost rows. A larder that does not support them ignores them.
const COST_ROWS: &[u8] = b"c";

/// Owner of rows that are stored beside purges and costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOwner {
    /// The limits of upstreams.
    Limits,
    /// Persistent facts of the engine about responses.
    Engine,
}

impl RowOwner {
    const ALL: [Self; 2] = [Self::Limits, Self::Engine];

    /// Prefix of the rows. A larder that does not support them ignores them.
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Limits => b"u",
            Self::Engine => b"e",
        }
    }
}

/// Key of the newest epoch at the time when all generations were last written.
const LATEST_KEY: &[u8] = b"latest";

/// Key of the minimum number of targets: sled may lose some of them without an error.
const LEAST_KEY: &[u8] = b"least";

/// How long the thread may take to finish when the state is closed.
const CLOSE: Duration = Duration::from_secs(5);

/// The open state.
pub struct StateDb {
    writer: StateWriter,
    failure: Arc<Mutex<Option<String>>>,
    cost_rows: Mutex<Rows>,
    other_rows: [Mutex<Rows>; 2],
}

/// Rows of one kind: keys and values.
pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// A component whose rows the state persists.
pub trait RowSource: Send + Sync {
    /// Restores the rows of an earlier larder. Returns how many of them could not be read.
    fn restore(&self, rows: &Rows) -> usize;

    /// The rows that changed since the last call; those of the last call are on disk by now.
    fn changed(&self) -> Vec<StateRow>;
}

/// Reason why the state could not be opened. The disk may then not be used: purges are unknown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It was written by a later larder.
    #[error(
        "{} is of a later larder (format {found}, this one reads {FORMAT}): run that one, or restore \
         the backup of `state` made before it",
        dir.display()
    )]
    NewerFormat {
        /// Its directory.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The system denies reading or writing it now. It is left as it is.
    #[error(
        "{} cannot be used now ({reason}): it is left as it is; fix that and restart larder",
        dir.display()
    )]
    Unavailable {
        /// Its directory.
        dir: PathBuf,
        /// The reason.
        reason: String,
    },
    /// It could not be opened, even after the damaged one was set aside.
    #[error("{}: {reason}", dir.display())]
    Broken {
        /// Its directory.
        dir: PathBuf,
        /// The reason.
        reason: String,
    },
}

impl StateDb {
    /// Opens the state in `dir`. A damaged one is set aside, with a line in the log, and everything stored
    /// counts as purged, because earlier purges and costs are unknown. One that cannot be read or written
    /// now, for lack of space or permissions, stays where it is.
    pub fn open(dir: &Path, now: SystemTime) -> Result<(Self, Snapshot), OpenError> {
        let broken = |reason: String| OpenError::Broken { dir: dir.to_owned(), reason };
        let OpenedState { db, all, cost_rows, other_rows } = match read_state(dir, now) {
            Err(StateUnknown::Damaged(reason)) => {
                let set_aside = set_aside_damaged(dir, now).map_err(|error| broken(error.to_string()))?;
                tracing::error!(
                    dir = %dir.display(),
                    aside = %set_aside.display(),
                    %reason,
                    "The state is damaged and was set aside; everything stored counts as purged, and \
                     earlier costs and cooldowns are unknown"
                );
                read_state(dir, now).map_err(|unknown| match unknown {
                    StateUnknown::Damaged(reason) => broken(reason),
                    StateUnknown::For(error) => error,
                })?
            }
            Err(StateUnknown::For(error)) => return Err(error),
            Ok(opened) => opened,
        };
        let failure = Arc::new(Mutex::new(None));
        let writer =
            StateWriter::start(dir.join("db"), db, all.targets.keys().copied(), Arc::clone(&failure))
                .map_err(|error| broken(error.to_string()))?;
        let (cost_rows, other_rows) = (Mutex::new(cost_rows), other_rows.map(Mutex::new));
        Ok((Self { writer, failure, cost_rows, other_rows }, all))
    }

    /// Persists a change; it is on disk soon.
    pub fn persist(&self, change: Change) {
        self.writer.send(Command::Persist(change));
    }

    /// Persists these generations and removes all others.
    pub fn replace(&self, all: Snapshot) {
        self.writer.send(Command::Replace(all));
    }

    /// The cost rows found when this was opened; empty on a second call.
    pub fn take_cost_rows(&self) -> Rows {
        std::mem::take(&mut self.cost_rows.lock())
    }

    /// Collects changed cost rows from `changed` and persists them, several times a second from now on and
    /// once more at the end.
    pub fn watch_cost_rows(&self, changed: impl Fn() -> Vec<StateRow> + Send + 'static) {
        self.writer.send(Command::Watch(COST_ROWS, Box::new(changed)));
    }

    /// The rows of this owner found when this was opened; empty on a second call.
    pub fn take_rows(&self, owner: RowOwner) -> Rows {
        std::mem::take(&mut self.other_rows[owner as usize].lock())
    }

    /// Collects changed rows of this owner from `changed` and persists them, like
    /// [`StateDb::watch_cost_rows`].
    pub fn watch_rows(&self, owner: RowOwner, changed: impl Fn() -> Vec<StateRow> + Send + 'static) {
        self.writer.send(Command::Watch(owner.prefix(), Box::new(changed)));
    }

    /// Collects the changed rows of all sources soon.
    pub fn nudge(&self) {
        self.writer.send(Command::Nudge);
    }

    /// Waits until all changes and all rows that changed before this call are on disk.
    pub async fn flush(&self) -> Result<(), String> {
        let (done, flushed) = oneshot::channel();
        self.writer.send(Command::Flush(done));
        flushed.await.unwrap_or_else(|_ended| Err("the state is closed".to_owned()))
    }

    /// Reason why writes fail at present, if they do.
    pub fn write_failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Simulates a failed write.
    #[cfg(test)]
    pub(in crate::store) fn fail_writes(&self, reason: &str) {
        *self.failure.lock() = Some(reason.to_owned());
    }

    /// Writes all pending changes and closes. Blocks for at most a few seconds.
    pub fn close(&self) {
        self.writer.stop(CLOSE);
    }
}

/// Reason why the state could not be read.
enum StateUnknown {
    Damaged(String),
    For(OpenError),
}

fn read_state(dir: &Path, now: SystemTime) -> Result<OpenedState, StateUnknown> {
    let open_error = |error: OpenError| Err(StateUnknown::For(error));
    match read(&dir.join("db"), now) {
        Ok(Read::Opened(opened)) => Ok(*opened),
        Ok(Read::NewerFormat(found)) => open_error(OpenError::NewerFormat { dir: dir.to_owned(), found }),
        Err(Fault::Damaged(reason)) => Err(StateUnknown::Damaged(reason)),
        Err(Fault::Unavailable(reason)) => open_error(OpenError::Unavailable { dir: dir.to_owned(), reason }),
    }
}

/// Prefixes of the rows of generations, and of their superseded epochs: earlier larders support the former
/// only.
const GENERATIONS: &[u8] = b"g";
const SUPERSEDED: &[u8] = b"s";

/// The key of a row: `kind` for everything, `kind` and a target for one.
fn key(kind: &[u8], scope: PurgeScope) -> Vec<u8> {
    let mut key = kind.to_vec();
    if let PurgeScope::Target(target) = scope {
        key.extend_from_slice(&target.to_be_bytes());
    }
    key
}

/// Two epochs. An earlier larder treats superseded entries as softly invalidated.
fn encode(generation: Generation) -> Vec<u8> {
    let Generation { hard, soft, superseded } = generation;
    [hard, soft.max(superseded)].into_iter().flat_map(|epoch| epoch.raw().to_be_bytes()).collect()
}

/// The superseded epoch, where there is one.
fn encode_superseded(generation: Generation) -> Option<Vec<u8>> {
    let epoch = generation.superseded;
    (epoch != Epoch::default()).then(|| epoch.raw().to_be_bytes().to_vec())
}

fn decode(bytes: &[u8]) -> Option<Generation> {
    let (hard, soft) = bytes.split_first_chunk()?;
    let epoch = |raw: [u8; 8]| Epoch::from_raw(u64::from_be_bytes(raw));
    let (hard, soft) = (epoch(*hard), epoch(soft.try_into().ok()?));
    Some(Generation { hard, soft, ..Generation::default() })
}

fn decode_superseded(bytes: &[u8]) -> Option<Generation> {
    let superseded = Epoch::from_raw(u64::from_be_bytes(bytes.try_into().ok()?));
    Some(Generation { superseded, ..Generation::default() })
}

/// The secret stays where it is: it is not part of the damage.
fn set_aside_damaged(dir: &Path, now: SystemTime) -> io::Result<PathBuf> {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut name = format!("damaged-{}", since.as_secs());
    // Twice within a second, or the clock stands still.
    while dir.join(&name).try_exists()? {
        name.push_str("-again");
    }
    let set_aside = dir.join(name);
    std::fs::rename(dir.join("db"), &set_aside)?;
    Ok(set_aside)
}

#[cfg(test)]
mod tests;
