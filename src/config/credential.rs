//! A credential that larder sends to an origin instead of its clients.
//!
//! Owns: the value, which is never printed. Never touches: sending it (`upstream`).

use std::fmt;

use http::{HeaderName, HeaderValue};

/// `upstreams.*.credential`. `Debug` omits the value.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The request field that carries it.
    pub header: HeaderName,
    /// The origins of web pages whose proxied requests may carry it, such as `http://localhost:3000`. For
    /// requests below a mount, the mount's own list applies.
    pub allow_origins: Vec<Box<str>>,
    value: HeaderValue,
}

impl Credential {
    /// A credential with this field and value, also sent for requests of these web pages. The value is marked
    /// as sensitive.
    pub fn new(header: HeaderName, mut value: HeaderValue, allow_origins: Vec<Box<str>>) -> Self {
        value.set_sensitive(true);
        Self { header, allow_origins, value }
    }

    /// The value, only for requests to the origin.
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
            Credential::new(HeaderName::from_static("x-key"), HeaderValue::from_static("SECRET"), Vec::new());
        assert_eq!(format!("{credential:?}"), "Credential(x-key: …)");
        assert!(!format!("{:?}", credential.reveal()).contains("SECRET"));
    }
}
