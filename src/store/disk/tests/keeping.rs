//! What is kept, found and replaced.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;

use super::damage::copy;
use super::*;
use crate::store::disk::EntryPage;
use crate::store::disk::keys::{self, ExpiresAt};
use crate::store::disk::queue::PutCommand;
use crate::store::disk::variants::Variants;
use crate::store::memory;

#[tokio::test]
async fn what_was_put_is_found_whole_after_a_restart() {
    let house = TestDisk::new();
    let disk = house.open().await;
    let sizes = [0, 1, 4096, 4097, 100_000, 300_000];
    for (seed, size) in sizes.into_iter().enumerate() {
        let stored = stored(bytes(seed, size));
        disk.put(
            &key(&format!("/{size}")),
            &stored,
            (Epoch::from_raw(40 + seed as u64), SO_FAR),
            None,
            presence(),
        );
    }
    disk.flush().await;
    let totals = disk.totals();
    disk.close().await;
    let disk = house.open().await;
    assert_eq!(disk.totals(), totals);
    assert_eq!(totals.entries, sizes.len() as u64);
    for (seed, size) in sizes.into_iter().enumerate() {
        let record = record(&disk, &format!("/{size}"), 0).unwrap();
        assert_eq!(record.mark(), Epoch::from_raw(40 + seed as u64));
        assert_eq!(record.is_inline(), size <= 4096);
        assert_eq!(record.body_len(), size as u64);
        let (found, put) = (disk.read(&record).unwrap(), stored(bytes(seed, size)));
        assert_eq!((&found.body, &found.headers), (&put.body, &put.headers));
        assert_eq!((&found.withheld, &found.said), (&put.withheld, &put.said));
        assert_eq!(
            (found.request_time, found.response_time, found.initial_age),
            (put.request_time, put.response_time, put.initial_age)
        );
    }
    assert_eq!(house.files().len(), 3);
    assert!(matches!(find(&disk, "/other", 0), DiskLookup::Nothing));
    disk.close().await;
}

#[tokio::test]
async fn what_was_flushed_survives_a_process_that_ends_without_closing() {
    let house = TestDisk::new();
    let disk = house.open().await;
    for n in 0..20 {
        put(&disk, &format!("/{n}"), &stored(bytes(n, n * 1000)));
    }
    disk.flush().await;
    // The files as they are at this moment are what a killed process leaves.
    let left = TestDisk::new();
    copy(&house.cache(), &left.cache());
    disk.close().await;
    let disk = left.open().await;
    for n in 0..20 {
        assert_eq!(body(&disk, &format!("/{n}")), Some(bytes(n, n * 1000)), "{n}");
    }
    disk.close().await;
}

#[tokio::test]
async fn a_replaced_file_is_unlinked_while_its_reader_finishes() {
    let house = TestDisk::new();
    let disk = house.open().await;
    put(&disk, "/x", &stored(bytes(1, 100_000)));
    disk.flush().await;
    let before = record(&disk, "/x", 0).unwrap();
    let mut reading = File::open(&house.files()[0]).unwrap();
    put(&disk, "/x", &stored_at(bytes(2, 50_000), &[], 0, 101));
    disk.flush().await;
    let mut read = Vec::new();
    reading.read_to_end(&mut read).unwrap();
    assert_eq!(read, bytes(1, 100_000));
    assert_eq!(house.files().len(), 1);
    assert_eq!(body(&disk, "/x"), Some(bytes(2, 50_000)));
    assert!(disk.read(&before).is_none(), "what was found before is gone");
    disk.flush().await;
    assert_eq!(body(&disk, "/x"), Some(bytes(2, 50_000)), "and what replaced it is not");
    assert_eq!(house.errors("read"), 0, "that is no fault");
    assert_eq!(disk.totals().entries, 1);
    disk.close().await;
}

#[tokio::test]
async fn what_a_304_freshened_keeps_its_body_file() {
    let house = TestDisk::new();
    let disk = house.open().await;
    let first = stored(bytes(1, 100_000));
    put(&disk, "/x", &first);
    disk.flush().await;
    let file = house.files();
    let mut not_modified = HeaderMap::new();
    not_modified.insert("x-field", HeaderValue::from_static("freshened"));
    put(&disk, "/x", &Arc::new(first.freshened(&not_modified, at(200), at(200))));
    disk.flush().await;
    assert_eq!(house.files(), file);
    let found = disk.read(&record(&disk, "/x", 0).unwrap()).unwrap();
    assert_eq!(found.headers["x-field"], "freshened");
    assert_eq!(found.body, first.body);
    disk.close().await;
}

#[tokio::test]
async fn an_older_response_does_not_replace_a_newer_one() {
    let house = TestDisk::new();
    let disk = house.open().await;
    put(&disk, "/x", &stored_at("newer", &[], 0, 20));
    disk.flush().await;
    put(&disk, "/x", &stored_at("older", &[], 0, 10));
    disk.flush().await;
    assert_eq!(body(&disk, "/x").unwrap(), "newer");
    put(&disk, "/x", &stored_at("newest", &[], 0, 21));
    disk.flush().await;
    assert_eq!(body(&disk, "/x").unwrap(), "newest");
    disk.close().await;
}

#[tokio::test]
async fn sto_07_an_entry_from_the_future_keeps_nothing_away() {
    let house = TestDisk::new();
    let disk = house.open().await;
    let future = SO_FAR + 1;
    put(&disk, "/x", &stored_at("from the future", &[], 0, future));
    disk.flush().await;
    put(&disk, "/x", &stored_at("from now", &[], 0, 1_000_000));
    disk.flush().await;
    assert_eq!(body(&disk, "/x").unwrap(), "from now");
    disk.close().await;
}

#[tokio::test]
async fn cch_05_of_too_many_variants_the_newest_are_kept() {
    let house = TestDisk::new();
    let disk = house.open().await;
    let number = memory::VARIANTS as u128;
    for n in 1..=number + 6 {
        put(&disk, "/x", &stored_at(bytes(n.try_into().unwrap(), 5000), &["x-v"], n, 100));
    }
    disk.flush().await;
    assert_eq!(disk.totals().entries, memory::VARIANTS as u64);
    assert_eq!(house.files().len(), memory::VARIANTS);
    assert_eq!(body_of(&disk, "/x", 7), Some(bytes(7, 5000)));
    assert_eq!(body_of(&disk, "/x", number + 6), Some(bytes(memory::VARIANTS + 6, 5000)));
    assert!(matches!(find(&disk, "/x", 6), DiskLookup::OtherVariants(VariantId(6))));
    disk.close().await;
}

#[tokio::test]
async fn of_several_that_match_the_most_recent_is_found() {
    let house = TestDisk::new();
    let disk = house.open().await;
    put(&disk, "/x", &stored_at("by v", &["x-v"], 7, 10));
    put(&disk, "/x", &stored_at("sole", &[], 0, 20));
    disk.flush().await;
    assert_eq!(body_of(&disk, "/x", 7).unwrap(), "sole");
    put(&disk, "/x", &stored_at("by v again", &["x-v"], 7, 30));
    disk.flush().await;
    assert_eq!(body_of(&disk, "/x", 7).unwrap(), "by v again");
    assert_eq!(body_of(&disk, "/x", 8).unwrap(), "sole");
    disk.close().await;
}

#[test]
fn an_entry_under_the_id_of_another_key_is_not_found() {
    let house = TestDisk::new();
    let mut keeper = house.keeper();
    let (own, other) = (key("/own"), key("/other"));
    let put = PutCommand {
        key: own.clone(),
        stored: stored("own"),
        mark: MARK,
        so_far: SO_FAR,
        until: ExpiresAt::FOREVER,
        _presence: presence(),
    };
    keeper.put(&put).unwrap();
    let move_to_other = |from: Vec<u8>, to: Vec<u8>| {
        let value = keeper.database.get(&from).unwrap().unwrap();
        keeper.database.insert(&to, value.to_vec()).unwrap();
    };
    let entry = |key| keys::entry(&keys::place(key, VariantId::SOLE));
    let find = |key| {
        let variant = |_: &VaryFields| VariantId::SOLE;
        crate::store::disk::lookup::find(
            &keeper.database,
            StoreQuery { key, variant: &variant },
            u64::MAX,
        )
        .unwrap()
        .0
    };
    move_to_other(entry(&own), entry(&other));
    move_to_other(keys::variants(own.id()), keys::variants(other.id()));
    assert!(matches!(find(&own), DiskLookup::Found(_)));
    assert!(matches!(find(&other), DiskLookup::Nothing), "both say whose they are");
    let mut variants = Variants::none(other.target_id(), other.canonical());
    variants.add(VariantId::SOLE, &VaryFields::default());
    keeper.database.insert(&keys::variants(other.id()), variants.encode().unwrap()).unwrap();
    assert!(matches!(find(&other), DiskLookup::Nothing), "the entry alone says it too");
}

#[tokio::test]
async fn a_target_is_reclaimed_with_all_its_variants_and_nothing_else() {
    let house = TestDisk::new();
    let disk = house.open().await;
    for n in 1..=5 {
        put(&disk, "/x", &stored_at(bytes(1, 10_000), &["x-v"], n, 100));
    }
    put(&disk, "/y", &stored("y"));
    disk.remove_target(key("/x").target_id());
    disk.flush().await;
    assert!(matches!(find(&disk, "/x", 3), DiskLookup::Nothing));
    assert_eq!(body(&disk, "/y").unwrap(), "y");
    assert_eq!(house.files(), <[PathBuf; 0]>::default());
    assert_eq!(disk.totals().entries, 1);
    put(&disk, "/x", &stored("again"));
    disk.flush().await;
    assert_eq!(body(&disk, "/x").unwrap(), "again");
    disk.close().await;
    assert_eq!(counts(&house.keeper().database), [2, 2, 2]);
}

#[tokio::test]
async fn what_is_cleared_is_gone_and_what_comes_after_is_kept() {
    let house = TestDisk::new();
    let disk = house.open().await;
    for n in 0..30 {
        put(&disk, &format!("/{n}"), &stored(bytes(n, n * 1000)));
    }
    disk.clear();
    put(&disk, "/after", &stored("after"));
    disk.flush().await;
    assert!((0..30).all(|n| matches!(find(&disk, &format!("/{n}"), 0), DiskLookup::Nothing)));
    assert_eq!(disk.totals().entries, 1);
    assert_eq!(disk.condition(), Health::Good);
    disk.close().await;
    let disk = house.open().await;
    assert_eq!(body(&disk, "/after").unwrap(), "after");
    assert!(matches!(find(&disk, "/1", 0), DiskLookup::Nothing));
    assert_eq!(house.metric("larder_store_recovered_total"), 0, "that was no fault");
    disk.close().await;
}

#[tokio::test]
async fn pages_lead_through_everything_once() {
    let house = TestDisk::new();
    let disk = house.open().await;
    for n in 0..25 {
        put(&disk, &format!("/{n}"), &stored(bytes(n, n * 500)));
    }
    put(&disk, "/x", &stored_at("1", &["x-v"], 1, 100));
    put(&disk, "/x", &stored_at("2", &["x-v"], 2, 100));
    disk.flush().await;
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = disk.page(after, 10, None);
        assert!(page.len() <= 10);
        let Some(last) = page.last() else { break };
        after = Some(last.listed.place);
        seen.extend(page.into_iter().map(|paged| (paged.listed.place, paged.listed.body)));
    }
    assert_eq!(seen.len(), 27);
    assert!(seen.is_sorted_by_key(|(place, _)| *place));
    let place = |path: &str| keys::place(&key(path), VariantId::SOLE);
    assert!((0..25).all(|n| seen.contains(&(place(&format!("/{n}")), n * 500))));
    let page = disk.page(None, 10, Some(key("/x").target_id()));
    assert_eq!(page.len(), 2);
    for EntryPage { listed, mark } in page {
        assert_eq!(&*listed.canonical, key("/x").canonical());
        assert_eq!((listed.stored.body.len(), listed.body, mark), (0, 1, MARK));
        assert_eq!(listed.stored.headers["x-field"], "1");
        assert!(listed.on_disk && !listed.in_memory);
    }
    let nothing = disk.page(None, 10, Some(key("/none").target_id()));
    assert!(nothing.is_empty());
    disk.close().await;
}

#[tokio::test]
async fn what_is_too_large_to_be_kept_takes_the_place_of_nothing_older() {
    let house = TestDisk::new();
    let disk = house.open().await;
    put(&disk, "/x", &stored(bytes(1, 10_000)));
    disk.flush().await;
    let mut headers = HeaderMap::new();
    headers.insert("x-long", HeaderValue::from_bytes(&vec![b'x'; 65_536]).unwrap());
    put(&disk, "/x", &Arc::new(stored_at("new", &[], 0, 200).keeping(&headers)));
    disk.flush().await;
    assert!(matches!(find(&disk, "/x", 0), DiskLookup::Nothing), "the older one is not the newest");
    assert_eq!((disk.totals().entries, house.files().len()), (0, 0));
    disk.close().await;
}

#[tokio::test]
async fn nothing_is_found_or_kept_before_it_is_open_and_after_it_is_closed() {
    let house = TestDisk::new();
    let disk = house.start();
    put(&disk, "/x", &stored("early"));
    disk.flush().await;
    assert_eq!(body(&disk, "/x").unwrap(), "early", "what was put early is kept");
    let record = record(&disk, "/x", 0).unwrap();
    disk.close().await;
    put(&disk, "/y", &stored("late"));
    disk.remove_target(key("/x").target_id());
    disk.clear();
    assert!(matches!(find(&disk, "/x", 0), DiskLookup::Nothing));
    assert!(disk.read(&record).is_none());
    assert!(disk.page(None, 10, None).is_empty());
    disk.flush().await;
    disk.close().await;
    let disk = house.open().await;
    assert_eq!(body(&disk, "/x").unwrap(), "early");
    assert!(matches!(find(&disk, "/y", 0), DiskLookup::Nothing));
    disk.close().await;
}

#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "the runtime's own clock, which stands still")]
async fn closing_waits_no_longer_than_it_may() {
    let house = TestDisk::new();
    let disk = house.open().await;
    let (go_on, stalled) = mpsc::channel();
    disk.stall(stalled);
    let before = tokio::time::Instant::now();
    disk.close().await;
    let waited = tokio::time::Instant::now() - before;
    assert!(waited >= Duration::from_secs(5) && waited < Duration::from_secs(6), "{waited:?}");
    assert!(matches!(find(&disk, "/x", 0), DiskLookup::Nothing));
    drop(go_on);
}

#[tokio::test]
async fn sto_09_no_credential_is_at_rest_and_nobody_else_may_read() {
    let house = TestDisk::new();
    let disk = house.open().await;
    let keyring = KeyBuilder::new([7; 32], &[], Redactor::default());
    for (n, length) in [10, 100_000].into_iter().enumerate() {
        let url = format!("http://api.example/{n}?api_key=SECRET2&page=PUBLIC");
        let mut asked = ProxyRequest::get(Target::absolute(&url).unwrap());
        asked.headers.insert("authorization", HeaderValue::from_static("Bearer SECRET1"));
        asked.headers.insert("x-user-agent", HeaderValue::from_static("SECRET3"));
        let vary = VaryFields::new(vec![
            "authorization".parse().unwrap(),
            "x-user-agent".parse().unwrap(),
        ]);
        let variant = keyring.variant(&vary, &asked.headers);
        let plain = stored(bytes(n, length));
        let mut varied = (*plain).clone();
        (varied.vary, varied.variant) = (vary, variant);
        disk.put(
            &keyring.key(&asked, &Policy::origin()),
            &Arc::new(varied),
            (MARK, SO_FAR),
            None,
            presence(),
        );
    }
    disk.flush().await;
    assert_eq!(disk.totals().entries, 2);
    disk.close().await;
    let mut seen_public = false;
    for file in files_below(house.dir.path()) {
        let content = std::fs::read(&file).unwrap();
        let has = |part: &[u8]| content.windows(part.len()).any(|window| window == part);
        assert!(!has(b"SECRET"), "{}", file.display());
        seen_public |= has(b"PUBLIC");
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        // The engine makes its files as it likes: nobody else comes as far as them.
        assert!(mode == 0o600 || file.starts_with(house.layout().database()), "{}", file.display());
    }
    assert!(seen_public, "the test can see what is in the files");
    for dir in [house.cache(), house.layout().database(), house.layout().bodies()] {
        assert_eq!(
            dir.metadata().unwrap().permissions().mode() & 0o777,
            0o700,
            "{}",
            dir.display()
        );
    }
}

#[tokio::test]
async fn sto_09_the_files_of_the_database_are_closed_to_others_at_every_opening() {
    let house = TestDisk::new();
    let disk = house.open().await;
    disk.close().await;
    let open_to_all =
        |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o666));
    for file in files_below(&house.layout().database()) {
        open_to_all(&file).unwrap();
    }
    let disk = house.open().await;
    for file in files_below(&house.layout().database()) {
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.display());
    }
    disk.close().await;
}
