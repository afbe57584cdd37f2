//! How field names are written in HTTP/1: as they came, where a head came with them.
//!
//! Owns: capitals, which mean nothing (RFC 9110 §5.1) and which some old programs still expect.
//! Never touches: values, which fields there are.

use bytes::{BufMut, Bytes, BytesMut};
use http::header;
use http::{HeaderMap, HeaderName};

/// The names in a head that was received. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct FieldCase(Bytes);

impl FieldCase {
    /// The names in this head, which begins with its start line.
    pub fn of(head: Bytes) -> Self {
        Self(head)
    }

    /// Writes fields, each on a line of its own.
    pub fn write(&self, fields: &HeaderMap, out: &mut BytesMut) {
        // Fields mostly stand in the order in which they came: the next line is looked at first.
        let mut at = self.after_line(0);
        for (name, value) in fields {
            let (spelled, next) = self.find(name, at);
            at = next;
            match spelled {
                Some(spelled) => out.put_slice(spelled),
                None => out.put_slice(usual(name).as_bytes()),
            }
            out.put_slice(b": ");
            out.put_slice(value.as_bytes());
            out.put_slice(b"\r\n");
        }
    }

    /// The spelling of a name, and where to look for the next.
    fn find(&self, name: &HeaderName, from: usize) -> (Option<&[u8]>, usize) {
        for (mut at, end) in [(from, self.0.len()), (self.after_line(0), from)] {
            while at < end {
                let next = self.after_line(at);
                if let Some(spelled) = self.0.get(at..at + name.as_str().len())
                    && self.0.get(at + spelled.len()) == Some(&b':')
                    && spelled.eq_ignore_ascii_case(name.as_str().as_bytes())
                {
                    return (Some(spelled), next);
                }
                at = next;
            }
        }
        (None, from)
    }

    fn after_line(&self, at: usize) -> usize {
        let rest = self.0.get(at..).unwrap_or_default();
        rest.iter().position(|byte| *byte == b'\n').map_or(self.0.len(), |feed| at + feed + 1)
    }
}

/// The spelling of names that did not come in a head of HTTP/1.
pub fn usual(name: &HeaderName) -> &str {
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

/// Whether a field has one of these names as an origin may read it: CGI and its kin take `_` for `-`.
pub fn names_one_of(name: &HeaderName, known: &[&str]) -> bool {
    let name = name.as_str();
    let same = |known: &str| {
        let mut both = known.bytes().zip(name.bytes());
        known.len() == name.len()
            && both.all(|(known, own)| known == own || (known == b'-' && own == b'_'))
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
        FieldCase::of(Bytes::from_static(head.as_bytes())).write(&map, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn names_are_written_as_they_came_in_whatever_order() {
        let head = "GET / HTTP/1.1\r\nX-API-Key: a\r\nACCEPT: b\r\nx-two: c\r\n\r\n";
        assert_eq!(
            written(head, &[("x-two", "1"), ("accept", "2"), ("x-api-key", "3"), ("via", "4")]),
            "x-two: 1\r\nACCEPT: 2\r\nX-API-Key: 3\r\nvia: 4\r\n"
        );
    }

    #[test]
    fn without_a_head_names_are_written_as_usual() {
        assert_eq!(
            written("", &[("content-type", "a/b"), ("etag", "1")]),
            "Content-Type: a/b\r\netag: 1\r\n"
        );
    }

    #[test]
    fn the_start_line_is_no_field_and_part_of_a_name_is_no_name() {
        let head = "Via: x\r\nVia-Long: a\r\n\r\n";
        assert_eq!(written(head, &[("via", "1")]), "via: 1\r\n");
    }
}
