//! `[admin]`: who may ask, and that nobody else can.

use crate::config::Files;
use crate::config::model::{
    Admin, ClientAuth, ListenerAddress, ListenerTls, Secret, ServerAddress, TlsVersions, Token,
};
use crate::config::problem::Source;
use crate::config::read::Reader;
use crate::config::value::{self, Parsed, Wrong, string};

use super::listener::{certificate_pair, key_at};
use super::{Bound, Upstreams, all, dialled, file};

/// A token that is shorter could be guessed, and a longer one is a file given by mistake.
pub const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=512;

pub(super) fn admin(mut table: Reader<'_, '_>, source: &Source) -> Bound<Admin> {
    let [mode_at, token_at, file_at, tls_at] =
        ["socket_mode", "token", "token_file", "tls"].map(|key| table.written(key));
    let address = table.value("address", |node| Ok((string(value::listener_address)(node)?, node.at)));
    let socket_mode = table.value("socket_mode", string(mode));
    let token = table.value("token", string(token));
    let token_file = table.value("token_file", file(source));
    if let Some((path, at)) = &token_file {
        table.inspect(Files::Token(path, *at), |_| "token_file".to_owned());
    }
    if let (Some(_), Some(at)) = (token_at, file_at) {
        table.wrong(at, "token_file", Wrong::new("stands beside `token`").help("remove one of them"));
    }
    let tls = table.table("tls").and_then(|table| admin_tls(table, source));
    if let Some(tls) = &tls {
        table.inspect(Files::Listener(tls), |at| format!("tls{}", key_at(tls, at)));
    }
    let hosts = table.list("hosts", string(value::host_name)).and_then(all);
    match &address {
        Some((ListenerAddress::Unix(_), _)) => {
            if let Some(at) = tls_at {
                let wrong = Wrong::new("TLS is not served on a Unix socket, where nobody could listen in");
                table.wrong(at, "tls", wrong.help("remove it; `socket_mode` says who may connect"));
            }
        }
        Some((ListenerAddress::Tcp(address), at)) => {
            if let Some(at) = mode_at {
                let wrong = Wrong::new("has no effect: this is no Unix socket");
                table.warn(at, "socket_mode", wrong.help("write `address = \"unix:/run/tidegate-admin.sock\"`"));
            }
            let has_token = token_at.or(file_at).is_some();
            let certified = tls.as_ref().is_some_and(|tls| !matches!(tls.client_auth, ClientAuth::Off));
            if !address.ip().is_loopback() && !has_token && !certified && (tls_at.is_none() || tls.is_some()) {
                let wrong = Wrong::new("whoever reaches this address could end every session");
                let help = "add `token_file = \"admin.token\"`, or `tls` with `client_ca`; or listen on 127.0.0.1";
                table.wrong(*at, "address", wrong.help(help));
            } else if !address.ip().is_loopback() && tls_at.is_none() {
                let wrong = Wrong::new("the token travels in the clear");
                table.warn(*at, "address", wrong.help("add `tls = { certificate = …, key = … }`"));
            }
        }
        None => {}
    }
    let key = table.path_of("address");
    table.finish();
    let token = match (token_at, file_at) {
        (Some(_), _) => token.map(|token| Some(Token::Written(token))),
        (None, Some(_)) => token_file.map(|(path, at)| Some(Token::File(path, at))),
        (None, None) => Some(None),
    };
    let tls = if tls_at.is_some() { tls.map(Some) } else { Some(None) };
    let build = || {
        let (address, address_at) = address.clone()?;
        Some(Admin { address, address_at, socket_mode: socket_mode?, token: token?, tls: tls?, hosts: hosts? })
    };
    let value = build();
    Bound { address, key, value }
}

fn admin_tls(mut table: Reader<'_, '_>, source: &Source) -> Option<ListenerTls> {
    let pair = certificate_pair(&mut table, source);
    let ca_at = table.written("client_ca");
    let ca = table.value("client_ca", file(source));
    table.finish();
    let client_auth = match (ca_at, ca) {
        (None, _) => ClientAuth::Off,
        (Some(_), ca) => ca.map(|(ca, ca_at)| ClientAuth::Required { ca, ca_at })?,
    };
    let certificates = vec![pair.ok()??];
    Some(ListenerTls { certificates, development: false, client_auth, versions: TlsVersions::From12 })
}

/// What it opens must stay behind it: a route that leads here would open it to everybody.
pub(super) fn nobody_routes_there(root: &Reader<'_, '_>, upstreams: &Upstreams, admin: Option<&Bound<Admin>>) {
    let Some((address, _)) = admin.and_then(|bound| bound.address.as_ref()) else { return };
    for (name, (at, upstream)) in upstreams {
        let servers = upstream.iter().flat_map(|upstream| &upstream.servers);
        for server in servers.filter(|server| leads_to(&server.address, address)) {
            let wrong = Wrong::new(format!("{} is the admin interface: clients could reach it", server.text));
            root.wrong(*at, &format!("upstream.{name}.servers"), wrong.help("write the address of a service"));
        }
    }
}

fn leads_to(server: &ServerAddress, admin: &ListenerAddress) -> bool {
    match (server, admin) {
        (ServerAddress::Tcp { host, port }, ListenerAddress::Tcp(admin)) if *port == admin.port() => {
            let local = host == "localhost" && (admin.ip().is_loopback() || admin.ip().is_unspecified());
            let everywhere =
                admin.ip().is_unspecified() && host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
            local || everywhere || dialled(server) == Some(ListenerAddress::Tcp(*admin))
        }
        _ => dialled(server).as_ref() == Some(admin),
    }
}

fn token(text: &str) -> Parsed<Secret> {
    let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
    match visible && TOKEN_BYTES.contains(&text.len()) {
        true => Ok(Secret(text.to_owned())),
        // It is not said in the message: this one may be right but for a character.
        false => Err(Wrong::new("a token has 16 to 512 visible ASCII characters").help("like `openssl rand -hex 32`")),
    }
}

/// Three octal digits, with a zero in front or without.
fn mode(text: &str) -> Parsed<u32> {
    let digits = text.strip_prefix('0').unwrap_or(text);
    match (digits.len(), u32::from_str_radix(digits, 8)) {
        (3, Ok(mode)) => Ok(mode),
        _ => Err(Wrong::new(format!("{text:?} is no mode of a file")).help("like \"0600\" or \"0660\"")),
    }
}
