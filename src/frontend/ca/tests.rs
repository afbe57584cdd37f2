//! Tests of the files of an authority, the permissions of its key, and its fitness.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, PKCS_ECDSA_P384_SHA384};
use tempfile::TempDir;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::config::env::Env;
use crate::config::parse;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn constrain(all: &[&str]) -> Vec<NameConstraint> {
    all.iter().map(|one| NameConstraint::parse(one).unwrap()).collect()
}

fn files(directory: &Path) -> CaFiles {
    let ca = directory.join("ca");
    CaFiles { cert: ca.join("ca.pem"), key: ca.join("ca.key") }
}

fn persistent(directory: &TempDir) -> Result<CertificateAuthority, CaError> {
    CertificateAuthority::persistent(files(directory.path()), &[], noon())
}

/// A configuration whose store is in `directory`.
fn config(directory: &TempDir, rest: &str) -> Config {
    let store = directory.path().display();
    let text = format!("version: 1\nstore: {{ path: {store} }}\n{rest}\n");
    parse("proxy.yaml", &text, &Env::default()).unwrap_or_else(|report| panic!("{report}"))
}

fn refused(outcome: Result<CertificateAuthority, CaError>) -> String {
    outcome.map(|_| ()).expect_err("it must be refused").to_string()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

/// Replaces larder's pair by a pair of the test.
fn put(files: &CaFiles, cert: &str, key: &str) {
    fs::create_dir_all(files.cert.parent().unwrap()).unwrap();
    fs::write(&files.cert, cert).unwrap();
    fs::write(&files.key, key).unwrap();
    fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
}

/// The certificate of an operator's authority, modified by `change`.
fn operators(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "Example Corp CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    params.self_signed(key).unwrap().pem()
}

#[test]
fn tls_03_a_new_authority_issues_leaves_only_and_lasts_two_years() {
    let authority = CertificateAuthority::ephemeral(noon(), &constrain(&["api.example"])).unwrap();
    let own = authority.certificate();
    let (_, read) = X509Certificate::from_der(own.der()).unwrap();
    let constraints = read.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = read.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
    assert_eq!(usage.value.flags.count_ones(), 2, "nothing else");
    assert!(read.name_constraints().unwrap().unwrap().critical);
    assert!(read.raw_serial().len() >= 9, "at least 64 random bits");
    assert!(noon().duration_since(own.not_before).unwrap() <= Duration::from_secs(3600));
    assert!(own.not_after.duration_since(own.not_before).unwrap() <= DAY * 730);
    assert!(own.not_after.duration_since(noon()).unwrap() >= DAY * 700);
}

#[test]
fn tls_03_no_two_installations_share_anything() {
    let two = [(); 2].map(|()| CertificateAuthority::ephemeral(noon(), &[]).unwrap());
    let [one, other] = two.each_ref().map(CertificateAuthority::certificate);
    assert_ne!(one.subject, other.subject);
    assert_ne!(one.public_key, other.public_key);
    assert_ne!(one.fingerprint(), other.fingerprint());
}

#[test]
fn tls_03_constraints_leave_no_kind_of_host_open() {
    let may = |all: &[&str]| {
        let authority = CertificateAuthority::ephemeral(noon(), &constrain(all)).unwrap();
        let bounds = authority.certificate().bounds.clone();
        assert_eq!(
            bounds,
            CaNameConstraints::from_config(&constrain(all)),
            "they are read as they were made"
        );
        bounds
    };
    let hosts = ["a.example", "b", "10.0.0.1", "192.0.2.1", "[::1]"];
    let table: [(&[&str], [bool; 5]); 5] = [
        (&[], [true; 5]),
        (&["example"], [true, false, false, false, false]),
        (&["10.0.0.0/8"], [false, false, true, false, false]),
        (&["::1"], [false, false, false, false, true]),
        (&["example", "192.0.2.1"], [true, false, false, true, false]),
    ];
    for (constrain, expected) in table {
        let bounds = may(constrain);
        assert_eq!(hosts.map(|host| bounds.allows(host)), expected, "{constrain:?}");
    }
}

#[test]
fn tls_01_the_pair_is_created_once_for_its_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    let made = persistent(&directory).unwrap();
    assert_eq!(mode(files.key.parent().unwrap()), 0o700);
    assert_eq!(mode(&files.key), 0o600);
    let names: Vec<_> = fs::read_dir(directory.path().join("ca"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 2, "nothing else is left: {names:?}");
    let again = persistent(&directory).unwrap();
    assert_eq!(made.pem(), again.pem());
    assert_eq!(fs::read_to_string(&files.cert).unwrap(), again.pem());
}

#[test]
fn tls_01_a_key_that_others_could_read_is_refused_with_the_fix() {
    let directory = tempfile::tempdir().unwrap();
    let key = files(directory.path()).key;
    persistent(&directory).unwrap();
    for open in [0o644, 0o640, 0o604, 0o660, 0o610] {
        fs::set_permissions(&key, Permissions::from_mode(open)).unwrap();
        let message = refused(persistent(&directory));
        assert!(message.contains("chmod 600") && message.contains("ca.key"), "{open:o}: {message}");
    }
    fs::set_permissions(&key, Permissions::from_mode(0o400)).unwrap();
    persistent(&directory).unwrap();
}

#[test]
fn tls_01_a_link_and_a_directory_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let key = files(directory.path()).key;
    persistent(&directory).unwrap();
    let elsewhere = directory.path().join("elsewhere");
    fs::rename(&key, &elsewhere).unwrap();
    symlink(&elsewhere, &key).unwrap();
    let message = refused(persistent(&directory));
    assert!(message.contains("symbolic link") && message.contains("install -m 600"), "{message}");
    fs::remove_file(&key).unwrap();
    fs::create_dir(&key).unwrap();
    assert!(refused(persistent(&directory)).contains("holds no RSA, P-256 or P-384 key"));
}

#[test]
fn tls_01_another_users_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let key = files(directory.path()).key;
    persistent(&directory).unwrap();
    if chown(&key, Some(65534), None).is_err() {
        println!("SKIPPED tls_01_another_users_key_is_refused: only root may give files away");
        return;
    }
    let message = refused(persistent(&directory));
    assert!(message.contains("belongs to another user") && message.contains("chown"), "{message}");
}

#[test]
fn half_a_pair_is_reported_with_the_fix_and_nothing_is_created() {
    for missing in ["ca.pem", "ca.key"] {
        let directory = tempfile::tempdir().unwrap();
        persistent(&directory).unwrap();
        let path = directory.path().join("ca").join(missing);
        fs::remove_file(&path).unwrap();
        let message = refused(persistent(&directory));
        assert!(
            message.contains(&format!("{missing} is missing")) && message.contains("backup"),
            "{message}"
        );
        assert!(!path.exists());
    }
}

#[test]
fn a_hundred_larders_that_start_at_once_agree_on_the_authority() {
    let directory = tempfile::tempdir().unwrap();
    let start = Barrier::new(100);
    let all: Vec<String> = thread::scope(|scope| {
        let starting = || {
            start.wait();
            persistent(&directory).unwrap().pem()
        };
        let threads: Vec<_> = (0..100).map(|_| scope.spawn(starting)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|one| *one == all[0]));
}

#[test]
fn a_rotation_keeps_the_old_pair() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    let before = persistent(&directory).unwrap();
    fs::set_permissions(&files.key, Permissions::from_mode(0o644)).unwrap();
    let now = noon() + DAY;
    let after = CertificateAuthority::rotated(files.clone(), &constrain(&["api.example"]), now).unwrap();
    assert_ne!(before.pem(), after.pem());
    assert_eq!(CertificateAuthority::persistent(files.clone(), &[], now).unwrap().pem(), after.pem());
    let kept = rotation_backup(&files, now);
    assert_eq!(mode(&kept.key), 0o600, "an open key does not stay open");
    assert_eq!(CertificateAuthority::persistent(kept, &[], now).unwrap().pem(), before.pem());
}

#[test]
fn readers_see_one_pair_or_the_other_while_it_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    persistent(&directory).unwrap();
    thread::scope(|scope| {
        let rotating = scope.spawn(|| {
            for turn in 1..20 {
                CertificateAuthority::rotated(files(directory.path()), &[], noon() + DAY * turn).unwrap();
            }
        });
        while !rotating.is_finished() {
            persistent(&directory).unwrap_or_else(|error| panic!("{error}"));
        }
    });
}

#[test]
fn an_operators_authority_is_used_with_any_key_and_never_replaced() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384] {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        let key = KeyPair::generate_for(algorithm).unwrap();
        put(&files, &operators(&key, |_| {}), &key.serialize_pem());
        let authority = persistent(&directory).unwrap();
        assert_eq!(authority.certificate().subject, "CN=Example Corp CA");
        let message = refused(CertificateAuthority::rotated(files, &[], noon()));
        assert!(message.contains("was not made by larder"), "{message}");
    }
}

#[test]
fn an_unfit_pair_is_refused_with_its_file_and_the_fix() {
    let key = KeyPair::generate().unwrap();
    let other = KeyPair::generate().unwrap();
    let good = operators(&key, |_| {});
    let no_ca = operators(&key, |params| params.is_ca = IsCa::NoCa);
    let no_sign = operators(&key, |params| {
        params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
    });
    let own = key.serialize_pem();
    for (cert, key, what) in [
        (good.as_str(), other.serialize_pem().as_str(), "is not the key of"),
        (&no_ca, &own, "lacks CA:TRUE"),
        (&no_sign, &own, "lacks keyCertSign"),
        ("nothing", &own, "holds no certificate"),
        ("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", &own, "holds no cert"),
        (&good, "nothing", "openssl pkcs8"),
        (&good, &own.replace("PRIVATE", "EC PRIVATE"), "openssl pkcs8"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        put(&files(directory.path()), cert, key);
        let message = refused(persistent(&directory));
        assert!(message.contains(what) && message.contains("/ca/ca."), "{what}: {message}");
    }
}

#[test]
fn no_authority_is_created_without_interception() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory, "");
    assert!(CertificateAuthority::from_config(&config, noon()).unwrap().is_none());
    assert!(!directory.path().join("ca").exists());
}

#[test]
fn an_expired_authority_is_refused_with_the_fix() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory, "tls: { intercept: [api.example] }");
    CertificateAuthority::from_config(&config, noon()).unwrap().unwrap();
    CertificateAuthority::from_config(&config, noon() + DAY * 728).unwrap().unwrap();
    let late = CertificateAuthority::from_config(&config, noon() + DAY * 730);
    let message = late.map(|_| ()).expect_err("it is over").to_string();
    assert!(message.contains("has expired") && message.contains("`larder ca rotate`"), "{message}");
}

#[test]
fn tls_03_an_authority_that_excludes_a_named_host_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let with = |rest: &str| CertificateAuthority::from_config(&config(&directory, rest), noon());
    let narrow = "tls: { ca: { constrain: [api.example] }, intercept: [api.example] }";
    with(narrow).unwrap().unwrap();
    let wide = "tls: { ca: { constrain: [example] }, intercept: [api.example, b.example] }";
    let message = with(wide).map(|_| ()).expect_err("b.example is outside").to_string();
    assert!(message.contains("b.example") && message.contains("larder ca rotate"), "{message}");
    with("tls: { ca: { constrain: [example] }, intercept: [api.example] }").unwrap().unwrap();
    let with_passthrough = wide.replace("b.example] }", "b.example], passthrough: b.example }");
    with(&with_passthrough).unwrap().unwrap();
}

#[test]
fn without_a_disk_reloads_keep_the_authority_in_memory() {
    let text = |rest: &str| {
        let text = format!("version: 1\nstore: {{ disk: off }}\n{rest}\n");
        parse("proxy.yaml", &text, &Env::default()).unwrap()
    };
    let config = text("tls: { intercept: [api.example] }");
    let first = CertificateAuthority::for_reload(None, &config, noon()).unwrap().unwrap();
    assert!(first.files().is_none());
    let again = CertificateAuthority::for_reload(Some(&first), &config, noon()).unwrap().unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    let narrower = text("tls: { ca: { constrain: [api.example] }, intercept: [api.example] }");
    let other = CertificateAuthority::for_reload(Some(&first), &narrower, noon()).unwrap().unwrap();
    assert!(!Arc::ptr_eq(&first, &other));
    assert!(CertificateAuthority::for_reload(Some(&first), &text(""), noon()).unwrap().is_none());
}

#[test]
fn an_unwritable_directory_is_an_error_only_if_files_are_configured() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("ca"), b"").unwrap();
    let rest = "tls: { intercept: [api.example] }";
    let first = CertificateAuthority::from_config(&config(&directory, rest), noon()).unwrap().unwrap();
    assert!(first.files().is_none());
    let again =
        CertificateAuthority::for_reload(Some(&first), &config(&directory, rest), noon()).unwrap().unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    let below = directory.path().join("ca/here");
    let below = below.display();
    let named = format!("tls: {{ ca: {{ cert: {below}.pem, key: {below}.key }}, intercept: [a] }}");
    let refused = CertificateAuthority::from_config(&config(&directory, &named), noon());
    assert!(matches!(refused, Err(CaError::Unwritten { .. })));
}

#[test]
fn a_reload_reads_the_files_anew() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory, "tls: { intercept: [api.example] }");
    let first = CertificateAuthority::for_reload(None, &config, noon()).unwrap().unwrap();
    let rotated = CertificateAuthority::rotated(files(directory.path()), &[], noon()).unwrap();
    let second = CertificateAuthority::for_reload(Some(&first), &config, noon()).unwrap().unwrap();
    assert_eq!(second.pem(), rotated.pem());
}

#[test]
fn tls_01_nothing_of_the_key_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let authority = persistent(&directory).unwrap();
    let key = fs::read_to_string(files(directory.path()).key).unwrap();
    let line = key.lines().nth(1).unwrap();
    assert!(line.len() > 40);
    assert!(!authority.pem().contains(line));
    assert_eq!(format!("{authority:?}"), "Authority(…)");
}

#[cfg(target_os = "linux")]
#[test]
fn tls_01_a_process_with_a_key_leaves_no_core() {
    use rustix::process::{DumpableBehavior, dumpable_behavior};
    CertificateAuthority::ephemeral(noon(), &[]).unwrap();
    assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
}
