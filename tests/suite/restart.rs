//! How a larder stops and how the next one takes its place: no response is cut.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use larder::clock::Clock;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::{interval, timeout};

use crate::client::{Client, End, Response};
use crate::concurrent::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Gate, MockResponse, Origin, Step};
use crate::process::{ConfigDir, Process, eventually, program, run_larder, text};
use crate::resident_memory::resident;

/// A configuration on free ports: `api.example.test` is at `origin`, and everything on it is cached.
fn yaml(origin: &Origin, more: &str) -> String {
    let resolve = format!("resolve: {{ api.example.test: \"{}\" }}", origin.addr);
    let free = "listen: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }";
    format!("version: 1\n{free}\n{resolve}\n{more}{}", route(&["ttl: 1h"]))
}

/// Whether a response is the last of its connection.
fn is_last(answer: &Response) -> bool {
    answer.field("connection") == Some("close")
}

fn run(config_dir: &ConfigDir, flags: &[&str]) -> Process {
    let mut arguments = vec![OsStr::new("run"), config_dir.config.as_os_str()];
    arguments.extend(flags.iter().map(OsStr::new));
    Process::start(&arguments)
}

/// An API whose response to `/slow` waits for the gate.
async fn slow_origin() -> (Gate, Origin) {
    let gate = Gate::new();
    let wait = gate.clone();
    let origin = Origin::start(move |seen| match seen.target.as_str() {
        "/slow" => MockResponse::new(200, &[], "slow").after(&wait),
        _ => MockResponse::new(200, &[], "quick"),
    });
    (gate, origin.await)
}

// ---- stopping one larder

#[tokio::test]
async fn a_stopping_larder_is_unready_and_serves_each_connection_once_more() {
    let (gate, origin) = slow_origin().await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    let (mut hit, mut miss, mut passed) =
        (larder.client().await, larder.client().await, larder.client().await);
    for client in [&mut hit, &mut miss, &mut passed] {
        assert!(!is_last(&client.get(&format!("{API}/x"), &[]).await));
    }
    let mut slow = larder.client().await;
    slow.send_request("GET", &format!("{API}/slow"), &[]).await;
    origin.wait_for_calls(2).await;
    let (controls, addr) = (larder.server.admin_api(), larder.addr());
    let admin = larder.server.admin_addr().unwrap();
    assert!(controls.ready().ready);

    let stopping = tokio::spawn(larder.server.stop_within(Duration::from_secs(20)));
    eventually("not ready", || !controls.ready().ready).await;
    eventually("refused", || std::net::TcpStream::connect(addr).is_err()).await;
    let hit = hit.get(&format!("{API}/x"), &[]).await;
    let miss = miss.get(&format!("{API}/new"), &[]).await;
    passed.send_request("DELETE", &format!("{API}/x"), &[]).await;
    let passed = passed.response("DELETE").await.unwrap();
    for last in [hit, miss, passed] {
        assert_eq!((last.text().as_str(), is_last(&last)), ("quick", true));
    }
    for (path, status) in [("/readyz", "503"), ("/healthz", "200")] {
        let mut probe = Client::connect(admin).await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        probe.send(request).await;
        let response = text(&probe.read_to_end().await);
        assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "until the end: {response}");
    }
    assert!(!stopping.is_finished(), "one is still in flight");
    gate.open();
    // The request began before the stop, its response is sent after it.
    let slow = slow.response("GET").await.unwrap();
    assert_eq!((slow.text().as_str(), is_last(&slow)), ("slow", true));
    assert!(bounded(stopping).await.unwrap(), "all were finished");
    assert!(TcpStream::connect(admin).await.is_err());
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_grace_period() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::start(&origin, "").await;
    let (mut fresh, mut kept) = (larder.client().await, larder.client().await);
    kept.get(&format!("{API}/x"), &[]).await;
    let finished = bounded(larder.server.stop()).await;
    assert!(finished && fresh.is_closed().await && kept.is_closed().await);
}

/// Clients that connected before the stop are served, whether larder had accepted them or not.
#[tokio::test]
async fn connections_in_the_listen_backlog_are_served_before_the_stop() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let larder = Larder::start(&origin, "").await;
    // Larder accepts nothing in between: this test runs on one thread and does not yield.
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let stream = std::net::TcpStream::connect(larder.addr()).unwrap();
            stream.set_nonblocking(true).unwrap();
            TcpStream::from_std(stream).unwrap()
        })
        .collect();
    let stopping = tokio::spawn(larder.server.stop());
    for stream in waiting {
        let answer = bounded(Client::over(stream).get(&format!("{API}/x"), &[])).await;
        assert_eq!((answer.text().as_str(), is_last(&answer)), ("hello", true));
    }
    assert!(bounded(stopping).await.unwrap());
}

#[tokio::test]
async fn lif_04_an_origin_that_hangs_is_cut_at_the_drain_deadline() {
    let half = MockResponse::chunked_open(200, &[], &[b"half"]).then([Step::Hang]);
    let origin = Origin::always(half).await;
    let (mut larder, _config_dir) = Process::run(&yaml(&origin, "limits: { drain: 300ms }\n")).await;
    let mut client = Client::connect(larder.addr().await).await;
    client.send_request("GET", &format!("{API}/x"), &[]).await;
    client.read_until("half").await;
    larder.signal("TERM");
    let answer = bounded(client.response("GET")).await.unwrap();
    assert_eq!((answer.text().as_str(), answer.end), ("half", End::Truncated));
    assert_eq!(larder.wait_for_exit().await.code(), Some(0), "{}", larder.err.text());
    larder.err.wait_for_line("unfinished requests were cut").await;
}

#[tokio::test]
async fn lif_04_a_second_signal_ends_larder_within_a_second() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        let origin = Origin::always(MockResponse::hang()).await;
        let (mut larder, _config_dir) = Process::run(&yaml(&origin, "")).await;
        let mut client = Client::connect(larder.addr().await).await;
        client.send_request("GET", &format!("{API}/x"), &[]).await;
        origin.wait_for_calls(1).await;
        larder.signal(first);
        larder.err.wait_for_line("Stopping").await;
        let since = Clock::system().instant();
        larder.signal(second);
        assert_eq!(larder.wait_for_exit().await.code(), Some(1));
        assert!(Clock::system().instant() - since < Duration::from_secs(1));
    }
}

/// One request of LIF-01: false if its response was cut. A refused connection is allowed after the stop.
async fn is_not_cut(addr: SocketAddr, path: String) -> bool {
    let Ok(stream) = TcpStream::connect(addr).await else { return true };
    let mut client = Client::over(stream);
    client.send_request("GET", &format!("{API}{path}"), &[]).await;
    let answer = client.response("GET").await;
    answer.is_some_and(|a| (a.status, a.text().as_str(), a.end) == (200, "one second", End::Complete))
}

/// This test is slow because the case is about requests that take a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lif_01_a_stop_at_500_requests_a_second_cuts_no_response() {
    let second = Step::Pause(Duration::from_secs(1));
    let answer = MockResponse(vec![second]).then(MockResponse::new(200, &[], "one second").0);
    let origin = Origin::always(answer).await;
    let (mut larder, _config_dir) = Process::run(&yaml(&origin, "")).await;
    let addr = larder.addr().await;
    let mut ticks = interval(Duration::from_millis(2));
    let mut requests = Vec::new();
    for turn in 0..1000 {
        ticks.tick().await;
        if turn == 750 {
            larder.signal("TERM");
        }
        // A third of the requests share fills, the others each have their own.
        let path = match turn % 3 {
            0 => format!("/shared/{}", turn / 30),
            _ => format!("/own/{turn}"),
        };
        requests.push(tokio::spawn(is_not_cut(addr, path)));
    }
    for (turn, request) in requests.into_iter().enumerate() {
        assert!(bounded(request).await.unwrap(), "request {turn} was cut");
    }
    assert_eq!(larder.wait_for_exit().await.code(), Some(0), "{}", larder.err.text());
    larder.err.wait_for_line("Stopped").await;
}

// ---- hand-over to the next larder

#[tokio::test]
async fn lif_07_a_second_larder_reports_the_address_the_pid_and_take_over() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let (first, config_dir) = Process::run(&yaml(&origin, "")).await;
    let taken = first.addr().await;
    let pid = first.child.id().unwrap();
    let same = fs::read_to_string(&config_dir.config).unwrap();
    let second = config_dir.directory.path().join("second.yaml");
    fs::write(&second, same.replacen("127.0.0.1:0", &taken.to_string(), 1)).unwrap();
    let since = Clock::system().instant();
    let ended = run_larder(&[OsStr::new("run"), second.as_os_str()]).await;
    assert!(Clock::system().instant() - since < Duration::from_secs(1));
    assert_eq!(ended.status.code(), Some(1));
    let expected = format!(
        "larder: cannot listen on {taken}: larder (pid {pid}) listens there: stop it, or replace it \
         without dropping a connection: larder run --take-over {}\n",
        second.display()
    );
    assert_eq!(text(&ended.stderr), expected);
    assert_eq!(Client::connect(taken).await.get(&format!("{API}/x"), &[]).await.text(), "hello");
}

#[tokio::test]
async fn the_next_larder_takes_the_sockets_over_and_the_old_one_drains() {
    let (gate, origin) = slow_origin().await;
    let (mut before, config_dir) = Process::run(&yaml(&origin, "")).await;
    let (addr, admin) = (before.addr().await, before.admin().await);
    let mut kept = Client::connect(addr).await;
    assert_eq!(kept.get(&format!("{API}/x"), &[]).await.text(), "quick");
    let mut slow = Client::connect(addr).await;
    slow.send_request("GET", &format!("{API}/slow"), &[]).await;
    origin.wait_for_calls(2).await;

    let mut next = run(&config_dir, &["--take-over"]);
    assert_eq!((next.addr().await, next.admin().await), (addr, admin), "the same sockets");
    before.err.wait_for_line("Another larder has taken over").await;
    // The old larder may have accepted one more connection before it stopped, and closes that one after
    // its response.
    let mut fresh = Client::connect(addr).await;
    let reconnect = async {
        while is_last(&fresh.get(&format!("{API}/x"), &[]).await) {
            fresh = Client::connect(addr).await;
        }
    };
    bounded(reconnect).await;
    // The old larder logs the takeover a moment before it acts on it.
    let idle_connection_is_closed = async { while !is_last(&kept.get(&format!("{API}/x"), &[]).await) {} };
    bounded(idle_connection_is_closed).await;
    assert!(before.child.try_wait().unwrap().is_none(), "one is still in flight");
    gate.open();
    let slow = slow.response("GET").await.unwrap();
    assert_eq!((slow.text().as_str(), slow.end), ("slow", End::Complete));
    assert_eq!(before.wait_for_exit().await.code(), Some(0), "{}", before.err.text());
    before.err.wait_for_line("Stopped").await;

    // A third larder takes over from the second.
    let third = run(&config_dir, &["--take-over"]);
    assert_eq!(third.addr().await, addr);
    drop(fresh);
    assert_eq!(next.wait_for_exit().await.code(), Some(0), "{}", next.err.text());
    assert_eq!(Client::connect(addr).await.get(&format!("{API}/x"), &[]).await.text(), "quick");
}

/// While the old larder drains and the new one serves, a write or purge through either invalidates the
/// entry in both.
#[tokio::test]
async fn an_invalidation_during_a_hand_over_reaches_both_larders() {
    let gate = Gate::new();
    let wait = gate.clone();
    let origin = Origin::start(move |seen| match seen.target.as_str() {
        "/slow" => MockResponse::new(200, &[], "slow").after(&wait),
        _ => MockResponse::new(200, &[], format!("{}", seen.index)),
    })
    .await;
    let (before, config_dir) = Process::run(&yaml(&origin, "")).await;
    let addr = before.addr().await;
    let url = |path: &str| format!("{API}{path}");
    let (mut first, mut second) = (Client::connect(addr).await, Client::connect(addr).await);
    let mut probe = Client::connect(addr).await;
    probe.get(&url("/purged"), &[]).await;
    let answer = first.get(&url("/purged"), &[]).await;
    let (old, name) = (answer.text(), answer.field("via").map(str::to_owned));
    assert_eq!(second.get(&url("/purged"), &[]).await.text(), old);
    let mut slow = Client::connect(addr).await;
    slow.send_request("GET", &url("/slow"), &[]).await;
    origin.wait_for_calls(2).await;

    let next = run(&config_dir, &["--take-over"]);
    let admin = next.admin().await;
    before.err.wait_for_line("Another larder has taken over").await;
    // The old larder logs this a moment before it acts on it and may accept one more connection. `Via`
    // shows which larder responds.
    bounded(async { while !is_last(&probe.get(&url("/purged"), &[]).await) {} }).await;
    let (mut fresh, written) = bounded(async {
        loop {
            let mut fresh = Client::connect(addr).await;
            let answer = fresh.get(&url("/written"), &[]).await;
            if answer.field("via").map(str::to_owned) != name {
                break (fresh, answer.text());
            }
        }
    })
    .await;
    assert_eq!(fresh.get(&url("/written"), &[]).await.text(), written, "the next one has it");
    // The old larder sends the last response of this connection; the write must reach the new one too.
    first.send_request("POST", &url("/written"), &["Content-Length: 0"]).await;
    assert!(is_last(&first.response("POST").await.unwrap()));
    bounded(async { while fresh.get(&url("/written"), &[]).await.text() == written {} }).await;
    // The other way round: a purge that the new larder confirms also removes the entry of the old one.
    let purge = [OsStr::new("purge"), OsStr::new("http://api.example.test/purged")];
    let admin = admin.to_string();
    let purge = [purge.as_slice(), &[OsStr::new("--admin"), OsStr::new(&admin)]].concat();
    // The new larder confirms no purge before it has opened the store, because the purge would not persist.
    bounded(async { while run_larder(&purge).await.status.code() != Some(0) {} }).await;
    let last = second.get(&url("/purged"), &[]).await;
    assert!(is_last(&last), "from the old larder");
    assert_ne!(last.text(), old);
    gate.open();
    assert_eq!(slow.response("GET").await.unwrap().text(), "slow");
}

#[tokio::test]
async fn a_next_larder_that_cannot_start_leaves_the_running_one_unchanged() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let (mut running, config_dir) = Process::run(&yaml(&origin, "")).await;
    let addr = running.addr().await;
    let mut kept = Client::connect(addr).await;
    assert_eq!(kept.get(&format!("{API}/x"), &[]).await.text(), "hello");
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = holder.local_addr().unwrap();
    let fine = fs::read_to_string(&config_dir.config).unwrap();
    for (broken, exit) in [
        (fine.replace("listen: 127.0.0.1:0\nadmin", &format!("listen: [127.0.0.1:0, {taken}]\nadmin")), 1),
        (format!("{fine}nonsense: 1\n"), 3),
    ] {
        assert_ne!(broken, fine);
        fs::write(&config_dir.config, broken).unwrap();
        let mut next = run(&config_dir, &["--take-over"]);
        assert_eq!(next.wait_for_exit().await.code(), Some(exit), "{}", next.err.text());
        let answer = kept.get(&format!("{API}/x"), &[]).await;
        assert!(!is_last(&answer), "it goes on");
    }
    running.err.wait_for_line("The other larder did not start").await;
    assert!(running.child.try_wait().unwrap().is_none());
    // The running larder still offers its sockets.
    fs::write(&config_dir.config, fine).unwrap();
    let next = run(&config_dir, &["--take-over"]);
    assert_eq!(next.addr().await, addr);
    drop(kept);
    assert_eq!(running.wait_for_exit().await.code(), Some(0), "{}", running.err.text());
}

#[tokio::test]
async fn take_over_without_a_running_larder_starts_as_usual() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let config_dir = ConfigDir::with(&yaml(&origin, ""));
    let mut first = run(&config_dir, &["--take-over"]);
    let addr = first.addr().await;
    first.err.wait_for_line("No larder to take over from").await;
    assert_eq!(Client::connect(addr).await.get(&format!("{API}/x"), &[]).await.text(), "hello");
    // A killed larder leaves its socket file behind.
    first.signal("KILL");
    first.wait_for_exit().await;
    let second = run(&config_dir, &["--take-over"]);
    let addr = second.addr().await;
    second.err.wait_for_line("No larder to take over from").await;
    assert_eq!(Client::connect(addr).await.get(&format!("{API}/x"), &[]).await.text(), "hello");
}

/// Only this user may take the sockets: other users cannot reach the hand-over socket.
#[tokio::test]
async fn the_hand_over_socket_is_private_and_removed_at_the_stop() {
    use std::os::unix::fs::PermissionsExt;
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let (mut running, config_dir) = Process::run(&yaml(&origin, "")).await;
    let store = config_dir.directory.path().join("larder-data");
    let offer = store.join("handover.sock");
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&store), mode(&offer)), (0o700, 0o600));
    // A peer that sends nothing, or garbage, does not block the offer for others.
    let _silent = tokio::net::UnixStream::connect(&offer).await.unwrap();
    let mut stranger = tokio::net::UnixStream::connect(&offer).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut received = Vec::new();
    // Larder did not read all that the peer sent, so a reset is as acceptable as a close.
    let _closed = bounded(stranger.read_to_end(&mut received)).await;
    assert!(received.is_empty());
    running.signal("TERM");
    assert_eq!(running.wait_for_exit().await.code(), Some(0));
    assert!(!offer.exists());
}

#[tokio::test]
async fn a_store_path_too_long_for_a_socket_only_disables_the_hand_over() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let store = format!("store: {{ path: {} }}\n", "long/".repeat(20));
    let (larder, _config_dir) = Process::run(&yaml(&origin, &store)).await;
    let line = larder.err.wait_for_line("Sockets not offered").await;
    assert!(line.contains("too long"), "{line}");
    let mut client = Client::connect(larder.addr().await).await;
    assert_eq!(client.get(&format!("{API}/x"), &[]).await.text(), "hello");
}

#[tokio::test]
async fn a_file_size_limit_only_keeps_larger_responses_off_the_disk() {
    let large = "x".repeat(4 << 20);
    let origin = Origin::always(MockResponse::new(200, &["Cache-Control: max-age=600"], &large)).await;
    for blocks in [1_000, 5_000] {
        let (mut larder, _config_dir) =
            Process::run_with_ulimit(&format!("-f {blocks}"), &yaml(&origin, "")).await;
        let mut client = Client::connect(larder.addr().await).await;
        for path in ["/1", "/2", "/3", "/1"] {
            let answer = client.get(&format!("{API}{path}"), &[]).await;
            assert_eq!(answer.text().len(), large.len());
        }
        larder.err.wait_for_line("(os error 27)").await;
        assert_eq!(client.get(&format!("{API}/1"), &[]).await.text().len(), large.len());
        larder.signal("TERM");
        assert_eq!(larder.wait_for_exit().await.code(), Some(0), "{}", larder.err.text());
    }
}

// ---- socket activation by a supervisor

/// `larder run` with this socket passed as systemd passes it: as descriptor 3.
fn activated(socket: std::net::TcpListener, config_dir: &ConfigDir) -> Process {
    let script = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", program(), "run"]).arg(&config_dir.config);
    command.stdin(Stdio::from(OwnedFd::from(socket)));
    Process::from_command(command)
}

#[tokio::test]
async fn a_listening_socket_of_a_supervisor_is_used_and_outlives_larder() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let config_dir = ConfigDir::with(&yaml(&origin, "").replacen("127.0.0.1:0", &addr.to_string(), 1));
    // Sent before larder runs: the connection waits in the supervisor's backlog.
    let mut early = Client::connect(addr).await;
    early.send_request("GET", &format!("{API}/x"), &[]).await;
    let mut larder = activated(socket.try_clone().unwrap(), &config_dir);
    assert_eq!(bounded(early.response("GET")).await.unwrap().text(), "hello");
    assert_eq!(larder.addr().await, addr);
    larder.signal("TERM");
    assert_eq!(larder.wait_for_exit().await.code(), Some(0), "{}", larder.err.text());
    // Between two larders, connections wait and are not refused.
    let mut between = Client::connect(addr).await;
    between.send_request("GET", &format!("{API}/x"), &[]).await;
    let _next = activated(socket, &config_dir);
    assert_eq!(bounded(between.response("GET")).await.unwrap().text(), "hello");
}

#[tokio::test]
async fn a_supervisors_socket_missing_from_the_file_is_an_error_naming_both() {
    let origin = Origin::always(MockResponse::new(200, &[], "hello")).await;
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let yaml = yaml(&origin, "").replacen("127.0.0.1:0", &unused.to_string(), 1);
    let config_dir = ConfigDir::with(&yaml.replace("admin: { listen: 127.0.0.1:0 }", "admin: off"));
    let mut larder = activated(socket, &config_dir);
    assert_eq!(larder.wait_for_exit().await.code(), Some(1));
    let log = larder.err.text();
    assert!(log.contains(&format!("listens on {addr}")), "{log}");
    assert!(log.contains(&format!("`listen` ({unused})")), "{log}");
}

// ---- clients that reset the connection

/// Ends a connection with a reset.
fn reset(stream: &TcpStream) {
    let ended = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    ended.expect("a socket can be reset");
}

/// Sends a request and resets the connection after `at` bytes of the request and its response together.
async fn reset_after(addr: SocketAddr, request: &[u8], at: usize) {
    let mut stream = TcpStream::connect(addr).await.expect("larder accepts");
    let sent = request.get(..at).unwrap_or(request);
    // Larder may already have responded and closed the connection.
    let _gone = stream.write_all(sent).await;
    let mut left = at.saturating_sub(request.len());
    let mut sink = vec![0; 4096];
    while left > 0 {
        let most = left.min(sink.len());
        let read = timeout(Duration::from_secs(5), stream.read(&mut sink[..most])).await;
        match read {
            Ok(Ok(n @ 1..)) => left -= n,
            Ok(Ok(0) | Err(_)) | Err(_) => break,
        }
    }
    reset(&stream);
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("Linux").count()
}

/// 2,000 resets, each at another byte of one of five kinds of request and their responses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lif_06_clients_that_reset_at_any_byte_leave_nothing_behind() {
    let body = vec![b'x'; 3000];
    let origin = Origin::start(move |seen| {
        // Without pooled connections, any that are left at the end are a leak.
        let answer = MockResponse::new(200, &["Connection: close"], &body);
        if seen.method == "POST" { answer } else { answer.then([Step::Close]) }
    })
    .await;
    let larder = Arc::new(Larder::with_policy(&origin, &["ttl: 1h"]).await);
    let addr = larder.addr();
    let requests: [Vec<u8>; 5] = [
        format!("GET {API}/hit HTTP/1.1\r\nHost: api.example.test\r\n\r\n").into(),
        format!("GET {API}/miss/N HTTP/1.1\r\nHost: api.example.test\r\n\r\n").into(),
        format!(
            "POST {API}/pass HTTP/1.1\r\nHost: api.example.test\r\nContent-Length: 500\r\n\r\n{}",
            "b".repeat(500)
        )
        .into(),
        format!("GET {API}/none HTTP/1.1\r\nHost: api.example.test\r\nCache-Control: no-store\r\n\r\n")
            .into(),
        format!("CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", origin.addr)
            .into(),
    ];
    let mut random = StdRng::seed_from_u64(6);
    let (mut base, mut memory) = (0, 0);
    for round in 0..250 {
        let mut resets = Vec::new();
        for n in 0..8 {
            let request = &requests[(round + n) % requests.len()];
            let request = String::from_utf8_lossy(request).replace("/N", &format!("/{round}-{n}"));
            let at = random.random_range(0..request.len() + 3000);
            resets.push(tokio::spawn(async move {
                reset_after(addr, request.as_bytes(), at).await;
            }));
        }
        for reset in resets {
            bounded(reset).await.unwrap();
        }
        // After the first rounds, which contain every kind of request, nothing may grow any more.
        if round == 10 {
            bounded(idle(&larder, usize::MAX)).await;
            (base, memory) = (descriptors(), resident());
        }
    }
    bounded(idle(&larder, base)).await;
    let grown = resident().saturating_sub(memory);
    assert!(grown < 16 << 20, "{} KiB more", grown >> 10);
    assert_eq!(larder.server.waiting(), 0, "no client waits for a fill any more");
    println!("LIF-06: {base} descriptors, as at first; {} KiB more", grown >> 10);
    let answer = bounded(larder.get("/hit")).await;
    assert_eq!((answer.body.len(), answer.end), (3000, End::Complete));
}

/// Waits until no connection is open and at most `most` descriptors are.
async fn idle(larder: &Larder, most: usize) {
    // The listener itself takes one place.
    while larder.server.connections_taken() > 1 || larder.server.waiting() > 0 || descriptors() > most {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
