//! The statistics of a larder at the end of its command.
//!
//! Owns: the data. Never touches: its text.

/// The statistics of a larder at the end of its command.
#[derive(Default)]
pub(in crate::cli) struct FinalStats {
    /// Its metrics, in the text format of Prometheus.
    pub(in crate::cli) metrics: String,
    /// The hosts of its tunnels, if known, and the number of connections for each.
    pub(in crate::cli) tunnelled: Vec<(String, u64)>,
    /// The hosts for which clients rejected its certificate, and the number of handshakes for each.
    pub(in crate::cli) distrusted: Vec<(String, u64)>,
}
