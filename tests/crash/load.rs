//! The load: clients that read, revalidate, invalidate and purge until larder is killed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::client::Client;
use crate::content;
use crate::expectations::Expectations;
use crate::larder::Larder;
use crate::origin::Origin;

/// The number of concurrent clients.
const CLIENTS: u64 = 6;

/// Running clients.
pub struct Load {
    stopped: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(larder: &Larder, origin: &Arc<Origin>, expectations: &Arc<Expectations>, seed: u64) -> Self {
        let (addr, admin) = (larder.addr, larder.admin);
        let stopped = Arc::new(AtomicBool::new(false));
        let client = |client| {
            let (expectations, stopped) = (Arc::clone(expectations), Arc::clone(&stopped));
            let origin = Arc::clone(origin);
            let random = StdRng::seed_from_u64(seed ^ client);
            thread::spawn(move || {
                // Every error of the connection means that larder was killed.
                let _error = run_client([addr, admin], &origin, &expectations, random, &stopped);
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { stopped, clients }
    }

    /// Stops the clients and waits for all of them.
    pub fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("no client panics");
        }
    }
}

fn run_client(
    [addr, admin]: [SocketAddr; 2],
    origin: &Origin,
    expectations: &Expectations,
    mut random: StdRng,
    stopped: &AtomicBool,
) -> std::io::Result<()> {
    let mut client = Client::connect(addr)?;
    while !stopped.load(Ordering::Relaxed) {
        let n = random.random_range(0..content::URLS);
        let purged = expectations.purged(n);
        match random.random_range(0..100) {
            0..3 => {
                expectations.set_unknown(n);
                let response = client.post(n)?;
                let upto = std::str::from_utf8(&response.body).ok().and_then(|n| n.parse().ok());
                expectations.record_invalidation(n, upto.expect("a response of the origin"));
            }
            3..5 => {
                expectations.set_unknown(n);
                let upto = origin.last();
                let status = Client::connect(admin)?.purge(n)?.status;
                if status == 200 {
                    expectations.record_purge(n, upto);
                } else {
                    expectations.record_failed_purge();
                }
            }
            5..20 => {
                expectations.set_unknown(n);
                expectations.record_response(n, &client.get(n, true)?, purged);
            }
            _ => expectations.record_response(n, &client.get(n, false)?, purged),
        }
    }
    Ok(())
}
