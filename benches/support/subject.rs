//! The larder role: a complete larder, with one worker thread and log level info.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::mpsc;

use larder::config::{self, env::Env};
use larder::server::{Server, ServerDeps};
use larder::telemetry::log;
use tokio::io::{AsyncBufReadExt, BufReader};

/// Serves with a store in a directory; the arguments are the origin's address, the directory and, optionally,
/// the address of an origin with TLS. The line `stall` on standard input stalls the store thread until the
/// next line. The end of standard input stops larder; stored responses are then on disk.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let (origin, dir) = (&arguments[0], &arguments[1]);
    let secure = arguments.get(2).map_or_else(String::new, |secure| resolve_lines(secure));
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
            let (resume, until) = mpsc::channel();
            // Dropping the previous sender, if any, lets the store thread continue.
            stalled = (line == "stall").then_some(resume);
            if stalled.is_some() {
                server.stall_store(until);
            }
        }
        drop(stalled);
        server.stop().await;
    });
    ExitCode::SUCCESS
}

/// The number of hosts that the TLS measurements connect to.
pub(crate) const HOSTS: usize = 1_000;

/// The `resolve` lines that send HTTPS for the API and for many more hosts to the origin with TLS.
fn resolve_lines(secure: &str) -> String {
    let mut lines = format!("  \"api.example.test:443\": \"{secure}\"\n");
    for host in 0..HOSTS {
        writeln!(lines, "  h{host}.hosts.example.test: \"{secure}\"")
            .expect("writing to a string cannot fail");
    }
    lines
}
