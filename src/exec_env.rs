//! How a command is made to use larder: the variables and files that every runtime looks for.
//!
//! Owns: what each runtime wants to be told about a proxy and a certificate authority. Never touches:
//! the running larder; starting the command is the command line's.

pub mod ca_bundle;
pub mod java;
pub mod no_proxy;
pub mod node;
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

/// What a command is to use.
#[derive(Debug)]
pub struct ExecEnv<'a> {
    /// Where larder listens for it.
    pub proxy: SocketAddr,
    /// The user and the password that it asks for, `USER:PASSWORD`, of letters and digits.
    pub password: Option<&'a str>,
    /// The certificate of larder's authority (PEM).
    pub ca: &'a str,
    /// What it reaches without larder.
    pub no_proxy: &'a NoProxy,
    /// A private directory that exists, for the files below.
    pub directory: &'a Path,
    /// The variables that the command would get without larder.
    pub env: &'a Env,
}

/// What the system trusts, and `ca` (PEM).
pub fn bundle(ca: &str) -> String {
    ca_bundle::both(&ca_bundle::systems_roots(), ca)
}

impl ExecEnv<'_> {
    /// Writes the files that runtimes need below the directory and returns the variables to set,
    /// each of its name once. A variable that the caller's environment already has and that can be
    /// extended (`NODE_OPTIONS`, `PYTHONPATH`) is extended; bundles of certificates that it names
    /// are what larder's is added to.
    pub fn prepare(&self) -> io::Result<Vec<(String, String)>> {
        let files = PrivateDir::within(self.directory)?;
        let trust = CaBundle::of(self, &files)?;
        let mut variables = self.proxies();
        variables.extend(trust.variables(self, &files)?);
        variables.extend(java::prepare(self, &files, &trust)?);
        variables.extend(node::prepare(self, &files)?);
        variables.extend(php::prepare(self, &files, &trust)?);
        variables.extend(python::prepare(self, &files)?);
        variables.extend(wget::prepare(self, &files, &trust)?);
        Ok(variables)
    }

    /// Both cases of each: curl reads only the small `http_proxy`, others only the capital ones.
    ///
    /// No `ALL_PROXY`: it would send protocols to larder that larder does not speak.
    fn proxies(&self) -> Vec<(String, String)> {
        let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"];
        let spared = self.no_proxy.variable();
        let direct = ["NO_PROXY", "no_proxy"].map(|name| set(name, spared.clone()));
        names.iter().map(|name| set(name, self.url())).chain(direct).collect()
    }

    fn url(&self) -> String {
        match self.password {
            Some(password) => format!("http://{password}@{}", self.proxy),
            None => format!("http://{}", self.proxy),
        }
    }

    /// The password as a field of requests says it (RFC 7617).
    fn authorization(&self) -> Option<String> {
        use base64::Engine as _;
        let encoder = base64::engine::general_purpose::STANDARD;
        self.password.map(|password| format!("Basic {}", encoder.encode(password)))
    }

    /// What the caller's environment says; an empty variable is as good as none.
    fn said(&self, name: &str) -> Option<&str> {
        self.env.get(name).filter(|value| !value.is_empty())
    }
}

fn set(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_owned(), value.into())
}
