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
//! - [`admin`]: health and metrics on their own listener.
//! - [`config`]: what `proxy.yaml` says and what it means.
//! - [`server`]: builds all of these once, starts and stops them in order.
//! - [`cli`]: one verb per file. [`fake`]: fake APIs for newcomers, examples and tests.
//!
//! Who may use whom is checked by `tests/layers.rs`.

pub mod account;
pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decide;
pub mod engine;
pub mod fake;
pub mod front;
pub mod key;
pub mod policy;
pub mod proxy;
pub mod route;
pub mod semantics;
pub mod server;
pub mod store;
pub mod stored;
pub mod upstream;
