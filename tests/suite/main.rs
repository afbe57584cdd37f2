//! The system tests, one binary: a real larder on port 0 against a scripted origin, asserting what
//! both sides saw.
#![expect(unreachable_pub, reason = "the support modules read like a library")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::format_push_string,
    reason = "helpers fail like the tests that they serve"
)]

#[path = "../support/careless.rs"]
mod careless;
#[path = "../support/client.rs"]
mod client;
#[path = "../support/crowd.rs"]
mod crowd;
#[path = "../support/dns.rs"]
mod dns;
#[path = "../support/intercepted.rs"]
mod intercepted;
#[path = "../support/larder.rs"]
mod larder_under_test;
#[path = "../support/origin.rs"]
mod origin;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/real_origin.rs"]
mod real_origin;
#[path = "../support/resident.rs"]
mod resident;
#[path = "../support/storm.rs"]
mod storm;
#[path = "../support/strict.rs"]
mod strict;
#[path = "../support/strict_h1.rs"]
mod strict_h1;
#[path = "../support/strict_h2.rs"]
mod strict_h2;
#[path = "../support/tls_client.rs"]
mod tls_client;
#[path = "../support/tls_origin.rs"]
mod tls_origin;
#[path = "../support/zoo_files.rs"]
mod zoo_files;

mod admin;
mod alike;
mod authority;
mod both_ways;
mod caching;
mod cli;
mod clients;
mod config;
mod cost;
mod duplex;
mod exec;
mod exec_users;
mod first_day;
mod forwarding;
mod framing;
mod h2_origin;
mod idle_tunnels;
mod interception;
mod lasting;
mod launch;
mod leaving;
mod limits;
mod logs;
mod matrix;
mod mode;
mod multiplex;
mod names;
mod one_resource;
mod operating;
mod order;
mod overload;
mod parser;
mod ranges;
mod reload;
mod restart;
mod restraint;
mod schema;
mod secrets;
mod sign_in;
mod signs;
mod slow_clients;
mod store;
mod storms;
mod strangers;
mod targeted;
mod tunnel;
mod upstream_faults;
mod upstream_tls;
mod ways_in;
mod zoo;
