//! What waits for the store thread: bounded, so that a slow disk costs later hits and never memory or
//! an answer.
//!
//! Owns: order, bounds, that of two puts of one entry the newer is written. Never touches: the disk.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::key::CacheKey;
use crate::store::disk::keys::{self, ExpiresAt};
use crate::store::disk::pending_writes::PendingWrites;
use crate::store::generations::Epoch;
use crate::store::presence::PresenceGuard;
use crate::store::{EntryId, StoreQuery, is_newer};
use crate::stored::StoredResponse;

/// Commands that wait.
const COMMANDS: usize = 4096;

/// An answer to be written.
pub(super) struct PutCommand {
    pub(super) key: CacheKey,
    pub(super) stored: Arc<StoredResponse>,
    pub(super) mark: Epoch,
    /// Where the order of what is asked for had got to.
    pub(super) so_far: u64,
    pub(super) until: ExpiresAt,
    /// Until it is written.
    pub(super) _presence: PresenceGuard,
}

/// What the store thread can be told.
pub(super) enum Command {
    /// Write this.
    Put(PutCommand),
    /// Remove this entry, if its value still has this hash.
    Remove(EntryId, u64),
    /// Remove all entries of this target.
    Reclaim(u128),
    /// Remove everything.
    Clear,
    /// Say when everything before is on disk.
    Flush(oneshot::Sender<()>),
    /// Wait for this.
    Stall(Receiver<()>),
    /// Close, say so, and end.
    Close(oneshot::Sender<()>),
}

/// Why a command was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotQueued {
    /// There is no room.
    Full,
    /// The store is closed.
    Closed,
}

/// The queue.
pub(super) struct Queue {
    /// What may wait, in bytes.
    bytes: usize,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    commands: VecDeque<Command>,
    /// Taken since the start: what the first of `commands` is the number of.
    taken: u64,
    /// The puts that a later one of the same entry may stand in for, and their numbers.
    puts: HashMap<EntryId, u64>,
    /// All puts, until the command behind them is taken.
    awaiting: PendingWrites,
    /// The put that was taken last, and its number: it is being written.
    writing: Option<(u64, EntryId)>,
    bytes: usize,
    closed: bool,
}

impl PutCommand {
    pub(super) fn place(&self) -> EntryId {
        keys::place(&self.key, self.stored.variant)
    }

    fn weight(&self) -> usize {
        self.key.weight() + self.stored.weight()
    }

    /// Whether what is kept, asked for as `asked`, is newer.
    pub(super) fn is_older_than(&self, asked: u64) -> bool {
        is_newer(asked, self.stored.asked, self.so_far)
    }
}

impl Queue {
    /// A queue in which so many bytes may wait.
    pub(super) fn of(bytes: usize) -> Self {
        Self { bytes, waiting: Mutex::default(), changed: Condvar::new() }
    }

    /// Queues a put, or lets it stand in for one of the same entry.
    pub(super) fn put(&self, put: PutCommand) -> Result<(), NotQueued> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(NotQueued::Closed);
        }
        let place = put.place();
        let bytes = put.weight();
        if let Some(kept) = waiting.put_of(place) {
            if put.is_older_than(kept.stored.asked) {
                return Ok(());
            }
            let before = kept.weight();
            if waiting.bytes - before + bytes > self.bytes {
                return Err(NotQueued::Full);
            }
            waiting.bytes = waiting.bytes - before + bytes;
            let number = waiting.puts.get(&place).copied().unwrap_or_default();
            waiting.awaiting.put(number, place, &put.key, (&put.stored, put.mark));
            if let Some(kept) = waiting.put_of(place) {
                *kept = put;
            }
            return Ok(());
        }
        if waiting.commands.len() >= COMMANDS || waiting.bytes + bytes > self.bytes {
            return Err(NotQueued::Full);
        }
        waiting.bytes += bytes;
        let number = waiting.taken + waiting.commands.len() as u64;
        waiting.puts.insert(place, number);
        waiting.awaiting.put(number, place, &put.key, (&put.stored, put.mark));
        waiting.commands.push_back(Command::Put(put));
        self.changed.notify_one();
        Ok(())
    }

    /// What waits to be written, or is being written, and the request selects.
    pub(super) fn find(
        &self,
        wanted: StoreQuery<'_>,
        so_far: u64,
    ) -> Option<(Arc<StoredResponse>, Epoch)> {
        self.waiting.lock().awaiting.find(wanted, so_far)
    }

    /// Whether something of this key waits to be written, or is being written.
    pub(super) fn has(&self, key: &CacheKey) -> bool {
        self.waiting.lock().awaiting.has(key)
    }

    /// Queues a command that may be left out where there is no room.
    pub(super) fn push(&self, command: Command) -> Result<(), NotQueued> {
        self.push_within(command, COMMANDS)
    }

    /// Queues a command that is too rare to be bounded.
    pub(super) fn push_always(&self, command: Command) -> Result<(), NotQueued> {
        self.push_within(command, usize::MAX)
    }

    fn push_within(&self, command: Command, bound: usize) -> Result<(), NotQueued> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(NotQueued::Closed);
        }
        if waiting.commands.len() >= bound {
            return Err(NotQueued::Full);
        }
        // A later put must not come before what is between.
        waiting.puts.clear();
        waiting.closed = matches!(command, Command::Close(_));
        waiting.commands.push_back(command);
        self.changed.notify_one();
        Ok(())
    }

    /// The next command; `None` when there is none by `until`.
    pub(super) fn next(&self, until: Instant) -> Option<Command> {
        let mut waiting = self.waiting.lock();
        if let Some((number, place)) = waiting.writing.take() {
            waiting.awaiting.done(number, place);
        }
        while waiting.commands.is_empty() {
            if self.changed.wait_until(&mut waiting, until).timed_out() {
                break;
            }
        }
        let command = waiting.commands.pop_front()?;
        waiting.taken += 1;
        if let Command::Put(put) = &command {
            waiting.bytes -= put.weight();
            let (place, number) = (put.place(), waiting.taken - 1);
            if waiting.puts.get(&place) == Some(&number) {
                waiting.puts.remove(&place);
            }
            waiting.writing = Some((number, place));
        }
        Some(command)
    }
}

impl Waiting {
    fn put_of(&mut self, place: EntryId) -> Option<&mut PutCommand> {
        let nth = self.puts.get(&place)?.checked_sub(self.taken)?;
        match self.commands.get_mut(usize::try_from(nth).ok()?)? {
            Command::Put(put) => Some(put),
            Command::Remove(..)
            | Command::Reclaim(_)
            | Command::Clear
            | Command::Flush(_)
            | Command::Stall(_)
            | Command::Close(_) => None,
        }
    }
}
