//! A process under measurement: this program in another role.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A child process that prints its address and runs until it is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Starts this program with `role`, pinned to the first CPU if `taskset` is installed.
    pub(crate) fn start(role: &str, arguments: &[String]) -> Self {
        let this = std::env::current_exe().expect("this program has a path");
        let pinned = Command::new("taskset").arg("--version").output().is_ok();
        let mut command = if pinned {
            let mut taskset = Command::new("taskset");
            taskset.args(["-c", "0"]).arg(&this);
            taskset
        } else {
            Command::new(&this)
        };
        let mut child = command
            .arg(role)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        let mut line = String::new();
        let out = child.stdout.take().expect("standard output was piped");
        BufReader::new(out).read_line(&mut line).expect("the child prints its address");
        let address = line.trim().parse().expect("an address");
        // pingora's server binds a moment after this program has printed its address.
        let accepts = (0..500).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            TcpStream::connect(address).is_ok()
        });
        assert!(accepts, "{role} does not accept connections");
        Self { child, address }
    }

    /// Sends a line to its standard input.
    pub(crate) fn send_line(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("standard input was piped");
        writeln!(input, "{line}").expect("the child reads its input");
    }

    /// Closes its standard input and waits for its exit with status 0.
    pub(crate) fn stop(mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().expect("a child");
        assert!(status.success(), "the child exited with status 0");
    }

    /// CPU time of all its threads so far.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks = format!("/proc/{}/task", self.child.id());
        let nanos = std::fs::read_dir(tasks)
            .expect("the child is running")
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
            .filter_map(|stat| stat.split_whitespace().next()?.parse::<u64>().ok())
            .sum();
        Duration::from_nanos(nanos)
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))
            .expect("the child is running");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("kB") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may already have exited.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
