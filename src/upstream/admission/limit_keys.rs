//! The identifiers by which limits and cooldowns apply to one call.
//!
//! Owns: their derivation from a call, its policy and its target. Never touches: the limits.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::policy::upstream::UpstreamPolicy;
use crate::semantics::rate_limit::Bucket;
use crate::upstream::admission::call::CallContext;
use crate::upstream::admission::cooldown::CooldownScope;
use crate::upstream::admission::failure_groups::GroupMember;
use crate::upstream::routing::UpstreamTarget;

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
        let (target, policy) = (call.target(), call.upstream_policy());
        let credential = if target.credential().is_some() { 0 } else { call.credential };
        let origin = origin(target);
        let at_origin =
            |id: u64| xxh3_64(&(u128::from(origin) << 64 | u128::from(id)).to_le_bytes());
        let (endpoint, family) = (at_origin(call.shape), at_origin(call.family));
        Self { call, policy, origin, endpoint, family, credential }
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

fn origin(target: &UpstreamTarget) -> u64 {
    xxh3_64(format!("{}:{}", target.host, target.port).as_bytes())
}

/// The bucket of a call: one per credential, and per resource if the origin separates them.
pub(super) fn bucket_id(bucket: &Bucket, subject: &LimitKeys<'_>) -> u128 {
    let mut id = Xxh3::new();
    id.update(bucket.name.as_bytes());
    id.update(&subject.credential.to_be_bytes());
    if bucket.per_resource {
        id.update(&subject.call.resource.to_be_bytes());
    }
    id.digest128()
}
