//! A credential that larder shows to an origin in its clients' place.
//!
//! Owns: that it is never printed. Never touches: where it is sent (`upstream`).

use std::fmt;

use http::{HeaderName, HeaderValue};

/// `upstreams.*.credential`. Prints without its value.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The field that carries it.
    pub header: HeaderName,
    value: HeaderValue,
}

impl Credential {
    /// A field with this value. It is marked as sensitive for whoever would print it.
    pub fn new(header: HeaderName, mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        Self { header, value }
    }

    /// The value, for the request to the origin alone.
    pub fn reveal(&self) -> &HeaderValue {
        &self.value
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}: …)", self.header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_never_printed() {
        let credential =
            Credential::new(HeaderName::from_static("x-key"), HeaderValue::from_static("SECRET"));
        assert_eq!(format!("{credential:?}"), "Credential(x-key: …)");
        assert!(!format!("{:?}", credential.reveal()).contains("SECRET"));
    }
}
