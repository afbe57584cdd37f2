//! How much memory this process holds: what a test's bound on memory is measured by.

/// The process's resident memory, bytes. All tests of a process share it: bounds hold when each test
/// runs in a process of its own, as nextest does it.
pub fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it is there");
    let kibibytes = line.trim().trim_end_matches(" kB").trim().parse::<usize>().expect("a number");
    kibibytes * 1024
}
