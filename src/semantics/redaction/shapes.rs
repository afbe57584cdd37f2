//! Texts with the shape of a secret: a bot's token, the last segment of a webhook, a JWT.
//!
//! Owns: the shapes and positions that make a text a secret, and those that make it a public identifier. The
//! shape of a short secret, or of one made of words, is not recognisable; `secret_path` is for those.
//! Never touches: names; the measure of randomness (`random`).

use std::borrow::Cow;
use std::ops::Range;

use crate::semantics::byte_search::{byte_classes, table};
use crate::semantics::redaction::names;
use crate::semantics::redaction::random::{is_random, is_random_though_short};

/// The secret parts of a raw path, in order. Runs for the path of every request and therefore skips segments
/// with neither a digit nor `=` nor `_`.
pub(super) fn secrets_of_path(path: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let (mut start, mut before, mut suspect) = (0, 0..0, false);
    for (at, byte) in path.bytes().enumerate() {
        if byte != b'/' {
            suspect |= is_suspect(byte);
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

/// Whether a path may contain a secret by its shape, and whether a segment of it may contain a URL.
pub(super) fn may_contain(path: &str) -> (bool, bool) {
    let kinds = byte_classes(path, &KINDS);
    (kinds & SUSPECT != 0, kinds & MAY_BE_URL != 0)
}

const SUSPECT: u8 = 1;
const MAY_BE_URL: u8 = 2;
static KINDS: [u8; 256] = table(&[(b"0123456789=_", SUSPECT), (b"@%", MAY_BE_URL)], 0);

/// Every secret has at least one such byte.
fn is_suspect(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'=' | b'_')
}

/// The secret part of a segment that follows the segment `before`.
fn secret_within(path: &str, before: &Range<usize>, segment: Range<usize>) -> Option<Range<usize>> {
    let before = path.get(before.clone()).unwrap_or_default();
    let secret = secret_of(path.get(segment.clone())?, before)?;
    Some(segment.start + secret.start..segment.start + secret.end)
}

/// Whether a value has the shape of a secret.
pub(super) fn is_secret(value: &str) -> bool {
    if value.len() < SHORTEST {
        return false;
    }
    let value = decoded(value);
    let known = PREFIXES.iter().any(|(prefix, length)| {
        value.strip_prefix(prefix).is_some_and(|rest| {
            let run = rest.bytes().take_while(|byte| is_token_byte(*byte)).count();
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
    if segment.len() < SHORTEST_AFTER {
        return None;
    }
    if is_bot_token(segment) {
        return Some(BOT_PREFIX.len()..segment.len());
    }
    if is_public_hash(segment, before) {
        return None;
    }
    let after_secret_name = || {
        let digits = segment.bytes().filter(u8::is_ascii_digit).count();
        digits > 0 && digits < segment.len() && names::precedes_secret(&decoded(before))
    };
    let is_secret_segment = is_secret(segment)
        || after_secret_name()
        || (!is_collection(before) && has_short_random_piece(segment));
    is_secret_segment.then_some(0..segment.len())
}

/// Whether a segment has a random piece of 16 letters and digits or more. In a path such a piece is as often
/// a secret link as a public identifier. A parameter does not need this test, because its name distinguishes
/// them.
fn has_short_random_piece(segment: &str) -> bool {
    pieces(&decoded(segment)).any(is_random_though_short)
}

/// Whether a segment is the name of a collection whose members have random-looking ids.
fn is_collection(segment: &str) -> bool {
    COLLECTIONS.contains(&segment)
}

/// The value of `name=value` or `…;name=value` if the name is that of a secret.
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

/// `bot110201543:AAH…`, the form of Telegram.
fn is_bot_token(segment: &str) -> bool {
    let Some(token) = segment.strip_prefix(BOT_PREFIX) else { return false };
    let token = decoded(token);
    let secret = token.split_once(':').filter(|(id, _)| id.bytes().all(|b| b.is_ascii_digit()));
    secret.is_some_and(|(id, secret)| !id.is_empty() && secret.len() >= SHORTEST_AFTER)
}

/// Whether a segment is a public hash: of a commit, of a blob, or an address in a blockchain.
fn is_public_hash(segment: &str, before: &str) -> bool {
    let hash = DIGESTS.iter().find_map(|digest| segment.strip_prefix(digest));
    let hash = hash.or_else(|| HASH_PARENTS.contains(&before).then_some(segment));
    hash.is_some_and(|hash| hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !u8::try_from(c).is_ok_and(is_token_byte))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn decoded(text: &str) -> Cow<'_, str> {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy()
}

const BOT_PREFIX: &str = "bot";

/// Minimum bytes of a value that is recognised by its shape, including a prefix.
const SHORTEST: usize = 20;
/// Minimum bytes after a segment that precedes a secret.
const SHORTEST_AFTER: usize = 8;

/// Prefixes of keys of well-known services, and the minimum number of letters, digits, `-` or `_` that
/// follow.
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

/// Prefixes of content hashes and addresses.
const DIGESTS: [&str; 5] = ["sha256:", "sha512:", "sha1:", "md5:", "0x"];

/// Segments after which a hash is a public identifier.
const HASH_PARENTS: [&str; 18] = [
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

/// Collections whose members are not accessible by their id alone.
const COLLECTIONS: [&str; 26] = [
    "accounts",
    "albums",
    "artists",
    "audiobooks",
    "boards",
    "cards",
    "channels",
    "charges",
    "comments",
    "customers",
    "episodes",
    "events",
    "issues",
    "items",
    "messages",
    "orders",
    "payments",
    "playlists",
    "posts",
    "prices",
    "products",
    "projects",
    "shows",
    "teams",
    "tracks",
    "users",
];

#[cfg(test)]
mod tests {
    use super::{is_secret, secrets_of_path};
    use crate::semantics::redaction::masked;

    fn shown(path: &str) -> String {
        masked(path, &secrets_of_path(path)).into_owned()
    }

    #[test]
    fn secrets_in_paths_are_recognised() {
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
            // 16 to 24 random letters and digits.
            ("/share/X7kQ2pVd9sLm3RtY", "/share/(secret)"),
            ("/s/q8ZcNa5uX7kQ2pVd9s", "/s/(secret)"),
            ("/d/uN4xB7wKj2Qm9TzR5cVe/file.pdf", "/d/(secret)/file.pdf"),
            ("/feed/Zk3_9aQx-7LmP2vTn8Rb.ics", "/feed/(secret)"),
            ("/v1/k7x2m9q4w8r5t1zp/quote", "/v1/(secret)/quote"),
            ("/api/MZX7Q2K9PLW4T8RB/latest", "/api/(secret)/latest"),
            ("/shares/X7kQ2pVd9sLm3RtY", "/shares/(secret)"),
            ("/download/q8ZcNa5uX7kQ2pVd9s%2Ezip", "/download/(secret)"),
        ] {
            assert_eq!(shown(path), safe, "{path}");
        }
    }

    #[test]
    fn names_numbers_and_public_hashes_are_not_hidden() {
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
            "/how-to-build-a-house-in-summer",
            "/top-10-songs-of-2024-q3",
            "/products/iphone15promax256gb",
            "/p/RTX4090Founders24GB",
            "/p/mp3player2go4kids",
            "/topics/covid19vaccine2021",
            "/listObjectsV2WithPrefix",
            "/apis/apiextensions.k8s.io/v1beta1/customresourcedefinitions",
            "/nodes/k8s-prod-eu-west-1-node-12",
            "/models/claude-3-5-sonnet-20241022",
            "/models/Meta-Llama-3-8B-Instruct",
            "/models/mixtral-8x7b-instruct-v0.1",
            "/dist/x86_64-unknown-linux-gnu",
            "/video/1920x1080-60fps-h264",
            "/video/720p_30fps_h264_aac_128k",
            "/files/IMG_20240115_093000.jpg",
            "/files/Screenshot_2024-01-15_at_09.png",
            "/backups/20240115T093000Z",
            "/tiles/LC08_L1TP_123032_20240115",
            "/ENST00000380152/CVE-2021-44228/NCT04280705",
            "/iban/DE89370400440532013000",
            "/isbn/978-3-16-148410-0",
            "/traces/4bf92f3577b34da6",
            "/o/507f191e810c19729de860ea",
            "/git/da39a3ee5e6b4b0d3255",
            "/repos/a/b/contents/da39a3e/src",
            "/runs/01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "/o/01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "/customers/cus_NffrFeUfNV2Hib",
            "/v1/albums/4aawyAB9vmqN3uQ7FjRGTy/tracks",
            "/channels/81384788765712384/messages/1102015430000000000",
            "/getBlockTransactionCountByNumber2",
            "/electronics/3d-printing-mk3s-plus",
            "/supercalifragilisticexpialidocious1",
        ] {
            assert_eq!(shown(path), path);
        }
    }

    #[test]
    fn almost_all_random_texts_are_recognised() {
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
        let mut seed = 7_u64;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed >> 33
        };
        let letter = |number: u64| letters[usize::try_from(number).unwrap() % letters.len()] as char;
        let known = (0..1000).filter(|_| is_secret(&(0..32).map(|_| letter(next())).collect::<String>()));
        let known = known.count();
        assert!(known > 970, "{known} of 1000");
        let mut of = |length: usize, base: usize| {
            (0..1000)
                .filter(|_| {
                    let made = |_| letters[usize::try_from(next()).unwrap() % base] as char;
                    let segment: String = (0..length).map(made).collect();
                    shown(&format!("/x/{segment}")) == "/x/(secret)"
                })
                .count()
        };
        for (length, least) in [(16, 800), (18, 830), (20, 850), (22, 850), (24, 900)] {
            let known = of(length, 62);
            assert!(known > least, "{known} of 1000 with {length} letters and digits");
        }
    }
}
