//! Fake APIs for newcomers, examples and tests: they listen on loopback, answer like the real ones
//! and misbehave on demand.
//!
//! Owns: what the fakes answer. Never touches: larder; it is on the other side of the wire.

pub mod discord;
