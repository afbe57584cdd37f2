//! The common syntax of path patterns in a configuration: `/a/{b}/**`.
//!
//! Owns: checks that a pattern starts at the root, has only characters that paths are sent with, and has `**`
//! only at its end. Never touches: the syntax of a segment and the matching of paths, which differ between
//! `route::pattern` and `redaction`.

/// A parsed pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathTemplate<'t> {
    /// The text between the first slash and a final `/**`. `None` if the pattern is just `/**`.
    path: Option<&'t str>,
    /// Whether the pattern ends in `/**`, which matches any further segments or none.
    pub rest: bool,
}

/// The reason why a text is not a valid pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathTemplateError {
    /// The pattern does not start at the root.
    #[error("does not begin with `/`")]
    Slash,
    /// `/a?b=c`, `/a#b`
    #[error("has a query or fragment")]
    Query,
    /// A control character, a space, or a character outside ASCII.
    #[error("has a character that is never sent in a path as it is")]
    Character,
    /// `/a**`, `/**/a`
    #[error("has a `**` that is not its last segment")]
    Rest,
}

impl<'t> PathTemplate<'t> {
    /// Parses a pattern from the configuration.
    ///
    /// ```
    /// use larder::semantics::path_template::{PathTemplate, PathTemplateError};
    ///
    /// let template = PathTemplate::read("/api/{version}/**").unwrap();
    /// assert!(template.rest && template.segments().eq(["api", "{version}"]));
    /// assert_eq!(PathTemplate::read("/api/**/users"), Err(PathTemplateError::Rest));
    /// ```
    pub fn read(text: &'t str) -> Result<Self, PathTemplateError> {
        let path = text.strip_prefix('/').ok_or(PathTemplateError::Slash)?;
        if path.contains(['?', '#']) {
            return Err(PathTemplateError::Query);
        }
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(PathTemplateError::Character);
        }
        let template = match path.strip_suffix("/**") {
            _ if path == "**" => Self { path: None, rest: true },
            Some(before) => Self { path: Some(before), rest: true },
            None => Self { path: Some(path), rest: false },
        };
        let again = template.path.is_some_and(|path| path.contains("**"));
        if again { Err(PathTemplateError::Rest) } else { Ok(template) }
    }

    /// The segments, including empty ones.
    pub fn segments(self) -> impl Iterator<Item = &'t str> {
        self.path.into_iter().flat_map(|path| path.split('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::{PathTemplate, PathTemplateError};

    #[test]
    fn a_pattern_starts_at_the_root_and_may_end_in_a_rest_wildcard() {
        for (text, segments, rest) in [
            ("/", &[""][..], false),
            ("/**", &[], true),
            ("/a/{b}/*.json", &["a", "{b}", "*.json"], false),
            ("/a//b/**", &["a", "", "b"], true),
            ("//**", &[""], true),
        ] {
            let template = PathTemplate::read(text).unwrap();
            assert_eq!((template.segments().collect::<Vec<_>>(), template.rest), (segments.into(), rest));
        }
        for (text, error) in [
            ("a", PathTemplateError::Slash),
            ("", PathTemplateError::Slash),
            ("/a?b", PathTemplateError::Query),
            ("/a b", PathTemplateError::Character),
            ("/ä", PathTemplateError::Character),
            ("/a**", PathTemplateError::Rest),
            ("/**/a", PathTemplateError::Rest),
            ("/**/**", PathTemplateError::Rest),
        ] {
            assert_eq!(PathTemplate::read(text), Err(error), "{text}");
        }
    }
}
