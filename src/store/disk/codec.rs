//! An entry as bytes, version 3: what happened when an answer was fetched, and its body where that is
//! small.
//!
//! Owns: the layout; that a damaged value is refused. Raise [`VERSION`] when the layout changes: what
//! is of another version counts as damaged. Never touches: files, the database.
//!
//! `flags | status | request, response, age in ns | asked | mark | until | variant | body length, hash, file |
//! canonical key | Vary names | fields, encrypted | inline body`; of the request only what `Vary` names,
//! and of that only the names.
//!
//! v1: fields in clear. v2: without its place in the order of what is asked for.

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

/// No larger value goes into the database. It holds pages of many values in memory beside its cache:
/// with URLs of 16 kB those came to 290 MiB.
pub(super) const LARGEST: usize = 8 * 1024;
/// Bodies up to this stand in the entry itself, if the whole fits.
const INLINE_BODY: usize = 4 * 1024;

/// Where a body is.
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
    pub(super) status: StatusCode,
    pub(super) request_time: SystemTime,
    pub(super) response_time: SystemTime,
    pub(super) initial_age: Duration,
    pub(super) asked: u64,
    pub(super) mark: Epoch,
    pub(super) until: ExpiresAt,
    pub(super) variant: VariantId,
    pub(super) body_len: u64,
    pub(super) body_hash: u128,
    pub(super) body_in: BodyLocation,
    pub(super) vary: VaryFields,
}

/// An entry that was read and found whole.
#[derive(Debug, Clone)]
pub(super) struct Entry<'a> {
    pub(super) head: EntryMeta,
    pub(super) canonical: &'a [u8],
    /// As [`FieldCipher`] sealed them.
    fields: &'a [u8],
    inline: &'a [u8],
}

/// What is written about a response.
pub(super) struct EntryRef<'a> {
    pub(super) canonical: &'a [u8],
    pub(super) stored: &'a StoredResponse,
    pub(super) mark: Epoch,
    pub(super) until: ExpiresAt,
    pub(super) body_hash: u128,
}

/// The hash that a body is checked against.
pub(super) fn body_hash(body: &[u8]) -> u128 {
    xxh3_128(body)
}

impl EntryRef<'_> {
    /// Whether the body stands in the entry itself.
    pub(super) fn is_inline(&self) -> bool {
        let body = self.stored.body.len();
        body <= INLINE_BODY && self.size() + body <= LARGEST
    }

    /// The entry; `None` where it is too large to be one.
    pub(super) fn encode(&self, body_in: BodyLocation, at_rest: &FieldCipher) -> Option<Vec<u8>> {
        if !self.stored.is_whole() {
            return None;
        }
        let fields = at_rest.seal(self.canonical, &self.fields()?)?;
        let body = match body_in {
            BodyLocation::Entry => &self.stored.body[..],
            BodyLocation::File(_) => &[],
        };
        let mut draft = EntryEncoder::with_capacity(self.size() + body.len());
        self.put_fixed(&mut draft, body_in);
        draft.put_long(self.canonical)?;
        put_vary(&mut draft, &self.stored.vary)?;
        draft.put_long(&fields)?;
        draft.put(body);
        let value = draft.sealed(VERSION);
        (value.len() <= LARGEST).then_some(value)
    }

    /// All fields, behind their number.
    fn fields(&self) -> Option<Vec<u8>> {
        let headers = self.stored.all_headers();
        let mut draft = EntryEncoder::of_part(2 + fields_size(self.stored));
        draft.put(&u16::try_from(headers.len()).ok()?.to_le_bytes());
        for (name, value) in &headers {
            draft.put_short(name.as_str().as_bytes())?;
            draft.put_long(value.as_bytes())?;
        }
        Some(draft.part())
    }

    fn put_fixed(&self, draft: &mut EntryEncoder, body_in: BodyLocation) {
        let stored = self.stored;
        draft.put(&[if stored.authorized { AUTHORIZED } else { 0 }]);
        draft.put(&stored.status.as_u16().to_le_bytes());
        for nanos in [since(stored.request_time), since(stored.response_time), stored.initial_age] {
            draft.put(&u64::try_from(nanos.as_nanos()).unwrap_or(u64::MAX).to_le_bytes());
        }
        draft.put(&stored.asked.to_le_bytes());
        draft.put(&self.mark.raw().to_le_bytes());
        draft.put(&self.until.0.to_le_bytes());
        draft.put(&stored.variant.0.to_le_bytes());
        draft.put(&(stored.body.len() as u64).to_le_bytes());
        draft.put(&self.body_hash.to_le_bytes());
        let file = match body_in {
            BodyLocation::Entry => 0,
            BodyLocation::File(number) => number,
        };
        draft.put(&file.to_le_bytes());
    }

    /// About how many bytes it takes without the body.
    fn size(&self) -> usize {
        FIXED + self.canonical.len() + fields_size(self.stored)
    }
}

impl<'a> Entry<'a> {
    /// Reads an entry; `None` where it is damaged, or of another version.
    pub(super) fn decode(value: &'a [u8]) -> Option<Self> {
        let mut cursor = EntryDecoder::unsealed(value, VERSION)?;
        let flags = cursor.u8().filter(|flags| flags & !AUTHORIZED == 0)?;
        let status = StatusCode::from_u16(cursor.u16()?).ok()?;
        let request_time = time(cursor.u64()?)?;
        let response_time = time(cursor.u64()?)?;
        let initial_age = Duration::from_nanos(cursor.u64()?);
        let asked = cursor.u64()?;
        let mark = Epoch::from_raw(cursor.u64()?);
        let until = ExpiresAt(cursor.u64()?);
        let variant = VariantId(cursor.u128()?);
        let body_len = cursor.u64()?;
        let body_hash = cursor.u128()?;
        let body_in = match cursor.u64()? {
            0 => BodyLocation::Entry,
            number => BodyLocation::File(number),
        };
        let canonical = cursor.long()?;
        let vary = take_vary(&mut cursor)?;
        let fields = cursor.long()?;
        let head = EntryMeta {
            authorized: flags == AUTHORIZED,
            status,
            request_time,
            response_time,
            initial_age,
            asked,
            mark,
            until,
            variant,
            body_len,
            body_hash,
            body_in,
            vary,
        };
        Some(Self { head, canonical, fields, inline: cursor.rest() })
    }

    /// The response with the body that lies in the entry; `None` where none does, or it is damaged.
    pub(super) fn with_own_body(&self, at_rest: &FieldCipher) -> Option<StoredResponse> {
        let (headers, body) = (self.fields(at_rest)?, self.inline);
        let whole =
            self.head.body_in == BodyLocation::Entry && body.len() as u64 == self.head.body_len;
        let stored = whole.then(|| self.stored(&headers, Bytes::copy_from_slice(body)))?;
        stored.is_whole().then_some(stored)
    }

    /// The response with this body; `None` where it is not the one it was stored with.
    pub(super) fn with_body(&self, body: Bytes, at_rest: &FieldCipher) -> Option<StoredResponse> {
        let same =
            body.len() as u64 == self.head.body_len && body_hash(&body) == self.head.body_hash;
        let headers = self.fields(at_rest).filter(|_| same)?;
        let stored = self.stored(&headers, body);
        stored.is_whole().then_some(stored)
    }

    /// The response with an empty body in place of its own.
    pub(super) fn without_body(&self, at_rest: &FieldCipher) -> Option<StoredResponse> {
        Some(self.stored(&self.fields(at_rest)?, Bytes::new()))
    }

    fn fields(&self, at_rest: &FieldCipher) -> Option<HeaderMap> {
        let opened = at_rest.open(self.canonical, self.fields)?;
        let mut cursor = EntryDecoder::of_part(&opened);
        let count = cursor.u16()?;
        let mut headers = HeaderMap::try_with_capacity(count.into()).ok()?;
        for _ in 0..count {
            let name = HeaderName::from_bytes(cursor.short()?).ok()?;
            let value = HeaderValue::from_bytes(cursor.long()?).ok()?;
            headers.try_append(name, value).ok()?;
        }
        cursor.rest().is_empty().then_some(headers)
    }

    fn stored(&self, headers: &HeaderMap, body: Bytes) -> StoredResponse {
        let head = &self.head;
        StoredResponse::new(
            head.status,
            headers,
            body,
            (head.vary.clone(), head.variant),
            (head.request_time, head.response_time),
            head.initial_age,
        )
        .fetched_with(head.authorized)
        .asked_as(head.asked)
    }
}

/// Names, each with its length, behind their number.
pub(super) fn put_vary(draft: &mut EntryEncoder, vary: &VaryFields) -> Option<()> {
    draft.put(&u16::try_from(vary.names().len()).ok()?.to_le_bytes());
    vary.names().iter().try_for_each(|name| draft.put_short(name.as_str().as_bytes()))
}

/// What [`put_vary`] put.
pub(super) fn take_vary(cursor: &mut EntryDecoder<'_>) -> Option<VaryFields> {
    let count = cursor.u16()?;
    let names = (0..count).map(|_| HeaderName::from_bytes(cursor.short()?).ok());
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

/// The flag of [`StoredResponse::authorized`]. An entry with another one was written by a later larder.
const AUTHORIZED: u8 = 1;

/// Seal, fixed fields, the numbers before lists, nonce and tag.
const FIXED: usize = 160;

#[cfg(test)]
mod tests;
