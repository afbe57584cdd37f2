//! `upstreams.*.tls`: trusted roots and the client certificate for connections to origins.
//!
//! Owns: roots, the client certificate, and the key that disables verification. Never touches: handshakes.

use std::path::PathBuf;

use crate::config::client_cert::ClientCert;
use crate::config::diagnostics::WarningKind;
use crate::config::keyword::boolean;
use crate::config::reader::{Reader, Section, Spanned};
use crate::config::{UpstreamHost, UpstreamTls};
use crate::route::pattern::host::Index;

pub(super) fn read(one: &mut Section<'_>, hosts: &[UpstreamHost], reader: &mut Reader<'_>) -> UpstreamTls {
    let defaults = UpstreamTls::default();
    let Some(mut section) = one.section(reader, "tls") else { return defaults };
    let extra_roots = extra_roots(&mut section, reader);
    let client_cert = client_cert(&mut section, reader);
    let insecure = section.scalar(reader, "insecure", boolean).filter(|at| at.value);
    let http2 = section.scalar_or(reader, "http2", boolean, defaults.http2);
    if let Some(at) = &insecure {
        refuse_or_warn(at, hosts, reader);
    }
    section.finish(reader);
    UpstreamTls { extra_roots, client_cert, insecure: insecure.is_some(), http2 }
}

/// `insecure` on an upstream is explicit consent for its named hosts; it is refused for every host.
fn refuse_or_warn(at: &Spanned<bool>, hosts: &[UpstreamHost], reader: &mut Reader<'_>) {
    if hosts.iter().any(|host| matches!(host.host.index(), Index::Any)) {
        let what = "would accept any certificate of every host";
        let fix = "name the hosts that it is for in a separate upstream";
        reader.problem(at.place, &at.path, what, fix);
        return;
    }
    let text = "any certificate is accepted for these hosts, as configured here: an attacker on the path \
                can read and change all traffic; `extra_roots` with their root certificate is safe";
    reader.warn(at, WarningKind::Insecure, text);
}

fn extra_roots(section: &mut Section<'_>, reader: &mut Reader<'_>) -> Vec<PathBuf> {
    let Some(node) = section.get("extra_roots") else { return Vec::new() };
    let path = section.key_path("extra_roots");
    let roots = reader.paths(node, &path);
    for at in &roots {
        let Some(contents) = reader.file(at) else { continue };
        let marker = b"-----BEGIN CERTIFICATE-----";
        if !contents.bytes.windows(marker.len()).any(|window| window == marker) {
            let fix = "give a PEM file with at least one `BEGIN CERTIFICATE`";
            reader.problem(at.place, &at.path, "the file contains no certificate", fix);
        }
    }
    roots.into_iter().map(|at| at.value).collect()
}

fn client_cert(section: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<ClientCert> {
    let mut pair = section.section(reader, "client_cert")?;
    let known = reader.problems.len();
    let cert = pair.file_path(reader, "cert");
    let key = pair.file_path(reader, "key");
    pair.finish(reader);
    let (Some(cert), Some(key)) = (cert, key) else {
        if reader.problems.len() == known {
            let fix = "give both: `client_cert: { cert: FILE, key: FILE }`";
            reader.problem(pair.place, &pair.path, "needs a certificate and its key", fix);
        }
        return None;
    };
    let (cert_file, key_file) = (reader.file(&cert), reader.private_file(&key, "the key"));
    let (cert_file, key_file) = (cert_file?, key_file?);
    match ClientCert::parse(&cert_file.bytes, &key_file.bytes) {
        Ok(pair) => Some(pair),
        Err(error) => {
            let at = if error.is_key_error() { key } else { cert };
            reader.problem(at.place, &at.path, format!("the file {error}"), error.fix());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use crate::config::client_cert::tests as client_cert;
    use crate::config::diagnostics::{Report, WarningKind};
    use crate::config::env::Env;
    use crate::config::file_source::{Contents, FileSource};
    use crate::config::{Config, read};

    /// A pair in `larder.pem` and `larder-key.pem`; `open`: all users can read the files.
    struct Pair {
        cert: String,
        key: String,
        open: bool,
    }

    impl FileSource for Pair {
        fn read(&self, path: &Path, _: usize) -> io::Result<Contents> {
            let bytes = match path.to_str() {
                Some("/etc/larder/larder.pem") => self.cert.clone().into_bytes(),
                Some("/etc/larder/larder-key.pem") => self.key.clone().into_bytes(),
                _ => return Err(io::ErrorKind::NotFound.into()),
            };
            Ok(Contents { bytes, open_to_all: self.open })
        }
    }

    fn pair() -> Pair {
        let (cert, key) = client_cert::pair();
        Pair { cert, key, open: false }
    }

    fn with(files: &Pair, tls: &str) -> Result<Config, Report> {
        let text = format!("version: 1\nupstreams: {{ u: {{ hosts: [a.example], tls: {{ {tls} }} }} }}\n");
        read("/etc/larder/proxy.yaml", &text, &Env::default(), files)
    }

    const BOTH: &str = "client_cert: { cert: larder.pem, key: larder-key.pem }";

    #[test]
    fn the_key_of_a_client_certificate_must_not_be_readable_by_others() {
        let config = with(&pair(), BOTH).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(config.upstreams[0].tls.client_cert.as_ref().unwrap().chain().len(), 1);
        let open = Pair { open: true, ..pair() };
        let report = with(&open, BOTH).unwrap_err().to_string();
        assert!(report.contains("tls.client_cert.key: all users of this machine can"), "{report}");
        assert!(report.contains("chmod o="), "{report}");
    }

    #[test]
    fn an_invalid_pair_is_reported_at_the_file_with_the_error() {
        let mismatch = Pair { key: pair().key, ..pair() };
        let report = with(&mismatch, BOTH).unwrap_err();
        assert_eq!(report.problems()[0].path, "upstreams.u.tls.client_cert.key");
        assert_eq!(report.problems()[0].what, "the file contains the key of another certificate");
        let swapped = "client_cert: { cert: larder-key.pem, key: larder.pem }";
        let report = with(&pair(), swapped).unwrap_err();
        assert_eq!(report.problems()[0].path, "upstreams.u.tls.client_cert.cert");
    }

    #[test]
    fn cfg_07_an_insecure_upstream_causes_a_warning_and_names_its_hosts() {
        let config = with(&pair(), "insecure: true").unwrap();
        assert!(config.upstreams[0].tls.insecure);
        let [note] = config.warnings.as_slice() else { panic!("{:?}", config.warnings) };
        assert_eq!(note.kind, WarningKind::Insecure);
        assert_eq!((note.path.as_str(), note.place.line), ("upstreams.u.tls.insecure", 2));
        let config = with(&pair(), "insecure: false").unwrap();
        assert!(config.warnings.is_empty() && !config.upstreams[0].tls.insecure);
        let all = "version: 1\nupstreams: { u: { hosts: [\"*\"], tls: { insecure: true } } }";
        let report = read("p.yaml", all, &Env::default(), &pair()).unwrap_err().to_string();
        assert!(report.contains("would accept any certificate of every host"), "{report}");
    }
}
