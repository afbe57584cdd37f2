//! An authority in words and in JSON.
//!
//! Owns: what of it is told. Never touches: its key.

use std::io::{self, Write};
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::config::CaFiles;
use crate::frontend::ca::CertificateAuthority;

/// For people.
pub(super) fn print(authority: &CertificateAuthority, out: &mut dyn Write) -> io::Result<()> {
    let own = authority.certificate();
    writeln!(out, "subject      {}", own.subject)?;
    writeln!(out, "SHA-256      {}", own.fingerprint())?;
    writeln!(out, "valid        {} to {}", time(own.not_before), time(own.not_after))?;
    writeln!(out, "vouches for  {}", own.bounds)?;
    if let Some(CaFiles { cert, key }) = authority.files() {
        writeln!(out, "certificate  {}", cert.display())?;
        writeln!(out, "key          {}, this user's alone", key.display())?;
    }
    Ok(())
}

/// For programs.
pub(super) fn to_json(authority: &CertificateAuthority) -> Value {
    let own = authority.certificate();
    let files = authority.files();
    json!({
        "subject": own.subject,
        "sha256": own.fingerprint(),
        "not_before": time(own.not_before),
        "not_after": time(own.not_after),
        "permitted": own.bounds.permitted().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "cert": files.map(|files| files.cert.to_string_lossy()),
        "key": files.map(|files| files.key.to_string_lossy()),
    })
}

/// The same after a rotation that kept these.
pub(super) fn rotated_to_json(authority: &CertificateAuthority, kept: Option<&CaFiles>) -> Value {
    let mut value = to_json(authority);
    value["before"] = kept.map_or(
        Value::Null,
        |kept| json!({ "cert": kept.cert.to_string_lossy(), "key": kept.key.to_string_lossy() }),
    );
    value
}

fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}
