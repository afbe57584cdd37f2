//! A fill: the task that makes one upstream fetch on behalf of all its readers.
//!
//! Owns: one call from the request to the stored response. Clients do not influence the data that is
//! fetched or stored. Never touches: the readers and the responses they build.

mod body_intake;
mod outgoing;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_RANGE};
use http::{HeaderMap, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use crate::decide::StaleReason;
use crate::engine::collapse::InFlightKey;
use crate::engine::entry_updates::HeadResponse;
use crate::engine::fill_guard::{FillGuard, FillOutcome};
use crate::engine::fills::Fills;
use crate::engine::inflight::{FillState, InFlightFetch, ResponseHead, Revalidated};
use crate::key::CacheKey;
use crate::policy::cacheability::ResponseToStore;
use crate::semantics::freshness;
use crate::semantics::hop_by_hop;
use crate::semantics::response_metadata::CacheMetadata;
use crate::semantics::status;
use crate::semantics::storability::{CacheKind, NotStoredReason};
use crate::semantics::validation;
use crate::semantics::vary::{VariantId, Vary, VaryFields};
use crate::stored::StoredResponse;
use crate::stored::partial;
use crate::upstream::interim::Interims;
use crate::upstream::outcome::CallOutcome;
use crate::upstream::outcome::error::UpstreamError;
use crate::upstream::outcome::reason::Reason;
use crate::upstream::routed_request::RoutedRequest;
use crate::upstream::{BodyFraming, UpstreamResponse};

/// A fill, ready to run.
pub(crate) struct Fill {
    pub(crate) fills: Arc<Fills>,
    pub(crate) fetch: Arc<InFlightFetch>,
    /// The key under which other requests join the fill; `None`: no request can join it.
    pub(crate) in_flight_key: Option<InFlightKey>,
    pub(crate) routed: Arc<RoutedRequest>,
    pub(crate) key: CacheKey,
    /// The stored response to revalidate.
    pub(crate) revalidate: Option<Arc<StoredResponse>>,
    /// Whether the request's range is forwarded: the response is for this client only, and is stored as
    /// a part.
    pub(crate) ranged: bool,
    /// Whether the client's own conditions are forwarded: no other request may join then.
    pub(crate) sends_conditions: bool,
    /// Held until the head has arrived.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    /// Receives interim responses, if a client leads.
    pub(crate) interims: Option<Arc<Interims>>,
    /// Whether a stale response can be served in place of this fill's response.
    pub(crate) has_fallback: bool,
    /// The reason of a background fill; `None`: a client waits for it.
    pub(crate) trigger: Option<StaleReason>,
}

/// A response, and the detail of how it was obtained.
pub(super) struct FetchResult {
    pub(super) response: Result<UpstreamResponse, UpstreamError>,
    /// Why the origin was called more than once, or later than possible.
    pub(super) detail: Option<(&'static str, Reason)>,
}

impl Fill {
    /// Runs the fill in the background.
    pub(crate) fn spawn(self) {
        tokio::spawn(self.run());
    }

    async fn run(self) {
        let mut guard = FillGuard {
            fills: Arc::clone(&self.fills),
            fetch: Arc::clone(&self.fetch),
            in_flight_key: self.in_flight_key.clone(),
            route: self.routed.route_index,
            trigger: self.trigger,
            outcome: FillOutcome::Failed,
        };
        guard.outcome = self.fetch_and_store().await;
    }

    async fn fetch_and_store(mut self) -> FillOutcome {
        let FetchResult { mut response, detail } = self.fetch_with_retries().await;
        if response.as_ref().is_ok_and(|response| self.matches_other_entry(response)) {
            // RFC 9111 §4.3.4: this 304 matches another stored response; fetch the whole response.
            self.revalidate = None;
            response = self.fills.origin.fetch(&self.upstream_request()).await;
        }
        if response.as_ref().is_ok_and(|response| self.leaves_condition_open(response)) {
            self.sends_conditions = true;
            response = self.fills.origin.fetch(&self.upstream_request()).await;
        }
        match response {
            Err(failure) => {
                self.remove_in_flight();
                self.fetch.publish(FillState::Failed(failure));
                self.fetch.body.finish(Err(failure));
                FillOutcome::Failed
            }
            Ok(response) if response.status == StatusCode::NOT_MODIFIED && self.revalidate.is_some() => {
                self.on_not_modified(response).await
            }
            Ok(response) => self.on_response(response, detail).await,
        }
    }

    /// Whether the response is too large to be stored and lacks the validator for the client's own condition,
    /// which was left out. Only the origin can then tell the client that it has the response.
    fn leaves_condition_open(&self, response: &UpstreamResponse) -> bool {
        let headers = &self.routed.request.headers;
        let is_large =
            matches!(response.framing, BodyFraming::Length(n) if n > self.fills.limits.max_object as u64);
        let is_left_out = !self.sends_conditions && self.revalidate.is_none() && self.trigger.is_none();
        is_large && is_left_out && response.status == StatusCode::OK && {
            let metadata = CacheMetadata::from_response(response.status, &response.headers);
            !validation::can_evaluate(headers, &metadata)
        }
    }

    fn matches_other_entry(&self, response: &UpstreamResponse) -> bool {
        response.status == StatusCode::NOT_MODIFIED
            && self.revalidate.as_ref().is_some_and(|stored| !stored.is_updated_by(&response.headers))
    }

    fn cache(&self) -> CacheKind {
        self.key.scope().cache_kind()
    }

    fn variant(&self, fields: &VaryFields) -> VariantId {
        self.fills.lookup.variant(&self.routed.request, fields)
    }

    fn remove_in_flight(&self) {
        if let Some(place) = &self.in_flight_key {
            self.fills.in_flight_fetches.remove(place, &self.fetch);
        }
    }

    /// Handles a 304 to the stored validators (RFC 9111 §4.3.4).
    async fn on_not_modified(&mut self, mut response: UpstreamResponse) -> FillOutcome {
        let Some(stored) = self.revalidate.take() else { return FillOutcome::Failed };
        while let Ok(Some(_)) = response.body.next().await {}
        let mut fresh = stored
            .freshened(&response.headers, response.request_time, response.response_time)
            .with_order(self.fetch.order().number());
        if let Vary::Fields(fields) = Vary::effective(&fresh.all_headers()) {
            fresh.variant = self.variant(&fields);
            fresh.vary = fields;
        }
        let fields = fresh.all_headers();
        let (status, metadata) = (fresh.status, &fresh.metadata);
        let storability = self.storability(ResponseToStore { status, headers: &fields, metadata });
        fresh.authorized |= self.routed.request.headers.contains_key(AUTHORIZATION);
        let shared = storability.map(|kept| Arc::new(fresh.with_headers(&kept)));
        let variant = Some(fresh.variant);
        self.fills.pending_calls.overtake_older(&self.key, variant, self.fetch.order().number());
        let outcome = match &shared {
            Ok(_) if self.fetch.order().is_overtaken(variant) => FillOutcome::NotStored,
            Ok(kept) => {
                self.store(Arc::clone(kept));
                self.fills.in_flight_fetches.enable_collapsing(&self.key);
                FillOutcome::Confirmed
            }
            Err(reason) => {
                self.not_stored(*reason);
                FillOutcome::NotStored
            }
        };
        if shared.is_ok() {
            self.note_delivered(fresh.status, variant, outcome == FillOutcome::Confirmed).await;
        }
        self.remove_in_flight();
        let own = Arc::new(fresh);
        self.fetch.publish(FillState::Confirmed(Revalidated { own, shared }));
        self.fetch.body.finish(Ok(()));
        outcome
    }

    /// The response is not shareable: collapsing is off for this key for a while.
    fn not_stored(&self, reason: NotStoredReason) {
        self.fills.telemetry.not_stored(self.routed.route_index, reason.token());
        // Three results do not show that other responses are not shareable: the response to a client's
        // own condition, the error that one client insisted on, and a larder without free capacity.
        let conditional = self.revalidate.is_none()
            && self.sends_conditions
            && validation::has_conditionals(&self.routed.request.headers);
        let one_client = self.in_flight_key.is_none() && (conditional || reason == NotStoredReason::Status);
        let busy = matches!(reason, NotStoredReason::NoRoom | NotStoredReason::NotInspected);
        if !busy && !one_client && !self.ranged {
            self.fills.in_flight_fetches.disable_collapsing(&self.key, self.fills.clock.now());
        }
    }

    /// Outdates older stored responses if a response of this variant was delivered, even partly, but is
    /// not stored. `kept`: whether it is stored.
    async fn note_delivered(&self, status: StatusCode, variant: Option<VariantId>, kept: bool) {
        // Checked after storing, so that a newer response that arrives in between is not missed.
        let overtaken = self.fetch.order().is_overtaken(variant);
        if kept && !overtaken {
            return;
        }
        let order = self.fetch.order().number() + u64::from(overtaken);
        self.fills.updates.outdate_older(&self.routed, &self.key, order, status).await;
    }

    /// Handles a final response: publishes its head at once and its body as it arrives.
    async fn on_response(
        &mut self,
        response: UpstreamResponse,
        detail: Option<(&'static str, Reason)>,
    ) -> FillOutcome {
        let head = Arc::new(ResponseHead { detail, ..self.head(&response) });
        self.permit = None;
        let is_error = self.routed.policy.stale_if_error.covers(head.failure);
        let times = FetchTimes { request: response.request_time, response: response.response_time };
        let may_be_stored = if self.key.is_for_head() {
            self.apply_head_of_get(&head, &times).await;
            false
        } else {
            self.apply_head(&response.outcome, &head).await && !is_error
        };
        match &head.shared {
            Ok(_) => self.fills.in_flight_fetches.enable_collapsing(&self.key),
            // Waiters share the error, and collapsing stays on for the next request.
            Err(reason) if head.is_shared_error(&self.routed.policy, self.cache()) => {
                self.fills.telemetry.not_stored(self.routed.route_index, reason.token());
            }
            Err(reason) => {
                self.not_stored(*reason);
                self.remove_in_flight();
                self.fetch.body.stop_keeping();
            }
        }
        self.fetch.publish(FillState::Head(Arc::clone(&head)));
        let end = self.read_body(response, head.shared.is_ok(), |body| {
            self.store_body(&head, head.shared.as_ref().ok()?, body, &times)
        });
        let end = end.await;
        if end.is_err() {
            // Before the readers are notified, so that no request joins a truncated body.
            self.remove_in_flight();
        }
        if let (Err(failure), Some(_trigger)) = (end, self.trigger) {
            let call = self.fills.call_context(&self.routed, Some(&self.key));
            self.fills.origin.on_cut_refresh(&call, failure);
        }
        let kept = head.shared.is_ok() && self.fetch.body.is_kept();
        if head.shared.is_ok() && !kept {
            self.on_oversize();
        }
        // A truncated body is an error, not a version of the resource.
        if may_be_stored && end.is_ok() {
            self.note_delivered(head.status, head.variant, kept).await;
        }
        self.fetch.body.finish(end);
        self.remove_in_flight();
        match (end, &head.shared) {
            (Ok(()), Ok(_)) if kept => FillOutcome::Replaced,
            (Err(_), Ok(_)) => FillOutcome::Failed,
            (_, Err(_)) if is_error => FillOutcome::Failed,
            (Ok(()), Ok(_)) | (_, Err(_)) => FillOutcome::NotStored,
        }
    }

    /// The body was larger than its head announced, or nothing was announced. The next calls for the key forward
    /// the conditions of their clients.
    fn on_oversize(&self) {
        let had_condition = validation::has_conditionals(&self.routed.request.headers);
        if had_condition && self.fetch.body.not_kept_reason() == NotStoredReason::TooLarge {
            self.fills.in_flight_fetches.disable_collapsing(&self.key, self.fills.clock.now());
        }
    }

    /// Applies a head to other pending calls and to stored responses. Returns whether its response might
    /// be stored.
    async fn apply_head(&self, outcome: &CallOutcome, head: &ResponseHead) -> bool {
        let (order, is_ok) = (self.fetch.order().number(), outcome.is_ok());
        if !outcome.is_rate_limited() {
            let (routed, key) = (&self.routed, &self.key);
            self.fills.updates.apply_stale_if_error_end(routed, key, head.status, order).await;
        }
        if is_ok && status::is_definitive(head.status) {
            self.fills.pending_calls.overtake_older(&self.key, head.variant, order);
        }
        let not_stored = head.shared.as_ref().err();
        let may_be_stored = is_ok && not_stored.is_none_or(|reason| reason.is_storage_failure());
        if may_be_stored {
            self.note_delivered(head.status, head.variant, not_stored.is_none()).await;
        }
        may_be_stored
    }

    /// Applies the response to a `HEAD` to calls and stored responses of the `GET` that it describes.
    async fn apply_head_of_get(&self, head: &ResponseHead, times: &FetchTimes) {
        let order = self.fetch.order().number();
        if status::is_definitive(head.status) {
            self.fills.pending_calls.overtake_older(&self.key, head.variant, order);
        }
        let Ok(get) = &self.routed.key else { return };
        if head.status.is_success() && head.metadata.has_validator() {
            self.fills.pending_calls.overtake_older(get, None, order);
        }
        if head.status == StatusCode::OK {
            let (epoch, times) = (self.fetch.epoch(), (times.request, times.response));
            let response = HeadResponse { headers: &head.own, order, epoch, times };
            self.fills.updates.apply_head_response(&self.routed, get, response).await;
        }
    }

    fn head(&self, response: &UpstreamResponse) -> ResponseHead {
        let mut own = response.headers.clone();
        hop_by_hop::strip(&mut own);
        let metadata = CacheMetadata::from_response(response.status, &own);
        let vary = Vary::effective(&own);
        let variant = match &vary {
            Vary::Fields(fields) => Some(self.variant(fields)),
            Vary::Any => None,
        };
        let length = match response.framing {
            BodyFraming::Length(length) => Some(length),
            BodyFraming::Delimited | BodyFraming::Close => None,
        };
        // The part that the head announces; the body is checked against it once it has arrived.
        let part = self.ranged
            && partial::partial_range(response.status, &own, &metadata)
                .is_some_and(|(span, _)| length.is_none_or(|length| length == span.length()));
        let mut head = ResponseHead {
            status: response.status,
            received: response.response_time,
            shared: Err(NotStoredReason::Status),
            failure: response.outcome.error_class(response.status),
            reason: error_reason(response),
            detail: None,
            own,
            metadata,
            vary,
            variant,
            length,
            part,
        };
        // A range request can get responses other than for the whole resource. Only a part is stored, or
        // a whole that does not look like a mislabelled part.
        let whole = head.status == StatusCode::OK && !head.own.contains_key(CONTENT_RANGE);
        // An error that only the body reports is not the requested representation.
        let is_body_error = response.status.is_success() && !response.outcome.is_ok();
        // Where rules decide by bodies, the response to a HEAD does not show whether it is an error.
        let is_undecided = self.key.is_for_head() && self.routed.upstream().policy().rules.read_bodies();
        if response.body_uninspected || is_undecided {
            head.shared = Err(NotStoredReason::NotInspected);
        } else if !is_body_error && (!self.ranged || head.part || whole) {
            let (status, headers, metadata) = (head.policy_status(), &head.own, &head.metadata);
            head.shared = self
                .storability(ResponseToStore { status, headers, metadata })
                .and_then(|headers| self.check_limits(response.framing).map(|()| headers));
        }
        head
    }

    fn storability(&self, response: ResponseToStore<'_>) -> Result<HeaderMap, NotStoredReason> {
        let RoutedRequest { request, policy, .. } = &*self.routed;
        policy.storability(request, response, self.key.scope().cache_kind())
    }

    fn check_limits(&self, framing: BodyFraming) -> Result<(), NotStoredReason> {
        match framing {
            BodyFraming::Length(n) if n > self.fills.limits.max_object as u64 => {
                Err(NotStoredReason::TooLarge)
            }
            // A truncated body looks the same as a complete one: it may be read, never stored.
            BodyFraming::Close => Err(NotStoredReason::Incomplete),
            BodyFraming::Length(_) | BodyFraming::Delimited if !self.fetch.body.is_kept() => {
                Err(NotStoredReason::NoRoom)
            }
            BodyFraming::Length(_) | BodyFraming::Delimited => Ok(()),
        }
    }

    /// Stores the response. Returns its body as it is stored, if it is.
    fn store_body(
        &self,
        head: &ResponseHead,
        headers: &HeaderMap,
        body: Bytes,
        times: &FetchTimes,
    ) -> Option<Bytes> {
        if self.fetch.order().is_overtaken(head.variant) {
            return None;
        }
        let (Vary::Fields(vary), Some(variant)) = (&head.vary, head.variant) else { return None };
        let (variant, times) = ((vary.clone(), variant), (times.request, times.response));
        // The age on arrival is that of the received fields, of which some may not be stored.
        let initial_age = freshness::initial_age(&head.metadata, times.0, times.1);
        let stored = StoredResponse::new(head.status, headers, body, variant, times)
            .with_initial_age(initial_age)
            .with_authorized(self.routed.request.headers.contains_key(AUTHORIZATION))
            .with_head_only(self.key.is_for_head())
            .with_order(self.fetch.order().number());
        if head.part {
            self.store_part(stored);
            return None;
        }
        let body = stored.body.clone();
        self.store(Arc::new(stored)).then_some(body)
    }

    fn store(&self, stored: Arc<StoredResponse>) -> bool {
        let (policy, epoch) = (&self.routed.policy, self.fetch.epoch());
        self.fills.updates.store_response(&self.key, policy, stored, epoch)
    }

    fn store_part(&self, stored: StoredResponse) {
        let (fills, epoch) = (&self.fills, self.fetch.epoch());
        if !fills.updates.store_part(&self.routed, &self.key, stored, epoch) {
            fills.telemetry.not_stored(self.routed.route_index, NotStoredReason::Incomplete.token());
        }
    }
}

/// The reason of a stale response in place of this one.
fn error_reason(response: &UpstreamResponse) -> Reason {
    if response.outcome.is_ok() {
        Reason::Class(response.outcome.error_class(response.status))
    } else {
        Reason::Outcome(response.outcome.class)
    }
}

struct FetchTimes {
    request: std::time::SystemTime,
    response: std::time::SystemTime,
}
