//! Names of secrets: `x_cg_pro_api_key`, `accessToken`, `X-Amz-Signature`.
//!
//! Owns: the built-in words and the splitting of a name into words, so that `accessToken` contains `token`
//! but `keyword`, `monkey`, `postcode` and `country_code` contain no secret word. When in doubt a name counts
//! as secret: its value is then hashed and hidden, which costs neither a response nor a cache hit.
//! Never touches: values.

use crate::semantics::byte_search::has_byte;

/// Whether a value with this (decoded) name is secret. Runs for every parameter of every request.
pub(super) fn is_secret(name: &str) -> bool {
    if has_byte(name, |byte| byte.is_ascii_uppercase()) {
        return is_secret_by(words(name).map(LowercaseTail::new), name) || is_in_odd_case(name);
    }
    let words = name.as_bytes().split(|byte| !byte.is_ascii_alphabetic());
    is_secret_by(words.filter(|word| !word.is_empty()), name)
}

/// Like [`is_secret`], where `words` are the words of `name` in lower case.
fn is_secret_by<W: AsRef<[u8]>>(words: impl Iterator<Item = W>, name: &str) -> bool {
    let mut before: Option<W> = None;
    for word in words {
        let previous = before.as_ref().map_or(&b""[..], W::as_ref);
        if is_secret_word(word.as_ref()) || is_secret_pair(previous, word.as_ref()) {
            return true;
        }
        before = Some(word);
    }
    // Only as the last of several words: `user_pass`, not `pass_count`.
    let last_is_pass = before.is_some_and(|last| last.as_ref() == b"pass");
    (last_is_pass && last_word_is_secret(name, b"pass"))
        || (name.len() <= LowercaseTail::CAPACITY && is_whole_name(LowercaseTail::new(name).as_ref()))
}

/// Whether two consecutive words form a secret's name although neither does alone.
fn is_secret_pair(before: &[u8], word: &[u8]) -> bool {
    match word {
        b"code" => makes_code_secret(before),
        b"phrase" | b"word" => before == b"pass",
        b"sign" => before == b"api",
        b"ticket" => matches!(before, b"access" | b"auth" | b"login" | b"service" | b"session"),
        _ => false,
    }
}

/// Whether another word precedes the last one and does not make it harmless, unlike `low_pass`.
fn last_word_is_secret(name: &str, last: &[u8]) -> bool {
    let words = words(name).map(LowercaseTail::new);
    let mut before = words.skip_while(|word| word.as_ref() == last);
    let Some(first) = before.next() else { return false };
    !matches!(first.as_ref(), b"all" | b"band" | b"boarding" | b"by" | b"high" | b"low")
}

/// Whether a run of letters is a secret word in unusual letter case: `passWord`, `apiKEy`, `TOKENid`.
fn is_in_odd_case(name: &str) -> bool {
    name.split(|c: char| !c.is_ascii_alphabetic()).any(|run| {
        let start = run.get(..ASP_SESSION.len()).unwrap_or_default();
        is_secret_word(LowercaseTail::new(run).as_ref()) || start.eq_ignore_ascii_case(ASP_SESSION)
    })
}

/// A prefix that random letters follow.
const ASP_SESSION: &str = "ASPSESSIONID";

/// Whether the name is that of a user's credential: secret, and the same in all calls of this user.
pub(super) fn is_credential(name: &str) -> bool {
    is_secret(name) && !words(name).any(|word| is_short_lived(LowercaseTail::new(word).as_ref()))
}

/// Whether the path segment after this segment is a secret: `/webhooks/…`, `/token/…`.
pub(super) fn precedes_secret(segment: &str) -> bool {
    let announces = |word: &str| {
        let word = LowercaseTail::new(word);
        is_announcing_word(word.as_ref()) || is_secret_word(word.as_ref())
    };
    let has_capitals = has_byte(segment, |byte| byte.is_ascii_uppercase());
    words(segment).any(announces) || (has_capitals && is_in_odd_case(segment))
}

/// The words of a name, separated by punctuation, digits and capitals (`accessToken`, `APIKey`).
pub(super) fn words(name: &str) -> impl Iterator<Item = &str> {
    let runs = name.split(|c: char| !c.is_ascii_alphabetic());
    runs.flat_map(split_case).filter(|word| !word.is_empty())
}

/// The words of a run of letters. A run in one letter case is one word.
fn split_case(run: &str) -> impl Iterator<Item = &str> {
    let mut rest = run;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (word, after) = rest.split_at(case_boundary(rest.as_bytes()));
        rest = after;
        Some(word)
    })
}

/// The length of the first word. It ends before a capital that follows a lower-case letter, or before the
/// last of several capitals if a lower-case letter follows.
fn case_boundary(run: &[u8]) -> usize {
    if !run.iter().any(u8::is_ascii_uppercase) {
        return run.len();
    }
    let begins = |at: usize| {
        let (before, own, next) = (run.get(at - 1), run.get(at), run.get(at + 1));
        let capital = own.is_some_and(u8::is_ascii_uppercase);
        let after_lowercase = before.is_some_and(u8::is_ascii_lowercase);
        capital && (after_lowercase || next.is_some_and(u8::is_ascii_lowercase))
    };
    (1..run.len()).find(|at| begins(*at)).unwrap_or(run.len())
}

/// A word in lower case. Of a long word only the end is kept, which is longer than any word below.
struct LowercaseTail {
    bytes: [u8; Self::CAPACITY],
    length: usize,
}

impl LowercaseTail {
    const CAPACITY: usize = 16;

    fn new(word: &str) -> Self {
        let word = word.as_bytes();
        let word = word.get(word.len().saturating_sub(Self::CAPACITY)..).unwrap_or_default();
        let mut bytes = [0; Self::CAPACITY];
        bytes.iter_mut().zip(word).for_each(|(own, byte)| *own = byte.to_ascii_lowercase());
        Self { bytes, length: word.len() }
    }
}

impl AsRef<[u8]> for LowercaseTail {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Whole names that are secret although their words are not. A plain `code` is an OAuth grant.
fn is_whole_name(name: &[u8]) -> bool {
    matches!(
        name,
        b"appid"
            | b"app_id"
            | b"app-id"
            | b"appcode"
            | b"authcode"
            | b"code"
            | b"pass"
            | b"pat"
            | b"pw"
            | b"sign"
            | b"ticket"
    )
}

/// Words that mark a name as secret at any position.
fn is_secret_word(word: &[u8]) -> bool {
    let known = matches!(
        word,
        b"apikey"
            | b"assertion"
            | b"auth"
            | b"authentication"
            | b"authorization"
            | b"bearer"
            | b"cookie"
            | b"credential"
            | b"credentials"
            | b"csrf"
            | b"hmac"
            | b"jwt"
            | b"key"
            | b"oauth"
            | b"otp"
            | b"passcode"
            | b"passphrase"
            | b"pin"
            | b"psk"
            | b"pwd"
            | b"saml"
            | b"samlrequest"
            | b"samlresponse"
            | b"session"
            | b"sid"
            | b"sig"
            | b"totp"
            | b"verifier"
            | b"xsrf"
    );
    known || ends_in_secret_word(word)
}

/// Words that are a secret word or end in one: `hapikey`, `jsessionid`. A `key` ending has exceptions:
/// `monkey`.
fn ends_in_secret_word(word: &[u8]) -> bool {
    let endings: &[&[u8]] = match word.last() {
        Some(b'd') => &[b"accesskeyid", b"passwd", b"password", b"sessid", b"sessionid", b"tokenid"],
        Some(b'e') => &[b"signature"],
        Some(b'n') => &[b"token"],
        Some(b't') => &[b"secret"],
        Some(_) | None => &[],
    };
    endings.iter().any(|ending| word.ends_with(ending))
        || word.starts_with(b"apikey")
        || (word.ends_with(b"key") && !HARMLESS_KEYS.contains(&word))
        || (word.ends_with(b"pass") && word.len() > 4 && !HARMLESS_PASSES.contains(&word))
}

/// Words that end in `key` and are not secret.
const HARMLESS_KEYS: [&[u8]; 9] =
    [b"donkey", b"flunkey", b"hockey", b"jockey", b"lackey", b"monkey", b"turkey", b"whiskey", b"mickey"];

/// Words that end in `pass` and are not secret.
const HARMLESS_PASSES: [&[u8]; 12] = [
    b"allpass",
    b"bandpass",
    b"boardingpass",
    b"bypass",
    b"compass",
    b"encompass",
    b"highpass",
    b"lowpass",
    b"overpass",
    b"surpass",
    b"trespass",
    b"underpass",
];

/// Words that make a following `code` a secret, unlike `country_code`.
fn makes_code_secret(word: &[u8]) -> bool {
    matches!(
        word,
        b"access"
            | b"activation"
            | b"backup"
            | b"confirmation"
            | b"device"
            | b"invitation"
            | b"invite"
            | b"login"
            | b"magic"
            | b"pairing"
            | b"pass"
            | b"recovery"
            | b"reset"
            | b"security"
            | b"verification"
    )
}

/// Words of secrets that are valid for one call, one page or one sign-in.
fn is_short_lived(word: &[u8]) -> bool {
    matches!(
        word,
        b"assertion"
            | b"captcha"
            | b"code"
            | b"continuation"
            | b"csrf"
            | b"cursor"
            | b"idempotency"
            | b"next"
            | b"nonce"
            | b"order"
            | b"otp"
            | b"page"
            | b"partition"
            | b"prev"
            | b"previous"
            | b"recaptcha"
            | b"saml"
            | b"samlrequest"
            | b"samlresponse"
            | b"sig"
            | b"sign"
            | b"signature"
            | b"sort"
            | b"sync"
            | b"ticket"
            | b"totp"
            | b"verifier"
            | b"xsrf"
    )
}

/// Further words of segments that a secret segment follows.
fn is_announcing_word(word: &[u8]) -> bool {
    matches!(
        word,
        b"hook"
            | b"hooks"
            | b"invites"
            | b"keys"
            | b"secrets"
            | b"tokens"
            | b"unsubscribe"
            | b"webhook"
            | b"webhooks"
    )
}

#[cfg(test)]
mod tests {
    use super::{is_credential, is_secret, precedes_secret, words};

    #[test]
    fn words_are_separated_by_punctuation_digits_and_capitals() {
        for (name, expected) in [
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
            assert_eq!(words(name).collect::<Vec<_>>().join(" "), expected, "{name}");
        }
    }

    #[test]
    fn names_of_secrets_are_recognised_by_a_word() {
        let names = "CMC_PRO_API_KEY x_cg_pro_api_key private_token client_secret refresh_token \
            accessToken X-Amz-Signature X-Amz-Credential X-Amz-Security-Token subscription-key appid \
            hapikey jwt code key apikey APIKEY token sig password auth_code authorization_code \
            code_verifier oauth_signature sessionid JSESSIONID PHPSESSID sid AWSAccessKeyId \
            awsaccesskeyid Key-Pair-Id SAMLResponse user[password] client_assertion authtoken idtoken \
            sign device_code invite_code subscriptionkey servicekey encryptionkey passkey wskey mapkey \
            sessionkey apikeyv2 pat pw dbpass userpass passWord PassWord toKen apiKEy accessTOKen passPhrase \
            user_pass db_pass userPass pass_word pass_phrase pass_code api_sign service_ticket \
            TOKENid APIKEYv2 ASPSESSIONIDQQABCDEF loginTicket";
        for name in names.split_whitespace() {
            assert!(is_secret(name), "{name}");
        }
    }

    #[test]
    fn names_that_only_contain_a_secret_word_are_not_secret() {
        let names = "keyword keywords monkey postcode country_code currency_code countryCode zip_code \
            codec author authority tokenize signal design pinned spin secretary passage side residence \
            hockey turkey page limit offset symbol convert sort fields q id user_id client_id \
            statuscode codes jockey whiskey compass bypass spat power passenger passengers ticket_id assign \
            bandPass byPass low_pass pass_count passWeight monkeyName sign_count";
        for name in names.split_whitespace().chain([""]) {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn secrets_that_change_per_call_are_not_credentials() {
        for name in ["api_key", "x_cg_pro_api_key", "access_token", "appid", "jwt", "hapikey"] {
            assert!(is_credential(name), "{name}");
        }
        for name in ["page_token", "nextToken", "code", "auth_code", "X-Amz-Signature", "sort_key", "limit"] {
            assert!(!is_credential(name), "{name}");
        }
    }

    #[test]
    fn some_segments_precede_a_secret() {
        for (segment, announces) in [
            ("webhooks", true),
            ("token", true),
            ("api-key", true),
            ("hooks", true),
            ("users", false),
            ("keywords", false),
            ("guilds", false),
        ] {
            assert_eq!(precedes_secret(segment), announces, "{segment}");
        }
    }
}
