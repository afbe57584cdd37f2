//! Damages files of a store while no larder runs on it.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rand::RngExt;
use rand::rngs::StdRng;

/// Damages one random file: flips a bit, zeroes a block, truncates the file or deletes it. The secret's
/// file is left out: larder refuses to start on an incomplete secret.
pub fn one_file(store: &Path, random: &mut StdRng) {
    // There are far more body files than database files: each group is chosen half of the time.
    let files_below = |dirs: &[&str]| {
        let mut files = Vec::new();
        for dir in dirs {
            collect(&store.join(dir), &mut files);
        }
        files.retain(|file| fs::metadata(file).is_ok_and(|file| file.len() > 0));
        files
    };
    let (databases, bodies) = (files_below(&["cache/v5/db", "state/db"]), files_below(&["cache/v5/body"]));
    let files = if bodies.is_empty() || random.random() { databases } else { bodies };
    if files.is_empty() {
        return;
    }
    let file = &files[random.random_range(0..files.len())];
    let length = fs::metadata(file).map_or(0, |file| file.len());
    let at = random.random_range(0..length);
    let bit = 1 << random.random_range(0..8);
    match random.random_range(0..4) {
        0 => overwrite(file, at, 1, |byte| byte ^ bit),
        1 => overwrite(file, at / 4096 * 4096, 4096, |_| 0),
        2 => OpenOptions::new().write(true).open(file).and_then(|file| file.set_len(at)),
        _ => fs::remove_file(file),
    }
    .expect("no process has the file open");
}

fn overwrite(file: &Path, at: u64, length: u64, change: impl Fn(u8) -> u8) -> std::io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(file)?;
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(length).read_to_end(&mut bytes)?;
    for byte in &mut bytes {
        *byte = change(*byte);
    }
    file.seek(SeekFrom::Start(at))?;
    file.write_all(&bytes)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
    files.sort();
}
