//! What `proxy.yaml` says and what it means.
//!
//! Owns: reading the file as a spanned tree, resolving it to values that can only be valid, and
//! reporting every problem at once with place, reason and fix.
//! Never touches: sockets, the environment (handed in), anything that runs.

pub mod client_cert;
pub mod credential;
pub mod defaults;
pub(crate) mod describe;
pub mod diagnostics;
pub mod duration;
pub mod env;
pub mod file;
pub mod file_source;
pub mod name_constraint;
pub mod number;
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

use crate::config::client_cert::ClientCert;
use crate::config::credential::Credential;
use crate::config::diagnostics::{Problem, Report, SourceLocation};
use crate::config::env::Env;
use crate::config::file_source::{Disk, FileSource, NoFiles};
use crate::config::name_constraint::NameConstraint;
use crate::config::reader::Reader;
use crate::config::token::Token;
use crate::key::KeyBuilder;
use crate::policy::upstream::UpstreamPolicy;
use crate::policy::{CooldownPolicy, Mode};
use crate::route::pattern::HostPattern;
use crate::route::table::Table;
use crate::semantics::redaction::{Redactor, SecretPath};
use crate::semantics::target::Scheme;

/// Reads and resolves the file at `path`; relative paths in it start at its directory.
pub fn load(path: &Path, env: &Env) -> Result<Config, Report> {
    read(&path.to_string_lossy(), &text_of(path)?, env, &Disk)
}

/// How the larder of the file at `path` is reached by who operates it. Whatever is wrong with the
/// rest of the file: it is asked to reload, and to say so, while the file is wrong.
pub fn operated(path: &Path, env: &Env) -> AdminConfig {
    let name = path.to_string_lossy();
    let read = text_of(path).and_then(|text| {
        let tree =
            file::parse(&text).map_err(|problem| Report::new(&name, &text, vec![problem]))?;
        Ok((text, tree))
    });
    let (text, tree) = match read {
        Ok(read) => read,
        Err(report) => {
            return AdminConfig {
                admin: Some(Admin::default()),
                store: None,
                report: Some(report),
            };
        }
    };
    let mut reader = Reader::new(&name, env, &Disk);
    let admin = resolve::admin(&tree, &mut reader);
    let store = Some(resolve::store_path(&tree, &mut reader));
    let problems = reader.problems;
    let report = (!problems.is_empty()).then(|| Report::new(&name, &text, problems));
    AdminConfig { admin, store, report }
}

/// What a file says about `admin`, and where its larder stores.
#[derive(Debug)]
pub struct AdminConfig {
    /// As far as it could be read; `None`: switched off.
    pub admin: Option<Admin>,
    /// The directory of the store, if the file could be read.
    pub store: Option<PathBuf>,
    /// What is wrong with it.
    pub report: Option<Report>,
}

fn text_of(path: &Path) -> Result<String, Report> {
    let name = path.to_string_lossy();
    let unread = |what: String, fix: &str| {
        let (place, path, fix) = (SourceLocation::default(), String::new(), fix.to_owned());
        Report::new(&name, "", vec![Problem { place, path, what, fix }])
    };
    let contents = Disk.read(path, file::LONGEST).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            let what = "the file cannot be read: there is no such file".to_owned();
            return unread(what, "create it (`version: 1` is enough), or name another one");
        }
        let what = format!("the file cannot be read: {}", error.kind());
        unread(what, "name a file that this user may read; it is at most 1 MiB long")
    })?;
    String::from_utf8(contents.bytes)
        .map_err(|_| unread("the file is not UTF-8 text".to_owned(), "save it as UTF-8"))
}

/// Resolves `text` as the file `name`. Reads no file: one that the text names counts as missing.
pub fn parse(name: &str, text: &str, env: &Env) -> Result<Config, Report> {
    read(name, text, env, &NoFiles)
}

/// Resolves `text` as the file `name`; the files it names come from `files`.
pub fn read(name: &str, text: &str, env: &Env, files: &dyn FileSource) -> Result<Config, Report> {
    let report = |problems| Report::new(name, text, problems);
    let tree = file::parse(text).map_err(|problem| report(vec![problem]))?;
    let mut reader = Reader::new(name, env, files);
    let config = resolve::resolve(&tree, &mut reader);
    config.ok_or_else(|| report(reader.problems))
}

/// The whole configuration, resolved. Built only by `resolve`, so it can only be valid.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect.
    pub listen: Vec<SocketAddr>,
    /// Who may use larder.
    pub access: Access,
    /// Where requests may go.
    pub destinations: Destinations,
    /// Bounds on what clients may send and hold.
    pub limits: Limits,
    /// How to log.
    pub log: Log,
    /// The admin listener; `None` when switched off.
    pub admin: Option<Admin>,
    /// Which TLS connections are intercepted, and who vouches for larder in them.
    pub tls: Interception,
    /// Names answered without asking DNS, like `curl --resolve`; host lower-case.
    pub resolve: Vec<ResolveRule>,
    /// Where answers are kept.
    pub store: Store,
    /// The secret of all keys; `None`: this installation's own.
    pub scope_secret: Option<ScopeSecret>,
    /// Further credential fields.
    pub credential_headers: Vec<HeaderName>,
    /// Query parameters whose values are secret: the built-in list and the file's, lower-case.
    pub secret_query: Vec<String>,
    /// Paths whose captures are secret.
    pub secret_path: Vec<SecretPath>,
    /// `defaults.mode`: what the master switch says at start.
    pub mode: Mode,
    /// How long an origin that failed is left alone where no route says it.
    pub hold: CooldownPolicy,
    /// How origins are reached.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Which requests are kept, and how.
    pub routes: Table,
    /// What the operator should know though it is no error; printed by `check` and at start.
    pub notes: Vec<diagnostics::Warning>,
}

impl Config {
    /// What makes keys with this secret. The fields in which larder shows credentials of its own are
    /// credentials, too.
    pub fn keyring(&self, secret: [u8; 32]) -> KeyBuilder {
        let own = self.upstreams.iter().filter_map(|upstream| upstream.credential.as_ref());
        let own = own.map(|credential| credential.header.clone());
        let headers: Vec<HeaderName> = self.credential_headers.iter().cloned().chain(own).collect();
        KeyBuilder::new(secret, &headers, self.redactor())
    }

    /// The redactor that takes secrets out of URLs.
    pub fn redactor(&self) -> Redactor {
        Redactor::new(&self.secret_query, &self.secret_path)
    }

    /// Whether any TLS connection could be intercepted: a route names a host, or `tls.intercept`.
    pub fn intercepts(&self) -> bool {
        self.named().next().is_some()
    }

    /// Whether TLS to `host:port` is intercepted.
    pub fn intercepts_host(&self, host: &str, port: u16) -> bool {
        let spared = self.tls.passthrough.iter().any(|pattern| pattern.matches(host, port));
        !spared && self.named().any(|pattern| pattern.matches(host, port))
    }

    /// The hosts that are named for interception, whatever `passthrough` spares: by routes, and by
    /// `tls.intercept`. A route for every host names none.
    pub fn named(&self) -> impl Iterator<Item = &HostPattern> {
        let routes = self.routes.routes().iter().map(|route| &route.pattern.host);
        routes.filter(|host| !host.is_any()).chain(&self.tls.intercept)
    }
}

/// `access`: who may use larder.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Client networks; empty: only loopback clients (then every listener is loopback).
    pub clients: Vec<IpNet>,
    /// `user:password` pairs from `users_file`; `None`: no `Proxy-Authorization` is asked for.
    pub users: Option<Users>,
    /// Users of this host by their numbers, whose connections alone are served; `None`: all. No key of
    /// `proxy.yaml`: a private larder serves the user who started it.
    pub local_users: Option<Arc<[u32]>>,
}

/// The users of `users_file`. Prints without its content.
#[derive(Clone)]
pub struct Users(pub Arc<[(String, String)]>);

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Users({})", self.0.len())
    }
}

/// `destinations`: where requests may go; decided on the resolved address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Destinations {
    /// Allowed beyond the default.
    pub allow: Vec<DestinationRule>,
    /// Denied; wins over `allow`.
    pub deny: Vec<DestinationRule>,
    /// Which ports; `None`: all from loopback listeners, 80 and 443 from others.
    pub ports: Option<Ports>,
}

/// One member of `destinations.allow` or `.deny`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DestinationRule {
    /// Addresses.
    Net(IpNet),
    /// One address and port (`127.0.0.1:9001`).
    Socket(IpAddr, u16),
    /// Names.
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
    /// Bytes of a request head.
    pub head: usize,
    /// Fields of a request head.
    pub headers: usize,
    /// From a head's first byte to its last.
    pub head_timeout: Duration,
    /// Between two requests on a kept-alive connection.
    pub idle: Duration,
    /// Without a byte in either direction on a tunnel or an upgraded connection.
    pub tunnel_idle: Duration,
    /// How slowly a request's body may come.
    pub body: BodyLimits,
    /// From a stop until what is still in flight is cut.
    pub drain: Duration,
    /// Client connections at once.
    pub connections: usize,
    /// Clients that wait for one fill.
    pub waiters_per_key: usize,
    /// Bytes of bodies being filled, over all fills.
    pub in_flight: usize,
}

/// `limits.body_idle`, `limits.body_min_rate`: until the head of the answer is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// How long a client may send nothing of it.
    pub idle: Duration,
    /// The bytes a second that must come, over each time of that length; 0: no matter how many.
    pub min_rate: u64,
}

/// `log`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// The least severe level that is written.
    pub level: LogLevel,
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// `log.level`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// An operator must act.
    Error,
    /// Served, but degraded.
    Warn,
    /// Lifecycle and configuration.
    Info,
    /// One line per request.
    Debug,
    /// The inside.
    Trace,
}

/// `admin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where health, metrics and `/v1` are answered.
    pub listen: SocketAddr,
    /// What `/v1` asks for; `None`: `/v1` is for clients of this host.
    pub token: Option<Token>,
    /// Which other hosts may connect; empty: every one that can.
    pub allow: Vec<IpNet>,
}

impl Admin {
    /// Whether more than this host can connect. `::ffff:127.0.0.1` is loopback too.
    pub fn is_reachable(&self) -> bool {
        !self.listen.ip().to_canonical().is_loopback()
    }
}

/// `tls`: interception.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interception {
    /// Whose certificate authority vouches for larder.
    pub ca: Ca,
    /// Hosts to intercept besides those that routes name.
    pub intercept: Vec<HostPattern>,
    /// Hosts that are never intercepted; wins over `intercept` and routes.
    pub passthrough: Vec<HostPattern>,
}

/// `tls.ca`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ca {
    /// The files of its certificate and key; `None`: below `store.path`, or nowhere without a disk.
    pub files: Option<CaFiles>,
    /// The only names, and those below them, that the authority may vouch for; empty: any.
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

/// One entry of `resolve`: this host (and port, if given) is reached at this address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolveRule {
    /// Lower-case host name.
    pub host: String,
    /// Only for this port; `None`: for any.
    pub port: Option<u16>,
    /// The address; its port replaces the target's.
    pub address: SocketAddr,
}

/// `store`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// The directory of the disk tier and of the operator's data.
    pub path: PathBuf,
    /// Bytes of the memory tier.
    pub memory: usize,
    /// Bytes of the disk tier; zero: memory alone.
    pub disk: u64,
    /// How often what is of no more use is swept from the disk.
    pub sweep_every: Duration,
    /// Bytes of the largest body that is stored.
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
    /// The configured name: the label in metrics.
    pub name: Arc<str>,
    /// Which hosts it stands for.
    pub hosts: Vec<UpstreamHost>,
    /// The path of larder's own below which clients reach it without a proxy.
    pub mount: Option<Mount>,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// How TLS to the origin is done.
    pub tls: UpstreamTls,
    /// What larder shows in the place of its clients.
    pub credential: Option<Credential>,
    /// How it is treated.
    pub conduct: UpstreamPolicy,
}

/// `upstreams.*.mount`: what is asked below `path` is meant for this origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Begins with a slash, does not end with one.
    pub path: Box<str>,
    /// The origin's scheme.
    pub scheme: Scheme,
    /// The origin's host.
    pub host: Box<str>,
    /// The origin's port; `None`: the scheme's.
    pub port: Option<u16>,
    /// Names by which clients on this host may ask, besides addresses and `localhost`.
    pub allow_hosts: Vec<Box<str>>,
    /// Origins of web pages that may ask, as a browser writes them.
    pub allow_origins: Vec<Box<str>>,
    /// Whether larder shows a credential of its own there.
    pub guarded: bool,
}

/// One of `upstreams.*.hosts`: `api.example`, `*.example`, or `https://api.example[:port]`, which
/// upgrades `http://` requests to that host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamHost {
    /// Which hosts.
    pub host: HostPattern,
    /// The scheme to use whatever the client asked for; `None`: the client's.
    pub scheme: Option<Scheme>,
    /// The port to use; `None`: the client's, or the upgraded scheme's default.
    pub port: Option<u16>,
}

/// `upstreams.*.timeouts`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To a connection, TLS included, over all addresses.
    pub connect: Duration,
    /// From the request's last byte to the answer's head.
    pub first_byte: Duration,
    /// Between two reads of a body.
    pub between_bytes: Duration,
    /// From the first attempt to the last byte, for answers that will be stored.
    pub total: Duration,
}

/// `upstreams.*.tls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// Files with further root certificates (PEM).
    pub extra_roots: Vec<PathBuf>,
    /// Who larder is to an origin that asks.
    pub client_cert: Option<ClientCert>,
    /// Whether any certificate is accepted: nobody is kept from reading and changing what passes.
    pub insecure: bool,
    /// Whether HTTP/2 is offered.
    pub http2: bool,
}

#[cfg(test)]
mod tests;
