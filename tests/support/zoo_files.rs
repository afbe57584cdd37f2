//! The bodies that real origins serve, with the same bytes in every run.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;

/// The lengths of the bodies, around the sizes of buffers and frames; the last is `max_object`.
pub const SIZES: [usize; 7] = [0, 1, 16_383, 16_384, 16_385, 1 << 20, 8 << 20];

/// The lengths of the texts, which also exist compressed.
pub const TEXTS: [usize; 2] = [16_384, 1 << 20];

/// An incompressible body of this length.
pub fn body(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A text of this length.
pub fn text(length: usize) -> Vec<u8> {
    let mut text = String::with_capacity(length + 32);
    for line in 0.. {
        if text.len() >= length {
            break;
        }
        text.push_str("this is line ");
        text.push_str(&line.to_string());
        text.push('\n');
    }
    text.truncate(length);
    text.into_bytes()
}

/// Writes all bodies below `root`: `LENGTH`, `text-LENGTH`, `gzipped/text-LENGTH` and `brotlied/text-LENGTH`.
pub fn write(root: &Path) {
    for directory in ["gzipped", "brotlied"] {
        fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    // Servers generate a weak ETag for a file that was modified just now.
    let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    let file = |name: &str, bytes: &[u8]| {
        let mut file = fs::File::create(root.join(name)).expect("a file");
        file.write_all(bytes).expect("the disk has room");
        file.set_modified(modified).expect("the owner of the file");
    };
    for length in SIZES {
        file(&length.to_string(), &body(length));
    }
    for length in TEXTS {
        let name = format!("text-{length}");
        let text = text(length);
        file(&name, &text);
        file(&format!("gzipped/{name}"), &gzipped(&text));
        file(&format!("brotlied/{name}"), &brotlied(&text));
    }
}

fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory has room");
    encoder.finish().expect("memory has room")
}

/// A valid Brotli stream (RFC 7932 §9) of uncompressed meta-blocks.
fn brotlied(bytes: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (index, block) in bytes.chunks(1 << 16).enumerate() {
        // Header: not the last, four nibbles with the length minus one, uncompressed. The first is preceded
        // by one bit for a window of 64 KiB.
        let length = u32::try_from(block.len() - 1).expect("a block is short");
        let head = (length << 3) | (1 << 19);
        let head = if index == 0 { head << 1 } else { head };
        stream.extend_from_slice(&head.to_le_bytes()[..3]);
        stream.extend_from_slice(block);
    }
    // The last meta-block, empty.
    stream.push(3);
    stream
}
