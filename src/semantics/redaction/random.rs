//! Detection of random letters and digits, as opposed to words, numbers, versions and structured identifiers.
//!
//! Owns: the measures: how often upper-case letters, lower-case letters and digits alternate, and how much of
//! a text consists of words. Never touches: the position of the text (`shapes`).

use crate::semantics::redaction::names;

/// Whether letters and digits alternate as in random text. Words have long runs of one kind, and numbers have
/// only one kind. A capital before lower-case letters counts as the beginning of a word.
pub(super) fn is_random(piece: &str) -> bool {
    if piece.len() < SHORTEST_MIXED || is_uuid(piece) {
        return false;
    }
    let mix = CharacterMix::new(piece);
    let (min_length, min_digits) =
        if mix.is_mixed() { (SHORTEST_MIXED, 1) } else { (SHORTEST_OF_ONE_CASE, 4) };
    mix.length() >= min_length && mix.digits >= min_digits && mix.alternates()
}

/// Like [`is_random`] for shorter texts, which are more often public identifiers. It excludes hexadecimal
/// texts, texts with less than a third of letters, texts of which a third is in words, and ULIDs.
pub(super) fn is_random_though_short(piece: &str) -> bool {
    let is_hex = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    if piece.len() < SHORTEST || piece.bytes().all(is_hex) || is_ulid(piece) {
        return false;
    }
    let mix = CharacterMix::new(piece);
    let min_digits = if mix.is_mixed() { 1 } else { 3 };
    let letters = mix.upper + mix.lower;
    mix.digits >= min_digits
        && letters * 3 >= mix.length()
        && mix.alternates()
        && in_words(piece) * 3 < mix.length()
}

/// The numbers of characters of each class in a text.
#[derive(Default)]
struct CharacterMix {
    upper: usize,
    lower: usize,
    digits: usize,
    /// How many times the class changes between neighbouring characters.
    changes: usize,
}

impl CharacterMix {
    fn new(piece: &str) -> Self {
        let mut mix = Self::default();
        let mut before = CharacterClass::Sign;
        for byte in piece.bytes() {
            let class = CharacterClass::from_byte(byte);
            match class {
                CharacterClass::Upper => mix.upper += 1,
                CharacterClass::Lower => mix.lower += 1,
                CharacterClass::Digit => mix.digits += 1,
                CharacterClass::Sign => {}
            }
            let word_begins = before == CharacterClass::Upper && class == CharacterClass::Lower;
            let at_sign = before == CharacterClass::Sign || class == CharacterClass::Sign;
            if !at_sign && before != class && !word_begins {
                mix.changes += 1;
            }
            before = class;
        }
        mix
    }

    fn length(&self) -> usize {
        self.upper + self.lower + self.digits
    }

    fn is_mixed(&self) -> bool {
        self.upper > 0 && self.lower > 0
    }

    fn alternates(&self) -> bool {
        self.changes * 5 > self.length()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CharacterClass {
    Upper,
    Lower,
    Digit,
    /// `-` and `_`.
    Sign,
}

impl CharacterClass {
    fn from_byte(byte: u8) -> Self {
        match byte {
            b'A'..=b'Z' => Self::Upper,
            b'a'..=b'z' => Self::Lower,
            b'0'..=b'9' => Self::Digit,
            _ => Self::Sign,
        }
    }
}

/// The number of letters in parts that could be words.
fn in_words(piece: &str) -> usize {
    names::words(piece).filter(|word| could_be_word(word)).map(str::len).sum()
}

/// Whether vowels and consonants alternate as in a word of four letters or more.
fn could_be_word(word: &str) -> bool {
    let is_vowel = |byte: u8| b"aeiouy".contains(&byte.to_ascii_lowercase());
    let vowels = word.bytes().filter(|byte| is_vowel(*byte)).count();
    let (mut run, mut longest) = (0_usize, 0_usize);
    for byte in word.bytes() {
        run = if is_vowel(byte) { 0 } else { run + 1 };
        longest = longest.max(run);
    }
    word.len() >= 4 && vowels * 4 >= word.len() && vowels * 3 <= word.len() * 2 && longest <= 4
}

/// RFC 9562 §4. Most UUIDs are public identifiers.
fn is_uuid(piece: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    piece.len() == 36
        && piece
            .bytes()
            .enumerate()
            .all(|(at, byte)| if hyphens.contains(&at) { byte == b'-' } else { byte.is_ascii_hexdigit() })
}

/// A public identifier that begins with a timestamp: until the year 3084 with 0 or 1.
fn is_ulid(piece: &str) -> bool {
    let is_allowed =
        |byte: u8| byte.is_ascii_digit() || (byte.is_ascii_uppercase() && !b"ILOU".contains(&byte));
    piece.len() == 26 && piece.starts_with(['0', '1']) && piece.bytes().all(is_allowed)
}

/// Minimum bytes of a random text that can be distinguished from a public identifier.
const SHORTEST: usize = 16;
/// Minimum bytes with capitals, lower-case letters and digits.
const SHORTEST_MIXED: usize = 24;
/// Minimum bytes in one letter case: covers hashes of 128 bits and keys in base 32 or 36, not identifiers of
/// 96 bits.
const SHORTEST_OF_ONE_CASE: usize = 28;

#[cfg(test)]
mod tests {
    use super::{could_be_word, is_random_though_short};

    #[test]
    fn words_are_distinguished_from_random_letters() {
        for word in ["title", "quotes", "Instruct", "stride", "video", "promax"] {
            assert!(could_be_word(word), "{word}");
        }
        for word in ["pVd", "sLm", "xkcd", "qzrmn", "aaaa", "btcusd", "ab"] {
            assert!(!could_be_word(word), "{word}");
        }
    }

    #[test]
    fn public_identifiers_are_not_random() {
        for piece in [
            "507f191e810c19729de860ea",
            "2f1a6c3e-1111-4222-8333",
            "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "20240115T093000Z",
            "81384788765712384",
            "listObjectsV2WithPrefix",
            "iphone15promax256gb",
        ] {
            assert!(!is_random_though_short(piece), "{piece}");
        }
        for piece in ["X7kQ2pVd9sLm3RtY", "k7x2m9q4w8r5t1zp", "MZX7Q2K9PLW4T8RB"] {
            assert!(is_random_though_short(piece), "{piece}");
        }
    }
}
