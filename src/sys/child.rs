//! Waiting for a child process beside everything else that may happen meanwhile.
//!
//! Owns the descriptor of a child (pidfd_open(2)), so that its end, the loss of our own reader, a
//! signal and a deadline are waited for in one poll(2). On a kernel without such descriptors (before
//! 5.3) the child is looked at every [`POLL_PAUSE`].
//!
//! Leaves to others: starting it, and what its status means.

use super::pipe::{poll_for, woken};
use super::signals;
use super::watch::POLL_PAUSE;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// How long a child that was asked to end may take before it is killed.
const END_TIME: Duration = Duration::from_secs(2);

/// Why a wait for a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this status.
    Exited(ExitStatus),
    /// Nobody reads our output any more; the child goes on.
    ReaderGone,
    /// A signal asked this process to stop; the child goes on.
    Interrupted,
    /// The time is over; the child goes on.
    TimedOut,
}

/// A child, with the means to wait for it.
#[derive(Debug)]
pub struct Waiter {
    child: Child,
    /// `None`: it is looked at now and then.
    fd: Option<OwnedFd>,
}

impl Waiter {
    /// Takes a child that was started.
    pub fn new(child: Child) -> Waiter {
        let flags = rustix::process::PidfdFlags::empty();
        let pid = rustix::process::Pid::from_child(&child);
        let fd = rustix::process::pidfd_open(pid, flags).ok();
        Waiter { child, fd }
    }

    /// The child.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits until the child ends, the reader of `out` is gone, a signal asks this process to stop
    /// ([`signals`]), or `until` has passed.
    ///
    /// # Errors
    /// What waitpid(2) and poll(2) answer.
    pub fn wait(
        &mut self,
        out: Option<BorrowedFd<'_>>,
        until: Option<Instant>,
    ) -> io::Result<Ended> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(Ended::Exited(status));
            }
            if signals::stop_requested().is_some() {
                return Ok(Ended::Interrupted);
            }
            let left = until.map(|u| u.saturating_duration_since(Instant::now()));
            if left.is_some_and(|l| l.is_zero()) {
                return Ok(Ended::TimedOut);
            }
            let pause = match self.fd {
                Some(_) => left,
                None => Some(left.unwrap_or(POLL_PAUSE).min(POLL_PAUSE)),
            };
            if self.poll(out, pause)? {
                return Ok(Ended::ReaderGone);
            }
        }
    }

    /// Sleeps until something happens; true if it is that the reader of `out` has gone while the child
    /// has not ended.
    fn poll(&self, out: Option<BorrowedFd<'_>>, pause: Option<Duration>) -> io::Result<bool> {
        let child = self.fd.as_ref().map(AsFd::as_fd);
        let wanted = [
            (child, PollFlags::POLLIN),
            (signals::wake_fd(), PollFlags::POLLIN),
            (out, PollFlags::empty()),
        ];
        let given = wanted
            .iter()
            .filter_map(|(fd, flags)| Some(PollFd::new((*fd)?, *flags)));
        let mut fds: Vec<PollFd<'_>> = given.collect();
        poll_for(&mut fds, pause)?;
        let mut ready = fds.iter().map(woken);
        let [ended, signal, gone] =
            wanted.map(|(fd, _)| fd.is_some() && ready.next().unwrap_or(false));
        if signal {
            signals::drain();
        }
        // A child whose reader has gone most often ends by that itself: then its status is to be had.
        Ok(gone && !ended && !signal)
    }

    /// Ends the child: by `signal`, and by force if that has not ended it in two seconds.
    ///
    /// # Errors
    /// What waitpid(2) answers.
    pub fn end(&mut self, signal: i32) -> io::Result<ExitStatus> {
        let pid = i32::try_from(self.child.id()).map(Pid::from_raw);
        if let (Ok(pid), Ok(signal)) = (pid, Signal::try_from(signal))
            && self.child.try_wait()?.is_none()
        {
            let _ = kill(pid, signal); // it may have ended just now
        }
        let until = Instant::now() + END_TIME;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let _ = self.child.kill();
                return self.child.wait();
            }
            match &self.fd {
                Some(fd) => {
                    poll_for(
                        &mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)],
                        Some(left),
                    )?;
                }
                None => std::thread::sleep(POLL_PAUSE.min(left)),
            }
        }
    }
}

/// The file status flags of a descriptor as they were, to be set again at the end: ssh makes the streams
/// that it inherits non-blocking, for every process that shares them.
#[derive(Debug)]
pub struct Flags(OFlag);

impl Flags {
    /// The flags of `fd` now; none if it has none.
    pub fn of(fd: BorrowedFd<'_>) -> Option<Flags> {
        let bits = fcntl(fd, FcntlArg::F_GETFL).ok()?;
        Some(Flags(OFlag::from_bits_retain(bits)))
    }

    /// Sets them again.
    pub fn restore(&self, fd: BorrowedFd<'_>) {
        let _ = fcntl(fd, FcntlArg::F_SETFL(self.0)); // what cannot be set cannot have been changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn start(script: &str) -> Waiter {
        let mut command = Command::new("sh");
        Waiter::new(
            command
                .args(["-c", script])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    #[test]
    fn its_end_is_told_with_its_status() {
        let mut child = start("read x; exit 7");
        drop(child.child().stdin.take());
        match child.wait(None, None).unwrap() {
            Ended::Exited(status) => assert_eq!(status.code(), Some(7)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_reader_that_goes_away_and_a_deadline_end_the_wait_but_not_the_child() {
        let mut child = start("read x");
        let (r, w) = io::pipe().unwrap();
        let soon = Some(Instant::now() + Duration::from_millis(20));
        assert_eq!(child.wait(Some(w.as_fd()), soon).unwrap(), Ended::TimedOut);
        drop(r);
        assert_eq!(
            child.wait(Some(w.as_fd()), None).unwrap(),
            Ended::ReaderGone
        );
        assert!(child.child().try_wait().unwrap().is_none());
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(child.end(15).unwrap().signal(), Some(15));
    }

    #[test]
    fn one_that_will_not_end_is_killed() {
        let mut child = start("trap '' TERM; echo; exec sleep 60");
        use std::os::unix::process::ExitStatusExt;
        // Before the trap is set TERM ends it, afterwards only force does; either way it ends.
        let signal = child.end(15).unwrap().signal();
        assert!(matches!(signal, Some(9 | 15)), "{signal:?}");
    }
}
