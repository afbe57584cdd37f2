//! The store thread: the only one that changes the disk.
//!
//! Owns: scheduling: commands in their order; sweeping, checking and measuring free space by its own timers;
//! recovery when a write fails. Never touches: how any of it is done.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant, SystemTime};

use crate::clock::Clock;
use crate::store::disk::Shared;
use crate::store::disk::check_state::Check;
use crate::store::disk::database::{Closed, Fault, caught};
use crate::store::disk::free_space::{self, PressureAction, SpacePressure};
use crate::store::disk::layout::Layout;
use crate::store::disk::queue::{Command, PutCommand};
use crate::store::disk::recovery::{Opened, Recovery, RecoveryStep};
use crate::store::disk::writer::DiskWriter;
use crate::telemetry::StoreOp;

/// A database that fails within this time after its opening is not opened again as it is.
const TRIAL: Duration = Duration::from_secs(60);
/// How often the volume is measured.
const ROOM_EVERY: Duration = Duration::from_secs(10);
/// How often the consistency of the disk is checked.
const CHECK_EVERY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long commands may delay background work.
const SLICE_EVERY: Duration = Duration::from_millis(100);
/// How long closing may take.
pub(super) const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// State of the thread.
pub(super) struct Worker {
    shared: Arc<Shared>,
    recovery: Recovery,
    open: Option<(DiskWriter, Closed)>,
    pressure: SpacePressure,
    /// Whether a slice of sweeping left due entries.
    sweeping: bool,
    timers: Timers,
    /// The clock of the timers. It is the operating system's even if `shared.clock` is not: the thread waits
    /// by it.
    timer_clock: Clock,
    /// When the database was opened last.
    opened: Instant,
}

/// When each task is due.
struct Timers {
    sweep: Instant,
    free_space: Instant,
    check: Instant,
    retry: Instant,
    slice: Instant,
}

impl Worker {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let recovery = Recovery {
            layout: Layout::new(shared.settings.dir.clone()),
            clock: shared.clock.clone(),
            telemetry: Arc::clone(&shared.telemetry),
            open_within: shared.hooks.open_within,
        };
        let timer_clock = Clock::system();
        let now = timer_clock.instant();
        let sweep = now + shared.settings.sweep_every;
        let timers = Timers { sweep, free_space: now, check: now, retry: now, slice: now };
        Self {
            shared,
            recovery,
            open: None,
            pressure: SpacePressure::default(),
            sweeping: false,
            timers,
            timer_clock,
            opened: now,
        }
    }

    /// Runs until the command to close.
    pub(super) fn run(mut self) {
        self.recover(RecoveryStep::AsItIs);
        self.shared.first_open_done.send_replace(true);
        loop {
            let command = self.shared.queue.next(self.next_due());
            let idle = command.is_none();
            match command {
                Some(Command::Close(done)) => {
                    self.close();
                    // The receiver may be gone.
                    let _gone = done.send(());
                    return;
                }
                Some(Command::Stall(until)) => drop(until.recv()),
                Some(Command::Flush(done)) => {
                    self.attempt(|writer, _| writer.database.flush());
                    let _gone = done.send(());
                }
                Some(Command::Clear) => self.recreate(),
                Some(command) => self.execute(&command),
                None => {}
            }
            self.run_due_tasks(idle);
        }
    }

    fn execute(&mut self, command: &Command) {
        match command {
            Command::Put(put) => self.write(put),
            Command::Remove(key, hash) => {
                self.attempt(|writer, _| writer.remove_damaged((*key, *hash)));
            }
            Command::RemoveTarget(target) => {
                self.attempt(|writer, _| writer.remove_target(*target));
            }
            Command::Clear | Command::Flush(_) | Command::Stall(_) | Command::Close(_) => {}
        }
    }

    /// Writes a response. If it cannot be written, the entry that it replaces is removed all the same.
    fn write(&mut self, put: &PutCommand) {
        let written = if self.pressure.is_active() {
            self.shared.telemetry.store_dropped();
            self.attempt(|writer, _| writer.remove_replaced(put))
        } else {
            self.attempt(|writer, _| {
                writer.put(put)?;
                writer.make_room()
            })
        };
        if written.is_none() {
            self.shared.events.lost(&put.key, &put.stored, put.epoch);
        }
    }

    /// Runs the tasks that are due by the timers.
    fn run_due_tasks(&mut self, idle: bool) {
        let now = self.timer_clock.instant();
        if self.open.is_none() {
            if now >= self.timers.retry {
                self.recover(RecoveryStep::AsItIs);
            }
            return;
        }
        if now >= self.timers.free_space {
            self.timers.free_space = now + ROOM_EVERY;
            self.check_free_space();
        }
        if now >= self.timers.check {
            self.timers.check = now + CHECK_EVERY;
            self.attempt(|writer, _| {
                writer.check = Some(Check::default());
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
            self.attempt(|writer, _| writer.check_step());
        }
    }

    fn check_free_space(&mut self) {
        let volume = (self.shared.hooks.measure)(&self.shared.settings.dir);
        let bound = self.shared.settings.bytes;
        let size = self.attempt(|writer, _| writer.database.size());
        let bloated = size.is_some_and(|size| free_space::is_bloated(size, bound));
        let step = self.pressure.step(volume);
        self.shared.full.store(self.pressure.is_active(), Ordering::Relaxed);
        match step {
            PressureAction::Normal if bloated => self.recreate(),
            PressureAction::Normal | PressureAction::Wait => {}
            PressureAction::Evict => {
                tracing::warn!("The volume of the store is nearly full: evicting");
                if let Err(error) = self.recovery.layout.remove_quarantines() {
                    self.shared.telemetry.store_error(StoreOp::Remove, &error);
                }
                self.attempt(|writer, _| writer.evict_down_to(writer.usage.bytes() / 2));
            }
            PressureAction::Rebuild => {
                tracing::warn!("The volume of the store is still nearly full: emptying the cache");
                self.recreate();
            }
        }
    }

    fn next_due(&self) -> Instant {
        let Some((writer, _)) = &self.open else { return self.timers.retry };
        if self.sweeping || writer.check.is_some() {
            return self.timer_clock.instant();
        }
        self.timers.sweep.min(self.timers.free_space).min(self.timers.check)
    }

    /// Calls `act` with the open database. After a failure it starts recovery: the engine does not work again
    /// after an error.
    fn attempt<T>(&mut self, act: impl FnOnce(&mut DiskWriter, SystemTime) -> Result<T, Fault>) -> Option<T> {
        let (writer, _) = self.open.as_mut()?;
        let now = self.shared.clock.now();
        match caught(|| act(writer, now)) {
            Ok(done) => Some(done),
            Err(fault) => {
                self.shared.telemetry.store_error(StoreOp::Write, &fault);
                self.close_database();
                let failed_soon = self.timer_clock.instant() < self.opened + TRIAL;
                if failed_soon && fault.is_transient() {
                    // The system lacks a resource: that is no reason to quarantine the files.
                    self.retry_later(fault.to_string());
                } else {
                    // A database that fails again so soon is not opened as it is.
                    self.recover(if failed_soon { RecoveryStep::Quarantine } else { RecoveryStep::AsItIs });
                }
                None
            }
        }
    }

    /// Opens the database, or continues with memory only until the next retry.
    fn recover(&mut self, from: RecoveryStep) {
        match self.recovery.open_from(from) {
            Ok(Opened { database, closed, usage }) => {
                let writer = self.shared.publish(database, &usage);
                self.open = Some((writer, closed));
                let now = self.timer_clock.instant();
                self.opened = now;
                self.timers.check = now;
                self.shared.events.opened();
            }
            Err(reason) => self.retry_later(reason),
        }
    }

    /// Continues with memory only until the next retry.
    fn retry_later(&mut self, reason: String) {
        self.shared.set_memory_only(reason);
        self.timers.retry = self.timer_clock.instant() + self.shared.hooks.retry_every;
    }

    /// Empties the cache: the old one is moved out of the way and a new database opened.
    fn recreate(&mut self) {
        if self.open.is_none() {
            return;
        }
        self.close_database();
        let from = match self.recovery.layout.discard() {
            Ok(()) => RecoveryStep::AsItIs,
            Err(error) => {
                self.shared.telemetry.store_error(StoreOp::Remove, &error);
                RecoveryStep::Wipe
            }
        };
        self.recover(from);
    }

    /// Drops the database, and waits a limited time until it is closed: before that it may still write where
    /// the next one will be.
    fn close_database(&mut self) {
        self.shared.unpublish();
        let Some((writer, closed)) = self.open.take() else { return };
        drop(writer);
        if closed.recv_timeout(CLOSE_WITHIN) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("The store did not close in time: what it wrote last may be lost");
        }
    }

    fn close(&mut self) {
        if let Some((writer, _)) = &self.open
            && let Err(fault) = writer.database.flush()
        {
            self.shared.telemetry.store_error(StoreOp::Write, &fault);
        }
        self.close_database();
    }
}

#[cfg(test)]
mod tests;
