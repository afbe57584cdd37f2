//! Idle tunnels and upgraded connections: larder probes dead peers and closes connections without traffic.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};

use crate::client::Client;
use crate::intercepted::{API, InterceptionSetup};
use crate::larder_under_test::{Larder, route};
use crate::origin::{Gate, MockResponse, Origin, Step};
use crate::tunnel::{Raw, bypass_and_cached_yaml, exactly, head_of, tunnel, upgrade};

const SOON: Duration = Duration::from_secs(10);

/// Short for a test, and ten times as long as the pauses between writes.
const BOUND: &str = "limits: { tunnel_idle: 1s }\n";
const PAUSE: Duration = Duration::from_millis(100);

const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Whether the stream ends with an error instead of a regular close.
async fn is_cut<S: AsyncRead + Unpin>(stream: &mut S) -> bool {
    let read = timeout(SOON, stream.read(&mut [0])).await.expect("it ends in time");
    matches!(read, Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof))
}

/// The client's and the origin's end of a WebSocket.
async fn websocket(larder: &Larder, origin: &Raw) -> (TcpStream, TcpStream) {
    let mut client = larder.client().await;
    client.send(upgrade("/ws")).await;
    let mut server = origin.accepted().await;
    head_of(&mut server).await;
    server.write_all(SWITCHED).await.unwrap();
    let answer = timeout(SOON, client.response("GET")).await.unwrap().unwrap();
    assert_eq!(answer.status, 101);
    (client.stream, server)
}

#[tokio::test]
async fn a_tunnel_stays_open_while_bytes_pass_and_is_reset_when_idle() {
    let origin = Raw::start().await;
    let larder = Larder::bare(BOUND).await;
    let (mut client, mut server) = tunnel(&larder, &origin, b"").await;
    let mut pauses = interval(PAUSE);
    for round in 0..20 {
        pauses.tick().await;
        let (from, to) = if round % 2 == 0 { (&mut client, &mut server) } else { (&mut server, &mut client) };
        from.write_all(b"x").await.unwrap();
        assert_eq!(exactly(to, 1).await, b"x", "after twice the bound bytes still pass");
    }
    assert!(is_cut(&mut client).await);
    assert!(is_cut(&mut server).await);
    larder.wait_for_metric("larder_requests_total{result=\"tunnel\",route=\"none\"}", 1.0).await;
    larder.wait_for_metric("larder_client_bytes_total", 10.0).await;
}

#[tokio::test]
async fn an_idle_upgraded_connection_is_closed() {
    let origin = Raw::start().await;
    for yaml in bypass_and_cached_yaml(&origin) {
        let larder = Larder::bare(&format!("{yaml}{BOUND}")).await;
        let (mut client, mut server) = websocket(&larder, &origin).await;
        client.write_all(b"ping").await.unwrap();
        assert_eq!(exactly(&mut server, 4).await, b"ping");
        assert!(is_cut(&mut client).await);
        let ended = timeout(SOON, server.read(&mut [0])).await.expect("it ends in time");
        assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    }
}

#[tokio::test]
async fn an_idle_upgraded_connection_inside_tls_is_cut_without_close_notify() {
    let silent = Gate::new();
    let script = MockResponse(vec![Step::Write(SWITCHED.to_vec()), Step::Wait(silent.clone())]);
    let scene = InterceptionSetup::start(Origin::always(script).await, BOUND).await;
    scene.reload(&format!("{BOUND}{}", route(&["ttl: 1h"]))).await;
    let mut client = scene.client(&["http/1.1"]).http1(API).await;
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.send(format!("GET /socket HTTP/1.1\r\nHost: {API}\r\n{fields}")).await;
    let answer = timeout(SOON, client.response("GET")).await.expect("in time").expect("a response");
    assert_eq!(answer.status, 101);
    let Client { mut stream, .. } = client;
    assert!(is_cut(&mut stream).await);
    silent.open();
}

#[tokio::test]
async fn a_reloaded_idle_timeout_applies_to_new_tunnels_only() {
    let origin = Raw::start().await;
    let larder = Larder::bare("").await;
    let (mut before, mut far_before) = tunnel(&larder, &origin, b"").await;
    larder.reload_bare(BOUND).await.unwrap();
    let (mut after, _far_after) = tunnel(&larder, &origin, b"").await;
    assert!(is_cut(&mut after).await);
    before.write_all(b"still there").await.unwrap();
    assert_eq!(exactly(&mut far_before, 11).await, b"still there");
}

/// The active timer of the socket between these two ends in Linux's table; 2 means keep-alive.
#[cfg(target_os = "linux")]
fn timer(local: SocketAddr, remote: SocketAddr) -> Option<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux has the table");
    let port = |field: &str| u16::from_str_radix(field.split_once(':')?.1, 16).ok();
    table.lines().find_map(|row| {
        let fields: Vec<_> = row.split_whitespace().collect();
        let ends = (port(fields.get(1)?)?, port(fields.get(2)?)?);
        (ends == (local.port(), remote.port())).then(|| fields.get(5)?.get(..2).map(ToOwned::to_owned))?
    })
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn dead_peers_of_tunnels_and_upgrades_are_probed_on_both_sides() {
    let origin = Raw::start().await;
    let larder = Larder::bare(&origin.resolve()).await;
    let tunnel = tunnel(&larder, &origin, b"").await;
    let upgraded = websocket(&larder, &origin).await;
    for (client, server) in [&tunnel, &upgraded] {
        for (near, peer) in [(client, "client"), (server, "origin")] {
            let (far, near) = (near.peer_addr().unwrap(), near.local_addr().unwrap());
            let probed = |_: &Larder| timer(far, near).as_deref() == Some("02");
            larder.wait_until(&format!("the socket to the {peer} is probed"), probed).await;
        }
    }
}
