//! Sleep until a followed log changes, the reader of our output goes away, or a signal comes.
//!
//! Owns an inotify(7) descriptor. A directory is watched for names that come and go, a file for
//! changes of its content; files one by one, so that index writes beside the log wake nobody.
//! Watches are set through the descriptor that is held open (`/proc/self/fd/N`), so they are on the
//! very file that is read, wherever its name leads meanwhile.
//!
//! Invariants:
//!
//! * A wake-up says "look again", never what changed: events may be merged or spurious. To miss
//!   nothing, set the watch first, then look, then wait.
//! * A wait without events costs no CPU; one with an event costs ppoll(2) and one read(2).
//! * Where inotify is not to be had (its limits are per user) or does not see the other writers (a
//!   network file system, the test disk), `wait` answers `Changed` every [`POLL_PAUSE`]: it never
//!   spins and never fails for that reason.
//!
//! Leaves to others: finding out what is new.

use super::pipe::{poll_for, woken};
use super::{Dir, File, FsKind, signals};
use nix::poll::{PollFd, PollFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

/// Pause between two looks without inotify: 50 looks a second cost about a thousandth of a core.
pub const POLL_PAUSE: Duration = Duration::from_millis(20);

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something watched may have changed: look again.
    Changed,
    /// The time is over.
    Timeout,
    /// Nobody reads our output any more.
    ReaderGone,
    /// A signal came (see [`signals`]).
    Interrupted,
}

/// What ended a wait that looks at descriptors too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Woke {
    /// Something watched may have changed: look again.
    pub changed: bool,
    /// A signal came (see [`signals`]).
    pub signal: bool,
    /// There is something to read, or the other side has gone.
    pub readable: bool,
    /// There is room to write, or the other side has gone.
    pub writable: bool,
}

/// One watched file or directory; forget it and it stays watched until the [`Watch`] ends or the
/// file is gone.
#[derive(Debug)]
#[must_use = "needed to end the watch"]
pub struct WatchId(Option<WatchDescriptor>);

/// A set of watched files and directories.
#[derive(Debug)]
pub struct Watch {
    /// `None`: look every [`POLL_PAUSE`].
    inotify: Option<Inotify>,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch::new()
    }
}

impl Watch {
    /// An empty set.
    pub fn new() -> Watch {
        let flags = InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC;
        Watch {
            inotify: Inotify::init(flags).ok(),
        }
    }

    /// Watches names that come, go or change place in `dir`, and `dir` itself being moved or
    /// removed.
    pub fn dir(&mut self, dir: &dyn Dir) -> WatchId {
        if !matches!(dir.kind_of_fs(), Ok(FsKind::Local)) {
            self.inotify = None; // other hosts' changes raise no event here
        }
        let events = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        self.add(dir.fd(), events)
    }

    /// Watches the content and length of `file`. Watching a file twice is watching it once.
    pub fn file(&mut self, file: &dyn File) -> WatchId {
        self.add(file.fd(), AddWatchFlags::IN_MODIFY)
    }

    fn add(&mut self, fd: Option<BorrowedFd<'_>>, events: AddWatchFlags) -> WatchId {
        let watch = match (&self.inotify, fd) {
            (Some(inotify), Some(fd)) => {
                let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
                inotify.add_watch(path.as_str(), events).ok()
            }
            _ => None,
        };
        if watch.is_none() {
            self.inotify = None; // one that we do not see means that we have to look at all
        }
        WatchId(watch)
    }

    /// Ends a watch. One that ended by itself, with its file, is no error.
    pub fn remove(&mut self, id: WatchId) {
        if let (Some(inotify), Some(watch)) = (&self.inotify, id.0) {
            let _ = inotify.rm_watch(watch);
        }
    }

    /// Whether changes are noticed by looking every [`POLL_PAUSE`] only.
    pub fn is_polling(&self) -> bool {
        self.inotify.is_none()
    }

    /// Whether something watched may have changed since this was last asked, without waiting. Costs
    /// one read(2); without inotify the answer is always yes.
    pub fn has_changed(&self) -> bool {
        let Some(inotify) = &self.inotify else {
            return true;
        };
        let read = nix::unistd::read(inotify, &mut [0; 4096]);
        read != Err(nix::errno::Errno::EAGAIN)
    }

    /// Sleeps until something watched changes, at most `timeout`. `out` is the descriptor of our
    /// output: when it is a pipe or socket whose reader has gone, the wait ends.
    ///
    /// # Errors
    /// What ppoll(2) answers.
    pub fn wait(
        &mut self,
        timeout: Option<Duration>,
        out: Option<BorrowedFd<'_>>,
    ) -> io::Result<Wake> {
        if signals::stop_requested().is_some() {
            return Ok(Wake::Interrupted);
        }
        let pause = match (self.is_polling(), timeout) {
            (false, t) => t,
            (true, t) => Some(t.unwrap_or(POLL_PAUSE).min(POLL_PAUSE)),
        };
        let changed = self.inotify.as_ref().map(AsFd::as_fd);
        let [changed, out, signal] = poll_three(changed, out, signals::wake_fd(), pause)?;
        if signal {
            signals::drain();
            return Ok(Wake::Interrupted);
        }
        if out {
            return Ok(Wake::ReaderGone);
        }
        if changed {
            self.drain();
            return Ok(Wake::Changed);
        }
        match pause == timeout {
            true => Ok(Wake::Timeout),
            false => Ok(Wake::Changed),
        }
    }

    /// Sleeps until something watched changes, `read` can be read, `write` takes bytes, or a signal
    /// comes; at most `timeout`.
    ///
    /// # Errors
    /// What ppoll(2) answers.
    pub fn wait_io(
        &mut self,
        timeout: Duration,
        read: Option<BorrowedFd<'_>>,
        write: Option<BorrowedFd<'_>>,
    ) -> io::Result<Woke> {
        let mut woke = Woke::default();
        if signals::stop_requested().is_some() {
            woke.signal = true;
            return Ok(woke);
        }
        let pause = match self.is_polling() {
            false => timeout,
            true => timeout.min(POLL_PAUSE),
        };
        let wanted = [
            (self.inotify.as_ref().map(AsFd::as_fd), PollFlags::POLLIN),
            (signals::wake_fd(), PollFlags::POLLIN),
            (read, PollFlags::POLLIN),
            (write, PollFlags::POLLOUT),
        ];
        let fds = wanted
            .iter()
            .filter_map(|(fd, f)| fd.map(|fd| PollFd::new(fd, *f)));
        let mut fds: Vec<PollFd<'_>> = fds.collect();
        let any = poll_for(&mut fds, Some(pause))? > 0;
        let mut ready = fds.iter().map(|fd| any && woken(fd));
        let [changed, signal, readable, writable] =
            wanted.map(|(fd, _)| fd.is_some() && ready.next().unwrap_or(false));
        if signal {
            signals::drain();
        }
        if changed {
            self.drain();
        }
        let looks = self.is_polling() && !any;
        Ok(Woke {
            changed: changed || looks,
            signal,
            readable,
            writable,
        })
    }

    /// Takes the events that woke us. What one read does not take ends the next wait at once.
    fn drain(&self) {
        if let Some(inotify) = &self.inotify {
            let _ = nix::unistd::read(inotify, &mut [0; 4096]);
        }
    }
}

/// Polls up to three descriptors, the first and last for input, the middle one only for the loss
/// of its other side, and tells which are ready.
fn poll_three(
    input: Option<BorrowedFd<'_>>,
    output: Option<BorrowedFd<'_>>,
    signal: Option<BorrowedFd<'_>>,
    timeout: Option<Duration>,
) -> io::Result<[bool; 3]> {
    let wanted = [
        (input, PollFlags::POLLIN),
        (output, PollFlags::empty()),
        (signal, PollFlags::POLLIN),
    ];
    let mut fds = Vec::with_capacity(3);
    fds.extend(
        wanted
            .iter()
            .filter_map(|(fd, flags)| fd.map(|fd| PollFd::new(fd, *flags))),
    );
    let any = poll_for(&mut fds, timeout)? > 0;
    let mut ready = fds.iter().map(|fd| any && woken(fd));
    Ok(wanted.map(|(fd, _)| fd.is_some() && ready.next().unwrap_or(false)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{Host, RealHost};
    use std::sync::Arc;

    const LONG: Option<Duration> = Some(Duration::from_secs(20));
    const SHORT: Option<Duration> = Some(Duration::from_millis(5));

    fn temp() -> (tempfile::TempDir, Arc<dyn Dir>) {
        let temp = tempfile::tempdir().unwrap();
        let dir = RealHost.open_dir(temp.path()).unwrap();
        (temp, dir)
    }

    fn wait(w: &mut Watch, timeout: Option<Duration>, out: Option<BorrowedFd<'_>>) -> Wake {
        w.wait(timeout, out).unwrap()
    }

    #[test]
    fn names_that_come_and_go_wake() {
        let (_temp, dir) = temp();
        let mut w = Watch::new();
        let _id = w.dir(&*dir);
        assert!(!w.is_polling());
        assert_eq!(wait(&mut w, SHORT, None), Wake::Timeout);
        let f = dir.create("a").unwrap();
        assert_eq!(wait(&mut w, LONG, None), Wake::Changed);
        assert_eq!(wait(&mut w, SHORT, None), Wake::Timeout);
        f.write_all_at(b"x", 0).unwrap(); // content is not watched here
        assert_eq!(wait(&mut w, SHORT, None), Wake::Timeout);
        dir.rename("a", "b").unwrap();
        assert_eq!(wait(&mut w, LONG, None), Wake::Changed);
        dir.unlink("b").unwrap();
        assert_eq!(wait(&mut w, LONG, None), Wake::Changed);
    }

    #[test]
    fn a_write_wakes_also_after_a_rename_and_from_another_thread() {
        let (_temp, dir) = temp();
        let f = dir.create("a").unwrap();
        let mut w = Watch::new();
        let id = w.file(&*f);
        dir.rename("a", "b").unwrap();
        assert_eq!(wait(&mut w, SHORT, None), Wake::Timeout);
        std::thread::scope(|s| {
            s.spawn(|| f.write_all_at(b"x", 0).unwrap());
            assert_eq!(wait(&mut w, LONG, None), Wake::Changed);
        });
        f.set_len(0).unwrap();
        assert_eq!(wait(&mut w, LONG, None), Wake::Changed);
        w.remove(id);
        let _ = wait(&mut w, SHORT, None); // the end of the watch is an event
        f.write_all_at(b"x", 0).unwrap();
        assert_eq!(wait(&mut w, SHORT, None), Wake::Timeout);
    }

    #[test]
    fn a_lost_reader_ends_the_wait_and_a_slow_one_does_not() {
        let mut w = Watch::new();
        let (r, out) = io::pipe().unwrap();
        assert_eq!(wait(&mut w, SHORT, Some(out.as_fd())), Wake::Timeout);
        drop(r);
        assert_eq!(wait(&mut w, LONG, Some(out.as_fd())), Wake::ReaderGone);
        let file = tempfile::tempfile().unwrap();
        assert_eq!(wait(&mut w, SHORT, Some(file.as_fd())), Wake::Timeout);
    }

    #[test]
    fn without_inotify_each_wait_pauses_and_says_look_again() {
        let mut w = Watch { inotify: None };
        let before = std::time::Instant::now();
        assert_eq!(wait(&mut w, None, None), Wake::Changed);
        assert_eq!(wait(&mut w, LONG, None), Wake::Changed);
        assert!(before.elapsed() >= POLL_PAUSE);
        assert_eq!(wait(&mut w, SHORT, None), Wake::Timeout);
    }
}
