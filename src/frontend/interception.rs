//! TLS interception: larder terminates TLS for hosts that the configuration names.
//!
//! Owns: which connections are intercepted, the handshake with the client, the record of clients that
//! reject the certificate. Never touches: certificates (`ca`), the requests inside (`http1`).

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

/// The read buffer for a `ClientHello`; almost all of them fit.
const HELLO: usize = 4 * 1024;

/// Decides which connections are intercepted, and presents the certificates.
pub struct TlsInterceptor {
    patterns: Vec<HostPattern>,
    passthrough: Vec<HostPattern>,
    issuer: Option<LeafIssuer>,
    http1_only: Http1Only,
}

/// The pattern that matched a host: its handshakes are counted under this pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatchedHost(usize);

/// A connection whose TLS larder has terminated.
pub struct Intercepted {
    /// The decrypted stream.
    pub io: ClientStream,
    /// Whether the server name in the `ClientHello` is the host of the `CONNECT` request.
    pub sni_matches: bool,
}

impl TlsInterceptor {
    /// Intercepts the hosts that `config` names, with certificates from `issuer`. A route for every
    /// host names none: this requires `tls.intercept`. `auth_hosts`: the set that outlives reloads.
    pub fn new(config: &Config, issuer: Option<LeafIssuer>, auth_hosts: ConnectionAuthHosts) -> Self {
        let mut patterns: Vec<HostPattern> = Vec::new();
        for pattern in config.interception_patterns() {
            if !patterns.contains(pattern) {
                patterns.push(pattern.clone());
            }
        }
        let passthrough = config.tls.passthrough.clone();
        let http1_only = Http1Only::new(&config.upstreams, auth_hosts);
        Self { patterns, passthrough, issuer, http1_only }
    }

    /// The pattern by which TLS to `host:port` is intercepted; `None`: it is not intercepted.
    pub fn matched_host(&self, host: &str, port: u16) -> Option<MatchedHost> {
        self.issuer.as_ref()?;
        let index = self.patterns.iter().position(|pattern| pattern.matches(host, port))?;
        let excluded = self.passthrough.iter().any(|pattern| pattern.matches(host, port));
        (!excluded).then_some(MatchedHost(index))
    }

    /// A handle that can add `host:port` to the hosts whose clients need HTTP/1.
    pub(super) fn http1_candidate(&self, host: &str, port: u16) -> Http1Candidate {
        self.http1_only.candidate(host, port)
    }

    /// Completes the handshake that begins with `first` as `host`; `None`: it failed, and the failure
    /// is recorded.
    pub(super) async fn intercept(
        &self,
        io: ClientStream,
        (host, port): (&str, u16),
        first: BytesMut,
        context: HandshakeContext<'_>,
    ) -> Option<Intercepted> {
        let handshake = timeout(context.within, self.accept_tls(io, host, port, first));
        let intercepted = handshake.await.unwrap_or(Err(HandshakeOutcome::TimedOut));
        let label = self.patterns.get(context.matched.0).map(ToString::to_string).unwrap_or_default();
        let outcome = intercepted.as_ref().err().copied().unwrap_or(HandshakeOutcome::Done);
        context.telemetry.handshake(&label, host, outcome);
        intercepted.ok()
    }

    async fn accept_tls(
        &self,
        mut io: ClientStream,
        host: &str,
        port: u16,
        first: BytesMut,
    ) -> Result<Intercepted, HandshakeOutcome> {
        let hello = hello(&mut io, first).await?;
        let consistent = hello.client_hello().server_name().is_none_or(|name| same_host(name, host));
        let issuer = self.issuer.as_ref().ok_or(HandshakeOutcome::NoCertificate)?;
        let config = issuer.config(host).map_err(|error| {
            tracing::warn!(host, %error, "Could not issue a certificate");
            HandshakeOutcome::NoCertificate
        })?;
        // Clients that support only HTTP/2 (gRPC) still get it.
        let http1 = offers_http1(&hello) && self.http1_only.contains(host, port);
        let config = if http1 { without_http2(&config) } else { config };
        let io = io.into_tls(hello, config).await.map_err(|error| handshake_error(&error))?;
        Ok(Intercepted { io, sni_matches: consistent })
    }
}

/// The same configuration without HTTP/2.
fn without_http2(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols.retain(|name| name != b"h2");
    Arc::new(config)
}

/// The pattern, the limit and the telemetry of a handshake.
#[derive(Clone, Copy)]
pub(super) struct HandshakeContext<'a> {
    /// The pattern that the host matches.
    pub(super) matched: MatchedHost,
    /// The time from the first byte to the last.
    pub(super) within: Duration,
    /// Records the outcome.
    pub(super) telemetry: &'a Arc<Telemetry>,
}

/// Reads the `ClientHello`, which begins with `bytes`.
async fn hello(io: &mut ClientStream, mut bytes: BytesMut) -> Result<Accepted, HandshakeOutcome> {
    let mut acceptor = Acceptor::default();
    loop {
        while !bytes.is_empty() {
            let taken = acceptor.read_tls(&mut &bytes[..]).map_err(|_full| HandshakeOutcome::Malformed)?;
            bytes.advance(taken);
            match acceptor.accept() {
                // A client sends nothing after its ClientHello before the response: such bytes could
                // not be passed on.
                Ok(Some(_)) if !bytes.is_empty() => return Err(HandshakeOutcome::Malformed),
                Ok(Some(accepted)) => return Ok(accepted),
                Ok(None) => {}
                Err((_error, mut alert)) => {
                    let mut encoded = Vec::new();
                    // Best effort: the client learns the reason, or only that the connection has ended.
                    if alert.write_all(&mut encoded).is_ok() {
                        let _sent = io.transport().write_all(&encoded).await;
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

fn handshake_error(error: &io::Error) -> HandshakeOutcome {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::AlertReceived(alert)) => HandshakeOutcome::Refused(*alert),
        Some(_) => HandshakeOutcome::Malformed,
        None => HandshakeOutcome::Closed,
    }
}

/// Compares names without case and trailing dot. Clients never send an address (RFC 6066 §3).
fn same_host(name: &str, host: &str) -> bool {
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
        let config =
            parse("proxy.yaml", &format!("version: 1\n{yaml}\n"), &Env::default()).expect("it is valid");
        let clock = Clock::default();
        let authority = CertificateAuthority::ephemeral(clock.now(), &[]).expect("an authority");
        let issuer = LeafIssuer::new(Arc::new(authority), clock).expect("an issuer");
        TlsInterceptor::new(&config, Some(issuer), ConnectionAuthHosts::default())
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
            // A route for every host does not enable interception.
            ("other.example", 443, false),
        ] {
            assert_eq!(interception.matched_host(host, port).is_some(), expected, "{host}:{port}");
        }
    }

    #[test]
    fn a_server_name_is_compared_without_case_and_trailing_dot() {
        assert!(same_host("API.example.", "api.example"));
        assert!(same_host("api.example", "api.example."));
        assert!(!same_host("evil.example", "api.example"));
    }
}
