//! Fake APIs for examples, tests and first trials: they listen on loopback, respond like the real APIs
//! and inject faults on demand.
//!
//! - [`discord`] and [`coinmarketcap`]: the responses of each API, with its rate limits and its bill.
//! - [`api`]: the trait that each API implements; [`response`]: a response as a value.
//! - [`faults`] and [`script`]: the faults that a fake injects, now and over time.
//! - [`rate`]: fixed windows that limit the number of calls.
//! - [`server`]: starting, inspecting and stopping a fake. [`call_log`]: the calls that it received.
//!
//! Owns: the responses of the fakes. Never touches: larder; a fake is on the other end of the connection.

pub mod api;
pub mod call_log;
#[cfg(test)]
mod client;
pub mod coinmarketcap;
pub mod discord;
pub mod faults;
mod faulty_io;
mod handler;
pub mod rate;
pub mod response;
pub mod script;
pub mod server;
mod shared;
