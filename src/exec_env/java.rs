//! Java: properties of the machine, and a trust store written without keytool.
//!
//! Owns: how `JAVA_TOOL_OPTIONS` is split and extended, what the store holds. Never touches: stores
//! that are already there.

use std::io;
use std::path::Path;

use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, Pkcs12ImportPolicy};

use crate::config::file_source::{Disk, FileSource as _};
use crate::exec_env::ca_bundle::CaBundle;
use crate::exec_env::private_dir::{PrivateDir, is_larders};
use crate::exec_env::{ExecEnv, set};

/// What everybody's trust store has: a store of public certificates has no secret.
const PASSWORD: &str = "changeit";

/// For a password that is public few rounds do, and every start waits for them.
const ROUNDS: u32 = 1000;

/// The properties of the store, as the machine reads them.
const STORE: &str = "-Djavax.net.ssl.trustStore=";
const STORE_PASSWORD: &str = "-Djavax.net.ssl.trustStorePassword=";
const STORE_TYPE: &str = "-Djavax.net.ssl.trustStoreType=";

/// More than any trust store has.
const LONGEST: usize = 16 * 1024 * 1024;

/// Ours last: where a property is given twice, the last one counts.
pub(super) fn prepare(
    launch: &ExecEnv<'_>,
    files: &PrivateDir,
    trust: &CaBundle<'_>,
) -> io::Result<Vec<(String, String)>> {
    let theirs = launch.said("JAVA_TOOL_OPTIONS").map(without_ours).unwrap_or_default();
    let (host, port) = (launch.proxy.ip(), launch.proxy.port());
    let mut options: Vec<_> =
        Some(theirs.clone()).filter(|it| !it.is_empty()).into_iter().collect();
    for scheme in ["http", "https"] {
        options.push(format!("-D{scheme}.proxyHost={host} -D{scheme}.proxyPort={port}"));
    }
    // For both schemes, whatever its name says.
    options.push(format!("-Dhttp.nonProxyHosts={}", launch.no_proxy.java()));
    if let Some(store) = store(&theirs, trust) {
        let path = files.write("trust.p12", written(&store)?)?;
        // The machine splits the variable at spaces, except between quotes.
        options.push(format!("\"{STORE}{path}\" {STORE_PASSWORD}{PASSWORD} {STORE_TYPE}PKCS12"));
    }
    Ok(vec![set("JAVA_TOOL_OPTIONS", options.join(" "))])
}

/// All that is trusted. `None` when the options name a store that cannot be read, one of Java's own
/// old kind, say: without it the command would trust less than its owner asked for.
fn store(options: &str, trust: &CaBundle<'_>) -> Option<KeyStore> {
    let options = split(options);
    let last = |property: &str| {
        options.iter().rev().find_map(|option| option.strip_prefix(property)).map(ToOwned::to_owned)
    };
    // What is no X.509 certificate is of no use to a JVM either.
    let ours = trust.certificates().into_iter();
    let mut ours = ours.filter_map(|certificate| Certificate::from_der(&certificate).ok());
    let mut all: Vec<_> = ours.next().into_iter().collect();
    match last(STORE) {
        Some(path) => {
            let theirs = Disk.read(Path::new(&path), LONGEST).ok()?;
            let password = last(STORE_PASSWORD).unwrap_or_else(|| PASSWORD.to_owned());
            let policy = Pkcs12ImportPolicy::Relaxed;
            let theirs = KeyStore::from_pkcs12(&theirs.bytes, &password, policy).ok()?;
            all.extend(theirs.entries().filter_map(|(_, entry)| certificate(entry)));
        }
        None => all.extend(ours),
    }
    Some(named(all))
}

/// Keys stay where they are.
fn certificate(entry: &KeyStoreEntry) -> Option<Certificate> {
    match entry {
        KeyStoreEntry::Certificate(certificate) => Some(certificate.clone()),
        KeyStoreEntry::PrivateKeyChain(_) | KeyStoreEntry::Secret(_) => None,
    }
}

/// A store of these, larder's first.
fn named(certificates: Vec<Certificate>) -> KeyStore {
    let mut store = KeyStore::new();
    for (index, certificate) in certificates.into_iter().enumerate() {
        let alias = if index == 0 { "larder".to_owned() } else { format!("root-{index}") };
        store.add_entry(&alias, KeyStoreEntry::Certificate(certificate));
    }
    store
}

fn written(store: &KeyStore) -> io::Result<Vec<u8>> {
    let writer = store.writer(PASSWORD).encryption_iterations(ROUNDS).mac_iterations(ROUNDS);
    writer.write().map_err(|error| {
        io::Error::other(format!("the trust store for Java could not be written: {error}"))
    })
}

/// The options without the properties of earlier larders, as far as those name a trust store of
/// theirs, and without all that ours replace.
fn without_ours(options: &str) -> String {
    let mut kept = Vec::new();
    let mut of_store = 0_u8;
    for (written, option) in pieces(options) {
        let store = option.strip_prefix(STORE).and_then(|path| path.strip_suffix("/trust.p12"));
        if store.is_some_and(is_larders) {
            // The password and the type stand behind it.
            of_store = 2;
            continue;
        }
        let goes_with_it = [STORE_PASSWORD, STORE_TYPE].iter().any(|it| option.starts_with(it));
        if of_store > 0 && goes_with_it {
            of_store -= 1;
            continue;
        }
        of_store = 0;
        if !REPLACED.iter().any(|property| option.starts_with(property)) {
            kept.push(written);
        }
    }
    kept.join(" ")
}

/// The properties that are set whatever was said before.
const REPLACED: [&str; 5] = [
    "-Dhttp.proxyHost=",
    "-Dhttp.proxyPort=",
    "-Dhttps.proxyHost=",
    "-Dhttps.proxyPort=",
    "-Dhttp.nonProxyHosts=",
];

/// The options as the machine splits them.
fn split(options: &str) -> Vec<String> {
    pieces(options).into_iter().map(|(_written, option)| option).collect()
}

/// Each option as it is written and as the machine understands it: it splits at white space, and
/// quotes of either kind join and vanish.
fn pieces(options: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let (mut written, mut option) = (String::new(), String::new());
    let mut quote = None;
    for sign in options.chars() {
        if quote.is_none() && sign.is_ascii_whitespace() {
            found.push((std::mem::take(&mut written), std::mem::take(&mut option)));
            continue;
        }
        written.push(sign);
        match quote {
            Some(open) if sign == open => quote = None,
            None if sign == '"' || sign == '\'' => quote = Some(sign),
            Some(_) | None => option.push(sign),
        }
    }
    found.push((written, option));
    found.retain(|(_written, option)| !option.is_empty());
    found
}

#[cfg(test)]
mod tests {
    use crate::exec_env::java::{split, without_ours};

    #[test]
    fn options_are_split_as_the_machine_does() {
        assert_eq!(split(""), [""; 0]);
        assert_eq!(split(" -Xmx1g\t-Da=b "), ["-Xmx1g", "-Da=b"]);
        assert_eq!(split("'-Da=b c' -Dd=\"e 'f'\" -g"), ["-Da=b c", "-Dd=e 'f'", "-g"]);
        assert_eq!(split("-Da=\"b c"), ["-Da=b c"], "never closed");
    }
    #[test]
    fn what_ours_replace_goes_and_the_rest_stays_as_it_is_written() {
        let before = "-Da='b c' -Dhttp.proxyHost=h -Dhttp.proxyPort=1 \"-Djavax.net.ssl.trustStore=/a b\" \
                      -Djavax.net.ssl.trustStorePassword=p -Dhttp.nonProxyHosts=x";
        let after =
            "-Da='b c' \"-Djavax.net.ssl.trustStore=/a b\" -Djavax.net.ssl.trustStorePassword=p";
        assert_eq!(without_ours(before), after);
    }
}
