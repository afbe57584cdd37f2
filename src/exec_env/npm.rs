//! npm, pnpm and Yarn: a `cafile` of the caller's npm settings replaces all other roots, so that Node's own
//! variable has no effect.
//!
//! Owns: finding that setting. Never touches: the settings files themselves, and npm without the setting.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::env::Env;
use crate::config::file_source::{Disk, FileSource as _};
use crate::exec_env::ca_bundle::{self, CaBundle};
use crate::exec_env::private_dir::PrivateDir;
use crate::exec_env::{ExecEnv, set};

/// The variable that takes precedence over all settings files.
const VARIABLE: &str = "npm_config_cafile";

/// Settings files of all users, where npm's own installation usually has them.
const GLOBAL: [&str; 3] = ["/usr/local/etc/npmrc", "/usr/etc/npmrc", "/etc/npmrc"];

/// Maximum size of a settings file in bytes; larger than any real one.
const MAX_SETTINGS_BYTES: usize = 1024 * 1024;

/// Names a copy of the caller's file that contains larder's certificate, too. Without such a setting, npm
/// follows `NODE_EXTRA_CA_CERTS`.
pub(super) fn prepare(
    exec_env: &ExecEnv<'_>,
    files: &PrivateDir,
    trust: &CaBundle<'_>,
) -> io::Result<Vec<(String, String)>> {
    let Some(base) = ca_file(exec_env.env).and_then(|path| ca_bundle::read_pem(&path)) else {
        return Ok(Vec::new());
    };
    Ok(vec![set(VARIABLE, trust.write(files, "npm", &base)?)])
}

/// The value of `cafile`: that of the environment, of the project, of the user, or of all users.
fn ca_file(env: &Env) -> Option<String> {
    let variable = |name: &str| env.get(name).filter(|value| !value.is_empty()).map(str::to_owned);
    // npm reads its variables in any case.
    if let Some(path) = variable(VARIABLE).or_else(|| variable("NPM_CONFIG_CAFILE")) {
        return Some(path);
    }
    let user = ["npm_config_userconfig", "NPM_CONFIG_USERCONFIG"].iter().find_map(|name| variable(name));
    let user = user.or_else(|| Some(format!("{}/.npmrc", variable("HOME")?)));
    let global =
        ["npm_config_globalconfig", "NPM_CONFIG_GLOBALCONFIG"].iter().find_map(|name| variable(name));
    let global = global.map_or_else(|| GLOBAL.map(PathBuf::from).to_vec(), |path| vec![path.into()]);
    let all = project_settings().into_iter().chain(user.map(PathBuf::from)).chain(global);
    all.filter_map(|path| Disk.read(&path, MAX_SETTINGS_BYTES).ok())
        .find_map(|contents| setting(&String::from_utf8_lossy(&contents.bytes), env))
}

/// The settings file of the project that contains the current directory.
fn project_settings() -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    let is_project =
        |directory: &&Path| ["package.json", "node_modules"].iter().any(|it| directory.join(it).exists());
    let project = here.ancestors().find(is_project).unwrap_or(&here);
    Some(project.join(".npmrc"))
}

/// The last `cafile` of a settings file, with `${NAME}` and a leading `~/` expanded as by npm.
fn setting(text: &str, env: &Env) -> Option<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let mut values =
        lines.filter_map(|line| line.split_once('=')).filter(|(name, _)| name.trim() == "cafile");
    let value = values.next_back()?.1.trim().trim_matches(['"', '\'']);
    let mut expanded = value.to_owned();
    while let Some((before, rest)) = expanded.split_once("${")
        && let Some((name, after)) = rest.split_once('}')
        && let Some(value) = env.get(name).filter(|value| !value.contains("${"))
    {
        expanded = format!("{before}{value}{after}");
    }
    let home = expanded.strip_prefix("~/").and_then(|rest| Some(format!("{}/{rest}", env.get("HOME")?)));
    Some(home.unwrap_or(expanded)).filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ca_file_of_the_settings_is_expanded() {
        let env: Env = [("HOME", "/people/me"), ("CORP", "/etc/corp")].into_iter().collect();
        for (text, expected) in [
            ("cafile=/a.pem\n; cafile=/no\n cafile = \"/b.pem\" ", Some("/b.pem")),
            ("cafile=${CORP}/ca.pem", Some("/etc/corp/ca.pem")),
            ("cafile=~/ca.pem", Some("/people/me/ca.pem")),
            ("cafile=${UNSET}/ca.pem", Some("${UNSET}/ca.pem")),
            ("ca=x\ncafiles=/y\n# cafile=/z\ncafile=\n", None),
        ] {
            assert_eq!(setting(text, &env).as_deref(), expected, "{text}");
        }
    }
}
