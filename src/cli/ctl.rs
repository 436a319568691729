//! `tidegate ctl`: arguments become a request to a running gateway. Where it is and what it wants to know stands in the
//! configuration, unless flags say otherwise.

use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use serde_json::{Map, Value};
use tidegate::admin::client::Client;
use tidegate::admin::ctl::{self, Command, Filters};
use tidegate::admin::token;
use tidegate::config::model::{Admin, CertificateFiles, ListenerAddress, Position, Secret, UpstreamTls};
use tidegate::config::{self, Problems};
use tidegate::upstream;
use tokio::runtime::Builder;

use super::{CONFIG_FILE, Failure, print};

/// Takes the place of the token in the configuration.
const TOKEN_VARIABLE: &str = "TIDEGATE_ADMIN_TOKEN";

#[derive(Debug, Args)]
#[command(next_help_heading = "The gateway")]
pub struct CtlArgs {
    /// The gateway's configuration [default: config.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the admin interface listens: 127.0.0.1:9090, https://10.0.0.1:9090, unix:/run/tidegate-admin.sock
    /// [default: `address` of [admin] in the configuration]
    #[arg(long, global = true, value_name = "ADDR")]
    address: Option<String>,
    /// A file with the token [default: the variable TIDEGATE_ADMIN_TOKEN, then the configuration's]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The authorities to believe for https [default: the system's]
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Our own certificate for https, and its key
    #[arg(long, global = true, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// The key of --certificate
    #[arg(long, global = true, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// The name in the gateway's certificate [default: its address]
    #[arg(long, global = true, value_name = "NAME")]
    server_name: Option<String>,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Ctl,
}

#[derive(Debug, Subcommand)]
enum Ctl {
    /// List the sessions that are open
    Sessions {
        /// One session
        id: Option<u64>,
        #[command(flatten)]
        filters: FilterArgs,
        /// So many at most
        #[arg(long, value_name = "N", value_parser = at_least_one)]
        limit: Option<usize>,
    },
    /// Close sessions, at once; `drain` closes them at a pace
    Close {
        /// One session
        #[arg(conflicts_with_all = ["all", "dry_run"])]
        id: Option<u64>,
        #[command(flatten)]
        filters: FilterArgs,
        /// Every session; needed where no filter is given
        #[arg(long)]
        all: bool,
        /// Only say how many
        #[arg(long)]
        dry_run: bool,
        /// What they are told: drain (1012, come back) or access_revoked (1008, stay away)
        #[arg(long, value_enum, default_value_t = Why::Drain)]
        cause: Why,
    },
    /// Close sessions over the `window` of [drain], each between two messages
    #[command(group(ArgGroup::new("what").args(["all", "route", "upstream", "server", "client"]).required(true).multiple(true)))]
    Drain {
        /// The whole gateway: it takes no new sessions any more
        #[arg(long, conflicts_with_all = ["route", "upstream", "server", "client"])]
        all: bool,
        /// Sessions of one route
        #[arg(long, value_name = "NAME")]
        route: Option<String>,
        /// Sessions of one upstream
        #[arg(long, value_name = "NAME")]
        upstream: Option<String>,
        /// Sessions with one server, as the configuration writes it
        #[arg(long, value_name = "URL")]
        server: Option<String>,
        /// Sessions of a client: an address, a network, or local
        #[arg(long, value_name = "IP")]
        client: Option<String>,
    },
    /// Read the configuration again
    Reload,
    /// Say how it is
    Status,
    /// List the servers of upstreams, or set one: `upstreams chat 2 drain`
    #[command(override_usage = "tidegate ctl upstreams [UPSTREAM N STATE]")]
    Upstreams {
        /// Its name
        #[arg(requires = "number", value_name = "UPSTREAM")]
        name: Option<String>,
        /// Its place in `servers`, from 1
        #[arg(requires = "state", value_name = "N")]
        number: Option<u32>,
        state: Option<State>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Why {
    Drain,
    #[value(name = "access_revoked")]
    AccessRevoked,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    /// It is used again
    Up,
    /// It gets nothing new
    Drain,
    /// It gets nothing, and is not checked
    Down,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Which sessions")]
struct FilterArgs {
    /// Those of one route
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Those of one upstream
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Those with one server, as the configuration writes it
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// Those of one listener, as the configuration writes it
    #[arg(long, value_name = "ADDR")]
    listener: Option<String>,
    /// Those of a client: an address, a network, or local
    #[arg(long, value_name = "IP")]
    client: Option<String>,
    /// Those of one API key, by its name
    #[arg(long = "api-key", value_name = "NAME")]
    api_key: Option<String>,
    /// Those that are older: 90s, 5m
    #[arg(long, value_name = "TIME")]
    older_than: Option<String>,
    /// Those with more messages in a second, both directions together
    #[arg(long, value_name = "N")]
    messages_above: Option<f64>,
    /// Those with more bytes in a second
    #[arg(long, value_name = "N")]
    bytes_above: Option<f64>,
}

/// There is nothing to ask.
#[derive(Debug, thiserror::Error)]
enum Nobody {
    #[error("there is no {CONFIG_FILE} here: name the gateway's with --config, or its admin interface with --address")]
    NoFile,
    #[error(
        "{0}\n\nWhile it is wrong, name the gateway's admin interface: --address, and --token-file where it has a token"
    )]
    Wrong(Problems),
    #[error(
        "{0} has no [admin]: add `[admin]` with `address = \"127.0.0.1:9090\"` and restart the gateway, or name --address"
    )]
    NotConfigured(String),
    #[error("[admin] listens on a port that the system chose: name it with --address (the gateway printed it)")]
    AnyPort,
    #[error("{0:?} is no address: write 127.0.0.1:9090, https://10.0.0.1:9090 or unix:/path")]
    Address(String),
    #[error("the token in {}", .0.display())]
    Token(PathBuf, #[source] token::BadToken),
}

pub fn run(args: &CtlArgs) -> Result<(), Failure> {
    if let Ctl::Close { id: None, filters, all: false, .. } = &args.command
        && filters.read().is_empty()
    {
        // No filter would be every session. clap knows no group of a group, and its list of them all helps nobody.
        let wanted = "name what to close: an ID, a filter such as --route NAME, or --all\n";
        clap::Error::raw(ErrorKind::MissingRequiredArgument, wanted).exit();
    }
    let client = client(args)?;
    let command = command(&args.command);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(ctl::ask(&client, &command))?;
    print(&if args.json { answer.json() } else { answer.text(&command) })
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("write a whole number of 1 or more".to_owned()),
        Ok(number) => Ok(number),
    }
}

fn client(args: &CtlArgs) -> Result<Client, Failure> {
    // With an address of its own the configuration is asked for nothing but the token, and only where it is named.
    let admin = match (&args.address, &args.config) {
        (Some(_), None) => None,
        _ => {
            // What the gateway needs to start is none of our business: its certificates may be unreadable to us.
            let file = args.config.as_deref().unwrap_or(Path::new(CONFIG_FILE));
            if args.config.is_none() && !file.exists() {
                return Err(Nobody::NoFile.into());
            }
            let loaded = config::load(file, &|_| None).map_err(Nobody::Wrong)?;
            let file = loaded.source.file().display().to_string();
            let admin = loaded.config.admin;
            if admin.is_none() && args.address.is_none() {
                return Err(Nobody::NotConfigured(file).into());
            }
            admin
        }
    };
    let (address, tls) = match &args.address {
        Some(text) => address(text)?,
        None => {
            let admin = admin.as_ref().expect("looked at above");
            (ctl::reachable(&admin.address), admin.tls.is_some())
        }
    };
    if matches!(&address, ListenerAddress::Tcp(address) if address.port() == 0) {
        return Err(Nobody::AnyPort.into());
    }
    let tls = tls.then(|| tls_config(args)).transpose()?.map(|config| (config, args.server_name.clone()));
    Ok(Client { address, token: secret(args, admin.as_ref())?, tls })
}

fn address(text: &str) -> Result<(ListenerAddress, bool), Nobody> {
    let (tls, rest) = match text.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        _ => (false, text),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let found = match rest.strip_prefix("unix:") {
        Some(path) => Some(ListenerAddress::Unix(path.into())),
        None => rest.replace("localhost:", "127.0.0.1:").parse().ok().map(ListenerAddress::Tcp),
    };
    found.map(|address| (address, tls)).ok_or_else(|| Nobody::Address(text.to_owned()))
}

fn secret(args: &CtlArgs, admin: Option<&Admin>) -> Result<Option<Secret>, Nobody> {
    if let Some(file) = &args.token_file {
        return token::read(file).map(Some).map_err(|error| Nobody::Token(file.clone(), error));
    }
    if let Ok(token) = std::env::var(TOKEN_VARIABLE) {
        return Ok(Some(Secret(token)));
    }
    let token = admin.and_then(|admin| admin.token.as_ref());
    token.map(|token| token.current().map_err(|error| Nobody::Token(token.file(), error))).transpose()
}

fn tls_config(args: &CtlArgs) -> Result<std::sync::Arc<rustls::ClientConfig>, Failure> {
    let nowhere = Position::default();
    let client = args.certificate.clone().zip(args.key.clone());
    let client = client.map(|(certificate, key)| CertificateFiles {
        certificate,
        certificate_at: nowhere,
        key,
        key_at: nowhere,
    });
    let files = UpstreamTls { ca: args.ca.clone().map(|ca| (ca, nowhere)), server_name: None, client };
    Ok(upstream::tls::client_config(&files)?)
}

fn command(asked: &Ctl) -> Command {
    match asked {
        Ctl::Sessions { id: Some(id), .. } => Command::Session(*id),
        Ctl::Sessions { id: None, filters, limit } => Command::Sessions(filters.read(), *limit),
        Ctl::Close { id, filters, all, dry_run, cause } => {
            Command::Close { id: *id, filters: filters.read(), all: *all, cause: Some(word(*cause)), dry_run: *dry_run }
        }
        Ctl::Drain { all, route, upstream, server, client } => {
            let named = [("route", route), ("upstream", upstream), ("server", server), ("client", client)];
            let named = named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?.into())));
            let mut what: Map<String, Value> = named.collect();
            if *all {
                what.insert("all".to_owned(), true.into());
            }
            Command::Drain(what.into())
        }
        Ctl::Reload => Command::Reload,
        Ctl::Status => Command::Status,
        Ctl::Upstreams { name: Some(name), number: Some(number), state: Some(state) } => {
            Command::SetServer(name.clone(), *number, word(*state))
        }
        Ctl::Upstreams { .. } => Command::Upstreams,
    }
}

/// As it is written on the command line.
fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().expect("no value is skipped").get_name().to_owned()
}

impl FilterArgs {
    fn read(&self) -> Filters {
        let mut filters = Filters::default();
        let texts = [
            ("route", &self.route),
            ("upstream", &self.upstream),
            ("server", &self.server),
            ("listener", &self.listener),
            ("client", &self.client),
            ("key", &self.api_key),
            ("older_than", &self.older_than),
        ];
        for (name, value) in texts {
            filters.set(name, value.clone());
        }
        filters.set("messages_above", self.messages_above.map(|rate| rate.to_string()));
        filters.set("bytes_above", self.bytes_above.map(|rate| rate.to_string()));
        filters
    }
}
