//! larder: a caching sidecar for outgoing API traffic.
//!
//! The modules, in the order in which a request passes them:
//!
//! - [`frontend`]: accepts connections, reads each request head under a deadline, rejects malformed
//!   requests, replies to `CONNECT`.
//! - [`proxy`]: passes a valid request to the engine or through to its origin.
//! - [`route`]: finds the route of a request, and so its [`policy`].
//! - [`key`]: computes the scope and the cache key of a response.
//! - [`engine`]: looks up, decides, serves or starts a fill; many clients read one fill.
//! - [`decide`]: the decision itself, a pure function.
//! - [`semantics`]: the RFCs as pure functions.
//! - [`stored`]: a stored response as a value; [`store`]: keeps stored responses.
//! - [`upstream`]: connects to origins: DNS, addresses, connections, one admission control for all
//!   calls.
//! - [`telemetry`]: one record per request: `Cache-Status`, metrics, the log line.
//! - [`admin`]: health, metrics and the operator API, on a separate listener.
//! - [`exec_env`]: the environment that makes a command use larder.
//! - [`config`]: reads and resolves `proxy.yaml`.
//! - [`server`]: builds all of these once, starts and stops them in order.
//! - [`cli`]: one subcommand per file. [`fake`]: mock APIs for first steps, examples and tests.
//!
//! `tests/layers.rs` checks which module may use which.
//!
//! The whole decision, without a socket, a store or a clock:
//!
//! ```
//! # use std::time::{Duration, SystemTime};
//! # use bytes::Bytes;
//! # use http::{HeaderMap, StatusCode};
//! # use larder::{config, config::env::Env, stored::StoredResponse};
//! # use larder::semantics::{request::ProxyRequest, storability::CacheKind, target::Target};
//! # use larder::semantics::vary::{VariantId, VaryFields};
//! use larder::decide::{CacheLookup, Decision, DecisionInput, ForwardReason, decide};
//!
//! let yaml = "{ version: 1, routes: [{ name: coins, match: { host: api.example }, ttl: 30m }] }";
//! let config = config::parse("proxy.yaml", yaml, &Env::default()).unwrap();
//! let request = ProxyRequest::get(Target::absolute("http://api.example/coins").unwrap());
//! let policy = &config.routes.find(&request).unwrap().policy;
//!
//! let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(12 * 60 * 60);
//! let only = (VaryFields::default(), VariantId::SOLE);
//! let (fields, body) = (HeaderMap::new(), Bytes::from("{}"));
//! let stored =
//!     StoredResponse::new(StatusCode::OK, &fields, body, only, (noon, noon));
//! let at = |minutes: u64| {
//!     let now = noon + Duration::from_secs(60 * minutes);
//!     let input = DecisionInput::new(&request, policy, CacheKind::Private, now);
//!     decide(&input, CacheLookup::Stored(&stored))
//! };
//! assert!(matches!(at(29), Decision::Serve { ttl: 60, stale: None, refresh: false }));
//! // Stale: call the origin, with the stored response as fallback if the call fails.
//! assert!(matches!(at(31), Decision::Forward { reason: ForwardReason::Stale, fallback: true, .. }));
//! ```

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decide;
pub mod engine;
pub mod exec_env;
pub mod fake;
pub mod frontend;
pub mod key;
pub mod policy;
pub mod proxy;
pub mod route;
pub mod semantics;
pub mod server;
pub mod store;
pub mod stored;
pub mod telemetry;
pub mod upstream;
