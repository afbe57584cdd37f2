//! The query string of a request, and its list parameters.
//!
//! Owns: decoding names and values. Never touches: their meaning.

use std::collections::BTreeMap;

use http::Uri;
use percent_encoding::percent_decode_str;

/// Parameters by name; if a name is repeated, the last value applies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    pub(super) fn from_uri(uri: &Uri) -> Self {
        let pairs = uri.query().unwrap_or_default().split('&');
        let pairs = pairs.filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, value)| (decoded(name), decoded(value))).collect())
    }

    /// A parameter; an empty one counts as absent.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).filter(|value| !value.is_empty()).cloned()
    }

    /// A list parameter without duplicates, in the order of the request.
    pub(super) fn list(&self, name: &str) -> Option<Vec<String>> {
        let mut items: Vec<String> = Vec::new();
        for item in self.text(name)?.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            if !items.iter().any(|known| known == item) {
                items.push(item.to_owned());
            }
        }
        Some(items)
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_no_duplicates_and_keeps_the_order_of_the_request() {
        let query = Query::from_uri(&Uri::from_static("/q?id=3,1%2C3,,2&symbol=&slug=a+b"));
        assert_eq!(query.list("id").unwrap(), ["3", "1", "2"]);
        assert_eq!(query.list("symbol"), None);
        assert_eq!(query.list("slug").unwrap(), ["a b"]);
        assert_eq!(Query::from_uri(&Uri::from_static("/q")), Query::default());
    }
}
