//! Encryption of a response's fields on disk: a `Location`, a `Link` or a cookie may contain a token that is
//! valid for more than one response, and only its client receives it in clear.
//!
//! Owns: AES-256-GCM (NIST SP 800-38D) under a key derived from the secret of this installation, a random
//! nonce before each text. A text that cannot be decrypted counts as damaged: it costs a hit. Never touches:
//! memory, where fields are in clear; bodies, which are stored as received.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::store::state_db::Secret;

/// The key.
pub(super) struct FieldCipher(LessSafeKey);

impl FieldCipher {
    /// Derives the key of this installation. Random nonces are safe for 2^32 texts under one key.
    pub(super) fn new(secret: &Secret) -> Self {
        let key = secret.derived("fields at rest");
        let key = UnboundKey::new(&AES_256_GCM, &key).expect("AES-256 takes a key of 32 bytes");
        Self(LessSafeKey::new(key))
    }

    /// Encrypts `text` to nonce, ciphertext and tag. It can be decrypted only with the same `context`: the
    /// fields of one entry cannot be used for another.
    pub(super) fn seal(&self, context: &[u8], text: &[u8]) -> Option<Vec<u8>> {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let mut text = text.to_vec();
        let unique = Nonce::assume_unique_for_key(nonce);
        let tag = self.0.seal_in_place_separate_tag(unique, Aad::from(context), &mut text).ok()?;
        Some([&nonce[..], &text, tag.as_ref()].concat())
    }

    /// Decrypts; `None` where the text was encrypted with another key or context, or was changed since.
    pub(super) fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.0.open_in_place(nonce, Aad::from(context), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

/// Does not print the key.
impl fmt::Debug for FieldCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AtRest(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_decrypts_only_with_the_same_key_and_context() {
        let own = FieldCipher::new(&Secret::from_bytes([7; 32]));
        let sealed = own.seal(b"a", b"location: /x?token=S3").unwrap();
        assert!(!sealed.windows(2).any(|window| window == b"S3"));
        assert_eq!(own.open(b"a", &sealed).unwrap(), b"location: /x?token=S3");
        assert_ne!(own.seal(b"a", b"location: /x?token=S3").unwrap(), sealed, "another nonce");
        assert_eq!(own.open(b"b", &sealed), None);
        assert_eq!(FieldCipher::new(&Secret::from_bytes([8; 32])).open(b"a", &sealed), None);
        for length in 0..sealed.len() {
            assert_eq!(own.open(b"a", &sealed[..length]), None, "{length} bytes");
        }
    }
}
