//! Parsing, comparison and resolution of targets (RFC 3986).

use proptest::prelude::{any, proptest};

use crate::semantics::target::{Scheme, Target, TargetError};

fn target(text: &str) -> Target {
    Target::absolute(text).unwrap()
}

#[test]
fn only_spellings_equivalent_by_rfc_3986_are_equal() {
    // RFC 3986 §6.2.2.1, §6.2.3; CCH-07.
    let equal = [
        ("HTTP://API.Example/x", "http://api.example/x"),
        ("http://api.example:80/x", "http://api.example/x"),
        ("http://api.example:/x", "http://api.example/x"),
        ("https://api.example:443/x", "https://api.example/x"),
        ("http://api.example", "http://api.example/"),
        ("http://api.example?x=1", "http://api.example/?x=1"),
        ("http://api.example/x#part", "http://api.example/x"),
        ("http://api.example#part", "http://api.example/"),
        ("http://[::0001]/", "http://[::1]/"),
    ];
    for (one, other) in equal {
        assert_eq!(target(one), target(other), "{one} {other}");
    }
    let different = [
        "http://h/b",
        "https://h/b",
        "http://h:443/b",
        "http://h/a/../b",
        "http://h/a/%2e%2e/b",
        "http://h//b",
        "http://h/b;x",
        "http://h/B",
        "http://h/b?",
        "http://h/a%2Fb",
        "http://h/a%2fb",
        "http://h/a/b",
        "http://h/b/",
    ];
    for (i, one) in different.iter().enumerate() {
        for other in different.iter().skip(i + 1) {
            assert_ne!(target(one), target(other), "{one} {other}");
        }
    }
}

#[test]
fn parts_are_returned_as_received() {
    let t = target("https://API.example:8443/a|b/[ü]\"<>^`{}/%zz?q=1?2&k=v%26#f");
    assert_eq!(t.scheme(), Scheme::Https);
    assert_eq!((t.host(), t.port()), ("api.example", 8443));
    assert_eq!(t.authority(), "api.example:8443");
    assert_eq!(t.path(), "/a|b/[ü]\"<>^`{}/%zz", "also characters that no URL may contain");
    assert_eq!(t.query(), Some("q=1?2&k=v%26"));
    assert_eq!(t.to_string(), "https://api.example:8443/a|b/[ü]\"<>^`{}/%zz?q=1?2&k=v%26");
    assert_eq!(target("http://[::1]:80/").authority(), "[::1]");
    assert_eq!(target("http://h/a").query(), None);
    assert_eq!(target("http://h/a?").query(), Some(""));
}

#[test]
fn invalid_targets_are_rejected_with_a_reason() {
    for (text, reason) in [
        ("ftp://h/", TargetError::Scheme),
        ("/path", TargetError::Scheme),
        ("http:/h/", TargetError::Scheme),
        ("http:///x", TargetError::Host),
        ("http://h\\evil/", TargetError::Host),
        ("http://h ost/", TargetError::Host),
        ("http://h:99999/", TargetError::Port),
        ("http://h:80:80/", TargetError::Port),
        ("http://u:p@h/", TargetError::UserInfo),
        ("http://u@h/", TargetError::UserInfo),
        ("http://h/a b", TargetError::Path),
        ("http://h/a\tb", TargetError::Path),
        ("http://h/a\r\nX: y", TargetError::Path),
        ("http://h/a\u{7f}", TargetError::Path),
        ("http://h/?\0", TargetError::Path),
    ] {
        assert_eq!(Target::absolute(text), Err(reason), "{text:?}");
    }
}

#[test]
fn origin_form_needs_a_leading_slash() {
    let with = |path| Target::with_authority(Scheme::Http, "h:8080", path);
    assert_eq!(with("/x?y").unwrap().to_string(), "http://h:8080/x?y");
    assert_eq!(with("*").unwrap().path(), "*");
    assert_eq!(with("x"), Err(TargetError::Path));
    assert_eq!(with("*x"), Err(TargetError::Path));
}

#[test]
fn references_resolve_as_in_rfc_3986_section_5_4() {
    let base = target("http://a/b/c/d;p?q");
    for (reference, expected) in [
        ("g", "http://a/b/c/g"),
        ("./g", "http://a/b/c/g"),
        ("g/", "http://a/b/c/g/"),
        ("/g", "http://a/g"),
        ("//g", "http://g/"),
        ("?y", "http://a/b/c/d;p?y"),
        ("g?y", "http://a/b/c/g?y"),
        ("#s", "http://a/b/c/d;p?q"),
        ("g?y#s", "http://a/b/c/g?y"),
        (";x", "http://a/b/c/;x"),
        ("", "http://a/b/c/d;p?q"),
        (".", "http://a/b/c/"),
        ("..", "http://a/b/"),
        ("../..", "http://a/"),
        ("../../g", "http://a/g"),
        ("../../../../g", "http://a/g"),
        ("g;x=1/../y", "http://a/b/c/y"),
        ("g?y/../x", "http://a/b/c/g?y/../x"),
        (".g", "http://a/b/c/.g"),
        ("https://A:443/x/./y", "https://a/x/y"),
    ] {
        assert_eq!(base.resolve(reference).unwrap().to_string(), expected, "{reference:?}");
    }
    for reference in ["mailto:a@b", "ftp://h/", "http:g", "a b", "http://u@h/"] {
        assert_eq!(base.resolve(reference), None, "{reference:?}");
    }
}

#[test]
fn an_origin_is_scheme_host_and_port() {
    let one = target("http://h/a");
    assert!(one.same_origin(&target("http://H:80/b?c")));
    assert!(one.same_origin(&target("http://h./a")));
    for other in ["https://h/a", "http://h:81/a", "http://h2/a"] {
        assert!(!one.same_origin(&target(other)), "{other}");
    }
    let moved = one.with_origin(Scheme::Https, "api.example", 443);
    assert_eq!(moved.to_string(), "https://api.example/a");
}

#[test]
fn debug_shows_no_query_value() {
    let shown = format!("{:?}", target("http://h/p?api_key=s3cret&bare5ecret&n=1"));
    assert_eq!(shown, "http://h/p?api_key=…&=…&n=…");
}

proptest! {
    #[test]
    fn a_parsed_target_has_a_display_form_that_parses_to_itself(
        text in any::<String>(),
        path in "/[ -~]{0,20}",
        reference in any::<String>(),
    ) {
        for text in [text.clone(), format!("http://{text}"), format!("http://h{path}{text}")] {
            let Ok(read) = Target::absolute(&text) else { continue };
            assert_eq!(Target::absolute(&read.to_string()), Ok(read.clone()));
            assert!(read.path().starts_with('/'));
            if let Some(resolved) = read.resolve(&reference) {
                assert_eq!(Target::absolute(&resolved.to_string()), Ok(resolved));
            }
        }
    }
}
