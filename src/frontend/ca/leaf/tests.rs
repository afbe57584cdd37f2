//! What leaves say, that they are kept, and that their number is bounded.

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
    Arc::new(CertificateAuthority::for_now(noon(), &constrain).unwrap())
}

fn mint(constrain: &[&str]) -> (LeafIssuer, Clock) {
    let clock = Clock::by_hand(noon());
    (LeafIssuer::new(authority(constrain), clock.clone()).unwrap(), clock)
}

/// What a client that trusts the authority gets as `host`.
fn shown(mint: &LeafIssuer, host: &str) -> Vec<CertificateDer<'static>> {
    let config = mint.config(host).unwrap_or_else(|error| panic!("{host}: {error}"));
    let mut server = ServerConnection::new(config).unwrap();
    let mut client = client("any.example");
    // The client refuses whatever is not for its name; what it was shown is looked at here.
    for _ in 0..4 {
        let mut flight = Vec::new();
        client.write_tls(&mut flight).unwrap();
        server.read_tls(&mut flight.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        let mut flight = Vec::new();
        server.write_tls(&mut flight).unwrap();
        client.read_tls(&mut flight.as_slice()).unwrap();
        client.process_new_packets().unwrap();
        if let Some(chain) = client.peer_certificates() {
            return chain.iter().map(|one| one.clone().into_owned()).collect();
        }
    }
    panic!("no certificate was shown");
}

/// Accepts any certificate: what it says is for the test to see.
fn client(name: &'static str) -> ClientConnection {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Whatever))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    ClientConnection::new(Arc::new(config), ServerName::try_from(name).unwrap()).unwrap()
}

#[derive(Debug)]
struct Whatever;

impl ServerCertVerifier for Whatever {
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

/// Whether a strict client that trusts the authority takes this leaf for `name` now.
fn accepted(mint: &LeafIssuer, leaf: &CertificateDer<'_>, name: &str) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(mint.authority.certificate().der().clone()).unwrap();
    let provider = Arc::new(ring::default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let since = mint.clock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let now = UnixTime::since_unix_epoch(since);
    verifier.verify_server_cert(leaf, &[], &name, &[], now).is_ok()
}

#[test]
fn tls_02_a_leaf_says_its_host_and_nothing_more() {
    let (mint, _) = mint(&[]);
    let ca = mint.authority.certificate().clone();
    let leaf = &shown(&mint, "api.example")[0];
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
    assert!(read.raw_serial().len() >= 9, "64 bits of chance at least");
    assert!(accepted(&mint, leaf, "api.example"));
    for name in ["example", "www.api.example", "other.example"] {
        assert!(!accepted(&mint, leaf, name), "{name}");
    }
}

#[test]
fn tls_02_no_two_leaves_share_a_serial() {
    let (mint, _) = mint(&[]);
    let serial = |host: &str| {
        let leaf = mint.leaf(host).unwrap();
        X509Certificate::from_der(&leaf).unwrap().1.raw_serial().to_vec()
    };
    let mut serials: Vec<_> = (0..50).map(|_| serial("api.example")).collect();
    serials.sort();
    serials.dedup();
    assert_eq!(serials.len(), 50);
}

#[test]
fn tls_05_each_kind_of_host_gets_its_leaf_or_an_error() {
    let (mint, _) = mint(&[]);
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
        let leaf = mint.leaf(host).unwrap_or_else(|error| panic!("{host}: {error}"));
        assert!(accepted(&mint, &leaf, name), "{host}");
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
        let refused = mint.config(host);
        assert!(matches!(refused, Err(CaError::Name(_))), "{host:?}");
    }
}

#[test]
fn tls_05_a_long_name_stands_in_the_subject_alternative_name_alone() {
    let (mint, _) = mint(&[]);
    let subject = |host: &str| {
        let leaf = mint.leaf(host).unwrap();
        X509Certificate::from_der(&leaf).unwrap().1.subject().to_string()
    };
    let label = "a".repeat(57);
    assert_eq!(subject(&format!("{label}.exampl")), format!("CN={label}.exampl"));
    assert_eq!(subject(&format!("{label}.example")), "CN=larder");
    assert_eq!(subject("192.0.2.1"), "CN=larder");
}

#[test]
fn a_leaf_is_kept_until_half_its_time_and_never_outlives_its_authority() {
    let (mint, clock) = mint(&[]);
    let first = mint.config("api.example").unwrap();
    clock.advance(DAY * 2);
    assert!(Arc::ptr_eq(&first, &mint.config("api.example").unwrap()), "still the same");
    clock.advance(DAY);
    assert!(!Arc::ptr_eq(&first, &mint.config("api.example").unwrap()), "a new one");
    let end = mint.authority.certificate().not_after;
    let last_day = end.checked_sub(DAY).unwrap();
    clock.advance(last_day.duration_since(clock.now()).unwrap());
    let leaf = mint.leaf("api.example").unwrap();
    let (_, read) = X509Certificate::from_der(&leaf).unwrap();
    let until = u64::try_from(read.validity().not_after.timestamp()).unwrap();
    assert_eq!(SystemTime::UNIX_EPOCH + Duration::from_secs(until), end);
    mint.config("api.example").unwrap();
    clock.advance(DAY);
    let over = mint.config("api.example");
    assert!(matches!(over, Err(CaError::Expired { .. })), "not after its end");
}

#[test]
fn who_comes_at_once_shares_one_leaf() {
    let (mint, _) = mint(&[]);
    let start = Barrier::new(8);
    let configs: Vec<_> = thread::scope(|scope| {
        let asking = || {
            start.wait();
            mint.config("api.example").unwrap()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(asking)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(configs.iter().all(|one| Arc::ptr_eq(one, &configs[0])));
}

#[test]
fn tls_05_the_number_of_leaves_is_bounded() {
    let (mint, _) = mint(&[]);
    for at in 0..1_200 {
        mint.config(&format!("h{at}.example")).unwrap();
    }
    assert!(mint.kept.len() <= KEPT, "{}", mint.kept.len());
}

#[test]
fn tls_03_an_authority_vouches_for_nothing_outside_its_constraints() {
    let (mint, _) = mint(&["api.example", "10.0.0.0/8"]);
    for host in ["api.example", "a.api.example", "10.1.2.3"] {
        let leaf = mint.leaf(host).unwrap();
        assert!(accepted(&mint, &leaf, host), "{host}");
    }
    for host in ["example", "other.example", "11.0.0.1", "[::1]"] {
        let refused = mint.config(host);
        assert!(matches!(refused, Err(CaError::Outside { .. })), "{host}");
    }
}

#[test]
fn both_versions_of_tls_and_of_http_are_offered_and_no_session_is_remembered() {
    let (mint, _) = mint(&[]);
    let config = mint.config("api.example").unwrap();
    assert_eq!(config.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert!(config.ticketer.enabled());
    assert!(!config.session_storage.can_cache());
    let other = mint.config("other.example").unwrap();
    assert!(Arc::ptr_eq(&config.ticketer, &other.ticketer), "one key of tickets for all");
    assert!(Arc::ptr_eq(config.crypto_provider(), other.crypto_provider()));
}
