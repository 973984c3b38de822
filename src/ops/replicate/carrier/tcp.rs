//! A TCP connection, plain. Only for loopback: who may talk to us is not asked here.

use super::Carrier;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::net;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// A TCP connection.
#[derive(Debug)]
pub struct Tcp {
    stream: TcpStream,
    peer: String,
}

impl Tcp {
    /// Takes a connection that does not block; `peer` is for messages.
    pub fn new(stream: TcpStream, peer: impl Into<String>) -> Tcp {
        let peer = peer.into();
        Tcp { stream, peer }
    }

    /// Connects to one of `addresses`.
    ///
    /// # Errors
    /// `Unreachable`.
    pub fn connect(addresses: &[SocketAddr], peer: &str, until: Instant) -> Result<Tcp> {
        let stream = net::connect(addresses, until).map_err(|e| unreachable(peer, e))?;
        Ok(Tcp::new(stream, peer))
    }
}

/// The error of a peer that cannot be reached.
pub(super) fn unreachable(peer: &str, e: io::Error) -> Error {
    let error = Error::io("cannot connect", e);
    error.with_kind(ErrorKind::Unreachable).at_path(peer)
}

impl Carrier for Tcp {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }

    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn read_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn write_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    fn close(&mut self) -> io::Result<()> {
        match self.stream.shutdown(Shutdown::Write) {
            Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(()), // it has gone already
            other => other,
        }
    }

    fn peer(&self) -> &str {
        &self.peer
    }
}
