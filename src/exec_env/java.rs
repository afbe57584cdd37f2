//! Java: JVM system properties, and a trust store that is written without keytool.
//!
//! Owns: splitting and extending `JAVA_TOOL_OPTIONS`, the contents of the trust store. Never touches:
//! existing trust stores.

use std::io;
use std::path::Path;

use p12_keystore::{Certificate, KeyStore, KeyStoreEntry, Pkcs12ImportPolicy};

use crate::config::file_source::{Disk, FileSource as _};
use crate::exec_env::ca_bundle::CaBundle;
use crate::exec_env::private_dir::{PrivateDir, is_larder_dir};
use crate::exec_env::{ExecEnv, set};

/// Java's default trust store password. Public certificates need no secret one.
const PASSWORD: &str = "changeit";

/// Key derivation rounds. A public password needs few of them, and each JVM start waits for them.
const ROUNDS: u32 = 1000;

/// The trust store properties in the form that the JVM reads.
const STORE: &str = "-Djavax.net.ssl.trustStore=";
const STORE_PASSWORD: &str = "-Djavax.net.ssl.trustStorePassword=";
const STORE_TYPE: &str = "-Djavax.net.ssl.trustStoreType=";

/// Maximum size of a trust store in bytes; larger than any real one.
const MAX_STORE_BYTES: usize = 16 * 1024 * 1024;

/// Appends larder's options to those of the caller: the JVM uses the last value of a repeated property.
pub(super) fn prepare(
    exec_env: &ExecEnv<'_>,
    files: &PrivateDir,
    trust: &CaBundle<'_>,
) -> io::Result<Vec<(String, String)>> {
    let theirs = exec_env.caller_variable("JAVA_TOOL_OPTIONS").map(without_ours).unwrap_or_default();
    let (host, port) = (exec_env.proxy.ip(), exec_env.proxy.port());
    let mut options: Vec<_> = Some(theirs.clone()).filter(|it| !it.is_empty()).into_iter().collect();
    for scheme in ["http", "https"] {
        options.push(format!("-D{scheme}.proxyHost={host} -D{scheme}.proxyPort={port}"));
    }
    // Applies to HTTPS too, despite its name.
    options.push(format!("-Dhttp.nonProxyHosts={}", exec_env.no_proxy.java()));
    if let Some(store) = store(&theirs, trust) {
        let path = files.write("trust.p12", encode(&store)?)?;
        // The JVM splits the variable at spaces, except between quotes.
        options.push(format!("\"{STORE}{path}\" {STORE_PASSWORD}{PASSWORD} {STORE_TYPE}PKCS12"));
    }
    Ok(vec![set("JAVA_TOOL_OPTIONS", options.join(" "))])
}

/// The trust store with all trusted certificates. `None` if the options name a store that cannot be read,
/// e.g. one in the old JKS format: replacing it would remove certificates that the user configured.
fn store(options: &str, trust: &CaBundle<'_>) -> Option<KeyStore> {
    let options = split(options);
    let last = |property: &str| {
        options.iter().rev().find_map(|option| option.strip_prefix(property)).map(ToOwned::to_owned)
    };
    // Skips invalid X.509 certificates, which a JVM cannot use either.
    let ours = trust.certificates().into_iter();
    let mut ours = ours.filter_map(|certificate| Certificate::from_der(&certificate).ok());
    let mut all: Vec<_> = ours.next().into_iter().collect();
    match last(STORE) {
        Some(path) => {
            let theirs = Disk.read(Path::new(&path), MAX_STORE_BYTES).ok()?;
            let password = last(STORE_PASSWORD).unwrap_or_else(|| PASSWORD.to_owned());
            let policy = Pkcs12ImportPolicy::Relaxed;
            let theirs = KeyStore::from_pkcs12(&theirs.bytes, &password, policy).ok()?;
            all.extend(theirs.entries().filter_map(|(_, entry)| certificate(entry)));
        }
        None => all.extend(ours),
    }
    Some(with_aliases(all))
}

/// The certificate of an entry. Private and secret keys are not copied.
fn certificate(entry: &KeyStoreEntry) -> Option<Certificate> {
    match entry {
        KeyStoreEntry::Certificate(certificate) => Some(certificate.clone()),
        KeyStoreEntry::PrivateKeyChain(_) | KeyStoreEntry::Secret(_) => None,
    }
}

/// A trust store with these certificates. The first one is larder's and gets the alias `larder`.
fn with_aliases(certificates: Vec<Certificate>) -> KeyStore {
    let mut store = KeyStore::new();
    for (index, certificate) in certificates.into_iter().enumerate() {
        let alias = if index == 0 { "larder".to_owned() } else { format!("root-{index}") };
        store.add_entry(&alias, KeyStoreEntry::Certificate(certificate));
    }
    store
}

fn encode(store: &KeyStore) -> io::Result<Vec<u8>> {
    let writer = store.writer(PASSWORD).encryption_iterations(ROUNDS).mac_iterations(ROUNDS);
    writer
        .write()
        .map_err(|error| io::Error::other(format!("the trust store for Java could not be written: {error}")))
}

/// The options without the proxy properties that larder replaces, and without a trust store that an earlier
/// larder added, including its password and type.
fn without_ours(options: &str) -> String {
    let mut kept = Vec::new();
    let mut store_options_left = 0_u8;
    for (written, option) in pieces(options) {
        let store = option.strip_prefix(STORE).and_then(|path| path.strip_suffix("/trust.p12"));
        if store.is_some_and(is_larder_dir) {
            // The password and the type follow the path.
            store_options_left = 2;
            continue;
        }
        let is_store_option = [STORE_PASSWORD, STORE_TYPE].iter().any(|it| option.starts_with(it));
        if store_options_left > 0 && is_store_option {
            store_options_left -= 1;
            continue;
        }
        store_options_left = 0;
        if !REPLACED.iter().any(|property| option.starts_with(property)) {
            kept.push(written);
        }
    }
    kept.join(" ")
}

/// The properties that larder always replaces.
const REPLACED: [&str; 5] = [
    "-Dhttp.proxyHost=",
    "-Dhttp.proxyPort=",
    "-Dhttps.proxyHost=",
    "-Dhttps.proxyPort=",
    "-Dhttp.nonProxyHosts=",
];

/// Splits the options as the JVM does.
fn split(options: &str) -> Vec<String> {
    pieces(options).into_iter().map(|(_written, option)| option).collect()
}

/// Each option as it is written and as the JVM parses it. The JVM splits at white space outside of single or
/// double quotes and removes the quotes.
fn pieces(options: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let (mut written, mut option) = (String::new(), String::new());
    let mut quote = None;
    for character in options.chars() {
        if quote.is_none() && character.is_ascii_whitespace() {
            found.push((std::mem::take(&mut written), std::mem::take(&mut option)));
            continue;
        }
        written.push(character);
        match quote {
            Some(open) if character == open => quote = None,
            None if character == '"' || character == '\'' => quote = Some(character),
            Some(_) | None => option.push(character),
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
    fn options_are_split_as_the_jvm_does() {
        assert_eq!(split(""), [""; 0]);
        assert_eq!(split(" -Xmx1g\t-Da=b "), ["-Xmx1g", "-Da=b"]);
        assert_eq!(split("'-Da=b c' -Dd=\"e 'f'\" -g"), ["-Da=b c", "-Dd=e 'f'", "-g"]);
        assert_eq!(split("-Da=\"b c"), ["-Da=b c"], "never closed");
    }
    #[test]
    fn replaced_options_are_removed_and_the_others_stay_unchanged() {
        let before = "-Da='b c' -Dhttp.proxyHost=h -Dhttp.proxyPort=1 \"-Djavax.net.ssl.trustStore=/a b\" \
                      -Djavax.net.ssl.trustStorePassword=p -Dhttp.nonProxyHosts=x";
        let after = "-Da='b c' \"-Djavax.net.ssl.trustStore=/a b\" -Djavax.net.ssl.trustStorePassword=p";
        assert_eq!(without_ours(before), after);
    }
}
