//! Which fields are credentials by their name alone.
//!
//! Owns: the built-in list. It errs towards too many: a field taken for a credential by mistake
//! costs hits, one missed could show a user's answer to another.
//! Never touches: values.

use http::HeaderName;
use http::header::{COOKIE, PROXY_AUTHORIZATION, USER_AGENT};

/// Whether a field of this name is a credential wherever it appears.
pub(super) fn is_built_in(name: &HeaderName) -> bool {
    if *name == PROXY_AUTHORIZATION || *name == USER_AGENT {
        return false;
    }
    *name == COOKIE || has_telling_word(name.as_str().as_bytes())
}

/// Whether key, token, auth, secret, session, signature, tenant or user is in the (lower-case) name.
/// One pass with a look at the first letter: this runs over every field of every request.
fn has_telling_word(name: &[u8]) -> bool {
    (0..name.len()).any(|at| {
        let (_, rest) = name.split_at(at);
        match rest.first() {
            Some(b'k') => rest.starts_with(b"key"),
            Some(b't') => rest.starts_with(b"token") || rest.starts_with(b"tenant"),
            Some(b'a') => rest.starts_with(b"auth"),
            Some(b's') => [b"secret".as_slice(), b"session", b"signature"]
                .iter()
                .any(|word| rest.starts_with(word)),
            Some(b'u') => rest.starts_with(b"user"),
            Some(_) | None => false,
        }
    })
}
