//! What has come of the requests of one connection of HTTP/2.
//!
//! Owns: how many may come to nothing (RFC 9113 §10.5). Never touches: requests, the connection.

/// Requests that a connection may give up beyond those it waited for: a client that goes on so makes
/// larder work for nothing ("rapid reset").
const GIVEN_UP: usize = 100;

/// Requests that are not clean HTTP/2, over the life of a connection.
pub(super) const MALFORMED: usize = 32;

/// What has come of a connection's streams.
#[derive(Debug, Default)]
pub(super) struct StreamCounters {
    answered: usize,
    given_up: usize,
    malformed: usize,
}

impl StreamCounters {
    /// A request has been answered, or its client gave it up.
    pub(super) fn ended(&mut self, answered: bool) {
        if answered {
            self.answered += 1;
        } else {
            self.given_up += 1;
        }
    }

    /// A request was not clean HTTP/2.
    pub(super) fn malformed(&mut self) {
        self.malformed += 1;
    }

    /// Whether the client makes larder work for nothing.
    pub(super) fn is_exhausted(&self) -> bool {
        self.malformed >= MALFORMED || self.given_up > GIVEN_UP + self.answered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_give_up_as_often_as_it_waits_and_a_hundred_times_more() {
        let mut tally = StreamCounters::default();
        for _ in 0..1000 {
            tally.ended(true);
        }
        for _ in 0..1100 {
            tally.ended(false);
            assert!(!tally.is_exhausted());
        }
        tally.ended(false);
        assert!(tally.is_exhausted());
    }
}
