//! Signals as flags, and a descriptor that wakes whoever sleeps in poll(2).
//!
//! Owns what the process does on:
//!
//! | signal         | first                          | again                                |
//! |----------------|--------------------------------|--------------------------------------|
//! | INT, TERM, HUP | [`stop_requested`] tells which | the process dies by it, at once      |
//! | USR1           | [`take_report_request`] is true once | the same                       |
//!
//! "Again" begins [`GRACE`] after the first: timeout(1) sends its signal to the process and once
//! more to the process group, and a terminal that closes may send HUP twice.
//!
//! XFSZ does nothing once [`survive_file_size_limit`] was called: a write beyond `ulimit -f` is EFBIG,
//! an error like a full disk.
//!
//! A signal that was ignored when the process started stays ignored (nohup(1); INT in the
//! background jobs of a shell). PIPE stays ignored as the runtime of Rust leaves it: a lost reader
//! is an error of write, or [`Wake::ReaderGone`](super::watch::Wake).
//!
//! The state is global because signals are. Until [`install`] was called nothing is caught.
//! Leaves to others: finishing the batch in hand, the summary, and then [`die_by`].

use nix::libc;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::{flag, low_level};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The signal that asks a process to end.
pub const TERM: i32 = SIGTERM;

/// How long after the first signal a second one is taken for its echo: long for the kernel, short
/// for a finger.
const GRACE: Duration = Duration::from_millis(200);

struct State {
    /// Number of the last INT, TERM or HUP; 0 before the first.
    stop: Arc<AtomicUsize>,
    report: Arc<AtomicBool>,
    /// Holds a byte from a signal until somebody drained it.
    wake: UnixStream,
    /// Its other side.
    waker: UnixStream,
}

static STATE: OnceLock<State> = OnceLock::new();
/// See [`end_within`].
static END_WITHIN: OnceLock<Duration> = OnceLock::new();

/// Catches INT, TERM, HUP (unless ignored) and USR1 from here on. A second call does nothing.
///
/// # Errors
/// No descriptors or no thread to be had.
pub fn install() -> io::Result<()> {
    if STATE.get().is_some() {
        return Ok(());
    }
    let (wake, waker) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    let (first, arm) = UnixStream::pair()?;
    let state = State {
        stop: Arc::default(),
        report: Arc::default(),
        wake,
        waker,
    };
    let deadly = Arc::new(AtomicBool::new(false));
    let ignored = ignored_signals();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if ignored & mask_of(signal) != 0 {
            continue;
        }
        let number = usize::try_from(signal).unwrap_or(0);
        flag::register_conditional_default(signal, Arc::clone(&deadly))?;
        flag::register_usize(signal, Arc::clone(&state.stop), number)?;
        low_level::pipe::register(signal, state.waker.try_clone()?)?;
        low_level::pipe::register(signal, arm.try_clone()?)?;
    }
    flag::register(SIGUSR1, Arc::clone(&state.report))?;
    low_level::pipe::register(SIGUSR1, state.waker.try_clone()?)?;
    make_deadly_after(first, deadly)?;
    let _ = STATE.set(state); // of two callers at once, the first wins
    Ok(())
}

/// Makes a write beyond the limit on file sizes (ulimit -f) an error of write(2) instead of the end of
/// the process. Caught, not ignored: what is ignored would stay so in programs that we start.
///
/// # Errors
/// What sigaction(2) answers.
pub fn survive_file_size_limit() -> io::Result<()> {
    flag::register(libc::SIGXFSZ, Arc::default()).map(drop)
}

/// Lets a thread wait for the first signal and then, after the grace, make the next one deadly.
/// Not the main thread's work: it may be the one that hangs.
fn make_deadly_after(mut first: UnixStream, deadly: Arc<AtomicBool>) -> io::Result<()> {
    let wait = move || {
        if first.read_exact(&mut [0]).is_ok() {
            std::thread::sleep(GRACE);
            deadly.store(true, Ordering::SeqCst);
            if let (Some(time), Some(signal)) = (END_WITHIN.get(), stop_requested()) {
                std::thread::sleep(time.saturating_sub(GRACE));
                die_by(signal);
            }
        }
    };
    let thread = std::thread::Builder::new().name("signals".into());
    thread.stack_size(64 << 10).spawn(wait).map(drop)
}

/// The signal that asked this process to end, if any did.
pub fn stop_requested() -> Option<i32> {
    let number = STATE.get()?.stop.load(Ordering::SeqCst);
    i32::try_from(number).ok().filter(|n| *n != 0)
}

/// Has the first signal that asks this process to end kill it after this time, if it is still there:
/// for one that could be held up for ever on its way, by a reader of its output that does not read.
pub fn end_within(time: Duration) {
    let _ = END_WITHIN.set(time);
}

/// Whether USR1 asked for a progress report since the last call.
pub fn take_report_request() -> bool {
    STATE
        .get()
        .is_some_and(|s| s.report.swap(false, Ordering::SeqCst))
}

/// Wakes whoever waits in poll(2), as a signal would: for a thread that has news for a sleeping one.
pub fn wake() {
    if let Some(s) = STATE.get() {
        let _ = (&s.waker).write(&[0]); // a full buffer wakes as well
    }
}

/// Whether [`install`] was called.
pub(super) fn installed() -> bool {
    STATE.get().is_some()
}

/// A descriptor that is readable once a signal came; poll it for input, then [`drain`].
pub(super) fn wake_fd() -> Option<BorrowedFd<'static>> {
    STATE.get().map(|s| s.wake.as_fd())
}

/// Takes the bytes of signals that were noticed. One that asks to stop stays noticeable, so that it
/// ends the waits of all threads and not only of the first that wakes.
pub(super) fn drain() {
    if let Some(s) = STATE.get() {
        let mut buf = [0; 64];
        while matches!((&s.wake).read(&mut buf), Ok(n) if n > 0) {}
        if stop_requested().is_some() {
            let _ = (&s.waker).write(&[0]); // cannot fail: it was drained just now
        }
    }
}

/// Whether a process is there, of whatever user.
pub fn is_alive(pid: i32) -> bool {
    let signal = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None);
    signal != Err(nix::errno::Errno::ESRCH)
}

/// Ends this process by `signal`, as it would have without us, so that the parent sees why.
pub fn die_by(signal: i32) -> ! {
    let _ = low_level::emulate_default_handler(signal);
    // Reached only if the signal's default is not to end a process: then as a shell would say it.
    std::process::exit(128 + signal)
}

/// The signals that this process was started to ignore, one bit each (proc(5), SigIgn).
fn ignored_signals() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let hex = text.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    hex.and_then(|h| u64::from_str_radix(h.trim(), 16).ok())
        .unwrap_or(0)
}

fn mask_of(signal: libc::c_int) -> u64 {
    u32::try_from(signal - 1)
        .ok()
        .and_then(|bit| 1u64.checked_shl(bit))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::pipe::poll_for;
    use crate::sys::watch::{Wake, Watch};
    use crate::sys::{File, Host, Lock, RealHost, Wait};
    use nix::poll::{PollFd, PollFlags};
    use nix::sys::signal::Signal;
    use std::io::{BufRead, BufReader};
    use std::os::fd::AsRawFd;
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    #[test]
    fn ignored_signals_are_seen() {
        // The runtime of Rust ignores PIPE.
        assert_ne!(ignored_signals() & mask_of(libc::SIGPIPE), 0);
        assert_eq!(ignored_signals() & mask_of(libc::SIGSEGV), 0);
    }

    // Signals belong to the process and would reach the other tests, so each of these runs itself
    // once more as a process of its own, marked by CHILD, and listens to its stdout.

    const CHILD: &str = "LOGD_TEST_SIGNAL_CHILD";
    const LONG: Duration = Duration::from_secs(20);

    /// The other process of a test.
    struct Child {
        process: std::process::Child,
        lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    }

    impl Child {
        /// Runs `test` again; the shell first executes `before`.
        fn of(test: &str, before: &str) -> Child {
            let exe = std::env::current_exe().unwrap();
            let mut process = Command::new("sh")
                .arg("-c")
                .arg(format!(r#"{before} exec "$0" "$@""#))
                .arg(exe)
                .args(["--exact", "--nocapture", "--test-threads=1"])
                .arg(format!("sys::signals::tests::{test}"))
                .env(CHILD, "1")
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(process.stdout.take().unwrap()).lines();
            let mut child = Child { process, lines };
            child.expect("ready");
            child
        }

        fn expect(&mut self, line: &str) {
            let found = self.lines.any(|l| l.unwrap().ends_with(line));
            assert!(found, "the child ended without {line:?}");
        }

        fn kill(&self, signal: Signal) {
            let pid = i32::try_from(self.process.id()).unwrap();
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
        }

        fn died_by(&mut self) -> Option<i32> {
            self.process.wait().unwrap().signal()
        }
    }

    fn is_child() -> bool {
        let child = std::env::var_os(CHILD).is_some();
        if child {
            install().unwrap();
        }
        child
    }

    /// Sleeps until a stop signal came.
    fn sleep_until_stopped() -> i32 {
        let wake = Watch::new().wait(Some(LONG), None).unwrap();
        assert_eq!(wake, Wake::Interrupted);
        stop_requested().unwrap()
    }

    #[test]
    fn usr1_wakes_a_sleeper_and_is_reported_once() {
        if is_child() {
            println!("\nready");
            let wake = Watch::new().wait(Some(LONG), None).unwrap();
            assert_eq!(wake, Wake::Interrupted);
            assert_eq!(
                (take_report_request(), take_report_request()),
                (true, false)
            );
            assert_eq!(stop_requested(), None);
            let short = Some(Duration::from_millis(5));
            assert_eq!(Watch::new().wait(short, None).unwrap(), Wake::Timeout);
            println!("reported");
            return;
        }
        let mut child = Child::of("usr1_wakes_a_sleeper_and_is_reported_once", "");
        child.kill(Signal::SIGUSR1);
        child.expect("reported");
        assert!(child.process.wait().unwrap().success());
    }

    #[test]
    fn a_stop_signal_ends_the_wait_of_every_thread() {
        if is_child() {
            println!("\nready");
            sleep_until_stopped();
            drain(); // also if the signal came before the wait
            // What another thread sleeps on is ready still.
            let fd = wake_fd().unwrap();
            let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
            assert_eq!(poll_for(&mut fds, Some(LONG)).unwrap(), 1);
            println!("all stopped");
            die_by(stop_requested().unwrap());
        }
        let mut child = Child::of("a_stop_signal_ends_the_wait_of_every_thread", "");
        child.kill(Signal::SIGTERM);
        child.expect("all stopped");
        assert_eq!(child.died_by(), Some(SIGTERM));
    }

    #[test]
    fn first_signal_lets_the_process_finish_and_die_by_it() {
        if is_child() {
            println!("\nready");
            let signal = sleep_until_stopped();
            println!("finished");
            die_by(signal);
        }
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            let mut child = Child::of("first_signal_lets_the_process_finish_and_die_by_it", "");
            child.kill(signal);
            child.expect("finished");
            assert_eq!(child.died_by(), Some(signal as i32));
        }
    }

    #[test]
    fn an_echo_of_the_first_signal_is_no_second_one_but_a_later_one_kills() {
        if is_child() {
            println!("\nready");
            sleep_until_stopped();
            println!("stopping");
            std::thread::sleep(GRACE / 4);
            println!("alive");
            loop {
                std::thread::park(); // hangs, as far as the user can tell
            }
        }
        let mut child = Child::of(
            "an_echo_of_the_first_signal_is_no_second_one_but_a_later_one_kills",
            "",
        );
        child.kill(Signal::SIGTERM);
        child.expect("stopping");
        child.kill(Signal::SIGTERM);
        child.expect("alive");
        let end = std::time::Instant::now() + LONG;
        while child.process.try_wait().unwrap().is_none() {
            assert!(std::time::Instant::now() < end, "it hangs for ever");
            child.kill(Signal::SIGTERM);
            std::thread::sleep(GRACE / 10);
        }
        assert_eq!(child.died_by(), Some(SIGTERM));
    }

    #[test]
    fn a_signal_that_was_ignored_stays_ignored() {
        if is_child() {
            println!("\nready");
            let signal = sleep_until_stopped();
            println!("stopped by {signal}");
            die_by(signal);
        }
        let mut child = Child::of("a_signal_that_was_ignored_stays_ignored", "trap '' HUP;");
        child.kill(Signal::SIGHUP);
        child.kill(Signal::SIGTERM);
        child.expect(&format!("stopped by {SIGTERM}"));
        assert_eq!(child.died_by(), Some(SIGTERM));
    }

    #[test]
    fn a_signal_ends_every_wait_for_a_lock() {
        if is_child() {
            let path = std::env::temp_dir();
            let file = tempfile::tempfile_in(path).unwrap();
            let name = format!("/proc/self/fd/{}", file.as_raw_fd());
            let other = std::fs::File::open(name).unwrap(); // another open file of the same one
            file.lock().unwrap();
            let other = crate::sys::real::RealFile::from(other);
            println!("\nready");
            let forever = other.lock(Lock::Shared, Wait::Forever).unwrap_err();
            let end = std::time::Instant::now() + LONG;
            let until = other.lock(Lock::Shared, Wait::Until(end)).unwrap_err();
            println!("{:?} {:?}", forever.kind(), until.kind());
            die_by(stop_requested().unwrap());
        }
        let mut child = Child::of("a_signal_ends_every_wait_for_a_lock", "");
        child.kill(Signal::SIGTERM);
        child.expect("Interrupted Interrupted");
        assert_eq!(child.died_by(), Some(SIGTERM));
    }

    #[test]
    fn a_lock_wait_that_a_signal_ended_frees_no_lock_taken_later() {
        if !is_child() {
            let mut child = Child::of(
                "a_lock_wait_that_a_signal_ended_frees_no_lock_taken_later",
                "",
            );
            child.kill(Signal::SIGTERM);
            child.expect("kept");
            assert_eq!(child.died_by(), Some(SIGTERM));
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let dir = RealHost.open_dir(temp.path()).unwrap();
        let a = dir.open_or_create("lock").unwrap();
        let b = dir.open_or_create("lock").unwrap();
        assert!(a.lock(Lock::Exclusive, Wait::No).unwrap());
        println!("\nready");
        let e = b.lock(Lock::Exclusive, Wait::Forever).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::Interrupted);
        // After the signal, work that is to be finished still gets its lock.
        let end = std::time::Instant::now() + Duration::from_millis(30);
        assert!(!b.lock(Lock::Exclusive, Wait::FirmlyUntil(end)).unwrap());
        std::thread::scope(|s| {
            let waiter = s.spawn(|| b.lock(Lock::Exclusive, Wait::Firmly));
            std::thread::sleep(Duration::from_millis(20));
            a.unlock().unwrap();
            assert!(waiter.join().unwrap().unwrap());
        });
        std::thread::sleep(Duration::from_millis(50)); // for the thread that was given up
        assert!(!a.lock(Lock::Exclusive, Wait::No).unwrap(), "b has it");
        println!("kept");
        die_by(stop_requested().unwrap());
    }

    #[test]
    fn a_write_beyond_the_file_size_limit_is_an_error_and_no_death() {
        if !is_child() {
            let test = "a_write_beyond_the_file_size_limit_is_an_error_and_no_death";
            let mut child = Child::of(test, "ulimit -f 8;");
            child.expect("alive");
            return assert!(child.process.wait().unwrap().success());
        }
        survive_file_size_limit().unwrap();
        println!("\nready");
        let file = tempfile::tempfile().unwrap();
        let e = std::os::unix::fs::FileExt::write_all_at(&file, &[1; 1 << 16], 0).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::EFBIG));
        println!("alive");
    }

    #[test]
    fn a_lock_is_granted_while_signals_are_caught() {
        if !is_child() {
            let mut child = Child::of("a_lock_is_granted_while_signals_are_caught", "");
            child.expect("granted");
            return child.lines.by_ref().for_each(drop); // to its end
        }
        println!("\nready");
        let temp = tempfile::tempdir().unwrap();
        let dir = RealHost.open_dir(temp.path()).unwrap();
        let a = dir.open_or_create("lock").unwrap();
        let b = dir.open_or_create("lock").unwrap();
        assert!(a.lock(Lock::Exclusive, Wait::No).unwrap());
        std::thread::scope(|s| {
            let waiter = s.spawn(|| b.lock(Lock::Exclusive, Wait::Forever));
            std::thread::sleep(Duration::from_millis(20));
            a.unlock().unwrap();
            assert!(waiter.join().unwrap().unwrap());
        });
        assert!(!a.lock(Lock::Shared, Wait::No).unwrap(), "b has it");
        b.unlock().unwrap();
        assert!(a.lock(Lock::Shared, Wait::No).unwrap());
        println!("granted");
    }
}
