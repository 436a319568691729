//! The command line: arguments in, an exit code out. What the commands do is the library's work.
//!
//! Exit codes: 0 fine, 1 a bad configuration or a start that failed, 2 wrong usage (clap's), 3 what `explain` was asked
//! about would be refused, or what `diff` compared differs.

mod ctl;

use std::error::Error;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::available_parallelism;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use ctl::CtlArgs;
use http::Method;
use tidegate::config::diff::{self, Diff};
use tidegate::config::model::Log;
use tidegate::config::{self, Loaded, Problem, Problems};
use tidegate::explain::{Question, Verdict};
use tidegate::gateway::inspect::inspect;
use tidegate::{backend, gateway, listen, machine, observe};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What runs when nobody has written a configuration yet.
const EXAMPLE: &str = include_str!("../config.toml");
const CONFIG_FILE: &str = "config.toml";
/// The exit code of an explanation that ends with a refusal.
const REFUSED: u8 = 3;
/// The exit code of a comparison that found something.
const DIFFERS: u8 = 3;

/// A WebSocket reverse proxy and gateway that understands frames for the whole life of a connection.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: ConfigArg,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve what the configuration says; SIGTERM or Ctrl-C stops it (the same as no command)
    Run(ConfigArg),
    /// Look for every problem in the configuration (exit code 1 when there is one), and say what it would do
    Check(CheckArgs),
    /// Say what the gateway would do with a request, check by check (exit code 3 when it would refuse it)
    Explain(ExplainArgs),
    /// Say what a reload would change that puts NEW in the place of OLD (exit code 3 when that is anything)
    Diff(DiffArgs),
    /// Ask a running gateway about its sessions, close them, drain it, reload it (needs [admin] in its configuration)
    Ctl(Box<CtlArgs>),
    /// Run one embedded WebSocket server as a process of its own
    Backend(BackendArgs),
    /// Make a self-signed certificate for development, valid for 397 days; prints the paths of certificate and key
    Cert(CertArgs),
    /// Print a completion script for a shell
    Completions { shell: Shell },
}

#[derive(Debug, Args)]
struct ConfigArg {
    /// The configuration [default: config.toml, or the built-in example where there is none]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// Print every option with its default
    #[arg(long, conflicts_with = "config")]
    print_default: bool,
    /// Print the reference of all options as Markdown
    #[arg(long, conflicts_with_all = ["config", "print_default"], hide = true)]
    print_reference: bool,
}

#[derive(Debug, Args)]
struct ExplainArgs {
    #[command(flatten)]
    config: ConfigArg,
    /// ws:// or wss:// for a handshake, http:// or https:// for anything else
    url: String,
    /// The method of a request that is no handshake
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    method: Method,
    /// The Origin that a browser would send
    #[arg(long)]
    origin: Option<String>,
    /// The address that connects
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    from: IpAddr,
    /// A header field of the request; may be given again
    #[arg(long = "header", value_name = "'NAME: VALUE'")]
    headers: Vec<String>,
    /// A subprotocol that the client offers; may be given again
    #[arg(long = "subprotocol", value_name = "NAME")]
    subprotocols: Vec<String>,
    /// The listener that it comes to [default: the first that fits the URL]
    #[arg(long, value_name = "ADDR")]
    listener: Option<String>,
}

#[derive(Debug, Args)]
struct DiffArgs {
    /// The configuration that runs
    old: PathBuf,
    /// The one to come
    new: PathBuf,
    /// Lines for people, or one JSON object
    #[arg(long, value_enum, default_value = "human")]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Human,
    Json,
}

#[derive(Debug, Args)]
struct BackendArgs {
    kind: Kind,
    /// IP address and port; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Returns every message
    Echo,
    /// Pushes the time every second, as text
    Clock,
    /// A chat server; rooms are paths
    Chat,
}

#[derive(Debug, Args)]
struct CertArgs {
    /// The folder for the certificate and its key
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Host names and IP addresses
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// `tidegate backend` could not take its address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: choose another with --listen")]
struct Listen {
    address: SocketAddr,
    source: io::Error,
}

/// Why a command failed: its `Display` and its sources are what the user reads.
type Failure = Box<dyn Error>;

/// Runs the command of the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Some(Command::Explain(args)) => match explain(&args) {
            Ok(code) => return code,
            Err(failure) => Err(failure),
        },
        Some(Command::Diff(args)) => match diff(&args) {
            Ok(code) => return code,
            Err(failure) => Err(failure),
        },
        None => run(&cli.run),
        Some(Command::Run(args)) => run(&args),
        Some(Command::Check(args)) => check(&args),
        Some(Command::Ctl(args)) => ctl::run(&args),
        Some(Command::Backend(args)) => serve_backend(&args),
        Some(Command::Cert(args)) => make_certificate(&args),
        Some(Command::Completions { shell }) => completions(shell),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Problems begin with the name of the file, as editors like it.
            let prefix = if failure.is::<Problems>() { "" } else { "error: " };
            eprintln!("{prefix}{}", sentences(failure.as_ref()).join("\n  because: "));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &ConfigArg) -> Result<(), Failure> {
    listen::inherit::take_over()?;
    let loaded = load(args)?;
    print_warnings(&loaded);
    observe::log::init(&loaded.config.log)?;
    machine::prepare(&loaded.config);
    let runtime = match loaded.config.runtime.workers.map_or_else(available_parallelism, Ok)?.get() {
        // Nobody to steal from: the plain scheduler costs less.
        1 => Builder::new_current_thread(),
        workers => {
            let mut runtime = Builder::new_multi_thread();
            runtime.worker_threads(workers);
            runtime
        }
    }
    .enable_all()
    .build()?;
    let result = runtime.block_on(gateway::run(loaded));
    observe::log::flush();
    Ok(result?)
}

fn check(args: &CheckArgs) -> Result<(), Failure> {
    if args.print_default {
        return print(&config::defaults());
    }
    if args.print_reference {
        return print(&config::reference());
    }
    let loaded = load(&args.config)?;
    print_warnings(&loaded);
    machine::warnings(&loaded).iter().for_each(print_warning);
    let file = loaded.source.file().display();
    print(&format!("{file} is right\n\n{}", config::show::summary(&loaded.config)))
}

fn explain(args: &ExplainArgs) -> Result<ExitCode, Failure> {
    let loaded = load(&args.config)?;
    print_warnings(&loaded);
    let question = Question {
        url: args.url.clone(),
        method: args.method.clone(),
        origin: args.origin.clone(),
        from: args.from,
        headers: args.headers.clone(),
        subprotocols: args.subprotocols.clone(),
        listener: args.listener.clone(),
    };
    let explanation = tidegate::explain::explain(&loaded.config, &question)?;
    print(&explanation.to_string())?;
    Ok(match explanation.verdict {
        Verdict::Refused(..) | Verdict::Closed(_) => ExitCode::from(REFUSED),
        _ => ExitCode::SUCCESS,
    })
}

/// Opens the files that NEW names, as a reload does; those of OLD may be gone by now.
fn diff(args: &DiffArgs) -> Result<ExitCode, Failure> {
    let old = config::load(&args.old, &|_| None)?;
    let mut new = config::load(&args.new, &inspect)?;
    print_warnings(&new);
    let restart = new.keep_from(&old);
    let found = Diff::between(&old, &new);
    match args.format {
        Format::Human => print(&diff::describe(&found, &restart))?,
        Format::Json => print(&format!("{}\n", diff::json(&found, &restart)))?,
    }
    Ok(if found.is_empty() && restart.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERS) })
}

fn serve_backend(args: &BackendArgs) -> Result<(), Failure> {
    let kind = config::embedded(match args.kind {
        Kind::Echo => "echo",
        Kind::Clock => "clock",
        Kind::Chat => "chat",
    });
    observe::log::init(&Log::default())?;
    let runtime = Runtime::new()?;
    let result = runtime.block_on(async {
        let address = args.listen;
        let listener = TcpListener::bind(address).await.map_err(|source| Listen { address, source })?;
        print(&format!("listening on ws://{}\n", listener.local_addr()?))?;
        let stop = CancellationToken::new();
        tokio::spawn(stop_on_signal(stop.clone())?);
        Ok(backend::run(kind, listener, stop).await?)
    });
    observe::log::flush();
    result
}

/// Cancels on SIGINT or SIGTERM.
fn stop_on_signal(stop: CancellationToken) -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        stop.cancel();
    })
}

fn make_certificate(args: &CertArgs) -> Result<(), Failure> {
    let (certificate, key) = listen::tls::make_certificate(&args.names, &args.out)?;
    print(&format!("{}\n{}\n", certificate.display(), key.display()))
}

fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tidegate", &mut script);
    print(&String::from_utf8(script)?)
}

fn load(args: &ConfigArg) -> Result<Loaded, Problems> {
    let default = Path::new(CONFIG_FILE);
    match &args.config {
        Some(path) => config::load(path, &inspect),
        // Only what is not there at all: a file that cannot be read must be told.
        None if default.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) => {
            eprintln!("no {CONFIG_FILE} here: the built-in example runs, with its certificate in ./certs");
            let environment = |name: &str| std::env::var(name).ok();
            config::parse_with(EXAMPLE, Path::new("built-in config.toml"), &environment, &inspect)
        }
        None => config::load(default, &inspect),
    }
}

fn print_warnings(loaded: &Loaded) {
    loaded.warnings.iter().for_each(print_warning);
}

fn print_warning(warning: &Problem) {
    eprintln!("warning: {warning}\n");
}

/// To standard output; a reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// An error and what caused it, one sentence each.
fn sentences(error: &dyn Error) -> Vec<String> {
    let mut list = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        list.push(error.to_string());
        next = error.source();
    }
    list
}
