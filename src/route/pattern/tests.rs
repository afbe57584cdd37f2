//! Matching of patterns.

use http::{HeaderName, HeaderValue, Method};
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

use crate::route::pattern::{FieldMatch, HostPattern, PathPattern, Pattern, QueryMatch, ValueMatch};
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::Target;

fn path(text: &str) -> PathPattern {
    PathPattern::parse(text).expect(text)
}

fn host(text: &str) -> HostPattern {
    HostPattern::parse(text).expect(text)
}

fn request_to(url: &str) -> ProxyRequest {
    ProxyRequest::get(Target::absolute(url).expect(url))
}

fn everything() -> Pattern {
    Pattern {
        host: host("*"),
        methods: vec![Method::GET],
        path: PathPattern::any(),
        headers: Vec::new(),
        query: Vec::new(),
    }
}

#[test]
fn a_host_pattern_matches_hosts_and_ports() {
    let table = [
        ("api.example", "api.example", 80, true),
        ("API.Example", "api.example", 80, true),
        ("api.example", "API.EXAMPLE", 443, true),
        ("api.example", "xapi.example", 80, false),
        ("api.example.", "api.example", 80, true),
        ("*.example.:80", "api.example", 80, true),
        ("api.example:8080", "api.example", 8080, true),
        ("api.example:8080", "api.example", 80, false),
        ("*.example", "api.example", 80, true),
        ("*.example", "a.b.example", 80, true),
        ("*.example", "example", 80, false),
        ("*.example", ".example", 80, false),
        ("*.example", "notexample", 80, false),
        ("*.example:81", "api.example", 80, false),
        ("*", "anything", 1, true),
        ("*:443", "anything", 80, false),
        ("127.0.0.1", "127.0.0.1", 80, true),
        ("[::1]", "[::1]", 80, true),
        ("[0:0::1]:90", "[::1]", 90, true),
        ("a_b.example", "a_b.example", 80, true),
    ];
    for (pattern, name, port, expected) in table {
        assert_eq!(host(pattern).matches(name, port), expected, "{pattern} {name}:{port}");
    }
}

#[test]
fn an_invalid_host_pattern_is_refused() {
    let refused = [
        "",
        ":80",
        "http://a",
        "a/b",
        "user@a",
        "a b",
        "*a",
        "a.*",
        "*.",
        "**.a",
        "a..b",
        ".a",
        "a:0",
        "a:65536",
        "a:x",
        "a:",
        "a:+80",
        "::1",
        "[::1",
        "[x]",
        "10.0.0",
        "300.1.1.1",
        "bücher.example",
        "a\nb",
        "*.*",
    ];
    for text in refused {
        assert!(HostPattern::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_path_pattern_matches_the_raw_path() {
    let table = [
        ("/**", "/", true),
        ("/**", "/a/b", true),
        ("/", "/", true),
        ("/", "/a", false),
        ("/a", "/a", true),
        ("/a", "/a/", false),
        ("/a", "/ab", false),
        ("/a", "/A", false),
        ("/a/", "/a/", true),
        ("/a/**", "/a", true),
        ("/a/**", "/a/", true),
        ("/a/**", "/a/b/c", true),
        ("/a/**", "/ab", false),
        ("/a/{id}", "/a/1", true),
        ("/a/{id}", "/a/", false),
        ("/a/{id}", "/a/1/2", false),
        ("/a/{id}/b", "/a/1/b", true),
        ("/a/{id}/**", "/a/1", true),
        ("/a/{id}/**", "/a/1/b", true),
        ("/a/{id}/**", "/a", false),
        ("/f/*.json", "/f/x.json", true),
        ("/f/*.json", "/f/.json", true),
        ("/f/*.json", "/f/x/y.json", false),
        ("/f/a*b*c", "/f/a-b-c", true),
        ("/f/a*b*c", "/f/abbc", true),
        ("/f/a*b*c", "/f/ac", false),
        ("/f/a*a", "/f/a", false),
        ("/f/*", "/f/", false),
        // CCH-07: only escapes that are equivalent by RFC 3986 §6.2.2 are decoded.
        ("/a/b", "/a%2Fb", false),
        ("/a/b", "/a/%62", true),
        ("/a/%62", "/a/b", true),
        ("/a/@b", "/a/%40b", false),
        ("/b", "/a/../b", false),
        ("/a", "//a", false),
        ("/a", "/a;x", false),
        ("/a%2Fb", "/a%2Fb", true),
    ];
    for (pattern, raw, expected) in table {
        assert_eq!(path(pattern).matches(raw), expected, "{pattern} {raw}");
    }
}

#[test]
fn an_invalid_path_pattern_is_refused() {
    let refused = [
        "", "a", "/a?b", "/a#b", "/a b", "/ä", "/a**", "/**/a", "/a/**b", "/{a", "/a}", "/{}", "/{a}{b}",
        "/x{a}", "/{1a}", "/{a b}", "/{a}/{a}", "/{**}",
    ];
    for text in refused {
        assert!(PathPattern::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_get_route_also_matches_head_and_no_other_method() {
    let mut request = request_to("http://a/");
    for (method, expected) in [("GET", true), ("HEAD", true), ("POST", false), ("PURGE", false)] {
        request.method = method.parse().unwrap();
        assert_eq!(everything().matches(&request), expected, "{method}");
    }
    let head_only = Pattern { methods: vec![Method::HEAD], ..everything() };
    request.method = Method::GET;
    assert!(!head_only.matches(&request));
}

#[test]
fn fields_and_parameters_must_be_present_with_their_value() {
    let is = |value: &str| ValueMatch::Is(value.to_owned());
    let field = |value| FieldMatch { name: HeaderName::from_static("x-v"), value };
    let param = |value| QueryMatch { name: "full list".to_owned(), value };
    let with = |headers, query| Pattern { headers, query, ..everything() };
    let mut request = request_to("http://a/?x=1&full%20list=a%2Fb&full+list=c");
    request.headers.append("x-v", HeaderValue::from_static("1"));
    request.headers.append("x-v", HeaderValue::from_static("2"));
    let table = [
        (with(vec![field(ValueMatch::Present)], vec![]), true),
        (with(vec![field(is("2"))], vec![]), true),
        (with(vec![field(is("3"))], vec![]), false),
        (with(vec![], vec![param(ValueMatch::Present)]), true),
        (with(vec![], vec![param(is("a/b"))]), true),
        (with(vec![], vec![param(is("c"))]), true),
        (with(vec![], vec![param(is("a%2Fb"))]), false),
    ];
    for (pattern, expected) in table {
        assert_eq!(pattern.matches(&request), expected, "{pattern}");
        assert!(!pattern.matches(&request_to("http://a/")), "{pattern}");
    }
}

#[test]
fn a_narrower_pattern_is_covered_and_a_wider_is_not() {
    let table = [
        ("/**", "/a", true),
        ("/a/**", "/a", true),
        ("/a/**", "/a/{x}/**", true),
        ("/a/{x}", "/a/b", true),
        ("/a/{x}", "/a/{y}", true),
        ("/a/{x}", "/a/b*", true),
        ("/a/*", "/a/{y}", true),
        ("/a/b*", "/a/bc", true),
        ("/a/{x}/**", "/a/**", false),
        ("/a/{x}", "/a/", false),
        ("/a/b", "/a/{x}", false),
        ("/a", "/a/**", false),
        ("/a/b*", "/a/c", false),
    ];
    for (wide, narrow, expected) in table {
        let (wide, narrow) = (path(wide), path(narrow));
        assert_eq!(wide.covers(&narrow), expected, "{wide} {narrow}");
    }
}

fn any_path_pattern() -> impl Strategy<Value = PathPattern> {
    "(/(a|b|\\*|a\\*|\\*b|a\\*b|\\{x\\})?){0,2}(/\\*\\*)?"
        .prop_filter_map("parses", |text| PathPattern::parse(if text.is_empty() { "/" } else { &text }).ok())
}

fn any_host_pattern() -> impl Strategy<Value = HostPattern> {
    "(\\*\\.)?(a|b\\.a|\\*)(:8[01])?".prop_filter_map("parses", |text| HostPattern::parse(&text).ok())
}

proptest! {
    #[test]
    fn a_covering_path_matches_everything_the_covered_one_matches(
        wide in any_path_pattern(), narrow in any_path_pattern(), path in "(/[ab]{0,3}){1,3}"
    ) {
        if wide.covers(&narrow) && narrow.matches(&path) {
            prop_assert!(wide.matches(&path), "{} {} {}", wide, narrow, path);
        }
    }

    #[test]
    fn a_covering_host_matches_everything_the_covered_one_matches(
        wide in any_host_pattern(), narrow in any_host_pattern(),
        name in "(a|b\\.a|c\\.b\\.a|b)", port in 80_u16..82
    ) {
        if wide.covers(&narrow) && narrow.matches(&name, port) {
            prop_assert!(wide.matches(&name, port), "{} {} {}", wide, narrow, name);
        }
    }

    #[test]
    fn a_printed_pattern_parses_to_itself(pattern in any_host_pattern(), path in any_path_pattern()) {
        prop_assert_eq!(HostPattern::parse(&pattern.to_string()), Ok(pattern));
        prop_assert_eq!(PathPattern::parse(&path.to_string()), Ok(path));
    }

    #[test]
    fn no_input_causes_a_panic(text in any::<String>(), raw in "/[ -~]{0,20}") {
        if let Ok(pattern) = PathPattern::parse(&text) {
            prop_assert_eq!(pattern.matches(&raw), pattern.matches(&raw));
        }
        prop_assert_eq!(HostPattern::parse(&text), HostPattern::parse(&text));
    }
}
