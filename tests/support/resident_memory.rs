//! The resident memory of this process, for tests of memory limits.

/// The resident memory of the process in bytes. The limits are meaningful only if each test runs in a
/// separate process, as with nextest.
pub fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a VmRSS line");
    let kibibytes = line.trim().trim_end_matches(" kB").trim().parse::<usize>().expect("a number");
    kibibytes * 1024
}
