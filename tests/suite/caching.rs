//! Caching over real sockets: storability, scope, keys, freshness, validation and invalidation (the cases
//! CCH-… and the requirements of RFC 9111 that only client and origin together can show).

use crate::client::Response;
use crate::larder_under_test::{API, Larder};
use crate::origin::{MockResponse, Origin};
use std::time::Duration;

mod cold_keys;
mod freshness;
mod invalidation;
mod keys;
mod methods;
mod scope;
mod validation;

const HOUR: Duration = Duration::from_secs(3600);

/// An origin whose body contains the number of the call.
async fn numbered(status: u16, fields: &'static [&'static str]) -> Origin {
    Origin::start(move |seen| MockResponse::new(status, fields, format!("call {}", seen.index))).await
}

/// An origin whose body is the request target.
async fn echo() -> Origin {
    Origin::start(|seen| MockResponse::new(200, &[], &seen.target)).await
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn is_hit(answer: &Response) -> bool {
    answer.cache_status().starts_with("larder; hit")
}

async fn send(larder: &Larder, method: &str, path: &str, fields: &[&str]) -> Response {
    let mut client = larder.client().await;
    client.send_request(method, &format!("{API}{path}"), fields).await;
    client.response(method).await.expect("an answer")
}

const OVERRIDES: [(&str, &[&str]); 3] = [
    ("?_method=DELETE", &[]),
    ("?a=1&X-HTTP-Method-Override=PATCH", &[]),
    ("?a=1", &["X-HTTP-Method-Override: DELETE"]),
];

/// The effect of a HEAD on the stored response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum After {
    Fresh,
    Unchanged,
    Outdated,
}
