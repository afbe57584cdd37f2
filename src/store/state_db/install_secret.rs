//! The secret of this installation, generated once: keys derived with it do not reveal a credential.
//!
//! Owns: the file `state/secret`, readable by its owner only, also while another larder has locked the rest
//! of the state. Never touches: the derived keys.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::store::private_file;

/// 32 random bytes. Never printed.
#[derive(Clone)]
pub struct Secret([u8; 32]);

/// Reason why there is no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SecretError {
    /// Other users may read it.
    #[error("{} may be read by others: `chmod 600` it, or remove it and lose the stored entries", .0.display())]
    Open(PathBuf),
    /// It could not be read or created.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

impl Secret {
    /// The secret in the directory `state`, created if there is none yet. A damaged one is set aside, with a
    /// line in the log: entries stored with it are then not found any more.
    pub fn load_or_create(state: &Path) -> Result<Self, SecretError> {
        let path = state.join("secret");
        let io = |source| SecretError::Io { path: path.clone(), source };
        match read(&path)? {
            SecretFile::Whole(secret) => return Ok(secret),
            SecretFile::Damaged => set_aside_damaged(&path).map_err(io)?,
            SecretFile::Nothing => {}
        }
        private_file::create_dir(state).map_err(io)?;
        create(state, &path).map_err(io)?;
        // Another larder may have created it first: its secret counts.
        match read(&path)? {
            SecretFile::Whole(secret) => Ok(secret),
            SecretFile::Damaged | SecretFile::Nothing => Err(io(io::ErrorKind::InvalidData.into())),
        }
    }

    /// A configured secret.
    pub fn from_bytes(secret: [u8; 32]) -> Self {
        Self(secret)
    }

    /// A random secret for this process only.
    pub fn ephemeral() -> Self {
        Self(rand::random())
    }

    /// The secret derived from this one for a purpose: knowing one derived secret reveals no other.
    #[expect(clippy::missing_panics_doc, reason = "an HMAC takes a key of any length")]
    pub fn derived(&self, purpose: &str) -> [u8; 32] {
        let mut mac: Hmac<Sha256> = Hmac::new_from_slice(&self.0).expect("an HMAC takes a key of any length");
        mac.update(purpose.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

enum SecretFile {
    Whole(Secret),
    Damaged,
    Nothing,
}

fn set_aside_damaged(path: &Path) -> io::Result<()> {
    let set_aside = path.with_extension(format!("damaged-{:08x}", rand::random::<u32>()));
    tracing::error!(
        secret = %path.display(),
        aside = %set_aside.display(),
        "The secret of all keys is damaged and was set aside; stored entries are not found any more"
    );
    fs::rename(path, set_aside)
}

fn read(path: &Path) -> Result<SecretFile, SecretError> {
    let io = |source| SecretError::Io { path: path.to_owned(), source };
    let Some(file) = private_file::existing(File::open(path)).map_err(io)? else {
        return Ok(SecretFile::Nothing);
    };
    if file.metadata().map_err(io)?.mode() & 0o077 != 0 {
        return Err(SecretError::Open(path.to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(100).read_to_end(&mut bytes).map_err(io)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(parse(text.trim_end()).map_or(SecretFile::Damaged, SecretFile::Whole))
}

fn parse(text: &str) -> Option<Secret> {
    let mut secret = [0; 32];
    for (at, byte) in secret.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    (text.len() == 64).then_some(Secret(secret))
}

/// Creates the file complete or not at all, and never over an existing one.
fn create(state: &Path, path: &Path) -> io::Result<()> {
    let secret: [u8; 32] = rand::random();
    let text: String = secret.iter().map(|byte| format!("{byte:02x}")).chain(["\n".into()]).collect();
    let new = private_file::write_temp(path, text.as_bytes())?;
    let linked = fs::hard_link(&new, path);
    fs::remove_file(&new)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => private_file::sync_dir(state),
    }
}

/// Does not print the secret.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
