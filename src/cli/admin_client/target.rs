//! The address of a running larder's admin listener, and its token.
//!
//! Owns: the arguments, variables and files that specify them, and their precedence.
//! Never touches: requests to the listener.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::cli::ExitStatus;
use crate::cli::admin_client::port_owner::TrustedUsers;
use crate::cli::admin_client::{AdminClient, AdminClientError};
use crate::cli::exec::{identity, run_dir};
use crate::config::env::Env;
use crate::config::file_source::{Disk, FileSource};
use crate::config::token::{LONGEST, Token};
use crate::config::{self, Admin, AdminConfig, defaults};
use crate::semantics::target::{Scheme, Target};

/// The arguments that select a running larder.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Which larder")]
pub(in crate::cli) struct TargetArgs {
    /// The address of its admin listener, such as 127.0.0.1:9901; else the variable `LARDER_ADMIN`, else
    /// `admin.listen` of the configuration.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// The configuration it runs with; else proxy.yaml here or in a directory above. A larder that runs as the owner
    /// of this file or of its store is trusted, as is one that runs as you or as root.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file with its admin token; else the variable `LARDER_ADMIN_TOKEN`, else the token of the
    /// configuration.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl TargetArgs {
    /// Selects the larder of the configuration at `file`.
    pub(in crate::cli) fn for_config(file: &Path) -> Self {
        Self { admin: None, config: Some(file.to_owned()), token_file: None }
    }

    /// The client for the selected larder.
    pub(in crate::cli) fn find(&self, env: &Env) -> Result<AdminClient, AdminClientError> {
        self.find_with(None, env)
    }

    /// The client for the private larder of `larder exec`: that of the enclosing command, or the one that runs
    /// with this configuration. `None`: none runs, or an admin listener is specified.
    pub(in crate::cli) fn private_larder(&self, found: Option<&Path>, env: &Env) -> Option<AdminClient> {
        if self.admin.is_some() || variable(env, "LARDER_ADMIN").is_some() {
            return None;
        }
        let enclosing = variable(env, run_dir::VARIABLE).filter(|_| self.config.is_none());
        let enclosing = enclosing.map(|directory| Path::new(directory).join(run_dir::ADMIN_SOCKET));
        let enclosing = enclosing.filter(|socket| UnixStream::connect(socket).is_ok());
        let file = self.config.as_deref().or(found);
        let socket = enclosing.or_else(|| identity::running(file?, env))?;
        Some(AdminClient {
            authority: SOCKET_AUTHORITY.to_owned(),
            token: None,
            socket: Some(socket),
            trusted: TrustedUsers::new(None, None),
            config_problem: None,
        })
    }

    /// [`TargetArgs::find`], with the configuration that a search found if the larder is not specified
    /// otherwise.
    pub(in crate::cli) fn find_with(
        &self,
        found: Option<&Path>,
        env: &Env,
    ) -> Result<AdminClient, AdminClientError> {
        // A broken file may belong to a larder that runs with its earlier contents; a missing one to none.
        if let Some(file) = self.config.as_deref().filter(|file| !file.exists()) {
            let message = format!("{}: there is no such file", file.display());
            return Err(AdminClientError::new(ExitStatus::Invalid, message));
        }
        let address = self.admin.as_deref().or_else(|| variable(env, "LARDER_ADMIN"));
        let Some(address) = address else { return self.configured(found, env) };
        let authority = authority(address).ok_or_else(|| {
            let message = "an admin listener is an address, such as 127.0.0.1:9901";
            AdminClientError::new(ExitStatus::Usage, message)
        })?;
        // With an explicit address, only the token of an explicit configuration is sent: the token in
        // a file that was found belongs to the larder of that file.
        let file = self.config.as_deref();
        let found = file.map(|file| config::load_admin(file, env)).unwrap_or_default();
        self.client(authority, file, found, env)
    }

    /// Whether the larder is specified without a search for its configuration.
    pub(in crate::cli) fn is_specified(&self, env: &Env) -> bool {
        self.admin.is_some() || self.config.is_some() || variable(env, "LARDER_ADMIN").is_some()
    }

    fn configured(&self, found: Option<&Path>, env: &Env) -> Result<AdminClient, AdminClientError> {
        let usual = Path::new("proxy.yaml");
        let file = self.config.as_deref().or(found);
        let found = file.map_or_else(
            || AdminConfig { admin: Some(Admin::default()), ..AdminConfig::default() },
            |file| config::load_admin(file, env),
        );
        let shown = file.unwrap_or(usual).display();
        let Some(admin) = &found.admin else {
            let message = format!("{shown} has `admin: off`: its larder has no admin listener");
            return Err(AdminClientError::new(ExitStatus::Unreachable, message));
        };
        if admin.listen.port() == 0 {
            let message = format!(
                "admin.listen in {shown} has no fixed port: specify the address with --admin; \
                 `larder run` printed it"
            );
            return Err(AdminClientError::new(ExitStatus::Unreachable, message));
        }
        self.client(connect_address(admin.listen).to_string(), file, found, env)
    }

    /// The client for the larder at `authority`, which runs with the configuration `found` in `file`.
    fn client(
        &self,
        authority: String,
        file: Option<&Path>,
        found: AdminConfig,
        env: &Env,
    ) -> Result<AdminClient, AdminClientError> {
        let token = self.token(env, found.admin)?;
        let trusted = TrustedUsers::new(file, found.store.as_deref());
        let config_problem = found.report.map(|report| report.to_string());
        Ok(AdminClient { authority, token, socket: None, trusted, config_problem })
    }

    fn token(&self, env: &Env, admin: Option<Admin>) -> Result<Option<Token>, AdminClientError> {
        let failed = |error: String| AdminClientError::new(ExitStatus::Failed, error);
        if let Some(file) = &self.token_file {
            let file_error = |problem: &str| failed(format!("{}: {problem}", file.display()));
            let contents =
                Disk.read(file, LONGEST + 2).map_err(|error| file_error(&error.kind().to_string()))?;
            if contents.open_to_all {
                return Err(file_error("every user of this machine can read it: `chmod o= FILE`"));
            }
            let token = Token::parse(&contents.bytes);
            return token.map(Some).map_err(|error| file_error(&format!("the file {error}")));
        }
        if let Some(token) = variable(env, "LARDER_ADMIN_TOKEN") {
            let token = Token::parse(token.as_bytes());
            return token.map(Some).map_err(|error| failed(format!("LARDER_ADMIN_TOKEN {error}")));
        }
        Ok(admin.and_then(|admin| admin.token))
    }
}

/// The host that requests over a Unix socket name. It is not looked up.
const SOCKET_AUTHORITY: &str = "127.0.0.1:80";

/// A variable of the environment; an empty one counts as unset.
fn variable<'e>(env: &'e Env, name: &str) -> Option<&'e str> {
    env.get(name).filter(|value| !value.is_empty())
}

/// Parses `127.0.0.1:9901`, `larder:9901`, `[::1]`, with or without `http://`, into `HOST:PORT`.
fn authority(text: &str) -> Option<String> {
    let text = text.strip_prefix("http://").unwrap_or(text);
    let text = text.strip_suffix('/').unwrap_or(text);
    let target = Target::with_authority(Scheme::Http, text, "/").ok()?;
    let has_port = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    // An address in brackets contains colons; the text after its last one, such as `1]`, is no port.
    let port = if has_port { target.port() } else { defaults::ADMIN.port() };
    Some(format!("{}:{port}", target.host()))
}

/// The address at which this host reaches a listener: loopback, if it listens on all addresses.
pub(in crate::cli) fn connect_address(listen: SocketAddr) -> SocketAddr {
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

    fn args_with(admin: Option<&str>, config: Option<&Path>, token_file: Option<&Path>) -> TargetArgs {
        TargetArgs {
            admin: admin.map(str::to_owned),
            config: config.map(Path::to_owned),
            token_file: token_file.map(Path::to_owned),
        }
    }

    fn env(variables: &[(&str, &str)]) -> Env {
        variables.iter().copied().collect()
    }

    /// A directory with a configuration and a token file.
    fn directory_with(yaml: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let token = directory.path().join("token");
        fs::write(&token, "of-the-configuration\n").unwrap();
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
        let config = directory.path().join("some.yaml");
        fs::write(&config, yaml).unwrap();
        (directory, config)
    }

    #[test]
    fn an_admin_listener_is_accepted_with_or_without_scheme_and_port() {
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
    fn arguments_take_precedence_over_variables_and_the_configuration() {
        let (_directory, config) =
            directory_with("admin: { listen: 0.0.0.0:7, allow: [::1], token_file: token }");
        let variables = env(&[("LARDER_ADMIN", "variable:1"), ("LARDER_ADMIN_TOKEN", "of-the-variable-x")]);
        let find = |args: TargetArgs, env: &Env| {
            let found = args.find(env).unwrap_or_else(|error| panic!("{}", error.message));
            (found.authority, found.token.map(|token| token.reveal().to_owned()))
        };
        let token = |text: &str| Some(text.to_owned());
        let argument = args_with(Some("argument:1"), None, None);
        let expected = ("argument:1".to_owned(), token("of-the-variable-x"));
        assert_eq!(find(argument, &variables), expected);
        let configured = args_with(None, Some(&config), None);
        let expected = ("variable:1".to_owned(), token("of-the-variable-x"));
        assert_eq!(find(configured, &variables), expected);
        let configured = args_with(None, Some(&config), None);
        let expected = ("127.0.0.1:7".to_owned(), token("of-the-configuration"));
        assert_eq!(find(configured, &env(&[("LARDER_ADMIN", "")])), expected);
    }

    #[test]
    fn a_token_of_an_unnamed_configuration_is_not_sent_elsewhere() {
        let found = args_with(Some("argument:1"), None, None).find(&env(&[])).ok().unwrap();
        assert!(found.token.is_none());
        let (_directory, config) = directory_with("admin: { token_file: token }");
        let found = args_with(Some("argument:1"), Some(&config), None).find(&env(&[])).ok().unwrap();
        assert!(found.token.is_some(), "both were specified");
    }

    #[test]
    fn a_world_readable_token_file_is_rejected_and_no_token_is_printed() {
        let (directory, _) = directory_with("");
        let token = directory.path().join("token");
        for mode in [0o644, 0o600] {
            fs::set_permissions(&token, fs::Permissions::from_mode(mode)).unwrap();
            let found = args_with(Some("a:1"), None, Some(&token)).find(&env(&[]));
            assert_eq!(found.is_ok(), mode == 0o600);
        }
        fs::write(&token, "s3cret").unwrap();
        for args in [args_with(Some("a:1"), None, Some(&token)), args_with(Some("a:1"), None, None)] {
            let error = args.find(&env(&[("LARDER_ADMIN_TOKEN", "s3cret")])).err().unwrap();
            assert!(!error.message.contains("s3cret"), "{}", error.message);
            assert_eq!(error.exit, ExitStatus::Failed);
        }
    }

    #[test]
    fn a_configuration_without_an_admin_address_is_an_error() {
        for (yaml, part) in [("admin: off", "`admin: off`"), ("admin: { listen: 127.0.0.1:0 }", "port")] {
            let (_directory, config) = directory_with(yaml);
            let error = args_with(None, Some(&config), None).find(&env(&[])).err().unwrap();
            assert_eq!(error.exit, ExitStatus::Unreachable);
            assert!(error.message.contains(part), "{}", error.message);
        }
    }

    #[test]
    fn a_broken_configuration_leads_to_the_default_address_and_a_report() {
        let (_directory, config) = directory_with("version: 1\nadmin: { listen: 127.0.0.1:7 }\nroutes: {\n");
        let found = args_with(None, Some(&config), None).find(&env(&[])).ok().unwrap();
        assert_eq!(found.authority, "127.0.0.1:9901");
        assert!(found.config_problem.unwrap().contains("this is not YAML"));
    }
}
