//! Faulty origins that hang, drip or close early: the cases UPS-… and OVL-06. Also origins with several
//! addresses.

use std::collections::BTreeMap;
use std::time::Duration;

use larder::server::ServerDeps;
use tokio::net::TcpSocket;

use crate::client::{Client, End};
use crate::concurrent::{ConcurrentRequests, bounded};
use crate::dns::Dns;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Gate, MockResponse, Origin, Step, chunk};

/// An upstream with these timeouts, and a route that stores everything for a minute.
fn with_timeouts(timeouts: &str) -> String {
    let up = format!("upstreams: {{ up: {{ hosts: [api.example.test], timeouts: {{ {timeouts} }} }} }}\n");
    format!("{up}{}", route(&["ttl: 1m"]))
}

fn counted(code: &str) -> String {
    format!("larder_upstream_requests_total{{code=\"{code}\",route=\"api\",upstream=\"up\"}}")
}

/// A full backlog drops further connection attempts: they get no reply at all.
#[tokio::test]
async fn ups_02_a_black_hole_is_a_504_at_the_connect_timeout_and_frees_the_key() {
    bounded(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut fillers = Vec::new();
        for _ in 0..8 {
            let connecting = tokio::net::TcpStream::connect(addr);
            if let Ok(connected) = tokio::time::timeout(Duration::from_millis(50), connecting).await {
                fillers.push(connected.unwrap());
            }
        }
        let yaml = with_timeouts("connect: 300ms, first_byte: 20s");
        let larder = Larder::bare(&format!("resolve: {{ api.example.test: \"{addr}\" }}\n{yaml}")).await;
        let crowd = ConcurrentRequests::send_plain(&larder, 10, "/x").await;
        for answer in crowd.responses().await {
            assert_eq!(answer.status, 504);
            assert!(answer.text().contains("\"class\":\"connect-timeout\""), "{}", answer.text());
        }
        assert_eq!(larder.server.waiting(), 0);
        drop((fillers, listener));
        let after = larder.get("/x").await;
        assert_eq!(after.status, 502, "a new attempt, now refused");
    })
    .await;
}

#[tokio::test]
async fn ups_02_a_silent_origin_is_a_504_and_its_connection_is_closed() {
    bounded(async {
        let origin = Origin::always(MockResponse(vec![Step::UntilDisconnect])).await;
        let larder = Larder::start(&origin, &with_timeouts("first_byte: 1s")).await;
        let crowd = ConcurrentRequests::send_plain(&larder, 20, "/x").await;
        larder.wait_for_waiters(20).await;
        for answer in crowd.responses().await {
            assert_eq!(answer.status, 504);
            assert!(answer.text().contains("\"class\":\"first-byte-timeout\""), "{}", answer.text());
            assert!(answer.field("proxy-status").unwrap().contains("http_response_timeout"));
        }
        assert_eq!(origin.calls(), 1);
        origin.wait_for_disconnects(1).await;
        assert_eq!(larder.server.waiting(), 0);
        origin.set_script(|_| MockResponse::new(200, &[], "back"));
        assert_eq!(larder.get("/x").await.text(), "back", "the key is free");
        larder.wait_for_metric(&counted("first-byte-timeout"), 1.0).await;
    })
    .await;
}

/// The deadline covers the whole head, not the gaps between its bytes.
#[tokio::test]
async fn ups_03_a_dripping_head_is_a_504() {
    bounded(async {
        let gates: Vec<Gate> = (0..40).map(|_| Gate::new()).collect();
        let mut steps = Vec::new();
        for (gate, byte) in gates.iter().zip(*b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx") {
            steps.extend([Step::Wait(gate.clone()), Step::Write(vec![byte])]);
        }
        let origin = Origin::always(MockResponse(steps).then([Step::UntilDisconnect])).await;
        let larder = Larder::start(&origin, &with_timeouts("first_byte: 400ms, between_bytes: 20s")).await;
        let dripping = tokio::spawn(async move {
            for gate in gates {
                gate.open();
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
        });
        let answer = larder.get("/x").await;
        assert_eq!((answer.status, answer.end), (504, End::Complete), "{}", answer.text());
        dripping.abort();
    })
    .await;
}

#[tokio::test]
async fn ups_03_a_dripping_body_is_relayed_live_and_cut_at_the_total_deadline() {
    bounded(async {
        let drip = MockResponse::chunked_open(200, &[], &[b"first"]).then([Step::UntilDisconnect]);
        let origin = Origin::always(drip).await;
        let larder = Larder::start(&origin, &with_timeouts("between_bytes: 2s, total: 500ms")).await;
        let mut client = larder.client().await;
        client.send_request("GET", &format!("{API}/x"), &[]).await;
        client.read_until("5\r\nfirst\r\n").await;
        let answer = client.response("GET").await.unwrap();
        assert_eq!((answer.status, answer.text().as_str(), answer.end), (200, "first", End::Truncated));
        origin.wait_for_disconnects(1).await;
        origin.set_script(|_| MockResponse::new(200, &[], "whole"));
        let next = larder.get("/x").await;
        assert_eq!((next.text().as_str(), origin.calls()), ("whole", 2), "nothing was stored");
    })
    .await;
}

/// A response that is not stored has no total deadline.
#[tokio::test]
async fn the_total_deadline_does_not_apply_to_unstored_responses() {
    bounded(async {
        let rest = Gate::new();
        let answer = MockResponse::chunked_open(200, &["Content-Type: text/event-stream"], &[b"one"])
            .then([Step::Wait(rest.clone()), Step::Write(chunk(b"two"))])
            .then([Step::Write(b"0\r\n\r\n".to_vec())]);
        let origin = Origin::always(answer).await;
        let larder = Larder::start(&origin, &with_timeouts("total: 100ms")).await;
        let mut client = larder.client().await;
        client.send_request("GET", &format!("{API}/x"), &[]).await;
        client.read_until("one").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        rest.open();
        let answer = client.response("GET").await.unwrap();
        assert_eq!((answer.text().as_str(), answer.end), ("onetwo", End::Complete));
    })
    .await;
}

#[tokio::test]
async fn a_body_that_stalls_between_its_bytes_is_cut_and_not_stored() {
    bounded(async {
        let stall = MockResponse::raw("HTTP/1.1 200 x\r\nContent-Length: 9\r\n\r\nhalf")
            .then([Step::UntilDisconnect]);
        let origin = Origin::always(stall).await;
        let larder = Larder::start(&origin, &with_timeouts("between_bytes: 200ms")).await;
        let answer = larder.get("/x").await;
        assert_eq!((answer.text().as_str(), answer.end), ("half", End::Truncated));
        origin.wait_for_disconnects(1).await;
        larder.get("/x").await;
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

/// The origin closes each idle connection just as the next request is written on it.
#[tokio::test]
async fn ups_06_a_get_on_a_dead_pooled_connection_is_retried_once() {
    const ROUNDS: u16 = 200;
    bounded(async {
        // The first request on a connection gets a response, the second finds the connection closed.
        let origin = closing_origin().await;
        let larder = Larder::start(&origin, &with_timeouts("first_byte: 10s")).await;
        let mut client = larder.client().await;
        for round in 0..ROUNDS {
            let answer = client.get(&format!("{API}/{round}"), &[]).await;
            assert_eq!((answer.status, answer.text()), (200, format!("/{round}")), "round {round}");
        }
        // Every round but the first finds the dead connection of the previous round.
        assert_eq!(origin.calls(), usize::from(ROUNDS + (ROUNDS - 1)));
        let retries = "larder_upstream_retries_total{cause=\"dead-connection\",upstream=\"up\"}";
        larder.wait_for_metric(retries, f64::from(ROUNDS - 1)).await;
    })
    .await;
}

async fn closing_origin() -> Origin {
    let answered = parking_lot::Mutex::new(BTreeMap::<usize, usize>::new());
    Origin::start(move |seen| {
        let mut answered = answered.lock();
        let times = answered.entry(seen.connection).or_default();
        *times += 1;
        if *times == 1 { MockResponse::new(200, &[], &seen.target) } else { MockResponse::closed() }
    })
    .await
}

/// Several dead connections in the pool do not use up the one retry, because it uses a new connection.
#[tokio::test]
async fn ups_06_the_retry_does_not_take_another_dead_connection() {
    bounded(async {
        let origin = closing_origin().await;
        let gate = Gate::new();
        let larder = Larder::start(&origin, &with_timeouts("first_byte: 10s")).await;
        // Ten calls at once leave ten connections in the pool.
        let wait = gate.clone();
        origin.set_script(move |seen| MockResponse::new(200, &[], &seen.target).after(&wait));
        let mut crowd = Vec::new();
        for n in 0..10 {
            crowd.push(ConcurrentRequests::send_plain(&larder, 1, &format!("/{n}")).await);
        }
        origin.wait_for_calls(10).await;
        gate.open();
        for one in crowd {
            assert_eq!(one.responses().await[0].status, 200);
        }
        larder.wait_until("all are back in the pool", |larder| larder.server.waiting() == 0).await;
        let first_ten = origin.connections();
        origin.set_script(move |seen| {
            let dead = seen.connection < first_ten;
            if dead { MockResponse::closed() } else { MockResponse::new(200, &[], "fresh") }
        });
        for n in 10..15 {
            let answer = larder.get(&format!("/{n}")).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "fresh"), "{n}");
        }
    })
    .await;
}

#[tokio::test]
async fn ups_06_a_post_is_never_sent_twice() {
    bounded(async {
        let origin = closing_origin().await;
        let larder = Larder::start(&origin, "").await;
        let mut client = larder.client().await;
        let post = format!("POST {API}/p HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody");
        let (mut failed, mut answered) = (0, 0);
        for _ in 0..20 {
            client.send(&post).await;
            let answer = client.response("POST").await.unwrap();
            match answer.status {
                200 => answered += 1,
                502 => {
                    failed += 1;
                    client = larder.client().await;
                }
                other => panic!("{other}: {}", answer.text()),
            }
        }
        assert!(failed > 0 && answered > 0, "{failed} {answered}");
        assert_eq!(origin.calls(), 20, "each was sent once");
        assert!(origin.requests().iter().all(|seen| seen.body == b"body"));
    })
    .await;
}

/// A call on a new connection is not retried: the origin may have processed it.
#[tokio::test]
async fn a_get_on_a_new_connection_is_not_retried() {
    bounded(async {
        let origin = Origin::always(MockResponse::closed()).await;
        let larder = Larder::start(&origin, &with_timeouts("first_byte: 10s")).await;
        assert_eq!(larder.get("/x").await.status, 502);
        assert_eq!(origin.calls(), 1);
    })
    .await;
}

/// A slow leader does not delay the other clients, and its disconnect cancels nothing.
#[tokio::test]
async fn ups_12_a_slow_leader_delays_no_waiter() {
    bounded(async {
        let body = vec![b'x'; 4 << 20];
        let gate = Gate::new();
        let origin = Origin::always(MockResponse::new(200, &[], &body).after(&gate)).await;
        let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(larder.addr()).await.unwrap();
        let mut leader = Client::over(stream);
        leader.send_request("GET", &format!("{API}/x"), &[]).await;
        larder.wait_for_waiters(1).await;
        let crowd = ConcurrentRequests::send_plain(&larder, 20, "/x").await;
        larder.wait_for_waiters(21).await;
        gate.open();
        // The leader reads nothing at all.
        for answer in crowd.responses().await {
            assert_eq!((answer.body.len(), answer.end), (body.len(), End::Complete));
        }
        socket2::SockRef::from(&leader.stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(leader);
        let hit = larder.get("/x").await;
        assert!(hit.cache_status().starts_with("larder; hit"));
        assert_eq!((hit.body.len(), origin.calls()), (body.len(), 1));
    })
    .await;
}

/// This test takes six seconds: all clients have to wait before the first reaches its wait timeout.
#[tokio::test]
async fn ovl_06_waiters_are_capped_and_do_not_stampede_after_the_wait() {
    const CAP: usize = 40;
    bounded(async {
        let origin = Origin::always(MockResponse(vec![Step::UntilDisconnect])).await;
        let yaml = format!(
            "limits: {{ waiters_per_key: {CAP} }}\ndefaults: {{ retry: off, coalesce: {{ wait: 2s }} }}\n{}",
            with_timeouts("first_byte: 4s")
        );
        let larder = Larder::start(&origin, &yaml).await;
        let crowd = ConcurrentRequests::send_plain(&larder, 1 + CAP, "/x").await;
        larder.wait_for_waiters(1 + CAP).await;
        for answer in ConcurrentRequests::send_plain(&larder, 20, "/x").await.responses().await {
            assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")));
            assert!(answer.text().contains("\"class\":\"waiters_per_key\""), "{}", answer.text());
        }
        // The wait is over: four waiters fetch separately, the others wait for the outcome of the fill.
        origin.wait_for_calls(5).await;
        for answer in crowd.responses().await {
            assert_eq!(answer.status, 504);
        }
        assert_eq!(origin.calls(), 5, "the leader and four, never all");
        assert_eq!(larder.server.waiting(), 0, "all are free");
        origin.wait_for_disconnects(5).await;
        origin.set_script(|_| MockResponse::new(200, &[], "back"));
        assert_eq!(larder.get("/x").await.text(), "back");
    })
    .await;
}

#[tokio::test]
async fn ovl_06_waiters_get_a_stale_response_after_the_wait() {
    bounded(async {
        let origin =
            Origin::always(MockResponse::new(200, &["Connection: close"], "old").then([Step::Close])).await;
        let yaml = format!(
            "defaults: {{ retry: off, coalesce: {{ wait: 200ms }} }}\n{}",
            with_timeouts("first_byte: 20s")
        );
        let larder = Larder::start(&origin, &yaml).await;
        larder.get("/x").await;
        larder.clock.advance(Duration::from_secs(61));
        let gate = Gate::new();
        let later = MockResponse::new(200, &[], "new").after(&gate);
        origin.set_script(move |_| later.clone());
        let leader = ConcurrentRequests::send_plain(&larder, 1, "/x").await;
        larder.wait_for_waiters(1).await;
        for answer in ConcurrentRequests::send_plain(&larder, 20, "/x").await.responses().await {
            assert_eq!(answer.text(), "old");
            assert!(
                answer.cache_status().contains("stale-if-error/coalesce-wait"),
                "{}",
                answer.cache_status()
            );
        }
        gate.open();
        assert_eq!(leader.responses().await[0].text(), "new");
        assert_eq!(origin.calls(), 2);
    })
    .await;
}

#[tokio::test]
async fn every_address_of_a_name_is_tried() {
    bounded(async {
        let origin = Origin::always(MockResponse::new(200, &[], "found")).await;
        let port = origin.addr.port();
        // Nothing listens on the first two (nor on ::1).
        let dns = Dns::start(|_, _| {
            ["127.0.0.3", "::1", "127.0.0.2", "127.0.0.1"].iter().map(|a| a.parse().unwrap()).collect()
        })
        .await;
        let parts = ServerDeps { name_server: Some(dns.addr), ..ServerDeps::default() };
        let routes = "routes: [{ name: api, match: { host: many.test }, ttl: 1h }]\n";
        let larder = Larder::with_deps(routes, parts).await;
        for path in ["a", "b"] {
            let answer = larder.client().await.get(&format!("http://many.test:{port}/{path}"), &[]).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "found"));
        }
        // The pass-through too.
        let mut client = larder.client().await;
        client.send_request("POST", &format!("http://many.test:{port}/p"), &[]).await;
        assert_eq!(client.response("POST").await.unwrap().text(), "found");
        assert_eq!(origin.calls(), 3);
    })
    .await;
}

/// Two bodies stall at the same moment: the plain one is given up, the event stream is not.
#[tokio::test]
async fn an_event_stream_may_be_silent_for_longer_than_between_bytes() {
    bounded(async {
        let gate = Gate::new();
        let late = gate.clone();
        let origin = Origin::start(move |seen| {
            let kind = if seen.target == "/events" { "text/event-stream" } else { "text/plain" };
            let field = format!("Content-Type: {kind}");
            MockResponse::chunked_open(200, &[&field], &[b"first "]).then([
                Step::Wait(late.clone()),
                Step::Write(chunk(b"second")),
                Step::Write(b"0\r\n\r\n".to_vec()),
            ])
        })
        .await;
        let larder = Larder::start(&origin, &with_timeouts("between_bytes: 200ms")).await;
        let mut events = larder.client().await;
        events.send_request("GET", &format!("{API}/events"), &[]).await;
        origin.wait_for_calls(1).await;
        let plain = larder.get("/plain").await;
        assert_eq!((plain.text().as_str(), plain.end), ("first ", End::Truncated));
        gate.open();
        let events = events.response("GET").await.unwrap();
        assert_eq!((events.text().as_str(), events.end), ("first second", End::Complete));
    })
    .await;
}
