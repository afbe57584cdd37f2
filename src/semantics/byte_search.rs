//! Fast byte searches in the short texts of a request, such as paths and parameters.
//!
//! Owns: branch-free search loops that the compiler can vectorise. Never touches: the meaning of the bytes.

/// Whether the text contains a matching byte. The loop always runs to the end of the text: comparing many
/// bytes at once takes less time than comparing a few one after the other.
pub fn has_byte(text: &str, matches: impl Fn(u8) -> bool) -> bool {
    text.bytes().fold(false, |found, byte| found | matches(byte))
}

/// The union of the class bits that `table` assigns to the bytes of a text.
pub fn byte_classes(text: &str, table: &[u8; 256]) -> u8 {
    text.bytes().fold(0, |kinds, byte| kinds | table[usize::from(byte)])
}

/// Builds a table of class bits: each byte gets the bits of its entry in `classes`, all others get `others`.
pub const fn table(classes: &[(&[u8], u8)], others: u8) -> [u8; 256] {
    let mut table = [others; 256];
    let mut row = 0;
    while row < classes.len() {
        let (bytes, kind) = classes[row];
        let mut at = 0;
        while at < bytes.len() {
            table[bytes[at] as usize] = kind;
            at += 1;
        }
        row += 1;
    }
    table
}

/// Whether a text contains two given bytes next to each other.
pub fn has_pair(text: &str, pair: (u8, u8)) -> bool {
    let (bytes, following) = (text.as_bytes(), text.as_bytes().get(1..).unwrap_or_default());
    let pairs = bytes.iter().zip(following);
    let here = |(one, two): (&u8, &u8)| u8::from(*one == pair.0) & u8::from(*two == pair.1);
    pairs.fold(0, |found, bytes| found | here(bytes)) != 0
}

/// Whether a text contains three given lower-case letters next to each other, in either case. Some
/// punctuation characters also match, because only one bit distinguishes the cases.
pub fn has_three_in_any_case(text: &str, three: [u8; 3]) -> bool {
    const LOWERCASE_BIT: u8 = 0x20;
    let from = |at| text.as_bytes().get(at..).unwrap_or_default().iter();
    let is = |byte: &u8, letter| u8::from(*byte | LOWERCASE_BIT == letter);
    let here =
        |((one, two), last): ((&u8, &u8), &u8)| is(one, three[0]) & is(two, three[1]) & is(last, three[2]);
    from(0).zip(from(1)).zip(from(2)).fold(0, |found, bytes| found | here(bytes)) != 0
}

#[cfg(test)]
mod tests {
    use super::{has_byte, has_pair, has_three_in_any_case};

    #[test]
    fn bytes_pairs_and_letters_are_found_at_any_position() {
        for (text, has_a, has_two) in
            [("", false, false), ("a", true, false), ("ba", true, false), ("baa", true, true)]
        {
            assert_eq!(has_byte(text, |byte| byte == b'a'), has_a, "{text}");
            assert_eq!(has_pair(text, (b'a', b'a')), has_two, "{text}");
        }
        for (text, has) in
            [("", false), ("th", false), ("tho", true), ("METHOD", true), ("ethereum,oh", false)]
        {
            assert_eq!(has_three_in_any_case(text, *b"tho"), has, "{text}");
        }
    }
}
