//! `listen`, `access`, `admin`: the listeners, and which clients may use them.
//!
//! Owns: the rule that larder is no open proxy and that the admin listener is not open to other hosts.
//! Never touches: allowed destinations (`destinations`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::defaults;
use crate::config::diagnostics::{ValueError, WarningKind};
use crate::config::file::Value;
use crate::config::reader::{Reader, Section, Spanned, values};
use crate::config::resolve::bounds;
use crate::config::token::Token;
use crate::config::{Access, Admin, Users};

/// All three sections, and the rules between them.
pub(super) fn read(
    top: &mut Section<'_>,
    reader: &mut Reader<'_>,
) -> (Vec<SocketAddr>, Access, Option<Admin>) {
    let listen = listen(top, reader);
    let listeners = listen.as_deref().unwrap_or_default();
    let access = access(top, listeners, reader);
    let admin = admin(top, listeners, reader);
    (listen.map_or_else(|| vec![defaults::LISTEN], values), access, admin)
}

fn listen(top: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<Vec<Spanned<SocketAddr>>> {
    let known = reader.problems.len();
    let listen = top.scalars(reader, "listen", socket)?;
    if listen.is_empty() && reader.problems.len() == known {
        let place = top.key_place("listen");
        let fix = "name an address, or remove the key for 127.0.0.1:8080";
        reader.problem(place, "listen", "has no address: no client could connect", fix);
    }
    for (index, at) in listen.iter().enumerate() {
        let earlier = listen.iter().take(index).any(|earlier| earlier.value == at.value);
        if earlier && at.value.port() != 0 {
            let what = "this address is listed a second time";
            reader.problem(at.place, &at.path, what, "remove one of the two");
        }
    }
    Some(listen)
}

fn access(top: &mut Section<'_>, listen: &[Spanned<SocketAddr>], reader: &mut Reader<'_>) -> Access {
    let mut clients = Vec::new();
    let mut users = None;
    let mut has_rules = false;
    if let Some(mut access) = top.section(reader, "access") {
        let known = reader.problems.len();
        clients = access.scalars(reader, "clients", net).unwrap_or_default();
        let path = access.file_path(reader, "users_file");
        users = path.and_then(|path| read_users(&path, reader));
        // Invalid values have been reported; they do not also count as missing.
        has_rules = !clients.is_empty() || users.is_some() || reader.problems.len() > known;
        access.finish(reader);
    }
    let reachable = listen.iter().find(|at| is_reachable(at.value));
    if let (Some(at), false) = (reachable, has_rules) {
        let what = "would be an open proxy: other hosts can reach it without authentication";
        let fix = "set `access.clients: [10.0.0.0/8]` or `access.users_file`, or listen on 127.0.0.1";
        reader.problem(at.place, &at.path, what, fix);
    }
    if let Some(at) = clients.iter().find(|at| at.value.prefix_len() == 0 && users.is_none()) {
        reader.warn(at, WarningKind::Open, "every host that can connect may use larder");
    }
    Access { clients: values(clients), users, local_users: None }
}

/// `admin`; `None` if it is switched off.
pub(super) fn admin(
    top: &mut Section<'_>,
    listen: &[Spanned<SocketAddr>],
    reader: &mut Reader<'_>,
) -> Option<Admin> {
    let Some(node) = top.get("admin") else { return Some(Admin::default()) };
    if matches!(&node.value, Value::Scalar(..)) {
        let fix = "write `admin: { listen: 127.0.0.1:9901 }`, or `admin: off`";
        let off = reader.scalar(node, "admin", bounds::off(fix));
        return if off.is_some() { None } else { Some(Admin::default()) };
    }
    let mut section = reader.section(node, "admin")?;
    let known = reader.problems.len();
    let at = section.scalar(reader, "listen", socket);
    let token = token(&mut section, reader);
    let allow = section.scalars(reader, "allow", net).unwrap_or_default();
    // Invalid values have been reported; they do not also count as missing.
    let has_rules = token.is_some() || !allow.is_empty() || reader.problems.len() > known;
    section.finish(reader);
    if let Some(at) = &at {
        refuse_admin_at(at, has_rules, listen, reader);
    }
    let value = at.map_or(defaults::ADMIN, |at| at.value);
    let any_network = allow.iter().find(|at| at.value.prefix_len() == 0 && is_reachable(value));
    if let Some(at) = any_network {
        let what = "every host that can connect to the admin listener may read metrics and health";
        reader.warn(at, WarningKind::Open, what);
    }
    Some(Admin { listen: value, token, allow: values(allow) })
}

/// Refuses an admin listener on the proxy's own address, or open to other hosts without access control.
fn refuse_admin_at(
    at: &Spanned<SocketAddr>,
    has_rules: bool,
    listen: &[Spanned<SocketAddr>],
    reader: &mut Reader<'_>,
) {
    if is_reachable(at.value) && !has_rules {
        let what = "can be reached by other hosts without authentication";
        let fix = "set `admin.token_file` (they need the token to operate it), or `admin.allow: \
                   [10.0.0.0/8]` (these may read metrics and health), or listen on 127.0.0.1";
        reader.problem(at.place, &at.path, what, fix);
    }
    let taken = listen.iter().any(|proxy| proxy.value == at.value);
    if taken && at.value.port() != 0 {
        let what = "is the proxy's own address";
        reader.problem(at.place, &at.path, what, "give the admin listener a port of its own");
    }
}

/// The token in `token_file`.
fn token(admin: &mut Section<'_>, reader: &mut Reader<'_>) -> Option<Token> {
    let at = admin.file_path(reader, "token_file")?;
    let contents = reader.private_file(&at, "the token")?;
    match Token::parse(&contents.bytes) {
        Ok(token) => Some(token),
        Err(error) => {
            reader.problem(at.place, &at.path, format!("the file {error}"), error.fix());
            None
        }
    }
}

/// Whether other hosts can connect. `::ffff:127.0.0.1` is loopback too.
fn is_reachable(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

fn socket(text: &str) -> Result<SocketAddr, ValueError> {
    let wanted = "an address with a port, such as `127.0.0.1:8080` or `[::1]:8080`";
    text.parse().map_err(|_| {
        let port = text.rsplit(':').next().filter(|port| port.parse::<u16>().is_ok());
        let local = text.trim_start_matches("localhost").trim_start_matches(':').len() < 6;
        let fix = match port.filter(|_| local) {
            Some(port) => format!("did you mean `127.0.0.1:{port}` (only this host)?"),
            None => format!("write {wanted}"),
        };
        ValueError::new(wanted, format!("is not {wanted}"), fix)
    })
}

/// Parses a network; a single address is a network of one.
pub(super) fn net(text: &str) -> Result<IpNet, ValueError> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse().map(|ip: std::net::IpAddr| ip.into()));
    let error = |_| ValueError::is_not("a network such as `10.0.0.0/8`, or an address");
    net.map(|net| net.trunc()).map_err(error)
}

/// Reads lines of `user:password`; empty lines and those that begin with `#` are ignored.
fn read_users(at: &Spanned<PathBuf>, reader: &mut Reader<'_>) -> Option<Users> {
    let contents = reader.private_file(at, "the passwords")?;
    let mut users = Vec::new();
    for (index, line) in String::from_utf8_lossy(&contents.bytes).lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let pair = line.split_once(':').filter(|(name, password)| !name.is_empty() && !password.is_empty());
        if let Some((name, password)) = pair {
            users.push((name.to_owned(), password.to_owned()));
        } else {
            // The line itself may be a password: it is not printed.
            let what = format!("line {} of the file is not `user:password`", index + 1);
            reader.problem(at.place, &at.path, what, "write one `user:password` a line");
        }
    }
    if users.is_empty() {
        let what = "the file names no user: no client could use larder";
        reader.problem(at.place, &at.path, what, "write one `user:password` a line");
        return None;
    }
    Some(Users(Arc::from(users)))
}
