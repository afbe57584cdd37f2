//! `/v1/entries`: what is stored, page by page.
//!
//! Owns: the parameters and the JSON of a page. Never touches: the store; masking, which was done.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::admin::api::{Entry, ListQuery};
use crate::admin::{AppState, response, v1};
use crate::semantics::target::Target;
use crate::telemetry::problem::Problem;

/// What is misspelt is refused: `?ulr=…` must not list everything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::admin) struct ListParams {
    cursor: Option<String>,
    #[serde(default = "usual")]
    limit: usize,
    url: Option<String>,
    key: Option<String>,
    #[serde(default)]
    details: bool,
}

fn usual() -> usize {
    USUAL
}

/// `GET /v1/entries`
pub(in crate::admin) async fn list(
    State(desk): State<AppState>,
    asked: Result<Query<ListParams>, QueryRejection>,
) -> Response {
    let Ok(Query(asked)) = asked else { return response::refuse(&WANTED) };
    if asked.limit == 0 || asked.limit > MOST {
        return response::refuse(&WANTED);
    }
    let Ok(url) = asked.url.as_deref().map(Target::absolute).transpose() else {
        return response::refuse(&WANTED);
    };
    let key = asked.key.as_deref().map(v1::key);
    if key == Some(None) || (key.is_some() && url.is_some()) {
        return response::refuse(&WANTED);
    }
    let ListParams { cursor: after, limit, details, .. } = asked;
    let listing = ListQuery { after, limit, url, key: key.flatten(), details };
    let page = desk.controls.entries(&listing).await;
    let entries: Vec<_> = page.entries.iter().map(shown).collect();
    let mut told = json!({ "entries": entries, "next": page.next });
    if let Some(sent_as) = page.sent_as {
        told["sent_as"] = sent_as.into();
    }
    response::json(StatusCode::OK, &told)
}

fn shown(entry: &Entry) -> Value {
    let mut value = json!({
        "url": entry.url,
        "key": format!("{:032x}", entry.key),
        "scope": entry.scope,
        "route": entry.route,
        "status": entry.status,
        "stored": timestamp(entry.stored),
        "age": entry.age.as_secs(),
        "ttl": entry.ttl,
        "bytes": entry.bytes,
        "vary": entry.vary,
        "tiers": entry.tiers,
    });
    if let Some(headers) = &entry.headers {
        value["headers"] = fields(headers);
    }
    value
}

/// RFC 3339, for what it can say: the years 1970 to 9999.
pub(super) fn timestamp(time: SystemTime) -> String {
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_millis(time.clamp(UNIX_EPOCH, last)).to_string()
}

/// Each name with all its values, in their order.
fn fields(headers: &HeaderMap) -> Value {
    let mut all = Map::new();
    for name in headers.keys() {
        let values = headers.get_all(name).iter();
        let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        all.insert(name.as_str().to_owned(), values.collect::<Vec<_>>().into());
    }
    all.into()
}

/// How many where nothing is said.
const USUAL: usize = 100;
/// A page is built in memory.
const MOST: usize = 1000;

const WANTED: Problem = Problem::new(
    StatusCode::BAD_REQUEST,
    "bad_request",
    "parameters are limit (1 to 1000), cursor (`next` of the page before), url (one whole URL, \
     percent-encoded) or key (of an entry), and details=true",
    "http_request_error",
);
