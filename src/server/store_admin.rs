//! Operator requests to the store: list and purge.
//!
//! Owns: translating between operator requests and the engine. Never touches: HTTP, the store itself.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::SocketAddr;

use http::header::{HeaderMap, HeaderValue, SET_COOKIE};

use crate::admin::api::{Entry, ListQuery, Page, Purge, PurgeError, PurgeResult, PurgeTarget};
use crate::engine::Engine;
use crate::frontend::mount::Mounts;
use crate::key::decode::DecodedKey;
use crate::route::table::{Route, Table};
use crate::semantics::redaction::HIDDEN;
use crate::semantics::request::ProxyRequest;
use crate::semantics::storability::CacheKind;
use crate::semantics::target::Target;
use crate::store::generations::{PurgeKind, PurgeScope};
use crate::store::{EntryId, EntryInfo};

/// Replaces a value that may be secret.
const HIDDEN_VALUE: HeaderValue = HeaderValue::from_static(HIDDEN);

/// The objects that resolve which resource an operator means.
#[derive(Clone, Copy)]
pub(super) struct ResourceContext<'h> {
    pub(super) engine: &'h Engine,
    pub(super) routes: &'h Table,
    pub(super) mounts: &'h Mounts,
    /// The addresses to which clients connect.
    pub(super) listen: &'h [SocketAddr],
}

/// The resources that a URL identifies.
struct Resource {
    scopes: BTreeSet<PurgeScope>,
    /// [`PurgeResult::sent_as`].
    sent_as: Option<String>,
}

/// Purges, or only counts for a dry run.
pub(super) async fn purge(
    context: ResourceContext<'_>,
    purge: &Purge,
) -> Result<PurgeResult, PurgeError> {
    let engine = context.engine;
    let single = |scope| Resource { scopes: BTreeSet::from([scope]), sent_as: None };
    let Resource { scopes, sent_as } = match &purge.target {
        PurgeTarget::All => single(PurgeScope::All),
        PurgeTarget::Key(target) => single(PurgeScope::Target(*target)),
        PurgeTarget::Url(url) => context.resource(url),
    };
    // Counted first, because the entries are gone after the purge.
    let count = engine.count(&scopes).await;
    if !purge.dry_run {
        let kind = if purge.soft { PurgeKind::Soft } else { PurgeKind::Hard };
        engine.purge(&scopes, kind).await.map_err(|reason| PurgeError { reason })?;
        tracing::info!(count, soft = purge.soft, all = purge.target == PurgeTarget::All, "Purged");
    }
    Ok(PurgeResult { count, sent_as })
}

/// A page of the stored responses.
pub(super) async fn entries(context: ResourceContext<'_>, query: &ListQuery) -> Page {
    let ResourceContext { engine, routes, .. } = context;
    let mut after = query.after.as_deref().and_then(EntryId::parse);
    let (mut targets, sent_as) = match &query.url {
        None => (vec![query.key], None),
        Some(url) => {
            let resource = context.resource(url);
            (resource.targets(), resource.sent_as)
        }
    };
    // The cursor points into one of the targets; the targets before it are already listed.
    targets.retain(|target| match (target, after) {
        (Some(target), Some(after)) => *target >= after.target,
        (Some(_) | None, _) => true,
    });
    let mut listed: Vec<EntryInfo> = Vec::new();
    // One entry more than requested shows whether there is a next page.
    for target in targets {
        let wanted = (query.limit + 1).saturating_sub(listed.len());
        listed.extend(engine.list(after.take(), wanted, target).await);
    }
    let more = listed.len() > query.limit;
    listed.truncate(query.limit);
    let next = listed.last().filter(|_| more).map(|last| last.id.to_string());
    let entries = listed.iter().map(|one| entry(engine, routes, one, query.details)).collect();
    Page { entries, next, sent_as }
}

impl ResourceContext<'_> {
    /// Resolves a URL: follows the mount and the upstream's rewrite. A name in `mount.allow_hosts` may
    /// also belong to another server, whose responses are stored under the URL itself, so both are
    /// included.
    fn resource(self, url: &Target) -> Resource {
        let mounted = self.mounts.resolve_url(url, self.listen);
        let effective = self.engine.effective_target(mounted.as_ref().unwrap_or(url));
        let mut scopes = self.purge_scopes(&effective);
        if mounted.is_some() {
            scopes.extend(self.purge_scopes(&self.engine.effective_target(url)));
        }
        let moved = effective != *url;
        let sent_as =
            moved.then(|| self.engine.redactor().text(&effective.to_string()).into_owned());
        Resource { scopes, sent_as }
    }

    fn purge_scopes(self, effective: &Target) -> BTreeSet<PurgeScope> {
        self.engine.purge_scopes(effective)
    }
}

impl Resource {
    fn targets(&self) -> Vec<Option<u128>> {
        let id = |scope: &PurgeScope| match scope {
            PurgeScope::Target(target) => Some(*target),
            PurgeScope::All => None,
        };
        self.scopes.iter().filter_map(id).map(Some).collect()
    }
}

fn entry(engine: &Engine, routes: &Table, listed: &EntryInfo, details: bool) -> Entry {
    let decoded = DecodedKey::read(&listed.canonical);
    let scope = decoded.as_ref().map_or("unknown", |decoded| decoded.scope);
    let kind = match scope {
        "credential" | "named" => CacheKind::Private,
        _ => CacheKind::Shared,
    };
    let route = decoded.as_ref().and_then(|decoded| route(routes, decoded));
    let stored = &listed.stored;
    let tiers = [("memory", listed.in_memory), ("disk", listed.on_disk)];
    Entry {
        key: listed.id.target,
        url: decoded.map_or_else(|| "(unreadable)".to_owned(), |decoded| decoded.url),
        scope,
        route: route.map(|route| route.name.to_string()),
        status: stored.status.as_u16(),
        stored: stored.response_time,
        age: stored.age(engine.now()),
        ttl: route.map(|route| engine.ttl(listed, kind, &route.policy)),
        bytes: listed.body,
        vary: stored.vary.names().iter().map(ToString::to_string).collect(),
        tiers: tiers.iter().filter(|(_, here)| *here).map(|(tier, _)| *tier).collect(),
        headers: details.then(|| shown(engine, &stored.all_headers())),
    }
}

/// The route for a plain `GET` of the entry; routes that match on other fields cannot be determined.
fn route<'r>(routes: &'r Table, decoded: &DecodedKey) -> Option<&'r Route> {
    let target = Target::absolute(&decoded.url).ok()?;
    routes.find(&ProxyRequest { listener: decoded.listener, ..ProxyRequest::get(target) })
}

/// Replaces values that may be secret.
fn shown(engine: &Engine, headers: &HeaderMap) -> HeaderMap {
    let mut shown = headers.clone();
    for (name, value) in &mut shown {
        if *name == SET_COOKIE || engine.is_credential(name) {
            *value = HIDDEN_VALUE;
        } else if let Some(safe) = without_secrets(engine, value) {
            *value = safe;
        }
    }
    shown
}

/// The value without the secrets in its URLs (`Location`, `Link`, `Refresh`); `None`: it contains none.
fn without_secrets(engine: &Engine, value: &HeaderValue) -> Option<HeaderValue> {
    let text = String::from_utf8_lossy(value.as_bytes());
    match engine.redactor().text(&text) {
        Cow::Borrowed(_) => None,
        Cow::Owned(safe) => Some(HeaderValue::try_from(safe).unwrap_or(HIDDEN_VALUE)),
    }
}
