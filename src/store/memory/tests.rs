//! The memory tier: variants side by side, bounds, invalidation.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::key::{CacheKey, KeyBuilder};
use crate::policy::Policy;
use crate::semantics::redaction::Redactor;
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::Target;
use crate::semantics::vary::{VariantId, VaryFields};
use crate::store::generations::{Generations, PurgeKind, PurgeScope, Validity};
use crate::store::memory::{Memory, SlotKey, VARIANTS};
use crate::store::{Lookup, StoreQuery};
use crate::stored::{ForcedStale, StoredResponse};

const MIB: usize = 1 << 20;

fn key(path: &str) -> CacheKey {
    let target = Target::absolute(&format!("http://api.example{path}")).unwrap();
    KeyBuilder::new([7; 32], &[], Redactor::default()).key(&ProxyRequest::get(target), &Policy::origin())
}

/// A response that was requested, and arrived, `at` seconds after the epoch.
fn stored(body: impl Into<Bytes>, vary: &[&'static str], variant: u128, at: u64) -> Arc<StoredResponse> {
    let names = vary.iter().map(|name| HeaderName::from_static(name)).collect();
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(at);
    let mut headers = HeaderMap::new();
    headers.insert("x-field", HeaderValue::from_static("1"));
    let variant_key = (VaryFields::new(names), VariantId(variant));
    Arc::new(
        StoredResponse::new(StatusCode::OK, &headers, body.into(), variant_key, (time, time)).with_order(at),
    )
}

fn memory(bytes: usize, max_object: usize) -> Memory {
    // Later than every order number in these tests.
    let generations = Generations::new(SystemTime::UNIX_EPOCH + Duration::from_millis(9));
    Memory::new(bytes, max_object, Arc::new(generations))
}

fn put(memory: &Memory, path: &str, stored: Arc<StoredResponse>) {
    memory.put(&key(path), stored, memory.generations.current_epoch());
}

fn purge(memory: &Memory, target: u128) {
    memory.generations.invalidate(PurgeScope::Target(target), PurgeKind::Hard, SystemTime::UNIX_EPOCH);
}

/// Looks up as a request whose variant is `variant` wherever a response varies.
fn found(memory: &Memory, path: &str, variant: u128) -> Option<Bytes> {
    let select_variant = |fields: &VaryFields| {
        if fields.names().is_empty() { VariantId::SOLE } else { VariantId(variant) }
    };
    match memory.get(StoreQuery { key: &key(path), variant: &select_variant }) {
        Lookup::Found(stored) => Some(stored.body.clone()),
        Lookup::OtherVariants(_) | Lookup::Nothing | Lookup::CheckDisk(_) => None,
    }
}

#[test]
fn cch_05_thousands_of_variants_leave_the_newest_and_their_number_bounded() {
    let memory = memory(64 * MIB, MIB);
    for n in 1..=5000_u128 {
        put(&memory, "/x", stored(n.to_string(), &["x-v"], n, 0));
        assert!(memory.totals().entries <= VARIANTS as u64 + 1);
    }
    assert_eq!(found(&memory, "/x", 5000).unwrap(), "5000");
    assert_eq!(found(&memory, "/x", 5001 - VARIANTS as u128).unwrap(), (5001 - VARIANTS).to_string());
    assert_eq!(found(&memory, "/x", 5000 - VARIANTS as u128), None);
}

#[test]
fn it_never_exceeds_its_bound() {
    let memory = memory(4 * MIB, MIB);
    for n in 0..1000 {
        put(&memory, &format!("/{n}"), stored(vec![0; 50_000], &[], 0, 0));
        assert!(memory.totals().bytes <= 4 * MIB as u64);
    }
    let totals = memory.totals();
    assert!(totals.entries > 40 && totals.evictions > 800, "{totals:?}");
}

#[test]
fn the_largest_object_fits() {
    let memory = memory(4 * MIB, MIB);
    for n in 0..20 {
        let path = format!("/{n}");
        put(&memory, &path, stored(vec![0; MIB], &[], 0, 0));
        assert_eq!(found(&memory, &path, 0).map(|body| body.len()), Some(MIB), "{n}");
    }
}

#[test]
fn a_response_requested_before_an_invalidation_is_not_stored() {
    let memory = memory(4 * MIB, MIB);
    let before = memory.generations.current_epoch();
    put(&memory, "/x", stored("old", &[], 0, 0));
    put(&memory, "/y", stored("other", &[], 0, 0));
    purge(&memory, key("/x").target_id());
    assert_eq!(found(&memory, "/x", 0), None);
    memory.put(&key("/x"), stored("late", &[], 0, 0), before);
    assert_eq!(found(&memory, "/x", 0), None);
    assert_eq!(memory.generations.validity(key("/x").target_id(), before), Validity::Gone);
    put(&memory, "/x", stored("new", &[], 0, 0));
    assert_eq!(found(&memory, "/x", 0).unwrap(), "new");
    assert_eq!(found(&memory, "/y", 0).unwrap(), "other");
}

#[test]
fn an_older_response_does_not_replace_a_newer_one() {
    let memory = memory(4 * MIB, MIB);
    for (vary, variant) in [(&[][..], 0), (&["x-v"], 7)] {
        let path = format!("/{variant}");
        put(&memory, &path, stored("newer", vary, variant, 20));
        put(&memory, &path, stored("older", vary, variant, 10));
        assert_eq!(found(&memory, &path, variant).unwrap(), "newer", "{vary:?}");
        put(&memory, &path, stored("newest", vary, variant, 20));
        assert_eq!(found(&memory, &path, variant).unwrap(), "newest", "{vary:?}");
        // Unless the newer one was invalidated: then it does not count.
        purge(&memory, key(&path).target_id());
        put(&memory, &path, stored("requested again", vary, variant, 15));
        assert_eq!(found(&memory, &path, variant).unwrap(), "requested again", "{vary:?}");
    }
}

#[test]
fn sto_07_a_response_from_the_future_does_not_block_newer_ones() {
    let memory = memory(4 * MIB, MIB);
    put(&memory, "/x", stored("from the future", &[], 0, 10 * 365 * 86_400));
    put(&memory, "/x", stored("from now", &[], 0, 100));
    assert_eq!(found(&memory, "/x", 0).unwrap(), "from now");
}

#[test]
fn of_several_that_match_the_most_recent_is_found() {
    let memory = memory(4 * MIB, MIB);
    put(&memory, "/x", stored("by v", &["x-v"], 7, 10));
    put(&memory, "/x", stored("sole", &[], 0, 20));
    assert_eq!(found(&memory, "/x", 7).unwrap(), "sole");
    put(&memory, "/x", stored("by v again", &["x-v"], 7, 30));
    assert_eq!(found(&memory, "/x", 7).unwrap(), "by v again");
    assert_eq!(found(&memory, "/x", 8).unwrap(), "sole");
}

#[test]
fn a_softly_purged_entry_is_found_as_stale_until_it_is_replaced() {
    let memory = memory(4 * MIB, MIB);
    put(&memory, "/x", stored("old", &[], 0, 0));
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(9);
    let target = key("/x").target_id();
    memory.generations.invalidate(PurgeScope::Target(target), PurgeKind::Soft, at);
    let query = StoreQuery { key: &key("/x"), variant: &|_| VariantId::SOLE };
    let Lookup::Found(found) = memory.get(query) else { panic!("it is gone") };
    assert_eq!((found.outdated, &found.body[..]), (Some(ForcedStale { at, superseded: false }), &b"old"[..]));
    put(&memory, "/x", stored("new", &[], 0, 0));
    let Lookup::Found(found) = memory.get(query) else { panic!("it is gone") };
    assert_eq!((found.outdated, &found.body[..]), (None, &b"new"[..]));
}

/// A failed fill must not become a hit.
#[test]
fn only_complete_bodies_are_stored() {
    for (length, body, whole) in [
        ("7", "a whole", true),
        ("7, 7", "a whole", true),
        ("8", "a whole", false),
        ("0", "a whole", false),
        ("7, 8", "a whole", false),
        ("x", "a whole", false),
        ("0", "", true),
        ("7", "", false),
    ] {
        let memory = memory(MIB, MIB);
        let mut headers = HeaderMap::new();
        headers.insert("content-length", HeaderValue::from_static(length));
        let time = SystemTime::UNIX_EPOCH;
        let variant_key = (VaryFields::default(), VariantId::SOLE);
        let (status, body) = (StatusCode::OK, Bytes::from_static(body.as_bytes()));
        let stored = StoredResponse::new(status, &headers, body, variant_key, (time, time));
        let kept = memory.put(&key("/x"), Arc::new(stored), memory.generations.current_epoch());
        assert_eq!(kept, whole, "{length}");
    }
}

#[test]
fn keys_and_vary_lists_count_against_the_bound_too() {
    let memory = memory(4 * MIB, 64 * 1024);
    for n in 0..1000 {
        put(&memory, &format!("/{n}?q={}", "y".repeat(16_000)), stored("x", &[], 0, n));
    }
    let entries = |memory: &Memory| memory.slots.iter().count();
    assert!(entries(&memory) < 4 * MIB / 16_000, "{} keys of 16 kB", entries(&memory));
    assert!(memory.totals().bytes > 3 * MIB as u64);
    let memory = self::memory(4 * MIB, 64 * 1024);
    let names: Vec<String> = (0..200).map(|n| format!("x-{n}-{}", "n".repeat(60))).collect();
    for n in 0..1000 {
        let fields = names.iter().map(|name| name.parse().unwrap()).collect();
        let mut varied = (*stored("x", &[], n, 0)).clone();
        varied.vary = VaryFields::new(fields);
        put(&memory, &format!("/{n}"), Arc::new(varied));
    }
    let lists = 200 * (64 + size_of::<HeaderName>());
    assert!(entries(&memory) < 4 * MIB / lists, "{} lists of {lists} bytes", entries(&memory));
}

/// An older response that varies by other fields must not be served in its place.
#[test]
fn nothing_is_found_if_the_newest_of_several_matches_was_evicted() {
    let memory = memory(4 * MIB, MIB);
    put(&memory, "/x", stored("older", &["x-v"], 7, 1));
    put(&memory, "/x", stored("newer", &["x-v", "x-w"], 8, 2));
    let select_variant = |fields: &VaryFields| VariantId(6 + fields.names().len() as u128);
    let key = key("/x");
    let seen = || memory.get(StoreQuery { key: &key, variant: &select_variant });
    let Lookup::Found(newer) = seen() else { panic!("both are there") };
    assert_eq!(newer.body, "newer");
    memory.slots.remove(&SlotKey { id: key.id(), variant: Some(VariantId(8)) });
    assert!(matches!(seen(), Lookup::OtherVariants(_)));
}
