//! Concurrent requests, and a timeout against hanging tests.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::client::Response;
use crate::larder_under_test::{API, Larder};

/// Runs the body of a test with a generous timeout.
pub async fn bounded<T>(body: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(25), body).await.expect("no hang")
}

/// Clients that have each sent a request on a separate connection.
pub struct ConcurrentRequests(Vec<JoinHandle<Option<Response>>>);

impl ConcurrentRequests {
    /// Sends `clients` requests for `path`; `fields` returns the field lines of a request by its index.
    pub async fn send(
        larder: &Larder,
        clients: usize,
        path: &str,
        fields: impl Fn(usize) -> Vec<String>,
    ) -> Self {
        let mut pending = Vec::with_capacity(clients);
        for index in 0..clients {
            let mut client = larder.client().await;
            let lines = fields(index);
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            client.send_request("GET", &format!("{API}{path}"), &lines).await;
            pending.push(tokio::spawn(async move { client.response("GET").await }));
        }
        Self(pending)
    }

    /// Sends requests without field lines.
    pub async fn send_plain(larder: &Larder, clients: usize, path: &str) -> Self {
        Self::send(larder, clients, path, |_| Vec::new()).await
    }

    /// Sends requests without field lines, each for a different path below `path`.
    pub async fn send_to_each_path(larder: &Larder, clients: usize, path: &str) -> Self {
        let mut requests = Self(Vec::with_capacity(clients));
        for index in 0..clients {
            requests.0.extend(Self::send_plain(larder, 1, &format!("{path}/{index}")).await.0);
        }
        requests
    }

    /// Closes the connections of the first `clients` before their responses.
    pub fn disconnect(&mut self, clients: usize) {
        for client in self.0.drain(..clients) {
            client.abort();
        }
    }

    /// The response of each client.
    pub async fn responses(self) -> Vec<Response> {
        let mut responses = Vec::with_capacity(self.0.len());
        for client in self.0 {
            responses.push(client.await.expect("no panic").expect("a response"));
        }
        responses
    }
}
