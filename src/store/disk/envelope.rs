//! How a value lies in the database: a version, a hash of the rest, the rest. Numbers are
//! little-endian.
//!
//! Owns: telling a whole value from a damaged one, reading one within its bounds. Never touches:
//! what a value says.

use xxhash_rust::xxh3::xxh3_64;

/// Version and hash.
const SEAL: usize = 1 + 8;

/// A value that is being written.
pub(super) struct EntryEncoder(Vec<u8>);

impl EntryEncoder {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        let mut value = Vec::with_capacity(SEAL + bytes);
        value.resize(SEAL, 0);
        Self(value)
    }

    /// One that gets no seal of its own, for a part of another.
    pub(super) fn of_part(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// The bytes of a part.
    pub(super) fn part(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// The bytes with their length before them; `None` where the length does not fit.
    pub(super) fn put_short(&mut self, bytes: &[u8]) -> Option<()> {
        self.put(&u16::try_from(bytes.len()).ok()?.to_le_bytes());
        self.put(bytes);
        Some(())
    }

    /// [`EntryEncoder::put_short`] for what may be longer than 64 KiB.
    pub(super) fn put_long(&mut self, bytes: &[u8]) -> Option<()> {
        self.put(&u32::try_from(bytes.len()).ok()?.to_le_bytes());
        self.put(bytes);
        Some(())
    }

    /// The value with its seal.
    pub(super) fn sealed(mut self, version: u8) -> Vec<u8> {
        let hash = xxh3_64(self.0.get(SEAL..).unwrap_or_default());
        let seal = [version].into_iter().chain(hash.to_le_bytes());
        self.0.iter_mut().zip(seal).for_each(|(place, byte)| *place = byte);
        self.0
    }
}

/// What is left to read of a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryDecoder<'a>(&'a [u8]);

impl<'a> EntryDecoder<'a> {
    /// Opens a value: `None` where it is of another version or not as it was sealed.
    pub(super) fn unsealed(value: &'a [u8], version: u8) -> Option<Self> {
        let (seal, rest) = value.split_at_checked(SEAL)?;
        let (own, hash) = seal.split_first()?;
        let whole = *own == version && *hash == xxh3_64(rest).to_le_bytes();
        whole.then_some(Self(rest))
    }

    /// Opens the part of a value that has no seal of its own.
    pub(super) fn of_part(part: &'a [u8]) -> Self {
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
