//! The envelope of a value in the database: a version, a hash of the rest, the rest. Numbers are
//! little-endian.
//!
//! Owns: detecting damaged values, reading a value within its bounds. Never touches: the meaning of a value.

use xxhash_rust::xxh3::xxh3_64;

/// Version and hash.
const HEADER: usize = 1 + 8;

/// A value that is being encoded.
pub(super) struct EntryEncoder(Vec<u8>);

impl EntryEncoder {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        let mut value = Vec::with_capacity(HEADER + bytes);
        value.resize(HEADER, 0);
        Self(value)
    }

    /// An encoder without an envelope, for a part of another value.
    pub(super) fn for_part(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// The bytes of a part.
    pub(super) fn part(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Appends the bytes with their length before them; `None` where the length does not fit.
    pub(super) fn put_short(&mut self, bytes: &[u8]) -> Option<()> {
        self.put(&u16::try_from(bytes.len()).ok()?.to_le_bytes());
        self.put(bytes);
        Some(())
    }

    /// [`EntryEncoder::put_short`] for bytes that may be longer than 64 KiB.
    pub(super) fn put_long(&mut self, bytes: &[u8]) -> Option<()> {
        self.put(&u32::try_from(bytes.len()).ok()?.to_le_bytes());
        self.put(bytes);
        Some(())
    }

    /// The value with its envelope.
    pub(super) fn sealed(mut self, version: u8) -> Vec<u8> {
        let hash = xxh3_64(self.0.get(HEADER..).unwrap_or_default());
        let header = [version].into_iter().chain(hash.to_le_bytes());
        self.0.iter_mut().zip(header).for_each(|(target, byte)| *target = byte);
        self.0
    }
}

/// The rest of a value that is still to be decoded.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryDecoder<'a>(&'a [u8]);

impl<'a> EntryDecoder<'a> {
    /// Opens a value: `None` where it has another version or was changed.
    pub(super) fn unsealed(value: &'a [u8], version: u8) -> Option<Self> {
        let (header, rest) = value.split_at_checked(HEADER)?;
        let (stored_version, hash) = header.split_first()?;
        let whole = *stored_version == version && *hash == xxh3_64(rest).to_le_bytes();
        whole.then_some(Self(rest))
    }

    /// Decodes a part of a value, which has no envelope.
    pub(super) fn for_part(part: &'a [u8]) -> Self {
        Self(part)
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(super) fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    pub(super) fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }

    pub(super) fn long(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_le_bytes(self.array()?);
        self.take(usize::try_from(length).ok()?)
    }
}
