//! The encoding of an entry, version 3: the metadata of a stored response, and its body where that is small.
//!
//! Owns: the layout; the rejection of damaged values. Raise [`VERSION`] when the layout changes: a value of
//! another version counts as damaged. Never touches: files, the database.
//!
//! `flags | status | request, response, age in ns | order | epoch | until | variant |
//! body length, hash, file | canonical key | Vary names | fields, encrypted | inline body`
//!
//! Of the request only the names of the fields in `Vary` are stored.
//!
//! v1: fields in clear. v2: without the order number of the request.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use xxhash_rust::xxh3::xxh3_128;

use crate::semantics::vary::{VariantId, VaryFields};
use crate::store::disk::encryption::FieldCipher;
use crate::store::disk::envelope::{EntryDecoder, EntryEncoder};
use crate::store::disk::keys::ExpiresAt;
use crate::store::generations::Epoch;
use crate::stored::StoredResponse;

/// The version of the layout.
const VERSION: u8 = 3;

/// No larger value goes into the database. It keeps pages of many values in memory beside its cache: with
/// URLs of 16 kB those took 290 MiB.
pub(super) const LARGEST: usize = 8 * 1024;
/// Bodies up to this size are stored in the entry itself, if the whole entry fits.
const INLINE_BODY: usize = 4 * 1024;

/// Location of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyLocation {
    /// In the entry.
    Entry,
    /// In the file with this number, never zero.
    File(u64),
}

/// Everything of an entry but its fields and its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntryMeta {
    /// [`StoredResponse::authorized`].
    pub(super) authorized: bool,
    /// [`StoredResponse::head_only`].
    pub(super) head_only: bool,
    pub(super) status: StatusCode,
    pub(super) request_time: SystemTime,
    pub(super) response_time: SystemTime,
    pub(super) initial_age: Duration,
    pub(super) order: u64,
    pub(super) epoch: Epoch,
    pub(super) until: ExpiresAt,
    pub(super) variant: VariantId,
    pub(super) body_len: u64,
    pub(super) body_hash: u128,
    pub(super) body_in: BodyLocation,
    pub(super) vary: VaryFields,
}

/// An entry that was decoded and verified.
#[derive(Debug, Clone)]
pub(super) struct Entry<'a> {
    pub(super) meta: EntryMeta,
    pub(super) canonical: &'a [u8],
    /// As encrypted by [`FieldCipher`].
    fields: &'a [u8],
    inline: &'a [u8],
}

/// The data from which an entry is encoded.
pub(super) struct EntryRef<'a> {
    pub(super) canonical: &'a [u8],
    pub(super) stored: &'a StoredResponse,
    pub(super) epoch: Epoch,
    pub(super) until: ExpiresAt,
    pub(super) body_hash: u128,
}

/// The hash that a body is checked against.
pub(super) fn body_hash(body: &[u8]) -> u128 {
    xxh3_128(body)
}

impl EntryRef<'_> {
    /// Whether the body is stored in the entry itself.
    pub(super) fn is_inline(&self) -> bool {
        let body = self.stored.body.len();
        body <= INLINE_BODY && self.size() + body <= LARGEST
    }

    /// The encoded entry; `None` where it is too large.
    pub(super) fn encode(&self, body_in: BodyLocation, cipher: &FieldCipher) -> Option<Vec<u8>> {
        if !self.stored.is_whole() {
            return None;
        }
        let fields = cipher.seal(self.canonical, &self.fields()?)?;
        let body = match body_in {
            BodyLocation::Entry => &self.stored.body[..],
            BodyLocation::File(_) => &[],
        };
        let mut encoder = EntryEncoder::with_capacity(self.size() + body.len());
        self.put_fixed(&mut encoder, body_in);
        encoder.put_long(self.canonical)?;
        put_vary(&mut encoder, &self.stored.vary)?;
        encoder.put_long(&fields)?;
        encoder.put(body);
        let value = encoder.sealed(VERSION);
        (value.len() <= LARGEST).then_some(value)
    }

    /// All fields, preceded by their count.
    fn fields(&self) -> Option<Vec<u8>> {
        let headers = self.stored.all_headers();
        let mut encoder = EntryEncoder::for_part(2 + fields_size(self.stored));
        encoder.put(&u16::try_from(headers.len()).ok()?.to_le_bytes());
        for (name, value) in &headers {
            encoder.put_short(name.as_str().as_bytes())?;
            encoder.put_long(value.as_bytes())?;
        }
        Some(encoder.part())
    }

    fn put_fixed(&self, encoder: &mut EntryEncoder, body_in: BodyLocation) {
        let stored = self.stored;
        let authorized = if stored.authorized { AUTHORIZED } else { 0 };
        encoder.put(&[authorized | if stored.head_only { HEAD_ONLY } else { 0 }]);
        encoder.put(&stored.status.as_u16().to_le_bytes());
        for nanos in [since(stored.request_time), since(stored.response_time), stored.initial_age] {
            encoder.put(&u64::try_from(nanos.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
        }
        encoder.put(&stored.order.to_le_bytes());
        encoder.put(&self.epoch.raw().to_le_bytes());
        encoder.put(&self.until.0.to_le_bytes());
        encoder.put(&stored.variant.0.to_le_bytes());
        encoder.put(&(stored.body.len() as u64).to_le_bytes());
        encoder.put(&self.body_hash.to_le_bytes());
        let file = match body_in {
            BodyLocation::Entry => 0,
            BodyLocation::File(number) => number,
        };
        encoder.put(&file.to_le_bytes());
    }

    /// Approximate number of bytes without the body.
    fn size(&self) -> usize {
        FIXED + self.canonical.len() + fields_size(self.stored)
    }
}

impl<'a> Entry<'a> {
    /// Decodes an entry; `None` where it is damaged, or of another version.
    pub(super) fn decode(value: &'a [u8]) -> Option<Self> {
        let mut decoder = EntryDecoder::unsealed(value, VERSION)?;
        let flags = decoder.u8().filter(|flags| flags & !(AUTHORIZED | HEAD_ONLY) == 0)?;
        let mut meta = EntryMeta {
            authorized: flags & AUTHORIZED != 0,
            head_only: flags & HEAD_ONLY != 0,
            status: StatusCode::from_u16(decoder.u16()?).ok()?,
            request_time: time(decoder.u64()?)?,
            response_time: time(decoder.u64()?)?,
            initial_age: Duration::from_nanos(decoder.u64()?),
            order: decoder.u64()?,
            epoch: Epoch::from_raw(decoder.u64()?),
            until: ExpiresAt(decoder.u64()?),
            variant: VariantId(decoder.u128()?),
            body_len: decoder.u64()?,
            body_hash: decoder.u128()?,
            body_in: match decoder.u64()? {
                0 => BodyLocation::Entry,
                number => BodyLocation::File(number),
            },
            vary: VaryFields::default(),
        };
        let canonical = decoder.long()?;
        meta.vary = take_vary(&mut decoder)?;
        Some(Self { meta, canonical, fields: decoder.long()?, inline: decoder.rest() })
    }

    /// The response with the body from the entry; `None` where the body is in a file, or is damaged.
    pub(super) fn with_own_body(&self, cipher: &FieldCipher) -> Option<StoredResponse> {
        let (headers, body) = (self.fields(cipher)?, self.inline);
        let whole = self.meta.body_in == BodyLocation::Entry && body.len() as u64 == self.meta.body_len;
        let stored = whole.then(|| self.stored(&headers, Bytes::copy_from_slice(body)))?;
        stored.is_whole().then_some(stored)
    }

    /// The response with this body; `None` where it differs from the body that was stored.
    pub(super) fn with_body(&self, body: Bytes, cipher: &FieldCipher) -> Option<StoredResponse> {
        let same = body.len() as u64 == self.meta.body_len && body_hash(&body) == self.meta.body_hash;
        let headers = self.fields(cipher).filter(|_| same)?;
        let stored = self.stored(&headers, body);
        stored.is_whole().then_some(stored)
    }

    /// The response with an empty body in place of its own.
    pub(super) fn without_body(&self, cipher: &FieldCipher) -> Option<StoredResponse> {
        Some(self.stored(&self.fields(cipher)?, Bytes::new()))
    }

    fn fields(&self, cipher: &FieldCipher) -> Option<HeaderMap> {
        let opened = cipher.open(self.canonical, self.fields)?;
        let mut decoder = EntryDecoder::for_part(&opened);
        let count = decoder.u16()?;
        let mut headers = HeaderMap::try_with_capacity(count.into()).ok()?;
        for _ in 0..count {
            let name = HeaderName::from_bytes(decoder.short()?).ok()?;
            let value = HeaderValue::from_bytes(decoder.long()?).ok()?;
            headers.try_append(name, value).ok()?;
        }
        decoder.rest().is_empty().then_some(headers)
    }

    fn stored(&self, headers: &HeaderMap, body: Bytes) -> StoredResponse {
        let meta = &self.meta;
        StoredResponse::new(
            meta.status,
            headers,
            body,
            (meta.vary.clone(), meta.variant),
            (meta.request_time, meta.response_time),
        )
        .with_initial_age(meta.initial_age)
        .with_authorized(meta.authorized)
        .with_head_only(meta.head_only)
        .with_order(meta.order)
    }
}

/// Names, each with its length, preceded by their count.
pub(super) fn put_vary(encoder: &mut EntryEncoder, vary: &VaryFields) -> Option<()> {
    encoder.put(&u16::try_from(vary.names().len()).ok()?.to_le_bytes());
    vary.names().iter().try_for_each(|name| encoder.put_short(name.as_str().as_bytes()))
}

/// Decodes the output of [`put_vary`].
pub(super) fn take_vary(decoder: &mut EntryDecoder<'_>) -> Option<VaryFields> {
    let count = decoder.u16()?;
    let names = (0..count).map(|_| HeaderName::from_bytes(decoder.short()?).ok());
    Some(VaryFields::new(names.collect::<Option<_>>()?))
}

/// Bytes of the fields and of the names in `Vary`, each with its lengths.
fn fields_size(stored: &StoredResponse) -> usize {
    let fields = stored.headers.iter().chain(&stored.withheld);
    let fields = fields.map(|(name, value)| 6 + name.as_str().len() + value.len()).sum::<usize>();
    fields + stored.vary.names().iter().map(|name| 2 + name.as_str().len()).sum::<usize>()
}

fn since(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn time(nanos: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanos))
}

/// The flag of [`StoredResponse::authorized`]. An entry with any other flag was written by a later larder.
const AUTHORIZED: u8 = 1;

/// The flag of [`StoredResponse::head_only`].
const HEAD_ONLY: u8 = 2;

/// Envelope, fixed fields, the counts before lists, nonce and tag.
const FIXED: usize = 160;

#[cfg(test)]
mod tests;
