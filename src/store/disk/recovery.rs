//! The recovery ladder: from what lies on disk to an open database, whatever happened to it.
//!
//! Owns: its rungs. As it is; put aside and begun anew; everything wiped; none: memory only. Nothing
//! is salvaged: half a database could bring back what was removed. Never touches: what is stored.

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
use crate::telemetry::{StoreOp, Telemetry};

/// The rungs, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RecoveryStep {
    /// As it is.
    AsItIs,
    /// Begun anew, what was there put aside.
    Quarantine,
    /// Begun anew, what was there and what was put aside removed.
    Wipe,
}

const RUNGS: [RecoveryStep; 3] =
    [RecoveryStep::AsItIs, RecoveryStep::Quarantine, RecoveryStep::Wipe];

/// What it takes to open.
pub(super) struct Recovery {
    pub(super) layout: Layout,
    pub(super) clock: Clock,
    pub(super) account: Arc<Telemetry>,
    /// How long an opening may take.
    pub(super) open_within: Duration,
}

/// An open database.
pub(super) struct Opened {
    pub(super) database: Database,
    /// What comes when it is closed.
    pub(super) closed: Closed,
    /// What it holds.
    pub(super) sizes: DiskUsage,
}

impl Recovery {
    /// Opens, from this rung on; `Err`: why no rung held. Where it is not the files that are to blame
    /// they are left as they are.
    pub(super) fn climb(&self, from: RecoveryStep) -> Result<Opened, String> {
        let mut why = Vec::new();
        for rung in RUNGS.into_iter().filter(|rung| *rung >= from) {
            match self.stand_on(rung) {
                Ok(opened) => {
                    if rung > RecoveryStep::AsItIs {
                        self.account.store_recovered();
                    }
                    return Ok(opened);
                }
                Err(fault) => {
                    self.account.store_error(StoreOp::Open, &fault);
                    why.push(fault.to_string());
                    if fault.is_passing() {
                        break;
                    }
                }
            }
        }
        // The first is the cause, what follows came of it.
        Err(why.into_iter().next().unwrap_or_default())
    }

    fn stand_on(&self, rung: RecoveryStep) -> Result<Opened, Fault> {
        match rung {
            RecoveryStep::AsItIs => {}
            RecoveryStep::Quarantine => self.layout.quarantine(self.clock.now())?,
            RecoveryStep::Wipe => self.layout.wipe()?,
        }
        self.layout.prepare()?;
        let opened = self.open()?;
        self.layout.close_to_others()?;
        Ok(opened)
    }

    /// Opens on another thread, which is left behind if it takes too long.
    fn open(&self) -> Result<Opened, Fault> {
        let (database, bodies) = (self.layout.database(), self.layout.bodies());
        let (done, opened) = mpsc::channel();
        let open = move || {
            let opened = caught(|| {
                wait_until_free(&database.join("db"))?;
                let (database, closed) = Database::open(&database, Bodies::new(bodies))?;
                let sizes = DiskUsage::of(&database)?;
                Ok(Opened { database, closed, sizes })
            });
            // Where nobody waits any more, what was opened is closed again.
            drop(done.send(opened));
        };
        let _opening = thread::Builder::new().name("larder-open".to_owned()).spawn(open)?;
        opened.recv_timeout(self.open_within).unwrap_or(Err(Fault::Slow(self.open_within)))
    }
}

/// Waits until whoever had the database last has let go of its file: closing may lag behind, and
/// that is no damage.
fn wait_until_free(file: &Path) -> io::Result<()> {
    let file = match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
