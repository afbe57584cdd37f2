//! wget: reads the proxy from the variables, but certificates only from its own settings file.
//!
//! Owns: the settings that are added to a copy of that file. Never touches: the user's `.wgetrc` itself.

use std::io;

use crate::config::file_source::{Disk, FileSource as _};
use crate::exec_env::ca_bundle::{self, CaBundle};
use crate::exec_env::private_dir::PrivateDir;
use crate::exec_env::{ExecEnv, set};

/// Writes a settings file for `WGETRC`, which replaces `~/.wgetrc`. The file begins with the settings of the
/// caller's file; wget uses the last value of a setting.
pub(super) fn prepare(
    exec_env: &ExecEnv<'_>,
    files: &PrivateDir,
    trust: &CaBundle<'_>,
) -> io::Result<Vec<(String, String)>> {
    let theirs = theirs(exec_env).unwrap_or_default();
    let bundle = match setting(&theirs, "ca_certificate").and_then(ca_bundle::read_pem) {
        Some(base) => trust.write(files, "wget", &base)?,
        None => trust.bundle_path.clone(),
    };
    let proxy = exec_env.proxy_url();
    let settings = format!(
        "{theirs}\nca_certificate = {bundle}\nuse_proxy = on\n\
         http_proxy = {proxy}\nhttps_proxy = {proxy}\n"
    );
    Ok(vec![set("WGETRC", files.write("wgetrc", settings)?)])
}

/// Maximum size of a settings file in bytes; larger than any real one.
const MAX_SETTINGS_BYTES: usize = 1024 * 1024;

fn theirs(exec_env: &ExecEnv<'_>) -> Option<String> {
    let named = exec_env.caller_variable("WGETRC").map(ToOwned::to_owned);
    let path = named.or_else(|| Some(format!("{}/.wgetrc", exec_env.caller_variable("HOME")?)))?;
    let contents = Disk.read(path.as_ref(), MAX_SETTINGS_BYTES).ok()?;
    Some(String::from_utf8_lossy(&contents.bytes).into_owned())
}

/// The last value of a setting. wget compares names without case, `-` and `_`.
fn setting<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let normalized = |name: &str| name.replace(['-', '_'], "").to_ascii_lowercase();
    let mut settings = text.lines().filter_map(|line| line.split_once('='));
    let found = settings.rfind(|(this, _)| normalized(this.trim()) == normalized(name));
    found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use crate::exec_env::wget::setting;

    #[test]
    fn the_last_value_of_a_setting_applies_in_any_spelling() {
        let text = "# ca_certificate = /no\nca_certificate=/a\nCA-Certificate = /b c \ntries = 3";
        assert_eq!(setting(text, "ca_certificate"), Some("/b c"));
        assert_eq!(setting(text, "user"), None);
        assert_eq!(setting("user =", "user"), None);
    }
}
