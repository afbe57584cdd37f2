//! What the origin answers: bodies that say which they are, so that no wrong byte goes unseen.
//!
//! Owns: the bodies, and telling a right one from a wrong one.

/// How many URLs there are.
pub const KINDS: usize = 400;

/// The body of the answer number `seq` for the URL number `n`: its first line says so, and what
/// follows follows from that.
pub fn body(n: usize, seq: u64) -> Vec<u8> {
    let mut state = mixed(n as u64 ^ mixed(seq));
    let length = match state % 10 {
        0..4 => 100 + mixed(state) % 3900,
        4..8 => 4000 + mixed(state) % 26_000,
        _ => 30_000 + mixed(state) % 270_000,
    };
    let length = usize::try_from(length).expect("a length of less than a megabyte");
    let mut body = format!("{n} {seq} {length}\n").into_bytes();
    while body.len() < length {
        state = mixed(state);
        body.extend_from_slice(&state.to_le_bytes());
    }
    body.truncate(length);
    body
}

/// Which answer for the URL number `n` this is; `None`: not one byte for byte.
pub fn seq_of(n: usize, bytes: &[u8]) -> Option<u64> {
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    let seq = std::str::from_utf8(line).ok()?.split(' ').nth(1)?.parse().ok()?;
    (body(n, seq) == bytes).then_some(seq)
}

/// `SplitMix64`: every bit of the result depends on every bit of the number.
fn mixed(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
