//! Range requests: several ranges at once from a whole stored response, and parts that are stored without
//! the whole. Above all, the requests that a stored part must never satisfy.

use std::time::Duration;

use crate::client::{End, Response};
use crate::concurrent::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Gate, MockResponse, Origin, ReceivedRequest, Step};

const BODY: &str = "0123456789abcdefghij";
const TAG: &str = "ETag: \"a\"";

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn is_hit(answer: &Response) -> bool {
    answer.cache_status().starts_with("larder; hit")
}

/// Responds as an origin that supports ranges: `bytes=a-b` of `body` as a 206, otherwise all of it.
fn cut(seen: &ReceivedRequest, body: &str, fields: &[&str]) -> MockResponse {
    let range = seen.field("range").and_then(|range| range.strip_prefix("bytes="));
    let span = range.and_then(|range| range.split_once('-'));
    let span = span.and_then(|(a, b)| Some((a.parse::<usize>().ok()?, b.parse::<usize>().ok()?)));
    let Some((first, last)) = span.filter(|_| seen.method == "GET") else {
        return MockResponse::new(200, fields, body);
    };
    if first >= body.len() {
        let range = format!("Content-Range: bytes */{}", body.len());
        return MockResponse::new(416, &[&range], "");
    }
    let last = last.min(body.len() - 1);
    let range = format!("Content-Range: bytes {first}-{last}/{}", body.len());
    let fields: Vec<&str> = fields.iter().copied().chain([range.as_str()]).collect();
    MockResponse::new(206, &fields, &body.as_bytes()[first..=last])
}

async fn range_origin() -> Origin {
    Origin::start(|seen| cut(seen, BODY, &[TAG, "Content-Type: text/x-note", "X-Else: 1"])).await
}

async fn range(larder: &Larder, range: &str) -> Response {
    larder.get_with("/x", &[&format!("Range: bytes={range}")]).await
}

async fn head(larder: &Larder, fields: &[&str]) -> Response {
    let mut client = larder.client().await;
    client.send_request("HEAD", &format!("{API}/x"), fields).await;
    client.response("HEAD").await.expect("a response")
}

/// The ranges and bytes of a `multipart/byteranges` response, and its boundary.
fn parts(answer: &Response) -> (String, Vec<(String, String)>) {
    let media_type = answer.field("content-type").expect("a media type");
    let boundary = media_type.strip_prefix("multipart/byteranges; boundary=").expect(media_type);
    let text = answer.text();
    let (inner, epilogue) = text.split_once(&format!("\r\n--{boundary}--")).expect("an end");
    assert_eq!(epilogue, "\r\n");
    let delimiter = format!("\r\n--{boundary}\r\n");
    let mut parts = inner.split(&delimiter);
    assert_eq!(parts.next(), Some(""), "nothing before the first part");
    let part = |part: &str| {
        let (head, body) = part.split_once("\r\n\r\n").expect("a head");
        let range = head.strip_prefix("Content-Type: text/x-note\r\nContent-Range: ").expect(head);
        (range.to_owned(), body.to_owned())
    };
    (boundary.to_owned(), parts.map(part).collect())
}

#[tokio::test]
async fn several_ranges_come_as_one_response_in_the_requested_order() {
    bounded(async {
        let origin = range_origin().await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        larder.get("/x").await;
        for (requested, expected) in [
            ("0-1,5-6", &[("0-1", "01"), ("5-6", "56")][..]),
            ("15-,0-0", &[("15-19", "fghij"), ("0-0", "0")]),
            ("-2,4-5,99-,5-6", &[("18-19", "ij"), ("4-6", "456")]),
        ] {
            let answer = range(&larder, requested).await;
            assert_eq!((answer.status, answer.end), (206, End::Complete), "{requested}");
            assert_eq!(answer.field("content-range"), None, "{requested}");
            let length = answer.body.len().to_string();
            assert_eq!(answer.field("content-length"), Some(length.as_str()), "{requested}");
            assert_eq!((answer.field("x-else"), is_hit(&answer)), (Some("1"), true), "{requested}");
            let expected: Vec<_> = expected
                .iter()
                .map(|(range, bytes)| (format!("bytes {range}/20"), (*bytes).to_owned()))
                .collect();
            assert_eq!(parts(&answer).1, expected, "{requested}");
        }
        let (one, _) = parts(&range(&larder, "0-1,5-6").await);
        let (other, _) = parts(&range(&larder, "0-1,5-6").await);
        assert_ne!(one, other, "the boundary is not predictable");
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

#[tokio::test]
async fn mergeable_excessive_or_invalid_ranges_get_no_multipart_response() {
    bounded(async {
        let origin = range_origin().await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        larder.get("/x").await;
        let disjoint: Vec<_> = (0..7).map(|n| format!("{0}-{0}", n * 3)).collect();
        let many = "0-,".repeat(300) + &disjoint.join(",");
        for (requested, status, body, content_range) in [
            ("0-1,2-3", 206, "0123", Some("bytes 0-3/20")),
            ("0-1,40-", 206, "01", Some("bytes 0-1/20")),
            ("0-,0-,0-,0-", 206, BODY, Some("bytes 0-19/20")),
            ("40-,50-", 416, "", Some("bytes */20")),
            ("0-1,x", 200, BODY, None),
            (many.as_str(), 200, BODY, None),
        ] {
            let answer = range(&larder, requested).await;
            assert_eq!((answer.status, answer.text().as_str()), (status, body), "{requested}");
            assert_eq!(answer.field("content-range"), content_range, "{requested}");
            assert!(is_hit(&answer), "{requested}");
        }
        let two = "Range: bytes=0-1,5-6";
        let changed = larder.get_with("/x", &[two, "If-Range: \"b\""]).await;
        assert_eq!((changed.status, changed.text().as_str()), (200, BODY));
        let same = larder.get_with("/x", &[two, "If-Range: \"a\""]).await;
        assert_eq!(same.status, 206);
        let known = larder.get_with("/x", &[two, "If-None-Match: \"a\""]).await;
        assert_eq!((known.status, known.body.len()), (304, 0));
        let head = head(&larder, &[two]).await;
        assert_eq!((head.status, head.field("content-length")), (200, Some("20")));
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

#[tokio::test]
async fn several_ranges_of_a_body_still_arriving_get_the_whole_body() {
    bounded(async {
        let gate = Gate::new();
        let wait = gate.clone();
        let origin = Origin::start(move |seen| {
            if seen.index == 0 {
                return MockResponse::new(200, &[], "old");
            }
            let head = "HTTP/1.1 200 x\r\nContent-Length: 20\r\n\r\n0123456789";
            let rest = Step::Write(b"abcdefghij".to_vec());
            MockResponse::raw(head).then([Step::Wait(wait.clone()), rest])
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        larder.get("/x").await;
        larder.clock.advance(secs(3601));
        let mut leader = larder.client().await;
        leader.send_request("GET", &format!("{API}/x"), &[]).await;
        leader.read_until("0123456789").await;
        let mut waiter = larder.client().await;
        waiter.send_request("GET", &format!("{API}/x"), &["Range: bytes=15-16,0-1"]).await;
        waiter.read_until("0123456789").await;
        gate.open();
        for client in [&mut leader, &mut waiter] {
            let answer = client.response("GET").await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, BODY));
            assert_eq!(answer.field("content-length"), Some("20"));
        }
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn several_ranges_of_an_unstored_url_pass_through_and_are_not_stored() {
    bounded(async {
        let fields = &[TAG, "Content-Type: multipart/byteranges; boundary=x"];
        let origin = Origin::always(MockResponse::new(206, fields, "--x--")).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        for call in 1..3 {
            let answer = range(&larder, "0-1,5-6").await;
            assert_eq!((answer.status, answer.text().as_str()), (206, "--x--"));
            assert_eq!(origin.calls(), call);
            assert_eq!(origin.requests()[call - 1].field("range"), Some("bytes=0-1,5-6"));
        }
    })
    .await;
}

#[tokio::test]
async fn a_stored_part_satisfies_the_ranges_within_it() {
    bounded(async {
        let origin = range_origin().await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let first = range(&larder, "5-14").await;
        assert_eq!((first.status, first.text().as_str()), (206, "56789abcde"));
        assert_eq!(first.field("content-range"), Some("bytes 5-14/20"));
        assert_eq!(first.cache_status(), "larder; fwd=uri-miss; fwd-status=206; stored; ttl=3600");
        larder.clock.advance(secs(10));
        for (requested, body, content_range) in [
            ("5-14", "56789abcde", "bytes 5-14/20"),
            ("7-8", "78", "bytes 7-8/20"),
            ("14-14", "e", "bytes 14-14/20"),
        ] {
            let answer = range(&larder, requested).await;
            assert_eq!((answer.status, answer.text().as_str()), (206, body), "{requested}");
            assert_eq!(answer.field("content-range"), Some(content_range), "{requested}");
            let length = body.len().to_string();
            assert_eq!(answer.all("content-length"), [length.as_str()], "{requested}");
            assert_eq!((answer.field("x-else"), answer.field("age")), (Some("1"), Some("10")));
            assert_eq!(answer.cache_status(), "larder; hit; ttl=3590", "{requested}");
        }
        let same = larder.get_with("/x", &["Range: bytes=7-8", "If-Range: \"a\""]).await;
        assert!((same.status, is_hit(&same)) == (206, true));
        let cached = ["Range: bytes=7-8", "Cache-Control: only-if-cached"];
        assert!(is_hit(&larder.get_with("/x", &cached).await));
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

/// Requests that a stored part must not satisfy. In each case, bytes 5 to 14 of 20 are stored and nothing
/// else.
#[tokio::test]
async fn a_part_never_satisfies_a_request_for_more_than_it_contains() {
    bounded(async {
        for (method, fields, status) in [
            ("GET", &[][..], 200),
            ("HEAD", &[], 200),
            ("HEAD", &["Range: bytes=7-8"], 200),
            ("GET", &["Range: bytes=4-8"], 206),
            ("GET", &["Range: bytes=8-15"], 206),
            ("GET", &["Range: bytes=7-"], 206), // larder cuts the origin's 200
            ("GET", &["Range: bytes=-8"], 206),
            ("GET", &["Range: bytes=99-100"], 416),
            ("GET", &["Range: bytes=6-7,9-10"], 200),
            ("GET", &["Range: bytes=7-8", "Range: bytes=7-8"], 206),
            ("GET", &["Range: lines=7-8"], 200),
            ("GET", &["Range: bytes=7-8", "If-None-Match: \"a\""], 206),
            ("GET", &["Range: bytes=7-8", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"], 206),
            ("GET", &["Range: bytes=7-8", "If-Match: \"b\""], 206),
            ("GET", &["Range: bytes=7-8", "If-Range: \"b\""], 206),
            ("GET", &["Range: bytes=7-8", "Cache-Control: no-cache"], 206),
            ("GET", &["Range: bytes=7-8", "Cache-Control: no-store"], 206),
            ("GET", &["If-None-Match: \"a\""], 304), // from the origin's new 200
        ] {
            let origin = range_origin().await;
            let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
            assert_eq!(range(&larder, "5-14").await.text(), "56789abcde");
            let mut client = larder.client().await;
            client.send_request(method, &format!("{API}/x"), fields).await;
            let answer = client.response(method).await.unwrap();
            assert_eq!(origin.calls(), 2, "{method} {fields:?}: the request was forwarded");
            let seen = &origin.requests()[1];
            let sent = fields.iter().find_map(|field| field.strip_prefix("Range: "));
            assert_eq!(seen.field("range"), sent, "{method} {fields:?}");
            assert!(!is_hit(&answer), "{method} {fields:?}: {}", answer.cache_status());
            assert_eq!(answer.status, status, "{method} {fields:?}");
            if status == 200 && method == "GET" {
                assert_eq!(answer.text(), BODY, "{fields:?}");
            }
        }
        let origin = range_origin().await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        range(&larder, "5-14").await;
        for fields in
            [&["Cache-Control: only-if-cached"][..], &["Cache-Control: only-if-cached", "Range: bytes=4-8"]]
        {
            assert_eq!(larder.get_with("/x", fields).await.status, 504, "{fields:?}");
        }
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_part_is_never_served_instead_of_an_error() {
    bounded(async {
        let origin = range_origin().await;
        let policy = ["ttl: 10s", "stale_while_revalidate: 1h", "stale_if_error: { for: 1h }"];
        let larder = Larder::with_policy(&origin, &policy).await;
        range(&larder, "5-14").await;
        origin.set_script(|_| MockResponse::new(503, &[], "down"));
        let whole = larder.get("/x").await;
        assert_eq!((whole.status, whole.text().as_str()), (503, "down"));
        let outside = range(&larder, "0-8").await;
        assert_eq!((outside.status, outside.text().as_str()), (503, "down"));
        larder.clock.advance(secs(11));
        for fields in [&["Range: bytes=7-8"][..], &["Range: bytes=7-8", "Cache-Control: max-stale"]] {
            let stale = larder.get_with("/x", fields).await;
            assert_eq!((stale.status, stale.text().as_str()), (503, "down"), "{fields:?}");
            assert_eq!(stale.cache_status(), "larder; fwd=stale; fwd-status=503", "{fields:?}");
        }
        origin.set_script(|_| MockResponse::closed());
        assert_eq!(range(&larder, "7-8").await.status, 502);
    })
    .await;
}

#[tokio::test]
async fn a_full_get_with_only_a_part_stored_is_fetched_unconditionally() {
    bounded(async {
        let origin = range_origin().await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        range(&larder, "5-14").await;
        let whole = larder.get("/x").await;
        assert_eq!((whole.status, whole.text().as_str()), (200, BODY));
        assert_eq!(whole.cache_status(), "larder; fwd=partial; fwd-status=200; stored; ttl=3600");
        let seen = &origin.requests()[1];
        for name in ["range", "if-none-match", "if-modified-since", "if-range"] {
            assert_eq!(seen.field(name), None, "{name}");
        }
        // From here on the whole stored response satisfies every range.
        for requested in ["0-19", "7-8", "18-"] {
            assert!(is_hit(&range(&larder, requested).await), "{requested}");
        }
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn adjacent_parts_are_combined_into_the_whole() {
    bounded(async {
        let origin = range_origin().await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        range(&larder, "5-9").await;
        let next = range(&larder, "10-14").await;
        assert_eq!(next.cache_status(), "larder; fwd=partial; fwd-status=206; stored; ttl=3600");
        let over = range(&larder, "7-12").await;
        assert_eq!((over.text().as_str(), is_hit(&over)), ("789abc", true));
        range(&larder, "0-4").await;
        assert!(!is_hit(&range(&larder, "12-19").await));
        let whole = larder.get("/x").await;
        assert_eq!((whole.status, whole.text().as_str()), (200, BODY));
        assert_eq!(whole.cache_status(), "larder; hit; ttl=3600");
        assert_eq!(whole.field("content-range"), None);
        assert_eq!(whole.all("content-length"), ["20"]);
        assert_eq!(whole.field("content-type"), Some("text/x-note"));
        let head = head(&larder, &[]).await;
        assert_eq!((head.status, head.field("content-length")), (200, Some("20")));
        assert_eq!(range(&larder, "0-1,5-6").await.status, 206);
        assert_eq!(origin.calls(), 4);
    })
    .await;
}

#[tokio::test]
async fn parts_of_two_versions_are_never_combined() {
    bounded(async {
        let changed = [
            (BODY, "ETag: \"b\""),
            ("0123456789abcdefghijk", TAG),
            ("ABCDEFGHIJabcdefghij", TAG), // one ETag for two bodies
        ];
        for (body, tag) in changed {
            let origin = range_origin().await;
            let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
            range(&larder, "0-10").await;
            origin.set_script(move |seen| cut(seen, body, &[tag]));
            range(&larder, "9-19").await;
            let whole = larder.get("/x").await;
            assert!(!is_hit(&whole), "{body} {tag}: {}", whole.cache_status());
            assert_eq!(whole.text(), body);
        }
    })
    .await;
}

#[tokio::test]
async fn a_range_response_that_is_no_usable_part_is_passed_on_and_not_stored() {
    const RANGE: &str = "Content-Range: bytes 5-9/20";
    bounded(async {
        for (status, fields, body) in [
            (206, &[RANGE][..], "56789"),
            (206, &[RANGE, "ETag: W/\"a\""], "56789"),
            (206, &[RANGE, "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT"], "56789"),
            (206, &["Content-Range: bytes 5-9/*", TAG], "56789"),
            (206, &["Content-Range: bytes 5-8/20", TAG], "56789"),
            (206, &["Content-Range: bytes 5-10/20", TAG], "56789"),
            (206, &["Content-Range: bytes 5-9/9", TAG], "56789"),
            (206, &[TAG], "56789"),
            (206, &[RANGE, TAG, "Set-Cookie: a=b"], "56789"),
            (206, &[RANGE, TAG, "Vary: *"], "56789"),
            (416, &["Content-Range: bytes */20", "Cache-Control: max-age=60", TAG], ""),
            (404, &["Cache-Control: max-age=60"], "none"),
            (301, &["Location: /y", "Cache-Control: max-age=60"], ""),
            (503, &["Cache-Control: max-age=60"], "down"),
        ] {
            let owned: Vec<String> = fields.iter().map(ToString::to_string).collect();
            let origin = Origin::start(move |_| {
                let lines: Vec<&str> = owned.iter().map(String::as_str).collect();
                MockResponse::new(status, &lines, body)
            })
            .await;
            let policy = ["ttl: 1h", "ttl_by_status: { 404: 1h, 416: 1h, 5xx: 1h }"];
            let larder = Larder::with_policy(&origin, &policy).await;
            for call in 1..3 {
                let answer = range(&larder, "5-9").await;
                assert_eq!((answer.status, answer.text().as_str()), (status, body), "{fields:?}");
                assert!(!answer.cache_status().contains("stored"), "{fields:?}");
                assert_eq!(origin.calls(), call, "{status} {fields:?}");
            }
            origin.set_script(|_| MockResponse::new(200, &[], BODY));
            assert_eq!(larder.get("/x").await.text(), BODY, "{status} {fields:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn no_store_and_private_from_the_origin_apply_to_parts() {
    bounded(async {
        for directives in ["no-store, max-age=60", "private, max-age=60"] {
            let field = format!("Cache-Control: {directives}");
            let origin = Origin::start(move |seen| cut(seen, BODY, &[TAG, &field])).await;
            let larder = Larder::with_policy(&origin, &["ttl: origin"]).await;
            range(&larder, "5-9").await;
            range(&larder, "5-9").await;
            assert_eq!(origin.calls(), 2, "{directives}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_truncated_part_is_not_stored_and_does_not_end_cleanly() {
    bounded(async {
        let head = format!("HTTP/1.1 206 x\r\n{TAG}\r\nContent-Range: bytes 5-9/20\r\n");
        let short = MockResponse::raw(format!("{head}Content-Length: 5\r\n\r\n567"));
        let origin = Origin::always(short.then([Step::Close])).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let answer = range(&larder, "5-9").await;
        assert_eq!((answer.status, answer.end), (206, End::Truncated));
        // Chunked, but its `Content-Range` announces more bytes.
        let fields = [TAG, "Content-Range: bytes 5-9/20"];
        let chunked = MockResponse::chunked(206, &fields, &[b"567"]);
        origin.set_script(move |_| chunked.clone());
        for call in 2..4 {
            assert_eq!(range(&larder, "5-9").await.text(), "567");
            assert_eq!(origin.calls(), call);
        }
        let whole = MockResponse::chunked(206, &fields, &[b"567", b"89"]);
        origin.set_script(move |_| whole.clone());
        range(&larder, "5-9").await;
        assert!(is_hit(&range(&larder, "5-9").await));
    })
    .await;
}

#[tokio::test]
async fn a_200_response_to_a_range_request_is_stored_as_usual() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], BODY)).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let part = range(&larder, "5-9").await;
        assert_eq!((part.status, part.text().as_str()), (206, "56789"));
        let whole = larder.get("/x").await;
        assert_eq!((whole.text().as_str(), is_hit(&whole)), (BODY, true));
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_part_with_status_200_is_passed_on_unchanged_and_not_stored() {
    bounded(async {
        let fields = &["Content-Range: bytes 5-9/20", TAG];
        let origin = Origin::start(|seen| match seen.field("range") {
            Some(_) => MockResponse::new(200, fields, "56789"),
            None => MockResponse::new(200, &[TAG], BODY),
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let part = larder.get_with("/x", &["Range: bytes=5-9"]).await;
        assert_eq!((part.status, part.text().as_str()), (200, "56789"));
        assert!(!part.cache_status().contains("stored"), "{}", part.cache_status());
        assert_eq!(larder.get("/x").await.text(), BODY);
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_206_with_every_byte_is_stored_as_the_whole() {
    bounded(async {
        let origin = range_origin().await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        assert_eq!(range(&larder, "0-99").await.status, 206);
        let whole = larder.get("/x").await;
        assert_eq!((whole.status, whole.text().as_str(), is_hit(&whole)), (200, BODY, true));
    })
    .await;
}

#[tokio::test]
async fn a_stale_part_is_fetched_again() {
    bounded(async {
        let origin = range_origin().await;
        let larder = Larder::with_policy(&origin, &["ttl: 10s"]).await;
        range(&larder, "5-9").await;
        larder.clock.advance(secs(10));
        let anew = range(&larder, "5-9").await;
        assert_eq!(anew.cache_status(), "larder; fwd=stale; fwd-status=206; stored; ttl=10");
        assert_eq!(origin.requests()[1].field("if-none-match"), None);
        assert!(is_hit(&range(&larder, "5-9").await));
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn an_unsafe_method_invalidates_parts_including_those_in_flight() {
    bounded(async {
        let origin = range_origin().await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        range(&larder, "5-9").await;
        let mut writer = larder.client().await;
        writer.send_request("DELETE", &format!("{API}/x"), &[]).await;
        writer.response("DELETE").await.unwrap();
        assert_eq!(
            range(&larder, "5-9").await.cache_status(),
            "larder; fwd=uri-miss; fwd-status=206; stored; ttl=3600"
        );
        // Requested before the unsafe method, received after it.
        let gate = Gate::new();
        let wait = gate.clone();
        origin.set_script(move |seen| match seen.method.as_str() {
            "GET" => cut(seen, BODY, &[TAG]).after(&wait),
            _ => MockResponse::new(200, &[], ""),
        });
        let calls = origin.calls();
        let mut slow = larder.client().await;
        slow.send_request("GET", &format!("{API}/x"), &["Range: bytes=10-14"]).await;
        origin.wait_for_calls(calls + 1).await;
        writer.send_request("DELETE", &format!("{API}/x"), &[]).await;
        writer.response("DELETE").await.unwrap();
        gate.open();
        assert_eq!(slow.response("GET").await.unwrap().text(), "abcde");
        assert!(!is_hit(&range(&larder, "10-14").await));
    })
    .await;
}

#[tokio::test]
async fn a_part_belongs_to_the_credential_and_the_variant_it_was_fetched_for() {
    bounded(async {
        let origin = Origin::start(|seen| {
            let body = match (seen.field("authorization"), seen.field("x-v")) {
                (Some("Bearer 2"), _) => "ABCDEFGHIJKLMNOPQRST",
                (_, Some("2")) => "zyxwvutsrqponmlkjihg",
                _ => BODY,
            };
            cut(seen, body, &[TAG, "Vary: X-V"])
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let get_range = async |fields: &[&str], requested: &str| {
            let range = format!("Range: bytes={requested}");
            let fields: Vec<&str> = fields.iter().copied().chain([range.as_str()]).collect();
            larder.get_with("/x", &fields).await
        };
        let all = [
            (&["X-V: 1", "Authorization: Bearer 1"][..], "0123456789"),
            (&["X-V: 1", "Authorization: Bearer 2"], "ABCDEFGHIJ"),
            (&["X-V: 2", "Authorization: Bearer 1"], "zyxwvutsrq"),
            (&["X-V: 1"], "0123456789"),
        ];
        for (fields, expected) in all {
            let answer = get_range(fields, "0-9").await;
            assert_eq!((answer.text().as_str(), is_hit(&answer)), (expected, false), "{fields:?}");
        }
        for (fields, expected) in all {
            let answer = get_range(fields, "0-9").await;
            assert_eq!((answer.text().as_str(), is_hit(&answer)), (expected, true), "{fields:?}");
            // All share one ETag, but parts of different users or variants are not combined.
            get_range(fields, "10-19").await;
            assert_eq!(larder.get_with("/x", fields).await.text().get(..10), Some(expected));
        }
        assert_eq!(origin.calls(), 8);
    })
    .await;
}

#[tokio::test]
async fn parts_are_stored_up_to_the_size_of_max_object() {
    bounded(async {
        let long = "0123456789".repeat(1000);
        let body = long.clone();
        let origin = Origin::start(move |seen| cut(seen, &body, &[TAG])).await;
        let larder = Larder::start(
            &origin,
            "store: { max_object: 4KiB }\n\
             routes: [{ name: api, match: { host: api.example.test }, ttl: 1h }]\n",
        )
        .await;
        assert_eq!(range(&larder, "0-4999").await.body, long.as_bytes()[..5000]);
        assert!(!is_hit(&range(&larder, "0-9").await), "larger than max_object");
        range(&larder, "0-2999").await;
        range(&larder, "3000-5999").await;
        // Combined they would be too large: only the later part is stored.
        let later = range(&larder, "3000-3009").await;
        assert_eq!((later.text().as_str(), is_hit(&later)), ("0123456789", true));
        assert!(!is_hit(&range(&larder, "0-9").await));
    })
    .await;
}

#[tokio::test]
async fn a_part_survives_a_restart_and_is_combined_from_disk() {
    bounded(async {
        // Too large to be stored next to the fields: the bytes are in a file.
        let body = BODY.repeat(1000);
        let origin = {
            let body = body.clone();
            Origin::start(move |seen| cut(seen, &body, &[TAG])).await
        };
        let directory = tempfile::tempdir().unwrap();
        let store = format!("store: {{ path: \"{}\" }}\n", directory.path().display());
        let yaml = store + &route(&["ttl: 1h"]);
        let larder = Larder::start(&origin, &yaml).await;
        range(&larder, "0-9999").await;
        assert!(larder.server.stop().await);
        let larder = Larder::start(&origin, &yaml).await;
        let part = range(&larder, "15-24").await;
        assert_eq!((part.text().as_str(), is_hit(&part)), ("fghij01234", true));
        assert_eq!(part.field("content-range"), Some("bytes 15-24/20000"));
        let cached = larder.get_with("/x", &["Cache-Control: only-if-cached"]).await;
        assert_eq!((cached.status, origin.calls()), (504, 1), "it is not the whole");
        range(&larder, "10000-19999").await;
        let whole = larder.get("/x").await;
        assert!(whole.body == body.as_bytes() && is_hit(&whole), "{}", whole.cache_status());
        assert!(larder.server.stop().await);
        // A new larder with empty memory finds both parts on its disk.
        let larder = Larder::start(&origin, &yaml).await;
        let whole = larder.get("/x").await;
        assert!(whole.body == body.as_bytes() && is_hit(&whole), "{}", whole.cache_status());
        assert_eq!(origin.calls(), 2);
    })
    .await;
}
