//! Following a fill: what one client makes of what the fill publishes.
//!
//! Owns: whether this client may have that answer, stale instead of an error, how long it waits.
//! Never touches: fetching.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::StatusCode;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::account::ResultKind;
use crate::account::problem::Problem;
use crate::decide::{self, stand_in};
use crate::engine::Engine;
use crate::engine::body::Reader;
use crate::engine::flight::{Confirmed, Flight, Head, News, Published, Trouble};
use crate::engine::plan::Plan;
use crate::engine::reply::Reply;
use crate::semantics::cache_status::CacheStatus;
use crate::semantics::vary::{VariantId, Vary};
use crate::stored::Stored;
use crate::upstream::failure::Failure;
use crate::upstream::held::Held;

/// What following came to.
pub(crate) enum Followed {
    /// An answer for this client.
    Reply(Box<Reply>),
    /// The answer is another variant's; this client's is this one.
    OtherVariant(VariantId),
    /// The answer is somebody else's alone: ask for yourself.
    Alone(Option<OwnedSemaphorePermit>),
}

impl Followed {
    fn reply(reply: Reply) -> Self {
        Self::Reply(Box::new(reply))
    }
}

/// Whose fill this client follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Its own: it gets the answer whatever it is.
    Leader,
    /// Somebody else's.
    Waiter,
}

impl Engine {
    /// Follows a fill of one's own: its answer is this client's, whatever it is.
    pub(crate) async fn lead(&self, plan: &Plan<'_>, flight: &Flight, reader: Reader) -> Reply {
        let published = match self.heard(plan, flight).await {
            Ok(published) => published,
            Err(reply) => return *reply,
        };
        match published {
            Published::Failed(failure) => self.failed(plan, failure),
            Published::Confirmed(Confirmed { own, shared }) => {
                self.confirmed(plan, &own, shared.is_ok(), Role::Leader)
            }
            Published::Head(head) => self
                .instead_of(plan, &head)
                .unwrap_or_else(|| Self::growing(plan, &head, reader, Role::Leader)),
        }
    }

    /// Follows somebody else's fill until it publishes something, for `coalesce.wait` or so.
    pub(crate) async fn wait(
        &self,
        plan: &Plan<'_>,
        flight: &Arc<Flight>,
        reader: Reader,
    ) -> Followed {
        let published = match timeout(plan.policy.coalesce_wait, self.heard(plan, flight)).await {
            Ok(Ok(published)) => published,
            Ok(Err(reply)) => return Followed::Reply(reply),
            // The fill has other tries to come: a call of one's own would be one more of them.
            Err(_elapsed) if flight.is_in_trouble() => flight.published().await,
            Err(_elapsed) => match self.waited_enough(plan, flight).await {
                Ok(published) => published,
                Err(followed) => return followed,
            },
        };
        match published {
            Published::Failed(failure) => Followed::reply(self.failed(plan, failure)),
            Published::Confirmed(Confirmed { shared: Ok(stored), .. }) => {
                Followed::reply(self.confirmed(plan, &stored, true, Role::Waiter))
            }
            // Nothing may be shared: every waiter asks for itself, and none waits for another.
            Published::Confirmed(Confirmed { shared: Err(_), .. }) => Followed::Alone(None),
            Published::Head(head) => self.shared(plan, &head, reader),
        }
    }

    /// Waits for what the fill comes to; once it is in trouble, for whoever has something stale that is
    /// the answer, while the fill goes on behind.
    async fn heard(&self, plan: &Plan<'_>, flight: &Flight) -> Result<Published, Box<Reply>> {
        match flight.news().await {
            News::Published(published) => Ok(published),
            News::Trouble(Trouble { failure, status, cause }) => {
                match self.stale(plan, failure, status, cause) {
                    Some(reply) => Err(Box::new(reply)),
                    None => Ok(flight.published().await),
                }
            }
        }
    }

    /// What keeps calls to the origin back right now, where this client has something stale: that is
    /// its answer, and nobody is asked.
    pub(crate) fn kept_back(&self, plan: &Plan<'_>) -> Option<Reply> {
        if plan.stored.is_none() || !plan.fallback {
            return None;
        }
        let mut knock = self.knock(plan.asked, plan.route.index, plan.policy, Some(&plan.key));
        knock.yields = true;
        let held = self.origin.held(&plan.asked.target, &knock)?;
        self.in_place_of(plan, held)
    }

    /// What may stand in for an error, unless its right to has ended since it was looked up.
    fn standing_in<'p>(&self, plan: &'p Plan<'_>) -> Option<&'p Arc<Stored>> {
        let stored = plan.stored.as_ref().filter(|_| plan.fallback)?;
        self.has_its_right(&plan.key, stored).then_some(stored)
    }

    /// The stored response in the place of a call that is not made.
    fn in_place_of(&self, plan: &Plan<'_>, held: Held) -> Option<Reply> {
        let stored = self.standing_in(plan)?;
        let now = self.clock.now();
        let failure = held.as_error()?;
        let ttl = stand_in(plan.asked, plan.policy, plan.cache, stored, failure, now)?;
        let cause = held.cause.token();
        self.account.stale_served(plan.route.index, cause);
        let status = CacheStatus::hit(ttl).detail("stale-if-error", cause);
        Some(Reply::from_stored(plan.asked, stored, now, &status, ResultKind::Stale))
    }

    /// The wait is over and there is no head: stale if there is something, else this client asks for
    /// itself as soon as few enough others do, or takes what the fill brings after all.
    async fn waited_enough(
        &self,
        plan: &Plan<'_>,
        flight: &Arc<Flight>,
    ) -> Result<Published, Followed> {
        let cause = "coalesce-wait";
        if let Some(reply) = self.stale(plan, decide::Failure::Timeout, None, cause) {
            return Err(Followed::reply(reply));
        }
        if flight.in_line.load(Ordering::Relaxed) {
            return Ok(flight.published().await);
        }
        tokio::select! {
            published = flight.published() => Ok(published),
            Ok(permit) = Arc::clone(&flight.own_heads).acquire_owned() => {
                Err(Followed::Alone(Some(permit)))
            }
        }
    }

    fn failed(&self, plan: &Plan<'_>, failure: Failure) -> Reply {
        let stale = if let Failure::Held(held) = failure {
            self.in_place_of(plan, held)
        } else {
            failure.as_error().and_then(|error| self.stale(plan, error, None, failure.token()))
        };
        stale.unwrap_or_else(|| {
            if let Failure::Denied(why) = failure {
                self.account.denied(why.token());
            }
            let status = failure.told(plan.why.token());
            Reply::from_problem(plan.asked, &failure.problem(), &status).because(plan.why.token())
        })
    }

    fn confirmed(&self, plan: &Plan<'_>, stored: &Stored, kept: bool, role: Role) -> Reply {
        let now = self.clock.now();
        let mut status = CacheStatus::forwarded(plan.why.token()).status(StatusCode::NOT_MODIFIED);
        if kept {
            status = status.stored().ttl(plan.ttl(stored, now));
        }
        if role == Role::Waiter {
            status = status.collapsed();
        }
        let result = match role {
            Role::Leader => ResultKind::Revalidated,
            Role::Waiter => ResultKind::Coalesced,
        };
        Reply::from_stored(plan.asked, stored, now, &status, result).because(plan.why.token())
    }

    /// What a waiter makes of a head: stale instead of an error, a share of the body, or neither.
    fn shared(&self, plan: &Plan<'_>, head: &Head, reader: Reader) -> Followed {
        if let Some(reply) = self.instead_of(plan, head) {
            return Followed::reply(reply);
        }
        if head.shared.is_err() && !head.is_shared_error(plan.policy, plan.cache) {
            return Followed::Alone(None);
        }
        match self.other_variant(plan, head) {
            Some(other) => Followed::OtherVariant(other),
            None => Followed::reply(Self::growing(plan, head, reader, Role::Waiter)),
        }
    }

    /// The stored response in place of the error that this head is.
    fn instead_of(&self, plan: &Plan<'_>, head: &Head) -> Option<Reply> {
        self.stale(plan, head.failure, Some(head.status), head.cause)
    }

    /// The variant of this client, if it is not the one that was fetched.
    fn other_variant(&self, plan: &Plan<'_>, head: &Head) -> Option<VariantId> {
        let Vary::Fields(fields) = &head.vary else { return None };
        let mine = self.variant(plan.asked, fields);
        (head.variant != Some(mine)).then_some(mine)
    }

    fn growing(plan: &Plan<'_>, head: &Head, reader: Reader, role: Role) -> Reply {
        let mut status = CacheStatus::forwarded(plan.why.token()).status(head.status);
        if head.shared.is_ok() {
            let ttl = plan.ttl_of(head.kept_as(), &head.said, head.received);
            status = status.stored().ttl(ttl);
        }
        if role == Role::Waiter {
            status = status.collapsed();
        }
        if let Some((act, cause)) = head.detail {
            status = status.detail(act, cause);
        }
        let mut headers = match (role, &head.shared) {
            (Role::Waiter, Ok(shared)) => shared.clone(),
            (Role::Leader, _) | (Role::Waiter, Err(_)) => head.own.clone(),
        };
        status.append_to(&mut headers);
        let said = &head.said;
        let mut reply =
            Reply::from_growing(plan.asked, said, head.status, headers, head.length, reader);
        if role == Role::Waiter {
            reply.result = ResultKind::Coalesced;
        }
        reply.because(plan.why.token())
    }

    /// The stored response in place of an error, where policy and origin allow it.
    fn stale(
        &self,
        plan: &Plan<'_>,
        failure: decide::Failure,
        answered: Option<StatusCode>,
        cause: &'static str,
    ) -> Option<Reply> {
        let stored = self.standing_in(plan)?;
        let now = self.clock.now();
        let ttl = stand_in(plan.asked, plan.policy, plan.cache, stored, failure, now)?;
        let mut status = CacheStatus::forwarded(plan.why.token()).ttl(ttl);
        if let Some(answered) = answered {
            status = status.status(answered);
        }
        let status = status.detail("stale-if-error", cause);
        self.account.stale_served(plan.route.index, cause);
        let reply = Reply::from_stored(plan.asked, stored, now, &status, ResultKind::Stale);
        Some(reply.because(plan.why.token()))
    }

    /// Too many wait for this key already.
    pub(crate) fn too_many(&self, plan: &Plan<'_>) -> Reply {
        let cause = "waiters";
        if let Some(reply) = self.stale(plan, decide::Failure::Timeout, None, cause) {
            return reply;
        }
        let problem = Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "waiters_per_key",
            "too many requests wait for this answer already; see limits.waiters_per_key",
            "connection_limit_reached",
        )
        .retry_after(1);
        let status = CacheStatus::forwarded(plan.why.token());
        Reply::from_problem(plan.asked, &problem, &status).because(plan.why.token())
    }
}
