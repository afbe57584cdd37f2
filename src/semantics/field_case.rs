//! The letter case of field names in HTTP/1: larder keeps the case of the received head.
//!
//! Owns: the spelling of field names. Case has no meaning (RFC 9110 §5.1), but some old programs depend on
//! it. Never touches: values, the set of fields.

use bytes::{BufMut, Bytes, BytesMut};
use http::header;
use http::{HeaderMap, HeaderName};

/// The spelling of the field names in a received head. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct FieldCase(Bytes);

impl FieldCase {
    /// Takes the names from a head that begins with its start line.
    pub fn from_head(head: Bytes) -> Self {
        Self(head)
    }

    /// Writes fields, each on a line of its own.
    pub fn write(&self, fields: &HeaderMap, out: &mut BytesMut) {
        // Fields mostly are in the order of receipt, so the search starts at the next line.
        let mut at = self.after_line(0);
        for (name, value) in fields {
            let (spelling, next) = self.find(name, at);
            at = next;
            match spelling {
                Some(spelling) => out.put_slice(spelling),
                None => out.put_slice(default_spelling(name).as_bytes()),
            }
            out.put_slice(b": ");
            out.put_slice(value.as_bytes());
            out.put_slice(b"\r\n");
        }
    }

    /// The spelling of a name, and the position at which to search for the next one.
    fn find(&self, name: &HeaderName, from: usize) -> (Option<&[u8]>, usize) {
        for (mut at, end) in [(from, self.0.len()), (self.after_line(0), from)] {
            while at < end {
                let next = self.after_line(at);
                if let Some(spelling) = self.0.get(at..at + name.as_str().len())
                    && self.0.get(at + spelling.len()) == Some(&b':')
                    && spelling.eq_ignore_ascii_case(name.as_str().as_bytes())
                {
                    return (Some(spelling), next);
                }
                at = next;
            }
        }
        (None, from)
    }

    fn after_line(&self, at: usize) -> usize {
        let rest = self.0.get(at..).unwrap_or_default();
        rest.iter().position(|byte| *byte == b'\n').map_or(self.0.len(), |line_feed| at + line_feed + 1)
    }
}

/// The spelling of names that were not in a received HTTP/1 head.
pub fn default_spelling(name: &HeaderName) -> &str {
    match *name {
        header::ACCEPT_RANGES => "Accept-Ranges",
        header::AGE => "Age",
        header::CACHE_CONTROL => "Cache-Control",
        header::CONNECTION => "Connection",
        header::CONTENT_TYPE => "Content-Type",
        header::CONTENT_ENCODING => "Content-Encoding",
        header::CONTENT_LENGTH => "Content-Length",
        header::DATE => "Date",
        header::SERVER => "Server",
        header::SET_COOKIE => "Set-Cookie",
        header::TRANSFER_ENCODING => "Transfer-Encoding",
        _ => name.as_str(),
    }
}

/// Whether an origin may read the field's name as one of `known`: CGI and similar interfaces treat `_` as
/// `-`.
pub fn names_one_of(name: &HeaderName, known: &[&str]) -> bool {
    let name = name.as_str();
    let same = |known: &str| {
        let mut both = known.bytes().zip(name.bytes());
        known.len() == name.len() && both.all(|(known, own)| known == own || (known == b'-' && own == b'_'))
    };
    known.iter().any(|known| same(known))
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use http::HeaderMap;

    use super::FieldCase;

    fn written(head: &'static str, fields: &[(&'static str, &'static str)]) -> String {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, value.parse().unwrap());
        }
        let mut out = BytesMut::new();
        FieldCase::from_head(Bytes::from_static(head.as_bytes())).write(&map, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn names_keep_their_received_case_in_any_order() {
        let head = "GET / HTTP/1.1\r\nX-API-Key: a\r\nACCEPT: b\r\nx-two: c\r\n\r\n";
        assert_eq!(
            written(head, &[("x-two", "1"), ("accept", "2"), ("x-api-key", "3"), ("via", "4")]),
            "x-two: 1\r\nACCEPT: 2\r\nX-API-Key: 3\r\nvia: 4\r\n"
        );
    }

    #[test]
    fn without_a_head_names_have_their_default_spelling() {
        assert_eq!(
            written("", &[("content-type", "a/b"), ("etag", "1")]),
            "Content-Type: a/b\r\netag: 1\r\n"
        );
    }

    #[test]
    fn the_start_line_and_longer_names_do_not_match() {
        let head = "Via: x\r\nVia-Long: a\r\n\r\n";
        assert_eq!(written(head, &[("via", "1")]), "via: 1\r\n");
    }
}
