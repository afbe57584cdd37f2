//! The store thread: the only one that changes what is on disk.
//!
//! Owns: what is done when: commands as they come; sweeping, checking and looking after room by its
//! own timers; climbing the ladder when a write fails. Never touches: how any of it is done.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant, SystemTime};

use crate::clock;
use crate::store::disk::Shared;
use crate::store::disk::consistency::Check;
use crate::store::disk::database::{Closed, Fault, caught};
use crate::store::disk::free_space::{self, PressureAction, SpacePressure};
use crate::store::disk::layout::Layout;
use crate::store::disk::queue::{Command, PutCommand};
use crate::store::disk::recovery::{Opened, Recovery, RecoveryStep};
use crate::store::disk::writer::DiskWriter;
use crate::telemetry::StoreOp;

/// A database that fails within this after its opening is not opened as it is once more.
const TRIAL: Duration = Duration::from_secs(60);
/// How often the volume is looked at.
const ROOM_EVERY: Duration = Duration::from_secs(10);
/// How often what lies on disk is checked.
const CHECK_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long background work may be put off by commands.
const SLICE_EVERY: Duration = Duration::from_millis(100);
/// How long closing may take.
pub(super) const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// The thread's own.
pub(super) struct Worker {
    shared: Arc<Shared>,
    ladder: Recovery,
    open: Option<(DiskWriter, Closed)>,
    shortage: SpacePressure,
    /// Whether a slice of sweeping left something.
    sweeping: bool,
    timers: Timers,
    /// When the database was opened last.
    opened: Instant,
}

/// When each is due.
struct Timers {
    sweep: Instant,
    room: Instant,
    check: Instant,
    retry: Instant,
    slice: Instant,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let ladder = Recovery {
            layout: Layout::new(shared.settings.dir.clone()),
            clock: shared.clock.clone(),
            account: Arc::clone(&shared.account),
            open_within: shared.means.open_within,
        };
        let now = clock::monotonic();
        let sweep = now + shared.settings.sweep_every;
        let timers = Timers { sweep, room: now, check: now, retry: now, slice: now };
        Self {
            shared,
            ladder,
            open: None,
            shortage: SpacePressure::default(),
            sweeping: false,
            timers,
            opened: now,
        }
    }

    /// Runs until it is told to close.
    pub(super) fn run(mut self) {
        self.climb(RecoveryStep::AsItIs);
        self.shared.settled.send_replace(true);
        loop {
            let command = self.shared.queue.next(self.next_due());
            let idle = command.is_none();
            match command {
                Some(Command::Close(done)) => {
                    self.close();
                    // Who asked may have stopped waiting.
                    let _gone = done.send(());
                    return;
                }
                Some(Command::Stall(until)) => drop(until.recv()),
                Some(Command::Flush(done)) => {
                    self.attempt(|keeper, _| keeper.database.flush());
                    let _gone = done.send(());
                }
                Some(Command::Clear) => self.begin_anew(),
                Some(command) => self.obey(&command),
                None => {}
            }
            self.look_after(idle);
        }
    }

    fn obey(&mut self, command: &Command) {
        match command {
            Command::Put(put) => self.write(put),
            Command::Remove(key, hash) => {
                self.attempt(|keeper, _| keeper.remove_damaged((*key, *hash)));
            }
            Command::Reclaim(target) => {
                self.attempt(|keeper, _| keeper.remove_target(*target));
            }
            Command::Clear | Command::Flush(_) | Command::Stall(_) | Command::Close(_) => {}
        }
    }

    /// Writes an answer. Where it cannot be, what it replaces goes all the same.
    fn write(&mut self, put: &PutCommand) {
        let written = if self.shortage.is_on() {
            self.shared.account.store_dropped();
            self.attempt(|keeper, _| keeper.outdo(put))
        } else {
            self.attempt(|keeper, _| {
                keeper.put(put)?;
                keeper.make_room()
            })
        };
        if written.is_none() {
            self.shared.events.lost(&put.key, &put.stored, put.mark);
        }
    }

    /// What is due by the timers.
    fn look_after(&mut self, idle: bool) {
        let now = clock::monotonic();
        if self.open.is_none() {
            if now >= self.timers.retry {
                self.climb(RecoveryStep::AsItIs);
            }
            return;
        }
        if now >= self.timers.room {
            self.timers.room = now + ROOM_EVERY;
            self.look_for_room();
        }
        if now >= self.timers.check {
            self.timers.check = now + CHECK_EVERY;
            self.attempt(|keeper, _| {
                keeper.check = Some(Check::default());
                Ok(())
            });
        }
        if now >= self.timers.sweep {
            self.timers.sweep = now + self.shared.settings.sweep_every;
            self.sweeping = true;
        }
        if idle || now >= self.timers.slice {
            self.timers.slice = now + SLICE_EVERY;
            self.slice();
        }
    }

    fn slice(&mut self) {
        if mem::take(&mut self.sweeping) {
            self.sweeping = self.attempt(DiskWriter::sweep).unwrap_or_default();
        } else {
            self.attempt(|keeper, _| keeper.check_on());
        }
    }

    fn look_for_room(&mut self) {
        let volume = (self.shared.means.measure)(&self.shared.settings.dir);
        let bound = self.shared.settings.bytes;
        let size = self.attempt(|keeper, _| keeper.database.size());
        let bloated = size.is_some_and(|size| free_space::is_bloated(size, bound));
        let step = self.shortage.step(volume);
        self.shared.full.store(self.shortage.is_on(), Ordering::Relaxed);
        match step {
            PressureAction::Go if bloated => self.begin_anew(),
            PressureAction::Go | PressureAction::Wait => {}
            PressureAction::Evict => {
                tracing::warn!("The volume of the store is nearly full: evicting");
                if let Err(error) = self.ladder.layout.remove_quarantines() {
                    self.shared.account.store_error(StoreOp::Remove, &error);
                }
                self.attempt(|keeper, _| keeper.evict_down_to(keeper.sizes.bytes() / 2));
            }
            PressureAction::Rebuild => {
                tracing::warn!("The volume of the store is still nearly full: emptying the cache");
                self.begin_anew();
            }
        }
    }

    fn next_due(&self) -> Instant {
        let Some((keeper, _)) = &self.open else { return self.timers.retry };
        if self.sweeping || keeper.check.is_some() {
            return clock::monotonic();
        }
        self.timers.sweep.min(self.timers.room).min(self.timers.check)
    }

    /// Does something with the open database, and climbs the ladder where that fails: an engine that
    /// failed once fails on.
    fn attempt<T>(
        &mut self,
        act: impl FnOnce(&mut DiskWriter, SystemTime) -> Result<T, Fault>,
    ) -> Option<T> {
        let (keeper, _) = self.open.as_mut()?;
        let now = self.shared.clock.now();
        match caught(|| act(keeper, now)) {
            Ok(done) => Some(done),
            Err(fault) => {
                self.shared.account.store_error(StoreOp::Write, &fault);
                self.let_go();
                let soon = clock::monotonic() < self.opened + TRIAL;
                if soon && fault.is_passing() {
                    // The system lacks something: no reason to put aside what lies there.
                    self.rest(fault.to_string());
                } else {
                    // What fails again so soon is not to be had as it is.
                    self.climb(if soon { RecoveryStep::Quarantine } else { RecoveryStep::AsItIs });
                }
                None
            }
        }
    }

    /// Opens, or goes on with memory only until the next try.
    fn climb(&mut self, from: RecoveryStep) {
        match self.ladder.climb(from) {
            Ok(Opened { database, closed, sizes }) => {
                let keeper = self.shared.publish(database, &sizes);
                self.open = Some((keeper, closed));
                let now = clock::monotonic();
                self.opened = now;
                self.timers.check = now;
                self.shared.events.opened();
            }
            Err(why) => self.rest(why),
        }
    }

    /// Goes on with memory only until the next try.
    fn rest(&mut self, why: String) {
        self.shared.out_of_order(why);
        self.timers.retry = clock::monotonic() + self.shared.means.retry_every;
    }

    /// Empties everything: what is there is put out of the way and a new database opened.
    fn begin_anew(&mut self) {
        if self.open.is_none() {
            return;
        }
        self.let_go();
        let from = match self.ladder.layout.discard() {
            Ok(()) => RecoveryStep::AsItIs,
            Err(error) => {
                self.shared.account.store_error(StoreOp::Remove, &error);
                RecoveryStep::Wipe
            }
        };
        self.climb(from);
    }

    /// Lets go of the database, and waits until it is closed, for so long: as long as it is not, it
    /// may still write to where the next one will be.
    fn let_go(&mut self) {
        self.shared.withdraw();
        let Some((keeper, closed)) = self.open.take() else { return };
        drop(keeper);
        if closed.recv_timeout(CLOSE_WITHIN) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("The store did not close in time: what it wrote last may be lost");
        }
    }

    fn close(&mut self) {
        if let Some((keeper, _)) = &self.open
            && let Err(fault) = keeper.database.flush()
        {
            self.shared.account.store_error(StoreOp::Write, &fault);
        }
        self.let_go();
    }
}

#[cfg(test)]
mod tests;
