//! `scope_secret`: a secret that several larders share, so that they make the same keys.
//!
//! Owns: where it comes from and how long it must be. Never touches: keys; it is never printed.

use sha2::{Digest, Sha256};

use crate::config::ScopeSecret;
use crate::config::diagnostics::ValueError;
use crate::config::reader::{Reader, Section};

/// Fewer characters could be guessed.
const SHORTEST: usize = 16;

/// `scope_secret`.
pub(super) fn scope_secret(top: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<ScopeSecret> {
    let mut section = top.section(reader, "scope_secret")?;
    let known = reader.problems.len();
    let name = section.scalar(reader, "from_env", variable);
    if name.is_none() && reader.problems.len() == known {
        let fix = "write `from_env: LARDER_SCOPE_SECRET`, or remove the key: larder makes its own";
        reader.problem(section.place, &section.at("from_env"), "is missing", fix);
    }
    section.finish(reader);
    let name = name?;
    let Some(value) = reader.variable(&name.value) else {
        let what = format!("the environment variable {} is not set", name.value);
        reader.problem(name.place, &name.path, what, "set it before larder starts");
        return None;
    };
    if value.len() < SHORTEST {
        let what = format!("the environment variable {} holds too short a secret", name.value);
        let fix = format!("give at least {SHORTEST} characters: `openssl rand -hex 32` makes some");
        reader.problem(name.place, &name.path, what, fix);
        return None;
    }
    Some(ScopeSecret(Sha256::digest(value.as_bytes()).into()))
}

/// The name of an environment variable.
pub(super) fn variable(text: &str) -> Result<String, ValueError> {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let named = plain && !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit());
    let wanted = "the name of an environment variable";
    if named { Ok(text.to_owned()) } else { Err(ValueError::is_not(wanted)) }
}
