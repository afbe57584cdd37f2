//! Route matching: the first matching route applies to a request.
//!
//! Owns: patterns for host, path, method, fields and query; the order of routes.
//! Never touches: the meaning of a route's policy.

pub mod pattern;
pub mod table;
