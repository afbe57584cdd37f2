//! The origin's response bodies: each identifies itself, so that every wrong byte is detected.
//!
//! Owns: the generation and the verification of bodies.

/// The number of URLs.
pub const URLS: usize = 400;

/// The body of response number `seq` for URL number `n`. Its first line contains both numbers and the
/// length; the rest is generated from the two numbers.
pub fn body(n: usize, seq: u64) -> Vec<u8> {
    let mut state = splitmix64(n as u64 ^ splitmix64(seq));
    let length = match state % 10 {
        0..4 => 100 + splitmix64(state) % 3900,
        4..8 => 4000 + splitmix64(state) % 26_000,
        _ => 30_000 + splitmix64(state) % 270_000,
    };
    let length = usize::try_from(length).expect("less than a megabyte");
    let mut body = format!("{n} {seq} {length}\n").into_bytes();
    while body.len() < length {
        state = splitmix64(state);
        body.extend_from_slice(&state.to_le_bytes());
    }
    body.truncate(length);
    body
}

/// The number of the response for URL number `n` whose body is `bytes`; `None` if any byte differs.
pub fn seq_of(n: usize, bytes: &[u8]) -> Option<u64> {
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    let seq = std::str::from_utf8(line).ok()?.split(' ').nth(1)?.parse().ok()?;
    (body(n, seq) == bytes).then_some(seq)
}

/// `SplitMix64`: every bit of the result depends on every bit of `number`.
fn splitmix64(number: u64) -> u64 {
    let z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
