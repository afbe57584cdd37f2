//! The role of larder: the whole of it, on one worker thread, log level info.

use std::process::ExitCode;

use larder::account::log;
use larder::config::{self, env::Env};
use larder::server::{Parts, Server};

/// Serves until it is killed; the argument is the origin's address.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let origin = &arguments[0];
    let yaml = format!(
        "version: 1\nlisten: 127.0.0.1:0\nadmin: {{ listen: 127.0.0.1:0 }}\n\
         resolve: {{ api.example.test: \"{origin}\" }}\n\
         store: {{ memory: 1GiB, max_object: 8MiB }}\n\
         routes:\n  - name: other\n    match: {{ host: other.example.test, path: /x }}\n    ttl: 1h\n  \
         - name: api\n    match: {{ host: api.example.test, path: \"/**\" }}\n    ttl: 1h\n"
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
        let server = Server::start(config, Parts::default()).expect("free ports");
        println!("{}", server.addrs()[0]);
        std::future::pending::<()>().await;
    });
    ExitCode::SUCCESS
}
