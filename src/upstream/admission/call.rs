//! What a call says of itself at the gate.
//!
//! Owns: which limits and holds a call is subject to. Never touches: whether it passes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use tokio::sync::Notify;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::policy::{Backoff, CooldownPolicy, Policy};
use crate::semantics::target::Target;

/// A call at the gate.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The route's index, for accounting.
    pub route: usize,
    /// Whether a route or an upstream names what is called: nothing else is ever kept back.
    pub governed: bool,
    /// Whether a client waits for it.
    pub audience: Arc<CallAudience>,
    /// The credential it is made with, hashed; zero: none.
    pub credential: u128,
    /// Under which key its answer is stored, if it is.
    pub key: Option<u128>,
    /// The method and the path with its ids left out, hashed: calls alike in it count towards one of
    /// the origin's limits.
    pub shape: u64,
    /// The first id in the path, hashed.
    pub resource: u64,
    /// The shape without the last segment, which may be an id that does not look like one.
    pub family: u64,
    /// How long failures hold.
    pub hold: CooldownPolicy,
    /// How long a rate limit without a word of the origin is held for.
    pub backoff: Backoff,
    /// Whether the origin's `Retry-After` is heard.
    pub heeds: bool,
    /// How long it may wait for a hold to end.
    pub patience: Duration,
    /// There is something stale to show in its place.
    pub yields: bool,
    /// Whether it is the first for its request.
    pub attempt: AttemptKind,
    /// Becomes true once it has to wait for its turn, for those who wait for its answer.
    pub in_line: Arc<AtomicBool>,
    /// Is told each time it goes out.
    pub goes_out: Callback,
}

/// What is to be told of something, if anything is.
#[derive(Clone, Default)]
pub struct Callback(Option<Arc<dyn Fn() + Send + Sync>>);

impl Callback {
    /// This is called.
    pub fn by(call: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(call)))
    }

    pub(super) fn tell(&self) {
        if let Some(call) = &self.0 {
            call();
        }
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Told" } else { "Untold" })
    }
}

/// Which of several calls for one request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptKind {
    /// The first.
    First,
    /// One after others that failed.
    Again,
}

/// Whether a client waits for a call: one may join while the call itself waits for its turn, and all may leave.
#[derive(Debug)]
pub struct CallAudience {
    is_there: AtomicBool,
    changed: Notify,
}

/// A client.
impl Default for CallAudience {
    fn default() -> Self {
        Self { is_there: AtomicBool::new(true), changed: Notify::new() }
    }
}

impl CallAudience {
    /// Nobody, for now: a refresh.
    pub fn nobody() -> Self {
        Self { is_there: AtomicBool::new(false), ..Self::default() }
    }

    /// Whether it is there from now on.
    pub fn is(&self, is_there: bool) {
        if self.is_there.swap(is_there, Ordering::AcqRel) != is_there {
            self.changed.notify_one();
        }
    }

    /// Whether it is there.
    pub fn is_there(&self) -> bool {
        self.is_there.load(Ordering::Acquire)
    }

    /// Returns when that has changed. For the one call that it is about.
    pub(super) async fn changes(&self) {
        self.changed.notified().await;
    }
}

impl CallContext {
    /// A call that `route` makes with this policy, by a client who has nothing stale to fall back on
    /// and does not wait.
    pub fn new(
        route: usize,
        policy: &Policy,
        method: &Method,
        target: &Target,
        credential: u128,
    ) -> Self {
        let (shape, resource) = shape(method, target);
        let family = family(method, target);
        Self {
            route,
            governed: true,
            audience: Arc::default(),
            credential,
            key: None,
            shape,
            resource,
            family,
            hold: policy.hold,
            backoff: policy.retry.backoff,
            heeds: policy.retry.honour_retry_after,
            patience: Duration::ZERO,
            yields: false,
            attempt: AttemptKind::First,
            in_line: Arc::default(),
            goes_out: Callback::default(),
        }
    }
}

/// The family of a call's endpoint.
fn family(method: &Method, target: &Target) -> u64 {
    let path = target.path().split('?').next().unwrap_or_default();
    let parent = path.trim_end_matches('/').rsplit_once('/').map(|(parent, _)| parent);
    let parent = parent.filter(|parent| !parent.is_empty()).unwrap_or(path);
    let mut family = Xxh3::new();
    family.update(method.as_str().as_bytes());
    for segment in parent.split('/').filter(|segment| !is_id(segment)) {
        family.update(b"/");
        family.update(segment.as_bytes());
    }
    family.digest()
}

/// The shape and the resource of a call.
pub fn shape(method: &Method, target: &Target) -> (u64, u64) {
    let mut shape = Xxh3::new();
    shape.update(method.as_str().as_bytes());
    let mut resource = None;
    for segment in target.path().split('?').next().unwrap_or_default().split('/') {
        shape.update(b"/");
        if is_id(segment) {
            resource.get_or_insert_with(|| xxh3_64(segment.as_bytes()));
        } else {
            shape.update(segment.as_bytes());
        }
    }
    (shape.digest(), resource.unwrap_or_default())
}

/// Digits alone, or a long word with digits in it such as a UUID or a hash.
fn is_id(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let plain = segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    digits > 0 && (digits == segment.len() || (segment.len() >= 16 && plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> (u64, u64) {
        shape(&Method::GET, &Target::absolute(&format!("http://api.example{path}")).unwrap())
    }

    #[test]
    fn paths_that_differ_in_ids_alone_have_one_shape_and_the_first_id_is_the_resource() {
        let (roles, guild) = of("/api/v10/guilds/81384788765712384/roles");
        let (others, other) = of("/api/v10/guilds/197038439483310086/roles?x=1");
        assert_eq!(roles, others);
        assert_ne!(guild, other);
        let (_, same) = of("/api/v10/guilds/81384788765712384/members/5");
        assert_eq!(guild, same);
    }

    #[test]
    fn what_is_no_id_tells_shapes_apart() {
        let shapes = [
            of("/v1/users").0,
            of("/v2/users").0,
            of("/v1/users/me").0,
            of("/v1/users/5").0,
            of("/v1/groups/5").0,
            of("/v1/users/").0,
        ];
        for (at, shape) in shapes.iter().enumerate() {
            // An id leaves its place empty, as the last slash does.
            let alike = shapes.iter().filter(|other| *other == shape).count();
            assert_eq!(alike, if at == 3 || at == 5 { 2 } else { 1 }, "{at}");
        }
        let method =
            shape(&Method::DELETE, &Target::absolute("http://api.example/v1/users").unwrap());
        assert_ne!(method.0, shapes[0]);
    }

    #[test]
    fn uuids_and_hashes_are_ids_and_words_are_not() {
        for id in
            ["1", "81384788765712384", "550e8400-e29b-41d4-a716-446655440000", "a1b2c3d4e5f6a7b8"]
        {
            assert!(is_id(id), "{id}");
        }
        for word in
            ["", "v10", "users", "@me", "global-metrics", "sha256", "a-very-long-word-indeed"]
        {
            assert!(!is_id(word), "{word}");
        }
    }
}
