//! The table of routes, in the order of the file.
//!
//! Owns: first match wins; which routes can never match.
//! Never touches: how one pattern matches (`pattern`).

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderName;

use crate::policy::{Policy, ScopeRule};
use crate::route::pattern::Pattern;
use crate::route::pattern::host::Index;
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::{Target, path_equivalence};

/// A route: its name, what it matches, what to do with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// The configured name: the label in metrics and logs.
    pub name: Arc<str>,
    /// Its place in the table, counted from 0; set by [`Table::new`].
    pub index: usize,
    /// Which requests.
    pub pattern: Pattern,
    /// What to do with them.
    pub policy: Arc<Policy>,
}

/// All routes. Finding one costs a look-up by host and the routes of that host, not all of them.
#[derive(Debug, Clone, Default)]
pub struct Table {
    routes: Vec<Route>,
    exact: HashMap<Box<str>, Vec<usize>>,
    below: HashMap<Box<str>, Vec<usize>>,
    any: Vec<usize>,
    /// The routes whose scope is named in a field. Usually none: every request asks.
    naming: Vec<usize>,
}

/// A route that no request reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shadowed {
    /// The index of the route that never matches.
    pub route: usize,
    /// The index of the earlier route that takes all its requests.
    pub by: usize,
}

impl Table {
    /// A table of `routes`, first match first; numbers them.
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
                table.naming.push(index);
            }
            table.routes.push(Route { index, ..route });
        }
        table
    }

    /// The route of a request: the first that matches; none where an origin may read the path as one of
    /// another route, whose rules must not be passed by an odd spelling.
    pub fn find(&self, asked: &ProxyRequest) -> Option<&Route> {
        let path = asked.target.path();
        let found = self.first(asked, path)?;
        let read = path_equivalence::as_read(path).and_then(|read| self.first(asked, &read));
        read.is_none_or(|read| read.index == found.index).then_some(found)
    }

    fn first(&self, asked: &ProxyRequest, path: &str) -> Option<&Route> {
        let (host, path) = (asked.target.host(), &*path_equivalence::normal(path));
        let exact = self.exact.get(host);
        let below = self.ends(host).filter_map(|end| self.below.get(end));
        let lists = exact.into_iter().chain(below).chain([&self.any]);
        let mut found: Option<&Route> = None;
        for list in lists {
            let end = found.map_or(self.routes.len(), |route| route.index);
            let earlier = list.iter().take_while(|index| **index < end);
            let mut routes = earlier.filter_map(|index| self.routes.get(*index));
            found = routes.find(|route| route.pattern.matches_at(asked, path)).or(found);
        }
        found
    }

    /// The fields in which apps name their users to larder, on any route of the target's host: no
    /// origin's business, whichever route the request takes.
    pub fn scope_headers(&self, target: &Target) -> impl Iterator<Item = &HeaderName> {
        let (host, port) = (target.host(), target.port());
        let naming = self.naming.iter().filter_map(|index| self.routes.get(*index));
        let near = naming.filter(move |route| route.pattern.host.matches(host, port));
        near.filter_map(|route| match &route.policy.scope {
            ScopeRule::Header(name) => Some(name),
            ScopeRule::Credential | ScopeRule::Shared => None,
        })
    }

    /// Whether any route is about this origin.
    pub fn names(&self, host: &str, port: u16) -> bool {
        self.routes.iter().any(|route| route.pattern.host.matches(host, port))
    }

    /// All routes, first match first.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The routes that can never match, because one earlier route always does.
    pub fn shadowed(&self) -> Vec<Shadowed> {
        let shadowed = self.routes.iter().filter_map(|route| {
            let earlier = self.routes.iter().take(route.index);
            let by = earlier.into_iter().find(|e| e.pattern.covers(&route.pattern))?;
            Some(Shadowed { route: route.index, by: by.index })
        });
        shadowed.collect()
    }

    /// The ends of a host that a `*.` pattern could name: from each dot on.
    fn ends<'a>(&self, host: &'a str) -> impl Iterator<Item = &'a str> {
        let wanted = !self.below.is_empty();
        let dots = host.match_indices('.').filter(move |(at, _)| wanted && *at > 0);
        dots.filter_map(|(at, _)| host.get(at..))
    }
}

#[cfg(test)]
mod tests;
