//! How a command is made to use larder: the variables and files that every runtime looks for.
//!
//! Owns: what each runtime wants to be told about a proxy and a certificate authority. Never touches:
//! the running larder; starting the command is the command line's.

pub mod files;
pub mod no_proxy;

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use crate::config::env::Env;
use crate::launch::no_proxy::NoProxy;

/// What a command is to use.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Where larder listens for it.
    pub proxy: SocketAddr,
    /// The certificate of larder's authority (PEM).
    pub ca: &'a str,
    /// What it reaches without larder.
    pub no_proxy: &'a NoProxy,
    /// A private directory that exists, for the files below.
    pub directory: &'a Path,
    /// The variables that the command would get without larder.
    pub env: &'a Env,
}

impl Launch<'_> {
    /// Writes the files that runtimes need below the directory and returns the variables to set,
    /// each of its name once. A variable that the caller's environment already has and that can be
    /// extended (`NODE_OPTIONS`, `PYTHONPATH`) is extended.
    pub fn prepare(&self) -> io::Result<Vec<(String, String)>> {
        let proxy = format!("http://{}", self.proxy);
        let names = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"];
        let mut variables: Vec<_> =
            names.iter().map(|name| ((*name).to_owned(), proxy.clone())).collect();
        let spared = self.no_proxy.variable();
        variables.extend(["NO_PROXY", "no_proxy"].map(|name| (name.to_owned(), spared.clone())));
        variables.extend(files::prepare(self)?);
        Ok(variables)
    }
}
