//! Chromium and its kin: they follow the proxy variables, but take further roots only from a database of the
//! user, which larder never touches. A flag makes one process accept larder's certificates.
//!
//! Owns: the flag, and which programs get it. Never touches: the user's profile and certificate database.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};

use crate::exec_env::{ExecEnv, set};

/// The names of the programs.
const PROGRAMS: [&str; 11] = [
    "chromium",
    "chromium-browser",
    "chromium-headless-shell",
    "google-chrome",
    "google-chrome-stable",
    "google-chrome-beta",
    "google-chrome-unstable",
    "chrome",
    "chrome-headless-shell",
    "headless_shell",
    "microsoft-edge",
];

/// The variable with the flag, for the shim of Node, which adds it to browsers that Puppeteer and Playwright
/// start, and for other programs that start one.
const VARIABLE: &str = "LARDER_CHROMIUM_FLAG";

/// Sets the variable with the flag.
pub(super) fn prepare(exec_env: &ExecEnv<'_>) -> Option<(String, String)> {
    Some(set(VARIABLE, flag(exec_env.ca)?))
}

/// The flag that accepts certificates of this authority, and of no other, whatever else is wrong with them. It
/// has an effect only together with `--user-data-dir`.
fn flag(ca: &str) -> Option<String> {
    let der = CertificateDer::from_pem_slice(ca.as_bytes()).ok()?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
    let hash = STANDARD.encode(Sha256::digest(certificate.tbs_certificate.subject_pki.raw));
    Some(format!("--ignore-certificate-errors-spki-list={hash}"))
}

/// The command with the flag if it starts a browser. A browser without a profile directory of its own gets one
/// in the private directory: the user's would be changed, and a browser that already runs with it would open
/// the page outside of larder.
pub fn command(command: &[OsString], exec_env: &ExecEnv<'_>) -> Vec<OsString> {
    let mut command = command.to_vec();
    let is_browser = command.first().is_some_and(|program| is_browser(program));
    let Some(flag) = flag(exec_env.ca).filter(|_| is_browser) else { return command };
    let sets = |name: &str| {
        command.iter().any(|argument| argument.to_str().is_some_and(|argument| argument.starts_with(name)))
    };
    let mut added = Vec::new();
    if !sets("--ignore-certificate-errors-spki-list") {
        added.push(flag.into());
    }
    if !sets("--user-data-dir") {
        let mut profile = OsString::from("--user-data-dir=");
        profile.push(exec_env.directory.join("chromium"));
        added.push(profile);
    }
    command.splice(1..1, added);
    command
}

fn is_browser(program: &OsStr) -> bool {
    let name = Path::new(program).file_name().and_then(OsStr::to_str);
    name.is_some_and(|name| PROGRAMS.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::client_cert::tests as client_cert;
    use crate::config::env::Env;
    use crate::config::parse;
    use crate::exec_env::no_proxy::NoProxy;

    #[test]
    fn only_a_browser_gets_the_flag_and_a_profile_of_its_own() {
        let (ca, _key) = client_cert::pair();
        let env = Env::default();
        let config = parse("proxy.yaml", "version: 1", &env).unwrap();
        let no_proxy = &NoProxy::from_config(&config, &env);
        let directory = Path::new("/private");
        let proxy = ([127, 0, 0, 1], 1).into();
        let exec_env = ExecEnv { proxy, password: None, ca: &ca, no_proxy, directory, env: &env };
        let changed = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(Into::into).collect();
            let all = command(&words, &exec_env);
            all.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>()
        };
        let flag = flag(&ca).unwrap();
        assert_eq!(flag.len(), "--ignore-certificate-errors-spki-list=".len() + 44, "{flag}");
        let own = "--user-data-dir=/private/chromium";
        assert_eq!(
            changed(&["/usr/bin/chromium", "--headless"]),
            ["/usr/bin/chromium", &flag, own, "--headless"]
        );
        assert_eq!(changed(&["chrome", "--user-data-dir=/p"]), ["chrome", &flag, "--user-data-dir=/p"]);
        for words in [&["curl", "chromium"][..], &["chrome", &flag, own]] {
            assert_eq!(changed(words), words);
        }
        let without_ca = ExecEnv { ca: "", ..exec_env };
        assert_eq!(command(&["chrome".into()], &without_ca), ["chrome"]);
    }
}
