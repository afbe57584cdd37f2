//! Where a running larder is, and the token it wants.
//!
//! Owns: the arguments, variables and files that say so, and which of them wins.
//! Never touches: asking it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::cli::ExitStatus;
use crate::cli::admin_client::port_owner::Trusted;
use crate::cli::admin_client::{AdminClient, AdminClientError};
use crate::config::diagnostics::Report;
use crate::config::env::Env;
use crate::config::file_source::{Disk, FileSource};
use crate::config::token::{LONGEST, Token};
use crate::config::{self, Admin, AdminConfig, defaults};
use crate::semantics::target::{Scheme, Target};

/// Which larder is meant.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which larder")]
pub(in crate::cli) struct TargetArgs {
    /// Its admin listener, such as 127.0.0.1:9901; else the variable `LARDER_ADMIN`, else what the
    /// configuration says.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// The configuration it runs with; else ./proxy.yaml, if there is one. A larder of the user whom
    /// this file or its store belongs to is believed, besides one's own and root's.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file with its token; else the variable `LARDER_ADMIN_TOKEN`, else the configuration's.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TargetArgs {
    /// The larder of the configuration at `file`.
    pub(in crate::cli) fn of(file: &Path) -> Self {
        Self { admin: None, config: Some(file.to_owned()), token_file: None }
    }

    /// The larder that is meant.
    pub(in crate::cli) fn find(&self, env: &Env) -> Result<AdminClient, AdminClientError> {
        let named = self.admin.as_deref().or_else(|| variable(env, "LARDER_ADMIN"));
        let Some(named) = named else { return self.configured(env) };
        let authority = authority(named).ok_or_else(|| {
            let said = "an admin listener is named by its address, such as 127.0.0.1:9901";
            AdminClientError::new(ExitStatus::Usage, said)
        })?;
        // A token goes only where the same hand has sent it: the one in ./proxy.yaml belongs to the
        // larder of that file.
        let file = self.config.as_deref();
        let found = file.map(|file| config::operated(file, env));
        let (admin, store, doubt) = found.map_or((None, None, None), |found| {
            (found.admin, found.store, report(found.report.as_ref()))
        });
        let token = self.token(env, admin)?;
        Ok(AdminClient { authority, token, trusted: Trusted::of(file, store.as_deref()), doubt })
    }

    fn configured(&self, env: &Env) -> Result<AdminClient, AdminClientError> {
        let usual = Path::new("proxy.yaml");
        let file = self.config.as_deref().or_else(|| usual.exists().then_some(usual));
        let found = file.map_or_else(
            || AdminConfig { admin: Some(Admin::default()), store: None, report: None },
            |file| config::operated(file, env),
        );
        let doubt = report(found.report.as_ref());
        let shown = file.unwrap_or(usual).display();
        let Some(admin) = found.admin else {
            let said = format!("{shown} says `admin: off`: such a larder cannot be asked");
            return Err(AdminClientError::new(ExitStatus::Unreachable, said));
        };
        if admin.listen.port() == 0 {
            let said = format!(
                "{shown} leaves the port of admin.listen open: name it with --admin; \
                 `larder run` printed it"
            );
            return Err(AdminClientError::new(ExitStatus::Unreachable, said));
        }
        let authority = reached(admin.listen).to_string();
        let trusted = Trusted::of(file, found.store.as_deref());
        Ok(AdminClient { authority, token: self.token(env, Some(admin))?, trusted, doubt })
    }

    fn token(&self, env: &Env, admin: Option<Admin>) -> Result<Option<Token>, AdminClientError> {
        let refused = |error: String| AdminClientError::new(ExitStatus::Failed, error);
        if let Some(file) = &self.token_file {
            let wrong = |what: &str| refused(format!("{}: {what}", file.display()));
            let contents =
                Disk.read(file, LONGEST + 2).map_err(|error| wrong(&error.kind().to_string()))?;
            if contents.open_to_all {
                return Err(wrong("everybody on this machine may read it: `chmod o= FILE`"));
            }
            let token = Token::parse(&contents.bytes);
            return token.map(Some).map_err(|error| wrong(&format!("the file {error}")));
        }
        if let Some(token) = variable(env, "LARDER_ADMIN_TOKEN") {
            let token = Token::parse(token.as_bytes());
            return token.map(Some).map_err(|error| refused(format!("LARDER_ADMIN_TOKEN {error}")));
        }
        Ok(admin.and_then(|admin| admin.token))
    }
}

/// An empty variable is one that was not set.
fn variable<'e>(env: &'e Env, name: &str) -> Option<&'e str> {
    env.get(name).filter(|value| !value.is_empty())
}

fn report(report: Option<&Report>) -> Option<String> {
    report.map(ToString::to_string)
}

/// `127.0.0.1:9901`, `larder:9901`, `[::1]`, with or without `http://`.
fn authority(text: &str) -> Option<String> {
    let text = text.strip_prefix("http://").unwrap_or(text);
    let text = text.strip_suffix('/').unwrap_or(text);
    let target = Target::with_authority(Scheme::Http, text, "/").ok()?;
    let named = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    // An address in brackets has colons of its own; after the last one there is `1]`.
    let port = if named { target.port() } else { defaults::ADMIN.port() };
    Some(format!("{}:{port}", target.host()))
}

/// A listener on all addresses is reached on this host's own.
pub(in crate::cli) fn reached(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn with(admin: Option<&str>, config: Option<&Path>, token_file: Option<&Path>) -> TargetArgs {
        TargetArgs {
            admin: admin.map(str::to_owned),
            config: config.map(Path::to_owned),
            token_file: token_file.map(Path::to_owned),
        }
    }

    fn env(variables: &[(&str, &str)]) -> Env {
        variables.iter().copied().collect()
    }

    /// A directory with a configuration that names a token.
    fn house(yaml: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        fs::write(&token, "of-the-configuration\n").unwrap();
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
        let config = directory.path().join("some.yaml");
        fs::write(&config, yaml).unwrap();
        (directory, config)
    }

    #[test]
    fn an_admin_listener_is_named_with_or_without_scheme_and_port() {
        let table = [
            ("127.0.0.1:9901", "127.0.0.1:9901"),
            ("http://127.0.0.1:7/", "127.0.0.1:7"),
            ("larder", "larder:9901"),
            ("larder:80", "larder:80"),
            ("[::1]", "[::1]:9901"),
            ("[::1]:7", "[::1]:7"),
        ];
        for (text, expected) in table {
            assert_eq!(authority(text).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "https://a:1", "a b", "a:0", "a:99999", "user@a:1", "a:1/path", "::1"] {
            assert_eq!(authority(text), None, "{text}");
        }
    }

    #[test]
    fn the_nearer_word_wins() {
        let (_house, config) =
            house("admin: { listen: 0.0.0.0:7, allow: [::1], token_file: token }");
        let variables =
            env(&[("LARDER_ADMIN", "variable:1"), ("LARDER_ADMIN_TOKEN", "of-the-variable-x")]);
        let find = |place: TargetArgs, env: &Env| {
            let found = place.find(env).unwrap_or_else(|failure| panic!("{}", failure.said));
            (found.authority, found.token.map(|token| token.reveal().to_owned()))
        };
        let token = |text: &str| Some(text.to_owned());
        let argument = with(Some("argument:1"), None, None);
        let expected = ("argument:1".to_owned(), token("of-the-variable-x"));
        assert_eq!(find(argument, &variables), expected);
        let configured = with(None, Some(&config), None);
        let expected = ("variable:1".to_owned(), token("of-the-variable-x"));
        assert_eq!(find(configured, &variables), expected);
        let configured = with(None, Some(&config), None);
        let expected = ("127.0.0.1:7".to_owned(), token("of-the-configuration"));
        assert_eq!(find(configured, &env(&[("LARDER_ADMIN", "")])), expected);
    }

    #[test]
    fn a_configurations_token_is_not_sent_to_somebody_else() {
        let found = with(Some("argument:1"), None, None).find(&env(&[])).ok().unwrap();
        assert!(found.token.is_none());
        let (_house, config) = house("admin: { token_file: token }");
        let found = with(Some("argument:1"), Some(&config), None).find(&env(&[])).ok().unwrap();
        assert!(found.token.is_some(), "both were named");
    }

    #[test]
    fn a_token_file_that_everybody_reads_is_refused_and_none_is_ever_shown() {
        let (house, _) = house("");
        let token = house.path().join("token");
        for mode in [0o644, 0o600] {
            fs::set_permissions(&token, fs::Permissions::from_mode(mode)).unwrap();
            let found = with(Some("a:1"), None, Some(&token)).find(&env(&[]));
            assert_eq!(found.is_ok(), mode == 0o600);
        }
        fs::write(&token, "s3cret").unwrap();
        for place in [with(Some("a:1"), None, Some(&token)), with(Some("a:1"), None, None)] {
            let failure = place.find(&env(&[("LARDER_ADMIN_TOKEN", "s3cret")])).err().unwrap();
            assert!(!failure.said.contains("s3cret"), "{}", failure.said);
            assert_eq!(failure.exit, ExitStatus::Failed);
        }
    }

    #[test]
    fn a_larder_that_cannot_be_asked_is_said_to_be_so() {
        for (yaml, words) in
            [("admin: off", "`admin: off`"), ("admin: { listen: 127.0.0.1:0 }", "port")]
        {
            let (_house, config) = house(yaml);
            let failure = with(None, Some(&config), None).find(&env(&[])).err().unwrap();
            assert_eq!(failure.exit, ExitStatus::Unreachable);
            assert!(failure.said.contains(words), "{}", failure.said);
        }
    }

    #[test]
    fn a_broken_configuration_still_leads_somewhere() {
        let (_house, config) = house("version: 1\nadmin: { listen: 127.0.0.1:7 }\nroutes: {\n");
        let found = with(None, Some(&config), None).find(&env(&[])).ok().unwrap();
        assert_eq!(found.authority, "127.0.0.1:9901");
        assert!(found.doubt.unwrap().contains("this is not YAML"));
    }
}
