//! The disk tier as its callers see it: storing, removing, and damage.

mod bounds;
mod cleanup;
mod damage;
mod storing;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tempfile::TempDir;

use crate::clock::Clock;
use crate::key::{CacheKey, KeyBuilder};
use crate::policy::Policy;
use crate::semantics::redaction::Redactor;
use crate::semantics::request::ProxyRequest;
use crate::semantics::target::Target;
use crate::semantics::vary::{VariantId, VaryFields};
use crate::store::disk::database::Database;
use crate::store::disk::encryption::FieldCipher;
use crate::store::disk::keys::{ENTRIES, EXPIRIES, VARIANTS};
use crate::store::disk::layout::Layout;
use crate::store::disk::usage::DiskUsage;
use crate::store::disk::writer::DiskWriter;
use crate::store::disk::{Disk, DiskEntry, DiskLookup, Hooks, PutCommand, Settings, body_file::Bodies};
use crate::store::generations::Epoch;
use crate::store::presence::{PresenceGuard, PresenceKind, PresentTargets};
use crate::store::state_db::Secret;
use crate::store::{Health, StoreQuery};
use crate::stored::StoredResponse;
use crate::telemetry::Telemetry;

const MIB: u64 = 1 << 20;

/// A directory with a disk tier in it, and the tier's settings.
struct TestDisk {
    dir: TempDir,
    clock: Clock,
    telemetry: Arc<Telemetry>,
    bytes: u64,
    hooks: Hooks,
}

/// These disks have no tiers above them.
pub(super) struct NoObserver;

impl crate::store::disk::DiskObserver for NoObserver {
    fn lost(&self, _key: &CacheKey, _stored: &Arc<StoredResponse>, _epoch: Epoch) {}

    fn opened(&self) {}
}

impl TestDisk {
    fn new() -> Self {
        let hooks = Hooks {
            // The tests do not depend on the free space of the machine.
            measure: |_| None,
            open_within: Duration::from_secs(20),
            retry_every: Duration::from_millis(5),
        };
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock: Clock::manual(at(1_000_000)),
            telemetry: Telemetry::new(&[], &[]),
            bytes: 1024 * MIB,
            hooks,
        }
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn layout(&self) -> Layout {
        Layout::new(self.cache())
    }

    fn settings(&self) -> Settings {
        let sweep_every = Duration::from_secs(60);
        let secret = Secret::from_bytes([7; 32]);
        let waiting = 64 << 20;
        Settings { dir: self.cache(), bytes: self.bytes, waiting, sweep_every, secret }
    }

    fn start(&self) -> Arc<Disk> {
        let telemetry = Arc::clone(&self.telemetry);
        Disk::start_with(self.settings(), self.hooks, self.clock.clone(), telemetry, Box::new(NoObserver))
    }

    /// An open disk tier.
    async fn open(&self) -> Arc<Disk> {
        let disk = self.start();
        disk.flush().await;
        disk
    }

    /// The writer without its thread.
    fn writer(&self) -> DiskWriter {
        let layout = self.layout();
        layout.prepare().unwrap();
        let bodies = Bodies::new(layout.bodies());
        let (database, _closed) = Database::open(&layout.database(), bodies).unwrap();
        DiskWriter {
            usage: Arc::new(DiskUsage::from_database(&database).unwrap()),
            database: Arc::new(database),
            cipher: Arc::new(FieldCipher::new(&self.settings().secret)),
            telemetry: Arc::clone(&self.telemetry),
            bound: self.bytes,
            latest_order: 0,
            check: None,
        }
    }

    /// The body files.
    fn files(&self) -> Vec<PathBuf> {
        files_below(&self.layout().bodies())
    }

    /// The value of a metric.
    fn metric(&self, name: &str) -> u64 {
        let page = self.telemetry.render();
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    fn errors(&self, operation: &str) -> u64 {
        self.metric(&format!("larder_store_errors_total{{op=\"{operation}\"}}"))
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn key(path: &str) -> CacheKey {
    let target = Target::absolute(&format!("http://api.example{path}")).unwrap();
    KeyBuilder::new([7; 32], &[], Redactor::default()).key(&ProxyRequest::get(target), &Policy::origin())
}

/// Bytes that differ for each seed.
fn bytes(seed: usize, length: usize) -> Bytes {
    (0..length).map(|n| u8::try_from((n * 31 + n / 251 + seed * 17) % 256).unwrap()).collect()
}

/// A response that arrived `seconds` after the epoch.
fn stored_at(
    body: impl Into<Bytes>,
    vary: &[&'static str],
    variant: u128,
    seconds: u64,
) -> Arc<StoredResponse> {
    let names = vary.iter().map(|name| HeaderName::from_static(name)).collect();
    let mut headers = HeaderMap::new();
    headers.insert("x-field", HeaderValue::from_static("1"));
    headers.insert("x-ratelimit-remaining", HeaderValue::from_static("2"));
    Arc::new(
        StoredResponse::new(
            StatusCode::OK,
            &headers,
            body.into(),
            (VaryFields::new(names), VariantId(variant)),
            (at(seconds), at(seconds)),
        )
        .with_initial_age(Duration::from_secs(5))
        .with_order(seconds),
    )
}

fn stored(body: impl Into<Bytes>) -> Arc<StoredResponse> {
    stored_at(body, &[], 0, 100)
}

const EPOCH: Epoch = Epoch::from_raw(1);
/// Later than every order number in these tests.
const LATEST_ORDER: u64 = 1 << 40;

/// Presence of a target that is not part of these tests.
fn presence() -> PresenceGuard {
    Arc::new(PresentTargets::default()).register(0, PresenceKind::Pending)
}

fn put(disk: &Disk, path: &str, stored: &Arc<StoredResponse>) {
    disk.put(put_command(key(path), stored));
}

fn put_command(key: CacheKey, stored: &Arc<StoredResponse>) -> PutCommand {
    PutCommand {
        key,
        stored: Arc::clone(stored),
        epoch: EPOCH,
        latest_order: LATEST_ORDER,
        until: None,
        presence: presence(),
    }
}

/// Looks up as a request whose variant is `variant` wherever a response varies.
fn find(disk: &Disk, path: &str, variant: u128) -> DiskLookup {
    let select_variant = |fields: &VaryFields| {
        if fields.names().is_empty() { VariantId::SOLE } else { VariantId(variant) }
    };
    disk.find(StoreQuery { key: &key(path), variant: &select_variant }, u64::MAX)
}

fn record(disk: &Disk, path: &str, variant: u128) -> Option<DiskEntry> {
    match find(disk, path, variant) {
        DiskLookup::Found(record) => Some(record),
        DiskLookup::OtherVariants(_) | DiskLookup::Nothing => None,
    }
}

fn body_of(disk: &Disk, path: &str, variant: u128) -> Option<Bytes> {
    Some(disk.read(&record(disk, path, variant)?)?.body.clone())
}

fn body(disk: &Disk, path: &str) -> Option<Bytes> {
    body_of(disk, path, 0)
}

/// Number of entries, lists of variants and expiry records.
fn counts(database: &Database) -> [usize; 3] {
    [ENTRIES, VARIANTS, EXPIRIES].map(|prefix| database.scan(&prefix, None, 100_000).unwrap().len())
}
