//! What is the operator's and outlives everything else: the secret of all keys, what was purged, what
//! was spent, what is held and counted of upstreams.
//!
//! Owns: the directory `state/`: small, on disk before it is acknowledged, migrated and never wiped.
//! Never touches: stored answers, which are disposable (`disk`).

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
use crate::telemetry::cost::UsageRow;

/// The form of what is kept. A higher one was written by a later larder.
const FORMAT: u32 = 1;

/// Where the format stands.
const FORMAT_KEY: &[u8] = b"format";

/// Before the rows of the ledger. A larder that knows none of them leaves them alone.
const LEDGER: &[u8] = b"c";

/// Whose rows are kept beside what was purged and spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOwner {
    /// The limits of upstreams.
    Limits,
    /// What the engine remembers of answers beside them.
    Engine,
}

impl RowOwner {
    const ALL: [Self; 2] = [Self::Limits, Self::Engine];

    /// Before the rows. A larder that does not know them leaves them alone.
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Limits => b"u",
            Self::Engine => b"e",
        }
    }
}

/// Where the newest mark stands that there was when all generations were last written.
const LATEST_KEY: &[u8] = b"latest";

/// Where it stands how many targets there are at least: sled may lose some without a word.
const LEAST_KEY: &[u8] = b"least";

/// How long the thread may take to finish when the state is closed.
const CLOSE: Duration = Duration::from_secs(5);

/// The operator's data, open.
pub struct StateDb {
    keeper: StateWriter,
    ill: Arc<Mutex<Option<String>>>,
    ledger: Mutex<Rows>,
    others: [Mutex<Rows>; 2],
}

/// Rows of one kind: keys and values.
pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// What has rows of its own, as the state sees it.
pub trait RowSource: Send + Sync {
    /// Takes over the rows of an earlier larder. Returns how many of them could not be read.
    fn restore(&self, rows: &Rows) -> usize;

    /// The rows that changed since the last call of this; those of the last call are on disk by now.
    fn changed(&self) -> Vec<UsageRow>;
}

/// Why the state could not be opened. Nothing on disk may then be used: what was purged is unknown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It is of a later larder.
    #[error(
        "{} is of a later larder (format {found}, this one reads {FORMAT}): run that one, or restore \
         the backup of `state` made before it",
        dir.display()
    )]
    Later {
        /// Where.
        dir: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The system does not let it be read or written now. It is left as it is.
    #[error(
        "{} cannot be used now ({why}): it is left as it is; mend that and restart larder",
        dir.display()
    )]
    Unavailable {
        /// Where.
        dir: PathBuf,
        /// Why.
        why: String,
    },
    /// Not even after the damaged one was put aside.
    #[error("{}: {why}", dir.display())]
    Broken {
        /// Where.
        dir: PathBuf,
        /// Why.
        why: String,
    },
}

impl StateDb {
    /// Opens the state in `dir`. A damaged one is put aside, with a line in the log, and everything
    /// stored counts as purged: what was purged and spent before is not known. One that the system does
    /// not let be read or written now, for want of room or rights, stays where it is.
    pub fn open(dir: &Path, now: SystemTime) -> Result<(Self, Snapshot), OpenError> {
        let broken = |why: String| OpenError::Broken { dir: dir.to_owned(), why };
        let OpenedState { db, all, ledger, others } = match known(dir, now) {
            Err(StateUnknown::Damaged(why)) => {
                let aside = put_aside(dir, now).map_err(|error| broken(error.to_string()))?;
                tracing::error!(
                    dir = %dir.display(),
                    aside = %aside.display(),
                    %why,
                    "The state is damaged and was put aside; everything stored counts as purged, and \
                     what was spent and held before is not known"
                );
                known(dir, now).map_err(|not_known| match not_known {
                    StateUnknown::Damaged(why) => broken(why),
                    StateUnknown::For(unopened) => unopened,
                })?
            }
            Err(StateUnknown::For(unopened)) => return Err(unopened),
            Ok(known) => known,
        };
        let ill = Arc::new(Mutex::new(None));
        let keeper =
            StateWriter::start(dir.join("db"), db, all.targets.keys().copied(), Arc::clone(&ill))
                .map_err(|error| broken(error.to_string()))?;
        let (ledger, others) = (Mutex::new(ledger), others.map(Mutex::new));
        Ok((Self { keeper, ill, ledger, others }, all))
    }

    /// Keeps a change; on disk soon.
    pub fn keep(&self, change: Change) {
        self.keeper.send(Command::Keep(change));
    }

    /// Keeps these and no others.
    pub fn replace(&self, all: Snapshot) {
        self.keeper.send(Command::Replace(all));
    }

    /// The rows of the ledger that were kept before this was opened; asked again, none.
    pub fn ledger(&self) -> Rows {
        std::mem::take(&mut self.ledger.lock())
    }

    /// Asks the ledger for what has changed, several times a second from now on and once more at the
    /// end, and keeps that.
    pub fn keep_ledger(&self, changed: impl Fn() -> Vec<UsageRow> + Send + 'static) {
        self.keeper.send(Command::Watch(LEDGER, Box::new(changed)));
    }

    /// The same of these.
    pub fn rows(&self, whose: RowOwner) -> Rows {
        std::mem::take(&mut self.others[whose as usize].lock())
    }

    /// The same of these.
    pub fn keep_rows(&self, whose: RowOwner, changed: impl Fn() -> Vec<UsageRow> + Send + 'static) {
        self.keeper.send(Command::Watch(whose.prefix(), Box::new(changed)));
    }

    /// Asks all of them soon for the rows that changed.
    pub fn nudge(&self) {
        self.keeper.send(Command::Nudge);
    }

    /// Waits until all that was kept, and all rows that had changed before, are on disk.
    pub async fn flush(&self) -> Result<(), String> {
        let (done, settled) = oneshot::channel();
        self.keeper.send(Command::Settle(done));
        settled.await.unwrap_or_else(|_ended| Err("the state is closed".to_owned()))
    }

    /// Why nothing is kept at present, if so.
    pub fn illness(&self) -> Option<String> {
        self.ill.lock().clone()
    }

    /// As if a write had failed.
    #[cfg(test)]
    pub(in crate::store) fn fall_ill(&self, why: &str) {
        *self.ill.lock() = Some(why.to_owned());
    }

    /// Keeps what is still to be kept and closes. Blocks for at most a few seconds.
    pub fn close(&self) {
        self.keeper.stop(CLOSE);
    }
}

/// Why there is nothing to go by.
enum StateUnknown {
    Damaged(String),
    For(OpenError),
}

fn known(dir: &Path, now: SystemTime) -> Result<OpenedState, StateUnknown> {
    let unopened = |why: OpenError| Err(StateUnknown::For(why));
    match read(&dir.join("db"), now) {
        Ok(Read::Known(known)) => Ok(*known),
        Ok(Read::Later(found)) => unopened(OpenError::Later { dir: dir.to_owned(), found }),
        Err(Fault::Damaged(why)) => Err(StateUnknown::Damaged(why)),
        Err(Fault::Unavailable(why)) => {
            unopened(OpenError::Unavailable { dir: dir.to_owned(), why })
        }
    }
}

/// Before the rows of generations, and of what in them is superseded: earlier larders know the former alone.
const GENERATIONS: &[u8] = b"g";
const SUPERSEDED: &[u8] = b"s";

/// The key of a row: `kind` for everything, `kind` and a target for one.
fn key(kind: &[u8], reach: PurgeScope) -> Vec<u8> {
    let mut key = kind.to_vec();
    if let PurgeScope::Target(target) = reach {
        key.extend_from_slice(&target.to_be_bytes());
    }
    key
}

/// Two marks. An earlier larder takes what is superseded for softly invalidated.
fn encode(generation: Generation) -> Vec<u8> {
    let Generation { hard, soft, superseded } = generation;
    [hard, soft.max(superseded)].into_iter().flat_map(|mark| mark.raw().to_be_bytes()).collect()
}

/// The mark of what is superseded, where there is one.
fn encode_superseded(generation: Generation) -> Option<Vec<u8>> {
    let mark = generation.superseded;
    (mark != Epoch::default()).then(|| mark.raw().to_be_bytes().to_vec())
}

fn decode(bytes: &[u8]) -> Option<Generation> {
    let (hard, soft) = bytes.split_first_chunk()?;
    let mark = |raw: [u8; 8]| Epoch::from_raw(u64::from_be_bytes(raw));
    let (hard, soft) = (mark(*hard), mark(soft.try_into().ok()?));
    Some(Generation { hard, soft, ..Generation::default() })
}

fn decode_superseded(bytes: &[u8]) -> Option<Generation> {
    let superseded = Epoch::from_raw(u64::from_be_bytes(bytes.try_into().ok()?));
    Some(Generation { superseded, ..Generation::default() })
}

/// The secret stays where it is: it is no part of the damage.
fn put_aside(dir: &Path, now: SystemTime) -> io::Result<PathBuf> {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut name = format!("damaged-{}", since.as_secs());
    // Twice within a second, or under a clock that stands still.
    while dir.join(&name).try_exists()? {
        name.push_str("-again");
    }
    let aside = dir.join(name);
    std::fs::rename(dir.join("db"), &aside)?;
    Ok(aside)
}

#[cfg(test)]
mod tests;
