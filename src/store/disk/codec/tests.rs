//! Encoding of entries: an entry decodes to what was encoded, and damaged bytes are refused.

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::store::state_db::Secret;

fn cipher() -> FieldCipher {
    FieldCipher::new(&Secret::from_bytes([7; 32]))
}

fn at(nanos: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos)
}

fn stored(fields: &[(String, Vec<u8>)], vary: &[String], body: &[u8], seed: u64) -> StoredResponse {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::from_bytes(value))
        else {
            continue;
        };
        headers.append(name, value);
    }
    let vary = vary.iter().filter_map(|name| HeaderName::try_from(name.as_str()).ok()).collect();
    StoredResponse::new(
        StatusCode::from_u16(200 + u16::try_from(seed % 300).unwrap()).unwrap(),
        &headers,
        Bytes::copy_from_slice(body),
        (VaryFields::new(vary), VariantId(u128::from(seed) << 40)),
        (at(seed / 3), at(seed / 2)),
    )
    .with_initial_age(Duration::from_nanos(seed / 5))
}

fn entry_ref<'a>(canonical: &'a [u8], stored: &'a StoredResponse) -> EntryRef<'a> {
    let (epoch, until) = (Epoch::from_raw(7), ExpiresAt(9));
    EntryRef { canonical, stored, epoch, until, body_hash: body_hash(&stored.body) }
}

fn assert_same(one: &StoredResponse, other: &StoredResponse) {
    let parts = |s: &StoredResponse| {
        (s.status, s.headers.clone(), s.withheld.clone(), s.body.clone(), s.metadata.clone())
    };
    let metadata =
        |s: &StoredResponse| (s.vary.clone(), s.variant, s.request_time, s.response_time, s.initial_age);
    assert_eq!(parts(one), parts(other));
    assert_eq!(metadata(one), metadata(other));
}

/// An entry in which every part is present.
fn sample() -> Vec<u8> {
    let fields = [("etag", "\"1\""), ("x-ratelimit-left", "3"), ("vary", "x-v"), ("x", ""), ("x", "2")];
    let fields: Vec<_> = fields.iter().map(|(n, v)| ((*n).to_owned(), v.as_bytes().to_vec())).collect();
    let stored = stored(&fields, &["x-v".to_owned()], b"a body", 1 << 50);
    entry_ref(b"a key", &stored).encode(BodyLocation::Entry, &cipher()).unwrap()
}

proptest! {
    #[test]
    fn an_entry_decodes_to_what_was_encoded(
        canonical in vec(any::<u8>(), 0..200),
        fields in vec(("[a-z-]{1,20}", vec(0x20..0x7f_u8, 0..50)), 0..20),
        vary in vec("[a-z-]{1,20}", 0..4),
        body in vec(any::<u8>(), 0..3000),
        (seed, file) in (any::<u64>(), 1_u64..),
    ) {
        let stored = stored(&fields, &vary, &body, seed);
        let entry_ref = entry_ref(&canonical, &stored);
        for body_in in [BodyLocation::Entry, BodyLocation::File(file)] {
            let value = entry_ref.encode(body_in, &cipher()).unwrap();
            let entry = Entry::decode(&value).unwrap();
            prop_assert_eq!(entry.canonical, &canonical[..]);
            prop_assert_eq!((entry.meta.epoch, entry.meta.until), (Epoch::from_raw(7), ExpiresAt(9)));
            prop_assert_eq!(entry.meta.body_in, body_in);
            prop_assert_eq!(entry.meta.body_len, body.len() as u64);
            assert_same(&entry.with_body(stored.body.clone(), &cipher()).unwrap(), &stored);
            match body_in {
                BodyLocation::Entry => assert_same(&entry.with_own_body(&cipher()).unwrap(), &stored),
                BodyLocation::File(_) => prop_assert!(entry.with_own_body(&cipher()).is_none()),
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(mut value in vec(any::<u8>(), 0..400), with_envelope in any::<bool>()) {
        if with_envelope {
            // Also with a valid envelope.
            let mut encoder = EntryEncoder::with_capacity(value.len());
            encoder.put(&value);
            value = encoder.sealed(VERSION);
        }
        if let Some(entry) = Entry::decode(&value) {
            prop_assert!(entry.with_own_body(&cipher()).is_none_or(|stored| stored.body.len() < 400));
            drop(entry.without_body(&cipher()));
        }
    }
}

#[test]
fn sto_02_every_flipped_bit_and_every_truncation_is_refused() {
    let value = sample();
    assert!(Entry::decode(&value).unwrap().with_own_body(&cipher()).is_some());
    for bit in 0..value.len() * 8 {
        let mut flipped = value.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Entry::decode(&flipped).is_none(), "bit {bit}");
    }
    for length in 0..value.len() {
        assert!(Entry::decode(&value[..length]).is_none(), "{length} bytes");
    }
    let longer = [&value[..], &[0]].concat();
    assert!(Entry::decode(&longer).is_none());
}

#[test]
fn sto_02_an_undamaged_entry_of_another_version_is_refused() {
    let value = sample();
    let mut other = EntryEncoder::with_capacity(value.len());
    other.put(&value[9..]);
    assert!(Entry::decode(&other.sealed(VERSION + 1)).is_none());
    let mut flagged = value[9..].to_vec();
    flagged[0] = 0x80;
    let mut later = EntryEncoder::with_capacity(value.len());
    later.put(&flagged);
    assert!(Entry::decode(&later.sealed(VERSION)).is_none(), "an unknown flag");
}

#[test]
fn sto_02_a_body_that_is_not_the_one_stored_is_refused() {
    let stored = stored(&[], &[], b"the body", 1);
    let value = entry_ref(b"key", &stored).encode(BodyLocation::File(5), &cipher()).unwrap();
    let entry = Entry::decode(&value).unwrap();
    for other in [&b"the b0dy"[..], b"the bod", b"the body ", b""] {
        assert!(entry.with_body(Bytes::copy_from_slice(other), &cipher()).is_none());
    }
}

#[test]
fn a_body_is_inline_up_to_4_kib_within_a_value_of_8_kib() {
    let with = |body: usize, field: usize| {
        let fields = [("x-long".to_owned(), vec![b'x'; field])];
        stored(&fields, &[], &vec![0; body], 1)
    };
    for (body, field, inline) in [
        (0, 0, true),
        (4096, 0, true),
        (4097, 0, false),
        (4096, 3800, true),
        (4096, 4096, false),
        (4097, 7_800, false),
    ] {
        let stored = with(body, field);
        let entry_ref = entry_ref(b"key", &stored);
        assert_eq!(entry_ref.is_inline(), inline, "{body} bytes and a field of {field}");
        let body_in = if inline { BodyLocation::Entry } else { BodyLocation::File(1) };
        let value = entry_ref.encode(body_in, &cipher()).unwrap();
        assert!(value.len() <= LARGEST);
    }
}

#[test]
fn an_entry_that_is_too_large_is_not_encoded() {
    let long = |field| stored(&[("x-long".to_owned(), vec![b'x'; field])], &[], b"", 1);
    assert!(entry_ref(b"key", &long(LARGEST - 300)).encode(BodyLocation::File(1), &cipher()).is_some());
    assert!(entry_ref(b"key", &long(LARGEST)).encode(BodyLocation::File(1), &cipher()).is_none());
    assert!(entry_ref(&vec![0; LARGEST], &long(0)).encode(BodyLocation::File(1), &cipher()).is_none());
}

/// A body whose length differs from the announced one is neither written nor read as an entry.
#[test]
fn an_incomplete_body_is_neither_written_nor_read() {
    let length = |length: &str| [("content-length".to_owned(), length.as_bytes().to_vec())];
    // A seed whose status is 200.
    let whole = stored(&length("6"), &[], b"a body", 300);
    let entry = entry_ref(b"a key", &whole).encode(BodyLocation::Entry, &cipher()).unwrap();
    assert!(Entry::decode(&entry).unwrap().with_own_body(&cipher()).is_some());
    for cut in [stored(&length("7"), &[], b"a body", 300), stored(&length("6"), &[], b"", 300)] {
        assert_eq!(entry_ref(b"a key", &cut).encode(BodyLocation::Entry, &cipher()), None);
        assert_eq!(entry_ref(b"a key", &cut).encode(BodyLocation::File(1), &cipher()), None);
    }
}

#[test]
fn fields_are_encrypted_for_their_entry_and_installation() {
    let location = "https://files.example.test/a?access_token=L0cationT0ken77aa31";
    let fields = [("location".to_owned(), location.as_bytes().to_vec())];
    let stored = stored(&fields, &[], b"", 102);
    let value = entry_ref(b"a key", &stored).encode(BodyLocation::Entry, &cipher()).unwrap();
    for part in [&b"L0cation"[..], b"access_token", b"files.example"] {
        assert!(!value.windows(part.len()).any(|window| window == part));
    }
    let entry = Entry::decode(&value).unwrap();
    let read = entry.without_body(&cipher()).unwrap();
    assert_eq!(read.headers["location"], location);
    assert!(entry.without_body(&FieldCipher::new(&Secret::from_bytes([8; 32]))).is_none());
    let other = Entry { canonical: b"another key", ..entry };
    assert!(other.without_body(&cipher()).is_none());
}
