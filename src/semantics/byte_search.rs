//! Looking for bytes in the short texts that every request has.
//!
//! Owns: doing so in little time. Never touches: what the bytes mean.

/// Whether a text has such a byte. It is looked at to its end: many bytes at once are compared in less time than a
/// few one after the other.
pub fn has_byte(text: &str, is_one: impl Fn(u8) -> bool) -> bool {
    text.bytes().fold(false, |found, byte| found | is_one(byte))
}

/// What the bytes of a text are by this table: all of their bits.
pub fn kinds(text: &str, table: &[u8; 256]) -> u8 {
    text.bytes().fold(0, |kinds, byte| kinds | table[usize::from(byte)])
}

/// A table in which bytes have the bits that `of` gives them.
pub const fn table(of: &[(&[u8], u8)], others: u8) -> [u8; 256] {
    let mut table = [others; 256];
    let mut row = 0;
    while row < of.len() {
        let (bytes, kind) = of[row];
        let mut at = 0;
        while at < bytes.len() {
            table[bytes[at] as usize] = kind;
            at += 1;
        }
        row += 1;
    }
    table
}

/// Whether two bytes stand side by side in a text.
pub fn has_pair(text: &str, pair: (u8, u8)) -> bool {
    let (bytes, behind) = (text.as_bytes(), text.as_bytes().get(1..).unwrap_or_default());
    let pairs = bytes.iter().zip(behind);
    let here = |(one, two): (&u8, &u8)| u8::from(*one == pair.0) & u8::from(*two == pair.1);
    pairs.fold(0, |found, bytes| found | here(bytes)) != 0
}

/// Whether three letters, given in small, stand side by side in a text, in either case. Signs may pass for letters.
pub fn has_three_in_any_case(text: &str, three: [u8; 3]) -> bool {
    const SMALL: u8 = 0x20;
    let from = |at| text.as_bytes().get(at..).unwrap_or_default().iter();
    let is = |byte: &u8, letter| u8::from(*byte | SMALL == letter);
    let here = |((one, two), last): ((&u8, &u8), &u8)| {
        is(one, three[0]) & is(two, three[1]) & is(last, three[2])
    };
    from(0).zip(from(1)).zip(from(2)).fold(0, |found, bytes| found | here(bytes)) != 0
}

#[cfg(test)]
mod tests {
    use super::{has_byte, has_pair, has_three_in_any_case};

    #[test]
    fn bytes_and_pairs_are_found_wherever_they_stand() {
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
