//! An API that fails or limits its clients: the responses that clients receive, and the number and
//! times of the calls that the API receives.

use crate::failing_origin::SECOND;
use crate::larder_under_test::Larder;
use crate::origin::{MockResponse, Origin};
use std::time::Duration;

mod admission;
mod credentials;
mod outages;
mod retries;
mod retry_after;

const MINUTE: Duration = Duration::from_secs(60);

const HOUR: Duration = Duration::from_secs(3600);

/// 80 % and 120 % of one second: the bounds of the first backoff with jitter.
const MIN_BACKOFF: Duration = Duration::from_millis(800);

const MAX_BACKOFF: Duration = Duration::from_millis(1200);

fn ok(body: &str) -> MockResponse {
    MockResponse::new(200, &[], body)
}

/// A larder that stores `old` for `/x`, stale for one second.
async fn with_stale_entry(origin: &Origin, yaml: &str) -> Larder {
    origin.set_script(|_| ok("old"));
    let larder = Larder::start(origin, yaml).await;
    assert_eq!(larder.get("/x").await.text(), "old");
    larder.clock.advance(61 * SECOND);
    larder
}

/// An origin that closes every connection.
async fn closing_origin() -> Origin {
    Origin::always(MockResponse::closed()).await
}
