//! What the system tells of this process: memory, descriptors, processor time. From /proc, so only on Linux.

use std::fs;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `USER_HZ`, which is 100 on every architecture that Linux runs on today, whatever the kernel's own clock does.
const TICKS_PER_SECOND: f64 = 100.0;

/// This process at one moment.
#[derive(Debug)]
pub struct Process {
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub descriptors: usize,
    /// The soft limit.
    pub descriptors_max: u64,
    pub threads: u64,
    pub cpu_seconds: f64,
    /// In seconds of Unix time.
    pub started: f64,
}

impl Process {
    /// `None` where there is no /proc.
    pub fn now() -> Option<Process> {
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let limits = fs::read_to_string("/proc/self/limits").ok()?;
        let of_status = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        // Behind the name in brackets, which may hold anything; proc(5) counts from 1, and the state is field 3.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let open_files = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        Some(Process {
            resident_bytes: of_status("VmRSS")? * 1024,
            virtual_bytes: of_status("VmSize")? * 1024,
            descriptors: descriptors()?,
            descriptors_max: open_files.split_whitespace().next()?.parse().unwrap_or(u64::MAX),
            threads: of_status("Threads")?,
            cpu_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
            started: boot()? + field(22)? / TICKS_PER_SECOND,
        })
    }
}

/// How many are open. Linux 6.2 and later tell it as the folder's size; to count 18,000 of them takes five milliseconds, in
/// which the kernel gives the processor to nobody.
fn descriptors() -> Option<usize> {
    const FOLDER: &str = "/proc/self/fd";
    match fs::metadata(FOLDER).ok()?.len() {
        // The one that reads the folder does not count.
        0 => Some(fs::read_dir(FOLDER).ok()?.count().saturating_sub(1)),
        count => usize::try_from(count).ok(),
    }
}

/// When the system was started. Read once: a clock that is put right must not move the start of the process.
fn boot() -> Option<f64> {
    static BOOT: LazyLock<Option<f64>> = LazyLock::new(|| {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
    });
    *BOOT
}

/// Seconds of Unix time.
pub fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_told() {
        let process = Process::now().expect("there is a /proc");
        assert!(process.resident_bytes > 100_000 && process.virtual_bytes >= process.resident_bytes, "{process:?}");
        assert!(process.descriptors >= 3 && process.descriptors_max >= 3 && process.threads >= 1, "{process:?}");
        let age = unix_seconds(SystemTime::now()) - process.started;
        assert!((-2.0..86_400.0).contains(&age), "{process:?}");
    }
}
