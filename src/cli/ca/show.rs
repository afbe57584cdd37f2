//! A certificate authority as text and as JSON.
//!
//! Owns: which of its properties are printed. Never touches: its key.

use std::io::{self, Write};
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::config::CaFiles;
use crate::frontend::ca::CertificateAuthority;

/// Prints it as text.
pub(super) fn print(authority: &CertificateAuthority, out: &mut dyn Write) -> io::Result<()> {
    let certificate = authority.certificate();
    writeln!(out, "subject      {}", certificate.subject)?;
    writeln!(out, "SHA-256      {}", certificate.fingerprint())?;
    writeln!(out, "valid        {} to {}", time(certificate.not_before), time(certificate.not_after))?;
    writeln!(out, "may sign for {}", certificate.bounds)?;
    if let Some(CaFiles { cert, key }) = authority.files() {
        writeln!(out, "certificate  {}", cert.display())?;
        writeln!(out, "key          {}, readable by this user only", key.display())?;
    }
    Ok(())
}

/// The JSON form.
pub(super) fn to_json(authority: &CertificateAuthority) -> Value {
    let certificate = authority.certificate();
    let files = authority.files();
    json!({
        "subject": certificate.subject,
        "sha256": certificate.fingerprint(),
        "not_before": time(certificate.not_before),
        "not_after": time(certificate.not_after),
        "permitted": certificate.bounds.permitted().iter().map(ToString::to_string).collect::<Vec<_>>(),
        "cert": files.map(|files| files.cert.to_string_lossy()),
        "key": files.map(|files| files.key.to_string_lossy()),
    })
}

/// The JSON form after a rotation, with the previous files in `before`.
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
