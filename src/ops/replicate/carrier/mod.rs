//! Bytes to and from a peer, whatever carries them.
//!
//! Owns the one interface that the driver of a connection knows: descriptors that can be polled, and
//! reads and writes that never block. What a carrier does to bytes on the way (TLS, ssh) is its own
//! matter; frames are not its matter at all.
//!
//! | module | owns |
//! |---|---|
//! | [`pipe`] | a pair of descriptors: own stdin and stdout |
//! | [`ssh`] | a logd on another host, through ssh |
//! | [`tcp`], [`tls`] | a TCP connection, plain on this machine, with certificates beyond it |
//! | [`dial`] | which of them a log's name asks for |
//! | [`listen`] | taking connections |

use std::io;
use std::os::fd::BorrowedFd;

pub mod dial;
pub mod listen;
pub mod pipe;
pub mod ssh;
pub mod tcp;
#[cfg(test)]
mod tests;
pub mod tls;

pub use dial::Dial;
pub use pipe::Pipe;
pub use ssh::SshCarrier;
pub use tcp::Tcp;
pub use tls::{Tls, TlsConfig, TlsFiles};

/// Bytes to and from a peer, never blocking.
pub trait Carrier: Send {
    /// Reads what is there; 0 says that the peer has ended.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is there yet; else what the carrier meets.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize>;

    /// Takes some of `buf`.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room now; else what the carrier meets.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize>;

    /// Sends what the carrier itself holds back.
    ///
    /// # Errors
    /// `WouldBlock` if there is no room now; else what the carrier meets.
    fn flush(&mut self) -> io::Result<()>;

    /// The descriptor to poll for input.
    fn read_fd(&self) -> BorrowedFd<'_>;

    /// The descriptor to poll for room.
    fn write_fd(&self) -> BorrowedFd<'_>;

    /// Whether the carrier has bytes of its own to send.
    fn wants_write(&self) -> bool {
        false
    }

    /// Ends our output. Over ssh the exit status of the other side is the error.
    ///
    /// # Errors
    /// What the carrier meets.
    fn close(&mut self) -> io::Result<()>;

    /// Who the peer is, for messages: `web1:orders`, `tcp://dr1:9440/orders`.
    fn peer(&self) -> &str;
}
