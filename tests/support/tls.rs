//! Certificates of this test's own, and peers that speak TLS.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
    SupportedProtocolVersion,
};

use super::client::Peer;

/// A connection of a test: plain, or TLS on either end.
pub enum Stream {
    Plain(TcpStream),
    Client(Box<StreamOwned<ClientConnection, TcpStream>>),
    Server(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Stream {
    pub fn socket(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Client(stream) => &stream.sock,
            Stream::Server(stream) => &stream.sock,
        }
    }

    /// Ends our half in good order.
    pub fn finish(&mut self) {
        match self {
            Stream::Plain(_) => {}
            Stream::Client(stream) => {
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
            Stream::Server(stream) => {
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
        let _ = self.socket().shutdown(std::net::Shutdown::Write);
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Client(stream) => stream.read(buffer),
            Stream::Server(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Client(stream) => stream.write(bytes),
            Stream::Server(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.flush(),
            Stream::Client(stream) => stream.flush(),
            Stream::Server(stream) => stream.flush(),
        }
    }
}

/// An authority that signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate with its key.
pub struct Identity {
    pub certificate: String,
    pub key: String,
    chain: Vec<CertificateDer<'static>>,
    der: Vec<u8>,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate for these names and addresses.
    pub fn issue(&self, names: &[&str]) -> Identity {
        self.sign(names, |_| {})
    }

    fn sign(&self, names: &[&str], edit: impl Fn(&mut CertificateParams)) -> Identity {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names).expect("names");
        edit(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            chain: vec![certificate.der().clone()],
            der: key.serialize_der(),
        }
    }

    /// Trusts this authority alone, shows `identity` when asked.
    pub fn client(&self, identity: Option<&Identity>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).expect("an authority");
        client(roots, identity, rustls::DEFAULT_VERSIONS)
    }

    /// The same with these versions alone.
    pub fn client_of(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).expect("an authority");
        client(roots, None, versions)
    }

    /// A certificate that is valid between these years alone.
    pub fn issue_between(&self, names: &[&str], from: i32, to: i32) -> Identity {
        self.sign(names, |params| {
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(to, 1, 1);
        })
    }
}

impl Identity {
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.der.clone()).into()
    }

    /// Writes `NAME.pem` and `NAME.key`.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&certificate, &self.certificate).expect("written");
        std::fs::write(&key, &self.key).expect("written");
        (certificate, key)
    }

    pub fn server(&self) -> Arc<ServerConfig> {
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_no_client_auth();
        Arc::new(config.with_single_cert(self.chain.clone(), self.key_der()).expect("a certificate"))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Trusts the certificates of this PEM text.
pub fn trusting(pem: &str) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in rustls_pemfile::certs(&mut pem.as_bytes()) {
        roots.add(certificate.expect("a certificate")).expect("an authority");
    }
    client(roots, None, rustls::DEFAULT_VERSIONS)
}

fn client(
    roots: RootCertStore,
    identity: Option<&Identity>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions);
    let builder = builder.expect("versions").with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            builder.with_client_auth_cert(identity.chain.clone(), identity.key_der()).expect("a certificate")
        }
    }
}

/// Speaks TLS to a server; the handshake is complete, or the error is returned.
pub fn connect(address: SocketAddr, name: &str, config: &ClientConfig) -> io::Result<Peer> {
    connect_over(TcpStream::connect(address)?, name, config)
}

/// The same over a connection that was used before.
pub fn connect_over(mut socket: TcpStream, name: &str, config: &ClientConfig) -> io::Result<Peer> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut connection = ClientConnection::new(Arc::new(config.clone()), name).expect("a connection");
    socket.set_read_timeout(Some(super::PATIENCE))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(Peer::over(Stream::Client(Box::new(StreamOwned::new(connection, socket)))))
}

/// The first bytes that a client sends.
pub fn hello(name: &str, config: &ClientConfig) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut connection = ClientConnection::new(Arc::new(config.clone()), name).expect("a connection");
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).expect("into memory");
    bytes
}

/// What a handshake came to, and the head of the answer to an upgrade request sent behind it.
pub struct Met {
    pub head: String,
    pub version: rustls::ProtocolVersion,
    pub protocol: Option<Vec<u8>>,
    pub certificate: CertificateDer<'static>,
    /// An earlier session was taken up.
    pub resumed: bool,
}

/// Opens a session over TLS and leaves. TLS 1.3 tells a client that it is refused only when it reads.
pub fn meet(address: SocketAddr, name: &str, config: &ClientConfig) -> io::Result<Met> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connection = ClientConnection::new(Arc::new(config.clone()), name).expect("a connection");
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(super::PATIENCE))?;
    let mut stream = StreamOwned::new(connection, socket);
    stream.write_all(super::client::request("/", "").as_bytes())?;
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => head.extend_from_slice(&buffer[..n]),
        }
    }
    Ok(Met {
        head: String::from_utf8(head).expect("UTF-8"),
        version: stream.conn.protocol_version().expect("a version"),
        protocol: stream.conn.alpn_protocol().map(<[u8]>::to_vec),
        certificate: stream.conn.peer_certificates().expect("certificates")[0].clone(),
        resumed: stream.conn.handshake_kind() == Some(HandshakeKind::Resumed),
    })
}

/// Speaks TLS to a client that has just connected.
pub fn accept(socket: TcpStream, config: Arc<ServerConfig>) -> io::Result<Peer> {
    let mut socket = socket;
    let mut connection = ServerConnection::new(config).expect("a connection");
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    Ok(Peer::over(Stream::Server(Box::new(StreamOwned::new(connection, socket)))))
}
