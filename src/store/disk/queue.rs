//! The queue of the store thread: bounded, so that a slow disk costs later hits, but never memory or a
//! response.
//!
//! Owns: order, bounds, replacing an older queued put of an entry by a newer one. Never touches: the disk.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Instant, SystemTime};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::key::CacheKey;
use crate::store::disk::keys;
use crate::store::disk::pending_writes::PendingWrites;
use crate::store::generations::Epoch;
use crate::store::presence::PresenceGuard;
use crate::store::{EntryId, StoreQuery, is_newer};
use crate::stored::StoredResponse;

/// Maximum number of queued commands.
const COMMANDS: usize = 4096;

/// A response to be written.
pub struct PutCommand {
    /// Its key.
    pub key: CacheKey,
    /// The response.
    pub stored: Arc<StoredResponse>,
    /// Taken before its request was sent.
    pub epoch: Epoch,
    /// The newest order number given out when the response was put.
    pub latest_order: u64,
    /// When the entry will be of no more use; `None`: never.
    pub until: Option<SystemTime>,
    /// Keeps the target marked as present until the response is written.
    pub presence: PresenceGuard,
}

/// A command to the store thread.
pub(super) enum Command {
    /// Write this.
    Put(PutCommand),
    /// Remove this entry, if its value still has this hash.
    Remove(EntryId, u64),
    /// Remove all entries of this target.
    RemoveTarget(u128),
    /// Remove everything.
    Clear,
    /// Reply when everything queued before is on disk.
    Flush(oneshot::Sender<()>),
    /// Block until this receives a message.
    Stall(Receiver<()>),
    /// Close, reply, and end the thread.
    Close(oneshot::Sender<()>),
}

/// Reason why a command was not queued.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotQueued {
    /// The queue is full.
    Full,
    /// The store is closed.
    Closed,
}

/// The queue.
pub(super) struct Queue {
    /// Maximum size of queued puts, in bytes.
    bytes: usize,
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    commands: VecDeque<Command>,
    /// Number of commands taken since the start: the number of the first of `commands`.
    taken: u64,
    /// Puts that a later put of the same entry may replace in the queue, and their numbers.
    puts: HashMap<EntryId, u64>,
    /// All puts, until the command after them is taken.
    pending: PendingWrites,
    /// The put that was taken last, and its number: it is being written.
    writing: Option<(u64, EntryId)>,
    bytes: usize,
    closed: bool,
}

impl PutCommand {
    pub(super) fn entry_id(&self) -> EntryId {
        keys::entry_id(&self.key, self.stored.variant)
    }

    fn weight(&self) -> usize {
        self.key.weight() + self.stored.weight()
    }

    /// Whether a stored response with the order number `order` is newer.
    pub(super) fn is_older_than(&self, order: u64) -> bool {
        is_newer(order, self.stored.order, self.latest_order)
    }
}

impl Queue {
    /// A queue for this many bytes.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { bytes, waiting: Mutex::default(), changed: Condvar::new() }
    }

    /// Queues a put, or replaces a queued put of the same entry by it.
    pub(super) fn put(&self, put: PutCommand) -> Result<(), NotQueued> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(NotQueued::Closed);
        }
        let entry_id = put.entry_id();
        let bytes = put.weight();
        if let Some(queued) = waiting.queued_put(entry_id) {
            if put.is_older_than(queued.stored.order) {
                return Ok(());
            }
            let before = queued.weight();
            if waiting.bytes - before + bytes > self.bytes {
                return Err(NotQueued::Full);
            }
            waiting.bytes = waiting.bytes - before + bytes;
            let number = waiting.puts.get(&entry_id).copied().unwrap_or_default();
            waiting.pending.put(number, entry_id, &put.key, (&put.stored, put.epoch));
            if let Some(queued) = waiting.queued_put(entry_id) {
                *queued = put;
            }
            return Ok(());
        }
        if waiting.commands.len() >= COMMANDS || waiting.bytes + bytes > self.bytes {
            return Err(NotQueued::Full);
        }
        waiting.bytes += bytes;
        let number = waiting.taken + waiting.commands.len() as u64;
        waiting.puts.insert(entry_id, number);
        waiting.pending.put(number, entry_id, &put.key, (&put.stored, put.epoch));
        waiting.commands.push_back(Command::Put(put));
        self.changed.notify_one();
        Ok(())
    }

    /// Finds a response that is queued or being written and that the request selects.
    pub(super) fn find(
        &self,
        query: StoreQuery<'_>,
        latest_order: u64,
    ) -> Option<(Arc<StoredResponse>, Epoch)> {
        self.waiting.lock().pending.find(query, latest_order)
    }

    /// Whether a put of this key is queued or being written.
    pub(super) fn has(&self, key: &CacheKey) -> bool {
        self.waiting.lock().pending.has(key)
    }

    /// Queues a command that may be dropped when the queue is full.
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
        // A later put must not move ahead of the commands between.
        waiting.puts.clear();
        waiting.closed = matches!(command, Command::Close(_));
        waiting.commands.push_back(command);
        self.changed.notify_one();
        Ok(())
    }

    /// The next command; `None` when there is none by `until`.
    pub(super) fn next(&self, until: Instant) -> Option<Command> {
        let mut waiting = self.waiting.lock();
        if let Some((number, entry_id)) = waiting.writing.take() {
            waiting.pending.done(number, entry_id);
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
            let (entry_id, number) = (put.entry_id(), waiting.taken - 1);
            if waiting.puts.get(&entry_id) == Some(&number) {
                waiting.puts.remove(&entry_id);
            }
            waiting.writing = Some((number, entry_id));
        }
        Some(command)
    }
}

impl Waiting {
    fn queued_put(&mut self, entry_id: EntryId) -> Option<&mut PutCommand> {
        let nth = self.puts.get(&entry_id)?.checked_sub(self.taken)?;
        match self.commands.get_mut(usize::try_from(nth).ok()?)? {
            Command::Put(put) => Some(put),
            Command::Remove(..)
            | Command::RemoveTarget(_)
            | Command::Clear
            | Command::Flush(_)
            | Command::Stall(_)
            | Command::Close(_) => None,
        }
    }
}
