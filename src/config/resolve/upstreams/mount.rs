//! `upstreams.*.mount`: a path on larder's own address that is forwarded to the upstream, for clients that
//! support a base URL but no proxy.
//!
//! Owns: the origin of a mount. Never touches: requests.

use std::sync::Arc;

use crate::config::diagnostics::ValueError;
use crate::config::file::Value;
use crate::config::reader::{Reader, Section, Spanned};
use crate::config::{Mount, Upstream, UpstreamHost};
use crate::semantics::target::{Scheme, Target, authority};

/// `mount: /cmc` leads to the upstream's first host by https, `mount: { path: /cmc, to: URL }` to the given
/// origin. `allow_hosts` and `allow_origins` allow further host names and web pages.
pub(super) fn read(
    one: &mut Section<'_>,
    hosts: &[UpstreamHost],
    earlier: &[Arc<Upstream>],
    reader: &mut Reader<'_>,
) -> Option<Mount> {
    let node = one.get("mount")?;
    let at = one.key_path("mount");
    if !matches!(node.value, Value::Map(_)) {
        let path = reader.scalar(node, &at, path)?;
        refuse_duplicate(&path, earlier, reader);
        let (scheme, host, port) = first_host(&path, hosts, reader)?;
        let (path, allow_hosts, allow_origins) = (path.value, Vec::new(), Vec::new());
        return Some(Mount { path, scheme, host, port, allow_hosts, allow_origins, has_credential: false });
    }
    let mut section = reader.section(node, &at)?;
    let fix = "write `mount: { path: /api, to: \"https://api.example\" }`";
    let path = section.required(reader, "path", path, fix);
    let to = section.scalar(reader, "to", origin);
    let allow_hosts = section.values(reader, "allow_hosts", name);
    let allow_origins = web_pages(&mut section, reader);
    section.finish(reader);
    let path = path?;
    refuse_duplicate(&path, earlier, reader);
    let (scheme, host, port) =
        if section.has("to") { named_host(&to?, hosts, reader)? } else { first_host(&path, hosts, reader)? };
    let path = path.value;
    Some(Mount { path, scheme, host, port, allow_hosts, allow_origins, has_credential: false })
}

/// `allow_origins`: the origins of web pages, as browsers write them in `Origin`.
pub(super) fn web_pages(section: &mut Section<'_>, reader: &mut Reader<'_>) -> Vec<Box<str>> {
    section.values(reader, "allow_origins", web_page)
}

/// The origin of a mount: its scheme, its host, and its port if that is not the scheme's default.
type Origin = (Scheme, Box<str>, Option<u16>);

fn named_host(to: &Spanned<Target>, hosts: &[UpstreamHost], reader: &mut Reader<'_>) -> Option<Origin> {
    let target = &to.value;
    if !hosts.iter().any(|host| host.host.matches(target.host(), target.port())) {
        let what = format!("`{}` is not one of this upstream's hosts", target.host());
        reader.problem(to.place, &to.path, what, "add it to `hosts`, or mount one of them");
        return None;
    }
    Some((target.scheme(), target.host().into(), Some(target.port())))
}

/// Refuses a path that an earlier upstream uses.
fn refuse_duplicate(path: &Spanned<Box<str>>, earlier: &[Arc<Upstream>], reader: &mut Reader<'_>) {
    let same = |up: &&Arc<Upstream>| up.mount.as_ref().is_some_and(|m| m.path == path.value);
    if let Some(other) = earlier.iter().find(same) {
        let what = format!("upstream `{}` has this mount already", other.name);
        reader.problem(path.place, &path.path, what, "choose another path");
    }
}

fn first_host(path: &Spanned<Box<str>>, hosts: &[UpstreamHost], reader: &mut Reader<'_>) -> Option<Origin> {
    // Missing hosts have been reported already.
    let first = hosts.first()?;
    let Some(host) = first.host.exact() else {
        let what = format!("leads to `{}`, which is not one host", first.host);
        let fix = "name one first in `hosts`, or write `mount: { path: …, to: \"https://api.example\" }`";
        reader.problem(path.place, &path.path, what, fix);
        return None;
    };
    Some((Scheme::Https, host.into(), first.port.or(first.host.port())))
}

fn path(text: &str) -> Result<Box<str>, ValueError> {
    let wanted = "a path such as `/coinmarketcap`";
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-_.~".contains(&b);
    if !text.starts_with('/') || !text.bytes().all(plain) {
        let fix = "begin with a slash; letters, digits, `-`, `_`, `.`, `~` and slashes may follow";
        return Err(ValueError::new(wanted, "is no path of a mount", fix));
    }
    let text = text.strip_suffix('/').unwrap_or(text);
    let empty = text.is_empty() || text.split('/').skip(1).any(|part| matches!(part, "" | "." | ".."));
    if empty {
        let fix = "name at least one segment, and no empty one, `.` or `..`";
        return Err(ValueError::new(wanted, "cannot be distinguished from other paths", fix));
    }
    Ok(text.into())
}

fn origin(text: &str) -> Result<Target, ValueError> {
    let wanted = "an origin such as `https://api.example` or `http://127.0.0.1:9001`";
    let target = Target::absolute(text).map_err(|_| ValueError::is_not(wanted))?;
    if target.path_and_query() != "/" {
        let fix = "leave the path out: the part of the path after the mount is sent";
        return Err(ValueError::new(wanted, "has a path", fix));
    }
    Ok(target)
}

fn name(text: &str) -> Result<Box<str>, ValueError> {
    let wanted = "a name such as `host.docker.internal`";
    let (host, port) = authority::split(text).map_err(|_| ValueError::is_not(wanted))?;
    if port.is_some() {
        return Err(ValueError::new(wanted, "has a port", "leave it out: every port is allowed"));
    }
    Ok(host.into())
}

/// Parses the origin of a web page as a browser writes it: that of a site, one with the scheme of an app or
/// an extension, or `null` (a file, a sandboxed frame).
fn web_page(text: &str) -> Result<Box<str>, ValueError> {
    let wanted = "the origin of a page such as `http://localhost:3000`, or `null`";
    if matches!(text, "null" | "file://") {
        return Ok(text.into());
    }
    let (scheme, rest) = text.split_once("://").ok_or_else(|| ValueError::is_not(wanted))?;
    if rest.ends_with('/') {
        let fix = "leave the slash out: browsers send none";
        return Err(ValueError::new(wanted, "ends in a slash", fix));
    }
    if Scheme::parse(scheme).is_none() {
        let is_valid = |text: &str, more: &[u8]| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || more.contains(&b))
        };
        let valid = is_valid(scheme, b"+-.") && is_valid(rest, b"-._:");
        return if valid { Ok(text.into()) } else { Err(ValueError::is_not(wanted)) };
    }
    let target = origin(text)?;
    let written = text.to_ascii_lowercase();
    let default = format!(":{}", target.scheme().default_port());
    Ok(written.strip_suffix(&default).unwrap_or(&written).into())
}
