//! Names that tell of a secret: `x_cg_pro_api_key`, `accessToken`, `X-Amz-Signature`.
//!
//! Owns: the built-in words and how a name is split into them, so that `accessToken` holds `token` while
//! `keyword`, `monkey`, `postcode` and `country_code` hold nothing. In doubt a name is secret: its value
//! is then hashed and not shown, which costs no answer and no hit. Never touches: values.

use crate::semantics::byte_search::has_byte;

/// Whether a value under this (decoded) name is secret. Runs over every parameter of every request.
pub(super) fn is_secret(name: &str) -> bool {
    if has_byte(name, |byte| byte.is_ascii_uppercase()) {
        return is_secret_by(words(name).map(LowercaseTail::of), name) || is_in_odd_case(name);
    }
    let words = name.as_bytes().split(|byte| !byte.is_ascii_alphabetic());
    is_secret_by(words.filter(|word| !word.is_empty()).map(LowercaseWord), name)
}

/// The same, `words` being those of `name` in small letters.
fn is_secret_by<W: Word>(words: impl Iterator<Item = W>, name: &str) -> bool {
    let mut before: Option<W> = None;
    for word in words {
        let behind = before.as_ref().map_or(&b""[..], W::bytes);
        if is_word(word.bytes()) || is_behind(behind, word.bytes()) {
            return true;
        }
        before = Some(word);
    }
    // Of several words the last: `user_pass`, and no `pass_count`.
    let last_is_pass = before.is_some_and(|last| last.bytes() == b"pass");
    (last_is_pass && ends_apart(name, b"pass"))
        || (name.len() <= LowercaseTail::ROOM && is_whole(LowercaseTail::of(name).bytes()))
}

/// A word in small letters.
trait Word {
    fn bytes(&self) -> &[u8];
}

/// One that is written so.
struct LowercaseWord<'n>(&'n [u8]);

impl Word for LowercaseWord<'_> {
    fn bytes(&self) -> &[u8] {
        self.0
    }
}

/// Whether two words are a secret's name, though neither is.
fn is_behind(before: &[u8], word: &[u8]) -> bool {
    match word {
        b"code" => is_granting(before),
        b"phrase" | b"word" => before == b"pass",
        b"sign" => before == b"api",
        b"ticket" => matches!(before, b"access" | b"auth" | b"login" | b"service" | b"session"),
        _ => false,
    }
}

/// Whether the last word stands behind another with which it means a secret.
fn ends_apart(name: &str, last: &[u8]) -> bool {
    let words = words(name).map(LowercaseTail::of);
    let mut before = words.skip_while(|word| word.bytes() == last);
    let Some(first) = before.next() else { return false };
    !matches!(first.bytes(), b"all" | b"band" | b"boarding" | b"by" | b"high" | b"low")
}

/// Whether a run of letters is such a word though its capitals part it: `passWord`, `apiKEy`, `TOKENid`.
fn is_in_odd_case(name: &str) -> bool {
    name.split(|c: char| !c.is_ascii_alphabetic()).any(|run| {
        let start = run.get(..ASP_SESSION.len()).unwrap_or_default();
        is_word(LowercaseTail::of(run).bytes()) || start.eq_ignore_ascii_case(ASP_SESSION)
    })
}

/// Behind it stand letters by chance.
const ASP_SESSION: &str = "ASPSESSIONID";

/// Whether it is a credential of a user's: secret, and the same in all calls of this user.
pub(super) fn is_credential(name: &str) -> bool {
    is_secret(name) && !words(name).any(|word| is_passing(LowercaseTail::of(word).bytes()))
}

/// Whether the path segment behind one of this name is a secret: `/webhooks/…`, `/token/…`.
pub(super) fn announces_secret(segment: &str) -> bool {
    let announces = |word: &str| {
        let word = LowercaseTail::of(word);
        is_hook(word.bytes()) || is_word(word.bytes())
    };
    let has_capitals = has_byte(segment, |byte| byte.is_ascii_uppercase());
    words(segment).any(announces) || (has_capitals && is_in_odd_case(segment))
}

/// The words of a name: parted by signs, by digits and by a capital (`accessToken`, `APIKey`).
pub(super) fn words(name: &str) -> impl Iterator<Item = &str> {
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
    if !run.iter().any(u8::is_ascii_uppercase) {
        return run.len();
    }
    let begins = |at: usize| {
        let (before, own, next) = (run.get(at - 1), run.get(at), run.get(at + 1));
        let capital = own.is_some_and(u8::is_ascii_uppercase);
        let behind_small = before.is_some_and(u8::is_ascii_lowercase);
        capital && (behind_small || next.is_some_and(u8::is_ascii_lowercase))
    };
    (1..run.len()).find(|at| begins(*at)).unwrap_or(run.len())
}

/// A word in small letters; of a long one the end, which is longer than any word below.
struct LowercaseTail {
    bytes: [u8; Self::ROOM],
    length: usize,
}

impl LowercaseTail {
    const ROOM: usize = 16;

    fn of(word: &str) -> Self {
        let word = word.as_bytes();
        let word = word.get(word.len().saturating_sub(Self::ROOM)..).unwrap_or_default();
        let mut bytes = [0; Self::ROOM];
        bytes.iter_mut().zip(word).for_each(|(own, byte)| *own = byte.to_ascii_lowercase());
        Self { bytes, length: word.len() }
    }
}

impl Word for LowercaseTail {
    fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Names that are secret though no word of theirs is. `code` alone is a grant (OAuth).
fn is_whole(name: &[u8]) -> bool {
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

/// Words that tell of a secret wherever they stand as a word of their own.
fn is_word(word: &[u8]) -> bool {
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
    known || ends_as_one(word)
}

/// Words that are one, or end in one: `hapikey`, `jsessionid`. Never `key` alone: `monkey`.
fn ends_as_one(word: &[u8]) -> bool {
    let endings: &[&[u8]] = match word.last() {
        Some(b'd') => {
            &[b"accesskeyid", b"passwd", b"password", b"sessid", b"sessionid", b"tokenid"]
        }
        Some(b'e') => &[b"signature"],
        Some(b'n') => &[b"token"],
        Some(b't') => &[b"secret"],
        Some(_) | None => &[],
    };
    endings.iter().any(|ending| word.ends_with(ending))
        || word.starts_with(b"apikey")
        || (word.ends_with(b"key") && !KEYS_OF_NOTHING.contains(&word))
        || (word.ends_with(b"pass") && word.len() > 4 && !PASSES_OF_NOTHING.contains(&word))
}

/// Words that end in `key` and open nothing.
const KEYS_OF_NOTHING: [&[u8]; 9] = [
    b"donkey", b"flunkey", b"hockey", b"jockey", b"lackey", b"monkey", b"turkey", b"whiskey",
    b"mickey",
];

/// Words that end in `pass` and open nothing.
const PASSES_OF_NOTHING: [&[u8]; 12] = [
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

/// Words that make a `code` behind them a grant; `country_code` is none.
fn is_granting(word: &[u8]) -> bool {
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

/// Words of secrets that are for one call, one page or one sign-in.
fn is_passing(word: &[u8]) -> bool {
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

/// Further segments behind which a path holds a secret.
fn is_hook(word: &[u8]) -> bool {
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
    fn words_that_only_contain_such_a_word_are_not() {
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
    fn what_changes_from_call_to_call_tells_no_user() {
        for name in ["api_key", "x_cg_pro_api_key", "access_token", "appid", "jwt", "hapikey"] {
            assert!(is_credential(name), "{name}");
        }
        for name in
            ["page_token", "nextToken", "code", "auth_code", "X-Amz-Signature", "sort_key", "limit"]
        {
            assert!(!is_credential(name), "{name}");
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
