//! `scope_secret`: a secret that several larder instances share, so that they build the same cache keys.
//!
//! Owns: its source and minimum length. Never touches: cache keys; the secret is never printed.

use sha2::{Digest, Sha256};

use crate::config::ScopeSecret;
use crate::config::diagnostics::ValueError;
use crate::config::reader::{Reader, Section};

/// The minimum length: a shorter secret could be guessed.
const SHORTEST: usize = 16;

/// `scope_secret`.
pub(super) fn scope_secret(top: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<ScopeSecret> {
    let mut section = top.section(reader, "scope_secret")?;
    let fix = "write `from_env: LARDER_SCOPE_SECRET`, or remove the key: larder then generates its own";
    let name = section.required(reader, "from_env", variable, fix);
    section.finish(reader);
    let name = name?;
    let value = reader.variable(&name)?;
    if value.len() < SHORTEST {
        let what = format!("the environment variable {} contains a secret that is too short", name.value);
        let fix = format!("give at least {SHORTEST} characters: for example from `openssl rand -hex 32`");
        reader.problem(name.place, &name.path, what, fix);
        return None;
    }
    Some(ScopeSecret(Sha256::digest(value.as_bytes()).into()))
}

/// The name of an environment variable.
pub(super) fn variable(text: &str) -> Result<String, ValueError> {
    let valid_characters = text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let is_name = valid_characters && !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit());
    let wanted = "the name of an environment variable";
    if is_name { Ok(text.to_owned()) } else { Err(ValueError::is_not(wanted)) }
}
