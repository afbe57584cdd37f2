//! `/v1/entries`: the stored entries in pages.
//!
//! Owns: the parameters and the JSON of a page. Never touches: the store; masking, which is done before.

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

/// Query parameters. Unknown names are refused: `?ulr=…` must not list all entries.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::admin) struct ListParams {
    cursor: Option<String>,
    #[serde(default = "default_limit")]
    limit: usize,
    url: Option<String>,
    key: Option<String>,
    #[serde(default)]
    details: bool,
}

/// Number of entries if the request has no `limit`.
fn default_limit() -> usize {
    100
}

/// `GET /v1/entries`
pub(in crate::admin) async fn list(
    State(state): State<AppState>,
    query: Result<Query<ListParams>, QueryRejection>,
) -> Response {
    let Ok(Query(params)) = query else { return response::refuse(&BAD_REQUEST) };
    if params.limit == 0 || params.limit > MAX_LIMIT {
        return response::refuse(&BAD_REQUEST);
    }
    let Ok(url) = params.url.as_deref().map(Target::absolute).transpose() else {
        return response::refuse(&BAD_REQUEST);
    };
    let key = params.key.as_deref().map(v1::parse_key);
    if key == Some(None) || (key.is_some() && url.is_some()) {
        return response::refuse(&BAD_REQUEST);
    }
    let ListParams { cursor: after, limit, details, .. } = params;
    let query = ListQuery { after, limit, url, key: key.flatten(), details };
    let page = state.api.entries(&query).await;
    let entries: Vec<_> = page.entries.iter().map(entry_json).collect();
    let mut body = json!({ "entries": entries, "next": page.next });
    if let Some(sent_as) = page.sent_as {
        body["sent_as"] = sent_as.into();
    }
    response::json(StatusCode::OK, &body)
}

fn entry_json(entry: &Entry) -> Value {
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

/// RFC 3339; times are limited to the years 1970 to 9999, which it can represent.
pub(super) fn timestamp(time: SystemTime) -> String {
    let last = UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    humantime::format_rfc3339_millis(time.clamp(UNIX_EPOCH, last)).to_string()
}

/// Each field name with all its values in order.
fn fields(headers: &HeaderMap) -> Value {
    let mut object = Map::new();
    for name in headers.keys() {
        let values = headers.get_all(name).iter();
        let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        object.insert(name.as_str().to_owned(), values.collect::<Vec<_>>().into());
    }
    object.into()
}

/// Maximum of `limit`: a page is built in memory.
const MAX_LIMIT: usize = 1000;

const BAD_REQUEST: Problem = v1::bad_request(
    "the parameters are limit (1 to 1000), cursor (`next` of the previous page), url (one whole URL, \
     percent-encoded) or key (of an entry), and details=true",
);
