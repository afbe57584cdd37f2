//! What is left of a larder when its command has ended.
//!
//! Owns: the words for it. Never touches: how it is told.

/// What a larder has to say when the command has ended.
#[derive(Default)]
pub(in crate::cli) struct FinalStats {
    /// Its metrics.
    pub(in crate::cli) page: String,
    /// The hosts that it tunnelled, where it can tell, and in how many connections.
    pub(in crate::cli) tunnelled: Vec<(String, u64)>,
    /// The hosts as which clients did not accept it, and how often.
    pub(in crate::cli) distrusted: Vec<(String, u64)>,
}
