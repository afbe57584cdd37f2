//! The cache engine: looks up, decides, serves from the store, or starts a fill that makes one upstream
//! fetch for all clients that request the same.
//!
//! Owns: fills, their readers, the response for each reader. Never touches: client connections (`proxy`
//! writes), origin connections (`upstream` reads), configuration.

pub mod body;
pub mod deps;
pub mod fast_path;
pub mod inflight;
pub mod lookup;
pub mod mode;
pub mod pass_through;
pub mod pending_calls;
pub mod persistent_facts;
pub mod purger;
pub mod request;
pub mod response;
pub mod router;

mod collapse;
mod entry_updates;
mod fill;
mod fill_guard;
mod fill_start;
mod fills;
mod forward;
mod fragmentation;
mod miss;
mod refusal_replay;
mod responder;
mod retry;
mod waiter;

use std::sync::Arc;
use std::time::SystemTime;

use crate::clock::Clock;
use crate::engine::deps::EngineDeps;
use crate::engine::entry_updates::EntryUpdates;
use crate::engine::fills::Fills;
use crate::engine::forward::Forwarder;
use crate::engine::lookup::StoreLookup;
use crate::engine::mode::ModeSwitch;
use crate::engine::pass_through::PassThroughEffects;
use crate::engine::purger::Purger;
use crate::engine::refusal_replay::RefusalReplay;
use crate::engine::responder::Responder;
use crate::engine::response::ClientResponse;
use crate::upstream::admission::call::CallContext;
use crate::upstream::admission::rejection::Rejection;
use crate::upstream::routed_request::RoutedRequest;

/// The engine. One per configuration, shared by all connections. Each part owns its fields.
pub struct Engine {
    lookup: Arc<StoreLookup>,
    updates: Arc<EntryUpdates>,
    fills: Arc<Fills>,
    responder: Arc<Responder>,
    forwarder: Forwarder,
    /// Applies the responses to requests that passed through to stored responses.
    pub pass_through: PassThroughEffects,
    /// Invalidates stored responses.
    pub purger: Arc<Purger>,
    refusals: RefusalReplay,
    switch: Arc<ModeSwitch>,
    clock: Clock,
}

impl Engine {
    /// Creates an engine from its dependencies.
    pub fn new(deps: &EngineDeps) -> Arc<Self> {
        let (lookup, purger) = (StoreLookup::new(deps), Purger::new(deps));
        let updates = EntryUpdates::new(deps, &lookup, &purger);
        let (fills, responder) = (Fills::new(deps, &lookup, &updates), Responder::new(deps, &updates));
        Arc::new(Self {
            forwarder: Forwarder::new(deps, &fills, &lookup, &responder),
            pass_through: PassThroughEffects::new(deps, &updates, &lookup, &responder, &purger),
            lookup,
            updates,
            fills,
            responder,
            purger,
            refusals: RefusalReplay::new(&deps.origin, &deps.key_builder),
            switch: Arc::clone(&deps.switch),
            clock: deps.clock.clone(),
        })
    }

    /// The current time of the engine's clock.
    pub fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// The context of an upstream call for `routed` that passes through.
    pub fn call_context(&self, routed: &Arc<RoutedRequest>) -> CallContext {
        self.fills.call_context(routed, None)
    }

    /// The API's own refusal in place of a call for `routed` that passes through and is not made.
    pub fn replay_refusal(
        &self,
        routed: &Arc<RoutedRequest>,
        rejection: Rejection,
    ) -> Option<ClientResponse> {
        self.refusals.response(routed, None, rejection)
    }

    /// Number of clients that wait for or read a fill that others may join.
    pub fn waiting(&self) -> usize {
        self.fills.waiting()
    }
}

#[cfg(test)]
mod tests;
