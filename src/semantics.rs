//! The HTTP RFCs as pure functions on `http` types: the meaning of a message's fields and its consequences.
//!
//! Owns: RFC 9110, 9111, 5861, 9211, 9213, 9535 and the parts of 9112 that larder implements itself.
//! Never touches: policy, storage, the network, the clock (`now` is always a parameter).

pub mod accept_encoding;
pub mod byte_search;
pub mod byteranges;
pub mod cache_control;
pub mod cache_status;
pub mod chunked;
pub mod connection_auth;
pub mod date;
pub mod event_stream;
pub mod field_case;
pub mod field_list;
pub mod freshness;
pub mod hop_by_hop;
pub mod invalidation;
pub mod json_path;
pub mod limit_times;
pub mod max_forwards;
pub mod method;
pub mod mount_location;
pub mod path_template;
pub mod query;
pub mod ranges;
pub mod rate_limit;
pub mod redaction;
pub mod request;
pub mod response_metadata;
pub mod retry_after;
pub mod status;
pub mod storability;
pub mod target;
pub mod targeted_cache_control;
#[cfg(test)]
pub(crate) mod test_headers;
pub mod time_zone;
pub mod utc_calendar;
pub mod validation;
pub mod vary;
