//! JSON paths into bodies (RFC 9535).
//!
//! Owns: parsing and evaluating a path. Never touches: the meaning of the value found.

use std::fmt;

use serde_json::Value;

/// A query such as `$.status.error_code`. Two queries are equal if their texts are equal.
#[derive(Clone)]
pub struct JsonPath {
    text: Box<str>,
    query: serde_json_path::JsonPath,
}

/// The text is not a valid JSON path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a JSON path (RFC 9535): {0}")]
pub struct ParseError(String);

impl JsonPath {
    /// Parses a query.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let query =
            serde_json_path::JsonPath::parse(text).map_err(|error| ParseError(error.message().to_owned()))?;
        Ok(Self { text: text.into(), query })
    }

    /// The first value that the query finds in `body`.
    pub fn first<'v>(&self, body: &'v Value) -> Option<&'v Value> {
        self.query.query(body).first()
    }

    /// All values that the query finds in `body`.
    pub fn all<'v>(&self, body: &'v Value) -> impl Iterator<Item = &'v Value> {
        self.query.query(body).all().into_iter()
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
    fn a_path_finds_its_first_matching_value() {
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
    fn invalid_paths_are_rejected_with_an_error() {
        for text in ["", "status.error_code", "$.", "$[", "$..", "$.a b"] {
            let error = JsonPath::parse(text).expect_err(text).to_string();
            assert!(error.starts_with("not a JSON path"), "{error}");
        }
    }
}
