//! What all patterns of paths in a configuration have in common: `/a/{b}/**`.
//!
//! Owns: that a pattern is written from the root, as paths are sent, and where `**` may stand. Never touches:
//! what a segment may be and which paths are meant (`route::pattern`, `redaction`): there they differ.

/// A pattern taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathTemplate<'t> {
    /// What stands between the first slash and a last `/**`; `None`: nothing but `/**`.
    path: Option<&'t str>,
    /// Whether it ends in `/**`: anything further, also nothing.
    pub rest: bool,
}

/// Why a text is no such pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathTemplateError {
    /// Not from the root.
    #[error("does not begin with `/`")]
    Slash,
    /// `/a?b=c`, `/a#b`
    #[error("has a query or fragment")]
    Query,
    /// A control character, a space, or one outside ASCII.
    #[error("has a character that is never sent in a path as it is")]
    Character,
    /// `/a**`, `/**/a`
    #[error("has a `**` that is not its last segment")]
    Rest,
}

impl<'t> PathTemplate<'t> {
    /// Takes a pattern apart as it stands in the configuration.
    pub fn read(text: &'t str) -> Result<Self, PathTemplateError> {
        let path = text.strip_prefix('/').ok_or(PathTemplateError::Slash)?;
        if path.contains(['?', '#']) {
            return Err(PathTemplateError::Query);
        }
        if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(PathTemplateError::Character);
        }
        let outline = match path.strip_suffix("/**") {
            _ if path == "**" => Self { path: None, rest: true },
            Some(before) => Self { path: Some(before), rest: true },
            None => Self { path: Some(path), rest: false },
        };
        let again = outline.path.is_some_and(|path| path.contains("**"));
        if again { Err(PathTemplateError::Rest) } else { Ok(outline) }
    }

    /// Its segments, empty ones too.
    pub fn segments(self) -> impl Iterator<Item = &'t str> {
        self.path.into_iter().flat_map(|path| path.split('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::{PathTemplate, PathTemplateError};

    #[test]
    fn a_pattern_is_a_path_from_the_root_whose_last_segment_may_be_anything_further() {
        for (text, segments, rest) in [
            ("/", &[""][..], false),
            ("/**", &[], true),
            ("/a/{b}/*.json", &["a", "{b}", "*.json"], false),
            ("/a//b/**", &["a", "", "b"], true),
            ("//**", &[""], true),
        ] {
            let outline = PathTemplate::read(text).unwrap();
            assert_eq!(
                (outline.segments().collect::<Vec<_>>(), outline.rest),
                (segments.into(), rest)
            );
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
