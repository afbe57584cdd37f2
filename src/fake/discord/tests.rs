//! The fake as a client on a socket sees it.

use http::StatusCode;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

const ROLES: &str = "/api/v10/guilds/1/roles";

async fn fake() -> Fake {
    start("127.0.0.1:0".parse().unwrap(), Options::default()).await.unwrap()
}

/// An answer, read to the end of the connection.
struct Seen {
    head: String,
    body: String,
}

impl Seen {
    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or("none")
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

async fn ask(fake: &Fake, method: &str, path: &str, fields: &str, body: &str) -> Seen {
    let mut stream = TcpStream::connect(fake.addr).await.unwrap();
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or(("", ""));
    Seen { head: head.to_owned(), body: body.to_owned() }
}

async fn get(fake: &Fake, path: &str) -> Seen {
    ask(fake, "GET", path, "", "").await
}

#[tokio::test]
async fn roles_come_with_a_validator_and_limits_and_without_cache_control() {
    let fake = fake().await;
    let seen = get(&fake, ROLES).await;
    assert_eq!(seen.status(), "200");
    assert_eq!(seen.json().as_array().unwrap().len(), 10);
    assert_eq!(seen.field("content-type"), Some("application/json"));
    assert_eq!(seen.field("cache-control"), None);
    assert_eq!(seen.field("x-ratelimit-remaining"), Some("49"));
    let etag = seen.field("etag").unwrap();
    let again = ask(&fake, "GET", ROLES, &format!("If-None-Match: {etag}\r\n"), "").await;
    assert_eq!((again.status(), again.body.as_str()), ("304", ""));
}

#[tokio::test]
async fn an_option_adds_cache_control() {
    let cache_control = Some(HeaderValue::from_static("max-age=60"));
    let options = Options { cache_control, ..Options::default() };
    let fake = start("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
    assert_eq!(get(&fake, ROLES).await.field("cache-control"), Some("max-age=60"));
}

#[tokio::test]
async fn nobody_learns_who_they_are_without_saying_so() {
    let fake = fake().await;
    let path = "/api/v10/users/@me/guilds";
    assert_eq!(get(&fake, path).await.status(), "401");
    let a = ask(&fake, "GET", path, "Authorization: Bearer a\r\n", "").await;
    let b = ask(&fake, "GET", path, "Authorization: Bearer b\r\n", "").await;
    assert_eq!((a.status(), b.status()), ("200", "200"));
    assert_ne!(a.body, b.body);
}

#[tokio::test]
async fn a_write_changes_what_is_read_until_a_reset() {
    let fake = fake().await;
    let member = "/api/v10/guilds/1/members/7";
    let before = get(&fake, member).await.body;
    let changed = ask(&fake, "PATCH", member, "", r#"{"nick": "N"}"#).await;
    assert_eq!(changed.json()["nick"], "N");
    assert_eq!(get(&fake, member).await.json()["nick"], "N");
    assert_eq!(ask(&fake, "DELETE", member, "", "").await.status(), "204");
    assert_eq!(get(&fake, member).await.status(), "404");
    fake.reset();
    assert_eq!(get(&fake, member).await.body, before);
}

#[tokio::test]
async fn calls_are_counted_by_endpoint_with_the_bytes_of_their_bodies() {
    let fake = fake().await;
    let roles = get(&fake, ROLES).await;
    let member = get(&fake, "/api/v10/guilds/1/members/7").await;
    get(&fake, "/api/v10/guilds/1/members/8?x=1").await;
    ask(&fake, "HEAD", ROLES, "", "").await;
    let calls = fake.calls();
    assert_eq!(calls.total, 4);
    assert_eq!(calls.by_endpoint["GET /guilds/{guild}/roles"], 2);
    assert_eq!(calls.by_endpoint["GET /guilds/{guild}/members/{user}"], 2);
    assert!(calls.bytes > (roles.body.len() + member.body.len()) as u64);
    assert!(calls.bytes < (roles.body.len() * 2 + member.body.len()) as u64);
    let told = get(&fake, "/_fake/calls").await.json();
    assert_eq!(told["total"], 4, "asking for the count is not counted");
    assert_eq!(told["bytes"], calls.bytes);
    assert_eq!(ask(&fake, "POST", "/_fake/reset", "", "").await.status(), "204");
    assert_eq!(fake.calls(), Calls::default());
}

#[tokio::test]
async fn a_status_is_shown_as_often_as_asked_for() {
    let fake = fake().await;
    fake.behave(Behaviour::next(2, Fault::Status(StatusCode::SERVICE_UNAVAILABLE)));
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(get(&fake, ROLES).await.status().to_owned());
    }
    assert_eq!(statuses, ["503", "503", "200"]);
}

#[tokio::test]
async fn a_rate_limit_is_asked_for_over_http_and_cleared_the_same_way() {
    let fake = fake().await;
    let limit = r#"{"fault": {"rate_limited": {"retry_after": 3}}}"#;
    assert_eq!(ask(&fake, "POST", "/_fake/behave", "", limit).await.status(), "204");
    let seen = get(&fake, ROLES).await;
    assert_eq!((seen.status(), seen.field("retry-after")), ("429", Some("3")));
    assert_eq!(seen.json()["message"], "You are being rate limited.");
    assert_eq!(ask(&fake, "POST", "/_fake/behave", "", "{}").await.status(), "204");
    assert_eq!(get(&fake, ROLES).await.status(), "200");
}

#[tokio::test]
async fn a_behaviour_that_makes_no_sense_is_refused_with_an_example() {
    let fake = fake().await;
    let seen = ask(&fake, "POST", "/_fake/behave", "", r#"{"fault": "flood"}"#).await;
    assert_eq!(seen.status(), "400");
    let example = seen.json()["for_example"].as_str().unwrap().to_owned();
    assert_eq!(ask(&fake, "POST", "/_fake/behave", "", &example).await.status(), "204");
}

#[tokio::test]
async fn a_closed_connection_brings_no_byte() {
    let fake = fake().await;
    fake.behave(Behaviour::always(Fault::Close));
    let seen = get(&fake, ROLES).await;
    assert_eq!((seen.head.as_str(), seen.body.as_str()), ("", ""));
    assert_eq!(fake.calls().total, 1);
}

#[tokio::test]
async fn a_cut_body_is_half_of_what_the_head_announced() {
    let fake = fake().await;
    fake.behave(Behaviour::always(Fault::Cut));
    let seen = get(&fake, ROLES).await;
    assert_eq!(seen.status(), "200");
    let announced: usize = seen.field("content-length").unwrap().parse().unwrap();
    assert_eq!(seen.body.len(), announced / 2);
    assert_eq!(fake.calls().bytes, seen.body.len() as u64);
}

#[tokio::test]
async fn latency_is_the_least_time_an_answer_takes() {
    let fake = fake().await;
    let latency = Duration::from_millis(30);
    fake.behave(Behaviour { latency, ..Behaviour::default() });
    let start = crate::clock::monotonic();
    get(&fake, ROLES).await;
    assert!(crate::clock::monotonic().duration_since(start) >= latency);
}

#[tokio::test]
async fn a_stopped_fake_leaves_its_port_to_the_next() {
    let first = fake().await;
    let addr = first.addr;
    let Err(taken) = start(addr, Options::default()).await else { panic!("two on one port") };
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    first.stop().await;
    assert!(TcpStream::connect(addr).await.is_err());
    start(addr, Options::default()).await.unwrap().stop().await;
}
