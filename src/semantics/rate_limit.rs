//! What an origin says of its own limits: `RateLimit` and `RateLimit-Policy` (the IETF's draft), and
//! the `X-RateLimit-*` dialects of Discord, GitHub and many others.
//!
//! Owns: how these fields are read. Never touches: what is done about them.

use std::time::Duration;

/// What is left of a limit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Quota {
    /// How many calls a window has.
    pub limit: Option<u64>,
    /// How long a window is.
    pub window: Option<Duration>,
    /// How many calls are left in this one.
    pub remaining: Option<u64>,
    /// When this one ends, from now.
    pub resets_in: Option<Duration>,
    /// Which of several limits it is.
    pub bucket: Option<Bucket>,
    /// Whose limit it is.
    pub whose: Whose,
}

/// One of several limits of an origin.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// The origin's name for it.
    pub name: Box<str>,
    /// Whether there is one for each main resource (Discord's "major parameters"), under one name.
    pub per_resource: bool,
}

/// Whose limit was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Whose {
    /// The caller's: of the one bucket, if one is named.
    #[default]
    Callers,
    /// The caller's, over everything it asks (Discord's `global`).
    Global,
    /// A resource's, used up by others (Discord's `shared`).
    Shared,
}
