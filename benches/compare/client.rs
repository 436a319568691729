//! A client of the load: one WebSocket over TCP or TLS, polled by its task, with one read buffer for all of them.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, Tls12Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client};

use crate::codec::{self, CLOSE, Frames, PING, PONG, Part};

/// Where a client goes to.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    pub tls: Option<Arc<ClientConfig>>,
}

/// One session.
pub struct Client {
    io: Io,
    frames: Frames,
    opcode: u8,
    /// The first bytes of the payload that arrives.
    front: Vec<u8>,
    out: Vec<u8>,
    at: usize,
    unflushed: bool,
}

/// A connection to a proxy, over TLS where the target has it.
pub enum Io {
    Tcp(TcpStream),
    Tls(Box<client::TlsStream<TcpStream>>),
}

macro_rules! each {
    ($io:expr, $stream:ident => $call:expr) => {
        match $io {
            Io::Tcp($stream) => $call,
            Io::Tls($stream) => $call,
        }
    };
}

impl Io {
    /// Connects, with the TLS handshake.
    pub async fn connect(target: &Target) -> io::Result<Io> {
        let stream = TcpStream::connect(target.address).await?;
        stream.set_nodelay(true)?;
        let Some(config) = &target.tls else { return Ok(Io::Tcp(stream)) };
        let name = ServerName::try_from("localhost").expect("a valid name");
        Ok(Io::Tls(Box::new(TlsConnector::from(config.clone()).connect(name, stream).await?)))
    }

    /// Writes all of it, out of TLS too.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        each!(self, stream => {
            stream.write_all(bytes).await?;
            stream.flush().await
        })
    }

    /// Reads some more into `buffer`, at least a byte.
    pub async fn receive(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        match each!(self, stream => stream.read_buf(buffer).await)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// How many bytes of a payload are told: those of a time.
const FRONT: usize = 8;

impl Client {
    /// Connects and does the opening handshake.
    pub async fn open(target: &Target, path: &str) -> io::Result<Client> {
        let mut io = Io::connect(target).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        let mut answer = Vec::with_capacity(512);
        io.send(request.as_bytes()).await?;
        // Nobody speaks before the client, so nothing of a frame can come with the head.
        while !answer.ends_with(b"\r\n\r\n") {
            io.receive(&mut answer).await?;
        }
        let answer = String::from_utf8_lossy(&answer);
        // The answer to the key of RFC 6455 section 1.3.
        if !answer.starts_with("HTTP/1.1 101 ") || !answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
            return Err(io::Error::other(answer.into_owned()));
        }
        Ok(Client {
            io,
            frames: Frames::default(),
            opcode: 0,
            front: Vec::new(),
            out: Vec::new(),
            at: 0,
            unflushed: false,
        })
    }

    /// Whether TLS took up an earlier session.
    pub fn resumed(&self) -> bool {
        matches!(&self.io, Io::Tls(stream) if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed))
    }

    /// To be written with the next poll.
    pub fn queue(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// Writes what is queued, as far as it goes.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.out.len() {
            self.at += ready!(each!(&mut self.io, s => Pin::new(s).poll_write(cx, &self.out[self.at..])))?;
            self.unflushed = true;
        }
        self.out.clear();
        self.at = 0;
        if self.unflushed {
            ready!(each!(&mut self.io, s => Pin::new(s).poll_flush(cx)))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is queued and reads once. Tells `each` every message and pong with its first bytes; answers pings.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>, each: &mut dyn FnMut(u8, &[u8])) -> Poll<io::Result<()>> {
        if let Poll::Ready(result) = self.poll_drain(cx) {
            result?;
        }
        lend(|buffer| {
            let mut read = ReadBuf::new(buffer);
            ready!(each!(&mut self.io, s => Pin::new(s).poll_read(cx, &mut read)))?;
            if read.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            let Client { frames, opcode, front, out, .. } = self;
            let mut closed = false;
            frames.walk(read.filled_mut(), |part| match part {
                Part::Head { opcode: new, .. } => {
                    *opcode = new;
                    front.clear();
                }
                Part::Payload(bytes) => {
                    let room = if *opcode == PING { usize::MAX } else { FRONT - front.len().min(FRONT) };
                    front.extend_from_slice(&bytes[..bytes.len().min(room)]);
                }
                Part::End if *opcode == PING => codec::client_frame(PONG, front, out),
                Part::End => {
                    closed |= *opcode == CLOSE;
                    each(*opcode, front);
                }
            });
            if closed { Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())) } else { Poll::Ready(Ok(())) }
        })
    }

    /// Waits for `count` messages or pongs.
    pub async fn receive(&mut self, count: usize) -> io::Result<()> {
        let mut seen = 0;
        while seen < count {
            poll_fn(|cx| self.poll_receive(cx, &mut |_, _| seen += 1)).await?;
        }
        Ok(())
    }

    /// Answers pings for as long as the session lives.
    pub async fn hold(mut self) {
        while poll_fn(|cx| self.poll_receive(cx, &mut |_, _| {})).await.is_ok() {}
    }
}

/// TLS as every peer can speak it: 1.3, one cipher suite, one key exchange. So all do the same work.
///
/// `post_quantum` offers X25519MLKEM768 first, as browsers do. `resume` keeps tickets, else every handshake is full.
pub fn tls(post_quantum: bool, resume: bool) -> Arc<ClientConfig> {
    let mut kx_groups = vec![aws_lc_rs::kx_group::X25519];
    if post_quantum {
        kx_groups.insert(0, aws_lc_rs::kx_group::X25519MLKEM768);
    }
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups,
        ..aws_lc_rs::default_provider()
    });
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    config.resumption = match resume {
        true => Resumption::in_memory_sessions(8).tls12_resumption(Tls12Resumption::Disabled),
        false => Resumption::disabled(),
    };
    Arc::new(config)
}

/// Believes any certificate: the peers here have one that was made for the occasion.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

thread_local! {
    /// Large, so that the load needs fewer reads than what it measures.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 * 1024]);
}

/// Lends the thread's read buffer.
pub fn lend<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    SCRATCH.with(|buffer| work(&mut buffer.borrow_mut()))
}
