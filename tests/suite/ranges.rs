//! Ranges: several at once from what is stored whole, and parts that are stored without their whole.
//! Above all what a part must never answer for.

use std::time::Duration;

use crate::client::{End, Response};
use crate::crowd::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Answer, Gate, Origin, Seen, Step};

const BODY: &str = "0123456789abcdefghij";
const TAG: &str = "ETag: \"a\"";

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn is_hit(answer: &Response) -> bool {
    answer.cache_status().starts_with("larder; hit")
}

/// Answers as an origin that knows ranges does: `bytes=a-b` of `body` as a 206, else all of it.
fn cut(seen: &Seen, body: &str, fields: &[&str]) -> Answer {
    let range = seen.field("range").and_then(|range| range.strip_prefix("bytes="));
    let span = range.and_then(|range| range.split_once('-'));
    let span = span.and_then(|(a, b)| Some((a.parse::<usize>().ok()?, b.parse::<usize>().ok()?)));
    let Some((first, last)) = span.filter(|_| seen.method == "GET") else {
        return Answer::new(200, fields, body);
    };
    if first >= body.len() {
        let range = format!("Content-Range: bytes */{}", body.len());
        return Answer::new(416, &[&range], "");
    }
    let last = last.min(body.len() - 1);
    let range = format!("Content-Range: bytes {first}-{last}/{}", body.len());
    let fields: Vec<&str> = fields.iter().copied().chain([range.as_str()]).collect();
    Answer::new(206, &fields, &body.as_bytes()[first..=last])
}

async fn knows_ranges() -> Origin {
    Origin::start(|seen| cut(seen, BODY, &[TAG, "Content-Type: text/x-note", "X-Else: 1"])).await
}

async fn range(larder: &Larder, range: &str) -> Response {
    larder.get_with("/x", &[&format!("Range: bytes={range}")]).await
}

async fn head(larder: &Larder, fields: &[&str]) -> Response {
    let mut client = larder.client().await;
    client.ask("HEAD", &format!("{API}/x"), fields).await;
    client.answer("HEAD").await.expect("an answer")
}

/// The ranges and bytes of a `multipart/byteranges` answer, and its boundary.
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
async fn several_ranges_come_as_one_answer_in_the_order_they_were_asked_for() {
    bounded(async {
        let origin = knows_ranges().await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        larder.get("/x").await;
        for (asked, expected) in [
            ("0-1,5-6", &[("0-1", "01"), ("5-6", "56")][..]),
            ("15-,0-0", &[("15-19", "fghij"), ("0-0", "0")]),
            ("-2,4-5,99-,5-6", &[("18-19", "ij"), ("4-6", "456")]),
        ] {
            let answer = range(&larder, asked).await;
            assert_eq!((answer.status, answer.end), (206, End::Whole), "{asked}");
            assert_eq!(answer.field("content-range"), None, "{asked}");
            let length = answer.body.len().to_string();
            assert_eq!(answer.field("content-length"), Some(length.as_str()), "{asked}");
            assert_eq!((answer.field("x-else"), is_hit(&answer)), (Some("1"), true), "{asked}");
            let expected: Vec<_> = expected
                .iter()
                .map(|(range, bytes)| (format!("bytes {range}/20"), (*bytes).to_owned()))
                .collect();
            assert_eq!(parts(&answer).1, expected, "{asked}");
        }
        let (one, _) = parts(&range(&larder, "0-1,5-6").await);
        let (other, _) = parts(&range(&larder, "0-1,5-6").await);
        assert_ne!(one, other, "nobody can guess the boundary");
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

#[tokio::test]
async fn several_ranges_that_are_one_or_too_many_or_none_are_answered_without_parts() {
    bounded(async {
        let origin = knows_ranges().await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        larder.get("/x").await;
        let apart: Vec<_> = (0..7).map(|n| format!("{0}-{0}", n * 3)).collect();
        let many = "0-,".repeat(300) + &apart.join(",");
        for (asked, status, body, content_range) in [
            ("0-1,2-3", 206, "0123", Some("bytes 0-3/20")),
            ("0-1,40-", 206, "01", Some("bytes 0-1/20")),
            ("0-,0-,0-,0-", 206, BODY, Some("bytes 0-19/20")),
            ("40-,50-", 416, "", Some("bytes */20")),
            ("0-1,x", 200, BODY, None),
            (many.as_str(), 200, BODY, None),
        ] {
            let answer = range(&larder, asked).await;
            assert_eq!((answer.status, answer.text().as_str()), (status, body), "{asked}");
            assert_eq!(answer.field("content-range"), content_range, "{asked}");
            assert!(is_hit(&answer), "{asked}");
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
async fn several_ranges_of_a_body_that_is_still_arriving_get_all_of_it() {
    bounded(async {
        let gate = Gate::new();
        let wait = gate.clone();
        let origin = Origin::start(move |seen| {
            if seen.index == 0 {
                return Answer::new(200, &[], "old");
            }
            let head = "HTTP/1.1 200 x\r\nContent-Length: 20\r\n\r\n0123456789";
            let rest = Step::Write(b"abcdefghij".to_vec());
            Answer::raw(head).then([Step::Wait(wait.clone()), rest])
        })
        .await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        larder.get("/x").await;
        larder.clock.advance(secs(3601));
        let mut leader = larder.client().await;
        leader.ask("GET", &format!("{API}/x"), &[]).await;
        leader.reads("0123456789").await;
        let mut waiter = larder.client().await;
        waiter.ask("GET", &format!("{API}/x"), &["Range: bytes=15-16,0-1"]).await;
        waiter.reads("0123456789").await;
        gate.open();
        for client in [&mut leader, &mut waiter] {
            let answer = client.answer("GET").await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (200, BODY));
            assert_eq!(answer.field("content-length"), Some("20"));
        }
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn several_ranges_of_what_is_not_stored_pass_through_and_are_not_kept() {
    bounded(async {
        let fields = &[TAG, "Content-Type: multipart/byteranges; boundary=x"];
        let origin = Origin::always(Answer::new(206, fields, "--x--")).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        for call in 1..3 {
            let answer = range(&larder, "0-1,5-6").await;
            assert_eq!((answer.status, answer.text().as_str()), (206, "--x--"));
            assert_eq!(origin.calls(), call);
            assert_eq!(origin.seen()[call - 1].field("range"), Some("bytes=0-1,5-6"));
        }
    })
    .await;
}

#[tokio::test]
async fn a_part_is_kept_and_answers_the_ranges_within_it() {
    bounded(async {
        let origin = knows_ranges().await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let first = range(&larder, "5-14").await;
        assert_eq!((first.status, first.text().as_str()), (206, "56789abcde"));
        assert_eq!(first.field("content-range"), Some("bytes 5-14/20"));
        assert_eq!(first.cache_status(), "larder; fwd=uri-miss; fwd-status=206; stored; ttl=3600");
        larder.clock.advance(secs(10));
        for (asked, body, content_range) in [
            ("5-14", "56789abcde", "bytes 5-14/20"),
            ("7-8", "78", "bytes 7-8/20"),
            ("14-14", "e", "bytes 14-14/20"),
        ] {
            let answer = range(&larder, asked).await;
            assert_eq!((answer.status, answer.text().as_str()), (206, body), "{asked}");
            assert_eq!(answer.field("content-range"), Some(content_range), "{asked}");
            let length = body.len().to_string();
            assert_eq!(answer.all("content-length"), [length.as_str()], "{asked}");
            assert_eq!((answer.field("x-else"), answer.field("age")), (Some("1"), Some("10")));
            assert_eq!(answer.cache_status(), "larder; hit; ttl=3590", "{asked}");
        }
        let same = larder.get_with("/x", &["Range: bytes=7-8", "If-Range: \"a\""]).await;
        assert!((same.status, is_hit(&same)) == (206, true));
        let cached = ["Range: bytes=7-8", "Cache-Control: only-if-cached"];
        assert!(is_hit(&larder.get_with("/x", &cached).await));
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

/// The must-nevers. Each on a larder that has bytes 5 to 14 of 20 and nothing else.
#[tokio::test]
async fn a_part_never_answers_for_more_than_it_holds() {
    bounded(async {
        for (method, fields, status) in [
            ("GET", &[][..], 200),
            ("HEAD", &[], 200),
            ("HEAD", &["Range: bytes=7-8"], 200),
            ("GET", &["Range: bytes=4-8"], 206),
            ("GET", &["Range: bytes=8-15"], 206),
            ("GET", &["Range: bytes=7-"], 206), // larder's own cut of the origin's 200
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
            ("GET", &["If-None-Match: \"a\""], 304), // by the origin's new 200
        ] {
            let origin = knows_ranges().await;
            let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
            assert_eq!(range(&larder, "5-14").await.text(), "56789abcde");
            let mut client = larder.client().await;
            client.ask(method, &format!("{API}/x"), fields).await;
            let answer = client.answer(method).await.unwrap();
            assert_eq!(origin.calls(), 2, "{method} {fields:?}: the origin was asked");
            let seen = &origin.seen()[1];
            let sent = fields.iter().find_map(|field| field.strip_prefix("Range: "));
            assert_eq!(seen.field("range"), sent, "{method} {fields:?}");
            assert!(!is_hit(&answer), "{method} {fields:?}: {}", answer.cache_status());
            assert_eq!(answer.status, status, "{method} {fields:?}");
            if status == 200 && method == "GET" {
                assert_eq!(answer.text(), BODY, "{fields:?}");
            }
        }
        let origin = knows_ranges().await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        range(&larder, "5-14").await;
        for fields in [
            &["Cache-Control: only-if-cached"][..],
            &["Cache-Control: only-if-cached", "Range: bytes=4-8"],
        ] {
            assert_eq!(larder.get_with("/x", fields).await.status, 504, "{fields:?}");
        }
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_part_never_stands_in_for_an_error() {
    bounded(async {
        let origin = knows_ranges().await;
        let policy = ["ttl: 10s", "stale_while_revalidate: 1h", "stale_if_error: { for: 1h }"];
        let larder = Larder::with_policy(&origin, &policy).await;
        range(&larder, "5-14").await;
        origin.now(|_| Answer::new(503, &[], "down"));
        let whole = larder.get("/x").await;
        assert_eq!((whole.status, whole.text().as_str()), (503, "down"));
        let outside = range(&larder, "0-8").await;
        assert_eq!((outside.status, outside.text().as_str()), (503, "down"));
        larder.clock.advance(secs(11));
        for fields in [&["Range: bytes=7-8"][..], &["Range: bytes=7-8", "Cache-Control: max-stale"]]
        {
            let stale = larder.get_with("/x", fields).await;
            assert_eq!((stale.status, stale.text().as_str()), (503, "down"), "{fields:?}");
            assert_eq!(stale.cache_status(), "larder; fwd=stale; fwd-status=503", "{fields:?}");
        }
        origin.now(|_| Answer::closed());
        assert_eq!(range(&larder, "7-8").await.status, 502);
    })
    .await;
}

#[tokio::test]
async fn a_whole_get_with_only_a_part_stored_fetches_the_whole_without_conditions() {
    bounded(async {
        let origin = knows_ranges().await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        range(&larder, "5-14").await;
        let whole = larder.get("/x").await;
        assert_eq!((whole.status, whole.text().as_str()), (200, BODY));
        assert_eq!(whole.cache_status(), "larder; fwd=partial; fwd-status=200; stored; ttl=3600");
        let seen = &origin.seen()[1];
        for name in ["range", "if-none-match", "if-modified-since", "if-range"] {
            assert_eq!(seen.field(name), None, "{name}");
        }
        // From here on the whole answers for everything.
        for asked in ["0-19", "7-8", "18-"] {
            assert!(is_hit(&range(&larder, asked).await), "{asked}");
        }
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn parts_that_adjoin_are_joined_and_become_the_whole() {
    bounded(async {
        let origin = knows_ranges().await;
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
async fn parts_of_two_versions_are_never_joined() {
    bounded(async {
        let changed = [
            (BODY, "ETag: \"b\""),
            ("0123456789abcdefghijk", TAG),
            ("ABCDEFGHIJabcdefghij", TAG), // one tag for two bodies
        ];
        for (body, tag) in changed {
            let origin = knows_ranges().await;
            let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
            range(&larder, "0-10").await;
            origin.now(move |seen| cut(seen, body, &[tag]));
            range(&larder, "9-19").await;
            let whole = larder.get("/x").await;
            assert!(!is_hit(&whole), "{body} {tag}: {}", whole.cache_status());
            assert_eq!(whole.text(), body);
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_to_a_range_that_is_no_sound_part_is_passed_on_and_not_kept() {
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
                Answer::new(status, &lines, body)
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
            origin.now(|_| Answer::new(200, &[], BODY));
            assert_eq!(larder.get("/x").await.text(), BODY, "{status} {fields:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_origins_prohibitions_hold_for_parts() {
    bounded(async {
        for said in ["no-store, max-age=60", "private, max-age=60"] {
            let field = format!("Cache-Control: {said}");
            let origin = Origin::start(move |seen| cut(seen, BODY, &[TAG, &field])).await;
            let larder = Larder::with_policy(&origin, &["ttl: origin"]).await;
            range(&larder, "5-9").await;
            range(&larder, "5-9").await;
            assert_eq!(origin.calls(), 2, "{said}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_part_that_was_cut_short_is_not_kept_and_does_not_end_cleanly() {
    bounded(async {
        let head = format!("HTTP/1.1 206 x\r\n{TAG}\r\nContent-Range: bytes 5-9/20\r\n");
        let short = Answer::raw(format!("{head}Content-Length: 5\r\n\r\n567"));
        let origin = Origin::always(short.then([Step::Close])).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let answer = range(&larder, "5-9").await;
        assert_eq!((answer.status, answer.end), (206, End::Cut));
        // Chunked, and its own `Content-Range` says that there should be more.
        let fields = [TAG, "Content-Range: bytes 5-9/20"];
        let chunked = Answer::chunked(206, &fields, &[b"567"]);
        origin.now(move |_| chunked.clone());
        for call in 2..4 {
            assert_eq!(range(&larder, "5-9").await.text(), "567");
            assert_eq!(origin.calls(), call);
        }
        let whole = Answer::chunked(206, &fields, &[b"567", b"89"]);
        origin.now(move |_| whole.clone());
        range(&larder, "5-9").await;
        assert!(is_hit(&range(&larder, "5-9").await));
    })
    .await;
}

#[tokio::test]
async fn a_200_to_a_range_is_stored_as_usual() {
    bounded(async {
        let origin = Origin::always(Answer::new(200, &[], BODY)).await;
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
async fn a_part_that_an_origin_calls_200_is_passed_on_as_it_is_and_not_kept() {
    bounded(async {
        let fields = &["Content-Range: bytes 5-9/20", TAG];
        let origin = Origin::start(|seen| match seen.field("range") {
            Some(_) => Answer::new(200, fields, "56789"),
            None => Answer::new(200, &[TAG], BODY),
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
        let origin = knows_ranges().await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        assert_eq!(range(&larder, "0-99").await.status, 206);
        let whole = larder.get("/x").await;
        assert_eq!((whole.status, whole.text().as_str(), is_hit(&whole)), (200, BODY, true));
    })
    .await;
}

#[tokio::test]
async fn a_stale_part_is_fetched_anew() {
    bounded(async {
        let origin = knows_ranges().await;
        let larder = Larder::with_policy(&origin, &["ttl: 10s"]).await;
        range(&larder, "5-9").await;
        larder.clock.advance(secs(10));
        let anew = range(&larder, "5-9").await;
        assert_eq!(anew.cache_status(), "larder; fwd=stale; fwd-status=206; stored; ttl=10");
        assert_eq!(origin.seen()[1].field("if-none-match"), None);
        assert!(is_hit(&range(&larder, "5-9").await));
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn an_unsafe_method_makes_parts_unusable_and_those_in_flight_too() {
    bounded(async {
        let origin = knows_ranges().await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        range(&larder, "5-9").await;
        let mut writer = larder.client().await;
        writer.ask("DELETE", &format!("{API}/x"), &[]).await;
        writer.answer("DELETE").await.unwrap();
        assert_eq!(
            range(&larder, "5-9").await.cache_status(),
            "larder; fwd=uri-miss; fwd-status=206; stored; ttl=3600"
        );
        // Asked for before, answered after.
        let gate = Gate::new();
        let wait = gate.clone();
        origin.now(move |seen| match seen.method.as_str() {
            "GET" => cut(seen, BODY, &[TAG]).after(&wait),
            _ => Answer::new(200, &[], ""),
        });
        let calls = origin.calls();
        let mut slow = larder.client().await;
        slow.ask("GET", &format!("{API}/x"), &["Range: bytes=10-14"]).await;
        origin.reached(calls + 1).await;
        writer.ask("DELETE", &format!("{API}/x"), &[]).await;
        writer.answer("DELETE").await.unwrap();
        gate.open();
        assert_eq!(slow.answer("GET").await.unwrap().text(), "abcde");
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
        let ask = async |fields: &[&str], asked: &str| {
            let range = format!("Range: bytes={asked}");
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
            let answer = ask(fields, "0-9").await;
            assert_eq!((answer.text().as_str(), is_hit(&answer)), (expected, false), "{fields:?}");
        }
        for (fields, expected) in all {
            let answer = ask(fields, "0-9").await;
            assert_eq!((answer.text().as_str(), is_hit(&answer)), (expected, true), "{fields:?}");
            // One tag for all of them, and still nobody's parts are joined to another's.
            ask(fields, "10-19").await;
            assert_eq!(larder.get_with("/x", fields).await.text().get(..10), Some(expected));
        }
        assert_eq!(origin.calls(), 8);
    })
    .await;
}

#[tokio::test]
async fn parts_are_kept_up_to_the_size_of_the_largest_answer() {
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
        assert!(!is_hit(&range(&larder, "0-9").await), "larger than what is stored");
        range(&larder, "0-2999").await;
        range(&larder, "3000-5999").await;
        // Together they would be too large: the later one is kept.
        let later = range(&larder, "3000-3009").await;
        assert_eq!((later.text().as_str(), is_hit(&later)), ("0123456789", true));
        assert!(!is_hit(&range(&larder, "0-9").await));
    })
    .await;
}

#[tokio::test]
async fn a_part_outlives_its_larder_and_is_joined_from_the_disk() {
    bounded(async {
        // Larger than what is kept beside the fields: its bytes are a file.
        let body = BODY.repeat(1000);
        let origin = {
            let body = body.clone();
            Origin::start(move |seen| cut(seen, &body, &[TAG])).await
        };
        let house = tempfile::tempdir().unwrap();
        let store = format!("store: {{ path: \"{}\" }}\n", house.path().display());
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
        // A new one, with nothing in memory, has both on its disk.
        let larder = Larder::start(&origin, &yaml).await;
        let whole = larder.get("/x").await;
        assert!(whole.body == body.as_bytes() && is_hit(&whole), "{}", whole.cache_status());
        assert_eq!(origin.calls(), 2);
    })
    .await;
}
