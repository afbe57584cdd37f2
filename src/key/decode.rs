//! Decoding of the canonical form of a key, for operators.
//!
//! Owns: reading the format of `canonical`. Never touches: secrets, which a key does not contain.

use crate::key::canonical::{END, FORMAT, HEAD_FORMAT, MASKED, NAMED, PARTIAL_FORMAT, PLAIN};
use crate::semantics::redaction::HIDDEN;
use crate::semantics::request::ListenerKind;
use crate::semantics::target::{Scheme, Target};

/// The readable parts of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedKey {
    /// The URL with the query parameters that are part of the key; secret parts are hidden.
    pub url: String,
    /// The target without its query; secret parts of its path are hidden.
    pub target: Target,
    /// The kind of listener that received the request.
    pub listener: ListenerKind,
    /// The kind of scope: `shared`, `anonymous`, `credential`, `named`.
    pub scope: &'static str,
}

impl DecodedKey {
    /// Decodes a canonical form; `None` if it is invalid or of another version.
    pub fn read(canonical: &[u8]) -> Option<Self> {
        let mut rest = canonical;
        let [format, scheme, low, high] = take(&mut rest)?;
        let scheme = match scheme {
            0 => Scheme::Http,
            1 => Scheme::Https,
            _ => return None,
        };
        let host = text(&mut rest)?;
        let path = list(&mut rest)?.concat();
        let query = list(&mut rest)?;
        let listener = match take(&mut rest)? {
            [0] => ListenerKind::Loopback,
            [1] => ListenerKind::Reachable,
            _ => return None,
        };
        // The separating fields and excluded secrets: hashed, or none.
        let _separators = list(&mut rest)?;
        let scope = scope(rest)?;
        let port = u16::from_le_bytes([low, high]);
        let base = Target::with_authority(scheme, &host, &path).ok()?;
        let target = base.with_origin(scheme, base.host(), port);
        let url = if query.is_empty() { target.to_string() } else { format!("{target}?{}", query.join("&")) };
        matches!(format, FORMAT | PARTIAL_FORMAT | HEAD_FORMAT).then_some(Self {
            url,
            target,
            listener,
            scope,
        })
    }
}

/// The members of a list; secret ones are hidden.
fn list(rest: &mut &[u8]) -> Option<Vec<String>> {
    let mut members = Vec::new();
    loop {
        match take(rest)? {
            [END] => return Some(members),
            [PLAIN] => members.push(text(rest)?),
            [MASKED] => {
                take::<16>(rest)?;
                members.push(HIDDEN.to_owned());
            }
            [NAMED] => {
                let name = text(rest)?;
                take::<16>(rest)?;
                members.push(format!("{name}{HIDDEN}"));
            }
            _ => return None,
        }
    }
}

/// Skips the key fields and decodes the scope: one byte, or one byte and an HMAC. A field is never as short,
/// because it begins with a length of eight bytes.
fn scope(mut rest: &[u8]) -> Option<&'static str> {
    loop {
        match rest {
            [0] => return Some("shared"),
            [1] => return Some("anonymous"),
            [2, hmac @ ..] if hmac.len() == 16 => return Some("credential"),
            [3, hmac @ ..] if hmac.len() == 16 => return Some("named"),
            _ => {
                text(&mut rest)?;
                list(&mut rest)?;
            }
        }
    }
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(u64::from_le_bytes(take(rest)?)).ok()?;
    let (text, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use crate::key::KeyBuilder;
    use crate::key::decode::DecodedKey;
    use crate::policy::{Policy, ScopeRule};
    use crate::semantics::redaction::{Redactor, SecretPath};
    use crate::semantics::request::ProxyRequest;
    use crate::semantics::target::Target;

    fn decoded(url: &str, fields: &[(&'static str, &'static str)], policy: &Policy) -> DecodedKey {
        let mut request = ProxyRequest::get(Target::absolute(url).unwrap());
        for (name, value) in fields {
            request.headers.append(*name, HeaderValue::from_static(value));
        }
        let builder = KeyBuilder::new([7; 32], &[], Redactor::default());
        DecodedKey::read(builder.key(&request, policy).canonical()).unwrap()
    }

    #[test]
    fn a_key_shows_its_url_and_kind_of_scope_and_no_secret() {
        let mut policy = Policy::origin();
        policy.key.headers = vec![HeaderName::from_static("te"), HeaderName::from_static("x-api-key")];
        let shown = decoded("https://api.example:8443/a%2Fb?x=1&token=S3CRET&y", &[], &policy);
        assert_eq!(shown.url, "https://api.example:8443/a%2Fb?x=1&token=(secret)&y");
        assert_eq!(shown.scope, "anonymous");
        let fields = [("te", "trailers"), ("x-api-key", "S4CRET"), ("x-api-key", "")];
        let shown = decoded("http://[::1]/", &fields, &policy);
        assert_eq!((shown.url.as_str(), shown.scope), ("http://[::1]/", "credential"));
        policy.scope = ScopeRule::Shared;
        assert_eq!(decoded("http://api.example/?", &fields, &policy).scope, "shared");
        policy.scope = ScopeRule::Header(HeaderName::from_static("x-user"));
        assert_eq!(decoded("http://api.example/", &[("x-user", "ann")], &policy).scope, "named");
    }

    #[test]
    fn secret_parts_of_a_path_are_hidden_and_distinguish_keys() {
        let paths = [SecretPath::parse("/bot{token}/**").unwrap()];
        let builder = KeyBuilder::new([7; 32], &[], Redactor::new(&[], &paths));
        let key = |path: &str| {
            let target = Target::absolute(&format!("http://api.example{path}")).unwrap();
            builder.key(&ProxyRequest::get(target), &Policy::origin())
        };
        let token = "/bot110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/getMe";
        let all = ["/botann/getMe", "/botbob/getMe", token, "/bot(secret)/getMe"].map(key);
        for (at, one) in all.iter().enumerate() {
            let decoded = DecodedKey::read(one.canonical()).unwrap();
            assert_eq!(decoded.url, "http://api.example/bot(secret)/getMe");
            let others = all.iter().skip(at + 1);
            assert!(others.clone().all(|other| other != one && other.id() != one.id()));
            assert!(others.into_iter().all(|other| other.target_id() != one.target_id()));
        }
    }

    #[test]
    fn a_key_for_parts_or_heads_decodes_like_that_of_the_whole() {
        let request = ProxyRequest::get(Target::absolute("http://api.example/a?b=c").unwrap());
        let key = KeyBuilder::new([7; 32], &[], Redactor::default()).key(&request, &Policy::origin());
        for other in [key.for_partial(), key.for_head()] {
            let shown = DecodedKey::read(other.canonical());
            assert!(shown.is_some() && shown == DecodedKey::read(key.canonical()));
        }
    }

    #[test]
    fn a_truncated_key_is_not_decoded() {
        let request = ProxyRequest::get(Target::absolute("http://api.example/a?b=c").unwrap());
        let key = KeyBuilder::new([7; 32], &[], Redactor::default()).key(&request, &Policy::origin());
        for end in 0..key.canonical().len() {
            assert_eq!(DecodedKey::read(&key.canonical()[..end]), None, "{end}");
        }
    }
}
