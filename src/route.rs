//! Which route a request belongs to: the first that matches wins.
//!
//! Owns: patterns for host, path, method, fields and query; the order of routes.
//! Never touches: what a route's policy means.

pub mod pattern;
pub mod table;
