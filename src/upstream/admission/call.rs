//! The description of a call for admission control.
//!
//! Owns: which limits and cooldowns apply to a call. Never touches: whether it is admitted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use tokio::sync::Notify;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::policy::upstream::UpstreamPolicy;
use crate::semantics::rate_limit::Bucket;
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::Target;
use crate::upstream::admission::cooldown::CooldownScope;
use crate::upstream::admission::failure_groups::GroupMember;
use crate::upstream::routed_request::RoutedRequest;
use crate::upstream::routing::UpstreamTarget;

/// A call that requests admission.
#[derive(Debug, Clone)]
pub struct CallContext {
    /// The request that the call is for.
    pub routed: Arc<RoutedRequest>,
    /// Whether a route or an upstream names the host. Other calls are never blocked.
    pub governed: bool,
    /// Whether a client waits for the call.
    pub audience: Arc<CallAudience>,
    /// The hash of the credential that the call uses. Zero: none.
    pub credential: u128,
    /// The key under which its response is stored, if it is.
    pub key: Option<u128>,
    /// The hash of the method and of the path without its ids. Calls of the same shape count towards the same
    /// limit of the origin.
    pub shape: u64,
    /// The hash of the first id in the path.
    pub resource: u64,
    /// The shape without the last path segment, which may be an id that does not look like one.
    pub family: u64,
    /// How long the call may wait for a cooldown to end.
    pub cooldown_wait: Duration,
    /// Whether a stale response can be served instead.
    pub has_stale: bool,
    /// Whether it is the first call for its request.
    pub attempt: AttemptKind,
    /// Set when the call is queued. Requests that wait for its response then do not start their own call.
    pub queued: Arc<AtomicBool>,
    /// Called each time the call is admitted.
    pub on_admitted: Callback,
    /// Called when its head has not arrived by the soft deadline.
    pub on_slow: Callback,
}

/// An optional callback.
#[derive(Clone, Default)]
pub struct Callback(Option<Arc<dyn Fn() + Send + Sync>>);

impl Callback {
    /// A callback that runs this function.
    pub fn new(callback: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(callback)))
    }

    pub(in crate::upstream) fn call(&self) {
        if let Some(callback) = &self.0 {
            callback();
        }
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Callback(set)" } else { "Callback(unset)" })
    }
}

/// Whether a call is a retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptKind {
    /// The first call for its request.
    First,
    /// A retry after calls that failed.
    Retry,
}

/// Whether a client waits for a call. A client may join while the call is queued, and all clients may leave.
#[derive(Debug)]
pub struct CallAudience {
    present: AtomicBool,
    changed: Notify,
}

/// A client waits.
impl Default for CallAudience {
    fn default() -> Self {
        Self { present: AtomicBool::new(true), changed: Notify::new() }
    }
}

impl CallAudience {
    /// No client waits yet: a background refresh.
    pub fn background() -> Self {
        Self { present: AtomicBool::new(false), ..Self::default() }
    }

    /// Sets whether a client waits from now on.
    pub fn set_present(&self, is_present: bool) {
        if self.present.swap(is_present, Ordering::AcqRel) != is_present {
            self.changed.notify_one();
        }
    }

    /// Whether a client waits.
    pub fn is_present(&self) -> bool {
        self.present.load(Ordering::Acquire)
    }

    /// Returns when this has changed. Only the call itself may wait for it.
    pub(super) async fn wait_for_change(&self) {
        self.changed.notified().await;
    }

    /// Returns once no client waits. Only the call itself may wait for it.
    pub async fn until_absent(&self) {
        while self.is_present() {
            self.wait_for_change().await;
        }
    }
}

impl CallContext {
    /// A call for `routed` with this credential. It has no stale response to fall back on and does not wait
    /// for cooldowns.
    pub fn new(routed: &Arc<RoutedRequest>, credential: u128) -> Self {
        let RoutedRequest { request: ProxyRequest { method, target, .. }, .. } = &**routed;
        let (shape, resource) = shape(method, target);
        Self {
            routed: Arc::clone(routed),
            governed: routed.route.is_some(),
            audience: Arc::default(),
            credential,
            key: None,
            shape,
            resource,
            family: family(method, target),
            cooldown_wait: Duration::ZERO,
            has_stale: false,
            attempt: AttemptKind::First,
            queued: Arc::default(),
            on_admitted: Callback::default(),
            on_slow: Callback::default(),
        }
    }

    /// Identifies the calls for the same resource by all clients: an SDK that signs its calls signs each of its
    /// tries anew.
    pub(super) fn retry_id(&self) -> u128 {
        let ProxyRequest { method, target, .. } = &self.routed.request;
        let mut id = Xxh3::new();
        for part in [method.as_str(), target.host(), target.path_and_query()] {
            id.update(part.as_bytes());
            id.update(b" ");
        }
        id.update(&target.port().to_be_bytes());
        id.digest128()
    }

    /// The upstream of the call.
    pub(in crate::upstream) fn target(&self) -> &UpstreamTarget {
        self.routed.upstream()
    }

    /// The same call at another upstream.
    #[cfg(test)]
    pub(super) fn at(&self, upstream: &UpstreamTarget) -> Self {
        Self { routed: Arc::new(self.routed.at(upstream)), ..self.clone() }
    }
}

/// The number of levels of failure groups.
pub(super) const LEVELS: usize = 3;

/// The policy and the identifiers by which limits apply to a call at its target.
pub(super) struct LimitKeys<'a> {
    pub(super) call: &'a CallContext,
    pub(super) policy: &'a UpstreamPolicy,
    /// The host and port, hashed.
    pub(super) origin: u64,
    /// The endpoint at this origin, and its family.
    pub(super) endpoint: u64,
    pub(super) family: u64,
    /// The credential that the origin sees. Zero if the upstream has a credential of its own.
    pub(super) credential: u128,
}

impl<'a> LimitKeys<'a> {
    pub(super) fn new(call: &'a CallContext) -> Self {
        let target = call.target();
        let credential = if target.credential().is_some() { 0 } else { call.credential };
        let origin = xxh3_64(format!("{}:{}", target.host, target.port).as_bytes());
        let at_origin = |id: u64| xxh3_64(&(u128::from(origin) << 64 | u128::from(id)).to_le_bytes());
        let (endpoint, family) = (at_origin(call.shape), at_origin(call.family));
        Self { call, policy: target.policy(), origin, endpoint, family, credential }
    }

    /// The limit of one credential for one endpoint, beside the buckets that the origin names.
    pub(super) fn endpoint_limit(&self) -> u128 {
        let mut id = Xxh3::new();
        id.update(b"endpoint");
        id.update(&self.credential.to_be_bytes());
        id.update(&self.endpoint.to_be_bytes());
        id.digest128()
    }

    /// The groups that the call belongs to, from the smallest to the largest.
    pub(super) fn levels(&self) -> [GroupMember; LEVELS] {
        let resource = || u128::from(self.call.resource);
        [
            GroupMember {
                group: CooldownScope::Endpoint(self.endpoint),
                number: self.call.key.unwrap_or_else(resource),
            },
            GroupMember { group: CooldownScope::Family(self.family), number: self.endpoint.into() },
            GroupMember { group: CooldownScope::Origin(self.origin), number: self.family.into() },
        ]
    }
}

/// The bucket of a call: one per credential, and per resource if the origin separates them.
pub(super) fn bucket_id(bucket: &Bucket, keys: &LimitKeys<'_>) -> u128 {
    let mut id = Xxh3::new();
    id.update(bucket.name.as_bytes());
    id.update(&keys.credential.to_be_bytes());
    if bucket.per_resource {
        id.update(&keys.call.resource.to_be_bytes());
    }
    id.digest128()
}

/// The family of the call's endpoint: the method and the parent path without ids.
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

/// An id is all digits, or a long token that contains digits, such as a UUID or a hash.
fn is_id(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let plain = segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    digits > 0 && (digits == segment.len() || (segment.len() >= 16 && plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape_of(path: &str) -> (u64, u64) {
        shape(&Method::GET, &Target::absolute(&format!("http://api.example{path}")).unwrap())
    }

    #[test]
    fn paths_that_differ_in_ids_have_one_shape_and_the_first_id_is_resource() {
        let (roles, guild) = shape_of("/api/v10/guilds/81384788765712384/roles");
        let (others, other) = shape_of("/api/v10/guilds/197038439483310086/roles?x=1");
        assert_eq!(roles, others);
        assert_ne!(guild, other);
        let (_, same) = shape_of("/api/v10/guilds/81384788765712384/members/5");
        assert_eq!(guild, same);
    }

    #[test]
    fn segments_other_than_ids_give_different_shapes() {
        let shapes = [
            shape_of("/v1/users").0,
            shape_of("/v2/users").0,
            shape_of("/v1/users/me").0,
            shape_of("/v1/users/5").0,
            shape_of("/v1/groups/5").0,
            shape_of("/v1/users/").0,
        ];
        for (at, shape) in shapes.iter().enumerate() {
            // An id leaves its segment empty, as a trailing slash does.
            let alike = shapes.iter().filter(|other| *other == shape).count();
            assert_eq!(alike, if at == 3 || at == 5 { 2 } else { 1 }, "{at}");
        }
        let method = shape(&Method::DELETE, &Target::absolute("http://api.example/v1/users").unwrap());
        assert_ne!(method.0, shapes[0]);
    }

    #[test]
    fn uuids_and_hashes_are_ids_and_words_are_not() {
        for id in ["1", "81384788765712384", "550e8400-e29b-41d4-a716-446655440000", "a1b2c3d4e5f6a7b8"] {
            assert!(is_id(id), "{id}");
        }
        for word in ["", "v10", "users", "@me", "global-metrics", "sha256", "a-very-long-word-indeed"] {
            assert!(!is_id(word), "{word}");
        }
    }
}
