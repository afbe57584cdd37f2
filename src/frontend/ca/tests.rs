//! Where an authority lies, who may read its key, and what makes it fit.

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

fn lasting(directory: &TempDir) -> Result<CertificateAuthority, CaError> {
    CertificateAuthority::lasting(files(directory.path()), &[], noon())
}

/// A configuration whose store lies in `directory`.
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

/// Puts a pair of a test's making in the place of larder's.
fn put(files: &CaFiles, cert: &str, key: &str) {
    fs::create_dir_all(files.cert.parent().unwrap()).unwrap();
    fs::write(&files.cert, cert).unwrap();
    fs::write(&files.key, key).unwrap();
    fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
}

/// An operator's own, changed by `change`.
fn operators(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "Example Corp CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    params.self_signed(key).unwrap().pem()
}

#[test]
fn tls_03_what_larder_makes_is_an_authority_for_leaves_alone_and_for_two_years() {
    let authority = CertificateAuthority::for_now(noon(), &constrain(&["api.example"])).unwrap();
    let own = authority.certificate();
    let (_, read) = X509Certificate::from_der(own.der()).unwrap();
    let constraints = read.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = read.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
    assert_eq!(usage.value.flags.count_ones(), 2, "nothing else");
    assert!(read.name_constraints().unwrap().unwrap().critical);
    assert!(read.raw_serial().len() >= 9, "64 bits of chance at least");
    assert!(noon().duration_since(own.not_before).unwrap() <= Duration::from_secs(3600));
    assert!(own.not_after.duration_since(own.not_before).unwrap() <= DAY * 730);
    assert!(own.not_after.duration_since(noon()).unwrap() >= DAY * 700);
}

#[test]
fn tls_03_no_two_installations_share_anything() {
    let two = [(); 2].map(|()| CertificateAuthority::for_now(noon(), &[]).unwrap());
    let [one, other] = two.each_ref().map(CertificateAuthority::certificate);
    assert_ne!(one.subject, other.subject);
    assert_ne!(one.public_key, other.public_key);
    assert_ne!(one.fingerprint(), other.fingerprint());
}

#[test]
fn tls_03_constraints_leave_no_kind_of_host_open() {
    let may = |all: &[&str]| {
        let authority = CertificateAuthority::for_now(noon(), &constrain(all)).unwrap();
        let bounds = authority.certificate().bounds.clone();
        assert_eq!(
            bounds,
            CaNameConstraints::of(&constrain(all)),
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
        assert_eq!(hosts.map(|host| bounds.admit(host)), expected, "{constrain:?}");
    }
}

#[test]
fn tls_01_it_is_made_once_for_its_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    let made = lasting(&directory).unwrap();
    assert_eq!(mode(files.key.parent().unwrap()), 0o700);
    assert_eq!(mode(&files.key), 0o600);
    let names: Vec<_> = fs::read_dir(directory.path().join("ca"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 2, "nothing else is left: {names:?}");
    let again = lasting(&directory).unwrap();
    assert_eq!(made.pem(), again.pem());
    assert_eq!(fs::read_to_string(&files.cert).unwrap(), again.pem());
}

#[test]
fn tls_01_a_key_that_others_could_read_is_refused_with_the_fix() {
    let directory = tempfile::tempdir().unwrap();
    let key = files(directory.path()).key;
    lasting(&directory).unwrap();
    for open in [0o644, 0o640, 0o604, 0o660, 0o610] {
        fs::set_permissions(&key, Permissions::from_mode(open)).unwrap();
        let said = refused(lasting(&directory));
        assert!(said.contains("chmod 600") && said.contains("ca.key"), "{open:o}: {said}");
    }
    fs::set_permissions(&key, Permissions::from_mode(0o400)).unwrap();
    lasting(&directory).unwrap();
}

#[test]
fn tls_01_a_link_and_what_is_no_file_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let key = files(directory.path()).key;
    lasting(&directory).unwrap();
    let elsewhere = directory.path().join("elsewhere");
    fs::rename(&key, &elsewhere).unwrap();
    symlink(&elsewhere, &key).unwrap();
    let said = refused(lasting(&directory));
    assert!(said.contains("symbolic link") && said.contains("install -m 600"), "{said}");
    fs::remove_file(&key).unwrap();
    fs::create_dir(&key).unwrap();
    assert!(refused(lasting(&directory)).contains("holds no RSA, P-256 or P-384 key"));
}

#[test]
fn tls_01_another_users_key_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let key = files(directory.path()).key;
    lasting(&directory).unwrap();
    if chown(&key, Some(65534), None).is_err() {
        println!("SKIPPED tls_01_another_users_key_is_refused: only root may give files away");
        return;
    }
    let said = refused(lasting(&directory));
    assert!(said.contains("belongs to another user") && said.contains("chown"), "{said}");
}

#[test]
fn half_a_pair_is_told_with_the_way_out_and_nothing_is_made() {
    for missing in ["ca.pem", "ca.key"] {
        let directory = tempfile::tempdir().unwrap();
        lasting(&directory).unwrap();
        let path = directory.path().join("ca").join(missing);
        fs::remove_file(&path).unwrap();
        let said = refused(lasting(&directory));
        assert!(said.contains(&format!("{missing} is not")) && said.contains("backup"), "{said}");
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
            lasting(&directory).unwrap().pem()
        };
        let threads: Vec<_> = (0..100).map(|_| scope.spawn(starting)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|one| *one == all[0]));
}

#[test]
fn a_rotation_keeps_the_old_pair_beside() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    let before = lasting(&directory).unwrap();
    fs::set_permissions(&files.key, Permissions::from_mode(0o644)).unwrap();
    let now = noon() + DAY;
    let after =
        CertificateAuthority::rotated(files.clone(), &constrain(&["api.example"]), now).unwrap();
    assert_ne!(before.pem(), after.pem());
    assert_eq!(CertificateAuthority::lasting(files.clone(), &[], now).unwrap().pem(), after.pem());
    let kept = kept_by_rotation(&files, now);
    assert_eq!(mode(&kept.key), 0o600, "an open key does not stay open");
    assert_eq!(CertificateAuthority::lasting(kept, &[], now).unwrap().pem(), before.pem());
}

#[test]
fn readers_see_one_pair_or_the_other_while_it_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    lasting(&directory).unwrap();
    thread::scope(|scope| {
        let rotating = scope.spawn(|| {
            for turn in 1..20 {
                CertificateAuthority::rotated(files(directory.path()), &[], noon() + DAY * turn)
                    .unwrap();
            }
        });
        while !rotating.is_finished() {
            lasting(&directory).unwrap_or_else(|error| panic!("{error}"));
        }
    });
}

#[test]
fn an_operators_own_is_used_with_any_key_that_is_read_and_never_replaced() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384] {
        let directory = tempfile::tempdir().unwrap();
        let files = files(directory.path());
        let key = KeyPair::generate_for(algorithm).unwrap();
        put(&files, &operators(&key, |_| {}), &key.serialize_pem());
        let authority = lasting(&directory).unwrap();
        assert_eq!(authority.certificate().subject, "CN=Example Corp CA");
        let said = refused(CertificateAuthority::rotated(files, &[], noon()));
        assert!(said.contains("was not made by larder"), "{said}");
    }
}

#[test]
fn what_cannot_vouch_is_refused_with_its_file_and_the_fix() {
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
        let said = refused(lasting(&directory));
        assert!(said.contains(what) && said.contains("/ca/ca."), "{what}: {said}");
    }
}

#[test]
fn nothing_is_made_where_nothing_is_intercepted() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory, "");
    assert!(CertificateAuthority::of(&config, noon()).unwrap().is_none());
    assert!(!directory.path().join("ca").exists());
}

#[test]
fn an_authority_whose_time_is_over_is_refused_with_the_fix() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory, "tls: { intercept: [api.example] }");
    CertificateAuthority::of(&config, noon()).unwrap().unwrap();
    CertificateAuthority::of(&config, noon() + DAY * 728).unwrap().unwrap();
    let late = CertificateAuthority::of(&config, noon() + DAY * 730);
    let said = late.map(|_| ()).expect_err("it is over").to_string();
    assert!(said.contains("has expired") && said.contains("`larder ca rotate`"), "{said}");
}

#[test]
fn tls_03_an_authority_that_may_not_vouch_for_what_is_named_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let with = |rest: &str| CertificateAuthority::of(&config(&directory, rest), noon());
    let narrow = "tls: { ca: { constrain: [api.example] }, intercept: [api.example] }";
    with(narrow).unwrap().unwrap();
    let wide = "tls: { ca: { constrain: [example] }, intercept: [api.example, b.example] }";
    let said = with(wide).map(|_| ()).expect_err("b.example is outside").to_string();
    assert!(said.contains("b.example") && said.contains("larder ca rotate"), "{said}");
    with("tls: { ca: { constrain: [example] }, intercept: [api.example] }").unwrap().unwrap();
    let spared = wide.replace("b.example] }", "b.example], passthrough: b.example }");
    with(&spared).unwrap().unwrap();
}

#[test]
fn without_a_disk_it_lasts_as_long_as_the_process_and_reloads_keep_it() {
    let text = |rest: &str| {
        let text = format!("version: 1\nstore: {{ disk: off }}\n{rest}\n");
        parse("proxy.yaml", &text, &Env::default()).unwrap()
    };
    let config = text("tls: { intercept: [api.example] }");
    let first = CertificateAuthority::after(None, &config, noon()).unwrap().unwrap();
    assert!(first.files().is_none());
    let again = CertificateAuthority::after(Some(&first), &config, noon()).unwrap().unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    let narrower = text("tls: { ca: { constrain: [api.example] }, intercept: [api.example] }");
    let other = CertificateAuthority::after(Some(&first), &narrower, noon()).unwrap().unwrap();
    assert!(!Arc::ptr_eq(&first, &other));
    assert!(CertificateAuthority::after(Some(&first), &text(""), noon()).unwrap().is_none());
}

#[test]
fn a_directory_that_cannot_be_written_costs_no_start_unless_files_were_named() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("ca"), b"").unwrap();
    let rest = "tls: { intercept: [api.example] }";
    let first = CertificateAuthority::of(&config(&directory, rest), noon()).unwrap().unwrap();
    assert!(first.files().is_none());
    let again = CertificateAuthority::after(Some(&first), &config(&directory, rest), noon())
        .unwrap()
        .unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    let below = directory.path().join("ca/here");
    let below = below.display();
    let named = format!("tls: {{ ca: {{ cert: {below}.pem, key: {below}.key }}, intercept: [a] }}");
    let refused = CertificateAuthority::of(&config(&directory, &named), noon());
    assert!(matches!(refused, Err(CaError::Unwritten { .. })));
}

#[test]
fn a_reload_reads_the_files_anew() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&directory, "tls: { intercept: [api.example] }");
    let first = CertificateAuthority::after(None, &config, noon()).unwrap().unwrap();
    let rotated = CertificateAuthority::rotated(files(directory.path()), &[], noon()).unwrap();
    let second = CertificateAuthority::after(Some(&first), &config, noon()).unwrap().unwrap();
    assert_eq!(second.pem(), rotated.pem());
}

#[test]
fn tls_01_nothing_of_the_key_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let authority = lasting(&directory).unwrap();
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
    CertificateAuthority::for_now(noon(), &[]).unwrap();
    assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
}
