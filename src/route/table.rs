//! The table of routes, in file order.
//!
//! Owns: finding the first match; finding routes that never match.
//! Never touches: matching of one pattern (`pattern`).

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderName;

use crate::policy::{Policy, ScopeRule};
use crate::route::pattern::Pattern;
use crate::route::pattern::host::Index;
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::{Target, path_equivalence};

/// A route: name, pattern and policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The configured name, used as a label in metrics and logs.
    pub name: Arc<str>,
    /// Its index in the table, from 0; set by [`Table::new`].
    pub index: usize,
    /// The requests that it matches.
    pub pattern: Pattern,
    /// The policy for these requests.
    pub policy: Arc<Policy>,
}

/// All routes. A search checks only the routes indexed under the host, not all of them.
#[derive(Debug, Clone, Default)]
pub struct Table {
    routes: Vec<Arc<Route>>,
    exact: HashMap<Box<str>, Vec<usize>>,
    below: HashMap<Box<str>, Vec<usize>>,
    any: Vec<usize>,
    /// The routes whose scope comes from a field. Usually none; kept separately because every request needs
    /// them.
    scope_header_routes: Vec<usize>,
}

/// A route that never matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shadowed {
    /// The index of the route that never matches.
    pub route: usize,
    /// The index of the earlier route that matches all its requests.
    pub by: usize,
}

impl Table {
    /// A table of `routes` in their order; sets their indices.
    pub fn new(routes: Vec<Route>) -> Self {
        let mut table = Self::default();
        for (index, route) in routes.into_iter().enumerate() {
            let list = match route.pattern.host.index() {
                Index::Any => &mut table.any,
                Index::Below(end) => table.below.entry(end.into()).or_default(),
                Index::Exact(host) => table.exact.entry(host.into()).or_default(),
            };
            list.push(index);
            if matches!(route.policy.scope, ScopeRule::Header(_)) {
                table.scope_header_routes.push(index);
            }
            table.routes.push(Arc::new(Route { index, ..route }));
        }
        table
    }

    /// The first route that matches the request. `None` if an origin may interpret the path as one of another
    /// route, so that an unusual encoding cannot evade the policy of that route.
    pub fn find(&self, request: &ProxyRequest) -> Option<&Arc<Route>> {
        let path = request.target.path();
        let found = self.first(request, path)?;
        let interpreted =
            path_equivalence::lenient_form(path).and_then(|interpreted| self.first(request, &interpreted));
        interpreted.is_none_or(|interpreted| interpreted.index == found.index).then_some(found)
    }

    fn first(&self, request: &ProxyRequest, path: &str) -> Option<&Arc<Route>> {
        let (host, path) = (request.target.host(), &*path_equivalence::normalize(path));
        let exact = self.exact.get(host);
        let below = self.suffixes(host).filter_map(|end| self.below.get(end));
        let lists = exact.into_iter().chain(below).chain([&self.any]);
        let mut found: Option<&Arc<Route>> = None;
        for list in lists {
            let end = found.map_or(self.routes.len(), |route| route.index);
            let earlier = list.iter().take_while(|index| **index < end);
            let mut routes = earlier.filter_map(|index| self.routes.get(*index));
            found = routes.find(|route| route.pattern.matches_at(request, path)).or(found);
        }
        found
    }

    /// The fields in which apps name their users, on any route of the target's host. They are never sent to
    /// the origin, whichever route matches.
    pub fn scope_headers(&self, target: &Target) -> impl Iterator<Item = &HeaderName> {
        let (host, port) = (target.host(), target.port());
        let scope_header_routes = self.scope_header_routes.iter().filter_map(|index| self.routes.get(*index));
        let candidates = scope_header_routes.filter(move |route| route.pattern.host.matches(host, port));
        candidates.filter_map(|route| match &route.policy.scope {
            ScopeRule::Header(name) => Some(name),
            ScopeRule::Credential | ScopeRule::Shared => None,
        })
    }

    /// Whether any route matches this origin.
    pub fn has_route_for(&self, host: &str, port: u16) -> bool {
        self.routes.iter().any(|route| route.pattern.host.matches(host, port))
    }

    /// All routes in their order.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The routes that never match because an earlier route matches all their requests.
    pub fn shadowed(&self) -> Vec<Shadowed> {
        let shadowed = self.routes.iter().filter_map(|route| {
            let earlier = self.routes.iter().take(route.index);
            let by = earlier.into_iter().find(|e| e.pattern.covers(&route.pattern))?;
            Some(Shadowed { route: route.index, by: by.index })
        });
        shadowed.collect()
    }

    /// The suffixes of a host that a `*.` pattern can match: from each dot on.
    fn suffixes<'a>(&self, host: &'a str) -> impl Iterator<Item = &'a str> {
        let wanted = !self.below.is_empty();
        let dots = host.match_indices('.').filter(move |(at, _)| wanted && *at > 0);
        dots.filter_map(|(at, _)| host.get(at..))
    }
}

#[cfg(test)]
mod tests;
