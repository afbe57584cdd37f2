//! Texts that look like a secret: a bot's token, the last segment of a webhook, a JWT.
//!
//! Owns: telling random text from words, numbers, UUIDs and the hashes by which contents are
//! addressed. A secret that is short or made of words is not known by its shape: `secret_path` is for
//! those. Never touches: names.

use std::borrow::Cow;
use std::ops::Range;

use crate::semantics::redaction::names;

/// The secret parts of a raw path, in its order. Runs over the path of every request: a segment with
/// neither a digit nor `=` nor `_` is passed over.
pub(super) fn secrets_of_path(path: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let (mut start, mut before, mut suspect) = (0, 0..0, false);
    for (at, byte) in path.bytes().enumerate() {
        if byte != b'/' {
            suspect |= byte.is_ascii_digit() || matches!(byte, b'=' | b'_');
            continue;
        }
        if suspect {
            found.extend(secret_within(path, &before, start..at));
        }
        (before, start, suspect) = (start..at, at + 1, false);
    }
    if suspect {
        found.extend(secret_within(path, &before, start..path.len()));
    }
    found
}

/// The secret part of a segment that follows the segment `before`.
fn secret_within(path: &str, before: &Range<usize>, segment: Range<usize>) -> Option<Range<usize>> {
    let before = path.get(before.clone()).unwrap_or_default();
    let secret = secret_of(path.get(segment.clone())?, before)?;
    Some(segment.start + secret.start..segment.start + secret.end)
}

/// Whether a value looks like a secret.
pub(super) fn is_secret(value: &str) -> bool {
    if value.len() < SHORTEST {
        return false;
    }
    let value = decoded(value);
    let known = PREFIXES.iter().any(|(prefix, length)| {
        value.strip_prefix(prefix).is_some_and(|rest| {
            let run = rest.bytes().take_while(|byte| is_of_token(*byte)).count();
            run >= *length
        })
    });
    known || pieces(&value).any(is_random)
}

/// The secret part of a segment that follows `before`.
fn secret_of(segment: &str, before: &str) -> Option<Range<usize>> {
    if segment.contains('=')
        && let Some(secret) = value_of(segment)
    {
        return Some(secret);
    }
    if segment.len() < SHORTEST_BEHIND {
        return None;
    }
    if is_bot(segment) {
        return Some(BOT.len()..segment.len());
    }
    if names_content(segment, before) {
        return None;
    }
    let behind = || {
        let digits = segment.bytes().filter(u8::is_ascii_digit).count();
        digits > 0 && digits < segment.len() && names::announces_secret(before)
    };
    (is_secret(segment) || behind()).then_some(0..segment.len())
}

/// The value of `name=value` or `…;name=value` whose name is a secret's.
fn value_of(segment: &str) -> Option<Range<usize>> {
    let mut start = 0;
    for piece in segment.split(';') {
        if let Some((name, _)) = piece.split_once('=')
            && names::is_secret(&decoded(name))
        {
            return Some(start + name.len() + 1..segment.len());
        }
        start += piece.len() + 1;
    }
    None
}

/// `bot110201543:AAH…`, as Telegram has it.
fn is_bot(segment: &str) -> bool {
    let Some(token) = segment.strip_prefix(BOT) else { return false };
    let token = decoded(token);
    let secret = token.split_once(':').filter(|(id, _)| id.bytes().all(|b| b.is_ascii_digit()));
    secret.is_some_and(|(id, secret)| !id.is_empty() && secret.len() >= SHORTEST_BEHIND)
}

/// Whether a hash is how something public is called: a commit, a blob, an address of a chain.
fn names_content(segment: &str, before: &str) -> bool {
    let hash = DIGESTS.iter().find_map(|digest| segment.strip_prefix(digest));
    let hash = hash.or_else(|| ADDRESSED.contains(&before).then_some(segment));
    hash.is_some_and(|hash| hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !u8::try_from(c).is_ok_and(is_of_token))
}

fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// Whether letters and digits alternate as they do by chance: words have long runs of one kind, numbers
/// have one kind only. A capital before small letters is a word's beginning.
fn is_random(piece: &str) -> bool {
    if piece.len() < SHORTEST_MIXED || is_uuid(piece) {
        return false;
    }
    let (mut upper, mut lower, mut digits, mut turns) = (0_usize, 0_usize, 0_usize, 0_usize);
    let mut before = Class::Sign;
    for byte in piece.bytes() {
        let class = Class::of(byte);
        match class {
            Class::Upper => upper += 1,
            Class::Lower => lower += 1,
            Class::Digit => digits += 1,
            Class::Sign => {}
        }
        let word_begins = before == Class::Upper && class == Class::Lower;
        if before != Class::Sign && class != Class::Sign && before != class && !word_begins {
            turns += 1;
        }
        before = class;
    }
    let length = upper + lower + digits;
    let mixed = upper > 0 && lower > 0;
    let (shortest, fewest) = if mixed { (SHORTEST_MIXED, 1) } else { (SHORTEST_OF_ONE_CASE, 4) };
    length >= shortest && digits >= fewest && turns * 5 > length
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Upper,
    Lower,
    Digit,
    /// `-` and `_`.
    Sign,
}

impl Class {
    fn of(byte: u8) -> Self {
        match byte {
            b'A'..=b'Z' => Self::Upper,
            b'a'..=b'z' => Self::Lower,
            b'0'..=b'9' => Self::Digit,
            _ => Self::Sign,
        }
    }
}

/// RFC 9562 §4: most are names of things.
fn is_uuid(piece: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    piece.len() == 36
        && piece.bytes().enumerate().all(|(at, byte)| {
            if hyphens.contains(&at) { byte == b'-' } else { byte.is_ascii_hexdigit() }
        })
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy()
}

const BOT: &str = "bot";

/// Bytes of the shortest value that is known by its shape, a prefix included.
const SHORTEST: usize = 20;
/// With capitals, small letters and digits.
const SHORTEST_MIXED: usize = 24;
/// Of one case: hashes of 128 bits and keys in base 32 or 36, no identifiers of 96 bits.
const SHORTEST_OF_ONE_CASE: usize = 28;
/// Behind a segment that announces a secret.
const SHORTEST_BEHIND: usize = 8;

/// Prefixes of well-known services' keys, and how many letters, digits, `-` or `_` follow.
const PREFIXES: [(&str, usize); 19] = [
    ("AIza", 30),
    ("AKIA", 16),
    ("ASIA", 16),
    ("SG.", 20),
    ("cs_live_", 12),
    ("cs_test_", 12),
    ("eyJ", 17),
    ("ghp_", 16),
    ("gho_", 16),
    ("github_pat_", 16),
    ("glpat-", 16),
    ("hf_", 20),
    ("npm_", 20),
    ("pk_live_", 16),
    ("rk_live_", 16),
    ("sk-", 20),
    ("sk_live_", 16),
    ("whsec_", 16),
    ("xox", 17),
];

/// Prefixes of a hash by which a content is addressed.
const DIGESTS: [&str; 5] = ["sha256:", "sha512:", "sha1:", "md5:", "0x"];

/// Segments behind which a hash is the name of something public.
const ADDRESSED: [&str; 18] = [
    "address",
    "addresses",
    "blob",
    "blobs",
    "block",
    "blocks",
    "commit",
    "commits",
    "compare",
    "contract",
    "git",
    "objects",
    "statuses",
    "tree",
    "trees",
    "transactions",
    "tx",
    "txs",
];

#[cfg(test)]
mod tests {
    use super::{is_secret, secrets_of_path};
    use crate::semantics::redaction::masked;

    fn shown(path: &str) -> String {
        masked(path, &secrets_of_path(path)).into_owned()
    }

    #[test]
    fn secrets_in_paths_are_known() {
        for (path, safe) in [
            ("/bot110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/getMe", "/bot(secret)/getMe"),
            ("/bot110201543%3AAAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/x", "/bot(secret)/x"),
            ("/file/bot1:AAHdqTcvCH1/photos/1.jpg", "/file/bot(secret)/photos/1.jpg"),
            (
                "/services/T024BE7LD/B024BE7LH/X7kQ2pVd9sLm3RtYw8ZcNa5u",
                "/services/T024BE7LD/B024BE7LH/(secret)",
            ),
            (
                "/api/webhooks/81384788765712384/3iFm-_S0xZ5vQ1kKJ9a2bRrTtYyUu7Pp4",
                "/api/webhooks/81384788765712384/(secret)",
            ),
            ("/v3/9aa3d95b3bc440fa88ea12eaa4456161", "/v3/(secret)"),
            ("/hooks/2f1a6c3e-1111-4222-8333-444455556666", "/hooks/(secret)"),
            ("/a;jsessionid=short/b", "/a;jsessionid=(secret)/b"),
            ("/t/token=x/b", "/t/token=(secret)/b"),
            ("/u/eyJhbGciOiJIUzI1NiJ9.e30.abc", "/u/(secret)"),
            ("/u/ghp_abcdefabcdefabcde1", "/u/(secret)"),
            ("/u/ghp_abcdefabcdefabcdefg", "/u/(secret)"),
            ("/pay/cs_live_a1b2c3d4e5f6g7h8", "/pay/(secret)"),
        ] {
            assert_eq!(shown(path), safe, "{path}");
        }
    }

    #[test]
    fn names_numbers_and_public_hashes_stay() {
        for path in [
            "/",
            "",
            "*",
            "/api/v10/guilds/81384788765712384/roles",
            "/v1/cryptocurrency/quotes/latest",
            "/articles/My-Long-Article-Title-2024-Second-Edition",
            "/p/iPhone-15-Pro-Max-256GB-Blue-Titanium-A2849",
            "/listObjectsV2WithPrefixAndDelimiter",
            "/getUserAccountByIdentifier2",
            "/users/2f1a6c3e-1111-4222-8333-444455556666",
            "/o/507f1f77bcf86cd799439011",
            "/repos/a/b/commits/da39a3ee5e6b4b0d3255bfef95601890afd80709",
            "/v2/x/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "/tokens/0x742d35cc6634c0532925a3b844bc454e4438f44e",
            "/tracks/4iV5W9uYEdYUVa79Axb7Rh",
            "/2026-11-29T23:30:45.123456Z",
            "/bottles/1",
            "/bot/settings",
            "/keys/12345678901",
            "/charts/monthly-temperature-and-rainfall-1961-to-1990-averages",
        ] {
            assert_eq!(shown(path), path);
        }
    }

    #[test]
    fn nearly_everything_made_at_random_is_known() {
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut seed = 7_u64;
        let mut next = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            letters[usize::try_from(seed >> 33).unwrap() % letters.len()] as char
        };
        let known = (0..1000).filter(|_| is_secret(&(0..32).map(|_| next()).collect::<String>()));
        let known = known.count();
        assert!(known > 970, "{known} of 1000");
    }
}
