//! The bearer token of the admin API.
//!
//! Owns: which tokens are accepted; a token is never printed.
//! Never touches: the comparison with a client's token (`admin`).

use std::fmt;
use std::sync::Arc;

/// A bearer token (RFC 6750). `Debug` omits its content.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

/// Why a token was refused. Never contains the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Fewer than [`SHORTEST`] bytes.
    #[error("contains fewer than {SHORTEST} characters: a token that can be guessed gives no protection")]
    Short,
    /// More than [`LONGEST`] bytes.
    #[error("contains more than {LONGEST} characters")]
    Long,
    /// More than one line, a space, a control character, or other than ASCII.
    #[error("contains more than one line of visible ASCII characters")]
    Character,
}

impl TokenError {
    /// A suggested fix.
    pub fn fix(self) -> &'static str {
        "make one: `(umask 077; head -c 32 /dev/urandom | base64 > FILE)`"
    }
}

impl Token {
    /// The token in the contents of a file, without a trailing line end.
    pub fn parse(contents: &[u8]) -> Result<Self, TokenError> {
        let text = contents.strip_suffix(b"\n").unwrap_or(contents);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if text.len() < SHORTEST {
            return Err(TokenError::Short);
        }
        if text.len() > LONGEST {
            return Err(TokenError::Long);
        }
        // A header field can carry these characters, and a shell does not change them.
        let is_visible = |byte: u8| byte.is_ascii_graphic();
        let visible = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(is_visible));
        visible.map(|text| Self(text.into())).ok_or(TokenError::Character)
    }

    /// The token itself, for comparison and for sending.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Sixteen random characters of base64 are 96 bits.
pub const SHORTEST: usize = 16;
/// More than any token needs, and still cheap to compare.
pub const LONGEST: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_accepted_without_its_line_end() {
        for contents in ["0123456789abcdef", "0123456789abcdef\n", "0123456789abcdef\r\n"] {
            let token = Token::parse(contents.as_bytes()).unwrap();
            assert_eq!(token.reveal(), "0123456789abcdef");
        }
    }

    #[test]
    fn a_short_token_or_several_lines_are_refused() {
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
    fn a_token_is_never_printed() {
        let token = Token::parse(b"hunter2-hunter2-hunter2").unwrap();
        assert!(!format!("{token:?}").contains("hunter2"));
    }
}
