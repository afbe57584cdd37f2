//! Reads a request target in absolute form (RFC 9112 §3.2.2) as clients send it: also with the scheme of a
//! WebSocket, and with a user and password in the authority.
//!
//! Owns: what replaces these two. Never touches: the rest of a target (`semantics::target`), other fields.

use std::borrow::Cow;

use base64::Engine as _;
use http::HeaderValue;

use crate::semantics::target::{Target, TargetError};

/// A target in absolute form.
#[derive(Debug)]
pub(super) struct AbsoluteForm {
    /// The target, without user information.
    pub(super) target: Target,
    /// The user information as the `Authorization` that a client makes from it (RFC 9110 §4.2.4, RFC 7617).
    pub(super) authorization: Option<HeaderValue>,
}

/// Reads `text`.
pub(super) fn read(text: &str) -> Result<AbsoluteForm, TargetError> {
    let text = with_http_scheme(text);
    let (bare, user_info) = without_user_info(&text)?;
    let authorization = user_info.map(basic).transpose()?.flatten();
    Ok(AbsoluteForm { target: Target::absolute(&bare)?, authorization })
}

/// RFC 6455 §3: a WebSocket is opened with an HTTP request, `ws` by `http` and `wss` by `https`. Some clients
/// name the former to their proxies.
fn with_http_scheme(text: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = text.split_once("://") else { return text.into() };
    if scheme.eq_ignore_ascii_case("ws") {
        format!("http://{rest}").into()
    } else if scheme.eq_ignore_ascii_case("wss") {
        format!("https://{rest}").into()
    } else {
        text.into()
    }
}

/// The URL without user information, and that information. Parsers disagree about user information with
/// other characters than RFC 3986 §3.2.1 allows, and so about the host after it: such a URL is rejected.
fn without_user_info(text: &str) -> Result<(Cow<'_, str>, Option<&str>), TargetError> {
    let Some((scheme, rest)) = text.split_once("://") else { return Ok((text.into(), None)) };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let Some((user_info, host)) = authority.split_once('@') else { return Ok((text.into(), None)) };
    if !is_user_info(user_info.as_bytes()) {
        return Err(TargetError::UserInfo);
    }
    Ok((format!("{scheme}://{host}{path}").into(), Some(user_info)))
}

fn is_user_info(text: &[u8]) -> bool {
    text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:%".contains(byte))
}

/// `Host` without user information, which Python's urllib copies there from the URL. The target takes precedence
/// over this field (RFC 9112 §3.2.2).
pub(super) fn without_user(host: HeaderValue) -> HeaderValue {
    let Some(at) = host.as_bytes().iter().position(|byte| *byte == b'@') else { return host };
    let (user, bare) = (&host.as_bytes()[..at], &host.as_bytes()[at + 1..]);
    let bare = HeaderValue::from_bytes(bare).ok().filter(|_| is_user_info(user));
    bare.unwrap_or(host)
}

/// `user:password` as a Basic credential; `None` if both are empty. A user that Basic cannot express (RFC 7617
/// §2: one with a colon or a control character) is rejected.
fn basic(user_info: &str) -> Result<Option<HeaderValue>, TargetError> {
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let decoded = |text| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
    let (user, password) = (decoded(user), decoded(password));
    let is_control = |byte: &u8| byte.is_ascii_control();
    if user.contains(&b':') || user.iter().chain(&password).any(is_control) {
        return Err(TargetError::UserInfo);
    }
    if user.is_empty() && password.is_empty() {
        return Ok(None);
    }
    let pair = [&user[..], b":", &password].concat();
    let text = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    let mut value = HeaderValue::from_str(&text).map_err(|_| TargetError::UserInfo)?;
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::read;
    use crate::semantics::target::TargetError;

    #[test]
    fn the_schemes_of_websockets_are_those_of_http() {
        for (text, url) in [
            ("ws://h/x?y", "http://h/x?y"),
            ("WS://h:81", "http://h:81/"),
            ("wss://h/", "https://h/"),
            ("wss://h:443/", "https://h/"),
            ("http://h/ws://x", "http://h/ws://x"),
        ] {
            assert_eq!(read(text).unwrap().target.to_string(), url, "{text}");
        }
        assert_eq!(read("wsx://h/").unwrap_err(), TargetError::Scheme);
    }

    #[test]
    fn user_information_becomes_a_basic_credential() {
        for (text, url, credential) in [
            ("http://ann:s3cret@h:81/x", "http://h:81/x", Some("Basic YW5uOnMzY3JldA==")),
            ("http://ann@h?q", "http://h/?q", Some("Basic YW5uOg==")),
            ("ws://:key@h", "http://h/", Some("Basic OmtleQ==")),
            ("http://a%40b:%C3%A9%3a@h/", "http://h/", Some("Basic YUBiOsOpOg==")),
            ("http://a:b:c@[::1]:81/", "http://[::1]:81/", Some("Basic YTpiOmM=")),
            ("http://@h/", "http://h/", None),
            ("http://:@h/", "http://h/", None),
            ("http://h/a@b", "http://h/a@b", None),
            ("http://h?a@b", "http://h/?a@b", None),
        ] {
            let found = read(text).unwrap();
            assert_eq!(found.target.to_string(), url, "{text}");
            let shown = found.authorization.as_ref().map(|value| value.to_str().unwrap());
            assert_eq!(shown, credential, "{text}");
        }
    }

    #[test]
    fn ambiguous_user_information_is_rejected() {
        for text in [
            "http://a@b@h/",
            "http://h\\@evil/",
            "http://a<b@h/",
            "http://[a]@h/",
            "http://ü@h/",
            "http://a%3Ab:c@h/",
            "http://a:%0D%0Ax@h/",
            "http://%00@h/",
        ] {
            assert_eq!(read(text).unwrap_err(), TargetError::UserInfo, "{text}");
        }
        assert_eq!(read("http://a@/").unwrap_err(), TargetError::Host);
    }
}
