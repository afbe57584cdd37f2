//! The configuration file (`proxy.yaml`) and the values that it resolves to.
//!
//! Owns: reading the file as a tree with source locations, resolving it to values that are always valid,
//! and reporting all problems at once, each with location, reason and fix.
//! Never touches: sockets, the environment (passed in), running components.

pub mod bypass;
pub mod client_cert;
pub mod credential;
pub mod defaults;
pub(crate) mod describe;
pub mod diagnostics;
pub mod dialects;
pub mod duration;
pub mod env;
pub mod file;
pub mod file_source;
mod keyword;
pub mod name_constraint;
pub mod number;
pub mod parent_proxy;
pub mod rate;
mod reader;
pub mod redacted;
mod resolve;
pub mod size;
pub mod token;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;
use serde::Serialize;

use crate::config::client_cert::ClientCert;
use crate::config::credential::Credential;
use crate::config::diagnostics::{Problem, Report};
use crate::config::env::Env;
use crate::config::file_source::{Disk, FileSource, NoFiles};
pub(crate) use crate::config::keyword::nearest;
use crate::config::name_constraint::NameConstraint;
use crate::config::parent_proxy::{ParentProxies, UpstreamProxy};
use crate::config::reader::Reader;
use crate::config::token::Token;
use crate::key::KeyBuilder;
use crate::policy::timeouts::Timeouts;
use crate::policy::upstream::UpstreamPolicy;
use crate::policy::{CooldownPolicy, Mode};
use crate::route::pattern::HostPattern;
use crate::route::table::Table;
use crate::semantics::redaction::{Redactor, SecretPath};
use crate::semantics::target::Scheme;

/// Reads and resolves the file at `path`. Relative paths in the file start at its directory.
pub fn load(path: &Path, env: &Env) -> Result<Config, Report> {
    read(&path.to_string_lossy(), &text_of(path)?, env, &Disk)
}

/// Reads only the parts of the file at `path` that administrative commands need: the admin listener and
/// the store. Errors in the rest of the file are ignored, so that a command can reach a running larder, for
/// example to reload, while its file is invalid.
pub fn load_admin(path: &Path, env: &Env) -> AdminConfig {
    let name = path.to_string_lossy();
    let read = text_of(path).and_then(|text| {
        let tree = file::parse(&text).map_err(|problem| Report::new(&name, &text, vec![problem]))?;
        Ok((text, tree))
    });
    let (text, tree) = match read {
        Ok(read) => read,
        Err(report) => {
            return AdminConfig { admin: Some(Admin::default()), store: None, report: Some(report) };
        }
    };
    let mut reader = Reader::new(&name, env, &Disk);
    let admin = resolve::admin(&tree, &mut reader);
    let store = Some(resolve::store_path(&tree, &mut reader));
    let problems = reader.problems;
    let report = (!problems.is_empty()).then(|| Report::new(&name, &text, problems));
    AdminConfig { admin, store, report }
}

/// The `admin` section of a file and the directory of its store.
#[derive(Debug, Default)]
pub struct AdminConfig {
    /// The readable part of the section; `None`: switched off.
    pub admin: Option<Admin>,
    /// The directory of the store, if the file could be read.
    pub store: Option<PathBuf>,
    /// The problems in these parts.
    pub report: Option<Report>,
}

fn text_of(path: &Path) -> Result<String, Report> {
    let name = path.to_string_lossy();
    let failed = |what: String, fix: &str| Report::new(&name, "", vec![Problem::of_file(what, fix)]);
    let contents = Disk.read(path, file::LONGEST).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            let what = "the file cannot be read: there is no such file".to_owned();
            return failed(
                what,
                "`larder init github` writes one (discord, coinmarketcap …: `larder presets`)",
            );
        }
        let what = format!("the file cannot be read: {}", error.kind());
        failed(what, "name a file that this user may read; it is at most 1 MiB long")
    })?;
    String::from_utf8(contents.bytes)
        .map_err(|_| failed("the file is not UTF-8 text".to_owned(), "save it as UTF-8"))
}

/// Resolves `text` as the file `name`. Reads no other file: files that the text names count as missing.
pub fn parse(name: &str, text: &str, env: &Env) -> Result<Config, Report> {
    read(name, text, env, &NoFiles)
}

/// Resolves `text` as the file `name`. The files that it names are read from `files`.
pub fn read(name: &str, text: &str, env: &Env, files: &dyn FileSource) -> Result<Config, Report> {
    let report = |problems| Report::new(name, text, problems);
    let tree = file::parse(text).map_err(|problem| report(vec![problem]))?;
    let mut reader = Reader::new(name, env, files);
    let config = resolve::resolve(&tree, &mut reader);
    config.ok_or_else(|| report(reader.problems))
}

/// The whole configuration, resolved. Built only by `resolve`, so it is always valid.
#[derive(Debug, Clone)]
pub struct Config {
    /// The addresses of the proxy listeners.
    pub listen: Vec<SocketAddr>,
    /// Which clients may use larder.
    pub access: Access,
    /// The allowed destinations of requests.
    pub destinations: Destinations,
    /// Limits on requests, connections and bodies.
    pub limits: Limits,
    /// The log format and level.
    pub log: Log,
    /// The admin listener; `None` when switched off.
    pub admin: Option<Admin>,
    /// Which TLS connections are intercepted, and the certificate authority for them.
    pub tls: Interception,
    /// Host names with fixed addresses, resolved without DNS (like `curl --resolve`); lower-case.
    pub resolve: Vec<ResolveRule>,
    /// The parent proxies of larder's calls.
    pub proxies: ParentProxies,
    /// Certificate files and directories that the caller's environment names, whose roots are trusted for
    /// calls to origins, too.
    pub caller_roots: Vec<PathBuf>,
    /// The response store.
    pub store: Store,
    /// The secret for hashing credentials in cache keys; `None`: this installation's own.
    pub scope_secret: Option<ScopeSecret>,
    /// Request fields that count as credentials besides the built-in ones.
    pub credential_headers: Vec<HeaderName>,
    /// Query parameters with secret values: the built-in list and that of the file, lower-case.
    pub secret_query: Vec<String>,
    /// Path patterns whose captures are secret.
    pub secret_path: Vec<SecretPath>,
    /// `defaults.mode`: the mode at start.
    pub mode: Mode,
    /// The cooldown of a failed origin for calls without a route.
    pub cooldown: CooldownPolicy,
    /// The configured upstreams.
    pub upstreams: Vec<Arc<Upstream>>,
    /// The routes with their policies.
    pub routes: Table,
    /// Whether the clients are the processes of one command. Not a key of `proxy.yaml`: `larder exec` sets it
    /// for a larder of its own.
    pub serves_command: bool,
    /// Warnings: no errors, but the operator should know them. Printed by `check`.
    pub warnings: Vec<diagnostics::Warning>,
}

impl Config {
    /// The warnings that are logged at the start and after a reload: those that ask for a change.
    pub fn warnings_to_log(&self) -> impl Iterator<Item = &diagnostics::Warning> {
        self.warnings.iter().filter(|warning| !warning.kind.is_documented_use())
    }

    /// The builder of cache keys with this secret. The fields in which larder sends its own credentials count
    /// as credentials, too.
    pub fn key_builder(&self, secret: [u8; 32]) -> KeyBuilder {
        let fields = self.upstreams.iter().filter_map(|upstream| upstream.credential.as_ref());
        let fields = fields.map(|credential| credential.header.clone());
        let headers: Vec<HeaderName> = self.credential_headers.iter().cloned().chain(fields).collect();
        KeyBuilder::new(secret, &headers, self.redactor())
    }

    /// The redactor that removes secrets from URLs.
    pub fn redactor(&self) -> Redactor {
        Redactor::new(&self.secret_query, &self.secret_path)
    }

    /// Whether any TLS connection can be intercepted: a route or `tls.intercept` names a host.
    pub fn intercepts(&self) -> bool {
        self.interception_patterns().next().is_some()
    }

    /// Whether TLS to `host:port` is intercepted.
    pub fn intercepts_host(&self, host: &str, port: u16) -> bool {
        let passthrough = self.tls.passthrough.iter().any(|pattern| pattern.matches(host, port));
        !passthrough && self.interception_patterns().any(|pattern| pattern.matches(host, port))
    }

    /// The hosts named for interception by routes and by `tls.intercept`, before `tls.passthrough` is
    /// applied. A route for every host names none.
    pub fn interception_patterns(&self) -> impl Iterator<Item = &HostPattern> {
        let routes = self.routes.routes().iter().map(|route| &route.pattern.host);
        routes.filter(|host| !host.is_any()).chain(&self.tls.intercept)
    }
}

/// `access`: which clients may use larder.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Allowed client networks; empty: only loopback clients (then every listener is loopback).
    pub clients: Vec<IpNet>,
    /// `user:password` pairs from `users_file`; `None`: `Proxy-Authorization` is not required.
    pub users: Option<Users>,
    /// User ids of this host: only connections of their processes are served; `None`: all. Not a key of
    /// `proxy.yaml`: a larder embedded in `larder exec` serves only the user that started it.
    pub local_users: Option<Arc<[u32]>>,
}

/// The users of `users_file`. `Debug` prints only their number.
#[derive(Clone)]
pub struct Users(pub Arc<[(String, String)]>);

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Users({})", self.0.len())
    }
}

/// `destinations`: the allowed destinations of requests, checked against the resolved address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Destinations {
    /// Allowed in addition to the default.
    pub allow: Vec<DestinationRule>,
    /// Denied; takes precedence over `allow`.
    pub deny: Vec<DestinationRule>,
    /// Allowed ports; `None`: all for loopback listeners, 80 and 443 for others.
    pub ports: Option<Ports>,
}

/// One member of `destinations.allow` or `.deny`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DestinationRule {
    /// A network.
    Net(IpNet),
    /// One address and port (`127.0.0.1:9001`).
    Socket(IpAddr, u16),
    /// Host names.
    Host(HostPattern),
}

/// `destinations.ports`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// Every port.
    All,
    /// Only these.
    Only(Vec<u16>),
}

/// `limits`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The largest request head, in bytes.
    pub head: usize,
    /// The most fields in a request head.
    pub headers: usize,
    /// The time from the first byte of a head to its last.
    pub head_timeout: Duration,
    /// The idle time between two requests on a keep-alive connection.
    pub idle: Duration,
    /// The idle time, in both directions, of a tunnel or an upgraded connection.
    pub tunnel_idle: Duration,
    /// The longest wait for an origin where no other deadline ends it.
    pub patience: Duration,
    /// The minimum speed of request bodies.
    pub body: BodyLimits,
    /// The time from a stop signal until remaining connections are closed.
    pub drain: Duration,
    /// The most concurrent client connections.
    pub connections: usize,
    /// The most clients that wait for one fill.
    pub waiters_per_key: usize,
    /// The most bytes of bodies in flight, over all fills.
    pub in_flight: usize,
}

/// `limits.body_idle`, `limits.body_min_rate`: apply until the response head has been received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// The longest pause of a client within its request body.
    pub idle: Duration,
    /// The minimum rate in bytes per second, measured over windows of `idle`; 0: none.
    pub min_rate: u64,
}

/// `log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Log {
    /// The format of a log line.
    pub format: LogFormat,
    /// The least severe level that is written.
    pub level: LogLevel,
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Human-readable.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// `log.level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// The operator must act.
    Error,
    /// Served, but degraded.
    Warn,
    /// Lifecycle and configuration.
    Info,
    /// One line per request.
    Debug,
    /// Internal details.
    Trace,
}

/// `admin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// The address that serves health, metrics and `/v1`.
    pub listen: SocketAddr,
    /// The token that `/v1` requires; `None`: `/v1` serves only clients of this host.
    pub token: Option<Token>,
    /// The networks that may connect; empty: all.
    pub allow: Vec<IpNet>,
}

impl Admin {
    /// Whether other hosts can connect. `::ffff:127.0.0.1` is loopback too.
    pub fn is_reachable(&self) -> bool {
        !self.listen.ip().to_canonical().is_loopback()
    }
}

/// `tls`: interception.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interception {
    /// The certificate authority that issues larder's certificates.
    pub ca: Ca,
    /// Hosts to intercept in addition to those that routes name.
    pub intercept: Vec<HostPattern>,
    /// Hosts that are never intercepted; takes precedence over `intercept` and routes.
    pub passthrough: Vec<HostPattern>,
}

/// `tls.ca`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ca {
    /// The files of its certificate and key; `None`: below `store.path`, or in memory only without a disk
    /// tier.
    pub files: Option<CaFiles>,
    /// Name constraints: the authority may issue certificates only for these names and names below them;
    /// empty: for any.
    pub constrain: Vec<NameConstraint>,
}

/// The files of a certificate authority (PEM).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaFiles {
    /// The certificate.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// One entry of `resolve`: connections to this host (and port, if given) go to this address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolveRule {
    /// Lower-case host name.
    pub host: String,
    /// Only for this port; `None`: for any port.
    pub port: Option<u16>,
    /// The address; its port replaces that of the target.
    pub address: SocketAddr,
}

/// `store`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The directory of the disk tier and of the operator's data.
    pub path: PathBuf,
    /// The size of the memory tier in bytes.
    pub memory: usize,
    /// The size of the disk tier in bytes; zero: memory only.
    pub disk: u64,
    /// The interval at which expired entries are swept from the disk.
    pub sweep_every: Duration,
    /// The largest body that is stored, in bytes.
    pub max_object: usize,
}

/// `scope_secret`, hashed to the length of a key. Never printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ScopeSecret(pub [u8; 32]);

impl std::fmt::Debug for ScopeSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScopeSecret(…)")
    }
}

/// One of `upstreams`.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// The configured name, used as a label in metrics.
    pub name: Arc<str>,
    /// The hosts of this upstream.
    pub hosts: Vec<UpstreamHost>,
    /// The path on larder's own address below which clients reach it with a base URL instead of a proxy.
    pub mount: Option<Mount>,
    /// Timeouts of its calls.
    pub timeouts: Timeouts,
    /// TLS settings for connections to the origin.
    pub tls: UpstreamTls,
    /// Its own parent proxy; `None`: as for other calls.
    pub proxy: Option<UpstreamProxy>,
    /// The credential that larder sends instead of its clients.
    pub credential: Option<Credential>,
    /// Whether larder adds itself to `Via` of its requests. If not, it adds itself to `CDN-Loop`.
    pub via: bool,
    /// Rate limits, breaker, response rules and cost.
    pub policy: UpstreamPolicy,
}

/// `upstreams.*.mount`: requests below `path` are forwarded to this origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The path prefix: begins with a slash, does not end with one.
    pub path: Box<str>,
    /// The origin's scheme.
    pub scheme: Scheme,
    /// The origin's host.
    pub host: Box<str>,
    /// The origin's port; `None`: the scheme's default.
    pub port: Option<u16>,
    /// Host names that requests may carry in `Host`, besides addresses and `localhost`.
    pub allow_hosts: Vec<Box<str>>,
    /// Origins of web pages that may send requests, as a browser writes them in `Origin`.
    pub allow_origins: Vec<Box<str>>,
    /// Whether larder adds its own credential to the requests.
    pub has_credential: bool,
}

/// One of `upstreams.*.hosts`: `api.example`, `*.example`, or `https://api.example[:port]`, which upgrades
/// `http://` requests for that host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamHost {
    /// The host pattern.
    pub host: HostPattern,
    /// The scheme to use instead of that of the request; `None`: that of the request.
    pub scheme: Option<Scheme>,
    /// The port to use; `None`: that of the request, or the default of the upgraded scheme.
    pub port: Option<u16>,
}

/// `upstreams.*.tls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Files with further root certificates (PEM).
    pub extra_roots: Vec<PathBuf>,
    /// The client certificate that larder presents when the origin requests one.
    pub client_cert: Option<ClientCert>,
    /// Whether any certificate is accepted: an attacker on the path can then read and change all traffic.
    pub insecure: bool,
    /// Whether HTTP/2 is offered.
    pub http2: bool,
}

#[cfg(test)]
mod tests;
