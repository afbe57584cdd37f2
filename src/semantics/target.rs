//! The target of a request: scheme, host, port, path and query (RFC 9110 §7.1, RFC 3986).
//!
//! Owns: parsing of targets, comparison of their origins, and the normal form of an authority.
//! Never touches: routes and keys, which read targets; names and addresses on the network.

pub mod authority;
mod dot_segments;
pub mod path_equivalence;

use std::fmt;

use crate::semantics::redaction;

/// `http` or `https`: the only schemes that larder supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The port of an authority without an explicit one (RFC 9110 §4.2).
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// Parses a scheme in any letter case (RFC 3986 §3.1).
    pub fn parse(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("http") {
            Some(Self::Http)
        } else if name.eq_ignore_ascii_case("https") {
            Some(Self::Https)
        } else {
            None
        }
    }

    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The target of a request. The host is lower-case, the port explicit, path and query as received (RFC 3986
/// §6.2.2.1 and §6.2.3: other spellings are not equivalent without knowledge of the origin). `Display` writes
/// the absolute form. `Debug` omits query values, which may be secret, and parts of the path with the shape
/// of a secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Target {
    scheme: Scheme,
    host: String,
    port: u16,
    path_and_query: String,
}

/// The reason why a target was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Neither `http` nor `https`.
    #[error("the scheme is neither http nor https")]
    Scheme,
    /// No host, or a host with an invalid character.
    #[error("the host is missing or malformed")]
    Host,
    /// Port 0, above 65535, or not a number.
    #[error("the port is not between 1 and 65535")]
    Port,
    /// A user name or password in the authority (RFC 9110 §4.2.4).
    #[error("user information in the authority is not accepted")]
    UserInfo,
    /// A control character, space or invalid UTF-8 in the path or query.
    #[error("the path or query contains a character that must be encoded")]
    Path,
}

impl Target {
    /// Parses the absolute form, `http://host[:port]/path?query` (RFC 9112 §3.2.2).
    ///
    /// ```
    /// use larder::semantics::target::{Target, TargetError};
    ///
    /// let target = Target::absolute("HTTPS://API.example/a%2Fb?q=1#top").unwrap();
    /// assert_eq!((target.host(), target.port()), ("api.example", 443));
    /// assert_eq!(target.path_and_query(), "/a%2Fb?q=1", "as sent, without the fragment");
    /// assert_eq!(Target::absolute("http://user@api.example/"), Err(TargetError::UserInfo));
    /// ```
    pub fn absolute(text: &str) -> Result<Self, TargetError> {
        let (scheme, rest) = text.split_once("://").ok_or(TargetError::Scheme)?;
        let scheme = Scheme::parse(scheme).ok_or(TargetError::Scheme)?;
        let cut = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path_and_query) = rest.split_at(cut);
        Self::with_authority(scheme, authority, path_and_query)
    }

    /// Combines an authority with the origin form (`/path?query`, or `*`) (RFC 9110 §7.1).
    pub fn with_authority(
        scheme: Scheme,
        authority: &str,
        path_and_query: &str,
    ) -> Result<Self, TargetError> {
        let (host, port) = authority::split(authority)?;
        let port = port.unwrap_or_else(|| scheme.default_port());
        Ok(Self { scheme, host, port, path_and_query: clean(path_and_query)? })
    }

    /// The same path and query at another origin; `host` has the form of [`Target::host`].
    #[must_use]
    pub fn with_origin(&self, scheme: Scheme, host: &str, port: u16) -> Self {
        let host = host.to_ascii_lowercase();
        Self { scheme, host, port, path_and_query: self.path_and_query.clone() }
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host, lower-case; an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, explicit or the scheme's default.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query as received; `*` for a server-wide `OPTIONS`.
    pub fn path_and_query(&self) -> &str {
        &self.path_and_query
    }

    /// The path as received.
    pub fn path(&self) -> &str {
        self.path_and_query.split_once('?').map_or(&self.path_and_query, |(path, _)| path)
    }

    /// The query after the first `?`. `Some("")` for a bare `?`, which is a different target than no query.
    pub fn query(&self) -> Option<&str> {
        self.path_and_query.split_once('?').map(|(_, query)| query)
    }

    /// `host[:port]`, without the port if it is the scheme's default: the value of `Host`.
    pub fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Whether the path has `.` or `..` segments in one of the spellings that origins accept: plain, encoded
    /// once or several times, with `\\` for `/`, with parameters after them (`..;`), as overlong UTF-8
    /// (`%c0%ae`), or as `%u002e`. An origin may resolve such a path to another resource. The same holds for
    /// a slash in these last spellings.
    pub fn is_ambiguous(&self) -> bool {
        dot_segments::is_ambiguous(self.path())
    }

    /// Whether scheme, host and port are equal (RFC 9110 §4.3.1).
    pub fn same_origin(&self, other: &Self) -> bool {
        self.scheme == other.scheme && self.port == other.port && self.host == other.host
    }

    /// Resolves `reference` against this target (RFC 3986 §5.2), for `Location` and `Content-Location`.
    /// `None` if the reference is invalid or has a scheme that larder does not support.
    pub fn resolve(&self, reference: &str) -> Option<Self> {
        let reference = reference.split_once('#').map_or(reference, |(before, _)| before);
        let resolved = if has_scheme(reference) {
            Self::absolute(reference).ok()?
        } else if reference.starts_with("//") {
            Self::absolute(&format!("{}:{reference}", self.scheme.as_str())).ok()?
        } else {
            let path_and_query = clean(&self.merged(reference)).ok()?;
            Self { path_and_query, ..self.clone() }
        };
        Some(resolved.without_dot_segments())
    }

    /// Path and query of a reference without scheme and authority (RFC 3986 §5.2.2, §5.2.3).
    fn merged(&self, reference: &str) -> String {
        if reference.is_empty() {
            self.path_and_query.clone()
        } else if reference.starts_with('?') {
            format!("{}{reference}", self.path())
        } else if reference.starts_with('/') {
            reference.to_owned()
        } else {
            let folder = self.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{folder}/{reference}")
        }
    }

    /// RFC 3986 §5.2.4.
    fn without_dot_segments(mut self) -> Self {
        let (path, query) = match self.path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.path_and_query.as_str(), None),
        };
        if !path.contains("/.") {
            return self;
        }
        let mut kept: Vec<&str> = Vec::new();
        let mut segments = path.split('/').skip(1).peekable();
        while let Some(segment) = segments.next() {
            if segment == ".." {
                kept.pop();
            }
            if segment != "." && segment != ".." {
                kept.push(segment);
            } else if segments.peek().is_none() {
                // A final `.` or `..` refers to a folder, whose path ends in a slash.
                kept.push("");
            }
        }
        let mut clean = format!("/{}", kept.join("/"));
        if let Some(query) = query {
            clean.push('?');
            clean.push_str(query);
        }
        self.path_and_query = clean;
        self
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.authority(), self.path_and_query)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = redaction::paths_in(self.path());
        write!(f, "{}://{}{path}", self.scheme.as_str(), self.authority())?;
        let Some(query) = self.query() else { return Ok(()) };
        for (n, parameter) in query.split('&').enumerate() {
            // A parameter without `=` has only a value.
            let name = parameter.split_once('=').map_or("", |(name, _)| name);
            write!(f, "{}{name}=…", if n == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

/// Path and query without a fragment, beginning with a slash. Control characters and spaces are rejected. All
/// other characters stay unchanged, also those that no URL may contain (`"`, `<`, `>`): clients send them, and
/// some origins distinguish spellings that a general normalisation would make equal.
fn clean(path_and_query: &str) -> Result<String, TargetError> {
    let text = path_and_query.split_once('#').map_or(path_and_query, |(before, _)| before);
    if text.contains(|c: char| c.is_control() || c == ' ') {
        return Err(TargetError::Path);
    }
    match text.as_bytes().first() {
        None => Ok("/".to_owned()),
        Some(b'?') => Ok(format!("/{text}")),
        Some(b'/') => Ok(text.to_owned()),
        Some(b'*') if text == "*" => Ok(text.to_owned()),
        Some(_) => Err(TargetError::Path),
    }
}

/// Whether a reference begins with a scheme (RFC 3986 §3.1): `a:b` does, `./a:b` does not.
fn has_scheme(reference: &str) -> bool {
    let Some((scheme, _)) = reference.split_once(':') else { return false };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

#[cfg(test)]
mod tests;
