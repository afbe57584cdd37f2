//! Letters and digits by chance, as opposed to words, numbers, versions and ids with an order of their own.
//!
//! Owns: the measures: how often letters and digits, large and small ones take turns, and how much of a text
//! is in words. Never touches: where such a text stands (`shapes`).

use crate::semantics::redaction::names;

/// Whether letters and digits alternate as they do by chance: words have long runs of one kind, numbers
/// have one kind only. A capital before small letters is a word's beginning.
pub(super) fn is_random(piece: &str) -> bool {
    if piece.len() < SHORTEST_MIXED || is_uuid(piece) {
        return false;
    }
    let mix = CharacterMix::of(piece);
    let (shortest, fewest) =
        if mix.is_mixed() { (SHORTEST_MIXED, 1) } else { (SHORTEST_OF_ONE_CASE, 4) };
    mix.length() >= shortest && mix.digits >= fewest && mix.alternates()
}

/// The same for shorter ones, of which more are names of things: hexadecimal ones are not meant, those with
/// less than a third of letters, those of which a third is in words, and ULIDs.
pub(super) fn is_random_though_short(piece: &str) -> bool {
    let is_hex = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    if piece.len() < SHORTEST || piece.bytes().all(is_hex) || is_ulid(piece) {
        return false;
    }
    let mix = CharacterMix::of(piece);
    let fewest = if mix.is_mixed() { 1 } else { 3 };
    let letters = mix.upper + mix.lower;
    mix.digits >= fewest
        && letters * 3 >= mix.length()
        && mix.alternates()
        && in_words(piece) * 3 < mix.length()
}

/// What a text is made of.
#[derive(Default)]
struct CharacterMix {
    upper: usize,
    lower: usize,
    digits: usize,
    /// How often one of the three follows another.
    turns: usize,
}

impl CharacterMix {
    fn of(piece: &str) -> Self {
        let mut mix = Self::default();
        let mut before = CharacterClass::Sign;
        for byte in piece.bytes() {
            let class = CharacterClass::of(byte);
            match class {
                CharacterClass::Upper => mix.upper += 1,
                CharacterClass::Lower => mix.lower += 1,
                CharacterClass::Digit => mix.digits += 1,
                CharacterClass::Sign => {}
            }
            let word_begins = before == CharacterClass::Upper && class == CharacterClass::Lower;
            let apart = before == CharacterClass::Sign || class == CharacterClass::Sign;
            if !apart && before != class && !word_begins {
                mix.turns += 1;
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
        self.turns * 5 > self.length()
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
    fn of(byte: u8) -> Self {
        match byte {
            b'A'..=b'Z' => Self::Upper,
            b'a'..=b'z' => Self::Lower,
            b'0'..=b'9' => Self::Digit,
            _ => Self::Sign,
        }
    }
}

/// How many letters stand in what could be a word.
fn in_words(piece: &str) -> usize {
    names::words(piece).filter(|word| could_be_spoken(word)).map(str::len).sum()
}

/// Whether vowels and consonants are mixed as in a word of four letters or more.
fn could_be_spoken(word: &str) -> bool {
    let is_vowel = |byte: u8| b"aeiouy".contains(&byte.to_ascii_lowercase());
    let vowels = word.bytes().filter(|byte| is_vowel(*byte)).count();
    let (mut run, mut longest) = (0_usize, 0_usize);
    for byte in word.bytes() {
        run = if is_vowel(byte) { 0 } else { run + 1 };
        longest = longest.max(run);
    }
    word.len() >= 4 && vowels * 4 >= word.len() && vowels * 3 <= word.len() * 2 && longest <= 4
}

/// RFC 9562 §4: most are names of things.
fn is_uuid(piece: &str) -> bool {
    let hyphens = [8, 13, 18, 23];
    piece.len() == 36
        && piece.bytes().enumerate().all(|(at, byte)| {
            if hyphens.contains(&at) { byte == b'-' } else { byte.is_ascii_hexdigit() }
        })
}

/// A name of a thing that begins with the time: until the year 3084 with 0 or 1.
fn is_ulid(piece: &str) -> bool {
    let of_it =
        |byte: u8| byte.is_ascii_digit() || (byte.is_ascii_uppercase() && !b"ILOU".contains(&byte));
    piece.len() == 26 && piece.starts_with(['0', '1']) && piece.bytes().all(of_it)
}

/// Bytes of the shortest that is told from a name of a thing.
const SHORTEST: usize = 16;
/// With capitals, small letters and digits.
const SHORTEST_MIXED: usize = 24;
/// Of one case: hashes of 128 bits and keys in base 32 or 36, no identifiers of 96 bits.
const SHORTEST_OF_ONE_CASE: usize = 28;

#[cfg(test)]
mod tests {
    use super::{could_be_spoken, is_random_though_short};

    #[test]
    fn words_are_told_from_letters_by_chance() {
        for word in ["title", "quotes", "Instruct", "stride", "video", "promax"] {
            assert!(could_be_spoken(word), "{word}");
        }
        for word in ["pVd", "sLm", "xkcd", "qzrmn", "aaaa", "btcusd", "ab"] {
            assert!(!could_be_spoken(word), "{word}");
        }
    }

    #[test]
    fn names_of_things_are_not_by_chance() {
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
