//! Conversion of YAML to values: defaults, all rules that refuse a value, and warnings.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::StatusCode;
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use crate::config::diagnostics::{Report, WarningKind};
use crate::config::env::Env;
use crate::config::file_source::{Contents, FileSource};
use crate::config::{
    Admin, Config, DestinationRule, Destinations, Limits, Log, Ports, Store, UpstreamTls, defaults,
    load_admin, parse, read,
};
use crate::policy::timeouts::Timeouts;
use crate::policy::upstream::UpstreamPolicy;
use crate::policy::{
    CooldownPolicy, ErrorMatch, Mode, Policy, QueryRule, RetryPolicy, ScopeRule, SetCookiePolicy,
    StaleIfError, StatusMatch, Ttl,
};
use crate::semantics::target::Scheme;

/// Parses a file that consists of `version: 1` and `rest`.
fn valid(rest: &str) -> Config {
    let text = format!("version: 1\n{rest}");
    parse("proxy.yaml", &text, &Env::default()).unwrap_or_else(|report| panic!("{report}"))
}

fn invalid(rest: &str) -> Report {
    parse("proxy.yaml", &format!("version: 1\n{rest}"), &Env::default()).expect_err(rest)
}

fn policy(rest: &str) -> Policy {
    let config = valid(&format!("routes: [{{ name: r, match: {{ host: a }}, {rest} }}]\n"));
    (*config.routes.routes()[0].policy).clone()
}

/// Files with fixed contents.
struct FixedFiles(HashMap<PathBuf, Contents>);

impl FileSource for FixedFiles {
    fn read(&self, path: &Path, _: usize) -> io::Result<Contents> {
        self.0.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn with_file(text: &str, path: &str, content: &str, open_to_all: bool) -> Result<Config, Report> {
    let contents = Contents { bytes: content.as_bytes().to_vec(), open_to_all };
    let files = FixedFiles([(PathBuf::from(path), contents)].into());
    read("/etc/larder/proxy.yaml", text, &Env::default(), &files)
}

#[test]
fn a_file_with_only_its_version_has_all_defaults() {
    let config = valid("");
    assert_eq!(config.listen, [defaults::LISTEN]);
    assert_eq!(config.admin.unwrap().listen, defaults::ADMIN);
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.log, Log::default());
    assert_eq!(config.store, Store::default());
    assert_eq!(config.destinations, Destinations::default());
    assert!(config.access.clients.is_empty() && config.access.users.is_none());
    assert!(config.routes.routes().is_empty() && config.upstreams.is_empty());
    assert_eq!(config.secret_query, defaults::SECRET_QUERY);
    assert_eq!(config.mode, Mode::Cache);
    assert!(config.warnings.is_empty());
}

#[test]
fn the_mode_is_one_of_three_keywords() {
    for mode in Mode::ALL {
        assert_eq!(valid(&format!("defaults: {{ mode: {} }}", mode.token())).mode, mode);
    }
    for wrong in ["shadow", "[cache]", "Cache"] {
        assert_eq!(invalid(&format!("defaults: {{ mode: {wrong} }}")).problems().len(), 1);
    }
}

/// Style rule 24: the reference file documents the defaults.
#[test]
fn the_reference_file_contains_the_defaults() {
    let text = include_str!("../../proxy.yaml");
    let config = parse("proxy.yaml", text, &Env::default()).unwrap_or_else(|r| panic!("{r}"));
    let bare = valid("");
    assert_eq!(config.warnings_to_log().count(), 0, "it starts without a warning");
    assert_eq!(config.listen, bare.listen);
    assert_eq!(config.admin, bare.admin);
    assert_eq!(config.limits, bare.limits);
    assert_eq!(config.log, bare.log);
    assert_eq!(config.store.path.components().next_back(), bare.store.path.components().next_back());
    assert_eq!(Store { path: bare.store.path.clone(), ..config.store }, bare.store);
    assert_eq!(config.destinations, bare.destinations);
    assert_eq!(config.credential_headers, bare.credential_headers);
    assert_eq!(config.secret_query, bare.secret_query);
    assert_eq!(config.mode, bare.mode);
    assert_eq!(config.cooldown, bare.cooldown);
    assert_eq!(config.upstreams[0].timeouts, Timeouts::default());
    assert_eq!(config.upstreams[0].tls, UpstreamTls::default());
    assert_eq!(config.upstreams[0].policy, UpstreamPolicy::default());
    assert_eq!(config.upstreams[0].credential, None);
    for built_in in defaults::SECRET_QUERY {
        assert!(text.contains(built_in), "the reference names {built_in}");
    }
    let demo = &config.routes.routes()[1].policy;
    assert_eq!(demo.scope, ScopeRule::Credential);
    assert_eq!(demo.coalesce_wait, defaults::COALESCE_WAIT);
    assert_eq!(demo.stale_if_error.on, StaleIfError::default().on);
    assert_eq!((demo.retry.clone(), demo.cooldown), (RetryPolicy::default(), CooldownPolicy::default()));
    assert_eq!(demo.set_cookie, SetCookiePolicy::Refuse);
    assert_eq!(demo.key.query, QueryRule::All);
}

#[test]
fn each_form_of_ttl_is_parsed_as_documented() {
    let minutes = |m: u64| Duration::from_secs(m * 60);
    let table = [
        ("ttl: 30m", Ttl::Override(minutes(30))),
        ("ttl: forever", Ttl::Forever),
        ("ttl: origin", Ttl::Origin),
        ("scope: credential", Ttl::Origin),
        ("ttl: { fallback: 30m }", Ttl::Fallback(minutes(30))),
        ("ttl: { min: 1m, max: 1h }", Ttl::Clamp { min: minutes(1), max: minutes(60) }),
        ("ttl: { max: 1h }", Ttl::Clamp { min: Duration::ZERO, max: minutes(60) }),
        ("ttl: { min: 1m }", Ttl::Clamp { min: minutes(1), max: defaults::LONGEST_TTL }),
    ];
    for (text, ttl) in table {
        assert_eq!(policy(text).ttl, ttl, "{text}");
    }
}

#[test]
fn default_windows_apply_only_where_ttl_overrides_the_origin() {
    let read = |route: &str| {
        let text = format!(
            "defaults: {{ stale_if_error: {{ for: 1h, on: [connect] }}, stale_while_revalidate: 1m }}\n\
             routes: [{{ name: r, match: {{ host: a }}, {route} }}]\n"
        );
        (*valid(&text).routes.routes()[0].policy).clone()
    };
    let hour = Some(Duration::from_secs(3600));
    let minute = Some(Duration::from_secs(60));
    let overriding = read("ttl: 1s");
    assert_eq!(overriding.stale_if_error.window, hour);
    assert_eq!(overriding.stale_while_revalidate, minute);
    let origin = read("ttl: origin");
    assert_eq!(origin.stale_if_error.window, None);
    assert_eq!(origin.stale_while_revalidate, None);
    assert_eq!(origin.stale_if_error.on, [ErrorMatch::Connect], "the list of errors applies to every route");
    let explicit = read("stale_if_error: { for: 1m }, stale_while_revalidate: 1h");
    assert_eq!(explicit.stale_if_error.window, minute);
    assert_eq!(explicit.stale_while_revalidate, hour);
    assert_eq!(explicit.stale_if_error.on, [ErrorMatch::Connect]);
}

#[test]
fn a_single_status_is_matched_before_its_class() {
    let policy = policy("ttl_by_status: { 5xx: 1m, 404: 5m, 503: 1s }");
    let statuses: Vec<_> = policy.ttl_by_status.iter().map(|(status, _)| *status).collect();
    let exact = |code| StatusMatch::Exact(StatusCode::from_u16(code).unwrap());
    assert_eq!(statuses, [exact(404), exact(503), StatusMatch::Class(5)]);
}

#[test]
fn a_status_that_is_never_stored_has_no_ttl() {
    for status in ["206", "304", "400", "413", "414", "431", "1xx", "100", "199"] {
        let report = invalid(&format!(
            "routes: [{{ name: r, match: {{ host: a }}, ttl_by_status: {{ {status}: 5m }} }}]"
        ));
        assert!(report.to_string().contains("is never stored"), "{status}: {report}");
    }
}

#[test]
fn ttl_jitter_of_a_route_overrides_that_of_defaults() {
    let config = valid(
        "defaults: { ttl_jitter: 10% }\n\
         routes:\n  - { name: a, match: { host: a }, ttl: 1h, ttl_jitter: 0.25 }\n  \
         - { name: b, match: { host: b }, ttl: 1h }\n  \
         - { name: c, match: { host: c }, ttl: 1h, ttl_jitter: 0% }\n",
    );
    let shares = config.routes.routes().iter().map(|route| route.policy.ttl_jitter);
    let wanted = [0.25, 0.1, 0.0];
    assert!(shares.zip(wanted).all(|(share, wanted)| (share - wanted).abs() < 1e-12));
    assert!(valid("").routes.routes().is_empty());
}

#[test]
fn keys_of_later_versions_are_unknown_like_any_other() {
    let top = ["jobs: []", "hooks: []"];
    let inside = [
        "store: { compression: zstd }",
        "store: { shared: {} }",
        "defaults: { targeted_cache_control: [CDN-Cache-Control] }",
    ];
    let routes = ["refresh_ahead: {}", "tags: []", "invalidate: {}", "batch: {}", "key: { body: sha256 }"];
    let routes = routes.map(|key| format!("routes: [{{ name: r, match: {{ host: a }}, {key} }}]"));
    for text in top.iter().chain(&inside).map(ToString::to_string).chain(routes) {
        let report = invalid(&text);
        assert_eq!(report.problems().len(), 1, "{report}");
        assert!(report.to_string().contains("is not a known key"), "{report}");
    }
}

#[test]
fn a_listener_that_other_hosts_can_reach_needs_access_rules() {
    // FWD-11.
    let others = ["0.0.0.0:3128", "\"[::]:3128\"", "10.0.0.1:3128", "[127.0.0.1:1, 192.0.2.1:2]"];
    for listen in others {
        let report = invalid(&format!("listen: {listen}\n"));
        assert!(report.to_string().contains("would be an open proxy"), "{listen}: {report}");
        valid(&format!("listen: {listen}\naccess: {{ clients: [10.0.0.0/8] }}\n"));
    }
    let own = ["127.0.0.1:3128", "127.9.9.9:1", "\"[::1]:1\"", "\"[::ffff:127.0.0.1]:1\"", "127.0.0.1:0"];
    for listen in own {
        valid(&format!("listen: {listen}\n"));
    }
}

#[test]
fn a_network_of_all_addresses_is_allowed_with_a_warning() {
    let config = valid("listen: 0.0.0.0:1\naccess: { clients: [0.0.0.0/0] }\n");
    assert_eq!(config.warnings[0].kind, WarningKind::Open);
}

#[test]
fn cfg_07_an_admin_listener_that_others_can_reach_needs_access_rules() {
    assert!(valid("admin: off").admin.is_none());
    for text in [
        "admin: { listen: 0.0.0.0:9901 }",
        "admin: { listen: \"[::]:9901\" }",
        "admin: { listen: 0.0.0.0:9901, allow: [] }",
    ] {
        let report = invalid(text).to_string();
        assert!(report.contains("can be reached by other hosts"), "{text}: {report}");
        assert!(report.contains("admin.token_file") && report.contains("admin.allow"), "{report}");
    }
    let admin = valid("admin: { listen: 0.0.0.0:9901, allow: [10.0.0.0/8] }").admin.unwrap();
    assert!(admin.is_reachable() && admin.token.is_none());
    assert_eq!(admin.allow, ["10.0.0.0/8".parse().unwrap()]);
    assert!(!valid("admin: { listen: \"[::ffff:127.0.0.1]:0\" }").admin.unwrap().is_reachable());
    let open = valid("admin: { listen: 0.0.0.0:9901, allow: [0.0.0.0/0] }");
    assert_eq!(open.warnings[0].kind, WarningKind::Open);
}

#[test]
fn the_admin_listener_is_not_the_proxys_own() {
    let report = invalid("listen: 127.0.0.1:1\nadmin: { listen: 127.0.0.1:1 }");
    assert!(report.to_string().contains("the proxy's own address"), "{report}");
    valid("listen: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }");
}

#[test]
fn the_users_file_must_not_be_readable_by_others() {
    let text = "version: 1\nlisten: 0.0.0.0:1\naccess: { users_file: users }\n";
    let users = "# people\nann:s3cret\n\nbob:pass:word\r\n";
    let config = with_file(text, "/etc/larder/users", users, false).unwrap();
    let read = config.access.users.clone().unwrap();
    assert_eq!(read.0[0], ("ann".to_owned(), "s3cret".to_owned()));
    assert_eq!(read.0[1], ("bob".to_owned(), "pass:word".to_owned()));
    assert!(!format!("{config:?}").contains("s3cret"));
    let report = with_file(text, "/etc/larder/users", users, true).expect_err("readable");
    assert!(report.to_string().contains("chmod o="), "{report}");
    for (content, what) in [("s3cret\n", "line 1 of the file"), ("", "names no user"), (":x\n", "line 1")] {
        let report = with_file(text, "/etc/larder/users", content, false).expect_err(content);
        assert!(report.to_string().contains(what), "{report}");
        assert!(!report.to_string().contains("s3cret"), "{report}");
    }
    let report = with_file(text, "/elsewhere", users, false).expect_err("missing");
    assert!(report.to_string().contains("cannot be read"), "{report}");
    assert_eq!(report.problems().len(), 1, "a missing file is not also an open proxy: {report}");
}

#[test]
fn the_token_file_must_not_be_readable_and_the_token_is_never_printed() {
    let text = "version: 1\nadmin: { listen: 0.0.0.0:1, token_file: token }\n";
    let token = "s3cret-s3cret-s3cret\n";
    let config = with_file(text, "/etc/larder/token", token, false).unwrap();
    assert_eq!(config.admin.clone().unwrap().token.unwrap().reveal(), token.trim_end());
    assert!(!format!("{config:?}").contains("s3cret"));
    let report = with_file(text, "/etc/larder/token", token, true).expect_err("readable");
    assert!(report.to_string().contains("chmod o="), "{report}");
    for content in ["s3cret\n", "", "s3cret-s3cret-s3cret\nsecond\n"] {
        let report = with_file(text, "/etc/larder/token", content, false).expect_err(content);
        assert!(report.to_string().contains("admin.token_file: the file contains"), "{report}");
        assert!(report.to_string().contains("/dev/urandom"), "{report}");
        assert!(!report.to_string().contains("s3cret"), "{report}");
    }
    let report = with_file(text, "/elsewhere", token, false).expect_err("missing");
    assert_eq!(report.problems().len(), 1, "a missing token file is not also reported as open: {report}");
}

#[test]
fn the_admin_section_is_read_even_if_the_rest_is_invalid() {
    let env = Env::default();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("proxy.yaml");
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        load_admin(&file, &env)
    };
    let config = read("version: 9\nlimts: {}\nadmin: { listen: 127.0.0.1:7 }\nroutes: 5\n");
    assert_eq!(config.admin.unwrap().listen, "127.0.0.1:7".parse().unwrap());
    assert!(config.report.is_none(), "the rest is not read");
    assert!(read("admin: off").admin.is_none());
    assert_eq!(read("version: 1").admin, Some(Admin::default()));
    for text in ["{", "- a list", ""] {
        assert_eq!(read(text).admin, Some(Admin::default()), "{text}");
    }
    let config = read("admin: { listen: 127.0.0.1:7, token_file: none }");
    assert_eq!(config.admin.unwrap().listen, "127.0.0.1:7".parse().unwrap());
    assert!(config.report.unwrap().to_string().contains("admin.token_file: the file cannot be read"));
    let missing = load_admin(&directory.path().join("none.yaml"), &env);
    assert!(missing.report.unwrap().to_string().contains("no such file"));
}

#[test]
fn extra_roots_contain_a_certificate() {
    let text = "version: 1\nupstreams: { u: { hosts: [a], tls: { extra_roots: [r.pem], http2: false } } }";
    let pem = "-----BEGIN CERTIFICATE-----\n";
    let config = with_file(text, "/etc/larder/r.pem", pem, true).unwrap();
    assert_eq!(config.upstreams[0].tls.extra_roots, [PathBuf::from("/etc/larder/r.pem")]);
    assert!(!config.upstreams[0].tls.http2);
    let report = with_file(text, "/etc/larder/r.pem", "key", true).expect_err("no certificate");
    assert!(report.to_string().contains("contains no certificate"), "{report}");
}

#[test]
fn environment_variables_fill_scalars_and_never_become_structure() {
    // CFG-05.
    let env: Env = [
        ("HOST", "api.example\n"),
        ("TTL", "5M"),
        ("BAD", "x, { y: z }\nlisten: 192.0.2.77:1"),
        ("PORT", "81"),
    ]
    .into_iter()
    .collect();
    let read = |rest: &str| parse("p", &format!("version: 1\n{rest}"), &env);
    let config = read("listen: 127.0.0.1:${PORT}\nroutes: [{ name: r, match: { host: \"${HOST}\" } }]");
    let config = config.unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(config.listen, ["127.0.0.1:81".parse::<SocketAddr>().unwrap()]);
    assert_eq!(config.routes.routes()[0].pattern.host.exact(), Some("api.example"));
    let report = read("routes: [{ name: r, match: { host: \"${NONE}\" } }]").expect_err("unset");
    assert!(report.to_string().contains("environment variable NONE is not set"), "{report}");
    for text in [
        "routes: [{ name: r, match: { host: \"${BAD}\" } }]",
        "routes: [{ name: \"${BAD}\", match: { host: a } }]",
        "routes: [{ name: r, match: { host: a }, ttl: \"${TTL}\" }]",
        "listen: \"${BAD}\"",
        "log: { level: \"${BAD}\" }",
        "limits: { head: \"${TTL}\" }",
        "limits: { headers: \"${BAD}\" }",
        "credential_headers: [\"${BAD}\"]",
        "secret_query: [\"a&${BAD}\"]",
        "destinations: { allow: [\"${BAD}\"], ports: \"${BAD}\" }",
        "access: { clients: \"${BAD}\" }",
        "upstreams: { u: { hosts: [\"https://${BAD}\"] } }",
        "resolve: { a: \"${BAD}\" }",
        "version: \"${BAD}\"",
    ] {
        let text = if text.starts_with("version") { text.to_owned() } else { format!("version: 1\n{text}") };
        let report = parse("p", &text, &env).expect_err(&text).to_string();
        assert!(report.contains("not shown"), "{report}");
        for value in ["5M", "5 months", "`5m`", "y: z", "192.0.2.77"] {
            assert!(!report.contains(value), "{value} in {report}");
        }
    }
}

#[test]
fn a_store_that_one_response_could_fill_is_refused() {
    valid("store: { memory: 32MiB, max_object: 8MiB }");
    let report = invalid("store: { memory: 31MiB }").to_string();
    assert!(report.contains("4 times that, `32MiB`"), "{report}");
    assert!(invalid("store: { max_object: 64MiB }").to_string().contains("`256MiB`"));
    let report = invalid("limits: { in_flight: 1MiB }\nstore: { memory: 64MiB }").to_string();
    assert!(report.contains("limits.in_flight"), "{report}");
}

#[test]
fn one_users_cookies_cannot_be_sent_to_all() {
    let keep =
        |rest: &str| format!("routes: [{{ name: r, match: {{ host: a }}, set_cookie: keep, {rest} }}]");
    assert!(invalid(&keep("scope: shared, ttl: 1m")).to_string().contains("cookies to all"));
    assert!(invalid(&keep("scope: shared, ttl: forever")).to_string().contains("cookies to all"));
    valid(&keep("scope: shared, ttl: origin"));
    valid(&keep("scope: credential, ttl: 1m"));
    assert_eq!(policy("set_cookie: strip, scope: shared, ttl: 1m").set_cookie, SetCookiePolicy::Strip);
}

#[test]
fn shared_scope_is_allowed_on_a_route_and_refused_in_defaults() {
    // CFG-07.
    assert_eq!(policy("scope: shared").scope, ScopeRule::Shared);
    assert!(invalid("defaults: { scope: shared }").to_string().contains("on each route"));
    let config =
        valid("defaults: { scope: { header: X-Larder-User } }\nroutes: [{ name: r, match: { host: a } }]");
    let header = http::HeaderName::from_static("x-larder-user");
    assert_eq!(config.routes.routes()[0].policy.scope, ScopeRule::Header(header));
    for header in ["Authorization", "cookie", "Host", "connection", "a b"] {
        invalid(&format!("defaults: {{ scope: {{ header: {header} }} }}"));
    }
}

#[test]
fn a_field_that_identifies_a_user_cannot_be_ignored() {
    let with =
        |top: &str, route: &str| format!("{top}\nroutes: [{{ name: r, match: {{ host: a }}, {route} }}]\n");
    for (top, route) in [
        ("credential_headers: [X-Stripe]", "key: { ignore_headers: [X-Stripe] }"),
        ("", "scope: { header: X-U }, key: { ignore_headers: [X-U] }"),
        ("", "key: { headers: [X-V], ignore_headers: [X-V] }"),
        ("", "key: { ignore_headers: [Authorization] }"),
        ("", "key: { ignore_headers: [X_Forwarded_Host] }"),
    ] {
        let report = invalid(&with(top, route)).to_string();
        assert!(report.contains("ignore_headers"), "{report}");
    }
    valid(&with("credential_headers: [X-Stripe]", "key: { ignore_headers: [X-Other] }"));
}

#[test]
fn a_wildcard_is_not_a_field_or_parameter_name() {
    let route = |rest: &str| format!("routes: [{{ name: r, match: {{ host: a }}, {rest} }}]");
    let upstream = |rest: &str| format!("upstreams: {{ a: {{ hosts: [a], {rest} }} }}");
    let matching = |rest: &str| format!("routes: [{{ name: r, match: {{ host: a, {rest} }} }}]");
    for (text, what) in [
        (route("key: { ignore_headers: ['*'] }"), "is a wildcard"),
        (route("key: { ignore_headers: ['x-*'] }"), "is a wildcard"),
        (route("key: { ignore_headers: ['X Y'] }"), "is not the name"),
        (route("key: { ignore_headers: ['X-Y:'] }"), "is not the name"),
        (route("key: { ignore_headers: ['X-Y?'] }"), "is not the name"),
        (route("key: { headers: ['*'] }"), "is a wildcard"),
        (route("key: { headers: ['Accept, Accept-Language'] }"), "is not the name"),
        (route("key: { query: { include: ['*'] } }"), "is a wildcard"),
        (route("key: { query: { exclude: ['utm_*'] } }"), "is a wildcard"),
        (route("scope: { header: '*' }"), "is a wildcard"),
        (route("targeted_cache_control: ['*-Cache-Control']"), "is a wildcard"),
        (matching("headers: { '*': x }"), "is a wildcard"),
        (matching("query: { 'utm_*': x }"), "is a wildcard"),
        ("credential_headers: ['X-*']".to_owned(), "is a wildcard"),
        ("secret_query: ['*']".to_owned(), "is a wildcard"),
        (upstream("credential: { header: '*', from_env: K }"), "is a wildcard"),
        (upstream("cost: { credits: { header: 'X-*' } }"), "is a wildcard"),
        (upstream("mount: { path: /a, allow_hosts: '*' }"), "is not a name"),
    ] {
        let report = invalid(&text).to_string();
        assert!(report.starts_with("proxy.yaml:2:") && report.contains(what), "{text}: {report}");
    }
}

#[test]
fn limits_that_no_request_could_meet_are_refused() {
    for text in [
        "head: 1023B",
        "headers: 1",
        "headers: 7",
        "headers: 257",
        "head_timeout: 0s",
        "head_timeout: 1ms",
        "idle: 0s",
        "idle: 99ms",
        "tunnel_idle: 1ms",
        "tunnel_idle: 999ms",
        "body_idle: 0s",
        "body_idle: 1ms",
        "drain: 0s",
        "connections: 0",
        "in_flight: 0B",
        "in_flight: 1B",
        "in_flight: 10MiB",
    ] {
        let report = invalid(&format!("limits: {{ {text} }}")).to_string();
        let key = text.split(':').next().unwrap();
        let place = format!("proxy.yaml:2:{}: limits.{key}: ", 12 + key.len() + 1);
        assert!(report.starts_with(&place), "{text}: {report}");
        assert_eq!(report.lines().count(), 4, "with its line and a fix: {report}");
    }
    // Bodies that are stored must fit beside those that are not.
    valid("limits: { in_flight: 11MiB }");
    valid("limits: { in_flight: 1MiB }\nstore: { max_object: 512KiB }");
}

#[test]
fn unreachable_destinations_cause_a_warning_with_a_fix() {
    for (text, path, expected) in [
        ("upstreams: { u: { hosts: [api.example, 0.0.0.0] } }", "upstreams.u.hosts[1]", "`127.0.0.1`"),
        ("upstreams: { u: { hosts: ['https://[::]:8443'] } }", "upstreams.u.hosts[0]", "`[::1]`"),
        ("resolve: { api.example: '0.0.0.0:80' }", "resolve.api.example", "`127.0.0.1`"),
        (
            "destinations: { deny: [10.0.0.0/8] }\nupstreams: { u: { hosts: [10.1.2.3] } }",
            "upstreams.u.hosts[0]",
            "`10.0.0.0/8`",
        ),
        (
            "destinations: { deny: ['10.1.2.3:81'] }\nresolve: { api.example: '10.1.2.3:81' }",
            "resolve.api.example",
            "`10.1.2.3:81`",
        ),
        (
            "destinations: { deny: ['*.example'] }\nupstreams: { u: { hosts: ['*.api.example'] } }",
            "upstreams.u.hosts[0]",
            "`*.example`",
        ),
        (
            "destinations: { ports: [443] }\nupstreams: { u: { hosts: ['https://a.test:8443'] } }",
            "upstreams.u.hosts[0]",
            "port 8443",
        ),
    ] {
        let config = valid(text);
        let note = config.warnings.iter().find(|note| note.kind == WarningKind::Unreachable).expect(text);
        assert_eq!(note.path, path, "{text}");
        assert!(note.text.contains(expected), "{text}: {}", note.text);
        assert_eq!(note.place.line, 1 + text.lines().count(), "{text}");
    }
    for text in [
        "upstreams: { u: { hosts: [127.0.0.1, 'https://api.example'] } }",
        "destinations: { deny: ['10.1.2.3:81'] }\nupstreams: { u: { hosts: ['10.1.2.3', '10.1.2.3:82'] } }",
        "destinations: { deny: [api.example] }\nupstreams: { u: { hosts: ['*.example'] } }",
        "destinations: { deny: ['api.example:81'] }\nupstreams: { u: { hosts: [api.example] } }",
        "destinations: { ports: [443] }\nupstreams: { u: { hosts: [api.example] } }",
    ] {
        let config = valid(text);
        assert!(config.warnings.iter().all(|note| note.kind != WarningKind::Unreachable), "{text}");
    }
}

#[test]
fn unusual_limits_cause_a_warning() {
    let warnings = |text: &str| {
        let config = valid(&format!("limits: {{ {text} }}"));
        let notes = config.warnings.iter().filter(|note| note.kind == WarningKind::OddLimit);
        notes.map(|note| (note.place.line, note.path.clone())).collect::<Vec<_>>()
    };
    for text in [
        "headers: 20",
        "head_timeout: 200ms",
        "head_timeout: 1h",
        "idle: 500ms",
        "idle: 2d",
        "tunnel_idle: 10s",
        "body_idle: 500ms",
        "body_idle: 2h",
        "body_min_rate: 2MiB/s",
        "drain: 10ms",
        "drain: 3h",
        "connections: 4",
        "waiters_per_key: 0",
    ] {
        let key = text.split(':').next().unwrap();
        assert_eq!(warnings(text), [(2, format!("limits.{key}"))], "{text}");
    }
    for text in [
        "headers: 32, head_timeout: 1s, idle: 1s, tunnel_idle: 1m, body_idle: 1s, drain: 1s",
        "head_timeout: 10m, idle: 1d, tunnel_idle: 30d, body_idle: 1h, drain: 1h",
        "body_min_rate: 1MiB/s, connections: 16, waiters_per_key: 1, in_flight: 64GiB",
        "body_min_rate: off",
    ] {
        assert_eq!(warnings(text), [], "{text}");
    }
}

#[test]
fn a_trailing_dot_and_a_rewritten_port_cause_warnings() {
    let config = valid(
        "destinations: { deny: [localhost., 10.0.0.0/8, 'h.:81'] }\n\
         tls: { passthrough: [a.test, 'b.test.'] }\n\
         upstreams: { a: { hosts: ['https://a.test.', c.test] } }\n\
         routes:\n- { name: one, match: { host: a.test.:443 } }\n\
         - { name: two, match: { host: a.test:80 } }\n- { name: three, match: { host: a.test } }\n\
         - { name: four, match: { host: c.test:80 } }\n",
    );
    let paths = |kind| {
        let notes = config.warnings.iter().filter(move |note| note.kind == kind);
        notes.map(|note| note.path.as_str()).collect::<Vec<_>>()
    };
    let dots = [
        "destinations.deny",
        "destinations.deny",
        "tls.passthrough",
        "upstreams.a.hosts",
        "routes[one].match.host",
    ];
    assert_eq!(paths(WarningKind::TrailingDot), dots);
    assert_eq!(paths(WarningKind::Shadowed), ["routes[two]"]);
    let text = config.warnings.iter().map(ToString::to_string).collect::<String>();
    assert!(text.contains("sends those on to https://a.test:443"), "{text}");
}

#[test]
fn origin_overrides_and_shadowed_routes_cause_warnings() {
    let config = valid(
        "routes:\n- { name: all, match: { host: \"*.a\" }, ttl: 1m }\n\
         - { name: one, match: { host: b.a }, ttl: forever }\n\
         - { name: own, match: { host: b }, ttl: { max: 1m } }\n",
    );
    let notes: Vec<_> = config.warnings.iter().map(|n| (n.kind, n.path.as_str())).collect();
    let expected = [
        (WarningKind::OverridesOrigin, "routes[all].ttl"),
        (WarningKind::OverridesOrigin, "routes[one].ttl"),
        (WarningKind::Shadowed, "routes[one]"),
        (WarningKind::Unconstrained, "tls.ca.constrain"),
    ];
    assert_eq!(notes, expected);
    assert!(config.warnings[2].to_string().contains("the earlier route `all` matches all its requests"));
}

#[test]
fn destinations_resolve_and_upstreams_accept_their_documented_forms() {
    let config = valid(
        "destinations:\n  allow: [10.1.2.3/8, 192.0.2.1, \"[::1]:80\", 127.0.0.1:9001, \"*.a\"]\n  \
         deny: api.example:8080\n  ports: [80, 8443]\n\
         resolve: { API.test: \"127.0.0.1:1\", api.test:8080: \"[::1]:2\" }\n\
         upstreams: { u: { hosts: [a, \"*.b:81\", \"https://c\", \"https://d:8443\"] } }\n",
    );
    let net = |text: &str| DestinationRule::Net(text.parse().unwrap());
    let allow = &config.destinations.allow;
    assert_eq!(allow[0], net("10.0.0.0/8"));
    assert_eq!(allow[1], net("192.0.2.1/32"));
    assert_eq!(allow[2], DestinationRule::Socket("::1".parse().unwrap(), 80));
    assert_eq!(allow[3], DestinationRule::Socket("127.0.0.1".parse().unwrap(), 9001));
    assert!(matches!(&allow[4], DestinationRule::Host(pattern) if pattern.matches("b.a", 1)));
    assert!(matches!(&config.destinations.deny[0], DestinationRule::Host(p) if p.port() == Some(8080)));
    assert_eq!(config.destinations.ports, Some(Ports::Only(vec![80, 8443])));
    assert_eq!(valid("destinations: { ports: all }").destinations.ports, Some(Ports::All));
    let rules: Vec<_> = config.resolve.iter().map(|rule| (rule.host.as_str(), rule.port)).collect();
    assert_eq!(rules, [("api.test", None), ("api.test", Some(8080))]);
    let hosts: Vec<_> = config.upstreams[0]
        .hosts
        .iter()
        .map(|host| (host.host.to_string(), host.scheme, host.port))
        .collect();
    let https = Some(Scheme::Https);
    let expected = [("a", None, None), ("*.b:81", None, None), ("c", https, None), ("d", https, Some(8443))];
    assert_eq!(hosts, expected.map(|(host, scheme, port)| (host.to_owned(), scheme, port)));
}

#[test]
fn named_hosts_are_intercepted_unless_passthrough_matches() {
    let config = valid(
        "tls: { intercept: [\"*.a\", \"b:8443\"], passthrough: pinned.a }\n\
         routes: [{ name: r, match: { host: c } }, { name: all, match: { host: \"*\" } }]\n",
    );
    for (host, port, intercepted) in [
        ("x.a", 443, true),
        ("pinned.a", 443, false),
        ("b", 8443, true),
        ("b", 443, false),
        ("c", 443, true),
        ("d", 443, false),
    ] {
        assert_eq!(config.intercepts_host(host, port), intercepted, "{host}:{port}");
    }
    assert!(!valid("routes: [{ name: all, match: { host: \"*\" } }]").intercepts());
    let all = valid("tls: { intercept: \"*\" }");
    assert!(all.intercepts_host("anything", 443));
    assert!(all.warnings[0].text.contains("as long as every host is intercepted"), "{:?}", all.warnings);
}

#[test]
fn tls_03_intercepted_hosts_must_meet_the_name_constraints() {
    let constrained = |rest: &str| format!("tls: {{ ca: {{ constrain: [a, 10.0.0.0/8] }}{rest} }}\n");
    let route =
        |host: &str| format!("routes: [{{ name: r, match: {{ host: \"{host}\" }} }}]\n{}", constrained(""));
    for host in ["a", "*.a", "x.a:8443", "10.1.2.3", "*"] {
        let config = valid(&route(host));
        assert!(config.warnings.is_empty(), "{host}: {:?}", config.warnings);
    }
    for host in ["b", "*.b", "ba", "11.0.0.1", "[::1]"] {
        let report = invalid(&route(host));
        assert_eq!(report.problems()[0].path, "routes[r].match.host");
        assert!(report.to_string().contains("is outside tls.ca.constrain"), "{report}");
        let passthrough = constrained(&format!(", passthrough: \"{host}\""));
        valid(&format!("routes: [{{ name: r, match: {{ host: \"{host}\" }} }}]\n{passthrough}"));
    }
    let report = invalid(&constrained(", intercept: [b, \"*\"]")).to_string();
    assert!(report.contains("tls.intercept[0]: `b` is outside"), "{report}");
    assert!(report.contains("tls.intercept[1]: `*` is every host"), "{report}");
}

#[test]
fn an_unconstrained_authority_causes_a_warning_with_a_fix() {
    let config = valid("routes: [{ name: r, match: { host: \"*.b\" } }]\ntls: { intercept: [a] }");
    let note = config.warnings.iter().find(|note| note.kind == WarningKind::Unconstrained).unwrap();
    assert!(note.text.contains("`tls: { ca: { constrain: [a, b] } }`"), "{note}");
    let config = valid("tls: { intercept: [a], passthrough: [a] }");
    assert!(config.warnings.is_empty());
}

#[test]
fn the_files_of_the_authority_come_in_pairs() {
    let text = "version: 1\ntls: { ca: { cert: c.pem, key: /k.pem } }\n";
    let config = with_file(text, "/none", "", false).unwrap();
    let files = config.tls.ca.files.unwrap();
    assert_eq!(files.cert, PathBuf::from("/etc/larder/c.pem"));
    assert_eq!(files.key, PathBuf::from("/k.pem"));
    for half in ["cert: c.pem", "key: k.pem"] {
        let report = invalid(&format!("tls: {{ ca: {{ {half} }} }}"));
        assert!(report.to_string().contains("needs the other file of the pair"), "{report}");
    }
    let report = invalid("tls: { ca: { cert: c.pem, key: c.pem } }");
    assert!(report.to_string().contains("name two files"), "{report}");
}

#[test]
fn anchors_and_merges_work_inside_routes() {
    let config = valid(
        "routes:\n- &base { name: one, match: { host: a }, ttl: 1m, scope: shared }\n\
         - { <<: *base, name: two, match: { host: b } }\n",
    );
    assert_eq!(config.routes.routes()[1].policy, config.routes.routes()[0].policy);
}

#[test]
fn all_problems_of_a_file_are_reported_together() {
    let report = invalid(
        "listen: 0.0.0.0:1\nlimits: { head: 5, heders: 4 }\nlog: { level: loud }\n\
         routes: [{ name: r, match: { host: a b }, ttl: 5M }]\n",
    );
    assert_eq!(report.problems().len(), 6, "{report}");
}

proptest! {
    /// The input is the reference file with a random edit.
    #[test]
    fn no_edit_of_the_reference_causes_a_panic(at in 0_usize..20_000, put in "[ -~\n]{0,6}", cut in 0_usize..6) {
        let mut text: Vec<char> = include_str!("../../proxy.yaml").chars().collect();
        let at = at.min(text.len());
        let end = (at + cut).min(text.len());
        text.splice(at..end, put.chars());
        let text: String = text.into_iter().collect();
        if let Err(report) = parse("p", &text, &Env::default()) {
            prop_assert!(!report.problems().is_empty());
            prop_assert!(report.to_string().lines().count() > 1);
        }
    }

    #[test]
    fn no_input_causes_a_panic(text in any::<String>()) {
        let problems = parse("p", &text, &Env::default()).map(|_| 0).map_err(|r| r.problems().len());
        prop_assert_eq!(problems.err().map(|count| count > 0), Some(true));
    }
}
