//! The role of larder: the whole of it, on one worker thread, log level info.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::mpsc;

use larder::config::{self, env::Env};
use larder::server::{Server, ServerDeps};
use larder::telemetry::log;
use tokio::io::{AsyncBufReadExt, BufReader};

/// Serves with a store in a directory; the arguments are the origin's address, the directory and, if
/// wanted, the address of an origin that speaks TLS.
/// Standard input says `stall` (the store thread stands still until the next line) and, by its end,
/// that it is over: what is stored is then on disk.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let (origin, dir) = (&arguments[0], &arguments[1]);
    let secure = arguments.get(2).map_or_else(String::new, |secure| intercepting(secure));
    let yaml = format!(
        "version: 1\nlisten: 127.0.0.1:0\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         resolve:\n{secure}  api.example.test: \"{origin}\"\n\
         store: {{ path: \"{dir}\", memory: 1GiB, disk: 8GiB, max_object: 8MiB }}\n\
         upstreams: {{ api: {{ hosts: [api.example.test], tls: {{ insecure: true }} }} }}\n\
         routes:\n  - name: other\n    match: {{ host: other.example.test, path: /x }}\n    ttl: 1h\n  \
         - name: api\n    match: {{ host: api.example.test, path: \"/**\" }}\n    ttl: 1h\n  \
         - name: hosts\n    match: {{ host: \"*.hosts.example.test\" }}\n    ttl: 1h\n"
    );
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let config = config::parse("hit.yaml", &yaml, &Env::default()).expect("valid");
    log::install(&config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("threads can be started");
    runtime.block_on(async {
        let server = Server::start(config, ServerDeps::default()).expect("free ports");
        println!("{}", server.addrs()[0]);
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let mut stalled = None;
        while let Ok(Some(line)) = lines.next_line().await {
            let (go_on, until) = mpsc::channel();
            // The one before, if any, goes on.
            stalled = (line == "stall").then_some(go_on);
            if stalled.is_some() {
                server.stall_store(until);
            }
        }
        drop(stalled);
        server.stop().await;
    });
    ExitCode::SUCCESS
}

/// The hosts that a larder of many hosts has.
pub(crate) const HOSTS: usize = 1_000;

/// Where https to the API and to many more hosts leads.
fn intercepting(secure: &str) -> String {
    let mut lines = format!("  \"api.example.test:443\": \"{secure}\"\n");
    for host in 0..HOSTS {
        writeln!(lines, "  h{host}.hosts.example.test: \"{secure}\"").expect("a string takes all");
    }
    lines
}
