//! Damage to the files of a store that nobody has open.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rand::Rng;
use rand::rngs::StdRng;

/// Damages one of the files: a bit, a block, its end, or all of it. The secret is spared: larder does
/// not start on half a secret, and says so.
pub fn one_file(store: &Path, random: &mut StdRng) {
    // Bodies outnumber the files of the databases by far: as often these as those.
    let below = |dirs: &[&str]| {
        let mut files = Vec::new();
        for dir in dirs {
            collect(&store.join(dir), &mut files);
        }
        files.retain(|file| fs::metadata(file).is_ok_and(|file| file.len() > 0));
        files
    };
    let (databases, bodies) = (below(&["cache/v5/db", "state/db"]), below(&["cache/v5/body"]));
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
    .expect("a file of nobody's can be damaged");
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
