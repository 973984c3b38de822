//! TLS 1.3 over TCP, with certificates on both sides.
//!
//! Each side shows a certificate that an authority of `--tls-ca` has signed and that is in date; the one
//! that connects also wants the name or number it connected to in it. Nothing else is asked of it: whoever
//! the authority vouches for may replicate, so let it be one for this purpose.
//!
//! No session is resumed: one handshake for a connection that lives for hours costs nothing, and a ticket
//! would outlive the certificate it was given for.
//!
//! In TLS 1.3 the side that connects is done before the other has looked at its certificate; a refusal
//! comes with the first read.

use super::Carrier;
use super::tcp::unreachable;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::net;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{AlertDescription, ClientConfig, Connection, RootCertStore, ServerConfig};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Largest file with certificates or a key.
const PEM_BYTES_MAX: u64 = 1 << 20;
/// Most that is held back, encrypted or not: a few writes of the driver.
const HELD_BYTES_MAX: usize = 256 << 10;
/// How long the end of our output may take to be sent.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// The files of `--tls-cert`, `--tls-key` and `--tls-ca`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate, and those between it and the authority.
    pub cert: PathBuf,
    /// The key of it.
    pub key: PathBuf,
    /// Certificates of the authorities that the peer's is to be signed by.
    pub ca: PathBuf,
}

/// What both sides of a connection need.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

fn pem_error(path: &Path, what: &str, e: pem::Error) -> Error {
    let error = match e {
        pem::Error::Io(e) => Error::io("cannot read", e),
        pem::Error::NoItemsFound => Error::new(ErrorKind::Config, format!("holds no {what}")),
        e => Error::new(ErrorKind::Config, format!("holds no {what} in PEM: {e}")),
    };
    error.at_path(path)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path);
    let read = file.and_then(|f| f.take(PEM_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|e| Error::io("cannot read", e).at_path(path))?;
    match bytes.len() as u64 > PEM_BYTES_MAX {
        true => Err(Error::new(ErrorKind::Config, "too large for certificates").at_path(path)),
        false => Ok(bytes),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = read(path)?;
    let all: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match all {
        Ok(all) if all.is_empty() => Err(pem_error(path, "certificate", pem::Error::NoItemsFound)),
        Ok(all) => Ok(all),
        Err(e) => Err(pem_error(path, "certificate", e)),
    }
}

impl TlsConfig {
    /// Reads the files.
    ///
    /// # Errors
    /// `Config`, for what is no certificate, no key, or not the key of the certificate.
    pub fn new(files: &TlsFiles) -> Result<TlsConfig> {
        let chain = certificates(&files.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
            .map_err(|e| pem_error(&files.key, "key", e))?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.ca)? {
            let added = roots.add(certificate);
            added.map_err(|e| bad(&files.ca, "holds a certificate that is of no use", e))?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = [&rustls::version::TLS13];
        let of_client =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let of_client = of_client
            .build()
            .map_err(|e| unfit(&files.ca, &e.to_string()))?;
        let of_server = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
        let of_server = of_server
            .build()
            .map_err(|e| unfit(&files.ca, &e.to_string()))?;
        let no_pair = |e| {
            bad(
                &files.key,
                "is not the key of the certificate, or of no known kind",
                e,
            )
        };
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .map_err(|e| Error::new(ErrorKind::Bug, e.to_string()))?
            .with_webpki_verifier(of_server)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(no_pair)?;
        client.resumption = rustls::client::Resumption::disabled();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)
            .map_err(|e| Error::new(ErrorKind::Bug, e.to_string()))?
            .with_client_cert_verifier(of_client)
            .with_single_cert(chain, key)
            .map_err(no_pair)?;
        server.send_tls13_tickets = 0;
        Ok(TlsConfig {
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }
}

#[cfg(test)]
impl TlsConfig {
    /// The side that connects.
    pub(super) fn client_for_tests(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }
}

fn unfit(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Config, what.to_string()).at_path(path)
}

fn bad(path: &Path, what: &str, e: rustls::Error) -> Error {
    unfit(path, &format!("{what}: {e}"))
}

/// An encrypted connection.
#[derive(Debug)]
pub struct Tls {
    stream: TcpStream,
    connection: Connection,
    peer: String,
    /// Set once the connection has failed: what it was.
    failed: Option<(io::ErrorKind, String)>,
}

impl Tls {
    /// Connects to one of `addresses`, which are those of `host`, and sees that it is that host.
    ///
    /// # Errors
    /// `Unreachable`; `Permission`, when its certificate will not do.
    pub fn connect(
        addresses: &[SocketAddr],
        host: &str,
        peer: &str,
        config: &TlsConfig,
        until: Instant,
    ) -> Result<Tls> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let name = ServerName::try_from(bare.unwrap_or(host).to_string());
        let name = name.map_err(|_| {
            let why = format!("{host}: no certificate can be for a host of such a name");
            Error::usage(why)
        })?;
        let stream = net::connect(addresses, until).map_err(|e| unreachable(peer, e))?;
        let connection = rustls::ClientConnection::new(config.client.clone(), name);
        let connection = connection.map_err(|e| Error::new(ErrorKind::Bug, e.to_string()))?;
        Tls::shake_hands(stream, connection.into(), peer, until)
    }

    /// Takes a connection that somebody made to us, and sees who that is.
    ///
    /// # Errors
    /// As [`Tls::connect`].
    pub fn accept(
        stream: TcpStream,
        peer: &str,
        config: &TlsConfig,
        until: Instant,
    ) -> Result<Tls> {
        let connection = rustls::ServerConnection::new(config.server.clone());
        let connection = connection.map_err(|e| Error::new(ErrorKind::Bug, e.to_string()))?;
        Tls::shake_hands(stream, connection.into(), peer, until)
    }

    pub(super) fn shake_hands(
        stream: TcpStream,
        mut connection: Connection,
        peer: &str,
        until: Instant,
    ) -> Result<Tls> {
        connection.set_buffer_limit(Some(HELD_BYTES_MAX));
        let mut tls = Tls {
            stream,
            connection,
            peer: peer.to_string(),
            failed: None,
        };
        tls.finish(until).map_err(|e| {
            let kind = match e.kind() {
                io::ErrorKind::PermissionDenied => ErrorKind::Permission,
                _ => ErrorKind::Unreachable,
            };
            Error::io("no secure connection", e)
                .with_kind(kind)
                .at_path(peer)
        })?;
        Ok(tls)
    }

    /// Goes on with the handshake until it is done, and until all of it is sent.
    fn finish(&mut self, until: Instant) -> io::Result<()> {
        loop {
            let sent = self.send();
            if !self.connection.is_handshaking() && sent.is_ok() {
                return Ok(());
            }
            let write = match sent {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => true,
                Err(e) => return Err(e),
                Ok(()) => match self.receive() {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(_) => continue,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => false,
                    Err(e) => return Err(e),
                },
            };
            if !net::wait_for(self.stream.as_fd(), write, until)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Takes what is there to be taken and decrypts it; 0 when the other side has ended.
    fn receive(&mut self) -> io::Result<usize> {
        let n = self.connection.read_tls(&mut self.stream)?;
        match self.connection.process_new_packets() {
            Ok(_) => Ok(n),
            Err(e) => {
                let _ = self.send(); // the alert that tells the other side why
                let e = io_error(&e);
                self.failed = Some((e.kind(), e.to_string()));
                Err(e)
            }
        }
    }

    /// Sends what is encrypted.
    fn send(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut self.stream) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    fn check(&self) -> io::Result<()> {
        match &self.failed {
            Some((kind, what)) => Err(io::Error::new(*kind, what.clone())),
            None => Ok(()),
        }
    }
}

/// What rustls says, with a kind that says whose fault it is.
fn io_error(e: &rustls::Error) -> io::Error {
    use AlertDescription as A;
    let refused = |a: &A| {
        matches!(
            a,
            A::BadCertificate
                | A::UnsupportedCertificate
                | A::CertificateRevoked
                | A::CertificateExpired
                | A::CertificateUnknown
                | A::UnknownCA
                | A::CertificateRequired
                | A::AccessDenied
                | A::DecryptError
        )
    };
    match e {
        rustls::Error::InvalidCertificate(why) => io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("its certificate will not do: {why}"),
        ),
        rustls::Error::NoCertificatesPresented => {
            io::Error::new(io::ErrorKind::PermissionDenied, "it shows no certificate")
        }
        rustls::Error::AlertReceived(alert) if refused(alert) => io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("our certificate is refused there: {alert:?}"),
        ),
        e => io::Error::new(io::ErrorKind::InvalidData, e.to_string()),
    }
}

impl Carrier for Tls {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.connection.reader().read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other, // 0: it said that it ends
            }
            self.check()?;
            match self.receive() {
                // Cut off, by whoever can: not an end that the other side meant.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.check()?;
        if buf.is_empty() {
            return Ok(0);
        }
        let n = self.connection.writer().write(buf)?;
        match self.send() {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
            Err(e) if n == 0 => Err(e),
            _ if n > 0 => Ok(n),
            // Room was made just now.
            _ => match self.connection.writer().write(buf)? {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                n => Ok(n),
            },
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }

    fn read_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn write_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    fn close(&mut self) -> io::Result<()> {
        self.connection.send_close_notify();
        let until = Instant::now() + CLOSE_TIME;
        while let Err(e) = self.send() {
            let wait = e.kind() == io::ErrorKind::WouldBlock;
            if !wait || !net::wait_for(self.stream.as_fd(), true, until)? {
                return Err(e);
            }
        }
        match self.stream.shutdown(Shutdown::Write) {
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()),
            other => other,
        }
    }

    fn peer(&self) -> &str {
        &self.peer
    }
}
