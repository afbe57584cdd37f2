//! larder: a caching sidecar for outgoing API traffic.
//!
//! The map, in the order a request travels:
//!
//! - [`front`]: accepts connections, reads each request head under a deadline, refuses what is not a
//!   clean request, answers `CONNECT`.
//! - [`proxy`]: hands a clean request to the engine or passes it through to its origin.
//! - [`route`]: which route (and so which [`policy`]) a request belongs to.
//! - [`key`]: whose answer it is and under which key it is stored.
//! - [`engine`]: looks up, decides, serves or starts a fill; many clients read one fill.
//! - [`decide`]: the decision itself, a pure function.
//! - [`semantics`]: the RFCs as pure functions.
//! - [`stored`]: a stored response as a value; [`store`]: where stored responses are kept.
//! - [`upstream`]: the way to the origin: names, addresses, connections, one gate for all calls.
//! - [`account`]: one record per exchange: `Cache-Status`, metrics, the log line.
//! - [`admin`]: health, metrics and what an operator may ask, on a listener of their own.
//! - [`launch`]: what a command is told so that it uses larder.
//! - [`config`]: what `proxy.yaml` says and what it means.
//! - [`server`]: builds all of these once, starts and stops them in order.
//! - [`cli`]: one verb per file. [`fake`]: fake APIs for newcomers, examples and tests.
//!
//! Who may use whom is checked by `tests/layers.rs`.
//!
//! The whole decision, without a socket, a store or a clock:
//!
//! ```
//! # use std::time::{Duration, SystemTime};
//! # use bytes::Bytes;
//! # use http::{HeaderMap, StatusCode};
//! # use larder::{config, config::env::Env, stored::Stored};
//! # use larder::semantics::{asked::Asked, storing::CacheKind, target::Target};
//! # use larder::semantics::vary::{VariantId, VaryFields};
//! use larder::decide::{Decision, Forward, Found, decide};
//!
//! let yaml = "{ version: 1, routes: [{ name: coins, match: { host: api.example }, ttl: 30m }] }";
//! let config = config::parse("proxy.yaml", yaml, &Env::default()).unwrap();
//! let asked = Asked::get(Target::absolute("http://api.example/coins").unwrap());
//! let policy = &config.routes.find(&asked).unwrap().policy;
//!
//! let noon = SystemTime::UNIX_EPOCH + Duration::from_secs(12 * 60 * 60);
//! let only = (VaryFields::default(), VariantId::SOLE);
//! let (fields, body) = (HeaderMap::new(), Bytes::from("{}"));
//! let stored = Stored::new(StatusCode::OK, &fields, body, only, (noon, noon), Duration::ZERO);
//! let at = |minutes: u64| {
//!     let now = noon + Duration::from_secs(60 * minutes);
//!     decide(&asked, policy, CacheKind::Private, Found::Stored(&stored), now)
//! };
//! assert!(matches!(at(29), Decision::Serve { ttl: 60, stale: None, refresh: false }));
//! // Stale: ask the origin, and have something to fall back on should it fail.
//! assert!(matches!(at(31), Decision::Forward { why: Forward::Stale, fallback: true, .. }));
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
