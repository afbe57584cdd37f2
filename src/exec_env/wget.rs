//! wget: the variables tell it the proxy, only its own file names certificates.
//!
//! Owns: what is added to that file. Never touches: a `.wgetrc` itself.

use std::io;

use crate::config::file_source::{Disk, FileSource as _};
use crate::exec_env::ca_bundle::{self, CaBundle};
use crate::exec_env::private_dir::PrivateDir;
use crate::exec_env::{ExecEnv, set};

/// `WGETRC` stands in for `~/.wgetrc`: what either says is kept, and what is last counts.
pub(super) fn prepare(
    launch: &ExecEnv<'_>,
    files: &PrivateDir,
    trust: &CaBundle<'_>,
) -> io::Result<Vec<(String, String)>> {
    let theirs = theirs(launch).unwrap_or_default();
    let bundle = match setting(&theirs, "ca_certificate").and_then(ca_bundle::pem_of) {
        Some(base) => trust.write(files, "wget", &base)?,
        None => trust.bundle.clone(),
    };
    let proxy = launch.url();
    let settings = format!(
        "{theirs}\nca_certificate = {bundle}\nuse_proxy = on\n\
         http_proxy = {proxy}\nhttps_proxy = {proxy}\n"
    );
    Ok(vec![set("WGETRC", files.write("wgetrc", settings)?)])
}

/// More than anybody sets.
const LONGEST: usize = 1024 * 1024;

fn theirs(launch: &ExecEnv<'_>) -> Option<String> {
    let named = launch.said("WGETRC").map(ToOwned::to_owned);
    let path = named.or_else(|| Some(format!("{}/.wgetrc", launch.said("HOME")?)))?;
    let contents = Disk.read(path.as_ref(), LONGEST).ok()?;
    Some(String::from_utf8_lossy(&contents.bytes).into_owned())
}

/// The last value of a setting. wget reads names in any case, with `-` and `_` left out.
fn setting<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let plain = |name: &str| name.replace(['-', '_'], "").to_ascii_lowercase();
    let mut settings = text.lines().filter_map(|line| line.split_once('='));
    let found = settings.rfind(|(this, _)| plain(this.trim()) == plain(name));
    found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use crate::exec_env::wget::setting;

    #[test]
    fn the_last_setting_counts_in_any_spelling() {
        let text = "# ca_certificate = /no\nca_certificate=/a\nCA-Certificate = /b c \ntries = 3";
        assert_eq!(setting(text, "ca_certificate"), Some("/b c"));
        assert_eq!(setting(text, "user"), None);
        assert_eq!(setting("user =", "user"), None);
    }
}
