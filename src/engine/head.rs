//! What the answer to a `HEAD` that passed through says about the stored `GET` response
//! (RFC 9111 §4.3.5).
//!
//! Owns: when stored fields are updated or a stored response is given up for it. Never touches: what
//! the client of the `HEAD` gets.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, Method, StatusCode};

use crate::account::ResultKind;
use crate::decide::{Decision, Found, stand_in};
use crate::engine::Engine;
use crate::engine::answer::not_cached;
use crate::engine::reply::Reply;
use crate::policy::{self, Mode};
use crate::route::table::Route;
use crate::semantics::asked::Asked;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::validation::{self, HeadSays};
use crate::store::Lookup;
use crate::store::generations::{Kind, Reach, Watch};

/// A request on its way through the pass-through whose answer bears on what is stored.
#[derive(Debug)]
pub struct Sent {
    /// Of what is stored of it; `None`: its answer is none to be kept.
    watch: Option<Watch>,
    pub(crate) time: SystemTime,
}

impl Engine {
    /// A request is about to pass through, which `route` caches.
    pub fn sent(&self, asked: &Asked, route: Option<&Route>) -> Sent {
        let route = route.filter(|_| asks_as_a_get_would(asked));
        let watch = route.map(|route| {
            self.store.watch(self.keyring.target_id(&asked.target, &route.policy.key.query))
        });
        Sent { watch, time: self.clock.now() }
    }

    /// What is stored, stale, in the place of an error to a `HEAD`, as a `GET` would get it.
    pub async fn stale_head(
        &self,
        asked: &Asked,
        route: &Route,
        error: policy::Failure,
        answered: Option<StatusCode>,
        cause: &'static str,
    ) -> Option<Reply> {
        if !asks_as_a_get_would(asked) || self.switch.mode() != Mode::Cache {
            return None;
        }
        let key = self.keyring.key(asked, &route.policy);
        let found = self.look_deep(asked, &key, &route.policy).await;
        let Lookup::Found(stored) = found else { return None };
        let (cache, now) = (key.scope().cache_kind(), self.clock.now());
        let seen = Found::Stored(&stored);
        let decision = self.decide(asked, &route.policy, cache, seen, now);
        let Decision::Forward { why, fallback: true, .. } = decision else { return None };
        let ttl = stand_in(asked, &route.policy, cache, &stored, error, now)?;
        let mut status = CacheStatus::forwarded(why.token()).ttl(ttl);
        if let Some(answered) = answered {
            status = status.status(answered);
        }
        let status = status.detail("stale-if-error", cause);
        self.account.stale_served(route.index, cause);
        let reply = Reply::from_stored(asked, &stored, now, &status, ResultKind::Stale);
        Some(reply.because(why.token()))
    }

    /// A `HEAD` was answered: equal validators freshen what is stored, others make it unusable.
    pub async fn head_answered(
        &self,
        asked: &Asked,
        route: &Route,
        sent: &Sent,
        status: StatusCode,
        headers: &HeaderMap,
    ) {
        let Some(watch) = &sent.watch else { return };
        let reads = asked.method == Method::HEAD
            && !asked.cache_control().no_store
            && self.switch.mode() != Mode::Bypass;
        if !reads || status != StatusCode::OK {
            return;
        }
        let key = self.keyring.key(asked, &route.policy);
        let found = self.look_deep(asked, &key, &route.policy).await;
        let Lookup::Found(stored) = found else { return };
        match validation::head_says(headers, &stored.headers, &stored.said, stored.body.len()) {
            HeadSays::Nothing => {}
            HeadSays::Changed => {
                self.store.invalidate(Reach::Target(key.target_id()), Kind::Hard);
                self.account.invalidated("head", 1);
            }
            HeadSays::Same => {
                let fresh = stored.freshened(headers, sent.time, self.clock.now());
                let asked = Asked { method: Method::GET, ..asked.clone() };
                let (status, fields) = (fresh.status, fresh.all_headers());
                let cache = key.scope().cache_kind();
                let kept = route.policy.storing(&asked, status, &fields, &fresh.said, cache);
                if let Ok(kept) = kept {
                    let fresh = Arc::new(fresh.keeping(&kept));
                    self.keep(&key, &route.policy, fresh, watch.mark);
                }
            }
        }
    }
}

/// A `HEAD` whose `GET` might have been answered from the store.
fn asks_as_a_get_would(asked: &Asked) -> bool {
    asked.method == Method::HEAD && not_cached(asked).is_none()
}
