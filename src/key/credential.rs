//! Fields that are credentials by their name.
//!
//! Owns: the built-in words. A credential field that they do not match still becomes part of the key, like
//! every field that is not on the list of harmless ones (`ignored_fields`). Never touches: field values.

use http::HeaderName;
use http::header::COOKIE;

use crate::key::ignored_fields::is_harmless;

/// Whether a field of this name is a credential. Fields on the list of harmless ones never are.
pub(super) fn is_built_in(name: &HeaderName) -> bool {
    !is_harmless(name) && has_credential_name(name)
}

/// The same for a name that is not on that list.
pub(super) fn has_credential_name(name: &HeaderName) -> bool {
    *name == COOKIE || has_credential_word(name.as_str())
}

/// Words that mark a credential as a separate word of the name.
const WORDS: [&str; 29] = [
    "apikey",
    "assertion",
    "auth",
    "authentication",
    "authorization",
    "authtoken",
    "bearer",
    "cert",
    "certificate",
    "cookie",
    "credential",
    "credentials",
    "dpop",
    "jwt",
    "key",
    "oauth",
    "otp",
    "passcode",
    "passwd",
    "password",
    "pin",
    "pwd",
    "secret",
    "session",
    "sid",
    "signature",
    "tenant",
    "token",
    "user",
];

/// Endings of a longer word that mark a credential, as in `accesskey` or `csrftoken`.
const ENDINGS: [&str; 8] =
    ["apikey", "secret", "session", "signature", "token", "password", "accesskey", "authkey"];

/// Beginnings of a longer word that mark a credential, as in `userid`.
const BEGINNINGS: [&str; 5] = ["auth0", "session", "tenant", "token", "userid"];

/// Whether a word of the (lower-case) name marks a credential. Called for every field that is not on the list
/// of harmless ones.
pub(super) fn has_credential_word(name: &str) -> bool {
    let mut words = name.split(['-', '_', '.']).filter(|word| !word.is_empty()).peekable();
    while let Some(word) = words.next() {
        let describes_software = word == "user" && words.peek() == Some(&"agent");
        let is_access_code = word == "access" && words.peek() == Some(&"code");
        let is_marker = WORDS.contains(&word)
            || ENDINGS.iter().any(|ending| word.ends_with(ending))
            || BEGINNINGS.iter().any(|beginning| word.starts_with(beginning))
            || (word.starts_with("user") && matches!(word, "username" | "users"));
        if (is_marker && !describes_software) || is_access_code {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::is_built_in;

    #[test]
    fn whole_words_mark_credentials_and_parts_of_words_do_not() {
        for (text, expected) in [
            ("Authorization", true),
            ("Cookie", true),
            ("X-Api-Key", true),
            ("Apikey", true),
            ("X-AccessKey", true),
            ("X-CSRFToken", true),
            ("X-CMC_PRO_API_KEY", true),
            ("X-Auth-Token", true),
            ("PRIVATE-TOKEN", true),
            ("X-User-Id", true),
            ("X-UserId", true),
            ("X-Tenant", true),
            ("DPoP", true),
            ("X-Access-Code", true),
            ("X-Password", true),
            ("X-Pin", true),
            ("X-Credential", true),
            ("X-Sid", true),
            ("X-Bearer", true),
            ("X-Jwt-Assertion", true),
            ("Cf-Access-Jwt-Assertion", true),
            ("X-Client-Cert", true),
            ("X-Amz-Security-Token", true),
            ("Monkey", false),
            ("X-Author", false),
            ("Sec-Fetch-User", false),
            ("X-Amz-User-Agent", false),
            ("X-My-User-Agent", false),
            ("User-Agent", false),
            ("X-Keyboard", false),
            ("Idempotency-Key", false),
            ("X-Zanzibar", false),
        ] {
            let name = HeaderName::from_bytes(text.to_ascii_lowercase().as_bytes()).unwrap();
            assert_eq!(is_built_in(&name), expected, "{text}");
        }
    }
}
