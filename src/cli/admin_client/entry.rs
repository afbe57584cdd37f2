//! A stored response as `/v1/entries` lists it, and its text form.
//!
//! Owns: the texts for age, remaining freshness and size. Never touches: the store.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::cli::ExitStatus;
use crate::cli::admin_client::{AdminClient, AdminClientError, list, sanitize};
use crate::config::{duration, size};
use crate::semantics::redaction::{HIDDEN, Redactor};
use crate::semantics::target::Target;

/// One stored response.
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
    /// All `entries` of a response of the admin API.
    pub(in crate::cli) fn parse_all(response: &Value) -> Vec<Self> {
        list(response, "entries")
    }

    /// `1m 30s`
    pub(in crate::cli) fn age(&self) -> String {
        duration::show(Duration::from_secs(self.age))
    }

    /// The remaining freshness, `28m`, or the time since it became stale.
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

/// Which entries are requested.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) enum EntryFilter<'a> {
    /// All stored entries.
    All,
    /// The entries of this URL.
    Url(&'a str),
    /// The entries of the URL of the entry with this `key`.
    Key(&'a str),
}

impl EntryFilter<'_> {
    fn query(self) -> Result<String, AdminClientError> {
        Ok(match self {
            Self::All => String::new(),
            Self::Url(url) => format!("&url={}", percent_encoded(&parse_url(url)?.to_string())),
            Self::Key(key) => format!("&key={}", validate_key(key)?),
        })
    }
}

/// Fetches up to `limit` entries, in as many pages as needed.
pub(in crate::cli) fn fetch(
    larder: &AdminClient,
    which: EntryFilter<'_>,
    limit: usize,
    details: bool,
) -> Result<Value, AdminClientError> {
    let details = if details { "&details=true" } else { "" };
    let query = format!("{details}{}", which.query()?);
    let mut entries = Vec::new();
    let mut next = Value::Null;
    loop {
        let left = (limit - entries.len()).min(PAGE_SIZE);
        let cursor = next.as_str().map(|next| format!("&cursor={}", percent_encoded(next)));
        let cursor = cursor.unwrap_or_default();
        let mut page = larder.get(&format!("/v1/entries?limit={left}{query}{cursor}"))?;
        next = page["next"].take();
        let before = entries.len();
        if let Value::Array(mut page) = page["entries"].take() {
            entries.append(&mut page);
        }
        // A page without entries ends the loop, even if it has a cursor.
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

/// Parses a URL that can be a stored one.
pub(in crate::cli) fn parse_url(url: &str) -> Result<Target, AdminClientError> {
    if url.contains(HIDDEN) {
        let message = format!(
            "`{url}` is a URL with a masked secret: pass the full URL, or pass the key from `larder ls --json` \
             with `--key` to `larder inspect` or `larder purge`"
        );
        return Err(AdminClientError::new(ExitStatus::Usage, message));
    }
    Target::absolute(url).map_err(|error| {
        let url = redacted_url(url);
        let message = format!("`{url}` is not a URL such as http://api.example/path: {error}");
        AdminClientError::new(ExitStatus::Usage, message)
    })
}

/// Checks the form of a `key`.
pub(in crate::cli) fn validate_key(key: &str) -> Result<&str, AdminClientError> {
    if key.len() == 32 && key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(key);
    }
    // The message omits the argument: it may be a URL that contains a secret.
    let message = "a key is 32 hexadecimal digits, as `larder ls --json` shows it";
    Err(AdminClientError::new(ExitStatus::Usage, message))
}

/// A line with the URL under which larder stores the resource, if it differs from `url`.
pub(in crate::cli) fn sent_as(url: &str, response: &Value) -> Option<String> {
    let sent_as = response["sent_as"].as_str()?;
    Some(format!("{} is sent as {}", redacted_url(url), sanitize(sent_as)))
}

/// A URL from the command line, with its secrets masked.
pub(in crate::cli) fn redacted_url(url: &str) -> String {
    Redactor::default().text(url).into_owned()
}

fn percent_encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// The number of entries in one page of the admin API.
const PAGE_SIZE: usize = 1000;
