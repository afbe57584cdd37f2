//! `upstreams.*.mount`: a path of larder's own that leads to the upstream, for clients that take a
//! base URL and no proxy.
//!
//! Owns: which origin it leads to. Never touches: requests.

use std::sync::Arc;

use crate::config::diagnostics::Wrong;
use crate::config::file::Value;
use crate::config::reader::{At, Reader, Section};
use crate::config::{Mount, Upstream, UpstreamHost};
use crate::semantics::target::{Scheme, Target};

/// `mount: /cmc` leads to the upstream's first host by https; `mount: { path: /cmc, to: URL }` to
/// this origin.
pub(super) fn read(
    one: &mut Section<'_>,
    hosts: &[UpstreamHost],
    earlier: &[Arc<Upstream>],
    reader: &mut Reader<'_>,
) -> Option<Mount> {
    let node = one.get("mount")?;
    let at = one.at("mount");
    if !matches!(node.value, Value::Map(_)) {
        let path = reader.scalar(node, &at, path)?;
        unique(&path, earlier, reader);
        return first_host(path, hosts, reader);
    }
    let mut section = reader.section(node, &at)?;
    let known = reader.problems.len();
    let path = section.scalar(reader, "path", path);
    if path.is_none() && reader.problems.len() == known {
        let fix = "write `mount: { path: /api, to: \"https://api.example\" }`";
        reader.problem(section.place, &section.at("path"), "is missing", fix);
    }
    let known = reader.problems.len();
    let to = section.scalar(reader, "to", origin);
    let is_wrong = reader.problems.len() > known;
    section.finish(reader);
    let path = path?;
    unique(&path, earlier, reader);
    let Some(At { value: target, place, path: at }) = to else {
        return if is_wrong { None } else { first_host(path, hosts, reader) };
    };
    if !hosts.iter().any(|host| host.host.matches(target.host(), target.port())) {
        let what = format!("`{}` is none of this upstream's hosts", target.host());
        reader.problem(place, &at, what, "add it to `hosts`, or mount one of them");
        return None;
    }
    let (host, port) = (target.host().into(), Some(target.port()));
    Some(Mount { path: path.value, scheme: target.scheme(), host, port })
}

/// One that several mounts have leads nowhere in particular.
fn unique(path: &At<Box<str>>, earlier: &[Arc<Upstream>], reader: &mut Reader<'_>) {
    let same = |up: &&Arc<Upstream>| up.mount.as_ref().is_some_and(|m| m.path == path.value);
    if let Some(other) = earlier.iter().find(same) {
        let what = format!("upstream `{}` has this mount already", other.name);
        reader.problem(path.place, &path.path, what, "choose another path");
    }
}

fn first_host(
    path: At<Box<str>>,
    hosts: &[UpstreamHost],
    reader: &mut Reader<'_>,
) -> Option<Mount> {
    // Without hosts there is a complaint already.
    let first = hosts.first()?;
    let Some(host) = first.host.exact() else {
        let what = format!("leads to `{}`, which is not one host", first.host);
        let fix =
            "name one first in `hosts`, or write `mount: { path: …, to: \"https://api.example\" }`";
        reader.problem(path.place, &path.path, what, fix);
        return None;
    };
    let port = first.port.or(first.host.port());
    Some(Mount { path: path.value, scheme: Scheme::Https, host: host.into(), port })
}

fn path(text: &str) -> Result<Box<str>, Wrong> {
    let wanted = "a path such as `/coinmarketcap`";
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-_.~".contains(&b);
    if !text.starts_with('/') || !text.bytes().all(plain) {
        let fix = "begin with a slash; letters, digits, `-`, `_`, `.`, `~` and slashes may follow";
        return Err(Wrong::new(wanted, "is not such a path", fix));
    }
    let text = text.strip_suffix('/').unwrap_or(text);
    let empty =
        text.is_empty() || text.split('/').skip(1).any(|part| matches!(part, "" | "." | ".."));
    if empty {
        let fix = "name at least one segment, and no empty one, `.` or `..`";
        return Err(Wrong::new(wanted, "would not tell its requests from others", fix));
    }
    Ok(text.into())
}

fn origin(text: &str) -> Result<Target, Wrong> {
    let wanted = "an origin such as `https://api.example` or `http://127.0.0.1:9001`";
    let target = Target::absolute(text).map_err(|_| Wrong::is_not(wanted))?;
    if target.path_and_query() != "/" {
        let fix = "leave the path out: what follows the mount is the path";
        return Err(Wrong::new(wanted, "has a path", fix));
    }
    Ok(target)
}
