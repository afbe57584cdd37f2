//! Recovery: opens a database, whatever state the files on disk are in.
//!
//! Owns: its steps. Open as it is; move it to a quarantine and start empty; remove everything and start
//! empty; if all fail: memory only. Nothing is salvaged: half a database could bring back removed entries.
//! Never touches: stored entries.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::clock::Clock;
use crate::store::disk::body_file::Bodies;
use crate::store::disk::database::{Closed, Database, Fault, caught};
use crate::store::disk::layout::Layout;
use crate::store::disk::usage::DiskUsage;
use crate::store::private_file::existing;
use crate::telemetry::{StoreOp, Telemetry};

/// The steps, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RecoveryStep {
    /// Open as it is.
    AsItIs,
    /// Start empty, with the old files in a quarantine.
    Quarantine,
    /// Start empty, with the old files and quarantines removed.
    Wipe,
}

const STEPS: [RecoveryStep; 3] = [RecoveryStep::AsItIs, RecoveryStep::Quarantine, RecoveryStep::Wipe];

/// Dependencies of an opening.
pub(super) struct Recovery {
    pub(super) layout: Layout,
    pub(super) clock: Clock,
    pub(super) telemetry: Arc<Telemetry>,
    /// How long an opening may take.
    pub(super) open_within: Duration,
}

/// An open database.
pub(super) struct Opened {
    pub(super) database: Database,
    /// Receives a message when it is closed.
    pub(super) closed: Closed,
    /// Its usage.
    pub(super) usage: DiskUsage,
}

impl Recovery {
    /// Opens, from this step on; `Err`: the reason why every step failed. If the files are not the cause they
    /// are left as they are.
    pub(super) fn open_from(&self, from: RecoveryStep) -> Result<Opened, String> {
        let mut errors = Vec::new();
        for step in STEPS.into_iter().filter(|step| *step >= from) {
            match self.try_step(step) {
                Ok(opened) => {
                    if step > RecoveryStep::AsItIs {
                        self.telemetry.store_recovered();
                    }
                    return Ok(opened);
                }
                Err(fault) => {
                    self.telemetry.store_error(StoreOp::Open, &fault);
                    errors.push(fault.to_string());
                    if fault.is_transient() {
                        break;
                    }
                }
            }
        }
        // The first error is the cause of the others.
        Err(errors.into_iter().next().unwrap_or_default())
    }

    fn try_step(&self, step: RecoveryStep) -> Result<Opened, Fault> {
        match step {
            RecoveryStep::AsItIs => {}
            RecoveryStep::Quarantine => self.layout.quarantine(self.clock.now())?,
            RecoveryStep::Wipe => self.layout.wipe()?,
        }
        self.layout.prepare()?;
        let opened = self.open()?;
        self.layout.restrict_permissions()?;
        Ok(opened)
    }

    /// Opens on another thread, which is abandoned if it takes too long.
    fn open(&self) -> Result<Opened, Fault> {
        let (database, bodies) = (self.layout.database(), self.layout.bodies());
        let (done, opened) = mpsc::channel();
        let open = move || {
            let opened = caught(|| {
                wait_until_unlocked(&database.join("db"))?;
                let (database, closed) = Database::open(&database, Bodies::new(bodies))?;
                let usage = DiskUsage::from_database(&database)?;
                Ok(Opened { database, closed, usage })
            });
            // If the receiver is gone, the opened database is dropped and closed again.
            drop(done.send(opened));
        };
        let _opening = thread::Builder::new().name("larder-open".to_owned()).spawn(open)?;
        opened.recv_timeout(self.open_within).unwrap_or(Err(Fault::Slow(self.open_within)))
    }
}

/// Waits until the previous user of the database has released its lock: closing may take a while, and a lock
/// is no sign of damage.
fn wait_until_unlocked(file: &Path) -> io::Result<()> {
    let Some(file) = existing(File::open(file))? else { return Ok(()) };
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
