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

pub mod answer;
pub mod api;
pub mod behaviour;
#[cfg(test)]
mod client;
pub mod coinmarketcap;
pub mod counts;
pub mod discord;
pub mod rate;
pub mod running;
pub mod script;
mod serve;
mod wire;
