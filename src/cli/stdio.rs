//! stdout: to a terminal every record is flushed; to a pipe or file output is kept back while there
//! is a backlog and flushed by the command the moment it would wait.
//!
//! Writes go straight to the descriptor: the standard library's stdout scans every buffer for a
//! newline first. A reader that went away is [`ErrorKind::ClosedPipe`](crate::error::ErrorKind),
//! which ends the command with status 0 and no word. A non-blocking stdout (another process set
//! it so) is waited for.

use crate::error::{Error, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

/// How much is gathered before it is written: one default pipe buffer, so that a full one goes out
/// in one call.
const BUFFER: usize = 64 * 1024;

/// Buffered standard output. What is still buffered when it is dropped is lost; [`super::run`]
/// flushes it at the end of every command.
pub struct Stdout {
    buffer: Vec<u8>,
    terminal: bool,
    begun: bool,
}

impl Stdout {
    /// The process's standard output.
    pub fn new() -> Stdout {
        Stdout {
            buffer: Vec::new(),
            terminal: io::stdout().is_terminal(),
            begun: false,
        }
    }

    /// Says that a person reads it after all, on another machine.
    pub(super) fn set_terminal(&mut self, terminal: bool) {
        self.terminal = terminal;
    }

    /// Whether anything was ever put into it; forgotten with this call.
    pub(super) fn take_begun(&mut self) -> bool {
        std::mem::take(&mut self.begun)
    }

    /// Whether a person reads it: control bytes are escaped then, and binary formats refused.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Adds `bytes`; writes what is gathered once the buffer is full.
    ///
    /// # Errors
    /// `ClosedPipe` if the reader is gone, else `Io`.
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.begun |= !bytes.is_empty();
        self.write_all(bytes).map_err(cannot_write)
    }

    /// Marks the end of a record: to a terminal it is shown now.
    ///
    /// # Errors
    /// As [`Stdout::put`].
    pub fn end_record(&mut self) -> Result<()> {
        if self.terminal {
            self.flush_now()
        } else {
            Ok(())
        }
    }

    /// Writes everything gathered: before the command waits, and at its end.
    ///
    /// # Errors
    /// As [`Stdout::put`].
    pub fn flush_now(&mut self) -> Result<()> {
        self.flush().map_err(cannot_write)
    }
}

impl Default for Stdout {
    fn default() -> Stdout {
        Stdout::new()
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER || bytes.len() >= BUFFER {
            self.flush()?;
            if bytes.len() >= BUFFER {
                return write_fully(bytes);
            }
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = write_fully(&self.buffer);
        self.buffer.clear(); // after an error too: a second try would repeat what got through
        written
    }
}

fn write_fully(mut bytes: &[u8]) -> io::Result<()> {
    let stdout = io::stdout();
    while !bytes.is_empty() {
        match nix::unistd::write(&stdout, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
                poll(&mut fds, PollTimeout::NONE).or_else(|e| match e {
                    Errno::EINTR => Ok(0),
                    e => Err(e),
                })?;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn cannot_write(e: io::Error) -> Error {
    Error::io("cannot write", e).at_path("stdout")
}
