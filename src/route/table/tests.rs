//! The first match is found; routes that never match are reported.

use std::sync::Arc;

use http::{HeaderName, Method};
use proptest::prelude::{Strategy, prop_assert, prop_assert_eq, proptest};

use crate::policy::{Policy, ScopeRule};
use crate::route::pattern::{HostPattern, PathPattern, Pattern};
use crate::route::table::{Route, Shadowed, Table};
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::Target;

fn policy() -> Arc<Policy> {
    Arc::new(Policy::origin())
}

fn route(name: &str, host: &str, path: &str) -> Route {
    let pattern = Pattern {
        host: HostPattern::parse(host).expect(host),
        methods: vec![Method::GET],
        path: PathPattern::parse(path).expect(path),
        headers: Vec::new(),
        query: Vec::new(),
    };
    Route { name: name.into(), index: 0, pattern, policy: policy() }
}

fn found<'t>(table: &'t Table, url: &str) -> Option<&'t str> {
    let request = ProxyRequest::get(Target::absolute(url).expect(url));
    table.find(&request).map(|route| &*route.name)
}

#[test]
fn the_first_match_wins_for_every_kind_of_host_pattern() {
    let table = Table::new(vec![
        route("exact", "api.example", "/a"),
        route("below", "*.example", "/b"),
        route("any", "*", "/c"),
        route("late", "api.example", "/**"),
        route("last", "*", "/**"),
    ]);
    let table_of = [
        ("http://api.example/a", "exact"),
        ("http://api.example/b", "below"),
        ("http://x.y.example/b", "below"),
        ("http://api.example/c", "any"),
        ("http://api.example/d", "late"),
        ("http://other/d", "last"),
        ("http://example/b", "last"),
    ];
    for (url, name) in table_of {
        assert_eq!(found(&table, url), Some(name), "{url}");
    }
}

#[test]
fn an_empty_table_matches_nothing() {
    assert_eq!(found(&Table::default(), "http://a/"), None);
}

#[test]
fn routes_have_their_index() {
    let table = Table::new(vec![route("a", "a", "/"), route("b", "b", "/")]);
    let indices: Vec<_> = table.routes().iter().map(|route| route.index).collect();
    assert_eq!(indices, [0, 1]);
}

#[test]
fn a_route_after_a_wider_one_is_shadowed() {
    let table = Table::new(vec![
        route("wide", "*.example", "/api/**"),
        route("free", "api.example", "/other"),
        route("narrow", "api.example", "/api/{v}/users"),
    ]);
    assert_eq!(table.shadowed(), [Shadowed { route: 2, by: 0 }]);
}

fn any_route() -> impl Strategy<Value = Route> {
    ("(\\*|\\*\\.a|b\\.a|c\\.b\\.a|a)", "/(a|\\{x\\})?(/\\*\\*)?").prop_map(|(host, path)| {
        let path = if path == "//**" { "/**".to_owned() } else { path };
        route("any", &host, &path)
    })
}

proptest! {
    /// The index by host only speeds up a search through all routes.
    #[test]
    fn the_index_finds_what_a_search_in_order_finds(
        routes in proptest::collection::vec(any_route(), 0..12),
        host in "(a|b\\.a|c\\.b\\.a|d\\.c\\.b\\.a|x)", path in "/(a|b)?(/a)?",
    ) {
        let table = Table::new(routes);
        let target = Target::absolute(&format!("http://{host}{path}")).unwrap();
        let request = ProxyRequest::get(target);
        let found = table.first(&request, request.target.path());
        let searched = table.routes().iter().find(|route| route.pattern.matches(&request));
        prop_assert_eq!(
            found.map(|route| route.index),
            searched.map(|route| route.index)
        );
    }

    #[test]
    fn a_shadowed_route_is_never_found(
        routes in proptest::collection::vec(any_route(), 0..8),
        host in "(a|b\\.a|c\\.b\\.a|x)", path in "/(a|b)?(/a)?",
    ) {
        let table = Table::new(routes);
        let target = Target::absolute(&format!("http://{host}{path}")).unwrap();
        let index = table.find(&ProxyRequest::get(target)).map(|route| route.index);
        prop_assert!(table.shadowed().iter().all(|shadowed| Some(shadowed.route) != index));
    }
}

#[test]
fn scope_headers_apply_to_the_whole_host() {
    let with_scope_header = |host: &str, path: &str, name: &'static str| {
        let mut route = route("r", host, path);
        let scope = ScopeRule::Header(HeaderName::from_static(name));
        route.policy = Arc::new(Policy { scope, ..(*policy()).clone() });
        route
    };
    let table = Table::new(vec![
        route("plain", "api.example", "/**"),
        with_scope_header("api.example", "/users/**", "x-app-user"),
        with_scope_header("*.example", "/**", "x-any-user"),
        with_scope_header("other.test", "/**", "x-other-user"),
    ]);
    let scope_headers = |url: &str| -> Vec<&str> {
        let target = Target::absolute(url).unwrap();
        table.scope_headers(&target).map(HeaderName::as_str).collect()
    };
    assert_eq!(scope_headers("http://api.example/elsewhere"), ["x-app-user", "x-any-user"]);
    assert_eq!(scope_headers("http://b.example/"), ["x-any-user"]);
    assert!(scope_headers("http://third.test/").is_empty());
}

/// The first route may separate responses that the second does not.
#[test]
fn a_path_that_an_origin_may_read_as_another_routes_matches_none() {
    let table = Table::new(vec![
        route("own", "api.example", "/api/{v}/users/@me/**"),
        route("all", "api.example", "/api/**"),
    ]);
    for (path, name) in [
        ("/api/v10/users/@me", Some("own")),
        ("/api/v10/users/@%6De", Some("own")),
        ("/api/v10/user%73/@me/x", Some("own")),
        ("/api/v10/users/%40me", None),
        ("/api/v10/users/%2540me", None),
        ("/api/v10//users/@me", None),
        ("/api/v10/users/@me;x", None),
        ("/api/v10/users/7;x", Some("all")),
        ("/api/v4/projects/a%2Fb", Some("all")),
        ("/api/v10/search%20for//x", Some("all")),
    ] {
        assert_eq!(found(&table, &format!("http://api.example{path}")), name, "{path}");
    }
}
