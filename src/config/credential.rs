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
    /// The origins of web pages that may have it shown for them through the proxy, such as
    /// `http://localhost:3000`; below a mount the mount names them.
    pub allow_origins: Vec<Box<str>>,
    value: HeaderValue,
}

impl Credential {
    /// A field with this value. It is marked as sensitive for whoever would print it.
    pub fn new(header: HeaderName, mut value: HeaderValue) -> Self {
        value.set_sensitive(true);
        Self { header, allow_origins: Vec::new(), value }
    }

    /// The same, shown for these pages too.
    #[must_use]
    pub fn for_pages(self, allow_origins: Vec<Box<str>>) -> Self {
        Self { allow_origins, ..self }
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
