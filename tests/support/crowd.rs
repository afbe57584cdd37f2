//! Many clients that ask at once, and bounds against hanging.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::client::Response;
use crate::larder_under_test::{API, Larder};

/// Runs a test's body with a generous bound.
pub async fn bounded<T>(body: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(25), body).await.expect("it does not hang")
}

/// Clients that have sent their requests, each on a connection of its own.
pub struct Crowd(Vec<JoinHandle<Option<Response>>>);

impl Crowd {
    /// `clients` requests for `path`; `fields` gives the lines of each by its place.
    pub async fn asks(
        larder: &Larder,
        clients: usize,
        path: &str,
        fields: impl Fn(usize) -> Vec<String>,
    ) -> Self {
        let mut asking = Vec::with_capacity(clients);
        for place in 0..clients {
            let mut client = larder.client().await;
            let lines = fields(place);
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            client.ask("GET", &format!("{API}{path}"), &lines).await;
            asking.push(tokio::spawn(async move { client.answer("GET").await }));
        }
        Self(asking)
    }

    /// The same without fields.
    pub async fn plain(larder: &Larder, clients: usize, path: &str) -> Self {
        Self::asks(larder, clients, path, |_| Vec::new()).await
    }

    /// Each a path of its own below `path`.
    pub async fn plain_each(larder: &Larder, clients: usize, path: &str) -> Self {
        let mut crowd = Self(Vec::with_capacity(clients));
        for place in 0..clients {
            crowd.0.extend(Self::plain(larder, 1, &format!("{path}/{place}")).await.0);
        }
        crowd
    }

    /// The first `clients` go away in the middle of it.
    pub fn leave(&mut self, clients: usize) {
        for client in self.0.drain(..clients) {
            client.abort();
        }
    }

    /// What each client got.
    pub async fn answers(self) -> Vec<Response> {
        let mut answers = Vec::with_capacity(self.0.len());
        for client in self.0 {
            answers.push(client.await.expect("a client reads on").expect("an answer"));
        }
        answers
    }
}
