//! Tests of leaf certificates: their fields, their cache, and the bound on their number.

use std::sync::Barrier;
use std::thread;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::config::name_constraint::NameConstraint;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn authority(constrain: &[&str]) -> Arc<CertificateAuthority> {
    let constrain: Vec<_> = constrain.iter().map(|c| NameConstraint::parse(c).unwrap()).collect();
    Arc::new(CertificateAuthority::ephemeral(noon(), &constrain).unwrap())
}

fn issuer(constrain: &[&str]) -> (LeafIssuer, Clock) {
    let clock = Clock::manual(noon());
    (LeafIssuer::new(authority(constrain), clock.clone()).unwrap(), clock)
}

/// The certificate chain that a client gets for `host`.
fn presented(issuer: &LeafIssuer, host: &str) -> Vec<CertificateDer<'static>> {
    let config = issuer.config(host).unwrap_or_else(|error| panic!("{host}: {error}"));
    let mut server = ServerConnection::new(config).unwrap();
    let mut client = client("any.example");
    // The certificate need not be for the client's name; the test only reads it.
    for _ in 0..4 {
        let mut records = Vec::new();
        client.write_tls(&mut records).unwrap();
        server.read_tls(&mut records.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        let mut records = Vec::new();
        server.write_tls(&mut records).unwrap();
        client.read_tls(&mut records.as_slice()).unwrap();
        client.process_new_packets().unwrap();
        if let Some(chain) = client.peer_certificates() {
            return chain.iter().map(|one| one.clone().into_owned()).collect();
        }
    }
    panic!("no certificate was presented");
}

/// A client that accepts any certificate, so that the test can inspect it.
fn client(name: &'static str) -> ClientConnection {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAny))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    ClientConnection::new(Arc::new(config), ServerName::try_from(name).unwrap()).unwrap()
}

#[derive(Debug)]
struct AcceptAny;

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Whether a strict client that trusts the authority accepts this leaf for `name` now.
fn accepted(issuer: &LeafIssuer, leaf: &CertificateDer<'_>, name: &str) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(issuer.authority.certificate().der().clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let since = issuer.clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let now = UnixTime::since_unix_epoch(since);
    verifier.verify_server_cert(leaf, &[], &name, &[], now).is_ok()
}

#[test]
fn tls_02_a_leaf_contains_its_host_and_nothing_more() {
    let (issuer, _) = issuer(&[]);
    let ca = issuer.authority.certificate().clone();
    let leaf = &presented(&issuer, "api.example")[0];
    let (_, read) = X509Certificate::from_der(leaf).unwrap();
    let names = read.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names, [GeneralName::DNSName("api.example")]);
    let constraints = read.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let usage = read.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 1, "digitalSignature alone");
    let extended = read.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && !extended.any && !extended.client_auth);
    assert_eq!(read.issuer().to_string(), ca.subject);
    assert_ne!(&*read.public_key().subject_public_key.data, &*ca.public_key, "a key of its own");
    let (from, to) = (read.validity().not_before, read.validity().not_after);
    let now = i64::try_from(noon().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
    let now = now.unwrap();
    assert!((1..=3600).contains(&(now - from.timestamp())), "back-dated by an hour at most");
    assert!(to.timestamp() - from.timestamp() <= 7 * 24 * 60 * 60, "a week at most");
    assert!(read.raw_serial().len() >= 9, "at least 64 random bits");
    assert!(accepted(&issuer, leaf, "api.example"));
    for name in ["example", "www.api.example", "other.example"] {
        assert!(!accepted(&issuer, leaf, name), "{name}");
    }
}

#[test]
fn tls_02_no_two_leaves_share_a_serial() {
    let (issuer, _) = issuer(&[]);
    let serial = |host: &str| {
        let leaf = issuer.leaf(host).unwrap();
        X509Certificate::from_der(&leaf).unwrap().1.raw_serial().to_vec()
    };
    let mut serials: Vec<_> = (0..50).map(|_| serial("api.example")).collect();
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 50);
}

#[test]
fn tls_05_each_kind_of_host_gets_its_leaf_or_an_error() {
    let (issuer, _) = issuer(&[]);
    let long = |total: usize| {
        let label = "a".repeat(60);
        let mut name = [label.as_str(); 5].join(".");
        name.truncate(total);
        name
    };
    for (host, name) in [
        ("api.example", "api.example"),
        ("api.example.", "api.example"),
        ("API.Example", "api.example"),
        ("a_b.example", "a_b.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("localhost", "localhost"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:db8::1]", "2001:db8::1"),
        (long(253).as_str(), long(253).as_str()),
    ] {
        let leaf = issuer.leaf(host).unwrap_or_else(|error| panic!("{host}: {error}"));
        assert!(accepted(&issuer, &leaf, name), "{host}");
    }
    for host in [
        "",
        ".",
        "a..b",
        ".a",
        "*.example",
        "a b.example",
        "a\0b.example",
        "bücher.example",
        "[::1",
        "a.example..",
        long(254).as_str(),
        &"a".repeat(64),
    ] {
        let refused = issuer.config(host);
        assert!(matches!(refused, Err(CaError::Name(_))), "{host:?}");
    }
}

#[test]
fn tls_05_a_long_name_is_only_in_the_subject_alternative_name() {
    let (issuer, _) = issuer(&[]);
    let subject = |host: &str| {
        let leaf = issuer.leaf(host).unwrap();
        X509Certificate::from_der(&leaf).unwrap().1.subject().to_string()
    };
    let label = "a".repeat(57);
    assert_eq!(subject(&format!("{label}.exampl")), format!("CN={label}.exampl"));
    assert_eq!(subject(&format!("{label}.example")), "CN=larder");
    assert_eq!(subject("192.0.2.1"), "CN=larder");
}

#[test]
fn a_leaf_is_reused_for_half_its_validity_and_ends_with_its_authority() {
    let (issuer, clock) = issuer(&[]);
    let first = issuer.config("api.example").unwrap();
    clock.advance(DAY * 2);
    assert!(Arc::ptr_eq(&first, &issuer.config("api.example").unwrap()), "still the same");
    clock.advance(DAY);
    assert!(!Arc::ptr_eq(&first, &issuer.config("api.example").unwrap()), "a new one");
    let end = issuer.authority.certificate().not_after;
    let last_day = end.checked_sub(DAY).unwrap();
    clock.advance(last_day.duration_since(clock.now()).unwrap());
    let leaf = issuer.leaf("api.example").unwrap();
    let (_, read) = X509Certificate::from_der(&leaf).unwrap();
    let until = u64::try_from(read.validity().not_after.timestamp()).unwrap();
    assert_eq!(SystemTime::UNIX_EPOCH + Duration::from_secs(until), end);
    issuer.config("api.example").unwrap();
    clock.advance(DAY);
    let over = issuer.config("api.example");
    assert!(matches!(over, Err(CaError::Expired { .. })), "not after its end");
}

#[test]
fn concurrent_requests_share_one_leaf() {
    let (issuer, _) = issuer(&[]);
    let start = Barrier::new(8);
    let configs: Vec<_> = thread::scope(|scope| {
        let request = || {
            start.wait();
            issuer.config("api.example").unwrap()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(request)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(configs.iter().all(|one| Arc::ptr_eq(one, &configs[0])));
}

#[test]
fn tls_05_the_number_of_leaves_is_bounded() {
    let (issuer, _) = issuer(&[]);
    for index in 0..1_200 {
        issuer.config(&format!("h{index}.example")).unwrap();
    }
    assert!(issuer.cache.len() <= MAX_CACHED, "{}", issuer.cache.len());
}

#[test]
fn tls_03_an_authority_issues_nothing_outside_its_constraints() {
    let (issuer, _) = issuer(&["api.example", "10.0.0.0/8"]);
    for host in ["api.example", "a.api.example", "10.1.2.3"] {
        let leaf = issuer.leaf(host).unwrap();
        assert!(accepted(&issuer, &leaf, host), "{host}");
    }
    for host in ["example", "other.example", "11.0.0.1", "[::1]"] {
        let refused = issuer.config(host);
        assert!(matches!(refused, Err(CaError::Outside { .. })), "{host}");
    }
}

#[test]
fn both_http_versions_are_offered_and_no_session_is_stored() {
    let (issuer, _) = issuer(&[]);
    let config = issuer.config("api.example").unwrap();
    assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert!(config.ticketer.enabled());
    assert!(!config.session_storage.can_cache());
    let other = issuer.config("other.example").unwrap();
    assert!(Arc::ptr_eq(&config.ticketer, &other.ticketer), "one key of tickets for all");
    assert!(Arc::ptr_eq(config.crypto_provider(), other.crypto_provider()));
}
