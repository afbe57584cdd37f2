//! A stored answer as `/v1/entries` tells of it, and how people read it.
//!
//! Owns: its words: ages, what is left of freshness, sizes. Never touches: what is stored.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::cli::ExitStatus;
use crate::cli::admin_client::{AdminClient, AdminClientError, harmless};
use crate::config::{duration, size};
use crate::semantics::redaction::{HIDDEN, Redactor};
use crate::semantics::target::Target;

/// One stored answer.
#[derive(Debug, Deserialize)]
pub(in crate::cli) struct Entry {
    pub(in crate::cli) url: String,
    /// The argument of `purge --key`.
    #[serde(default)]
    pub(in crate::cli) key: String,
    pub(in crate::cli) scope: String,
    pub(in crate::cli) route: Option<String>,
    pub(in crate::cli) status: u16,
    pub(in crate::cli) stored: String,
    age: u64,
    ttl: Option<i64>,
    bytes: u64,
    pub(in crate::cli) vary: Vec<String>,
    pub(in crate::cli) tiers: Vec<String>,
    #[serde(default)]
    pub(in crate::cli) headers: BTreeMap<String, Vec<String>>,
}

impl Entry {
    /// All of an answer's `entries`.
    pub(in crate::cli) fn all(answer: &Value) -> Vec<Self> {
        let entries = answer["entries"].as_array().into_iter().flatten();
        entries.filter_map(|entry| Self::deserialize(entry).ok()).collect()
    }

    /// `1m 30s`
    pub(in crate::cli) fn age(&self) -> String {
        duration::show(Duration::from_secs(self.age))
    }

    /// `28m`, or how long it has been stale.
    pub(in crate::cli) fn ttl(&self) -> String {
        match self.ttl {
            None => "no route".to_owned(),
            Some(0) => "stale".to_owned(),
            Some(ttl) => {
                let shown = duration::show(Duration::from_secs(ttl.unsigned_abs()));
                if ttl < 0 { format!("stale {shown}") } else { shown }
            }
        }
    }

    /// `12KiB`
    pub(in crate::cli) fn size(&self) -> String {
        size::show(self.bytes)
    }
}

/// Which entries are asked for.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) enum Which<'a> {
    /// All that are stored.
    All,
    /// Those of this URL.
    Url(&'a str),
    /// Those of the URL of an entry with this `key`.
    Key(&'a str),
}

impl Which<'_> {
    fn query(self) -> Result<String, AdminClientError> {
        Ok(match self {
            Self::All => String::new(),
            Self::Url(url) => format!("&url={}", encoded(&checked(url)?.to_string())),
            Self::Key(key) => format!("&key={}", checked_key(key)?),
        })
    }
}

/// Up to `limit` entries in as many pages as it takes.
pub(in crate::cli) fn fetch(
    larder: &AdminClient,
    which: Which<'_>,
    limit: usize,
    details: bool,
) -> Result<Value, AdminClientError> {
    let details = if details { "&details=true" } else { "" };
    let query = format!("{details}{}", which.query()?);
    let mut entries = Vec::new();
    let mut next = Value::Null;
    loop {
        let left = (limit - entries.len()).min(PAGE);
        let cursor = next.as_str().map(|next| format!("&cursor={}", encoded(next)));
        let cursor = cursor.unwrap_or_default();
        let mut page = larder.get(&format!("/v1/entries?limit={left}{query}{cursor}"))?;
        next = page["next"].take();
        let before = entries.len();
        if let Value::Array(mut page) = page["entries"].take() {
            entries.append(&mut page);
        }
        // A page without entries leads nowhere, whatever it says.
        let last = next.is_null() || entries.len() == before;
        if last || entries.len() >= limit {
            let mut all = serde_json::json!({ "entries": entries, "next": next });
            if page["sent_as"].is_string() {
                all["sent_as"] = page["sent_as"].take();
            }
            return Ok(all);
        }
    }
}

/// A URL that larder can have stored.
pub(in crate::cli) fn checked(url: &str) -> Result<Target, AdminClientError> {
    if url.contains(HIDDEN) {
        let said = format!(
            "`{url}` is a URL as larder shows it, without its secret: give the URL itself, or the key that \
             `larder ls --json` shows to `--key` of `larder inspect` and `larder purge`"
        );
        return Err(AdminClientError::new(ExitStatus::Usage, said));
    }
    Target::absolute(url).map_err(|error| {
        let url = shown(url);
        let said = format!("`{url}` is not a URL such as http://api.example/path: {error}");
        AdminClientError::new(ExitStatus::Usage, said)
    })
}

/// A `key` as larder shows it.
pub(in crate::cli) fn checked_key(key: &str) -> Result<&str, AdminClientError> {
    if key.len() == 32 && key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(key);
    }
    // What was meant may be a URL, and hold a secret.
    let said = "a key is 32 hexadecimal digits, as `larder ls --json` shows it";
    Err(AdminClientError::new(ExitStatus::Usage, said))
}

/// Says of a URL by which other one larder knows the resource, if so.
pub(in crate::cli) fn sent_as(url: &str, answer: &Value) -> Option<String> {
    let sent_as = answer["sent_as"].as_str()?;
    Some(format!("{} is sent as {}", shown(url), harmless(sent_as)))
}

/// A URL that was typed, without its secrets.
pub(in crate::cli) fn shown(url: &str) -> String {
    Redactor::default().text(url).into_owned()
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Entries of one answer of larder's.
const PAGE: usize = 1000;
