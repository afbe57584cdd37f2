//! The cost of a fresh hit: CPU per request of larder against a bare pingora handler that sends the same
//! bytes; the memory of 100,000 keys; the time until 1,000 clients have one cold response; the cost of a
//! hit from disk after a restart, and the effect of a stalled disk on hits; the cost of a hit inside
//! intercepted TLS, of a new connection, and the memory of hosts.
//!
//! `cargo bench --bench hit` (everything), `-- --quick` (smaller loads), `-- hit|keys|cold|disk|tls` (a
//! part). `cargo test --bench hit` runs everything with loads that measure nothing, to see that it works. larder also writes its store to disk, in a temporary directory. There are three processes:
//! this one generates the load, and the other two are this program in another role. CPU times come from
//! /proc, so a busy machine lengthens the run but does not change the figures. The last line is JSON.

#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]
#![expect(clippy::cast_precision_loss, reason = "counts and bytes far below 2^52")]

#[path = "support/bare.rs"]
mod bare;
#[path = "support/load.rs"]
mod load;
#[path = "support/process.rs"]
mod process;
#[path = "support/secure.rs"]
mod secure;
#[path = "support/subject.rs"]
mod subject;
#[path = "../tests/support/unverified_tls.rs"]
mod unverified_tls;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use load::{Load, Target};
use process::Process;
use secure::TlsLoad;
use subject::HOSTS;
use tempfile::TempDir;

/// The size of the loads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scale {
    Full,
    /// `--quick`
    Quick,
    /// `cargo test`: every part runs, and its figures mean nothing.
    Test,
}

impl Scale {
    /// The number of requests, keys or clients.
    fn of(self, full: usize, quick: usize) -> usize {
        match self {
            Self::Full => full,
            Self::Quick => quick,
            Self::Test => 64,
        }
    }

    /// Pairs of runs, alternately larder and bare.
    fn pairs(self) -> usize {
        if self == Self::Test { 1 } else { 5 }
    }

    /// The time for which the store thread is stalled.
    fn stall(self) -> Duration {
        if self == Self::Test { Duration::from_millis(100) } else { Duration::from_secs(5) }
    }
}

/// The scale of the loads, and the figures so far.
struct Bench {
    scale: Scale,
    figures: serde_json::Map<String, serde_json::Value>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    match arguments.first().map(String::as_str) {
        Some("role-larder") => return subject::run(&arguments[1..]),
        Some("role-bare") => return bare::run(&arguments[1..]),
        _ => {}
    }
    let scale = match (has("--bench"), has("--quick")) {
        (_, true) => Scale::Quick,
        (true, false) => Scale::Full,
        (false, false) => Scale::Test,
    };
    let all = !(has("hit") || has("keys") || has("cold") || has("disk") || has("tls"));
    let mut bench = Bench { scale, figures: serde_json::Map::new() };
    if all || has("hit") {
        bench.hits(1024, scale.of(200_000, 20_000), "1k");
        bench.hits(100 * 1024, scale.of(40_000, 4_000), "100k");
    }
    if all || has("keys") {
        bench.keys(scale.of(100_000, 5_000));
    }
    if all || has("cold") {
        bench.cold(scale.of(1_000, 200));
    }
    if all || has("disk") {
        bench.disk(1024, scale.of(40_000, 4_000), "1k");
        bench.disk(100 * 1024, scale.of(4_000, 400), "100k");
    }
    if all || has("tls") {
        bench.tls(scale.of(100_000, 20_000));
    }
    println!("{}", serde_json::Value::Object(bench.figures));
    ExitCode::SUCCESS
}

impl Bench {
    /// CPU per fresh hit of a body of `bytes`, in interleaved pairs.
    fn hits(&mut self, bytes: usize, requests: usize, name: &str) {
        let (load, dir) = (Load::new(), temporary());
        let origin = load.origin(bytes);
        let larder = larder(origin, dir.path());
        let target = Target::new(larder.address, "/hit");
        let response = load.warm(&target);
        let bare = Process::start("role-bare", &[bare_argument(&response)]);
        let bare_target = Target::new(bare.address, "/hit");
        load.warm(&bare_target);
        println!("hit, {bytes} bytes, {requests} requests a run, 32 connections; CPU us per request:");
        let (mut ours, mut theirs, mut ratios) = (vec![], vec![], vec![]);
        for _ in 0..self.scale.pairs() {
            let larder_us = cost(&larder, requests, || load.run(&target, requests));
            let bare_us = cost(&bare, requests, || load.run(&bare_target, requests));
            println!("  larder {larder_us:6.2}   bare {bare_us:6.2}   ratio {:.2}", larder_us / bare_us);
            ours.push(larder_us);
            theirs.push(bare_us);
            ratios.push(larder_us / bare_us);
        }
        let (ours, theirs, ratio) = (median(&mut ours), median(&mut theirs), median(&mut ratios));
        println!("  median larder {ours:.2}   bare {theirs:.2}   ratio {ratio:.2}");
        self.figures.insert(format!("hit_{name}_larder_us"), round(ours));
        self.figures.insert(format!("hit_{name}_bare_us"), round(theirs));
        self.figures.insert(format!("hit_{name}_ratio"), round(ratio));
    }

    /// Memory per stored response.
    fn keys(&mut self, keys: usize) {
        let (load, dir) = (Load::new(), temporary());
        let origin = load.origin(1024);
        let larder = larder(origin, dir.path());
        load.warm(&Target::new(larder.address, "/warm"));
        let before = larder.resident();
        load.fill(larder.address, keys);
        let after = larder.resident();
        let each = (after.saturating_sub(before)) as f64 / keys as f64;
        let again = load.calls();
        let us = cost(&larder, keys, || drop(load.fill(larder.address, keys)));
        let missed = load.calls() - again;
        println!(
            "{keys} keys of 1 KB: {each:.0} bytes resident each; {us:.2} us per hit over all; {missed} missed"
        );
        self.figures.insert("keys".into(), keys.into());
        self.figures.insert("rss_per_key_bytes".into(), round(each));
        self.figures.insert("keys_hit_us".into(), round(us));
        self.figures.insert("keys_missed".into(), missed.into());
    }

    /// The time until the last of many clients has one cold response, against one fresh hit each.
    fn cold(&mut self, clients: usize) {
        let (load, dir) = (Load::new(), temporary());
        let origin = load.origin(1024);
        let larder = larder(origin, dir.path());
        let (mut colds, mut fresh, mut ratios) = (vec![], vec![], vec![]);
        let mut most_calls = 0;
        for round in 0..self.scale.pairs() {
            let target = Target::new(larder.address, &format!("/cold/{round}"));
            let before = load.calls();
            let together = load.together(&target, clients);
            most_calls = most_calls.max(load.calls() - before);
            println!(
                "  {clients} clients: cold, last after {:.1} ms; fresh, last after {:.1} ms",
                together.cold * 1e3,
                together.fresh * 1e3
            );
            colds.push(together.cold * 1e3);
            fresh.push(together.fresh * 1e3);
            ratios.push(together.cold / together.fresh);
        }
        let ratio = median(&mut ratios);
        println!(
            "{clients} cold clients: {most_calls} origin call; last response within {ratio:.2} x of one fresh hit each"
        );
        self.figures.insert("cold_clients".into(), clients.into());
        self.figures.insert("cold_origin_calls".into(), most_calls.into());
        self.figures.insert("cold_last_ms".into(), round(median(&mut colds)));
        self.figures.insert("cold_fresh_last_ms".into(), round(median(&mut fresh)));
        self.figures.insert("cold_ratio".into(), round(ratio));
    }

    /// A hit from disk after a restart against the same hit from memory, both over one connection, so that
    /// larder is the only cause of waits; and hits while the store thread is stalled.
    fn disk(&mut self, bytes: usize, keys: usize, name: &str) {
        let (load, dir) = (Load::new(), temporary());
        let origin = load.origin(bytes);
        let first = larder(origin, dir.path());
        load.fill(first.address, keys);
        first.stop();
        let mut again = larder(origin, dir.path());
        let calls = load.calls();
        let mut passes = Vec::new();
        for pass in ["disk", "memory"] {
            let mut times = Vec::new();
            let us = cost(&again, keys, || times = load.fill_over(again.address, keys, 1));
            let (p50, p99) = (quantile(&mut times, 0.5), quantile(&mut times, 0.99));
            println!(
                "{keys} hits of {bytes} bytes after a restart, from {pass}: {us:.2} us CPU each, p50 {p50:.0} us, p99 {p99:.0} us"
            );
            self.figures.insert(format!("restart_{name}_{pass}_us"), round(us));
            self.figures.insert(format!("restart_{name}_{pass}_p50_us"), round(p50));
            self.figures.insert(format!("restart_{name}_{pass}_p99_us"), round(p99));
            passes.push(us);
        }
        let missed = load.calls() - calls;
        println!("  {missed} of {keys} were not on disk; from disk {:.1} x", passes[0] / passes[1]);
        self.figures.insert(format!("restart_{name}_missed"), missed.into());
        self.stalled(&load, &mut again, keys, name);
    }

    /// Hits while the store thread runs, and while it is stalled.
    fn stalled(&mut self, load: &Load, larder: &mut Process, keys: usize, name: &str) {
        for state in ["running", "stalled"] {
            larder.send_line(if state == "stalled" { "stall" } else { "go on" });
            let since = larder::clock::Clock::system().instant();
            let mut times = Vec::new();
            while larder::clock::Clock::system().instant().saturating_duration_since(since)
                < self.scale.stall()
            {
                times.extend(load.fill_over(larder.address, keys, 1));
            }
            let (count, p99) = (times.len(), quantile(&mut times, 0.99));
            println!("  store thread {state}: {count} hits, p99 {p99:.0} us");
            self.figures.insert(format!("{state}_{name}_p99_us"), round(p99));
        }
        larder.send_line("go on");
    }

    /// CPU per fresh hit inside intercepted TLS against the same without TLS, in interleaved pairs; per new
    /// connection, to new and to known hosts; memory per host.
    fn tls(&mut self, requests: usize) {
        let (load, secure, dir) = (Load::new(), TlsLoad::new(), temporary());
        let origin = load.origin(1024);
        let arguments = [origin.to_string(), dir.path().display().to_string(), secure.origin(1024)];
        let larder = Process::start("role-larder", &arguments);
        let target = Target::new(larder.address, "/hit");
        load.warm(&target);
        secure.run(larder.address, 64);
        println!("hit, 1 KB, {requests} requests a run, 32 connections; CPU us per request:");
        let (mut inside, mut clear, mut ratios) = (vec![], vec![], vec![]);
        for _ in 0..self.scale.pairs() {
            let tls_us = cost(&larder, requests, || secure.run(larder.address, requests));
            let clear_us = cost(&larder, requests, || load.run(&target, requests));
            println!("  tls {tls_us:6.2}   clear {clear_us:6.2}   ratio {:.2}", tls_us / clear_us);
            inside.push(tls_us);
            clear.push(clear_us);
            ratios.push(tls_us / clear_us);
        }
        let (inside, clear, ratio) = (median(&mut inside), median(&mut clear), median(&mut ratios));
        println!("  median tls {inside:.2}   clear {clear:.2}   ratio {ratio:.2}");
        self.figures.insert("tls_hit_us".into(), round(inside));
        self.figures.insert("tls_clear_us".into(), round(clear));
        self.figures.insert("tls_ratio".into(), round(ratio));
        drop(larder);
        // A new process, since the load has enlarged the memory of the first one.
        let larder = Process::start("role-larder", &arguments);
        secure.run(larder.address, 64);
        let before = larder.resident();
        for hosts in ["new", "known"] {
            let us = cost(&larder, HOSTS, || secure.connect_each(larder.address, HOSTS));
            println!("{HOSTS} connections to {hosts} hosts: {us:.0} us CPU each");
            self.figures.insert(format!("tls_connection_{hosts}_us"), round(us));
        }
        let each = larder.resident().saturating_sub(before) as f64 / HOSTS as f64;
        println!("{HOSTS} intercepted hosts: {each:.0} bytes resident each");
        self.figures.insert("tls_rss_per_host_bytes".into(), round(each));
    }
}

/// A quantile in microseconds.
fn quantile(times: &mut [Duration], part: f64) -> f64 {
    times.sort_unstable();
    let last = times.len() - 1;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below the length")]
    let at = (last as f64 * part) as usize;
    times[at].as_secs_f64() * 1e6
}

fn larder(origin: SocketAddr, dir: &Path) -> Process {
    Process::start("role-larder", &[origin.to_string(), dir.display().to_string()])
}

fn temporary() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// CPU microseconds per request that `process` uses while `work` runs.
fn cost(process: &Process, requests: usize, work: impl FnOnce()) -> f64 {
    let before = process.cpu();
    work();
    process.cpu().saturating_sub(before).as_secs_f64() * 1e6 / requests as f64
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn round(value: f64) -> serde_json::Value {
    ((value * 100.0).round() / 100.0).into()
}

/// larder's response as one argument: the length of the body and the header fields, one per line.
fn bare_argument(response: &load::Response) -> String {
    format!("{}\n{}", response.body, response.fields.join("\n"))
}
