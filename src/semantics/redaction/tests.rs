//! Redaction of URLs and texts.

use proptest::prelude::*;

use super::*;

fn redactor() -> Redactor {
    Redactor::new(&["plain".to_owned()], &[SecretPath::parse("/bot{token}/**").unwrap()])
}

#[test]
fn parameters_are_secret_by_their_name_or_their_shape() {
    for (param, shown) in [
        ("token=a", "token=(secret)"),
        ("Plain=a", "Plain=(secret)"),
        ("a%70i_key=a", "(secret)"),
        ("key%3DS3cret=1", "(secret)"),
        ("x=1;token=a", "(secret)"),
        ("token", "(secret)"),
        ("X7kQ2pVd9sLm3RtYw8ZcNa5u", "(secret)"),
        ("q=X7kQ2pVd9sLm3RtYw8ZcNa5u", "q=(secret)"),
        ("X7kQ2pVd9sLm3RtYw8ZcNa5u=1", "(secret)"),
        ("next=https%3A%2F%2Fa.test%2Fb%3Ftoken%3Dc", "next=(secret)"),
        ("next=https%3A%2F%2Fa.test%2Fb%3Fpage%3D2", "next=https%3A%2F%2Fa.test%2Fb%3Fpage%3D2"),
        ("next=https%3a%2f%2fa.test%2fb%3ftoken%3dc", "next=(secret)"),
        ("next=https%253A%252F%252Fa.test%252Fb%253Ftoken%253Dc", "next=(secret)"),
        ("url=https://bob:S3CRET@h/x", "url=(secret)"),
        ("url=https%3A%2F%2Fbob%3AS3CRET%40h%2Fx", "url=(secret)"),
        ("url=https://h/cb#access_token=S3CRET", "url=(secret)"),
        ("url=https%3A%2F%2Fh%2Fcb%23access_token%3DS3CRET", "url=(secret)"),
        ("url=https%3A%2F%2Fh%2Fa%3Bjsessionid%3DS3CRET", "url=(secret)"),
        ("state=token%3DS3CRET", "state=(secret)"),
        ("url=https://h/x", "url=https://h/x"),
        ("url=https%3A%2F%2Fh%2Fx%3Fa%3D1%23b", "url=https%3A%2F%2Fh%2Fx%3Fa%3D1%23b"),
        ("mail=ann%40a.test", "mail=ann%40a.test"),
        ("q=100%25&x", "q=100%25&x"),
        ("filter=price%3D10", "filter=price%3D10"),
        ("country_code=US", "country_code=US"),
        ("limit=10", "limit=10"),
        ("", ""),
    ] {
        assert_eq!(redactor().param(param), shown, "{param}");
    }
}

#[test]
fn a_listed_name_matches_in_any_case_even_if_it_is_built_in() {
    let listed = Redactor::new(&["device_code".to_owned()], &[]);
    for name in ["device_code", "DEVICE_CODE", "dEvIce_cOde"] {
        assert!(listed.is_secret_name(name), "{name}");
    }
}

/// GraphQL over GET, filters, and other JSON that a client sends in one parameter.
#[test]
fn members_of_json_in_a_parameter_are_secret_by_their_names() {
    for (param, shown) in [
        ("variables={\"token\":\"S3CRET\",\"id\":7}", "variables={\"token\":\"(secret)\",\"id\":7}"),
        (
            "variables=%7B%22token%22%3A%22S3CRET%22%2C%22id%22%3A7%7D",
            "variables=%7B%22token%22%3A%22(secret)%22%2C%22id%22%3A7%7D",
        ),
        ("v=[{\"a\":{\"apiKey\":12}}]", "v=[{\"a\":{\"apiKey\":\"(secret)\"}}]"),
        ("v={\"password\":{\"new\":\"a\"}}", "v={\"password\":\"(secret)\"}"),
        ("v={\"Plain\":\"a\"}", "v={\"Plain\":\"(secret)\"}"),
        ("v={\"q\":\"X7kQ2pVd9sLm3RtYw8ZcNa5u\"}", "v={\"q\":\"(secret)\"}"),
        ("v={\"u\":\"https://a.test/?token=b\"}", "v={\"u\":\"(secret)\"}"),
        ("v={\"X7kQ2pVd9sLm3RtYw8ZcNa5u\":1}", "v=(secret)"),
        // Invalid JSON: one secret word hides all of it.
        ("v={\"token\":\"S3CRET\"", "v=(secret)"),
        ("v={token:S3CRET}", "v=(secret)"),
        ("v=%7B%22tok%65n%22:S3CRET", "v=(secret)"),
        ("v=%5B\"accessToken\", \"S3CRET\"", "v=(secret)"),
        // Leading white space and byte order mark, JSON inside a JSON string, double encoding.
        ("v=%20%7B%22token%22%3A%22S3CRET%22%7D", "v=%7B%22token%22%3A%22(secret)%22%7D"),
        ("v=+{\"token\":\"S3CRET\"}", "v=%7B%22token%22%3A%22(secret)%22%7D"),
        ("v=%0A%7B%22token%22%3A%22S3CRET%22%7D", "v=%7B%22token%22%3A%22(secret)%22%7D"),
        ("v=%EF%BB%BF%7B%22token%22%3A%22S3CRET%22%7D", "v=%7B%22token%22%3A%22(secret)%22%7D"),
        ("v=%257B%2522token%2522%253A%2522S3CRET%2522%257D", "v=%7B%22token%22%3A%22(secret)%22%7D"),
        ("v=%22%7B%5C%22token%5C%22%3A%5C%22S3CRET%5C%22%7D%22", "v=%22(secret)%22"),
        ("v={\"a\":\"{\\\"token\\\":\\\"S3CRET\\\"}\"}", "v={\"a\":\"(secret)\"}"),
        // Separate members for names and values.
        ("v=[{\"name\":\"token\",\"value\":\"S3CRET\"}]", "v=(secret)"),
        ("v=[{\"key\":\"token\",\"value\":\"S3CRET\"}]", "v=(secret)"),
        ("v=[{\"value\":\"S3CRET\",\"name\":\"token\"}]", "v=(secret)"),
        ("v=[{\"name\":\"a\",\"value\":\"b\"}]", "v=[{\"name\":\"a\",\"value\":\"b\"}]"),
        // GraphQL documents.
        ("query=query%7Bme(token%3A%22S3CRET%22)%7Bid%7D%7D", "query=(secret)"),
        ("query=mutation+%7Blogin(password+:+%22S3CRET%22)%7Bid%7D%7D", "query=(secret)"),
        (
            "query=query($token:String!){me(token:$token){id}}",
            "query=query($token:String!){me(token:$token){id}}",
        ),
        ("query=query{me(id:7){id}}", "query=query{me(id:7){id}}"),
        ("v=%22btc%22", "v=%22btc%22"),
        ("q=query+token", "q=query+token"),
        // No secrets.
        ("v={\"id\":7,\"name\":\"Ann\"}", "v={\"id\":7,\"name\":\"Ann\"}"),
        ("v={\"country_code\":\"US\"}", "v={\"country_code\":\"US\"}"),
        ("v={\"monkey\":\"a\"", "v={\"monkey\":\"a\""),
        ("filter[name]=x", "filter[name]=x"),
        ("v=[1,2,3]", "v=[1,2,3]"),
        ("ids=[btc,eth]", "ids=[btc,eth]"),
    ] {
        let safe = redactor().param(param);
        assert_eq!(safe, shown, "{param}");
        let url = format!("https://a.test/g?x=1&{param}");
        if !param.contains([' ', '?']) {
            assert_eq!(redactor().text(&url), format!("https://a.test/g?x=1&{shown}"));
        }
        assert_eq!(redactor().is_secret_param(param), param != shown, "{param}");
    }
}

#[test]
fn deeply_nested_json_is_parsed_within_bounds() {
    for json in ["[".repeat(50_000), "{\"a\":".repeat(50_000), "%5B".repeat(50_000)] {
        let param = format!("v={json}");
        assert_eq!(redactor().param(&param), param);
    }
    let hidden = format!("v={}\"token\"", "[".repeat(50_000));
    assert_eq!(redactor().param(&hidden), "v=(secret)");
}

#[test]
fn overlapping_built_in_and_captured_parts_are_merged() {
    let path = "/bot1:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/getMe";
    assert_eq!(redactor().path(path), "/bot(secret)/getMe");
    assert_eq!(redactor().path("/botplainword/getMe"), "/bot(secret)/getMe");
    assert!(matches!(redactor().path("/getMe"), Cow::Borrowed(_)));
}

#[test]
fn secrets_of_urls_and_encoded_names_in_paths_are_hidden() {
    for (path, shown) in [
        ("/proxy/https://u:S3CRET@h/x", "/proxy/https://(secret)@h/x"),
        ("/proxy/https%3A%2F%2Fu%3AS3CRET%40h%2Fx", "/proxy/(secret)"),
        ("/proxy/https%3A%2F%2Fh%2F%3Ftoken%3DS3CRET", "/proxy/(secret)"),
        ("/proxy/https%3a%2f%2fh%2f%3ftoken%3dS3CRET/y", "/proxy/(secret)/y"),
        ("/fetch/https://h/x%3Ftoken=S3CRET", "/fetch/https://h/(secret)"),
        ("/json/%7B%22token%22%3A%22S3CRET%22%7D", "/json/(secret)"),
        ("/tok%65n/S3CRETa1", "/tok%65n/(secret)"),
        ("/users/@me/guilds", "/users/@me/guilds"),
        ("/@scope/pkg@1.2.3", "/@scope/pkg@1.2.3"),
        ("/mails/ann%40a.test", "/mails/ann%40a.test"),
        ("/proxy/https%3A%2F%2Fh%2Fx%3Fpage%3D2", "/proxy/https%3A%2F%2Fh%2Fx%3Fpage%3D2"),
        ("/caf%C3%A9/a%20b", "/caf%C3%A9/a%20b"),
    ] {
        assert_eq!(redactor().path(path), shown, "{path}");
    }
    let deep = format!("/{}", "%25".repeat(20_000));
    assert_eq!(redactor().path(&deep), deep);
}

#[test]
fn only_the_secrets_of_urls_in_texts_are_hidden() {
    for (text, shown) in [
        ("https://a.test/a?access_token=x&b=2#c", "https://a.test/a?access_token=(secret)&b=2#c"),
        ("https://a.test/cb#access_token=x&b=2", "https://a.test/cb#access_token=(secret)&b=2"),
        (
            "</a?token=x>; rel=\"next\", </b?c=d>; rel=last",
            "</a?token=(secret)>; rel=\"next\", </b?c=d>; rel=last",
        ),
        ("5; url=https://u:p@a.test/x?sig=1", "5; url=https://(secret)@a.test/x?sig=(secret)"),
        ("/botplainword/getMe", "/bot(secret)/getMe"),
        ("https://a.test/cb?state=token%3Da&x=1", "https://a.test/cb?state=(secret)&x=1"),
        ("</n?url=https%3A%2F%2Fu%3Ap%40h%2Fx>; rel=next", "</n?url=(secret)>; rel=next"),
        ("//a.test/v3/9aa3d95b3bc440fa88ea12eaa4456161", "//a.test/v3/(secret)"),
        ("Bearer realm=x, token=abc", "Bearer realm=x, token=(secret)"),
        ("\"9aa3d95b3bc440fa88ea12eaa4456161\"", "\"9aa3d95b3bc440fa88ea12eaa4456161\""),
        ("max-age=60, public", "max-age=60, public"),
        ("text/html; charset=utf-8", "text/html; charset=utf-8"),
    ] {
        assert_eq!(redactor().text(text), shown, "{text}");
    }
}

/// A query with a URL that is nested in `levels` other URLs and encoded once for each of them.
fn within_urls(levels: usize, secret: &str) -> String {
    let encoded = |text: &str| {
        let one = |byte: u8| match byte {
            byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        text.bytes().map(one).collect::<String>()
    };
    let inner = format!("https://a.test/cb?{secret}");
    let url = (0..levels).fold(inner, |url, n| format!("https://h{n}.test/?r={}", encoded(&url)));
    url.split_once('?').map(|(_, query)| query.to_owned()).unwrap_or_default()
}

#[test]
fn a_secret_in_nested_urls_is_hidden_at_any_depth() {
    for levels in 1..=12 {
        let (token, page) = (within_urls(levels, "token=S3CRET"), within_urls(levels, "page=2"));
        let user = within_urls(levels, "x=https://u:S3CRET@b.test/");
        for param in [&token, &user] {
            let shown = redactor().param(param);
            assert!(!shown.contains("S3CRET"), "{levels}: {shown}");
            assert!(redactor().is_secret_param(param), "{levels}");
        }
        // Deeper levels are not inspected.
        if levels <= 3 {
            assert_eq!(redactor().param(&page), page, "{levels}");
        }
    }
}

#[test]
fn deeply_nested_urls_are_parsed_within_bounds() {
    let deep = "?a=".repeat(20_000);
    assert_eq!(redactor().text(&deep), deep);
}

proptest! {
    #[test]
    fn any_text_is_redacted_without_a_panic(text in "[ -~äß%]{0,60}") {
        drop(redactor().text(&text));
        drop(redactor().param(&text));
        drop(redactor().path(&text));
        let own = format!("/{}?access_token=XSECRETX", text.replace(ends_word, ""));
        prop_assert!(!redactor().text(&own).contains("XSECRETX"));
    }
}

proptest! {
    /// The fast path for parameters without special characters gives the same result as the full parse.
    #[test]
    fn the_fast_path_for_simple_parameters_equals_the_full_parse(
        name in "[a-zA-Z_.-]{0,12}|(access|api|pass)_?(key|token|word|code)|accessToken|appid",
        equals in "=?", value in "[a-zA-Z0-9,~_-]{0,40}|eyJ[a-zA-Z0-9_-]{20,40}",
    ) {
        let redactor = Redactor::new(&["own".to_owned()], &[]);
        let param = format!("{name}{equals}{value}");
        prop_assert_eq!(redactor.is_secret_param(&param), redactor.is_secret_in_pieces(&param, DEPTH));
    }
}
