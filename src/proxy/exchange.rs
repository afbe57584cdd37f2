//! What is known about one exchange while it lasts.
//!
//! Owns: the facts that pingora's callbacks hand from one to the next. Never touches: acting on them.

use std::time::Instant;

use crate::account::ResultKind;
use crate::clock;
use crate::decide::Forward;
use crate::engine::head::Sent;
use crate::engine::recorded::Recording;
use crate::proxy::copied::Copied;
use crate::proxy::tries::Tries;
use crate::semantics::asked::Asked;
use crate::upstream::failure::Failure;
use crate::upstream::gate::Pass;

/// One exchange.
pub(super) struct Ctx {
    pub(super) asked: Option<Asked>,
    pub(super) route: usize,
    pub(super) since: Instant,
    pub(super) result: ResultKind,
    /// Why it is passed through.
    pub(super) why: Forward,
    /// The token recorded as the reason of a miss.
    pub(super) miss: Option<&'static str>,
    pub(super) error: Option<&'static str>,
    /// A failure that is known more exactly than pingora's error says.
    pub(super) failure: Option<Failure>,
    /// When it was passed through: its answer may bear on what is stored.
    pub(super) sent: Option<Sent>,
    /// The answer to a `POST` that is stored for later `GET`s.
    pub(super) recording: Option<Recording>,
    /// The pass-through's call at the gate.
    pub(super) pass: Option<Pass>,
    /// Its tries.
    pub(super) tries: Tries,
    /// The answer's body, where a rule reads it as it passes.
    pub(super) copy: Option<Copied>,
    pub(super) interim: u32,
}

impl Ctx {
    /// An exchange that begins now; `route` is the index that stands for no route.
    pub(super) fn new(route: usize) -> Self {
        Self {
            asked: None,
            route,
            since: clock::monotonic(),
            result: ResultKind::Bypass,
            why: Forward::Bypass,
            miss: None,
            error: None,
            failure: None,
            sent: None,
            recording: None,
            pass: None,
            tries: Tries::default(),
            copy: None,
            interim: 0,
        }
    }
}
