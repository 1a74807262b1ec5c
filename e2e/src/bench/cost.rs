//! What processes and threads cost: processor time and memory, as the kernel counts them.

use std::fs::read_to_string;
use std::time::Duration;

use anyhow::{Context, Result};

/// The kernel's unit in `/proc/PID/stat`, on every architecture: 1/100 s.
const TICK: Duration = Duration::from_millis(10);
/// Of the numbers after the program's name in `/proc/PID/stat`: own user time; system time, and both of the children
/// that were waited for, follow.
const USER_TIME: usize = 11;

/// Processor time of a process and its living children, all threads.
pub(super) fn process_tree(pid: u32) -> Result<Duration> {
    let mut total = times(&pid.to_string())?.0;
    let children = read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    for child in children.split_whitespace() {
        total += times(child)?.0;
    }
    Ok(total)
}

/// Processor time of the children of this process that have ended.
pub(super) fn ended_children() -> Result<Duration> {
    Ok(times("self")?.1)
}

/// Processor time of the calling thread.
pub(super) fn this_thread() -> Result<Duration> {
    let text = read_to_string("/proc/thread-self/schedstat")?;
    let nanos = text.split(' ').next().and_then(|word| word.parse().ok());
    Ok(Duration::from_nanos(nanos.context("not a schedstat")?))
}

fn times(pid: &str) -> Result<(Duration, Duration)> {
    let path = format!("/proc/{pid}/stat");
    let text = read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_times(&text).with_context(|| format!("{path} is not as expected"))
}

fn parse_times(text: &str) -> Option<(Duration, Duration)> {
    // The name may hold anything, also brackets and spaces.
    let rest = text.rsplit_once(") ")?.1;
    let mut times = rest
        .split(' ')
        .skip(USER_TIME)
        .map_while(|word| word.parse::<u32>().ok());
    let mut pair = || Some(TICK * (times.next()? + times.next()?));
    Some((pair()?, pair()?))
}

/// Memory of a process, in KiB.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory {
    /// Resident, with pages of mapped files.
    pub(super) resident: u64,
    /// Resident and its own.
    pub(super) own: u64,
}

impl Memory {
    pub(super) fn of(pid: &str) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let text = read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        Ok(Self {
            resident: field("VmRSS:").with_context(|| format!("{path} has no VmRSS"))?,
            own: field("RssAnon:").with_context(|| format!("{path} has no RssAnon"))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let text = "12 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 50 7 3 20 0 1 0";
        let (own, children) = parse_times(text).unwrap();
        assert_eq!(own, Duration::from_secs(3));
        assert_eq!(children, Duration::from_millis(100));
    }

    #[test]
    fn this_process_has_a_cost() {
        // The kernel counts at the next switch.
        crate::clock::pause(Duration::from_millis(1));
        assert!(this_thread().unwrap() > Duration::ZERO);
        let memory = Memory::of("self").unwrap();
        assert!(memory.resident >= memory.own && memory.own > 0);
    }
}
