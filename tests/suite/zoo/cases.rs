//! The requests to each origin of the zoo, and how a response shows that the origin can send it.

use std::io::Read as _;

use flate2::read::GzDecoder;

use crate::client::End;
use crate::strict_response::{Framing, ReceivedResponse};
use crate::zoo_files::{SIZES, TEXTS, body, text};

/// Placeholder in the fields of a request: the `ETag` of the whole response under the same path.
pub const ETAG: &str = "@ETAG@";
/// The same for `Last-Modified`.
pub const MODIFIED: &str = "@MODIFIED@";

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    H1,
    H2,
}

/// An assertion on a response, besides that all access paths agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// It is stored and is a hit from then on.
    Stored,
    /// No further assertion.
    Same,
    /// A 304 to the client's own conditional request.
    NotModified,
    /// It is cut: larder never stores it and presents it as whole to no client.
    Cut,
}

/// Whether a response is the one that its case requests.
type Shows = Box<dyn Fn(&ReceivedResponse) -> bool>;

/// One request to an origin, and the expected response.
pub struct Case {
    pub name: String,
    pub method: &'static str,
    pub path: String,
    /// Fields of the request.
    pub fields: Vec<(&'static str, &'static str)>,
    /// The name of the case that shares its URL with this one; its own name if there is none.
    pub url_of: String,
    pub expect: Expect,
    /// The only version in which the case exists; other origins skip it.
    pub only: Option<Version>,
    pub shows: Shows,
}

impl Case {
    fn new(name: impl Into<String>, path: impl Into<String>, shows: Shows) -> Self {
        let name = name.into();
        Self {
            url_of: name.clone(),
            name,
            method: "GET",
            path: path.into(),
            fields: Vec::new(),
            expect: Expect::Same,
            only: None,
            shows,
        }
    }

    fn with(mut self, field: &'static str, value: &'static str) -> Self {
        self.fields.push((field, value));
        self
    }

    fn expecting(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    fn at_url_of(mut self, case: &str) -> Self {
        case.clone_into(&mut self.url_of);
        self
    }

    fn only(mut self, version: Version) -> Self {
        self.only = Some(version);
        self
    }

    fn by(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    /// Whether its body is so large that the case does not run on all access paths.
    pub fn is_heavy(&self) -> bool {
        self.path.ends_with("/8388608")
    }
}

/// All cases, in the order in which they run.
pub fn all() -> Vec<Case> {
    let mut cases = bodies();
    cases.extend(ends());
    cases.extend(heads_and_statuses());
    cases.extend(conditional());
    cases.extend(ranges());
    cases.extend(encoded());
    cases.extend(cut());
    cases
}

fn is_whole(response: &ReceivedResponse, status: u16, bytes: &[u8]) -> bool {
    response.status == status && response.end == End::Complete && response.body == bytes
}

fn has_length(response: &ReceivedResponse) -> bool {
    response.fields.contains_key("content-length")
}

/// Bodies of each size, with a length and without.
fn bodies() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in SIZES {
        let sized = move |r: &ReceivedResponse| is_whole(r, 200, &body(size)) && has_length(r);
        let name = format!("sized-{size}");
        cases.push(Case::new(name, format!("/sized/{size}"), Box::new(sized)).expecting(Expect::Stored));
        let unsized_ = move |r: &ReceivedResponse| {
            let marked = matches!(r.framing, Framing::Chunked | Framing::Stream { .. });
            is_whole(r, 200, &body(size)) && !has_length(r) && marked
        };
        let name = format!("unsized-{size}");
        cases.push(Case::new(name, format!("/unsized/{size}"), Box::new(unsized_)).expecting(Expect::Stored));
    }
    cases
}

/// Other ways for a body to end.
fn ends() -> Vec<Case> {
    let closes = |r: &ReceivedResponse| is_whole(r, 200, &body(16_384)) && r.framing == Framing::Close;
    let after = |r: &ReceivedResponse| is_whole(r, 200, &body(1 << 20)) && r.trailers.contains_key("x-after");
    let hinted = |r: &ReceivedResponse| {
        is_whole(r, 200, &body(1)) && r.interim.iter().any(|(status, _)| *status == 103)
    };
    let empty = |r: &ReceivedResponse| {
        let stream = Framing::Stream { empty_last: true };
        is_whole(r, 200, &body(16_384)) && has_length(r) && r.framing == stream
    };
    vec![
        // docs/decisions/0004: such a body is never stored.
        Case::new("until-close", "/eof/16384", Box::new(closes)).only(Version::H1),
        Case::new("trailers", "/trailers/1048576", Box::new(after))
            .with("TE", "trailers")
            .expecting(Expect::Stored),
        Case::new("early-hints", "/early/1", Box::new(hinted)).expecting(Expect::Stored),
        Case::new("empty-last-frame", "/lastempty/16384", Box::new(empty))
            .only(Version::H2)
            .expecting(Expect::Stored),
    ]
}

fn heads_and_statuses() -> Vec<Case> {
    let head = |r: &ReceivedResponse| r.status == 200 && r.body.is_empty() && r.end == End::Complete;
    let long = move |r: &ReceivedResponse| head(r) && r.field("content-length") == Some("16385");
    let status = |code: u16| move |r: &ReceivedResponse| r.status == code && r.end == End::Complete;
    let moved = |r: &ReceivedResponse| r.status == 301 && r.field("location").is_some();
    vec![
        Case::new("head", "/sized/16385", Box::new(long)).by("HEAD"),
        Case::new("head-of-stored", "/sized/16385", Box::new(long)).by("HEAD").at_url_of("sized-16385"),
        Case::new("head-unsized", "/unsized/16385", Box::new(head)).by("HEAD"),
        Case::new("head-of-stored-unsized", "/unsized/16385", Box::new(head))
            .by("HEAD")
            .at_url_of("unsized-16385"),
        Case::new("status-204", "/status/204", Box::new(status(204))),
        Case::new("status-301", "/status/301", Box::new(moved)),
        Case::new("status-404", "/status/404", Box::new(status(404))),
        Case::new("status-500", "/status/500", Box::new(status(500))),
    ]
}

/// Conditional requests.
fn conditional() -> Vec<Case> {
    let unchanged = |r: &ReceivedResponse| r.status == 304 && r.body.is_empty();
    let changed = |r: &ReceivedResponse| is_whole(r, 200, &body(16_385));
    let case = |name: &str, shows: Shows| Case::new(name, "/sized/16385", shows);
    vec![
        case("not-modified", Box::new(unchanged))
            .with("If-None-Match", ETAG)
            .at_url_of("sized-16385")
            .expecting(Expect::NotModified),
        case("not-modified-unstored", Box::new(unchanged))
            .with("If-None-Match", ETAG)
            .expecting(Expect::NotModified),
        case("not-modified-since", Box::new(unchanged))
            .with("If-Modified-Since", MODIFIED)
            .at_url_of("sized-16385")
            .expecting(Expect::NotModified),
        case("modified", Box::new(changed))
            .with("If-None-Match", "\"of another version\"")
            .at_url_of("sized-16385"),
    ]
}

fn ranges() -> Vec<Case> {
    let part = |from: usize, to: usize| {
        let expected = format!("bytes {from}-{to}/16385");
        let shows = move |r: &ReceivedResponse| {
            let bytes = &body(16_385)[from..=to];
            is_whole(r, 206, bytes) && r.field("content-range") == Some(&expected)
        };
        Box::new(shows) as Shows
    };
    let beyond = |r: &ReceivedResponse| r.status == 416 && r.end == End::Complete;
    let whole = |r: &ReceivedResponse| is_whole(r, 200, &body(16_385));
    let stored = |name: &str, range: &'static str, shows: Shows| {
        Case::new(name, "/sized/16385", shows).with("Range", range).at_url_of("sized-16385")
    };
    vec![
        stored("range-first", "bytes=0-0", part(0, 0)),
        stored("range-middle", "bytes=100-16383", part(100, 16_383)),
        stored("range-open", "bytes=16000-", part(16_000, 16_384)),
        stored("range-suffix", "bytes=-5", part(16_380, 16_384)),
        stored("range-beyond", "bytes=16385-", Box::new(beyond)),
        stored("range-if", "bytes=1-16384", part(1, 16_384)).with("If-Range", ETAG),
        stored("range-if-other", "bytes=1-2", Box::new(whole)).with("If-Range", "\"of another version\""),
        Case::new("range-unstored", "/sized/16385", part(10, 16_000)).with("Range", "bytes=10-16000"),
    ]
}

/// Each content coding, and the same URL without one.
fn encoded() -> Vec<Case> {
    let coded = |r: &ReceivedResponse, coding: &str| {
        r.status == 200 && r.end == End::Complete && r.field("content-encoding") == Some(coding)
    };
    let mut cases = Vec::new();
    for length in TEXTS {
        let gunzips = move |r: &ReceivedResponse| {
            let mut plain = Vec::new();
            coded(r, "gzip")
                && GzDecoder::new(r.body.as_slice()).read_to_end(&mut plain).is_ok()
                && plain == text(length)
        };
        let (gzip, br) = (format!("gzip-{length}"), format!("br-{length}"));
        cases.push(
            Case::new(&gzip, format!("/gzip/text-{length}"), Box::new(gunzips))
                .with("Accept-Encoding", "gzip")
                .expecting(Expect::Stored),
        );
        let smaller = move |r: &ReceivedResponse| coded(r, "br") && r.body.len() < length + 100;
        cases.push(
            Case::new(&br, format!("/br/text-{length}"), Box::new(smaller))
                .with("Accept-Encoding", "br")
                .expecting(Expect::Stored),
        );
    }
    let plain = |r: &ReceivedResponse| {
        is_whole(r, 200, &text(16_384))
            && !r.fields.contains_key("content-encoding")
            && r.fields.contains_key("vary")
    };
    let identity = Case::new("identity-variant", "/gzip/text-16384", Box::new(plain));
    cases.push(identity.at_url_of("gzip-16384").expecting(Expect::Stored));
    cases
}

/// Bodies of 16,384 bytes of which only 10,000 arrive.
fn cut() -> Vec<Case> {
    let is_cut = |r: &ReceivedResponse| {
        r.status == 200 && r.end == End::Truncated && body(16_384).starts_with(&r.body)
    };
    let case = |kind: &str| {
        Case::new(format!("cut-{kind}"), format!("/cut/{kind}"), Box::new(is_cut)).expecting(Expect::Cut)
    };
    vec![case("sized"), case("unsized"), case("connection")]
}
