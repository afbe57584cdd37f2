//! Paths with secrets that an operator configures: `/bot{token}/**`, `/hooks/{id}/{key}`.
//!
//! Owns: the syntax of a segment of such a path, and finding the captured parts of a raw path. When in doubt
//! it hides more: it skips empty segments, and hides the whole of a percent-encoded segment.
//! Never touches: the paths of a route (`route::pattern`).

use std::fmt;
use std::ops::Range;

use crate::semantics::path_template::{PathTemplate, PathTemplateError};

/// A path whose captures are secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretPath {
    /// The text in the configuration.
    text: String,
    segments: Vec<Segment>,
    /// Whether the path ends in `/**`, which matches any further segments or none.
    rest: bool,
}

/// `before{name}after`, `before*after`, or a plain literal.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    before: String,
    open: OpenSegment,
    after: String,
}

/// The variable part between the literal parts of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OpenSegment {
    /// No variable part.
    Closed,
    /// `{name}`: a secret.
    Secret,
    /// `*`: any text, not secret.
    Shown,
}

/// The reason why a path was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The text is not a valid path pattern.
    #[error(transparent)]
    Template(#[from] PathTemplateError),
    /// `/a{b`, `/{}`, `/{a}{b}`
    #[error("has a segment that is not literal text around one `{{name}}` or one `*`")]
    Segment,
    /// `/a/b`
    #[error("has no `{{name}}`, so nothing in it is secret")]
    NoCapture,
}

impl CaptureError {
    /// Advice on how to correct the path.
    pub fn fix(self) -> &'static str {
        match self {
            Self::Template(PathTemplateError::Slash) => {
                "write the whole path from the root, such as `/bot{token}/**`"
            }
            Self::Template(PathTemplateError::Query) => {
                "write only the path; `secret_query` is for query parameters"
            }
            Self::Template(PathTemplateError::Character) => "write it percent-encoded, as it is sent",
            Self::Template(PathTemplateError::Rest) => {
                "`**` may only be the whole last segment, as in `/bot{token}/**`"
            }
            Self::Segment => "write one capture or `*` in a segment, such as `/bot{token}/**`",
            Self::NoCapture => "put braces with a name around the secret, such as `/bot{token}/**`",
        }
    }
}

impl SecretPath {
    /// Parses a path from the configuration.
    pub fn parse(text: &str) -> Result<Self, CaptureError> {
        let template = PathTemplate::read(text)?;
        let segments = template.segments().filter(|segment| !segment.is_empty());
        let segments: Vec<_> = segments.map(Segment::parse).collect::<Result<_, _>>()?;
        let rest = template.rest;
        let captures = segments.iter().any(|segment| segment.open == OpenSegment::Secret);
        let parsed = Self { text: text.to_owned(), segments, rest };
        if captures { Ok(parsed) } else { Err(CaptureError::NoCapture) }
    }

    /// The captured parts of a raw path. Empty if the path does not match.
    pub(super) fn captured(&self, path: &str) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let mut patterns = self.segments.iter();
        let mut start = 0;
        for segment in path.split('/') {
            let at = start;
            start += segment.len() + 1;
            if segment.is_empty() {
                continue;
            }
            let Some(pattern) = patterns.next() else {
                return if self.rest { found } else { Vec::new() };
            };
            match pattern.secret_of(segment) {
                None => return Vec::new(),
                Some(secret) if secret.is_empty() => {}
                Some(secret) => found.push(at + secret.start..at + secret.end),
            }
        }
        if patterns.next().is_none() { found } else { Vec::new() }
    }
}

/// The text in the configuration.
impl fmt::Display for SecretPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, CaptureError> {
        let (before, open, after) = match (text.split_once('{'), text.split_once('*')) {
            (None, None) => (text, OpenSegment::Closed, ""),
            (Some((before, rest)), None) => {
                let (name, after) = rest.split_once('}').ok_or(CaptureError::Segment)?;
                if name.is_empty() {
                    return Err(CaptureError::Segment);
                }
                (before, OpenSegment::Secret, after)
            }
            (None, Some((before, after))) => (before, OpenSegment::Shown, after),
            (Some(_), Some(_)) => return Err(CaptureError::Segment),
        };
        if [before, after].iter().any(|literal| literal.contains(['{', '}', '*'])) {
            return Err(CaptureError::Segment);
        }
        Ok(Self { before: before.to_owned(), open, after: after.to_owned() })
    }

    /// The secret part of a segment. `None` if the segment does not match.
    fn secret_of(&self, segment: &str) -> Option<Range<usize>> {
        if let Some(length) = self.variable_length(segment) {
            let start = self.before.len();
            return Some(if self.open == OpenSegment::Secret { start..start + length } else { 0..0 });
        }
        let decoded = percent_encoding::percent_decode_str(segment).decode_utf8_lossy();
        self.variable_length(&decoded)?;
        Some(if self.open == OpenSegment::Secret { 0..segment.len() } else { 0..0 })
    }

    /// The length of the variable part, if the segment matches.
    fn variable_length(&self, segment: &str) -> Option<usize> {
        let rest = segment.strip_prefix(self.before.as_str())?;
        let variable = rest.strip_suffix(self.after.as_str())?;
        (variable.is_empty() == (self.open == OpenSegment::Closed)).then_some(variable.len())
    }
}

#[cfg(test)]
mod tests {
    use super::{CaptureError, PathTemplateError, SecretPath};
    use crate::semantics::redaction::masked;

    fn shown(pattern: &str, path: &str) -> String {
        let secrets = SecretPath::parse(pattern).unwrap().captured(path);
        masked(path, &secrets).into_owned()
    }

    #[test]
    fn captures_are_secret_and_the_rest_is_shown() {
        for (pattern, path, safe) in [
            ("/bot{token}/**", "/botplainword/getMe", "/bot(secret)/getMe"),
            ("/bot{token}/**", "/botx", "/bot(secret)"),
            ("/bot{token}/**", "/bot/getMe", "/bot/getMe"),
            ("/bot{token}/**", "//botx//a", "//bot(secret)//a"),
            ("/bot{token}/**", "/%62otx/a", "/(secret)/a"),
            ("/bot{token}", "/botx/a", "/botx/a"),
            ("/hooks/{id}/{key}", "/hooks/1/x", "/hooks/(secret)/(secret)"),
            ("/hooks/*/{key}.json", "/hooks/1/x.json", "/hooks/1/(secret).json"),
            ("/hooks/*/{key}", "/hooks/1", "/hooks/1"),
            ("/hooks/*/{key}", "/other/1/x", "/other/1/x"),
        ] {
            assert_eq!(shown(pattern, path), safe, "{pattern} {path}");
        }
    }

    #[test]
    fn invalid_paths_are_rejected() {
        for (text, error) in [
            ("bot{token}", PathTemplateError::Slash.into()),
            ("/bot{token}?a", PathTemplateError::Query.into()),
            ("/bot {token}", PathTemplateError::Character.into()),
            ("/bot{token", CaptureError::Segment),
            ("/bot{}", CaptureError::Segment),
            ("/{a}{b}", CaptureError::Segment),
            ("/{a}*", CaptureError::Segment),
            ("/**/{a}", PathTemplateError::Rest.into()),
            ("/{a}**", PathTemplateError::Rest.into()),
            ("/a/**", CaptureError::NoCapture),
            ("/", CaptureError::NoCapture),
        ] {
            assert_eq!(SecretPath::parse(text), Err(error), "{text}");
        }
    }
}
