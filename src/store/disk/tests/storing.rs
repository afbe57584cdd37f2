//! Storing, finding and replacing entries.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;

use super::damage::copy;
use super::*;
use crate::store::disk::EntryPage;
use crate::store::disk::keys;
use crate::store::disk::queue::PutCommand;
use crate::store::disk::variants::Variants;
use crate::store::memory;

#[tokio::test]
async fn entries_are_found_complete_after_a_restart() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    let sizes = [0, 1, 4096, 4097, 100_000, 300_000];
    for (seed, size) in sizes.into_iter().enumerate() {
        let stored = stored(bytes(seed, size));
        let epoch = Epoch::from_raw(40 + seed as u64);
        disk.put(PutCommand { epoch, ..put_command(key(&format!("/{size}")), &stored) });
    }
    disk.flush().await;
    let totals = disk.totals();
    disk.close().await;
    let disk = fixture.open().await;
    assert_eq!(disk.totals(), totals);
    assert_eq!(totals.entries, sizes.len() as u64);
    for (seed, size) in sizes.into_iter().enumerate() {
        let record = record(&disk, &format!("/{size}"), 0).unwrap();
        assert_eq!(record.epoch(), Epoch::from_raw(40 + seed as u64));
        assert_eq!(record.is_inline(), size <= 4096);
        assert_eq!(record.body_len(), size as u64);
        let (found, put) = (disk.read(&record).unwrap(), stored(bytes(seed, size)));
        assert_eq!((&found.body, &found.headers), (&put.body, &put.headers));
        assert_eq!((&found.withheld, &found.metadata), (&put.withheld, &put.metadata));
        assert_eq!(
            (found.request_time, found.response_time, found.initial_age),
            (put.request_time, put.response_time, put.initial_age)
        );
    }
    assert_eq!(fixture.files().len(), 3);
    assert!(matches!(find(&disk, "/other", 0), DiskLookup::Nothing));
    disk.close().await;
}

#[tokio::test]
async fn flushed_entries_survive_a_process_that_ends_without_closing() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    for n in 0..20 {
        put(&disk, &format!("/{n}"), &stored(bytes(n, n * 1000)));
    }
    disk.flush().await;
    // A copy of the files at this moment is the state after a kill.
    let killed = TestDisk::new();
    copy(&fixture.cache(), &killed.cache());
    disk.close().await;
    let disk = killed.open().await;
    for n in 0..20 {
        assert_eq!(body(&disk, &format!("/{n}")), Some(bytes(n, n * 1000)), "{n}");
    }
    disk.close().await;
}

#[tokio::test]
async fn a_replaced_file_is_unlinked_while_its_reader_finishes() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    put(&disk, "/x", &stored(bytes(1, 100_000)));
    disk.flush().await;
    let before = record(&disk, "/x", 0).unwrap();
    let mut reading = File::open(&fixture.files()[0]).unwrap();
    put(&disk, "/x", &stored_at(bytes(2, 50_000), &[], 0, 101));
    disk.flush().await;
    let mut read = Vec::new();
    reading.read_to_end(&mut read).unwrap();
    assert_eq!(read, bytes(1, 100_000));
    assert_eq!(fixture.files().len(), 1);
    assert_eq!(body(&disk, "/x"), Some(bytes(2, 50_000)));
    assert!(disk.read(&before).is_none(), "what was found before is gone");
    disk.flush().await;
    assert_eq!(body(&disk, "/x"), Some(bytes(2, 50_000)), "and what replaced it is not");
    assert_eq!(fixture.errors("read"), 0, "that is no fault");
    assert_eq!(disk.totals().entries, 1);
    disk.close().await;
}

#[tokio::test]
async fn an_entry_freshened_by_a_304_keeps_its_body_file() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    let first = stored(bytes(1, 100_000));
    put(&disk, "/x", &first);
    disk.flush().await;
    let file = fixture.files();
    let mut not_modified = HeaderMap::new();
    not_modified.insert("x-field", HeaderValue::from_static("freshened"));
    put(&disk, "/x", &Arc::new(first.freshened(&not_modified, at(200), at(200))));
    disk.flush().await;
    assert_eq!(fixture.files(), file);
    let found = disk.read(&record(&disk, "/x", 0).unwrap()).unwrap();
    assert_eq!(found.headers["x-field"], "freshened");
    assert_eq!(found.body, first.body);
    disk.close().await;
}

#[tokio::test]
async fn an_older_response_does_not_replace_a_newer_one() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
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
async fn sto_07_an_entry_from_the_future_does_not_block_newer_ones() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    let future = LATEST_ORDER + 1;
    put(&disk, "/x", &stored_at("from the future", &[], 0, future));
    disk.flush().await;
    put(&disk, "/x", &stored_at("from now", &[], 0, 1_000_000));
    disk.flush().await;
    assert_eq!(body(&disk, "/x").unwrap(), "from now");
    disk.close().await;
}

#[tokio::test]
async fn cch_05_of_too_many_variants_the_newest_are_kept() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    let number = memory::VARIANTS as u128;
    for n in 1..=number + 6 {
        put(&disk, "/x", &stored_at(bytes(n.try_into().unwrap(), 5000), &["x-v"], n, 100));
    }
    disk.flush().await;
    assert_eq!(disk.totals().entries, memory::VARIANTS as u64);
    assert_eq!(fixture.files().len(), memory::VARIANTS);
    assert_eq!(body_of(&disk, "/x", 7), Some(bytes(7, 5000)));
    assert_eq!(body_of(&disk, "/x", number + 6), Some(bytes(memory::VARIANTS + 6, 5000)));
    assert!(matches!(find(&disk, "/x", 6), DiskLookup::OtherVariants(VariantId(6))));
    disk.close().await;
}

#[tokio::test]
async fn of_several_that_match_the_most_recent_is_found() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
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
    let fixture = TestDisk::new();
    let mut writer = fixture.writer();
    let (own, other) = (key("/own"), key("/other"));
    let put = put_command(own.clone(), &stored("own"));
    writer.put(&put).unwrap();
    let move_to_other = |from: Vec<u8>, to: Vec<u8>| {
        let value = writer.database.get(&from).unwrap().unwrap();
        writer.database.insert(&to, value.to_vec()).unwrap();
    };
    let entry = |key| keys::entry(&keys::entry_id(key, VariantId::SOLE));
    let find = |key| {
        let variant = |_: &VaryFields| VariantId::SOLE;
        crate::store::disk::lookup::find(&writer.database, StoreQuery { key, variant: &variant }, u64::MAX)
            .unwrap()
            .0
    };
    move_to_other(entry(&own), entry(&other));
    move_to_other(keys::variants(own.id()), keys::variants(other.id()));
    assert!(matches!(find(&own), DiskLookup::Found(_)));
    assert!(matches!(find(&other), DiskLookup::Nothing), "both contain their key");
    let mut variants = Variants::empty(other.target_id(), other.canonical());
    variants.add(VariantId::SOLE, &VaryFields::default());
    writer.database.insert(&keys::variants(other.id()), variants.encode().unwrap()).unwrap();
    assert!(matches!(find(&other), DiskLookup::Nothing), "the entry alone contains it too");
}

#[tokio::test]
async fn a_target_is_removed_with_all_its_variants_and_nothing_else() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    for n in 1..=5 {
        put(&disk, "/x", &stored_at(bytes(1, 10_000), &["x-v"], n, 100));
    }
    put(&disk, "/y", &stored("y"));
    disk.remove_target(key("/x").target_id());
    disk.flush().await;
    assert!(matches!(find(&disk, "/x", 3), DiskLookup::Nothing));
    assert_eq!(body(&disk, "/y").unwrap(), "y");
    assert_eq!(fixture.files(), <[PathBuf; 0]>::default());
    assert_eq!(disk.totals().entries, 1);
    put(&disk, "/x", &stored("again"));
    disk.flush().await;
    assert_eq!(body(&disk, "/x").unwrap(), "again");
    disk.close().await;
    assert_eq!(counts(&fixture.writer().database), [2, 2, 2]);
}

#[tokio::test]
async fn cleared_entries_are_gone_and_later_ones_are_stored() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    for n in 0..30 {
        put(&disk, &format!("/{n}"), &stored(bytes(n, n * 1000)));
    }
    disk.clear();
    put(&disk, "/after", &stored("after"));
    disk.flush().await;
    assert!((0..30).all(|n| matches!(find(&disk, &format!("/{n}"), 0), DiskLookup::Nothing)));
    assert_eq!(disk.totals().entries, 1);
    assert_eq!(disk.health(), Health::Good);
    disk.close().await;
    let disk = fixture.open().await;
    assert_eq!(body(&disk, "/after").unwrap(), "after");
    assert!(matches!(find(&disk, "/1", 0), DiskLookup::Nothing));
    assert_eq!(fixture.metric("larder_store_recovered_total"), 0, "that was no fault");
    disk.close().await;
}

#[tokio::test]
async fn pages_list_every_entry_once() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
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
        after = Some(last.info.id);
        seen.extend(page.into_iter().map(|paged| (paged.info.id, paged.info.body)));
    }
    assert_eq!(seen.len(), 27);
    assert!(seen.is_sorted_by_key(|(entry_id, _)| *entry_id));
    let entry_id = |path: &str| keys::entry_id(&key(path), VariantId::SOLE);
    assert!((0..25).all(|n| seen.contains(&(entry_id(&format!("/{n}")), n * 500))));
    let page = disk.page(None, 10, Some(key("/x").target_id()));
    assert_eq!(page.len(), 2);
    for EntryPage { info: listed, epoch } in page {
        assert_eq!(&*listed.canonical, key("/x").canonical());
        assert_eq!((listed.stored.body.len(), listed.body, epoch), (0, 1, EPOCH));
        assert_eq!(listed.stored.headers["x-field"], "1");
        assert!(listed.on_disk && !listed.in_memory);
    }
    let nothing = disk.page(None, 10, Some(key("/none").target_id()));
    assert!(nothing.is_empty());
    disk.close().await;
}

#[tokio::test]
async fn a_response_too_large_to_store_removes_the_older_one() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    put(&disk, "/x", &stored(bytes(1, 10_000)));
    disk.flush().await;
    let mut headers = HeaderMap::new();
    headers.insert("x-long", HeaderValue::from_bytes(&vec![b'x'; 65_536]).unwrap());
    put(&disk, "/x", &Arc::new(stored_at("new", &[], 0, 200).with_headers(&headers)));
    disk.flush().await;
    assert!(matches!(find(&disk, "/x", 0), DiskLookup::Nothing), "the older one is not the newest");
    assert_eq!((disk.totals().entries, fixture.files().len()), (0, 0));
    disk.close().await;
}

#[tokio::test]
async fn nothing_is_found_before_it_opens_or_after_it_closes() {
    let fixture = TestDisk::new();
    let disk = fixture.start();
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
    let disk = fixture.open().await;
    assert_eq!(body(&disk, "/x").unwrap(), "early");
    assert!(matches!(find(&disk, "/y", 0), DiskLookup::Nothing));
    disk.close().await;
}

#[tokio::test(start_paused = true)]
#[expect(clippy::disallowed_methods, reason = "the runtime's own clock, which stands still")]
async fn closing_waits_5_s_at_most() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    let (resume, stalled) = mpsc::channel();
    disk.stall(stalled);
    let before = tokio::time::Instant::now();
    disk.close().await;
    let waited = tokio::time::Instant::now() - before;
    assert!(waited >= Duration::from_secs(5) && waited < Duration::from_secs(6), "{waited:?}");
    assert!(matches!(find(&disk, "/x", 0), DiskLookup::Nothing));
    drop(resume);
}

#[tokio::test]
async fn sto_09_no_credential_is_on_disk_and_files_are_private() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    let keyring = KeyBuilder::new([7; 32], &[], Redactor::default());
    for (n, length) in [10, 100_000].into_iter().enumerate() {
        let url = format!("http://api.example/{n}?api_key=SECRET2&page=PUBLIC");
        let mut request = ProxyRequest::get(Target::absolute(&url).unwrap());
        request.headers.insert("authorization", HeaderValue::from_static("Bearer SECRET1"));
        request.headers.insert("x-user-agent", HeaderValue::from_static("SECRET3"));
        let vary = VaryFields::new(vec!["authorization".parse().unwrap(), "x-user-agent".parse().unwrap()]);
        let variant = keyring.variant(&vary, &request.headers);
        let plain = stored(bytes(n, length));
        let mut varied = (*plain).clone();
        (varied.vary, varied.variant) = (vary, variant);
        let key = keyring.key(&request, &Policy::origin());
        disk.put(put_command(key, &Arc::new(varied)));
    }
    disk.flush().await;
    assert_eq!(disk.totals().entries, 2);
    disk.close().await;
    let mut found_public = false;
    for file in files_below(fixture.dir.path()) {
        let content = std::fs::read(&file).unwrap();
        let has = |part: &[u8]| content.windows(part.len()).any(|window| window == part);
        assert!(!has(b"SECRET"), "{}", file.display());
        found_public |= has(b"PUBLIC");
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        // The engine sets the mode of its own files; the directory above denies access to them.
        assert!(mode == 0o600 || file.starts_with(fixture.layout().database()), "{}", file.display());
    }
    assert!(found_public, "the test can see what is in the files");
    for dir in [fixture.cache(), fixture.layout().database(), fixture.layout().bodies()] {
        assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700, "{}", dir.display());
    }
}

#[tokio::test]
async fn sto_09_database_files_are_made_private_at_every_opening() {
    let fixture = TestDisk::new();
    let disk = fixture.open().await;
    disk.close().await;
    let open_to_all = |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o666));
    for file in files_below(&fixture.layout().database()) {
        open_to_all(&file).unwrap();
    }
    let disk = fixture.open().await;
    for file in files_below(&fixture.layout().database()) {
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.display());
    }
    disk.close().await;
}
