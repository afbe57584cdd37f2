//! The load: clients that read, ask anew and purge, until larder is killed under them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::book::Book;
use crate::client::Client;
use crate::content;
use crate::larder::Larder;
use crate::origin::Origin;

/// How many clients there are at once.
const CLIENTS: u64 = 6;

/// Clients at work.
pub struct Load {
    ends: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(larder: &Larder, origin: &Arc<Origin>, book: &Arc<Book>, seed: u64) -> Self {
        let (addr, admin) = (larder.addr, larder.admin);
        let ends = Arc::new(AtomicBool::new(false));
        let client = |client| {
            let (book, ends) = (Arc::clone(book), Arc::clone(&ends));
            let origin = Arc::clone(origin);
            let random = StdRng::seed_from_u64(seed ^ client);
            thread::spawn(move || {
                // Whatever cuts the connection, larder was killed.
                let _cut = work([addr, admin], &origin, &book, random, &ends);
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { ends, clients }
    }

    /// Waits until all have noticed that larder is gone.
    pub fn end(self) {
        self.ends.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("no client panics");
        }
    }
}

fn work(
    [addr, admin]: [SocketAddr; 2],
    origin: &Origin,
    book: &Book,
    mut random: StdRng,
    ends: &AtomicBool,
) -> std::io::Result<()> {
    let mut client = Client::connect(addr)?;
    while !ends.load(Ordering::Relaxed) {
        let n = random.random_range(0..content::KINDS);
        let purged = book.purged(n);
        match random.random_range(0..100) {
            0..3 => {
                book.unsettle(n);
                let answer = client.post(n)?;
                let upto = std::str::from_utf8(&answer.body).ok().and_then(|n| n.parse().ok());
                book.was_changed(n, upto.expect("the origin's own answer"));
            }
            3..5 => {
                book.unsettle(n);
                let upto = origin.last();
                let status = Client::connect(admin)?.purge(n)?.status;
                if status == 200 {
                    book.was_purged(n, upto);
                } else {
                    book.was_refused();
                }
            }
            5..20 => {
                book.unsettle(n);
                book.came(n, &client.get(n, true)?, purged);
            }
            _ => book.came(n, &client.get(n, false)?, purged),
        }
    }
    Ok(())
}
