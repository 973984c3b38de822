//! Standard streams: what they are, how much their pipe holds, and when one can be read.
//!
//! Owns no data. Leaves reading and writing to `std::io`.

use super::FileId;
use super::signals;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::stat::fstat;
use nix::sys::time::TimeSpec;
use std::io::{self, IsTerminal};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// The largest pipe that an unprivileged process may ask for by default
/// (`/proc/sys/fs/pipe-max-size`).
const PIPE_BYTES_MAX: i32 = 1 << 20;

/// What a descriptor leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// A pipe or fifo.
    Pipe,
    /// A terminal.
    Terminal,
    /// A regular file.
    File,
    /// A socket.
    Socket,
    /// A directory, a block device, `/dev/null` and so on.
    Other,
}

/// What a descriptor leads to, and which file that is.
///
/// # Errors
/// What fstat(2) answers: the descriptor is not open.
pub fn stream_kind(fd: BorrowedFd<'_>) -> io::Result<(StreamKind, FileId)> {
    let s = fstat(fd)?;
    let id = FileId {
        dev: s.st_dev,
        ino: s.st_ino,
    };
    let kind = match s.st_mode & libc::S_IFMT {
        libc::S_IFIFO => StreamKind::Pipe,
        libc::S_IFREG => StreamKind::File,
        libc::S_IFSOCK => StreamKind::Socket,
        libc::S_IFCHR if fd.is_terminal() => StreamKind::Terminal,
        _ => StreamKind::Other,
    };
    Ok((kind, id))
}

/// Enlarges a pipe to 1 MiB, or as far as the user's limits allow, so that each side runs longer
/// before it waits for the other. Returns the size in bytes; `None` if it is no pipe.
pub fn enlarge(fd: BorrowedFd<'_>) -> Option<usize> {
    let mut size = fcntl(fd, FcntlArg::F_GETPIPE_SZ).ok()?;
    let mut wanted = PIPE_BYTES_MAX;
    while wanted > size {
        match fcntl(fd, FcntlArg::F_SETPIPE_SZ(wanted)) {
            Ok(got) => size = got,
            Err(_) => wanted /= 2, // EPERM: above the limit of this user
        }
    }
    usize::try_from(size).ok()
}

/// Makes a descriptor answer at once instead of waiting.
///
/// # Errors
/// What fcntl(2) answers.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// How a wait for input ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// Reading will not block: there are bytes, or the other side has ended.
    Yes,
    /// The time is over.
    Timeout,
    /// A signal came (see [`signals`]).
    Interrupted,
}

/// Waits until `fd` can be read, without a limit for `None`.
///
/// # Errors
/// What ppoll(2) answers.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<Ready> {
    if signals::stop_requested().is_some() {
        return Ok(Ready::Interrupted);
    }
    let mut fds = [
        PollFd::new(fd, PollFlags::POLLIN),
        PollFd::new(signals::wake_fd().unwrap_or(fd), PollFlags::POLLIN),
    ];
    let used = if signals::installed() { 2 } else { 1 };
    let fds = fds.get_mut(..used).unwrap_or_default();
    if poll_for(fds, timeout)? == 0 {
        return Ok(Ready::Timeout);
    }
    match fds {
        [_, wake] if woken(wake) => {
            signals::drain();
            Ok(Ready::Interrupted)
        }
        _ => Ok(Ready::Yes),
    }
}

/// Whether poll found anything on a descriptor.
pub(super) fn woken(fd: &PollFd<'_>) -> bool {
    fd.any().unwrap_or(true)
}

/// ppoll(2) with the time that is left after each interruption; returns how many are ready.
pub(super) fn poll_for(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<usize> {
    // A timeout beyond the clock's range is no timeout.
    let end = timeout.and_then(|t| Instant::now().checked_add(t));
    let mut left = timeout.filter(|_| end.is_some());
    loop {
        match ppoll(fds, left.map(TimeSpec::from_duration), None) {
            Ok(n) => return Ok(usize::try_from(n).unwrap_or(0)),
            Err(Errno::EINTR) => {
                left = end.map(|e| e.saturating_duration_since(Instant::now()));
            }
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;

    #[test]
    fn streams_are_told_apart() {
        let (r, w) = io::pipe().unwrap();
        let kind = |fd| stream_kind(fd).unwrap().0;
        assert_eq!(kind(r.as_fd()), StreamKind::Pipe);
        let same = stream_kind(r.as_fd()).unwrap().1 == stream_kind(w.as_fd()).unwrap().1;
        assert!(same);
        let f = tempfile::tempfile().unwrap();
        assert_eq!(kind(f.as_fd()), StreamKind::File);
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(kind(null.as_fd()), StreamKind::Other);
        let (s, _t) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(kind(s.as_fd()), StreamKind::Socket);
    }

    #[test]
    fn enlarge_grows_a_pipe_and_leaves_a_file_alone() {
        let (_r, w) = io::pipe().unwrap();
        let before = fcntl(&w, FcntlArg::F_GETPIPE_SZ).unwrap();
        let size = enlarge(w.as_fd()).unwrap();
        assert!(size >= usize::try_from(before).unwrap());
        assert_eq!(enlarge(w.as_fd()), Some(size));
        assert_eq!(enlarge(tempfile::tempfile().unwrap().as_fd()), None);
    }

    #[test]
    fn wait_readable_tells_bytes_and_end_from_timeout() {
        let (r, mut w) = io::pipe().unwrap();
        let soon = Some(Duration::from_millis(5));
        let ready = || wait_readable(r.as_fd(), soon).unwrap();
        assert_eq!(ready(), Ready::Timeout);
        w.write_all(b"x").unwrap();
        assert_eq!(ready(), Ready::Yes);
        io::Read::read_exact(&mut &r, &mut [0]).unwrap();
        assert_eq!(ready(), Ready::Timeout);
        drop(w);
        assert_eq!(ready(), Ready::Yes);
    }
}
