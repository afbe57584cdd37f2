//! The system tests in one binary: they run a real larder on port 0 against a scripted origin and
//! check what both sides receive.
#![expect(unreachable_pub, reason = "the support modules are written like a library")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::format_push_string,
    reason = "helpers panic like the tests that use them"
)]

#[path = "../support/client.rs"]
mod client;
#[path = "../support/concurrent.rs"]
mod concurrent;
#[path = "../support/dns.rs"]
mod dns;
#[path = "../support/failing_origin.rs"]
mod failing_origin;
#[path = "../support/intercepted.rs"]
mod intercepted;
#[path = "../support/larder.rs"]
mod larder_under_test;
#[path = "../support/origin.rs"]
mod origin;
#[path = "../support/parent.rs"]
mod parent;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/real_origin.rs"]
mod real_origin;
#[path = "../support/resident_memory.rs"]
mod resident_memory;
#[path = "../support/strict_http1.rs"]
mod strict_http1;
#[path = "../support/strict_http2.rs"]
mod strict_http2;
#[path = "../support/strict_response.rs"]
mod strict_response;
#[path = "../support/tls_client.rs"]
mod tls_client;
#[path = "../support/tls_origin.rs"]
mod tls_origin;
#[path = "../support/unverified_tls.rs"]
mod unverified_tls;
#[path = "../support/zoo_files.rs"]
mod zoo_files;

mod admin;
mod admin_commands;
mod as_received;
mod ca;
mod cached_and_passed;
mod caching;
mod cli;
mod client_disconnects;
mod clients;
mod config;
mod connection_auth;
mod cost;
mod dialects;
mod dns_failures;
mod duplex;
mod durable_limits;
mod exec;
mod exec_shared;
mod exec_users;
mod failing_api;
mod fast_path;
mod first_steps;
mod forwarding;
mod framing;
mod h2_origin;
mod http2_clients;
mod idle_tunnels;
mod interception;
mod limits;
mod logs;
mod matrix;
mod mode;
mod mounts_and_tunnels;
mod order;
mod overload;
mod parent_proxy;
mod parser;
mod pass_through_limits;
mod port_hijack;
mod presets;
mod ranges;
mod reload;
mod replayed_refusals;
mod restart;
mod route_keys;
mod runtimes;
mod schema;
mod slow_clients;
mod slow_origins;
mod smoke;
mod store;
mod targeted_cache_control;
mod tunnel;
mod unencoded_urls;
mod upstream_faults;
mod upstream_tls;
mod url_aliases;
mod url_secrets;
mod zoo;
