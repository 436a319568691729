//! The real binary, started with a configuration of the test's.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::eventually;

/// A running `tidegate`. Dropping it kills it.
pub struct Gateway {
    child: Child,
    pub directory: PathBuf,
    output: Arc<Mutex<String>>,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A folder of this test's own; it is removed with the gateway.
pub fn folder() -> PathBuf {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("tidegate-test-{}-{number}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

impl Gateway {
    /// Starts the binary with this `config.toml` and waits until it listens everywhere.
    pub fn start(config: &str) -> Gateway {
        Gateway::start_in(folder(), config, "exec \"$0\" \"$@\"")
    }

    /// The same with at most so many descriptors.
    pub fn start_with_descriptors(config: &str, max: usize) -> Gateway {
        Gateway::start_in(folder(), config, &format!("ulimit -n {max} && exec \"$0\" \"$@\""))
    }

    /// The same in a folder of the caller's, which goes with the gateway, through a line of shell.
    pub fn start_in(directory: PathBuf, config: &str, shell: &str) -> Gateway {
        Gateway::start_from(directory, config, shell, Stdio::null())
    }

    /// The same with a listening socket that it finds as systemd would hand it over; `more` are assignments of variables.
    pub fn start_handed(config: &str, socket: impl Into<OwnedFd>, more: &str) -> Gateway {
        let shell = format!("exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ {more} exec \"$0\" \"$@\"");
        Gateway::start_from(folder(), config, &shell, socket.into().into())
    }

    fn start_from(directory: PathBuf, config: &str, shell: &str, stdin: Stdio) -> Gateway {
        std::fs::write(directory.join("config.toml"), config).expect("config.toml is written");
        let listeners = config.matches("[[listener]]").count();
        let mut child = Command::new("sh")
            .args(["-c", shell, env!("CARGO_BIN_EXE_tidegate"), "run"])
            .arg("--config")
            .arg(directory.join("config.toml"))
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let output = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().expect("piped"), output.clone());
        collect(child.stderr.take().expect("piped"), output.clone());
        let mut gateway = Gateway { child, directory, output };
        eventually("the gateway listens", || {
            if let Some(status) = gateway.child.try_wait().expect("waiting") {
                panic!("the gateway ended with {status}:\n{}", gateway.output());
            }
            gateway.output().matches("listening on ").count() == listeners
        });
        gateway
    }

    /// Where it listens on TCP, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let output = self.output();
        let after = |line: &str| {
            let address = line.split("listening on ").nth(1)?.split("://").nth(1)?;
            address.split_whitespace().next()?.parse().ok()
        };
        output.lines().filter_map(after).collect()
    }

    pub fn address(&self) -> SocketAddr {
        self.addresses()[0]
    }

    /// Where the admin interface listens.
    pub fn admin(&self) -> SocketAddr {
        // It is printed behind the lines of the listeners.
        let line = self.log("admin at ");
        line.split("://").nth(1).expect("an address").parse().expect("an address")
    }

    /// Everything that it has printed so far, standard output and log.
    pub fn output(&self) -> String {
        self.output.lock().expect("not poisoned").clone()
    }

    /// The log lines that hold `text`, once there is one.
    pub fn log(&self, text: &str) -> String {
        let mut found = String::new();
        eventually(&format!("a log line with {text}"), || {
            found = self.output().lines().filter(|line| line.contains(text)).collect::<Vec<_>>().join("\n");
            !found.is_empty()
        });
        found
    }

    /// The record of the only session that has ended.
    pub fn end_record(&self) -> String {
        let record = self.log("session ended");
        assert_eq!(record.lines().count(), 1, "one session: {record}");
        record
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        resident(self.child.id())
    }

    /// Processor time that its threads have used so far; it goes back when one of them ends.
    pub fn processor_time(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the process lives");
        // The first field of schedstat, in nanoseconds: stat counts in ticks of 10 ms. A thread may have ended meanwhile.
        let used = |thread: std::io::Result<std::fs::DirEntry>| {
            let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(threads.filter_map(used).sum())
    }

    /// Open files and threads: `fd` and `task`.
    pub fn count(&self, folder: &str) -> usize {
        std::fs::read_dir(format!("/proc/{}/{folder}", self.process())).expect("the process lives").count()
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the gateway ends", || {
            status = self.child.try_wait().expect("waiting");
            status.is_some()
        });
        status.expect("just seen")
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
        if std::thread::panicking() {
            eprintln!("the gateway printed:\n{}", self.output());
        }
    }
}

fn collect(from: impl Read + Send + 'static, to: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut to = to.lock().expect("not poisoned");
            to.push_str(&line);
            to.push('\n');
        }
    });
}

/// Resident memory of a process in bytes.
pub fn resident(process: u32) -> u64 {
    let status = std::fs::read_to_string(Path::new("/proc").join(process.to_string()).join("status"))
        .expect("the process lives");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a VmRSS line");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number of kB");
    kib * 1024
}

/// A configuration with one plain listener and one route to one upstream server; `route` and `more` are extra lines.
pub fn config(upstream: SocketAddr, route: &str, more: &str) -> String {
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n\n\
         [[route]]\nname = \"test\"\nupstream = \"test\"\n{route}\n\n\
         [upstream.test]\nservers = [\"ws://{upstream}\"]\n\n{more}\n"
    )
}
