//! Which fields are credentials by their name alone.
//!
//! Owns: the built-in words. What they miss still tells answers apart, as every field does that is not
//! on the list of harmless ones (`harmless`).
//! Never touches: values.

use http::HeaderName;
use http::header::COOKIE;

use crate::key::ignored_fields::is_harmless;

/// Whether a field of this name is a credential wherever it appears. What is on the list of harmless
/// fields never is.
pub(super) fn is_built_in(name: &HeaderName) -> bool {
    !is_harmless(name) && has_telling_name(name)
}

/// The same of a name that is not on that list.
pub(super) fn has_telling_name(name: &HeaderName) -> bool {
    *name == COOKIE || has_telling_word(name.as_str())
}

/// Words that are a credential's wherever they stand as a word of their own.
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

/// What a longer word may end in to be one, as `accesskey` or `csrftoken`.
const ENDINGS: [&str; 8] =
    ["apikey", "secret", "session", "signature", "token", "password", "accesskey", "authkey"];

/// What a longer word may begin with to be one, as `userid`.
const BEGINNINGS: [&str; 5] = ["auth0", "session", "tenant", "token", "userid"];

/// Whether one of the words in the (lower-case) name tells of a credential. This runs over every field
/// that is not on the list of harmless ones.
pub(super) fn has_telling_word(name: &str) -> bool {
    let mut words = name.split(['-', '_', '.']).filter(|word| !word.is_empty()).peekable();
    while let Some(word) = words.next() {
        let describes_software = word == "user" && words.peek() == Some(&"agent");
        let codes = word == "access" && words.peek() == Some(&"code");
        let tells = WORDS.contains(&word)
            || ENDINGS.iter().any(|ending| word.ends_with(ending))
            || BEGINNINGS.iter().any(|beginning| word.starts_with(beginning))
            || (word.starts_with("user") && matches!(word, "username" | "users"));
        if (tells && !describes_software) || codes {
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
    fn words_tell_credentials_and_parts_of_words_do_not() {
        for (text, is) in [
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
            assert_eq!(is_built_in(&name), is, "{text}");
        }
    }
}
