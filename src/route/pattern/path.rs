//! Path patterns: `/api/{version}/guilds/{guild}/roles`, `/files/*.json`, `/api/**`.
//!
//! Owns: which raw paths a pattern matches. Only escapes that are equivalent by RFC 3986 are decoded (`%7E`
//! is `~`): an origin may distinguish `/a%2Fb` and `/a/b`, so larder must do so, too. Never touches: queries.

use std::fmt;

use crate::semantics::path_template::{PathTemplate, PathTemplateError};
use crate::semantics::target::path_equivalence;

/// A pattern for paths.
///
/// ```
/// use larder::route::pattern::PathPattern;
///
/// let roles = PathPattern::parse("/api/{version}/guilds/{guild}/roles").unwrap();
/// assert!(roles.matches("/api/v10/guilds/7/roles"));
/// assert!(!roles.matches("/api/v10/guilds/7%2F8/roles/1"));
/// assert!(PathPattern::parse("/api/**").unwrap().covers(&roles));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    /// The pattern as written.
    text: String,
    /// The literal prefix: whole segments, no slash at the end.
    literal: String,
    /// The remaining segments.
    segments: Vec<Segment>,
    /// Whether it ends in `/**`, which matches any number of further segments, including none.
    rest: bool,
}

/// One segment. Only an empty literal matches an empty segment.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// Exactly this text.
    Literal(String),
    /// `{name}`: any text.
    Capture(String),
    /// The texts between the `*`s: at least two parts.
    Glob(Vec<String>),
}

/// Why a path pattern was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Not a path template.
    #[error(transparent)]
    Template(#[from] PathTemplateError),
    /// `/a{b}`, `/{a`, `/{}`
    #[error("has braces that are not a capture")]
    Capture,
    /// `/{a}/{a}`
    #[error("names a capture twice")]
    Twice,
}

impl PathError {
    /// A suggested fix.
    pub fn fix(self) -> &'static str {
        match self {
            Self::Template(PathTemplateError::Slash) => {
                "write the whole path from the root, such as `/api/{version}/users`"
            }
            Self::Template(PathTemplateError::Query) => {
                "leave the path only; query parameters go into `match.query`"
            }
            Self::Template(PathTemplateError::Character) => "write it percent-encoded, as it is sent",
            Self::Template(PathTemplateError::Rest) => {
                "`**` may only be the whole last segment, as in `/api/**`"
            }
            Self::Capture => "a capture is a whole segment with a name, such as `{guild}`",
            Self::Twice => "give each capture its own name",
        }
    }
}

impl PathPattern {
    /// Every path.
    pub fn any() -> Self {
        Self { text: "/**".to_owned(), literal: String::new(), segments: Vec::new(), rest: true }
    }

    /// Parses a pattern of the configuration.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let normal = path_equivalence::normalize(text);
        let template = PathTemplate::read(&normal)?;
        let segments: Vec<_> = template.segments().map(Segment::parse).collect::<Result<_, _>>()?;
        if has_duplicates(&segments) {
            return Err(PathError::Twice);
        }
        let (literal, segments) = split_literal(segments);
        Ok(Self { text: text.to_owned(), literal, segments, rest: template.rest })
    }

    /// Whether it matches `path`, as it was sent.
    pub fn matches(&self, path: &str) -> bool {
        self.matches_normal(&path_equivalence::normalize(path))
    }

    /// The same for a path in its [normal form](path_equivalence::normalize), computed once for many patterns.
    pub(crate) fn matches_normal(&self, path: &str) -> bool {
        let Some(mut left) = path.strip_prefix(self.literal.as_str()) else { return false };
        for segment in &self.segments {
            let Some(path) = left.strip_prefix('/') else { return false };
            let end = path.find('/').unwrap_or(path.len());
            let (part, after) = path.split_at(end);
            if !segment.matches(part) {
                return false;
            }
            left = after;
        }
        left.is_empty() || (self.rest && left.starts_with('/'))
    }

    /// Whether `self` matches every path that `other` matches. `false` may be wrong.
    pub fn covers(&self, other: &Self) -> bool {
        let ours = self.all_segments();
        let theirs = other.all_segments();
        let long_enough =
            if self.rest { ours.len() <= theirs.len() } else { ours.len() == theirs.len() && !other.rest };
        long_enough && ours.iter().zip(&theirs).all(|(ours, theirs)| ours.covers(theirs))
    }

    fn all_segments(&self) -> Vec<Segment> {
        let literal = self.literal.split('/').skip(1).map(|l| Segment::Literal(l.to_owned()));
        literal.chain(self.segments.iter().cloned()).collect()
    }
}

/// The form used in the configuration.
impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Segment {
    fn parse(text: &str) -> Result<Self, PathError> {
        if text.contains(['{', '}']) {
            let name = text.strip_prefix('{').and_then(|t| t.strip_suffix('}'));
            let name = name.filter(|name| is_name(name)).ok_or(PathError::Capture)?;
            return Ok(Self::Capture(name.to_owned()));
        }
        if text.contains('*') {
            return Ok(Self::Glob(text.split('*').map(str::to_owned).collect()));
        }
        Ok(Self::Literal(text.to_owned()))
    }

    fn matches(&self, part: &str) -> bool {
        match self {
            Self::Literal(literal) => literal == part,
            Self::Capture(_) => !part.is_empty(),
            Self::Glob(parts) => !part.is_empty() && glob(parts, part),
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Capture(_), Self::Literal(literal)) => !literal.is_empty(),
            (Self::Capture(_), Self::Capture(_) | Self::Glob(_)) => true,
            (Self::Literal(_), _) => self == other,
            (Self::Glob(_), Self::Literal(literal)) => self.matches(literal),
            (Self::Glob(parts), Self::Capture(_) | Self::Glob(_)) => {
                parts.iter().all(String::is_empty) || self == other
            }
        }
    }
}

/// Whether `text` has `parts` in order with any text between them, the first at the start, the last at the
/// end.
fn glob(parts: &[String], text: &str) -> bool {
    let Some((first, others)) = parts.split_first() else { return false };
    let Some((last, middle)) = others.split_last() else { return false };
    let inside = text.strip_prefix(first.as_str()).and_then(|t| t.strip_suffix(last.as_str()));
    let Some(mut left) = inside else { return false };
    middle.iter().all(|part| match left.split_once(part.as_str()) {
        Some((_, after)) => {
            left = after;
            true
        }
        None => false,
    })
}

fn split_literal(segments: Vec<Segment>) -> (String, Vec<Segment>) {
    let mut literal = String::new();
    let mut others = Vec::new();
    for segment in segments {
        match segment {
            Segment::Literal(text) if others.is_empty() => {
                literal.push('/');
                literal.push_str(&text);
            }
            Segment::Literal(_) | Segment::Capture(_) | Segment::Glob(_) => others.push(segment),
        }
    }
    (literal, others)
}

fn has_duplicates(segments: &[Segment]) -> bool {
    segments.iter().enumerate().any(|(at, segment)| {
        matches!(segment, Segment::Capture(_)) && segments.iter().skip(at + 1).any(|later| later == segment)
    })
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
