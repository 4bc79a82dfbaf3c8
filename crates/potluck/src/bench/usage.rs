//! What processes have used so far, as the operating system counts it. Linux only: elsewhere nothing is known.

use std::{fs, time::Duration};

/// Clock ticks a second in `/proc/PID/stat`: 100 on every Linux that exists, whatever the kernel's own rate.
const TICKS_PER_SECOND: u64 = 100;

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// Time on processors.
    pub(super) cpu: Duration,
    /// Bytes that went to the disk.
    pub(super) written: u64,
    /// Memory that is resident now, in bytes.
    pub(super) resident: u64,
    /// The most that ever was.
    pub(super) peak: u64,
}

impl Usage {
    /// Of one process.
    pub(super) fn of(process: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The name in brackets may hold spaces: the numbers begin after it, user time is the 12th of them, system time the 13th.
        let mut numbers = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let ticks = numbers.next()?.parse::<u64>().ok()? + numbers.next()?.parse::<u64>().ok()?;
        let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let io = fs::read_to_string(format!("/proc/{process}/io")).unwrap_or_default();
        Some(Self {
            cpu: Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND),
            written: field(&io, "write_bytes:").unwrap_or(0),
            resident: field(&status, "VmRSS:")? * 1024,
            peak: field(&status, "VmHWM:")? * 1024,
        })
    }

    /// What was used since `before`; memory as it is now.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            written: self.written.saturating_sub(before.written),
            ..self
        }
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident > 1 << 20 && usage.peak >= usage.resident);
        assert!(Usage::of(u32::MAX).is_none());
    }
}
