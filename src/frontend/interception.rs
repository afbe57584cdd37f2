//! Interception: TLS that ends here, for hosts that the configuration names.
//!
//! Owns: which connections are intercepted, the handshake with the client, who is told when a client
//! does not accept it. Never touches: certificates (`authority`), what is asked inside (`door`).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustls::ServerConfig;
use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::config::Config;
use crate::frontend::ca::leaf::LeafIssuer;
use crate::frontend::http1_only::{ConnectionAuthHosts, Http1Candidate, Http1Only};
use crate::frontend::stream::{ClientStream, offers_http1};
use crate::route::pattern::HostPattern;
use crate::telemetry::{HandshakeOutcome, Telemetry};

/// Room for what a client says first; all but odd hellos fit.
const HELLO: usize = 4 * 1024;

/// Which connections are intercepted, and as whom.
pub struct TlsInterceptor {
    named: Vec<HostPattern>,
    passthrough: Vec<HostPattern>,
    mint: Option<LeafIssuer>,
    http1_only: Http1Only,
}

/// The pattern that named a host: what its handshakes are counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatchedHost(usize);

/// A connection whose TLS ends here.
pub struct Intercepted {
    /// What is inside.
    pub io: ClientStream,
    /// Whether the client means the host that it named to `CONNECT`.
    pub consistent: bool,
}

impl TlsInterceptor {
    /// What `config` names, vouched for by `mint`. A route for every host names none: that takes
    /// `tls.intercept`. `sign_ins`: what is remembered over reloads.
    pub fn new(config: &Config, mint: Option<LeafIssuer>, sign_ins: ConnectionAuthHosts) -> Self {
        let routes = config.routes.routes().iter().map(|route| &route.pattern.host);
        let mut named: Vec<HostPattern> = Vec::new();
        for pattern in routes.filter(|host| !host.is_any()).chain(&config.tls.intercept) {
            if !named.contains(pattern) {
                named.push(pattern.clone());
            }
        }
        let passthrough = config.tls.passthrough.clone();
        let http1_only = Http1Only::new(&config.upstreams, sign_ins);
        Self { named, passthrough, mint, http1_only }
    }

    /// Whether TLS to `host:port` is intercepted, and what says so.
    pub fn names(&self, host: &str, port: u16) -> Option<MatchedHost> {
        self.mint.as_ref()?;
        let named = self.named.iter().position(|pattern| pattern.matches(host, port))?;
        let spared = self.passthrough.iter().any(|pattern| pattern.matches(host, port));
        (!spared).then_some(MatchedHost(named))
    }

    /// Where it is remembered that clients of `host:port` need HTTP/1.
    pub(super) fn http1_place(&self, host: &str, port: u16) -> Http1Candidate {
        self.http1_only.place(host, port)
    }

    /// Answers the handshake that begins with `first` as `host`; `None`: it failed, and that is
    /// recorded.
    pub(super) async fn intercept(
        &self,
        io: ClientStream,
        (host, port): (&str, u16),
        named: MatchedHost,
        first: BytesMut,
        terms: HandshakeContext<'_>,
    ) -> Option<Intercepted> {
        let shaken = timeout(terms.within, self.shake_hands(io, host, port, first));
        let outcome = shaken.await.unwrap_or(Err(HandshakeOutcome::Slow));
        let label = self.named.get(named.0).map(ToString::to_string).unwrap_or_default();
        match outcome {
            Ok(intercepted) => {
                terms.account.handshake(&label, host, HandshakeOutcome::Done);
                Some(intercepted)
            }
            Err(fault) => {
                terms.account.handshake(&label, host, fault);
                None
            }
        }
    }

    async fn shake_hands(
        &self,
        mut io: ClientStream,
        host: &str,
        port: u16,
        first: BytesMut,
    ) -> Result<Intercepted, HandshakeOutcome> {
        let hello = hello(&mut io, first).await?;
        let consistent = hello.client_hello().server_name().is_none_or(|name| same(name, host));
        let config = self.mint.as_ref().map(|mint| mint.config(host));
        let config = match config {
            Some(Ok(config)) => config,
            Some(Err(error)) => {
                tracing::warn!(host, %error, "No certificate could be made");
                return Err(HandshakeOutcome::Unvouched);
            }
            None => return Err(HandshakeOutcome::Unvouched),
        };
        // Who speaks HTTP/2 alone (gRPC) gets that all the same.
        let http1 = offers_http1(&hello) && self.http1_only.has(host, port);
        let config = if http1 { http1_alone(&config) } else { config };
        let io = io.secured(hello, config).await.map_err(|error| fault(&error))?;
        Ok(Intercepted { io, consistent })
    }
}

/// The same without HTTP/2.
fn http1_alone(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols.retain(|name| name != b"h2");
    Arc::new(config)
}

/// What a handshake is held to.
#[derive(Clone, Copy)]
pub(super) struct HandshakeContext<'a> {
    /// From the first byte to the last.
    pub(super) within: Duration,
    /// Where its outcome is recorded.
    pub(super) account: &'a Arc<Telemetry>,
}

/// Reads the client's hello, which begins with `bytes`.
async fn hello(io: &mut ClientStream, mut bytes: BytesMut) -> Result<Accepted, HandshakeOutcome> {
    let mut acceptor = Acceptor::default();
    loop {
        while !bytes.is_empty() {
            let taken =
                acceptor.read_tls(&mut &bytes[..]).map_err(|_full| HandshakeOutcome::Malformed)?;
            bytes.advance(taken);
            match acceptor.accept() {
                // Nobody says more before the answer: what follows could not be handed on.
                Ok(Some(_)) if !bytes.is_empty() => return Err(HandshakeOutcome::Malformed),
                Ok(Some(accepted)) => return Ok(accepted),
                Ok(None) => {}
                Err((_error, mut alert)) => {
                    let mut told = Vec::new();
                    // Best effort: the client learns why, or only that it is over.
                    if alert.write_all(&mut told).is_ok() {
                        let _told = io.transport().write_all(&told).await;
                    }
                    return Err(HandshakeOutcome::Malformed);
                }
            }
        }
        bytes.reserve(HELLO);
        if !matches!(io.read_buf(&mut bytes).await, Ok(1..)) {
            return Err(HandshakeOutcome::Malformed);
        }
    }
}

fn fault(error: &io::Error) -> HandshakeOutcome {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::AlertReceived(alert)) => HandshakeOutcome::Refused(*alert),
        Some(_) => HandshakeOutcome::Malformed,
        None => HandshakeOutcome::Closed,
    }
}

/// Names are compared without case and trailing dot; an address is never sent (RFC 6066 §3).
fn same(name: &str, host: &str) -> bool {
    let bare = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
    bare(name) == bare(host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::config::env::Env;
    use crate::config::parse;
    use crate::frontend::ca::CertificateAuthority;

    fn interception(yaml: &str) -> TlsInterceptor {
        let config = parse("proxy.yaml", &format!("version: 1\n{yaml}\n"), &Env::default())
            .expect("it is valid");
        let clock = Clock::default();
        let authority = CertificateAuthority::for_now(clock.now(), &[]).expect("an authority");
        let mint = LeafIssuer::new(Arc::new(authority), clock).expect("a mint");
        TlsInterceptor::new(&config, Some(mint), ConnectionAuthHosts::default())
    }

    #[test]
    fn hosts_that_routes_name_are_intercepted_and_no_others() {
        let interception = interception(
            "routes: [{ name: a, match: { host: api.example } },\n\
             { name: b, match: { host: '*.below.example' } },\n\
             { name: c, match: { host: 'port.example:8443' } },\n\
             { name: d, match: { host: '*', path: /health } }]",
        );
        for (host, port, expected) in [
            ("api.example", 443, true),
            ("api.example", 8443, true),
            ("a.below.example", 443, true),
            ("below.example", 443, false),
            ("port.example", 8443, true),
            ("port.example", 443, false),
            // A route for every host names none.
            ("other.example", 443, false),
        ] {
            assert_eq!(interception.names(host, port).is_some(), expected, "{host}:{port}");
        }
    }

    #[test]
    fn a_server_name_is_compared_without_case_and_trailing_dot() {
        assert!(same("API.example.", "api.example"));
        assert!(same("api.example", "api.example."));
        assert!(!same("evil.example", "api.example"));
    }
}
