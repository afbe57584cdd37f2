//! One call that went through the gate.
//!
//! Owns: that each call is settled once, however it ends. Never touches: the call itself.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};
use serde_json::Value;
use tokio::sync::Notify;

use crate::policy::upstream::{OutcomeClass, RateLimit, UpstreamPolicy};
use crate::upstream::admission::call::CallContext;
use crate::upstream::admission::call_metrics::CallTimer;
use crate::upstream::admission::charge::CallCharge;
use crate::upstream::admission::feedback::CallEnd;
use crate::upstream::admission::state::{Admission, LimitKeys, LimiterState, UpstreamState};
use crate::upstream::admission::{AdmissionControl, conduct};
use crate::upstream::classify;
use crate::upstream::error::UpstreamError;
use crate::upstream::outcome::CallOutcome;
use crate::upstream::rejection::RejectReason;

/// A call on its way. Dropped without a word, it counts as abandoned.
pub struct Permit {
    gate: AdmissionControl,
    knock: CallContext,
    record: CallTimer,
    charge: CallCharge,
    /// `None` once it is settled, or where nothing is ever kept back.
    out: Option<ActiveCall>,
    verdict: Option<CallOutcome>,
    way: Option<Arc<Notify>>,
    /// Its head is one to use, and its body may yet say otherwise.
    unread: Option<ActiveCall>,
    /// An error may be its client's fault.
    spares: bool,
    /// What it waited for, if it did.
    pub(super) waited: Option<RejectReason>,
}

/// A call that counts.
pub(super) struct ActiveCall {
    pub(super) traffic: Arc<UpstreamState>,
    pub(super) ticket: Admission,
}

impl Permit {
    pub(super) fn new(
        gate: AdmissionControl,
        knock: CallContext,
        record: CallTimer,
        charge: CallCharge,
        out: Option<ActiveCall>,
    ) -> Self {
        let (verdict, way, unread, waited) = (None, None, None, None);
        Self { gate, knock, record, charge, out, verdict, way, unread, spares: false, waited }
    }

    /// What comes is an answer to half a request, whose client may be at fault: an error of its says nothing of
    /// the origin.
    pub fn spares_the_origin(&mut self) {
        self.spares = true;
    }

    /// The head of the final answer came, and its body as far as rules read it.
    pub fn answered(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        json: Option<&Value>,
    ) -> CallOutcome {
        let verdict = self.judge(status, headers, json);
        self.ended(status, &verdict);
        self.charge.answered(status, verdict.is_ok(), headers, json);
        verdict
    }

    /// The same of an answer whose body is read while it passes: whether it is one to use is known
    /// then, and so whether calls like it go well.
    pub fn on_head_unread(&mut self, status: StatusCode, headers: &HeaderMap) -> CallOutcome {
        let verdict = self.judge(status, headers, None);
        if verdict.is_ok() && conduct(&self.record.place).rules.read_bodies() {
            self.unread = self.out.take();
        }
        if let Some(ActiveCall { traffic, mut ticket }) = self.unread.take() {
            let subject =
                LimitKeys::new(&self.knock, conduct(&self.record.place), &self.record.place);
            let (end, now) = (CallEnd::Answered(status), self.gate.clock.instant());
            self.learn(&traffic, |state| state.on_head(&subject, &mut ticket, &verdict, end, now));
            self.unread = Some(ActiveCall { traffic, ticket });
            self.gives_way();
        }
        self.ended(status, &verdict);
        self.charge.begun(status, verdict.is_ok(), headers);
        verdict
    }

    fn ended(&mut self, status: StatusCode, verdict: &CallOutcome) {
        self.record.answered(status);
        if self.verdict.is_none() {
            self.count(verdict);
        }
        self.settle(verdict, CallEnd::Answered(status));
        self.verdict = Some(verdict.clone());
    }

    /// The body of an answer that has passed on already: it may say more than its head did. Whether it
    /// is an answer to use.
    pub fn read(&mut self, status: StatusCode, headers: &HeaderMap, json: &Value) -> bool {
        let verdict = self.judge(status, headers, Some(json));
        self.charge.answered(status, verdict.is_ok(), headers, Some(json));
        if self.verdict.as_ref().is_none_or(|known| known.class != verdict.class) {
            self.count(&verdict);
        }
        let more = self.verdict.as_ref() != Some(&verdict) && !verdict.is_ok();
        match self.unread.take() {
            Some(out) => self.find_out(&out, &verdict),
            None if more => {
                if let Some(traffic) = self.gate.traffic(&self.record.place, &self.knock) {
                    self.find_out(&ActiveCall { traffic, ticket: Admission::default() }, &verdict);
                }
            }
            None => {}
        }
        verdict.is_ok()
    }

    /// No head came.
    pub fn failed(&mut self, failure: UpstreamError) {
        self.record.failed(failure.token());
        self.charge.failed();
        match classify::failure(failure) {
            Some(verdict) if failure.is_before_the_call() => {
                self.settle(&verdict, CallEnd::Unreached);
            }
            Some(verdict) => self.settle(&verdict, CallEnd::Broken),
            None => self.abandon(),
        }
    }

    /// All of the request was sent, and its answer is not waited for any longer.
    pub fn left(&mut self) {
        self.charge.left();
    }

    /// Its client has left before its head. Whether it is to go on without it: it counts until it is known
    /// what it comes to. That is so where the upstream's rules count calls by what becomes of them; elsewhere
    /// it ends, and the API learns at once that nobody waits. `whole`: all of its request is there; half of one
    /// is answered early, if ever, which only the ban guard is about.
    pub fn outlives_its_client(&mut self, whole: bool) -> bool {
        if whole {
            self.charge.left();
        }
        let Some(upstream) = &self.record.place.upstream else { return false };
        let guards = upstream.conduct.ban_guard.is_some();
        let bounds = upstream.conduct.rate_limit.in_flight < RateLimit::default().in_flight;
        if !(guards || whole && bounds) {
            return false;
        }
        if let Some(ActiveCall { traffic, ticket }) = &mut self.out {
            traffic.state.lock().come_back(ticket);
        }
        true
    }

    /// Whether it was answered with a limit of calls.
    pub fn is_limited(&self) -> bool {
        self.verdict.as_ref().is_some_and(CallOutcome::is_limit)
    }

    /// Its body is not one that rules can read: its head is all there is.
    pub fn finish_without_body(&mut self) {
        self.charge.unread();
        if let (Some(out), Some(verdict)) = (self.unread.take(), &self.verdict) {
            self.find_out(&out, verdict);
        }
    }

    /// The head of its answer is there: while its body is read, others find out how things are, too.
    pub fn gives_way(&mut self) {
        for ActiveCall { traffic, ticket } in
            [&mut self.out, &mut self.unread].into_iter().flatten()
        {
            traffic.state.lock().give_way(ticket);
            traffic.eased.notify_waiters();
        }
    }

    /// It is held up by its own client, which is slow to send or to take: others need not wait for it.
    pub fn step_aside(&mut self) {
        let now = self.gate.clock.instant();
        for ActiveCall { traffic, ticket } in
            [&mut self.out, &mut self.unread].into_iter().flatten()
        {
            let way = traffic.state.lock().step_aside(ticket, now);
            self.way = way.or(self.way.take());
            traffic.eased.notify_waiters();
        }
    }

    /// Tells when it has to make way: others wait for the place of a call that its own client holds up. `None`:
    /// it is none.
    pub fn way(&self) -> Option<Arc<Notify>> {
        self.way.clone()
    }

    /// What it had to wait for before it went out.
    pub fn waited(&self) -> Option<RejectReason> {
        self.waited
    }

    /// Whether the body of its answer says something that the head does not.
    pub fn reads_bodies(&self) -> bool {
        conduct(&self.record.place).reads_bodies()
    }

    /// Whether what it says may be that its answer is an error.
    pub fn judges_bodies(&self) -> bool {
        conduct(&self.record.place).rules.read_bodies()
    }

    fn judge(&self, status: StatusCode, headers: &HeaderMap, json: Option<&Value>) -> CallOutcome {
        let conduct: &UpstreamPolicy = conduct(&self.record.place);
        classify::answer(status, headers, json, &conduct.rules, self.gate.clock.now())
    }

    fn count(&self, verdict: &CallOutcome) {
        if let OutcomeClass::RateLimited(limit) = verdict.class {
            self.gate.account.rate_limited(self.record.place.index, limit.token());
        }
    }

    fn settle(&mut self, verdict: &CallOutcome, end: CallEnd) {
        let Some(ActiveCall { traffic, mut ticket }) = self.out.take() else { return };
        let subject = LimitKeys::new(&self.knock, conduct(&self.record.place), &self.record.place);
        let now = self.gate.clock.instant();
        let end = if self.spares { end.spared(verdict.class) } else { end };
        self.learn(&traffic, |state| state.on_completed(&subject, &mut ticket, verdict, end, now));
        traffic.eased.notify_waiters();
    }

    fn find_out(&self, ActiveCall { traffic, ticket }: &ActiveCall, verdict: &CallOutcome) {
        let subject = LimitKeys::new(&self.knock, conduct(&self.record.place), &self.record.place);
        let now = self.gate.clock.instant();
        self.learn(traffic, |state| state.on_outcome(&subject, ticket, verdict, now));
        traffic.eased.notify_waiters();
    }

    /// Learns from how the call ended; urgent changes are on disk soon.
    fn learn(&self, traffic: &UpstreamState, how: impl FnOnce(&mut LimiterState)) {
        let mut state = traffic.state.lock();
        how(&mut state);
        let (urgent, stopped) = (std::mem::take(&mut state.urgent), state.stopped.take());
        drop(state);
        if let Some((cause, time)) = stopped {
            let (cause, seconds) = (cause.token(), time.as_secs());
            let upstream = self.record.place.upstream.as_ref().map(|upstream| &*upstream.name);
            tracing::warn!(upstream, cause, seconds, "All calls to an upstream are held back");
        }
        if urgent {
            self.gate.traffics.nudge();
        }
    }

    fn abandon(&mut self) {
        let Some(ActiveCall { traffic, mut ticket }) = self.out.take() else { return };
        traffic.state.lock().abandoned(&mut ticket);
        traffic.eased.notify_waiters();
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.finish_without_body();
        self.abandon();
    }
}
