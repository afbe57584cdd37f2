//! Names that tell of a secret: `x_cg_pro_api_key`, `accessToken`, `X-Amz-Signature`.
//!
//! Owns: the built-in words and how a name is split into them, so that `accessToken` holds `token` while
//! `keyword`, `monkey`, `postcode` and `country_code` hold nothing. In doubt a name is secret: its value
//! is then hashed and not shown, which costs nobody an answer. Never touches: values.

/// Whether a value under this (decoded) name is secret.
pub(super) fn is_secret(name: &str) -> bool {
    has(&WHOLE, name) || words(name).any(is_word) || is_code(name)
}

/// Whether it is a credential of a user's: secret, and the same in all calls of this user.
pub(super) fn is_credential(name: &str) -> bool {
    is_secret(name) && !is_code(name) && !words(name).any(|word| has(&PASSING, word))
}

/// Whether the path segment behind one of this name is a secret: `/webhooks/…`, `/token/…`.
pub(super) fn announces_secret(segment: &str) -> bool {
    words(segment).any(|word| has(&HOOKS, word) || is_word(word))
}

fn is_word(word: &str) -> bool {
    has(&WORDS, word) || ENDINGS.iter().any(|ending| ends_with(word, ending))
}

/// `code` is a grant where it stands alone (OAuth) or behind such a word; `country_code` is none.
fn is_code(name: &str) -> bool {
    let mut before = None;
    for word in words(name) {
        let grants = before.is_some_and(|before| has(&GRANTS, before));
        if word.eq_ignore_ascii_case("code") && grants {
            return true;
        }
        before = Some(word);
    }
    name.eq_ignore_ascii_case("code") || name.eq_ignore_ascii_case("authcode")
}

/// The words of a name: parted by signs, by digits and by a capital (`accessToken`, `APIKey`).
fn words(name: &str) -> impl Iterator<Item = &str> {
    let runs = name.split(|c: char| !c.is_ascii_alphabetic());
    runs.flat_map(humps).filter(|word| !word.is_empty())
}

/// The words of a run of letters; a run in one case is one word.
fn humps(run: &str) -> impl Iterator<Item = &str> {
    let mut rest = run;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (word, after) = rest.split_at(hump(rest.as_bytes()));
        rest = after;
        Some(word)
    })
}

/// How long the first word is: up to a capital behind a small letter, or up to the last of several
/// capitals before a small one.
fn hump(run: &[u8]) -> usize {
    let begins = |at: usize| {
        let (before, own, next) = (run.get(at - 1), run.get(at), run.get(at + 1));
        let capital = own.is_some_and(u8::is_ascii_uppercase);
        let behind_small = before.is_some_and(u8::is_ascii_lowercase);
        capital && (behind_small || next.is_some_and(u8::is_ascii_lowercase))
    };
    (1..run.len()).find(|at| begins(*at)).unwrap_or(run.len())
}

fn has(list: &[&str], word: &str) -> bool {
    list.iter().any(|one| one.eq_ignore_ascii_case(word))
}

fn ends_with(word: &str, ending: &str) -> bool {
    let start = word.len().checked_sub(ending.len());
    start.and_then(|at| word.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(ending))
}

/// Names that are secret though no word of theirs is.
const WHOLE: [&str; 8] =
    ["appid", "app_id", "app-id", "appcode", "sign", "ticket", "pass", "key_pair_id"];

/// Words that tell of a secret wherever they stand as a word of their own.
const WORDS: [&str; 35] = [
    "apikey",
    "assertion",
    "auth",
    "authentication",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "credentials",
    "csrf",
    "hmac",
    "jwt",
    "key",
    "oauth",
    "otp",
    "passcode",
    "passphrase",
    "passwd",
    "password",
    "pin",
    "psk",
    "pwd",
    "saml",
    "samlrequest",
    "samlresponse",
    "secret",
    "sessid",
    "session",
    "sid",
    "sig",
    "signature",
    "token",
    "totp",
    "verifier",
    "xsrf",
];

/// What a longer word ends in that is one: `hapikey`, `jsessionid`. Never `key` alone: `monkey`.
const ENDINGS: [&str; 18] = [
    "accesskey",
    "accesskeyid",
    "apikey",
    "appkey",
    "authkey",
    "consumerkey",
    "licensekey",
    "masterkey",
    "passwd",
    "password",
    "privatekey",
    "secret",
    "secretkey",
    "sessid",
    "sessionid",
    "signature",
    "token",
    "userkey",
];

/// What makes a `code` behind it a grant.
const GRANTS: [&str; 14] = [
    "access",
    "activation",
    "backup",
    "confirmation",
    "device",
    "invitation",
    "invite",
    "login",
    "magic",
    "pairing",
    "recovery",
    "reset",
    "security",
    "verification",
];

/// Words of secrets that are for one call, one page or one sign-in.
const PASSING: [&str; 26] = [
    "assertion",
    "captcha",
    "code",
    "continuation",
    "csrf",
    "cursor",
    "idempotency",
    "next",
    "nonce",
    "order",
    "otp",
    "page",
    "partition",
    "prev",
    "previous",
    "recaptcha",
    "saml",
    "sig",
    "sign",
    "signature",
    "sort",
    "sync",
    "ticket",
    "totp",
    "verifier",
    "xsrf",
];

/// Further segments behind which a path holds a secret.
const HOOKS: [&str; 8] =
    ["hook", "hooks", "webhook", "webhooks", "tokens", "secrets", "invites", "unsubscribe"];

#[cfg(test)]
mod tests {
    use super::{announces_secret, is_credential, is_secret, words};

    #[test]
    fn words_are_parted_by_signs_digits_and_capitals() {
        for (name, parted) in [
            ("CMC_PRO_API_KEY", "CMC PRO API KEY"),
            ("accessToken", "access Token"),
            ("myAPIKey", "my API Key"),
            ("X-Amz-Signature", "X Amz Signature"),
            ("oauth2token", "oauth token"),
            ("filter[token]", "filter token"),
            ("keyword", "keyword"),
            ("ÄKey", "Key"),
            ("", ""),
        ] {
            assert_eq!(words(name).collect::<Vec<_>>().join(" "), parted, "{name}");
        }
    }

    #[test]
    fn names_of_secrets_are_known_by_a_word() {
        for name in [
            "CMC_PRO_API_KEY",
            "x_cg_pro_api_key",
            "private_token",
            "client_secret",
            "refresh_token",
            "accessToken",
            "X-Amz-Signature",
            "X-Amz-Credential",
            "X-Amz-Security-Token",
            "subscription-key",
            "appid",
            "hapikey",
            "jwt",
            "code",
            "key",
            "apikey",
            "APIKEY",
            "token",
            "sig",
            "password",
            "auth_code",
            "authorization_code",
            "code_verifier",
            "oauth_signature",
            "sessionid",
            "JSESSIONID",
            "PHPSESSID",
            "sid",
            "AWSAccessKeyId",
            "awsaccesskeyid",
            "Key-Pair-Id",
            "SAMLResponse",
            "user[password]",
            "client_assertion",
            "authtoken",
            "idtoken",
            "sign",
            "device_code",
            "invite_code",
        ] {
            assert!(is_secret(name), "{name}");
        }
    }

    #[test]
    fn words_that_only_contain_such_a_word_are_not() {
        for name in [
            "keyword",
            "keywords",
            "monkey",
            "postcode",
            "country_code",
            "currency_code",
            "countryCode",
            "zip_code",
            "codec",
            "author",
            "authority",
            "tokenize",
            "signal",
            "design",
            "pinned",
            "spin",
            "secretary",
            "passage",
            "side",
            "residence",
            "hockey",
            "turkey",
            "page",
            "limit",
            "offset",
            "symbol",
            "convert",
            "sort",
            "fields",
            "q",
            "id",
            "user_id",
            "client_id",
            "statuscode",
            "codes",
            "",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn what_changes_from_call_to_call_tells_no_user() {
        for (name, tells) in [
            ("api_key", true),
            ("x_cg_pro_api_key", true),
            ("access_token", true),
            ("private_token", true),
            ("appid", true),
            ("jwt", true),
            ("hapikey", true),
            ("page_token", false),
            ("nextToken", false),
            ("code", false),
            ("auth_code", false),
            ("X-Amz-Signature", false),
            ("sort_key", false),
            ("limit", false),
        ] {
            assert_eq!(is_credential(name), tells, "{name}");
        }
    }

    #[test]
    fn segments_that_announce_a_secret() {
        for (segment, announces) in [
            ("webhooks", true),
            ("token", true),
            ("api-key", true),
            ("hooks", true),
            ("users", false),
            ("keywords", false),
            ("guilds", false),
        ] {
            assert_eq!(announces_secret(segment), announces, "{segment}");
        }
    }
}
