//! The steps of a hit, one by one: route, key, lookup, decision, `Cache-Status`.
//!
//! `cargo bench --bench core`

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, StatusCode};
use larder::config::{self, env::Env};
use larder::decide::{CacheLookup, DecisionInput, decide};
use larder::semantics::accept_encoding;
use larder::semantics::cache_status::CacheStatus;
use larder::semantics::request::ProxyRequest;
use larder::semantics::storability::CacheKind;
use larder::semantics::target::Target;
use larder::semantics::vary::{VariantId, VaryFields};
use larder::store::StoreQuery;
use larder::store::generations::Generations;
use larder::store::memory::Memory;
use larder::stored::StoredResponse;

const ROUTES: &str = "version: 1\nroutes:\n  - name: api\n    \
    match: { host: api.example.test, path: \"/api/{v}/guilds/{guild}/roles\" }\n    ttl: 1h\n";

fn request(fields: &[(&'static str, &'static str)]) -> ProxyRequest {
    let target = Target::absolute("http://api.example.test/api/v10/guilds/81384788765712384/roles");
    let mut request = ProxyRequest::get(target.expect("a valid target"));
    for (name, value) in fields {
        request.headers.append(*name, HeaderValue::from_static(value));
    }
    request
}

fn stored(now: SystemTime) -> StoredResponse {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("etag", HeaderValue::from_static("\"0123456789abcdef\""));
    let sole_variant = (VaryFields::default(), VariantId::SOLE);
    let body = Bytes::from(vec![b'x'; 1024]);
    StoredResponse::new(StatusCode::OK, &headers, body, sole_variant, (now, now))
}

fn steps(criterion: &mut Criterion) {
    let config = config::parse("bench.yaml", ROUTES, &Env::default()).expect("valid");
    let plain = request(&[("user-agent", "bench/1.0"), ("accept", "application/json")]);
    let with_credential = request(&[("user-agent", "bench/1.0"), ("authorization", "Bearer abcdefghijkl")]);
    let keyring = config.key_builder([7; 32]);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let route = config.routes.find(&plain).expect("the route matches");
    let generations = Arc::new(Generations::default());
    let store = Memory::new(64 << 20, 1 << 20, Arc::clone(&generations));
    let key = keyring.key(&plain, &route.policy);
    let entry = Arc::new(stored(now));
    store.put(&key, Arc::clone(&entry), generations.current_epoch());

    criterion.bench_function("route: find", |b| b.iter(|| config.routes.find(black_box(&plain))));
    criterion.bench_function("key: no credential", |b| {
        b.iter(|| keyring.key(black_box(&plain), &route.policy));
    });
    criterion.bench_function("key: one credential", |b| {
        b.iter(|| keyring.key(black_box(&with_credential), &route.policy));
    });
    criterion.bench_function("store: get", |b| {
        b.iter(|| store.get(StoreQuery { key: black_box(&key), variant: &|_| VariantId::SOLE }));
    });
    criterion.bench_function("decide: fresh hit", |b| {
        let policy = &route.policy;
        let at = now + Duration::from_secs(10);
        b.iter(|| {
            let input = DecisionInput::new(&plain, policy, CacheKind::Shared, at);
            decide(&input, CacheLookup::Stored(black_box(&entry)))
        });
    });
    criterion.bench_function("reply: fields of a hit", |b| b.iter(|| entry.hit_headers()));
    criterion.bench_function("reply: Cache-Status", |b| {
        b.iter(|| CacheStatus::hit(black_box(3590)).value());
    });
    criterion.bench_function("encoding: reduce", |b| {
        let fields = request(&[("accept-encoding", "gzip, deflate, br, zstd;q=0.5")]).headers;
        b.iter(|| {
            let mut fields = fields.clone();
            accept_encoding::reduce(black_box(&mut fields));
            fields
        });
    });
}

criterion_group!(benches, steps);
criterion_main!(benches);
