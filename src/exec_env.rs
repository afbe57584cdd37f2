//! The environment of a command that uses larder: the variables and files that each runtime reads.
//!
//! Owns: the proxy and certificate authority settings of each runtime. Never touches: the running larder;
//! `cli::exec` starts the command.

pub mod ca_bundle;
pub mod chromium;
pub mod java;
pub mod no_proxy;
pub mod node;
pub mod npm;
pub mod pac;
pub mod php;
pub mod private_dir;
pub mod python;
pub mod wget;

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use crate::config::env::Env;
use crate::exec_env::ca_bundle::CaBundle;
use crate::exec_env::no_proxy::NoProxy;
use crate::exec_env::private_dir::PrivateDir;

/// The proxy, the certificate authority and the exceptions that a command gets.
#[derive(Debug)]
pub struct ExecEnv<'a> {
    /// The listen address of the proxy.
    pub proxy: SocketAddr,
    /// The user and password that the proxy requires, `USER:PASSWORD`, of letters and digits.
    pub password: Option<&'a str>,
    /// The certificate of larder's certificate authority (PEM).
    pub ca: &'a str,
    /// The hosts that the command reaches without larder.
    pub no_proxy: &'a NoProxy,
    /// An existing private directory for the files of the runtimes.
    pub directory: &'a Path,
    /// The variables that the command would get without larder.
    pub env: &'a Env,
}

/// The system roots and `ca` (PEM).
pub fn bundle(ca: &str) -> String {
    ca_bundle::append_ca(&ca_bundle::system_roots(), ca)
}

impl ExecEnv<'_> {
    /// Writes the files of the runtimes to the directory and returns the variables to set, each name once.
    /// Extends variables of the caller's environment that allow it (`NODE_OPTIONS`, `PYTHONPATH`), and adds
    /// larder's certificate to copies of the certificate bundles that the environment names.
    pub fn prepare(&self) -> io::Result<Vec<(String, String)>> {
        let files = PrivateDir::within(self.directory)?;
        let trust = CaBundle::create(self, &files)?;
        let mut variables = self.proxy_variables();
        variables.extend(trust.variables(self, &files)?);
        variables.extend(chromium::prepare(self));
        variables.extend(java::prepare(self, &files, &trust)?);
        variables.extend(node::prepare(self, &files)?);
        variables.extend(npm::prepare(self, &files, &trust)?);
        variables.extend(php::prepare(self, &files, &trust)?);
        variables.extend(python::prepare(self, &files)?);
        variables.extend(wget::prepare(self, &files, &trust)?);
        Ok(variables)
    }

    /// The proxy variables in both cases: curl reads only the lower-case `http_proxy`, other clients only the
    /// upper-case names.
    ///
    /// `ALL_PROXY` is not set: it would send protocols to larder that larder does not support.
    pub fn proxy_variables(&self) -> Vec<(String, String)> {
        let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"];
        let no_proxy = self.no_proxy.variable();
        let direct = ["NO_PROXY", "no_proxy"].map(|name| set(name, no_proxy.clone()));
        names.iter().map(|name| set(name, self.proxy_url())).chain(direct).collect()
    }

    fn proxy_url(&self) -> String {
        match self.password {
            Some(password) => format!("http://{password}@{}", self.proxy),
            None => format!("http://{}", self.proxy),
        }
    }

    /// The value of `Proxy-Authorization` for the user and password (RFC 7617).
    fn authorization(&self) -> Option<String> {
        use base64::Engine as _;
        let encoder = base64::engine::general_purpose::STANDARD;
        self.password.map(|password| format!("Basic {}", encoder.encode(password)))
    }

    /// A variable of the caller's environment; `None` if it is unset or empty.
    fn caller_variable(&self, name: &str) -> Option<&str> {
        self.env.get(name).filter(|value| !value.is_empty())
    }
}

fn set(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_owned(), value.into())
}
