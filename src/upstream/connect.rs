//! Connections to origins: names, addresses, TLS, pools, and one exchange on a connection.
//!
//! Owns: which addresses may be dialled, and which connection a call uses. Never touches: whether a call may be
//! made (`admission`), the meaning of a response (`outcome`).

pub mod descriptors;
pub(in crate::upstream) mod dns_cache;
pub mod egress_policy;
pub mod happy_eyeballs;
pub(in crate::upstream) mod idle;
pub mod parent;
pub mod parent_path;
pub mod peer;
mod pingora_error;
pub mod pinned;
pub mod pool;
pub mod resolve;
pub mod session;
pub(in crate::upstream) mod shared_http2;
pub mod tls_config;
pub mod tls_error;
