//! Any pair of descriptors: own stdin and stdout, or those of a child.

use super::Carrier;
use crate::sys::child::Flags;
use crate::sys::pipe;
use nix::errno::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Two descriptors, one for each direction. Their flags are as they were when it is dropped.
#[derive(Debug)]
pub struct Pipe {
    input: OwnedFd,
    /// `None` once our output has ended.
    output: Option<OwnedFd>,
    flags: [Option<Flags>; 2],
    peer: String,
}

impl Pipe {
    /// Takes the descriptor to read from and the one to write to; `peer` is for messages.
    ///
    /// # Errors
    /// They are no open descriptors.
    pub fn new(input: OwnedFd, output: OwnedFd, peer: impl Into<String>) -> io::Result<Pipe> {
        let flags = [Flags::of(input.as_fd()), Flags::of(output.as_fd())];
        for fd in [&input, &output] {
            pipe::enlarge(fd.as_fd());
            pipe::set_nonblocking(fd.as_fd())?;
        }
        Ok(Pipe {
            input,
            output: Some(output),
            flags,
            peer: peer.into(),
        })
    }

    /// Our own stdin and stdout, which nothing else in this process uses from here on.
    ///
    /// # Errors
    /// They are not open.
    pub fn stdio(peer: impl Into<String>) -> io::Result<Pipe> {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        Pipe::new(input, output, peer)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let [Some(input), output] = &self.flags {
            input.restore(self.input.as_fd());
            if let (Some(flags), Some(fd)) = (output, &self.output) {
                flags.restore(fd.as_fd());
            }
        }
    }
}

/// What a system call answered, repeated where a signal cut it short.
fn again(mut call: impl FnMut() -> nix::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

impl Carrier for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        again(|| nix::unistd::read(&self.input, buf))
    }

    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &self.output {
            Some(fd) => again(|| nix::unistd::write(fd, buf)),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn read_fd(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    fn write_fd(&self) -> BorrowedFd<'_> {
        self.output.as_ref().unwrap_or(&self.input).as_fd()
    }

    fn close(&mut self) -> io::Result<()> {
        if let (Some(fd), [_, Some(flags)]) = (self.output.take(), &self.flags) {
            flags.restore(fd.as_fd());
        }
        Ok(())
    }

    fn peer(&self) -> &str {
        &self.peer
    }
}
