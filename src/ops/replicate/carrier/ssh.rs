//! A logd on another host, reached through ssh, which speaks the protocol on its stdin and stdout.
//!
//! The words of the command are fixed, `logd replicate --peer`: no name is among them, so nothing from
//! data ever meets a shell there. What ssh and that logd have to say goes to our stderr.

use super::{Carrier, Pipe};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::remote::{self, Ssh};
use crate::sys::child::{Ended, Waiter};
use crate::sys::signals;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long ssh may take to end once both directions have ended.
const END_TIME: Duration = Duration::from_secs(5);

/// What runs on the other host.
const COMMAND: [&str; 3] = ["logd", "replicate", "--peer"];

/// A connection through ssh. Dropping it ends ssh.
#[derive(Debug)]
pub struct SshCarrier {
    pipe: Pipe,
    child: Waiter,
    host: String,
    /// It has ended, and was told.
    ended: bool,
}

impl SshCarrier {
    /// Starts ssh. `log` is the name of the log there, for messages.
    ///
    /// # Errors
    /// `Unreachable`, when ssh cannot be started.
    pub fn connect(ssh: &Ssh, host: &str, log: &str) -> Result<SshCarrier> {
        let words = COMMAND.map(Into::into);
        let mut command = ssh.command(host, &words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| ssh.cannot_start(host, e))?;
        let streams = (child.stdin.take(), child.stdout.take());
        let child = Waiter::new(child);
        let host = remote::host_word(host);
        let peer = format!("{host}:{log}");
        let cannot = |e| Error::io("cannot talk to ssh", e).with_kind(ErrorKind::Unreachable);
        let (Some(input), Some(output)) = streams else {
            return Err(Error::new(ErrorKind::Bug, "a child without streams"));
        };
        let pipe = Pipe::new(OwnedFd::from(output), OwnedFd::from(input), peer).map_err(cannot)?;
        Ok(SshCarrier {
            pipe,
            child,
            host,
            ended: false,
        })
    }

    /// What ssh ended with, as an error unless the logd there was content. Our output has ended.
    fn status(&mut self) -> Result<()> {
        let cannot = |e| Error::io("cannot wait for ssh", e);
        let until = Instant::now() + END_TIME;
        let status = match self.child.wait(None, Some(until)).map_err(cannot)? {
            Ended::Exited(status) => status,
            // It hangs, or we are in a hurry: what it would have said does not matter.
            _ => {
                self.child.end(signals::TERM).map_err(cannot)?;
                return Ok(());
            }
        };
        match remote::status(&self.host, status.code())? {
            0 => Ok(()),
            code => {
                let what = format!("the logd there ended with {code}");
                Err(Error::new(remote::kind_of(code), what).at_path(&self.host))
            }
        }
    }
}

impl Drop for SshCarrier {
    fn drop(&mut self) {
        let _ = self.pipe.close();
        let _ = self.child.end(signals::TERM); // nobody is left to be told
    }
}

impl Carrier for SshCarrier {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.pipe.read(buf)? {
            // An end is one only if ssh says so: it ends the same way when the connection is lost.
            0 if !buf.is_empty() && !self.ended => self.close().map(|()| 0),
            n => Ok(n),
        }
    }

    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.pipe.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pipe.flush()
    }

    fn read_fd(&self) -> BorrowedFd<'_> {
        self.pipe.read_fd()
    }

    fn write_fd(&self) -> BorrowedFd<'_> {
        self.pipe.write_fd()
    }

    fn close(&mut self) -> io::Result<()> {
        self.pipe.close()?;
        match std::mem::replace(&mut self.ended, true) {
            true => Ok(()),
            false => self.status().map_err(io::Error::other),
        }
    }

    fn peer(&self) -> &str {
        self.pipe.peer()
    }
}
