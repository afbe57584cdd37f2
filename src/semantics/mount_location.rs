//! References to other resources in the response to a request below a mount: the client must find them below
//! the mount too.
//!
//! Owns: rewriting `Location` and `Content-Location` (RFC 9110 §10.2.2, §8.7) for the client.
//! Never touches: stored responses, which all clients share; which requests are below a mount.

use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, HeaderValue};

use crate::semantics::target::Target;

/// The mount below which a client has sent its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// The path of the mount on larder's own address, without a final slash.
    pub path: Box<str>,
    /// The target to which the mount maps the request.
    pub target: Target,
    /// Whether the client has named the mount without a slash after it. A relative reference then leads out of
    /// the mount.
    pub is_bare: bool,
}

/// Whether a response has a field that [`rewrite`] may change.
pub fn has_reference(headers: &HeaderMap) -> bool {
    headers.contains_key(LOCATION) || headers.contains_key(CONTENT_LOCATION)
}

/// Rewrites the references to the mount's own origin. `sent_to`: the target of the request that was sent, which
/// an upstream may have moved to another scheme or port.
pub fn rewrite(mount: &MountPoint, sent_to: &Target, headers: &mut HeaderMap) {
    for name in [LOCATION, CONTENT_LOCATION] {
        let Some(first) = headers.get(&name) else { continue };
        let rewritten = reference(mount, sent_to, first.as_bytes());
        if let Some(value) = rewritten.and_then(|value| HeaderValue::from_bytes(&value).ok()) {
            headers.insert(name, value);
        }
    }
}

/// The reference for the client; `None`: it stays as it is.
fn reference(mount: &MountPoint, sent_to: &Target, received: &[u8]) -> Option<Vec<u8>> {
    let below = |rest: &[u8]| [mount.path.as_bytes(), rest].concat();
    // Like browsers, an origin may mean a host by `/\`; below a mount it is a path in any case.
    if received.starts_with(b"/") && !received.starts_with(b"//") {
        return Some(below(received));
    }
    let text = std::str::from_utf8(received).ok()?;
    if text.starts_with("//") {
        // The scheme is that of the origin and not that of the mount.
        let absolute = format!("{}:{text}", sent_to.scheme().as_str());
        return Some(own_path(mount, sent_to, &absolute).map_or(absolute.clone().into_bytes(), below));
    }
    if let Some(path) = own_path(mount, sent_to, text) {
        return Some(below(path));
    }
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let leads_out = mount.is_bare || path.split('/').any(|segment| segment == "..");
    if path.is_empty() || path.contains(':') || !leads_out {
        return None;
    }
    let resolved = sent_to.resolve(text)?;
    let fragment = text.split_once('#').map(|(_, fragment)| format!("#{fragment}")).unwrap_or_default();
    Some([below(resolved.path_and_query().as_bytes()), fragment.into_bytes()].concat())
}

/// The text after the authority of an absolute URL; `None`: it is not a URL of the mount's origin.
fn own_path<'t>(mount: &MountPoint, sent_to: &Target, text: &'t str) -> Option<&'t [u8]> {
    let (_, rest) = text.split_once("://")?;
    let (_, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let origin = Target::absolute(text.strip_suffix(path)?).ok()?;
    (origin.same_origin(sent_to) || origin.same_origin(&mount.target)).then_some(path.as_bytes())
}

#[cfg(test)]
mod tests {
    use http::header::{CONTENT_LOCATION, LOCATION};
    use http::{HeaderMap, HeaderValue};

    use super::{MountPoint, has_reference, rewrite};
    use crate::semantics::target::Target;

    /// The rewritten `Location` of the response to a request that an upstream moves to https.
    fn rewritten(location: &str, is_bare: bool) -> String {
        let target = |url: &str| Target::absolute(url).unwrap();
        let path = if is_bare { "" } else { "/v1/list" };
        let mount = MountPoint {
            path: "/coins".into(),
            target: target(&format!("http://api.example{path}")),
            is_bare,
        };
        let value = HeaderValue::from_bytes(location.as_bytes()).unwrap();
        let mut headers = HeaderMap::from_iter([(LOCATION, value.clone()), (CONTENT_LOCATION, value)]);
        assert!(has_reference(&headers));
        rewrite(&mount, &target(&format!("https://api.example{path}")), &mut headers);
        assert_eq!(headers["location"], headers["content-location"]);
        String::from_utf8_lossy(headers["location"].as_bytes()).into_owned()
    }

    #[test]
    fn references_to_the_origin_lead_below_the_mount() {
        for (received, sent) in [
            ("/new", "/coins/new"),
            ("/", "/coins/"),
            ("/new?a=1#top", "/coins/new?a=1#top"),
            ("/\\evil.example", "/coins/\\evil.example"),
            ("/ü", "/coins/ü"),
            ("https://api.example/new?a=1#top", "/coins/new?a=1#top"),
            ("HTTPS://API.example:443/new", "/coins/new"),
            ("http://api.example/new", "/coins/new"),
            ("http://api.example:80", "/coins"),
            ("https://api.example?a", "/coins?a"),
            ("//api.example/new", "/coins/new"),
            ("../../../x?y#z", "/coins/x?y#z"),
        ] {
            assert_eq!(rewritten(received, false), sent, "{received}");
        }
        assert_eq!(rewritten("new?a#b", true), "/coins/new?a#b");
    }

    #[test]
    fn other_references_stay_as_they_are() {
        for received in [
            "new",
            "./new?a=/../b",
            "?a",
            "#top",
            "",
            "https://elsewhere.example/new",
            "https://api.example:8443/new",
            "https://api.example.evil.example/",
            "https://user@api.example/new",
            "https://api.example\\@evil.example/",
            "http:new",
            "mailto:a@b",
            "ws://api.example/x",
        ] {
            assert_eq!(rewritten(received, false), received, "{received}");
        }
        // The scheme of the mount is not that of the origin.
        assert_eq!(rewritten("//elsewhere.example/x", false), "https://elsewhere.example/x");
    }
}
