//! The proxies beside each other: started from the configurations in `peers/`, pinned to one processor, and watched.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::blind::Blind;

/// The processor of the proxies; the load has another.
const PROCESSOR: &str = "0";
const PATIENCE: Duration = Duration::from_secs(15);

/// Who is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tidegate,
    /// The same with every rate on.
    Limits,
    Nginx,
    Haproxy,
    Envoy,
    /// No proxy: the load talks to the backend.
    Direct,
    Blind(Blind),
}

impl Kind {
    pub const ALL: [Kind; 8] = [
        Kind::Tidegate,
        Kind::Limits,
        Kind::Nginx,
        Kind::Haproxy,
        Kind::Envoy,
        Kind::Blind(Blind::Lean),
        Kind::Blind(Blind::Copy),
        Kind::Direct,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Tidegate => "tidegate",
            Kind::Limits => "limits",
            Kind::Nginx => "nginx",
            Kind::Haproxy => "haproxy",
            Kind::Envoy => "envoy",
            Kind::Direct => "direct",
            Kind::Blind(Blind::Lean) => "lean",
            Kind::Blind(Blind::Copy) => "copy",
        }
    }

    /// What the tables say.
    pub fn title(self) -> &'static str {
        match self {
            Kind::Blind(Blind::Lean) => "blind relay, lean tokio",
            Kind::Blind(Blind::Copy) => "blind relay, `copy_bidirectional`",
            Kind::Direct => "no proxy",
            Kind::Limits => "tidegate, limits on",
            kind => kind.name(),
        }
    }

    /// What people would use instead of us.
    pub fn rival(self) -> bool {
        matches!(self, Kind::Nginx | Kind::Haproxy | Kind::Envoy)
    }

    fn is_ours(self) -> bool {
        matches!(self, Kind::Tidegate | Kind::Limits)
    }

    pub fn speaks_tls(self) -> bool {
        self.is_ours() || self.rival()
    }
}

/// Where the programs and their files are.
#[derive(Debug, Clone)]
pub struct Place {
    /// Whether the proxies run before everything else on their processor.
    pub first: bool,
    /// Holds the certificate, and a folder for each peer.
    pub dir: PathBuf,
    pub tidegate: PathBuf,
    pub nginx: PathBuf,
    pub haproxy: PathBuf,
    pub envoy: PathBuf,
}

impl Place {
    /// The program of a peer.
    fn program(&self, kind: Kind) -> io::Result<PathBuf> {
        Ok(match kind {
            Kind::Tidegate | Kind::Limits => self.tidegate.clone(),
            Kind::Nginx => self.nginx.clone(),
            Kind::Haproxy => self.haproxy.clone(),
            Kind::Envoy => self.envoy.clone(),
            Kind::Blind(_) | Kind::Direct => std::env::current_exe()?,
        })
    }

    /// Whether it is there.
    pub fn has(&self, kind: Kind) -> bool {
        self.program(kind).is_ok_and(|program| program.exists())
    }

    /// What a peer says of its version.
    pub fn version(&self, kind: Kind) -> Option<String> {
        let flag = if kind.is_ours() || kind == Kind::Envoy { "--version" } else { "-v" };
        let output = Command::new(self.program(kind).ok()?).arg(flag).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        Some(String::from_utf8_lossy(&text).lines().find(|line| !line.is_empty())?.to_owned())
    }
}

/// A running proxy. Dropped, it is stopped.
pub struct Peer {
    pub kind: Kind,
    pub ws: SocketAddr,
    pub wss: SocketAddr,
    child: Option<Child>,
    /// The process and its children.
    pids: Vec<u32>,
}

impl Peer {
    pub fn start(kind: Kind, place: &Place, backend: SocketAddr) -> io::Result<Peer> {
        if kind == Kind::Direct {
            return Ok(Peer { kind, ws: backend, wss: backend, child: None, pids: Vec::new() });
        }
        let dir = place.dir.join(kind.name());
        fs::create_dir_all(&dir)?;
        let (ws, wss) = (free_address()?, free_address()?);
        let config = |template: &str, name: &str| {
            let text = template
                .replace("@DIR@", &place.dir.display().to_string())
                .replace("@WSS@", &wss.port().to_string())
                .replace("@WS@", &ws.port().to_string())
                .replace("@BACKEND@", &backend.to_string())
                .replace("@BACKEND_PORT@", &backend.port().to_string());
            let file = dir.join(name);
            fs::write(&file, text).map(|()| file)
        };
        // Stopped with us, however we end. A session of its own, because the kernel shares processors among sessions: the
        // load, which never sleeps, would starve the proxy.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "setsid", "taskset", "-c", PROCESSOR]);
        if place.first {
            command.args(["chrt", "--rr", "1"]);
        }
        command.arg(place.program(kind)?);
        match kind {
            Kind::Tidegate => {
                command.arg("--config").arg(config(include_str!("peers/tidegate.toml"), "tidegate.toml")?)
            }
            Kind::Limits => {
                command.arg("--config").arg(config(include_str!("peers/tidegate-limits.toml"), "tidegate.toml")?)
            }
            Kind::Nginx => command
                .arg("-p")
                .arg(&dir)
                .arg("-c")
                .arg(config(include_str!("peers/nginx.conf"), "nginx.conf")?)
                .args(["-e", "stderr"]),
            Kind::Haproxy => {
                command.arg("-db").arg("-f").arg(config(include_str!("peers/haproxy.cfg"), "haproxy.cfg")?)
            }
            Kind::Envoy => command
                .args(["--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c"])
                .arg(config(include_str!("peers/envoy.yaml"), "envoy.yaml")?),
            Kind::Blind(_) => command.args(["relay", kind.name(), &ws.port().to_string(), &backend.to_string()]),
            Kind::Direct => unreachable!("it was returned above"),
        };
        let log = fs::File::create(dir.join("log"))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut peer = Peer { kind, ws, wss, child: Some(child), pids: Vec::new() };
        peer.wait_until_ready(&dir)?;
        Ok(peer)
    }

    fn wait_until_ready(&mut self, dir: &Path) -> io::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let began = Instant::now();
        let ports = if self.kind.speaks_tls() { vec![self.ws, self.wss] } else { vec![self.ws] };
        for address in ports {
            while TcpStream::connect(address).is_err() {
                if child.try_wait()?.is_some() || began.elapsed() > PATIENCE {
                    let log = fs::read_to_string(dir.join("log"))?;
                    return Err(io::Error::other(format!("{} did not start:\n{log}", self.kind.name())));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        self.pids = family(child.id())?;
        Ok(())
    }

    /// Nanoseconds of processor time so far, over all threads and processes. 0 without a proxy.
    pub fn cpu_ns(&self) -> u64 {
        let thread = |entry: io::Result<fs::DirEntry>| -> Option<u64> {
            let text = fs::read_to_string(entry.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse().ok()
        };
        let of =
            |pid: &u32| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(thread).sum::<u64>();
        self.pids.iter().map(of).sum()
    }

    /// Resident KiB, over all processes.
    pub fn resident_kib(&self) -> u64 {
        let of = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        };
        self.pids.iter().filter_map(of).sum()
    }

    /// KiB that its sockets towards clients and `backend` hold in the kernel, those of the other ends left out.
    pub fn kernel_kib(&self, backend: SocketAddr) -> u64 {
        let Ok(output) = Command::new("ss").args(["-HOtmn"]).output() else { return 0 };
        let text = String::from_utf8_lossy(&output.stdout);
        let mine = |line: &&str| {
            // "STATE RECEIVED SENT LOCAL PEER skmem:(r…,rb…,t…,tb…,f…,w…,…)"
            let mut ends = line.split_whitespace().skip(3);
            let (local, peer) = (ends.next().unwrap_or(""), ends.next().unwrap_or(""));
            local == self.ws.to_string() || local == self.wss.to_string() || peer == backend.to_string()
        };
        text.lines().filter(mine).map(skmem).sum::<u64>() / 1024
    }
}

/// Bytes of a socket that wait to be read, and that wait to be sent or acknowledged, with the kernel's own bookkeeping.
fn skmem(line: &str) -> u64 {
    let Some((_, list)) = line.split_once("skmem:(") else { return 0 };
    let fields = list.split(')').next().unwrap_or("").split(',');
    fields.filter_map(|field| field.strip_prefix(['r', 'w'])?.parse::<u64>().ok()).sum()
}

impl Drop for Peer {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        let began = Instant::now();
        while let Ok(None) = child.try_wait() {
            if began.elapsed() > PATIENCE {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// A process and its children.
fn family(pid: u32) -> io::Result<Vec<u32>> {
    let mut pids = vec![pid];
    for entry in fs::read_dir("/proc")? {
        let Ok(other) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{other}/stat")) else { continue };
        // "PID (NAME) STATE PARENT …", and a name may hold anything.
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        if parent == Some(&pid.to_string()) {
            pids.push(other);
        }
    }
    Ok(pids)
}
