//! The stored responses, as an operator lists and purges them.
//!
//! Owns: the resources that a URL means to an operator; hiding what may be secret in a listing. Never
//! touches: HTTP; how an invalidation becomes durable (`engine::purger`).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderValue, SET_COOKIE};

use crate::admin::api::{Entry, ListQuery, Page, Purge, PurgeError, PurgeResult, PurgeTarget};
use crate::decide;
use crate::key::decode::DecodedKey;
use crate::route::table::Route;
use crate::semantics::redaction::HIDDEN;
use crate::semantics::request::ProxyRequest;
use crate::semantics::storability::CacheKind;
use crate::semantics::target::Target;
use crate::server::pipeline::Pipeline;
use crate::server::shared::SharedState;
use crate::store::generations::{PurgeKind, PurgeScope};
use crate::store::{EntryId, EntryInfo, Store};

/// Replaces a value that may be secret.
const HIDDEN_VALUE: HeaderValue = HeaderValue::from_static(HIDDEN);

/// Number of entries counted per page.
const COUNT_PAGE: usize = 1000;

/// The stored responses under one pipeline.
pub(super) struct StoredEntries<'a> {
    pub(super) shared: &'a SharedState,
    pub(super) pipeline: Arc<Pipeline>,
}

/// The resources that a URL identifies.
struct Resource {
    scopes: BTreeSet<PurgeScope>,
    /// [`PurgeResult::sent_as`].
    sent_as: Option<String>,
}

impl StoredEntries<'_> {
    /// Purges, or only counts for a dry run.
    pub(super) async fn purge(&self, purge: &Purge) -> Result<PurgeResult, PurgeError> {
        let single = |scope| Resource { scopes: BTreeSet::from([scope]), sent_as: None };
        let Resource { scopes, sent_as } = match &purge.target {
            PurgeTarget::All => single(PurgeScope::All),
            PurgeTarget::Key(target) => single(PurgeScope::Target(*target)),
            PurgeTarget::Url(url) => self.resource(url),
        };
        // Counted first, because the entries are gone after the purge.
        let count = self.count(&scopes).await;
        if !purge.dry_run {
            let kind = if purge.soft { PurgeKind::Soft } else { PurgeKind::Hard };
            let purged = self.pipeline.engine.purger.purge(&scopes, kind).await;
            purged.map_err(|reason| PurgeError { reason })?;
            let all = purge.target == PurgeTarget::All;
            tracing::info!(count, soft = purge.soft, all, "Purged");
        }
        Ok(PurgeResult { count, sent_as })
    }

    /// A page of the stored responses.
    pub(super) async fn page(&self, query: &ListQuery) -> Page {
        let mut after = query.after.as_deref().and_then(EntryId::parse);
        let (mut targets, sent_as) = match &query.url {
            None => (vec![query.key], None),
            Some(url) => {
                let Resource { scopes, sent_as } = self.resource(url);
                (scopes.into_iter().map(target_of).collect(), sent_as)
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
            listed.extend(self.shared.store.list(after.take(), wanted, target).await);
        }
        let more = listed.len() > query.limit;
        listed.truncate(query.limit);
        let next = listed.last().filter(|_| more).map(|last| last.id.to_string());
        let entries = listed.iter().map(|one| self.entry(one, query.details)).collect();
        Page { entries, next, sent_as }
    }

    /// Resolves a URL: follows the mount and the upstream's rewrite. A name in `mount.allow_hosts` may also
    /// belong to another server, whose responses are stored under the URL itself, so both are included.
    fn resource(&self, url: &Target) -> Resource {
        let purger = &self.pipeline.engine.purger;
        let mounted = self.pipeline.frontend.mounts.resolve_url(url, &self.shared.listen);
        let effective = purger.effective_target(mounted.as_ref().unwrap_or(url));
        let mut scopes = purger.purge_scopes(&effective);
        if mounted.is_some() {
            scopes.extend(purger.purge_scopes(&purger.effective_target(url)));
        }
        let moved = effective != *url;
        let redactor = self.pipeline.key_builder.redactor();
        let sent_as = moved.then(|| redactor.text(&effective.to_string()).into_owned());
        Resource { scopes, sent_as }
    }

    /// Number of stored responses in `scopes`.
    async fn count(&self, scopes: &BTreeSet<PurgeScope>) -> u64 {
        let mut count = 0;
        for scope in scopes {
            let mut after = None;
            loop {
                let page = self.shared.store.list(after, COUNT_PAGE, target_of(*scope)).await;
                count += page.len() as u64;
                match page.last() {
                    Some(last) if page.len() == COUNT_PAGE => after = Some(last.id),
                    Some(_) | None => break,
                }
            }
        }
        count
    }

    fn entry(&self, listed: &EntryInfo, details: bool) -> Entry {
        let decoded = DecodedKey::read(&listed.canonical);
        let scope = decoded.as_ref().map_or("unknown", |decoded| decoded.scope);
        let kind = match scope {
            "credential" | "named" => CacheKind::Private,
            _ => CacheKind::Shared,
        };
        let route = decoded.as_ref().and_then(|decoded| self.route(decoded));
        let (stored, now) = (&listed.stored, self.shared.clock.now());
        let tiers = [("memory", listed.in_memory), ("disk", listed.on_disk)];
        Entry {
            key: listed.id.target,
            url: decoded.map_or_else(|| "(unreadable)".to_owned(), |decoded| decoded.url),
            scope,
            route: route.map(|route| route.name.to_string()),
            status: stored.status.as_u16(),
            stored: stored.response_time,
            age: stored.age(now),
            ttl: route.map(|route| decide::ttl(&route.policy, kind, stored, now)),
            bytes: listed.body,
            vary: stored.vary.names().iter().map(ToString::to_string).collect(),
            tiers: tiers.iter().filter(|(_, here)| *here).map(|(tier, _)| *tier).collect(),
            headers: details.then(|| self.without_secrets(stored.all_headers())),
        }
    }

    /// The route for a plain `GET` of the entry; routes that match on other fields cannot be determined.
    fn route(&self, decoded: &DecodedKey) -> Option<&Arc<Route>> {
        let request = ProxyRequest {
            listener: decoded.listener,
            ..ProxyRequest::get(Target::absolute(&decoded.url).ok()?)
        };
        self.pipeline.config.routes.find(&request)
    }

    /// Replaces values that may be secret, and the secrets in URLs (`Location`, `Link`, `Refresh`).
    fn without_secrets(&self, mut headers: HeaderMap) -> HeaderMap {
        let key_builder = &self.pipeline.key_builder;
        for (name, value) in &mut headers {
            if *name == SET_COOKIE || key_builder.is_credential(name) {
                *value = HIDDEN_VALUE;
            } else if let Cow::Owned(safe) =
                key_builder.redactor().text(&String::from_utf8_lossy(value.as_bytes()))
            {
                *value = HeaderValue::try_from(safe).unwrap_or(HIDDEN_VALUE);
            }
        }
        headers
    }
}

/// The target of a scope; `None`: all.
fn target_of(scope: PurgeScope) -> Option<u128> {
    match scope {
        PurgeScope::Target(target) => Some(target),
        PurgeScope::All => None,
    }
}
