//! How a larder ends and how the next one takes its place: nobody's answer is cut.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use larder::clock::monotonic;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::{interval, timeout};

use crate::client::{Client, End, Response};
use crate::crowd::bounded;
use crate::larder_under_test::{API, Larder, route};
use crate::origin::{Answer, Gate, Origin, Step};
use crate::process::{House, Process, eventually, larder, program, text};
use crate::resident::resident;

/// On free ports, with `api.example.test` at `origin`, everything on it cached.
fn yaml(origin: &Origin, more: &str) -> String {
    let resolve = format!("resolve: {{ api.example.test: \"{}\" }}", origin.addr);
    let free = "listen: 127.0.0.1:0\nadmin: { listen: 127.0.0.1:0 }";
    format!("version: 1\n{free}\n{resolve}\n{more}{}", route(&["ttl: 1h"]))
}

/// Whether an answer is the last of its connection.
fn is_last(answer: &Response) -> bool {
    answer.field("connection") == Some("close")
}

fn run(house: &House, flags: &[&str]) -> Process {
    let mut arguments = vec![OsStr::new("run"), house.config.as_os_str()];
    arguments.extend(flags.iter().map(OsStr::new));
    Process::start(&arguments)
}

// ---- the end of one larder

#[tokio::test]
async fn a_larder_that_stops_is_not_ready_first_and_gives_each_open_connection_one_more_answer() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |seen| match seen.target.as_str() {
        "/slow" => Answer::new(200, &[], "slow").after(&held),
        _ => Answer::new(200, &[], "quick"),
    })
    .await;
    let larder = Larder::with_policy(&origin, &["ttl: 1h"]).await;
    let (mut hit, mut miss, mut passed) =
        (larder.client().await, larder.client().await, larder.client().await);
    for client in [&mut hit, &mut miss, &mut passed] {
        assert!(!is_last(&client.get(&format!("{API}/x"), &[]).await));
    }
    let mut slow = larder.client().await;
    slow.ask("GET", &format!("{API}/slow"), &[]).await;
    origin.reached(2).await;
    let (controls, addr) = (larder.server.controls(), larder.addr());
    let admin = larder.server.admin_addr().unwrap();
    assert!(controls.ready().ready);

    let stopping = tokio::spawn(larder.server.stop_within(Duration::from_secs(20)));
    eventually("not ready", || !controls.ready().ready).await;
    eventually("refused", || std::net::TcpStream::connect(addr).is_err()).await;
    let hit = hit.get(&format!("{API}/x"), &[]).await;
    let miss = miss.get(&format!("{API}/new"), &[]).await;
    passed.ask("DELETE", &format!("{API}/x"), &[]).await;
    let passed = passed.answer("DELETE").await.unwrap();
    for last in [hit, miss, passed] {
        assert_eq!((last.text().as_str(), is_last(&last)), ("quick", true));
    }
    for (path, status) in [("/readyz", "503"), ("/healthz", "200")] {
        let mut probe = Client::connect(admin).await;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        probe.send(request).await;
        let said = text(&probe.rest().await);
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "to the very end: {said}");
    }
    assert!(!stopping.is_finished(), "one is still in flight");
    gate.open();
    // The request began before the stop, its answer after it.
    let slow = slow.answer("GET").await.unwrap();
    assert_eq!((slow.text().as_str(), is_last(&slow)), ("slow", true));
    assert!(bounded(stopping).await.unwrap(), "all were finished");
    assert!(TcpStream::connect(admin).await.is_err());
}

#[tokio::test]
async fn a_connection_without_a_request_is_let_go_after_the_grace() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let larder = Larder::start(&origin, "").await;
    let (mut fresh, mut kept) = (larder.client().await, larder.client().await);
    kept.get(&format!("{API}/x"), &[]).await;
    let finished = bounded(larder.server.stop()).await;
    assert!(finished && fresh.is_closed().await && kept.is_closed().await);
}

/// Who has connected by the time of the stop is answered, accepted or not.
#[tokio::test]
async fn what_waits_in_the_backlog_is_taken_in() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let larder = Larder::start(&origin, "").await;
    // Nothing is accepted in between: this test runs on one thread and does not wait.
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
    let half = Answer::chunked_open(200, &[], &[b"half"]).then([Step::Hang]);
    let origin = Origin::always(half).await;
    let (mut larder, _house) = Process::run(&yaml(&origin, "limits: { drain: 300ms }\n")).await;
    let mut client = Client::connect(larder.addr().await).await;
    client.ask("GET", &format!("{API}/x"), &[]).await;
    client.reads("half").await;
    larder.signal("TERM");
    let answer = bounded(client.answer("GET")).await.unwrap();
    assert_eq!((answer.text().as_str(), answer.end), ("half", End::Cut));
    assert_eq!(larder.ended().await.code(), Some(0), "{}", larder.err.text());
    larder.err.line("what was still in flight was cut").await;
}

#[tokio::test]
async fn lif_04_a_second_signal_ends_within_a_second_whatever_hangs() {
    for (first, second) in [("TERM", "TERM"), ("INT", "INT"), ("TERM", "INT")] {
        let origin = Origin::always(Answer::hung()).await;
        let (mut larder, _house) = Process::run(&yaml(&origin, "")).await;
        let mut client = Client::connect(larder.addr().await).await;
        client.ask("GET", &format!("{API}/x"), &[]).await;
        origin.reached(1).await;
        larder.signal(first);
        larder.err.line("Stopping").await;
        let since = monotonic();
        larder.signal(second);
        assert_eq!(larder.ended().await.code(), Some(1));
        assert!(monotonic() - since < Duration::from_secs(1));
    }
}

/// One request of LIF-01: false when it was cut. Nobody is promised a connection after the stop.
async fn asks(addr: SocketAddr, path: String) -> bool {
    let Ok(stream) = TcpStream::connect(addr).await else { return true };
    let mut client = Client::over(stream);
    client.ask("GET", &format!("{API}{path}"), &[]).await;
    let answer = client.answer("GET").await;
    answer.is_some_and(|a| (a.status, a.text().as_str(), a.end) == (200, "one second", End::Whole))
}

/// It takes its time: the case is about requests that take a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lif_01_a_stop_at_500_requests_a_second_cuts_no_answer() {
    let second = Step::Pause(Duration::from_secs(1));
    let answer = Answer(vec![second]).then(Answer::new(200, &[], "one second").0);
    let origin = Origin::always(answer).await;
    let (mut larder, _house) = Process::run(&yaml(&origin, "")).await;
    let addr = larder.addr().await;
    let mut ticks = interval(Duration::from_millis(2));
    let mut asked = Vec::new();
    for turn in 0..1000 {
        ticks.tick().await;
        if turn == 750 {
            larder.signal("TERM");
        }
        // Some share a fill, some have their own, some pass.
        let path = match turn % 3 {
            0 => format!("/shared/{}", turn / 30),
            _ => format!("/own/{turn}"),
        };
        asked.push(tokio::spawn(asks(addr, path)));
    }
    for (turn, asked) in asked.into_iter().enumerate() {
        assert!(bounded(asked).await.unwrap(), "request {turn} was cut");
    }
    assert_eq!(larder.ended().await.code(), Some(0), "{}", larder.err.text());
    larder.err.line("Stopped").await;
}

// ---- one after the other

#[tokio::test]
async fn lif_07_a_second_larder_names_the_address_the_process_and_the_way_past_it() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let (first, house) = Process::run(&yaml(&origin, "")).await;
    let taken = first.addr().await;
    let pid = first.child.id().unwrap();
    let same = fs::read_to_string(&house.config).unwrap();
    let second = house.directory.path().join("second.yaml");
    fs::write(&second, same.replacen("127.0.0.1:0", &taken.to_string(), 1)).unwrap();
    let since = monotonic();
    let ended = larder(&[OsStr::new("run"), second.as_os_str()]).await;
    assert!(monotonic() - since < Duration::from_secs(1));
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
async fn the_next_larder_takes_the_sockets_over_and_the_one_before_finishes() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |seen| match seen.target.as_str() {
        "/slow" => Answer::new(200, &[], "slow").after(&held),
        _ => Answer::new(200, &[], "quick"),
    })
    .await;
    let (mut before, house) = Process::run(&yaml(&origin, "")).await;
    let (addr, admin) = (before.addr().await, before.admin().await);
    let mut kept = Client::connect(addr).await;
    assert_eq!(kept.get(&format!("{API}/x"), &[]).await.text(), "quick");
    let mut slow = Client::connect(addr).await;
    slow.ask("GET", &format!("{API}/slow"), &[]).await;
    origin.reached(2).await;

    let mut next = run(&house, &["--take-over"]);
    assert_eq!((next.addr().await, next.admin().await), (addr, admin), "the same sockets");
    before.err.line("Another larder has taken over").await;
    // The old one may have accepted one more before it stopped; that one is told to come again.
    let mut fresh = Client::connect(addr).await;
    let come_again = async {
        while is_last(&fresh.get(&format!("{API}/x"), &[]).await) {
            fresh = Client::connect(addr).await;
        }
    };
    bounded(come_again).await;
    // Nor does it act at once on what it says.
    let idle_ones_learn_of_it =
        async { while !is_last(&kept.get(&format!("{API}/x"), &[]).await) {} };
    bounded(idle_ones_learn_of_it).await;
    assert!(before.child.try_wait().unwrap().is_none(), "one is still in flight");
    gate.open();
    let slow = slow.answer("GET").await.unwrap();
    assert_eq!((slow.text().as_str(), slow.end), ("slow", End::Whole));
    assert_eq!(before.ended().await.code(), Some(0), "{}", before.err.text());
    before.err.line("Stopped").await;

    // And so on, from the one that took over.
    let third = run(&house, &["--take-over"]);
    assert_eq!(third.addr().await, addr);
    drop(fresh);
    assert_eq!(next.ended().await.code(), Some(0), "{}", next.err.text());
    assert_eq!(Client::connect(addr).await.get(&format!("{API}/x"), &[]).await.text(), "quick");
}

/// While one leaves and the other has come, a write through either makes both forget.
#[tokio::test]
async fn what_is_invalidated_while_two_larders_answer_is_invalidated_in_both() {
    let gate = Gate::new();
    let held = gate.clone();
    let origin = Origin::start(move |seen| match seen.target.as_str() {
        "/slow" => Answer::new(200, &[], "slow").after(&held),
        _ => Answer::new(200, &[], format!("{}", seen.index)),
    })
    .await;
    let (before, house) = Process::run(&yaml(&origin, "")).await;
    let addr = before.addr().await;
    let url = |path: &str| format!("{API}{path}");
    let (mut first, mut second) = (Client::connect(addr).await, Client::connect(addr).await);
    let mut probe = Client::connect(addr).await;
    probe.get(&url("/purged"), &[]).await;
    let answer = first.get(&url("/purged"), &[]).await;
    let (old, name) = (answer.text(), answer.field("via").map(str::to_owned));
    assert_eq!(second.get(&url("/purged"), &[]).await.text(), old);
    let mut slow = Client::connect(addr).await;
    slow.ask("GET", &url("/slow"), &[]).await;
    origin.reached(2).await;

    let next = run(&house, &["--take-over"]);
    let admin = next.admin().await;
    before.err.line("Another larder has taken over").await;
    // It says so a moment before it acts so, and may then have accepted one more: who answers is in
    // `Via`.
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
    // The last answer of this connection is the old larder's; the write is the new one's matter too.
    first.ask("POST", &url("/written"), &["Content-Length: 0"]).await;
    assert!(is_last(&first.answer("POST").await.unwrap()));
    bounded(async { while fresh.get(&url("/written"), &[]).await.text() == written {} }).await;
    // The other way round: what the new one acknowledges as purged, the old one has forgotten.
    let purge = [OsStr::new("purge"), OsStr::new("http://api.example.test/purged")];
    let admin = admin.to_string();
    let purge = [purge.as_slice(), &[OsStr::new("--admin"), OsStr::new(&admin)]].concat();
    // Not acknowledged before the new one has the store: then it would not last.
    bounded(async { while larder(&purge).await.status.code() != Some(0) {} }).await;
    let last = second.get(&url("/purged"), &[]).await;
    assert!(is_last(&last), "from the old larder");
    assert_ne!(last.text(), old);
    gate.open();
    assert_eq!(slow.answer("GET").await.unwrap().text(), "slow");
}

#[tokio::test]
async fn a_next_larder_that_cannot_start_leaves_the_one_that_runs_as_it_was() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let (mut running, house) = Process::run(&yaml(&origin, "")).await;
    let addr = running.addr().await;
    let mut kept = Client::connect(addr).await;
    assert_eq!(kept.get(&format!("{API}/x"), &[]).await.text(), "hello");
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = holder.local_addr().unwrap();
    let fine = fs::read_to_string(&house.config).unwrap();
    for (broken, exit) in [
        (
            fine.replace(
                "listen: 127.0.0.1:0\nadmin",
                &format!("listen: [127.0.0.1:0, {taken}]\nadmin"),
            ),
            1,
        ),
        (format!("{fine}nonsense: 1\n"), 3),
    ] {
        assert_ne!(broken, fine);
        fs::write(&house.config, broken).unwrap();
        let mut next = run(&house, &["--take-over"]);
        assert_eq!(next.ended().await.code(), Some(exit), "{}", next.err.text());
        let answer = kept.get(&format!("{API}/x"), &[]).await;
        assert!(!is_last(&answer), "it goes on");
    }
    running.err.line("The other larder did not start").await;
    assert!(running.child.try_wait().unwrap().is_none());
    // What it offers is still there to take.
    fs::write(&house.config, fine).unwrap();
    let next = run(&house, &["--take-over"]);
    assert_eq!(next.addr().await, addr);
    drop(kept);
    assert_eq!(running.ended().await.code(), Some(0), "{}", running.err.text());
}

#[tokio::test]
async fn taking_over_where_none_runs_is_a_start_as_usual() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let house = House::with(&yaml(&origin, ""));
    let mut first = run(&house, &["--take-over"]);
    let addr = first.addr().await;
    first.err.line("No larder to take over from").await;
    assert_eq!(Client::connect(addr).await.get(&format!("{API}/x"), &[]).await.text(), "hello");
    // One that was killed leaves its socket file behind.
    first.signal("KILL");
    first.ended().await;
    let second = run(&house, &["--take-over"]);
    let addr = second.addr().await;
    second.err.line("No larder to take over from").await;
    assert_eq!(Client::connect(addr).await.get(&format!("{API}/x"), &[]).await.text(), "hello");
}

/// Only this user may take the sockets: the offer lies where nobody else can reach it.
#[tokio::test]
async fn the_offer_is_for_this_user_alone_and_gone_after_a_stop() {
    use std::os::unix::fs::PermissionsExt;
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let (mut running, house) = Process::run(&yaml(&origin, "")).await;
    let store = house.directory.path().join("larder-data");
    let offer = store.join("handover.sock");
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&store), mode(&offer)), (0o700, 0o600));
    // Whoever says nothing, or nonsense, does not keep it from others.
    let _silent = tokio::net::UnixStream::connect(&offer).await.unwrap();
    let mut stranger = tokio::net::UnixStream::connect(&offer).await.unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    // What it said was not read to its end: a reset is as good as a close.
    let _closed = bounded(stranger.read_to_end(&mut said)).await;
    assert!(said.is_empty());
    running.signal("TERM");
    assert_eq!(running.ended().await.code(), Some(0));
    assert!(!offer.exists());
}

#[tokio::test]
async fn a_store_with_a_path_too_long_for_a_socket_costs_the_hand_over_only() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let store = format!("store: {{ path: {} }}\n", "long/".repeat(20));
    let (larder, _house) = Process::run(&yaml(&origin, &store)).await;
    let line = larder.err.line("Sockets not offered").await;
    assert!(line.contains("too long"), "{line}");
    let mut client = Client::connect(larder.addr().await).await;
    assert_eq!(client.get(&format!("{API}/x"), &[]).await.text(), "hello");
}

#[tokio::test]
async fn a_limit_on_the_size_of_files_costs_what_is_larger_its_place_on_disk_alone() {
    let large = "x".repeat(4 << 20);
    let origin = Origin::always(Answer::new(200, &["Cache-Control: max-age=600"], &large)).await;
    for blocks in [1_000, 5_000] {
        let (mut larder, _house) =
            Process::run_within(&format!("-f {blocks}"), &yaml(&origin, "")).await;
        let mut client = Client::connect(larder.addr().await).await;
        for path in ["/1", "/2", "/3", "/1"] {
            let answer = client.get(&format!("{API}{path}"), &[]).await;
            assert_eq!(answer.text().len(), large.len());
        }
        larder.err.line("(os error 27)").await;
        assert_eq!(client.get(&format!("{API}/1"), &[]).await.text().len(), large.len());
        larder.signal("TERM");
        assert_eq!(larder.ended().await.code(), Some(0), "{}", larder.err.text());
    }
}

// ---- a supervisor that listens

/// `larder run` with this socket as systemd hands it over: descriptor 3.
fn activated(socket: std::net::TcpListener, house: &House) -> Process {
    let script = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", program(), "run"]).arg(&house.config);
    command.stdin(Stdio::from(OwnedFd::from(socket)));
    Process::of(command)
}

#[tokio::test]
async fn a_socket_that_a_supervisor_listens_on_is_used_and_outlives_larder() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let house = House::with(&yaml(&origin, "").replacen("127.0.0.1:0", &addr.to_string(), 1));
    // Before larder runs: the supervisor's backlog holds it.
    let mut early = Client::connect(addr).await;
    early.ask("GET", &format!("{API}/x"), &[]).await;
    let mut larder = activated(socket.try_clone().unwrap(), &house);
    assert_eq!(bounded(early.answer("GET")).await.unwrap().text(), "hello");
    assert_eq!(larder.addr().await, addr);
    larder.signal("TERM");
    assert_eq!(larder.ended().await.code(), Some(0), "{}", larder.err.text());
    // Between two larders connections wait, they are not refused.
    let mut between = Client::connect(addr).await;
    between.ask("GET", &format!("{API}/x"), &[]).await;
    let _next = activated(socket, &house);
    assert_eq!(bounded(between.answer("GET")).await.unwrap().text(), "hello");
}

#[tokio::test]
async fn a_supervisors_socket_that_the_file_does_not_name_is_an_error_that_names_both() {
    let origin = Origin::always(Answer::new(200, &[], "hello")).await;
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let yaml = yaml(&origin, "").replacen("127.0.0.1:0", "127.0.0.1:18080", 1);
    let house = House::with(&yaml.replace("admin: { listen: 127.0.0.1:0 }", "admin: off"));
    let mut larder = activated(socket, &house);
    assert_eq!(larder.ended().await.code(), Some(1));
    let said = larder.err.text();
    assert!(said.contains(&format!("listens on {addr}")), "{said}");
    assert!(said.contains("`listen` (127.0.0.1:18080)"), "{said}");
}

// ---- clients that break off

/// Ends a connection with a reset.
fn reset(stream: &TcpStream) {
    let ended = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    ended.expect("a socket can be reset");
}

/// A request, cut by a reset after `at` bytes of it and its answer together.
async fn breaks_off(addr: SocketAddr, request: &[u8], at: usize) {
    let mut stream = TcpStream::connect(addr).await.expect("larder accepts");
    let sent = request.get(..at).unwrap_or(request);
    // Larder may have answered and closed already.
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

/// 2,000 resets, each at another byte of one of five kinds of request and their answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lif_06_clients_that_reset_at_any_byte_leave_nothing_behind() {
    let body = vec![b'x'; 3000];
    let origin = Origin::start(move |seen| {
        // No pooled connections: what is left at the end is a leak.
        let answer = Answer::new(200, &["Connection: close"], &body);
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
        format!(
            "GET {API}/none HTTP/1.1\r\nHost: api.example.test\r\nCache-Control: no-store\r\n\r\n"
        )
        .into(),
        format!(
            "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            origin.addr
        )
        .into(),
    ];
    let mut random = StdRng::seed_from_u64(6);
    let (mut base, mut memory) = (0, 0);
    for round in 0..250 {
        let mut breaking = Vec::new();
        for n in 0..8 {
            let request = &requests[(round + n) % requests.len()];
            let request = String::from_utf8_lossy(request).replace("/N", &format!("/{round}-{n}"));
            let at = random.random_range(0..request.len() + 3000);
            breaking.push(tokio::spawn(async move {
                breaks_off(addr, request.as_bytes(), at).await;
            }));
        }
        for breaking in breaking {
            bounded(breaking).await.unwrap();
        }
        // After a first round with everything in it, nothing more may stay.
        if round == 10 {
            bounded(idle(&larder, usize::MAX)).await;
            (base, memory) = (descriptors(), resident());
        }
    }
    bounded(idle(&larder, base)).await;
    let grown = resident().saturating_sub(memory);
    assert!(grown < 16 << 20, "{} KiB more", grown >> 10);
    assert_eq!(larder.server.waiting(), 0, "nobody waits for a fill any more");
    println!("LIF-06: {base} descriptors, as at first; {} KiB more", grown >> 10);
    let answer = bounded(larder.get("/hit")).await;
    assert_eq!((answer.body.len(), answer.end), (3000, End::Whole));
}

/// No connection is open, and not more than `most` descriptors.
async fn idle(larder: &Larder, most: usize) {
    // One place is the listener's own.
    while larder.server.places_taken() > 1 || larder.server.waiting() > 0 || descriptors() > most {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
