//! Fake APIs for newcomers, examples and tests: they listen on loopback, answer like the real ones
//! and misbehave on demand.
//!
//! - [`discord`] and [`coinmarketcap`]: what each API says, with its limits and its bill.
//! - [`api`]: what sets one API apart from another; [`answer`]: what it says, as a value.
//! - [`behaviour`] and [`script`]: how a fake treats its callers, now and in the course of time.
//! - [`rate`]: windows in which so many calls are let through.
//! - [`running`]: starting, watching and stopping a fake. [`counts`]: what was asked of it.
//!
//! Owns: what the fakes answer. Never touches: larder; it is on the other side of the wire.

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
