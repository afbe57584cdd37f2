//! What an operator sees and purges of the store.
//!
//! Owns: from an operator's words to the engine's and back. Never touches: HTTP, the store itself.

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

/// What stands in place of a value that may be secret.
const HIDDEN_VALUE: HeaderValue = HeaderValue::from_static(HIDDEN);

/// What tells which resource an operator means.
#[derive(Clone, Copy)]
pub(super) struct ResourceContext<'h> {
    pub(super) engine: &'h Engine,
    pub(super) routes: &'h Table,
    pub(super) mounts: &'h Mounts,
    /// Where clients connect.
    pub(super) listen: &'h [SocketAddr],
}

/// The resources that a URL names.
struct Resource {
    reach: BTreeSet<PurgeScope>,
    /// [`PurgeResult::sent_as`].
    sent_as: Option<String>,
}

/// Purges, or only counts.
pub(super) async fn purge(
    seen: ResourceContext<'_>,
    purge: &Purge,
) -> Result<PurgeResult, PurgeError> {
    let engine = seen.engine;
    let one = |reach| Resource { reach: BTreeSet::from([reach]), sent_as: None };
    let Resource { reach, sent_as } = match &purge.what {
        PurgeTarget::All => one(PurgeScope::All),
        PurgeTarget::Key(target) => one(PurgeScope::Target(*target)),
        PurgeTarget::Url(url) => seen.resource(url),
    };
    // Before: afterwards nothing of it can be seen.
    let count = engine.count(&reach).await;
    if !purge.dry_run {
        let kind = if purge.soft { PurgeKind::Soft } else { PurgeKind::Hard };
        engine.purge(&reach, kind).await.map_err(|why| PurgeError { why })?;
        tracing::info!(count, soft = purge.soft, all = purge.what == PurgeTarget::All, "Purged");
    }
    Ok(PurgeResult { count, sent_as })
}

/// A page of what is stored.
pub(super) async fn entries(seen: ResourceContext<'_>, asked: &ListQuery) -> Page {
    let ResourceContext { engine, routes, .. } = seen;
    let mut after = asked.after.as_deref().and_then(EntryId::parse);
    let (mut targets, sent_as) = match &asked.url {
        None => (vec![asked.key], None),
        Some(url) => {
            let resource = seen.resource(url);
            (resource.targets(), resource.sent_as)
        }
    };
    // A cursor stands in one of the targets; those before it have been shown.
    targets.retain(|target| match (target, after) {
        (Some(target), Some(after)) => *target >= after.target,
        (Some(_) | None, _) => true,
    });
    let mut listed: Vec<EntryInfo> = Vec::new();
    // One more than asked for tells whether there is a next page.
    for target in targets {
        let wanted = (asked.limit + 1).saturating_sub(listed.len());
        listed.extend(engine.list(after.take(), wanted, target).await);
    }
    let more = listed.len() > asked.limit;
    listed.truncate(asked.limit);
    let next = listed.last().filter(|_| more).map(|last| last.place.to_string());
    let entries = listed.iter().map(|one| entry(engine, routes, one, asked.details)).collect();
    Page { entries, next, sent_as }
}

impl ResourceContext<'_> {
    /// What a URL means: where a mount leads, where an upstream moves it. A name in `mount.allow_hosts` may
    /// also be that of another server, whose answers are stored under the URL itself: both are meant.
    fn resource(self, url: &Target) -> Resource {
        let mounted = self.mounts.stands_for(url, self.listen);
        let known = self.engine.known_as(mounted.as_ref().unwrap_or(url));
        let mut reach = self.reach(&known);
        if mounted.is_some() {
            reach.extend(self.reach(&self.engine.known_as(url)));
        }
        let moved = known != *url;
        let sent_as = moved.then(|| self.engine.redactor().text(&known.to_string()).into_owned());
        Resource { reach, sent_as }
    }

    fn reach(self, known: &Target) -> BTreeSet<PurgeScope> {
        self.engine.reach(known)
    }
}

impl Resource {
    fn targets(&self) -> Vec<Option<u128>> {
        let id = |reach: &PurgeScope| match reach {
            PurgeScope::Target(target) => Some(*target),
            PurgeScope::All => None,
        };
        self.reach.iter().filter_map(id).map(Some).collect()
    }
}

fn entry(engine: &Engine, routes: &Table, listed: &EntryInfo, details: bool) -> Entry {
    let named = DecodedKey::read(&listed.canonical);
    let scope = named.as_ref().map_or("unknown", |named| named.scope);
    let kind = match scope {
        "credential" | "named" => CacheKind::Private,
        _ => CacheKind::Shared,
    };
    let route = named.as_ref().and_then(|named| route(routes, named));
    let stored = &listed.stored;
    let tiers = [("memory", listed.in_memory), ("disk", listed.on_disk)];
    Entry {
        key: listed.place.target,
        url: named.map_or_else(|| "(unreadable)".to_owned(), |named| named.url),
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

/// The route that a plain `GET` of it would take: one that other fields choose cannot be told.
fn route<'r>(routes: &'r Table, named: &DecodedKey) -> Option<&'r Route> {
    let target = Target::absolute(&named.url).ok()?;
    routes.find(&ProxyRequest { listener: named.listener, ..ProxyRequest::get(target) })
}

/// Values that may be secret are named, not shown.
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

/// A value without the secrets of the URLs in it (`Location`, `VerifiedConnection`, `Refresh`); `None`: it has none.
fn without_secrets(engine: &Engine, value: &HeaderValue) -> Option<HeaderValue> {
    let text = String::from_utf8_lossy(value.as_bytes());
    match engine.redactor().text(&text) {
        Cow::Borrowed(_) => None,
        Cow::Owned(safe) => Some(HeaderValue::try_from(safe).unwrap_or(HIDDEN_VALUE)),
    }
}
