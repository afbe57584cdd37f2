//! `upstreams.*.credential`: the credential that larder sends to an origin instead of its clients.
//!
//! Owns: the source of the secret, the permissions of its file, valid field values. Never touches: requests;
//! the secret is never printed.

use http::{HeaderName, HeaderValue};

use crate::config::UpstreamHost;
use crate::config::credential::Credential;
use crate::config::diagnostics::{ValueError, WarningKind};
use crate::config::reader::{Reader, Section, Spanned};
use crate::config::resolve::upstreams::mount;
use crate::config::resolve::{header_names, secret};
use crate::route::pattern::host::Index;

/// The longest secret: a longer one would not fit into a request head.
const LONGEST: usize = 8192;

pub(super) fn read(
    one: &mut Section<'_>,
    hosts: &[UpstreamHost],
    reader: &mut Reader<'_>,
) -> Option<Credential> {
    let place = one.key_place("credential");
    let mut section = one.section(reader, "credential")?;
    let known = reader.problems.len();
    let header = section.scalar(reader, "header", header_names::credential_header);
    let prefix = section.scalar(reader, "prefix", prefix);
    let secret = secret(&mut section, reader);
    let allow_origins = mount::web_pages(&mut section, reader);
    section.finish(reader);
    if header.is_none() && reader.problems.len() == known {
        let fix = "add `header: Authorization`, or the field that the API requires";
        section.missing(reader, "header", fix);
    }
    refuse_missing_space(header.as_ref(), prefix.as_ref(), reader);
    let at = Spanned { value: (), place, path: section.path.clone() };
    refuse_or_warn(&at, hosts, reader);
    let (header, secret) = (header?.value, secret?);
    let prefix = prefix.map(|at| at.value).unwrap_or_default();
    match field_value(&prefix, &secret.value) {
        Ok(value) => Some(Credential::new(header, value, allow_origins)),
        Err(what) => {
            let fix = "the secret is one line of ASCII without a space at either end";
            reader.problem(secret.place, &secret.path, what, fix);
            None
        }
    }
}

/// The secret from exactly one of the two sources.
fn secret(section: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<Spanned<Vec<u8>>> {
    let known = reader.problems.len();
    let env = section.scalar(reader, "from_env", secret::variable);
    let file = section.file_path(reader, "file");
    match (section.has("from_env"), section.has("file")) {
        (true, false) => env.and_then(|name| from_env(&name, reader)),
        (false, true) => file.and_then(|path| from_file(&path, reader)),
        (both, _) => {
            let what = if both { "has two secrets" } else { "has no secret" };
            let fix = "write `from_env: API_KEY` or `file: api-key`, one of the two";
            if reader.problems.len() == known {
                reader.problem(section.place, &section.path, what, fix);
            }
            None
        }
    }
}

fn from_env(name: &Spanned<String>, reader: &mut Reader<'_>) -> Option<Spanned<Vec<u8>>> {
    let secret = reader.variable(name)?.as_bytes();
    let what = format!("the environment variable {} is empty", name.value);
    one_line(secret, name, [&what, "set it to the secret before larder starts"], reader)
}

fn from_file(at: &Spanned<std::path::PathBuf>, reader: &mut Reader<'_>) -> Option<Spanned<Vec<u8>>> {
    let contents = reader.private_file(at, "the secret")?;
    one_line(&contents.bytes, at, ["the file is empty", "put the secret into it, as one line"], reader)
}

/// A secret from its source `at`, without the line end that files and commands leave after it. If it is empty,
/// the problem and its fix are reported.
fn one_line<T>(
    bytes: &[u8],
    at: &Spanned<T>,
    [empty, fix]: [&str; 2],
    reader: &mut Reader<'_>,
) -> Option<Spanned<Vec<u8>>> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let secret = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    if secret.is_empty() {
        reader.problem(at.place, &at.path, empty, fix);
        return None;
    }
    Some(Spanned { value: secret.to_vec(), place: at.place, path: at.path.clone() })
}

/// The field value. Error texts never contain the secret.
fn field_value(prefix: &str, secret: &[u8]) -> Result<HeaderValue, &'static str> {
    let visible = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    if secret.len() > LONGEST {
        return Err("the secret is longer than 8192 characters");
    }
    if secret.starts_with(b" ") || secret.ends_with(b" ") || !secret.iter().all(visible) {
        return Err("the secret has characters that no field can carry");
    }
    HeaderValue::from_bytes(&[prefix.as_bytes(), secret].concat())
        .map_err(|_| "the secret has characters that no field can carry")
}

fn prefix(text: &str) -> Result<String, ValueError> {
    let visible = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    if text.bytes().all(visible) && !text.starts_with(' ') && text.len() <= 64 {
        return Ok(text.to_owned());
    }
    Err(ValueError::is_not("the text before the secret, such as `\"Bearer \"`"))
}

/// Refuses a prefix without a trailing space in `Authorization`: a scheme and its credentials are separated
/// by a space (RFC 9110 §11.4), which YAML drops outside quotes.
fn refuse_missing_space(
    header: Option<&Spanned<HeaderName>>,
    prefix: Option<&Spanned<String>>,
    reader: &mut Reader<'_>,
) {
    let (Some(header), Some(prefix)) = (header, prefix) else { return };
    let separated = prefix.value.is_empty() || prefix.value.ends_with(' ');
    if header.value == http::header::AUTHORIZATION && !separated {
        let what = "is not separated from the secret: a space is missing";
        let fix = "write it with the space, in quotes: `\"Bearer \"`";
        reader.problem(prefix.place, &prefix.path, what, fix);
    }
}

fn refuse_or_warn(at: &Spanned<()>, hosts: &[UpstreamHost], reader: &mut Reader<'_>) {
    if hosts.iter().any(|host| matches!(host.host.index(), Index::Any)) {
        let what = "would be sent to every host";
        let fix = "name the hosts that it is for in a separate upstream";
        reader.problem(at.place, &at.path, what, fix);
        return;
    }
    let unencrypted: Vec<_> = hosts.iter().filter(|host| host.scheme.is_none()).collect();
    let Some(first) = unencrypted.first() else { return };
    let text = format!(
        "requests that clients send as http:// carry this credential without encryption to {}: \
         write `https://{}` in `hosts` to forward them as https",
        unencrypted.iter().map(|host| host.host.to_string()).collect::<Vec<_>>().join(", "),
        first.host
    );
    reader.warn(at, WarningKind::CleartextCredential, text);
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use crate::config::diagnostics::{Report, WarningKind};
    use crate::config::env::Env;
    use crate::config::file_source::{Contents, FileSource};
    use crate::config::{Config, read, redacted};

    /// A file source with the secret in `/etc/larder/key`; the variable `KEY` has the same secret.
    struct Secret {
        bytes: Vec<u8>,
        open: bool,
    }

    impl FileSource for Secret {
        fn read(&self, path: &Path, _: usize) -> io::Result<Contents> {
            if path != Path::new("/etc/larder/key") {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(Contents { bytes: self.bytes.clone(), open_to_all: self.open })
        }
    }

    fn with(secret: &[u8], open: bool, host: &str, keys: &str) -> Result<Config, Report> {
        let env: Env = [("KEY", String::from_utf8_lossy(secret).into_owned())].into_iter().collect();
        let text =
            format!("version: 1\nupstreams: {{ u: {{ hosts: [{host}], credential: {{ {keys} }} }} }}\n");
        let files = Secret { bytes: secret.to_vec(), open };
        read("/etc/larder/proxy.yaml", &text, &env, &files)
    }

    const HOST: &str = "\"https://a.example\"";
    const FILE: &str = "header: Authorization, prefix: \"Bot \", file: key";
    const VARIABLE: &str = "header: Authorization, prefix: \"Bot \", from_env: KEY";

    #[test]
    fn a_secret_comes_from_a_variable_or_a_file_without_its_line_end() {
        for (secret, keys) in
            [("hunter2\n", FILE), ("hunter2\r\n", FILE), ("hunter2", FILE), ("hunter2\n", VARIABLE)]
        {
            let config = with(secret.as_bytes(), false, HOST, keys).unwrap_or_else(|r| panic!("{r}"));
            let credential = config.upstreams[0].credential.as_ref().unwrap();
            assert_eq!(credential.header, http::header::AUTHORIZATION);
            assert_eq!(credential.reveal().as_bytes(), b"Bot hunter2");
            assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        let config = with(b"hunter2", false, HOST, FILE).unwrap();
        let shown = redacted::to_json(&config).to_string();
        assert!(shown.contains("authorization, sent by larder"), "{shown}");
        assert!(!shown.contains("hunter2") && !format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn cfg_07_a_secret_that_others_can_read_is_refused() {
        let report = with(b"hunter2", true, HOST, FILE).unwrap_err().to_string();
        assert!(report.contains("credential.file: all users of this machine can read"), "{report}");
        assert!(report.contains("chmod o=") && !report.contains("hunter2"), "{report}");
    }

    #[test]
    fn an_invalid_field_value_is_refused_without_printing_the_secret() {
        let long = "hunter2".repeat(2000);
        for (secret, expected) in [
            ("", "is empty"),
            ("\n", "is empty"),
            ("hunter2\nhunter2\n", "characters that no field can carry"),
            ("hunter2 ", "characters that no field can carry"),
            ("hünter2", "characters that no field can carry"),
            (long.as_str(), "longer than 8192"),
        ] {
            for keys in [FILE, VARIABLE] {
                let report = with(secret.as_bytes(), false, HOST, keys).expect_err(secret);
                assert_eq!(report.problems().len(), 1, "{report}");
                let report = report.to_string();
                assert!(report.contains(expected), "{report}");
                assert!(!report.contains("hunter2") && !report.contains("hünter2"), "{report}");
            }
        }
    }

    #[test]
    fn framing_and_hop_by_hop_fields_carry_no_secret() {
        let names = [
            "Host",
            "connection",
            "Transfer-Encoding",
            "content-length",
            "TE",
            "Upgrade",
            "Proxy-Authorization",
        ];
        for name in names {
            let keys = format!("header: {name}, from_env: KEY");
            let report = with(b"x", false, HOST, &keys).expect_err(name).to_string();
            assert!(report.contains("u.credential.header"), "{report}");
        }
    }

    #[test]
    fn a_credential_needs_named_hosts_and_a_warning_without_https() {
        let report = with(b"x", false, "\"*\"", FILE).expect_err("every host").to_string();
        assert!(report.contains("would be sent to every host"), "{report}");
        let config = with(b"x", false, "\"https://a.example\", b.example", FILE).unwrap();
        let [note] = config.warnings.as_slice() else { panic!("{:?}", config.warnings) };
        assert_eq!(
            (note.kind, note.path.as_str()),
            (WarningKind::CleartextCredential, "upstreams.u.credential")
        );
        assert!(note.text.contains("write `https://b.example` in `hosts`"), "{note}");
    }

    #[test]
    fn a_scheme_and_its_secret_are_separated_by_a_space() {
        let keys = "header: Authorization, prefix: Bearer, from_env: KEY";
        let report = with(b"x", false, HOST, keys).expect_err("no space").to_string();
        assert!(report.contains("`\"Bearer \"`"), "{report}");
        let keys = "header: X-Key, prefix: v1-, from_env: KEY";
        let config = with(b"x", false, HOST, keys).unwrap();
        assert_eq!(config.upstreams[0].credential.as_ref().unwrap().reveal(), "v1-x");
    }
}
