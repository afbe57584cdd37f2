//! Keys never collide and scopes are always separate, for any request.

use http::{HeaderName, HeaderValue};
use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, prop_assert_ne, proptest};

use crate::key::{CacheKey, KeyBuilder, Scope};
use crate::policy::{KeyPolicy, Policy, QueryRule, ScopeRule};
use crate::semantics::redaction::Redactor;
use crate::semantics::request::{ListenerKind, ProxyRequest};
use crate::semantics::storability::CacheKind;
use crate::semantics::target::Target;
use crate::semantics::vary::VaryFields;

fn builder() -> KeyBuilder {
    KeyBuilder::new([7; 32], &[HeaderName::from_static("x-my-thing")], Redactor::default())
}

fn policy(scope: ScopeRule, key: KeyPolicy) -> Policy {
    Policy { scope, key, ..Policy::origin() }
}

fn with_query(query: QueryRule) -> Policy {
    policy(ScopeRule::Shared, KeyPolicy { query, ..KeyPolicy::default() })
}

fn request_to(url: &str, fields: &[(&str, &str)]) -> ProxyRequest {
    let mut request = ProxyRequest::get(Target::absolute(url).expect(url));
    for (name, value) in fields {
        let name: HeaderName = name.parse().expect(name);
        request.headers.append(name, HeaderValue::from_str(value).expect(value));
    }
    request
}

fn key(url: &str, fields: &[(&str, &str)]) -> CacheKey {
    builder().key(&request_to(url, fields), &policy(ScopeRule::Credential, KeyPolicy::default()))
}

#[test]
fn built_in_words_mark_credentials_and_similar_words_do_not() {
    let table = [
        ("authorization", true),
        ("cookie", true),
        ("x-api-key", true),
        ("x-cmc_pro_api_key", true),
        ("apikey", true),
        ("x-auth-token", true),
        ("x-csrftoken", true),
        ("x-secret", true),
        ("x-session-id", true),
        ("x-signature", true),
        ("x-tenant", true),
        ("x-user-id", true),
        ("x-larder-user", true),
        ("x-my-thing", true),
        ("user-agent", false),
        ("proxy-authorization", false),
        ("accept", false),
        ("accept-language", false),
        ("x-request-id", false),
        ("keep", false),
        ("x-sign", false),
        ("te", false),
    ];
    for (name, expected) in table {
        assert_eq!(builder().is_credential(&HeaderName::from_static(name)), expected, "{name}");
    }
}

#[test]
fn only_urls_that_are_equivalent_by_rfc_3986_share_a_key() {
    // CCH-07, CCH-09.
    let same = [
        ("http://A.Example/x", "http://a.example/x"),
        ("http://a/x", "http://a:80/x"),
        ("http://a./x", "http://a/x"),
        ("http://a/%7Eb?%2d=%2f", "http://a/~b?-=%2F"),
        ("http://a/a/../b", "http://a/a/%2e%2E/b"),
    ];
    for (one, other) in same {
        assert_eq!(key(one, &[]), key(other, &[]), "{one} {other}");
    }
    let urls = [
        "http://a/b",
        "http://a/a/../b",
        "http://a/%40b",
        "http://a/@b",
        "http://a//b",
        "http://a/b;x",
        "http://a/B",
        "http://a/b?",
        "http://a/a%2Fb",
        "http://a/a/b",
        "https://a/b",
        "http://a:81/b",
        "http://b/b",
        "http://a/b?a=1&b=2",
        "http://a/b?b=2&a=1",
        "http://a/b?a=1%26b=2",
        "http://a/b?a=1&b=2&",
        "http://a/b?a=1;b=2",
    ];
    for (at, one) in urls.iter().enumerate() {
        for other in urls.iter().skip(at + 1) {
            assert_ne!(key(one, &[]), key(other, &[]), "{one} {other}");
            assert_ne!(key(one, &[]).target_id(), key(other, &[]).target_id(), "{one} {other}");
        }
    }
}

#[test]
fn the_two_kinds_of_listener_do_not_share_responses() {
    let mut one = request_to("http://a/", &[]);
    one.listener = ListenerKind::Loopback;
    let mut other = one.clone();
    other.listener = ListenerKind::Reachable;
    let policy = policy(ScopeRule::Shared, KeyPolicy::default());
    assert_ne!(builder().key(&one, &policy), builder().key(&other, &policy));
}

#[test]
fn the_scope_depends_on_rule_and_credentials() {
    let header = || ScopeRule::Header(HeaderName::from_static("x-larder-user"));
    let with = |rule: ScopeRule, fields: &[(&str, &str)]| {
        builder().scope(&request_to("http://a/", fields), &rule).token()
    };
    let credential = [("authorization", "a")];
    assert_eq!(with(ScopeRule::Shared, &credential), "shared");
    assert_eq!(with(ScopeRule::Credential, &[]), "anonymous");
    assert_eq!(with(ScopeRule::Credential, &[("user-agent", "x"), ("accept", "y")]), "anonymous");
    assert_eq!(with(ScopeRule::Credential, &credential), "credential");
    assert_eq!(with(header(), &[("x-larder-user", "ann"), ("authorization", "a")]), "named");
    assert_eq!(with(header(), &credential), "credential");
    assert_eq!(with(header(), &[("x-larder-user", " ")]), "credential", "an empty name does not count");
    assert_eq!(with(header(), &[]), "anonymous");
}

#[test]
fn only_the_scope_of_a_user_has_the_rules_of_a_private_cache() {
    let table = [
        (Scope::Shared, CacheKind::Shared),
        (Scope::Anonymous, CacheKind::Shared),
        (Scope::Credential([0; 16]), CacheKind::Private),
        (Scope::Named([0; 16]), CacheKind::Private),
    ];
    for (scope, kind) in table {
        assert_eq!(scope.cache_kind(), kind, "{scope:?}");
    }
}

#[test]
fn a_rotating_token_keeps_the_cache_of_a_named_user() {
    let rule = ScopeRule::Header(HeaderName::from_static("x-larder-user"));
    let scope = |user, token| {
        builder().scope(&request_to("http://a/", &[("x-larder-user", user), ("authorization", token)]), &rule)
    };
    assert_eq!(scope("ann", "1"), scope("ann", "2"));
    assert_ne!(scope("ann", "1"), scope("bob", "1"));
}

#[test]
fn a_name_never_equals_a_credential() {
    let named = ScopeRule::Header(HeaderName::from_static("x-larder-user"));
    let request = request_to("http://a/", &[("x-larder-user", "v")]);
    let (Scope::Named(name), Scope::Credential(credential)) =
        (builder().scope(&request, &named), builder().scope(&request, &ScopeRule::Credential))
    else {
        panic!("a named and a credential scope")
    };
    assert_ne!(name, credential);
}

#[test]
fn the_order_of_fields_does_not_matter_but_that_of_lines_does() {
    let one = key("http://a/", &[("cookie", "c"), ("authorization", "a")]);
    assert_eq!(one, key("http://a/", &[("authorization", "a"), ("cookie", "c")]));
    let lines = key("http://a/", &[("cookie", "1"), ("cookie", "2")]);
    assert_ne!(lines, key("http://a/", &[("cookie", "2"), ("cookie", "1")]));
}

#[test]
fn query_rules_include_the_named_parameters() {
    let include = with_query(QueryRule::Include(vec!["a".to_owned()]));
    let exclude = with_query(QueryRule::Exclude(vec!["utm".to_owned()]));
    let table = [
        (&include, "?a=1&utm=2", "?utm=3&a=1", true),
        (&include, "?a=1", "?a=2", false),
        (&include, "?a=1", "?%61=2", false),
        (&include, "?%61=1&x", "?%61=1", true),
        (&include, "", "?b=1", true),
        (&include, "?b=1;a=1", "?b=1;a=2", false),
        (&include, "?a=1;b=1", "?a=1;b=2", false),
        (&exclude, "?a=1&utm=2", "?a=1", true),
        (&exclude, "?a=1&%75tm=2", "?a=1", true),
        (&exclude, "", "?utm=1", true),
        (&exclude, "?a=1&b=2", "?b=2&a=1", false),
        // CCH: an origin that splits at `;` reads `a`, so it must not be excluded.
        (&exclude, "?utm=1;a=1", "?utm=1;a=2", false),
        (&exclude, "?UTM=1", "?UTM=2", false),
    ];
    for (policy, one, other, same) in table {
        let key = |query| builder().key(&request_to(&format!("http://h/p{query}"), &[]), policy);
        assert_eq!(key(one) == key(other), same, "{one} {other}");
    }
}

#[test]
fn key_fields_distinguish_requests() {
    let rule = KeyPolicy {
        query: QueryRule::All,
        headers: vec![HeaderName::from_static("accept-language"), HeaderName::from_static("x-a")],
        ..KeyPolicy::default()
    };
    let policy = policy(ScopeRule::Shared, rule);
    let key = |fields: &[(&str, &str)]| builder().key(&request_to("http://h/", fields), &policy);
    let requests: [&[(&str, &str)]; 7] = [
        &[],
        &[("accept-language", "")],
        &[("accept-language", "de")],
        &[("x-a", "de")],
        &[("accept-language", "d"), ("accept-language", "e")],
        &[("accept-language", "A|B")],
        &[("accept-language", "A"), ("x-a", "B")],
    ];
    for (at, one) in requests.iter().enumerate() {
        for other in requests.iter().skip(at + 1) {
            assert_ne!(key(one), key(other), "{one:?} {other:?}");
        }
    }
}

#[test]
fn one_target_has_one_target_id_in_every_scope() {
    let url = "http://a/x?api_key=1&b=2";
    let id = builder().target_id(&Target::absolute(url).unwrap(), &QueryRule::All);
    assert_eq!(key(url, &[]).target_id(), id);
    assert_eq!(key(url, &[("authorization", "a")]).target_id(), id);
}

#[test]
fn partial_responses_have_their_own_key_with_same_target_and_scope() {
    let whole = key("http://h/x", &[("authorization", "one")]);
    let parts = whole.for_partial();
    assert_ne!(whole, parts);
    assert_ne!(whole.id(), parts.id());
    assert!(parts.is_for_partial() && !whole.is_for_partial());
    assert_eq!((parts.target_id(), parts.scope()), (whole.target_id(), whole.scope()));
    assert_eq!(parts.canonical().get(1..), whole.canonical().get(1..));
    assert_ne!(parts, key("http://h/x", &[("authorization", "two")]).for_partial());
}

#[test]
fn responses_to_head_have_their_own_key_with_same_target_and_scope() {
    let whole = key("http://h/x", &[("authorization", "one")]);
    let head = whole.for_head();
    assert!(head != whole && head != whole.for_partial() && head.id() != whole.id());
    assert!(head.is_for_head() && !whole.is_for_head() && !head.is_for_partial());
    assert_eq!((head.target_id(), head.scope()), (whole.target_id(), whole.scope()));
    assert_ne!(head, key("http://h/x", &[("authorization", "two")]).for_head());
}

#[test]
fn a_sorted_query_ignores_the_order_of_names_and_not_of_values() {
    let sorted = |rule| with_query(QueryRule::Sorted(Box::new(rule)));
    let exclude = || QueryRule::Exclude(vec!["utm".to_owned()]);
    for (rule, one, other, same) in [
        (QueryRule::All, "?a=1&b=2", "?b=2&a=1", true),
        (QueryRule::All, "?a=1&b=2&a=3", "?b=2&a=1&a=3", true),
        (QueryRule::All, "?a=1&a=2", "?a=2&a=1", false),
        // The same name in another spelling, case or form of a list.
        (QueryRule::All, "?a=1&%61=2", "?%61=2&a=1", false),
        (QueryRule::All, "?a=1&A=2", "?A=2&a=1", false),
        (QueryRule::All, "?a[]=1&a[x]=2", "?a[x]=2&a[]=1", false),
        (QueryRule::All, "?a.b=1&a_b=2", "?a_b=2&a.b=1", false),
        (QueryRule::All, "?b=1;a=2&a=1", "?a=1&b=1;a=2", false),
        (QueryRule::All, "?a=1", "?a=2", false),
        (exclude(), "?b=2&utm=1&a=1", "?a=1&b=2&utm=9", true),
    ] {
        let policy = sorted(rule);
        let key = |query| builder().key(&request_to(&format!("http://h/p{query}"), &[]), &policy);
        assert_eq!(key(one) == key(other), same, "{one} {other}");
        assert_eq!(key(one).target_id() == key(other).target_id(), same, "{one} {other}");
    }
    let (sorted, plain) = (sorted(QueryRule::All), with_query(QueryRule::All));
    let target_id = |policy| builder().key(&request_to("http://h/p?a=1", &[]), policy).target_id();
    assert_ne!(target_id(&sorted), target_id(&plain), "each rule has its own ids");
}

#[test]
fn a_target_id_counts_the_query_by_the_rule_of_the_key() {
    let rule = QueryRule::Exclude(vec!["utm".to_owned()]);
    let policy = with_query(rule.clone());
    let stored = builder().key(&request_to("http://a/x?a=1&utm=2", &[]), &policy);
    let id = |url, rule| builder().target_id(&Target::absolute(url).unwrap(), rule);
    assert_eq!(stored.target_id(), id("http://a/x?a=1", &rule));
    assert_eq!(stored.target_id(), id("http://a/x?utm=3&a=1", &rule));
    assert_ne!(stored.target_id(), id("http://a/x?a=2", &rule));
    assert_ne!(stored.target_id(), id("http://a/x?a=1&utm=2", &QueryRule::All));
}

#[test]
fn another_secret_makes_other_scopes() {
    let other = KeyBuilder::new([8; 32], &[], Redactor::default());
    let request = request_to("http://a/", &[("authorization", "a")]);
    let rule = ScopeRule::Credential;
    assert_ne!(builder().scope(&request, &rule), other.scope(&request, &rule));
}

#[test]
fn a_mask_depends_on_name_and_value_and_is_for_credentials_only() {
    let name = HeaderName::from_static;
    let mask = |field, value: &str| builder().mask(&name(field), value.as_bytes());
    assert_eq!(mask("accept", "x"), None);
    assert!(mask("cookie", "x").is_some());
    assert_ne!(mask("cookie", "x"), mask("cookie", "y"));
    assert_ne!(mask("cookie", "x"), mask("authorization", "x"));
}

#[test]
fn a_tracing_field_counts_if_the_route_names_it() {
    let baggage = vec![HeaderName::from_static("baggage")];
    let counts = policy(ScopeRule::Credential, KeyPolicy { headers: baggage, ..KeyPolicy::default() });
    let plain = policy(ScopeRule::Credential, KeyPolicy::default());
    let key = |user, policy| builder().key(&request_to("http://a/", &[("baggage", user)]), policy);
    assert_eq!(key("userId=alice", &plain), key("userId=bob", &plain));
    assert_ne!(key("userId=alice", &counts), key("userId=bob", &counts));
}

#[test]
fn accounts_have_separate_limits_if_their_field_is_a_credential() {
    let account = HeaderName::from_static("stripe-account");
    let named = KeyBuilder::new([7; 32], &[account], Redactor::default());
    let of = |builder: &KeyBuilder, account| {
        let fields = [("authorization", "Bearer x"), ("stripe-account", account)];
        builder.api_user(&request_to("http://a/", &fields))
    };
    assert_ne!(of(&named, "acct_1"), of(&named, "acct_2"));
    assert_eq!(of(&builder(), "acct_1"), of(&builder(), "acct_2"), "the credential alone counts");
}

#[test]
fn another_secret_makes_other_variants() {
    let other = KeyBuilder::new([8; 32], &[], Redactor::default());
    let names = VaryFields::new(vec![HeaderName::from_static("accept")]);
    let request = request_to("http://a/", &[("accept", "a")]);
    let same = builder().variant(&names, &request.headers);
    assert_eq!(same, builder().variant(&names, &request.headers));
    assert_ne!(same, other.variant(&names, &request.headers));
}

/// `X-<before>Secret<after>` in any case, with each word that marks a credential.
fn any_credential_name() -> impl Strategy<Value = String> {
    "x-[a-z]{0,6}(key|Token|AUTH|secret|SeSSion|signature|tenant|User)[a-z-]{0,6}"
}

fn any_url() -> impl Strategy<Value = String> {
    "http://(a|b|ab)(:8[01])?(/[ab|%]{0,2}){1,2}(\\?[ab=&;|]{0,6})?"
}

#[test]
fn a_field_with_a_url_that_has_a_token_is_hashed_and_counts() {
    let referer = HeaderName::from_static("referer");
    let rule = KeyPolicy { headers: vec![referer], ..KeyPolicy::default() };
    let policy = policy(ScopeRule::Shared, rule);
    let made = |url: &str| builder().key(&request_to("http://a/", &[("referer", url)]), &policy);
    let plain = made("http://b/?page=1");
    let secret = made("http://b/?accessToken=S3CRET");
    let contains = |key: &CacheKey, part: &str| {
        key.canonical().windows(part.len()).any(|window| window == part.as_bytes())
    };
    assert!(contains(&plain, "page=1") && !contains(&secret, "S3CRET"));
    assert_ne!(secret, made("http://b/?accessToken=S4CRET"));
    assert_eq!(secret, made("http://b/?accessToken=S3CRET"));
}

#[test]
fn only_credentials_in_the_query_distinguish_api_users() {
    let api_user = |query: &str| builder().api_user(&request_to(&format!("http://a/?{query}"), &[]));
    assert_ne!(api_user("CMC_PRO_API_KEY=1"), api_user("CMC_PRO_API_KEY=2"));
    for query in ["code=US", "page_token=1", "limit=5", "q=X7kQ2pVd9sLm3RtYw8ZcNa5u"] {
        assert_eq!(api_user(query), 0, "{query}");
    }
}

proptest! {
    #[test]
    fn an_unknown_credential_field_always_separates_scopes(
        name in any_credential_name(), one in "[!-~]{1,20}", other in "[!-~]{1,20}"
    ) {
        let with = |value: &str| key("http://a/", &[(name.as_str(), value)]);
        prop_assert_ne!(with(&one), key("http://a/", &[]));
        prop_assert_eq!(with(&one) == with(&other), one == other);
    }

    #[test]
    fn different_credentials_never_share_a_key(
        one in proptest::collection::vec(("(cookie|authorization|x-key)", "[a-c]{0,3}"), 0..4),
        other in proptest::collection::vec(("(cookie|authorization|x-key)", "[a-c]{0,3}"), 0..4),
    ) {
        let sorted = |fields: &[(String, String)]| {
            let mut fields = fields.to_vec();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            fields
        };
        let with = |fields: &[(String, String)]| {
            let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            key("http://a/", &fields)
        };
        prop_assert_eq!(with(&one) == with(&other), sorted(&one) == sorted(&other));
    }

    /// CCH-08: the bytes of one part are never mistaken for those of another.
    #[test]
    fn framing_never_collides(one in any_url(), other in any_url()) {
        if let (Ok(a), Ok(b)) = (Target::absolute(&one), Target::absolute(&other)) {
            prop_assert_eq!(key(&one, &[]).canonical() == key(&other, &[]).canonical(), a == b);
            prop_assert_eq!(key(&one, &[]).target_id() == key(&other, &[]).target_id(), a == b);
        }
    }

    #[test]
    fn no_secret_is_ever_shown_or_stored(
        name in any_credential_name(), secret in "s3cr3t[a-zA-Z0-9]{8,16}",
        param in "(api_key|TOKEN|%74oken|a=1;sig|sig=1;x|x;token)"
    ) {
        let request = request_to(&format!("http://a/p?a=1&{param}={secret}&b"), &[
            (name.as_str(), secret.as_str()),
            ("authorization", secret.as_str()),
            ("x-my-thing", secret.as_str()),
        ]);
        let rule = KeyPolicy {
            query: QueryRule::All,
            headers: vec![HeaderName::from_static("authorization")],
            ..KeyPolicy::default()
        };
        for scope in [ScopeRule::Credential, ScopeRule::Shared, ScopeRule::Header(name.parse().unwrap())] {
            let policy = policy(scope, rule.clone());
            let key = builder().key(&request, &policy);
            let shown = format!("{:?} {:?} {:?}", key, builder(), builder().explain(&request, &policy));
            prop_assert!(!shown.contains(&secret), "{}", shown);
            let kept = String::from_utf8_lossy(key.canonical()).into_owned();
            prop_assert!(!kept.contains(&secret), "{}", kept);
        }
    }

    #[test]
    fn no_field_causes_a_panic(value in any::<Vec<u8>>()) {
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            let mut request = request_to("http://a/", &[]);
            request.headers.insert("cookie", value);
            let key = || builder().key(&request, &policy(ScopeRule::Credential, KeyPolicy::default()));
            prop_assert_eq!(key(), key());
        }
    }
}

/// A session field that changes with every call must not evade the limits of its credential.
#[test]
fn a_lasting_credential_alone_identifies_an_api_user() {
    let api_user = |fields: &[(&str, &str)]| builder().api_user(&request_to("http://a/", fields));
    for lasting in [("authorization", "Bearer a"), ("x-api-key", "a"), ("x-my-thing", "a")] {
        let alone = api_user(&[lasting]);
        assert_ne!(alone, 0);
        for changing in [("x-csrf-token", "1"), ("cookie", "s=1"), ("x-session-id", "1")] {
            assert_eq!(api_user(&[lasting, changing]), alone, "{lasting:?} {changing:?}");
            assert_ne!(api_user(&[changing]), 0, "without another credential");
        }
    }
    assert_ne!(api_user(&[("authorization", "a")]), api_user(&[("authorization", "b")]));
}

#[test]
fn a_credential_within_json_distinguishes_users() {
    let mut policy = Policy::origin();
    policy.key.query = QueryRule::Exclude(vec!["variables".to_owned()]);
    let key = |variables: &str| {
        builder().key(&request_to(&format!("http://h/p?variables={variables}"), &[]), &policy)
    };
    let of = |user: &str| format!("%7B%22token%22%3A%22{user}%22%7D");
    assert_ne!(key(&of("alice")), key(&of("bob")));
    assert_ne!(key(&of("alice")), key(&of("alice").replace("token", "id")));
    assert_eq!(key("{\"id\":1}"), key("{\"id\":2}"), "the parameter is excluded");
    // For rate limits it does not identify a user, no more than a page number does.
    let api_user = |url: &str| builder().api_user(&request_to(url, &[]));
    assert_eq!(api_user(&format!("http://h/p?v={}", of("alice"))), 0);
    // Text that is not valid JSON but contains such a word is secret as a whole.
    assert_ne!(key("{token:alice"), key("{token:bob"));
}

/// Includes parameters for a single call or sign-in, and those that only look like a secret.
#[test]
fn a_secret_in_a_query_counts_even_if_the_rule_excludes_it() {
    let mut policy = Policy::origin();
    policy.key.query = QueryRule::Include(vec!["id".to_owned()]);
    let key = |param: &str| builder().key(&request_to(&format!("http://h/p?id=1&{param}"), &[]), &policy);
    let jwt = "t=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOi";
    for start in [
        "api_key=",
        "ticket=",
        "code=",
        "assertion=",
        "otp=",
        "X-Amz-Signature=",
        "page_token=",
        jwt,
        "u=https%3A%2F%2Fh%2F%3Ftoken%3D",
        "v=%7B%22sig%22%3A%22",
        "a=1;token=",
    ] {
        let of = |user: &str| key(&format!("{start}{user}"));
        assert_ne!(of("alice1x"), of("bob1yz"), "{start}");
        assert_eq!(of("alice1x").target_id(), of("bob1yz").target_id(), "{start}");
    }
    for (one, other) in [("utm=1", "utm=2"), ("page=1", "page=2"), ("q=ann", "q=bob")] {
        assert_eq!(key(one), key(other), "{one}");
    }
}

#[test]
fn credentials_in_a_query_count_even_if_the_rule_excludes_them() {
    for rule in [
        QueryRule::Include(vec!["symbol".to_owned()]),
        QueryRule::Exclude(vec!["api_key".to_owned(), "utm".to_owned()]),
    ] {
        let with = |scope: ScopeRule, url: &str, fields: &[(&str, &str)]| {
            let mut policy = Policy { scope, ..Policy::origin() };
            policy.key.query = rule.clone();
            builder().key(&request_to(url, fields), &policy)
        };
        let named = ScopeRule::Header(HeaderName::from_static("x-larder-user"));
        let url = |user: &str, more: &str| format!("http://h/p?symbol=BTC&api_key={user}{more}");
        let (alice, bob) = (url("alice", ""), url("bob", ""));
        for scope in [ScopeRule::Credential, named.clone()] {
            let key = |url: &str| with(scope.clone(), url, &[]);
            assert_ne!(key(&alice), key(&bob), "{rule:?} {scope:?}");
            assert_eq!(key(&alice), key(&url("alice", "&utm=1")), "{rule:?} {scope:?}");
            assert_eq!(key(&alice).target_id(), key(&bob).target_id(), "one purge for both");
        }
        // By the operator's configuration all clients share, or the app names its user.
        let shared = |url: &str| with(ScopeRule::Shared, url, &[]);
        assert_eq!(shared(&alice), shared(&bob), "{rule:?}");
        let of_ann = |url: &str| with(named.clone(), url, &[("x-larder-user", "ann")]);
        assert_eq!(of_ann(&alice), of_ann(&bob), "{rule:?}");
    }
}
