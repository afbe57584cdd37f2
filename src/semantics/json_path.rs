//! Where in a JSON body something stands (RFC 9535).
//!
//! Owns: how such a place is written and looked up. Never touches: what it means.

use std::fmt;

use serde_json::Value;

/// A query such as `$.status.error_code`. Two are equal when they are written alike.
#[derive(Clone)]
pub struct JsonPath {
    text: Box<str>,
    query: serde_json_path::JsonPath,
}

/// A text that is no such query.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no JSON path (RFC 9535): {0}")]
pub struct ParseError(String);

impl JsonPath {
    /// The query that `text` writes.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let query = serde_json_path::JsonPath::parse(text)
            .map_err(|error| ParseError(error.message().to_owned()))?;
        Ok(Self { text: text.into(), query })
    }

    /// The first value that it finds in `body`.
    pub fn first<'v>(&self, body: &'v Value) -> Option<&'v Value> {
        self.query.query(body).first()
    }
}

impl PartialEq for JsonPath {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for JsonPath {}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JsonPath({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::semantics::json_path::JsonPath;

    #[test]
    fn a_path_finds_the_first_value_that_it_names() {
        let body = json!({ "status": { "error_code": 1008, "notes": ["a", "b"] } });
        let table = [
            ("$.status.error_code", Some(json!(1008))),
            ("$.status.notes[1]", Some(json!("b"))),
            ("$.status.notes[*]", Some(json!("a"))),
            ("$['status']['error_code']", Some(json!(1008))),
            ("$.status.credit_count", None),
            ("$.status.error_code.further", None),
        ];
        for (path, expected) in table {
            let path = JsonPath::parse(path).unwrap();
            assert_eq!(path.first(&body), expected.as_ref(), "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_an_error_that_says_so() {
        for text in ["", "status.error_code", "$.", "$[", "$..", "$.a b"] {
            let error = JsonPath::parse(text).expect_err(text).to_string();
            assert!(error.starts_with("no JSON path"), "{error}");
        }
    }
}
