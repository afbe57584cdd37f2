//! The token that the admin API asks for.
//!
//! Owns: which tokens are taken, and that none is ever printed.
//! Never touches: comparing it with what a client sends (`admin`).

use std::fmt;
use std::sync::Arc;

/// A bearer token (RFC 6750). Prints without its content.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

/// Why a token was refused. Never repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Fewer than [`SHORTEST`] bytes.
    #[error("holds fewer than {SHORTEST} characters: a token that can be guessed protects nothing")]
    Short,
    /// More than [`LONGEST`] bytes.
    #[error("holds more than {LONGEST} characters")]
    Long,
    /// More than one line, a space, a control character, or other than ASCII.
    #[error("holds more than one line of visible ASCII characters")]
    Character,
}

impl TokenError {
    /// What to write instead.
    pub fn fix(self) -> &'static str {
        "make one: `(umask 077; head -c 32 /dev/urandom | base64 > FILE)`"
    }
}

impl Token {
    /// The token in the contents of a file; the line end behind it is not meant.
    pub fn parse(contents: &[u8]) -> Result<Self, TokenError> {
        let text = contents.strip_suffix(b"\n").unwrap_or(contents);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if text.len() < SHORTEST {
            return Err(TokenError::Short);
        }
        if text.len() > LONGEST {
            return Err(TokenError::Long);
        }
        let visible = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(is_visible));
        visible.map(|text| Self(text.into())).ok_or(TokenError::Character)
    }

    /// The token itself, for comparing and for sending.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What a field can carry and a line of a shell does not change.
fn is_visible(byte: u8) -> bool {
    byte.is_ascii_graphic()
}

/// Sixteen random characters of base64 are 96 bits.
pub const SHORTEST: usize = 16;
/// More than anybody needs, and cheap to look at.
pub const LONGEST: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_taken_without_its_end() {
        for contents in ["0123456789abcdef", "0123456789abcdef\n", "0123456789abcdef\r\n"] {
            let token = Token::parse(contents.as_bytes()).unwrap();
            assert_eq!(token.reveal(), "0123456789abcdef");
        }
    }

    #[test]
    fn what_can_be_guessed_or_is_no_single_line_is_refused() {
        let table = [
            ("", TokenError::Short),
            ("0123456789abcde\n", TokenError::Short),
            ("0123456789abcdef\n\n", TokenError::Character),
            ("0123456789abcdef\nsecond", TokenError::Character),
            ("0123456789 abcdef", TokenError::Character),
            (" 0123456789abcdef", TokenError::Character),
            ("0123456789abcdef\u{7f}", TokenError::Character),
            ("ümlaut-ümlaut-ümlaut", TokenError::Character),
        ];
        for (contents, error) in table {
            assert_eq!(Token::parse(contents.as_bytes()), Err(error), "{contents:?}");
        }
        assert_eq!(Token::parse(&[b'x'; LONGEST + 2]), Err(TokenError::Long));
        assert_eq!(Token::parse(&[0xff; 20]), Err(TokenError::Character));
    }

    #[test]
    fn it_is_never_printed() {
        let token = Token::parse(b"hunter2-hunter2-hunter2").unwrap();
        assert!(!format!("{token:?}").contains("hunter2"));
    }
}
