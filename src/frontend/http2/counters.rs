//! Counts the outcomes of the requests on one HTTP/2 connection.
//!
//! Owns: the limits on cancelled and malformed requests (RFC 9113 §10.5). Never touches: requests, the
//! connection.

/// The number of requests that a client may cancel beyond the number of its completed requests. A
/// client that exceeds it makes larder do useless work ("rapid reset").
const MAX_CANCELLED: usize = 100;

/// The limit on malformed requests over the life of a connection.
pub(super) const MAX_MALFORMED: usize = 32;

/// The outcomes of a connection's streams.
#[derive(Debug, Default)]
pub(super) struct StreamCounters {
    completed: usize,
    cancelled: usize,
    malformed: usize,
}

impl StreamCounters {
    /// Counts a request that completed, or that its client cancelled.
    pub(super) fn ended(&mut self, completed: bool) {
        if completed {
            self.completed += 1;
        } else {
            self.cancelled += 1;
        }
    }

    /// Counts a request that was not valid HTTP/2.
    pub(super) fn malformed(&mut self) {
        self.malformed += 1;
    }

    /// Whether the client has exceeded a limit.
    pub(super) fn is_exhausted(&self) -> bool {
        self.malformed >= MAX_MALFORMED || self.cancelled > MAX_CANCELLED + self.completed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_cancel_100_requests_more_than_it_completes() {
        let mut counters = StreamCounters::default();
        for _ in 0..1000 {
            counters.ended(true);
        }
        for _ in 0..1100 {
            counters.ended(false);
            assert!(!counters.is_exhausted());
        }
        counters.ended(false);
        assert!(counters.is_exhausted());
    }
}
