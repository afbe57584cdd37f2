//! The environment variables, passed in, and `${NAME}` in scalars.
//!
//! Owns: the meaning of `${NAME}`, `${NAME:-default}` and `$$`. They are expanded after YAML parsing, within
//! one scalar, so a value can never become YAML structure.
//! Never touches: the environment of the process (only `cli` reads it); the use of a value.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

/// Environment variables. `Debug` prints only their number: values may be secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Env(HashMap<String, String>);

impl Env {
    /// The value of a variable; `None` when it is not set.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Env({})", self.0.len())
    }
}

/// Why a scalar could not be interpolated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvError {
    /// The variable is not set and no default is given.
    #[error("the environment variable {0} is not set")]
    Unset(String),
    /// `${` without its `}`.
    #[error("`${{` is not closed")]
    Open,
    /// `${1X}`, `${}`
    #[error("`${{…}}` does not name an environment variable")]
    Name,
}

impl EnvError {
    /// A suggested fix.
    pub fn fix(&self) -> String {
        match self {
            Self::Unset(name) => {
                format!("set it before larder starts, or give a default: `${{{name}:-…}}`")
            }
            Self::Open => "write `${NAME}`, or `$${` for the two characters themselves".to_owned(),
            Self::Name => "names have letters, digits and `_`: `${NAME}`, `${NAME:-default}`; \
                           `$${` stands for the two characters themselves"
                .to_owned(),
        }
    }
}

/// `text` with its variables expanded; borrowed if there are none.
pub fn interpolate<'t>(text: &'t str, env: &Env) -> Result<Cow<'t, str>, EnvError> {
    if !text.contains('$') {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut left = text;
    while let Some((before, after)) = left.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            left = after;
        } else if let Some(reference) = after.strip_prefix('{') {
            let (reference, after) = reference.split_once('}').ok_or(EnvError::Open)?;
            out.push_str(value_of(reference, env)?);
            left = after;
        } else {
            out.push('$');
            left = after;
        }
    }
    out.push_str(left);
    Ok(Cow::Owned(out))
}

/// The value of a reference. As in a shell, `:-` also replaces an empty value. Trailing line ends, which
/// files and commands often leave, are removed.
fn value_of<'v>(reference: &'v str, env: &'v Env) -> Result<&'v str, EnvError> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let starts_well = !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit());
    if !starts_well || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(EnvError::Name);
    }
    let value = env.get(name).map(|value| value.trim_end_matches(['\r', '\n']));
    match (value, default) {
        (None | Some(""), Some(default)) => Ok(default),
        (Some(value), _) => Ok(value),
        (None, None) => Err(EnvError::Unset(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use crate::config::env::{Env, EnvError, interpolate};

    fn env() -> Env {
        [("HOST", "api.example"), ("EMPTY", ""), ("LINE", "value\r\n"), ("YAML", "a: [b]\nc: d")]
            .into_iter()
            .collect()
    }

    #[test]
    fn each_form_is_expanded() {
        let table = [
            ("plain", "plain"),
            ("${HOST}", "api.example"),
            ("https://${HOST}/x", "https://api.example/x"),
            ("${HOST}${HOST}", "api.exampleapi.example"),
            ("${NONE:-fallback}", "fallback"),
            ("${EMPTY:-fallback}", "fallback"),
            ("${EMPTY}", ""),
            ("${NONE:-}", ""),
            ("${NONE:-a:-b}", "a:-b"),
            ("$${HOST}", "${HOST}"),
            ("$$", "$"),
            ("a$b", "a$b"),
            ("a$", "a$"),
            ("${LINE}", "value"),
        ];
        for (text, expected) in table {
            assert_eq!(interpolate(text, &env()).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn an_unset_variable_is_named() {
        assert_eq!(interpolate("${NONE}", &env()), Err(EnvError::Unset("NONE".to_owned())));
    }

    #[test]
    fn an_invalid_reference_is_refused() {
        for text in ["${", "${HOST", "x${}", "${1A}", "${A B}", "${A-b}", "${:-x}"] {
            assert!(interpolate(text, &env()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_value_is_not_interpolated_again() {
        let env: Env = [("A", "${B}"), ("B", "secret")].into_iter().collect();
        assert_eq!(interpolate("${A}", &env).as_deref(), Ok("${B}"));
    }

    #[test]
    fn values_are_never_printed() {
        assert_eq!(format!("{:?}", env()), "Env(4)");
    }

    proptest! {
        #[test]
        fn text_without_a_dollar_is_unchanged(text in "[^$]*") {
            let env = Env::default();
            let read = interpolate(&text, &env);
            prop_assert_eq!(read.as_deref(), Ok(text.as_str()));
        }

        #[test]
        fn a_dollar_can_always_be_escaped(text in any::<String>()) {
            let escaped = text.replace('$', "$$");
            let env = Env::default();
            let read = interpolate(&escaped, &env);
            prop_assert_eq!(read.as_deref(), Ok(text.as_str()));
        }
    }
}
