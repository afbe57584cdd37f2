//! The fill: a task that asks the origin once, on behalf of everybody who reads it.
//!
//! Owns: one call from plan to stored response. Nothing a client does shapes what is fetched or
//! stored. Never touches: who reads it and what they make of it.

mod body_intake;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, VIA};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use crate::engine::Engine;
use crate::engine::collapse::InFlightKey;
use crate::engine::fill_guard::{FillGuard, FillOutcome};
use crate::engine::inflight::{FillState, InFlightFetch, ResponseHead, Revalidated};
use crate::engine::retry::FetchResult;
use crate::engine::unstored::UnstoredResponse;
use crate::key::CacheKey;
use crate::policy::{Policy, ScopeRule};
use crate::semantics::freshness;
use crate::semantics::hop_by_hop;
use crate::semantics::request::ProxyRequest;
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::status;
use crate::semantics::storability::{CacheKind, NotStoredReason};
use crate::semantics::validation;
use crate::semantics::vary::{VariantId, Vary, VaryFields};
use crate::stored::StoredResponse;
use crate::stored::partial;
use crate::upstream::admission::call::Callback;
use crate::upstream::interim::Interims;
use crate::upstream::outcome::CallOutcome;
use crate::upstream::{BodyFraming, UpstreamRequest, UpstreamResponse};

/// A fill, ready to run.
pub(crate) struct Fill {
    pub(crate) engine: Arc<Engine>,
    pub(crate) flight: Arc<InFlightFetch>,
    /// Where others find it; `None`: it is nobody else's.
    pub(crate) place: Option<InFlightKey>,
    pub(crate) asked: ProxyRequest,
    pub(crate) route: usize,
    pub(crate) policy: Arc<Policy>,
    pub(crate) key: CacheKey,
    /// The stored response to validate.
    pub(crate) confirm: Option<Arc<StoredResponse>>,
    /// Whether the request's range is asked for: what comes is this client's, and kept as a part.
    pub(crate) ranged: bool,
    /// Held until the head is there.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    /// Where interim answers go, if a client leads.
    pub(crate) interims: Option<Arc<Interims>>,
    /// There is something stale to show in the place of its answer.
    pub(crate) yields: bool,
    /// What asked for it in the background, if no client waits for it.
    pub(crate) trigger: Option<&'static str>,
}

impl Fill {
    /// Runs the fill in the background.
    pub(crate) fn spawn(self) {
        tokio::spawn(self.run());
    }

    async fn run(self) {
        let mut ending = FillGuard {
            engine: Arc::clone(&self.engine),
            flight: Arc::clone(&self.flight),
            place: self.place.clone(),
            route: self.route,
            trigger: self.trigger,
            outcome: FillOutcome::Failed,
        };
        ending.outcome = self.filled().await;
    }

    async fn filled(mut self) -> FillOutcome {
        let FetchResult { mut answer, detail } = self.fetch_with_retries().await;
        if answer.as_ref().is_ok_and(|answer| self.is_about_another(answer)) {
            // RFC 9111 §4.3.4: this 304 confirms something else; the whole is asked for again.
            self.confirm = None;
            answer = self.engine.origin.fetch(&self.call()).await;
        }
        match answer {
            Err(failure) => {
                self.leave();
                self.flight.publish(FillState::Failed(failure));
                self.flight.body.finish(Err(failure));
                FillOutcome::Failed
            }
            Ok(answer) if answer.status == StatusCode::NOT_MODIFIED && self.confirm.is_some() => {
                self.confirmed(answer).await
            }
            Ok(answer) => self.answered(answer, detail).await,
        }
    }

    pub(super) fn call(&self) -> UpstreamRequest {
        let mut headers = self.asked.headers.clone();
        if let ScopeRule::Header(name) = &self.policy.scope {
            headers.remove(name);
        }
        // Only who asks for itself alone may set conditions of its own.
        if self.confirm.is_some() || self.place.is_some() {
            for name in &validation::CONDITIONALS {
                headers.remove(name);
            }
        }
        if let Some(stored) = &self.confirm {
            headers.extend(validation::conditional_fields(&stored.said));
        }
        if !self.ranged {
            headers.remove(http::header::RANGE);
        }
        if !headers.contains_key(ACCEPT_ENCODING) {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        headers.append(VIA, self.engine.via.clone());
        let mut knock = self.engine.knock(&self.asked, self.route, &self.policy, Some(&self.key));
        knock.yields = self.yields;
        knock.in_line = Arc::clone(&self.flight.in_line);
        knock.audience = self.flight.body.audience();
        let (engine, flight) = (Arc::clone(&self.engine), Arc::downgrade(&self.flight));
        let target = self.key.target_id();
        knock.goes_out = Callback::by(move || {
            if let Some(flight) = flight.upgrade() {
                flight.order().goes_out(engine.store.watch(target).asked);
            }
        });
        UpstreamRequest {
            knock,
            method: Method::GET,
            target: self.asked.target.clone(),
            headers,
            listener: self.asked.listener,
            interims: self.interims.clone(),
        }
    }

    fn is_about_another(&self, answer: &UpstreamResponse) -> bool {
        answer.status == StatusCode::NOT_MODIFIED
            && self.confirm.as_ref().is_some_and(|stored| !stored.is_meant_by(&answer.headers))
    }

    fn cache(&self) -> CacheKind {
        self.key.scope().cache_kind()
    }

    fn variant(&self, fields: &VaryFields) -> VariantId {
        self.engine.variant(&self.asked, fields)
    }

    fn leave(&self) {
        if let Some(place) = &self.place {
            self.engine.flights.remove(place, &self.flight);
        }
    }

    /// The origin said 304 to the stored validators (RFC 9111 §4.3.4).
    async fn confirmed(&mut self, mut answer: UpstreamResponse) -> FillOutcome {
        let Some(stored) = self.confirm.take() else { return FillOutcome::Failed };
        while let Ok(Some(_)) = answer.body.next().await {}
        let mut fresh = stored
            .freshened(&answer.headers, answer.request_time, answer.response_time)
            .asked_as(self.flight.order().asked());
        if let Vary::Fields(fields) = Vary::chosen_by(&fresh.all_headers()) {
            fresh.variant = self.variant(&fields);
            fresh.vary = fields;
        }
        let fields = fresh.all_headers();
        let keep =
            self.policy.storability(&self.asked, fresh.status, &fields, &fresh.said, self.cache());
        fresh.authorized |= self.asked.headers.contains_key(AUTHORIZATION);
        let shared = keep.map(|kept| Arc::new(fresh.keeping(&kept)));
        let variant = Some(fresh.variant);
        self.engine.underway.answered(&self.key, variant, self.flight.order().asked());
        let outcome = match &shared {
            Ok(_) if self.flight.order().is_overtaken(variant) => FillOutcome::NotStored,
            Ok(kept) => {
                self.engine.store_response(
                    &self.key,
                    &self.policy,
                    Arc::clone(kept),
                    self.flight.mark(),
                );
                self.engine.flights.enable_collapsing(&self.key);
                FillOutcome::Confirmed
            }
            Err(why) => {
                self.not_stored(*why);
                FillOutcome::NotStored
            }
        };
        if shared.is_ok() {
            self.given(fresh.status, variant, outcome == FillOutcome::Confirmed).await;
        }
        self.leave();
        let own = Arc::new(fresh);
        self.flight.publish(FillState::Confirmed(Revalidated { own, shared }));
        self.flight.body.finish(Ok(()));
        outcome
    }

    /// The answer is the asker's alone: for a while nobody waits for another such.
    fn not_stored(&self, why: NotStoredReason) {
        self.engine.account.not_stored(self.route, why.token());
        // The answer to a client's own condition says nothing about that to others, nor does the error that one
        // client insisted on, nor a larder that is full.
        let conditional =
            self.confirm.is_none() && validation::has_conditionals(&self.asked.headers);
        let its_own = self.place.is_none() && (conditional || why == NotStoredReason::Status);
        let busy = matches!(why, NotStoredReason::NoRoom | NotStoredReason::Unread);
        if !busy && !its_own && !self.ranged {
            self.engine.flights.disable_collapsing(&self.key, self.engine.clock.now());
        }
    }

    /// An answer of this variant was given, as far as it has got; whether it is kept.
    async fn given(&self, status: StatusCode, variant: Option<VariantId>, kept: bool) {
        // Looked at behind the keeping: who overtakes in between is not missed.
        let overtaken = self.flight.order().is_overtaken(variant);
        if kept && !overtaken {
            return;
        }
        let order = self.flight.order().asked() + u64::from(overtaken);
        let (asked, key, policy) = (&self.asked, &self.key, &self.policy);
        self.engine.given(UnstoredResponse { asked, key, policy, order }, status).await;
    }

    /// A final answer: its head goes out at once, its body as it arrives.
    async fn answered(
        &mut self,
        answer: UpstreamResponse,
        detail: Option<(&'static str, &'static str)>,
    ) -> FillOutcome {
        let head = Arc::new(ResponseHead { detail, ..self.head(&answer) });
        self.permit = None;
        let is_error = self.policy.stale_if_error.covers(head.failure);
        let tells = self.is_told(&answer.verdict, &head).await && !is_error;
        match &head.shared {
            Ok(_) => self.engine.flights.enable_collapsing(&self.key),
            // Who waits shares it, and nobody is kept from waiting for the next.
            Err(why) if head.is_shared_error(&self.policy, self.cache()) => {
                self.engine.account.not_stored(self.route, why.token());
            }
            Err(why) => {
                self.not_stored(*why);
                self.leave();
                self.flight.body.stop_keeping();
            }
        }
        self.flight.publish(FillState::Head(Arc::clone(&head)));
        let times = FetchTimes { request: answer.request_time, response: answer.response_time };
        let end = self.take_in(answer, head.shared.is_ok(), |body| {
            self.keep(&head, head.shared.as_ref().ok()?, body, &times)
        });
        let end = end.await;
        if end.is_err() {
            // Before the readers know: nobody joins a body that is cut already.
            self.leave();
        }
        let kept = head.shared.is_ok() && self.flight.body.is_kept();
        // A body that was cut is an error, and no version.
        if tells && end.is_ok() {
            self.given(head.status, head.variant, kept).await;
        }
        self.flight.body.finish(end);
        self.leave();
        match (end, &head.shared) {
            (Ok(()), Ok(_)) if kept => FillOutcome::Replaced,
            (Err(_), Ok(_)) => FillOutcome::Failed,
            (_, Err(_)) if is_error => FillOutcome::Failed,
            (Ok(()), Ok(_)) | (_, Err(_)) => FillOutcome::NotStored,
        }
    }

    /// What a head says of others' calls and of what is stored. Whether it is that of an answer which might be kept.
    async fn is_told(&self, verdict: &CallOutcome, head: &ResponseHead) -> bool {
        let (order, is_ok) = (self.flight.order().asked(), verdict.is_ok());
        if !verdict.is_limit() {
            self.engine.ends(&self.asked, &self.policy, &self.key, head.status, order).await;
        }
        if is_ok && status::is_news(head.status) {
            self.engine.underway.answered(&self.key, head.variant, order);
        }
        let why_not = head.shared.as_ref().err();
        let might_be_kept = is_ok && why_not.is_none_or(|why| why.is_for_want_of_room());
        if might_be_kept {
            self.given(head.status, head.variant, why_not.is_none()).await;
        }
        might_be_kept
    }

    fn head(&self, answer: &UpstreamResponse) -> ResponseHead {
        let mut own = answer.headers.clone();
        hop_by_hop::strip_response(&mut own);
        let said = CacheMetadata::of(answer.status, &own);
        let vary = Vary::chosen_by(&own);
        let variant = match &vary {
            Vary::Fields(fields) => Some(self.variant(fields)),
            Vary::Any => None,
        };
        let length = match answer.framing {
            BodyFraming::Length(length) => Some(length),
            BodyFraming::Marked | BodyFraming::Close => None,
        };
        // What it says it is; whether the body agrees is seen when it is there.
        let part = self.ranged
            && partial::told(answer.status, &own, &said)
                .is_some_and(|(span, _)| length.is_none_or(|length| length == span.length()));
        let mut head = ResponseHead {
            status: answer.status,
            received: answer.response_time,
            shared: Err(NotStoredReason::Status),
            failure: answer.verdict.error_class(answer.status),
            cause: cause(answer),
            detail: None,
            own,
            said,
            vary,
            variant,
            length,
            part,
        };
        // To a range there are other answers than to the whole. Kept are a part, and a whole that
        // does not look like a part under a wrong name.
        let whole = head.status == StatusCode::OK && !head.own.contains_key(CONTENT_RANGE);
        // An error that only its body tells of is not what was asked for.
        let told = answer.status.is_success() && !answer.verdict.is_ok();
        if answer.unread {
            head.shared = Err(NotStoredReason::Unread);
        } else if !told && (!self.ranged || head.part || whole) {
            head.shared = self
                .policy
                .storability(&self.asked, head.kept_as(), &head.own, &head.said, self.cache())
                .and_then(|headers| self.within_bounds(answer.framing).map(|()| headers));
        }
        head
    }

    fn within_bounds(&self, framing: BodyFraming) -> Result<(), NotStoredReason> {
        match framing {
            BodyFraming::Length(n) if n > self.engine.bounds.max_object as u64 => {
                Err(NotStoredReason::TooLarge)
            }
            // Cut or complete, it looks the same: it may be read, never kept.
            BodyFraming::Close => Err(NotStoredReason::Incomplete),
            BodyFraming::Length(_) | BodyFraming::Marked if !self.flight.body.is_kept() => {
                Err(NotStoredReason::NoRoom)
            }
            BodyFraming::Length(_) | BodyFraming::Marked => Ok(()),
        }
    }

    /// The body as it is stored, if it is.
    fn keep(
        &self,
        head: &ResponseHead,
        headers: &HeaderMap,
        body: Bytes,
        times: &FetchTimes,
    ) -> Option<Bytes> {
        if self.flight.order().is_overtaken(head.variant) {
            return None;
        }
        let (Vary::Fields(vary), Some(variant)) = (&head.vary, head.variant) else { return None };
        let said = CacheMetadata::of(head.status, headers);
        let stored = StoredResponse::new(
            head.status,
            headers,
            body,
            (vary.clone(), variant),
            (times.request, times.response),
            freshness::initial_age(&said, times.request, times.response),
        );
        let stored = stored
            .fetched_with(self.asked.headers.contains_key(AUTHORIZATION))
            .asked_as(self.flight.order().asked());
        if head.part {
            self.keep_part(stored);
            return None;
        }
        let body = stored.body.clone();
        let kept = self.engine.store_response(
            &self.key,
            &self.policy,
            Arc::new(stored),
            self.flight.mark(),
        );
        kept.then_some(body)
    }

    fn keep_part(&self, stored: StoredResponse) {
        let (engine, mark) = (&self.engine, self.flight.mark());
        if !engine.keep_part(&self.asked, &self.key, &self.policy, stored, mark) {
            engine.account.not_stored(self.route, NotStoredReason::Incomplete.token());
        }
    }
}

/// The word for what an answer is to stale-if-error.
fn cause(answer: &UpstreamResponse) -> &'static str {
    if answer.verdict.is_ok() {
        answer.verdict.error_class(answer.status).token()
    } else {
        answer.verdict.class.token()
    }
}

struct FetchTimes {
    request: std::time::SystemTime,
    response: std::time::SystemTime,
}
