//! Connections over socket pairs: cut at any byte, silent, full of garbage.

use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::carrier::{Carrier, Pipe};
use super::copy::CopyOptions;
use super::drive::{self, Job, OpenSource, Opens, Outcome, Serves};
use super::local::Watcher;
use super::log_copy::LogCopy;
use super::log_source::LogSource;
use super::source::SourceOptions;
use crate::error::{ErrorKind, Result};
use crate::format::wire::{Hello, Role, VERSION, VERSION_LOWEST, options};
use crate::format::{Limits, Offset};
use crate::log::testing::TestLog;
use crate::ops::append::SyncWhen;
use crate::ops::throttle::Throttle;
use crate::sys::{Host, RealHost};

struct Quiet;
impl Watcher for Quiet {}

/// A carrier that breaks after so many bytes.
struct Cut {
    inner: Pipe,
    socket: UnixStream,
    read: usize,
    write: usize,
    /// Which byte that is read has a bit flipped.
    flip: Option<usize>,
}

impl Carrier for Cut {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let max = self.read.min(777).min(buf.len());
        let n = self.inner.read(&mut buf[..max])?;
        self.read -= n;
        match self.flip {
            Some(at) if at < n => {
                buf[at] ^= 0x10;
                self.flip = None;
            }
            Some(at) => self.flip = Some(at - n),
            None => {}
        }
        Ok(n)
    }

    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.write == 0 {
            let _ = self.socket.shutdown(std::net::Shutdown::Both);
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = self.inner.write(&buf[..buf.len().min(self.write)])?;
        self.write -= n;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }

    fn read_fd(&self) -> BorrowedFd<'_> {
        self.inner.read_fd()
    }

    fn write_fd(&self) -> BorrowedFd<'_> {
        self.inner.write_fd()
    }

    fn close(&mut self) -> io::Result<()> {
        self.inner.close()
    }

    fn peer(&self) -> &str {
        self.inner.peer()
    }
}

/// Notes the most that was ever offered to it.
struct Largest {
    inner: Pipe,
    held: Arc<std::sync::atomic::AtomicUsize>,
}

impl Carrier for Largest {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }

    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let order = std::sync::atomic::Ordering::SeqCst;
        self.held.fetch_max(buf.len(), order);
        self.inner.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }

    fn read_fd(&self) -> BorrowedFd<'_> {
        self.inner.read_fd()
    }

    fn write_fd(&self) -> BorrowedFd<'_> {
        self.inner.write_fd()
    }

    fn close(&mut self) -> io::Result<()> {
        self.inner.close()
    }

    fn peer(&self) -> &str {
        self.inner.peer()
    }
}

fn pipe(stream: UnixStream, peer: &str) -> Pipe {
    let other = OwnedFd::from(stream.try_clone().unwrap());
    Pipe::new(OwnedFd::from(stream), other, peer).unwrap()
}

fn host() -> Arc<dyn Host> {
    Arc::new(RealHost)
}

fn hello(role: Role, partitions: &[u32]) -> Hello {
    Hello {
        version: VERSION,
        lowest: VERSION_LOWEST,
        role,
        options: options::CLAMP,
        idle_ms: 60_000,
        name: "b".to_string(),
        range: String::new(),
        group: String::new(),
        partitions: partitions.to_vec(),
    }
}

fn copy_of(path: &Path) -> (LogCopy, CopyOptions) {
    let limits = Limits::default();
    let open = crate::log::copy::CopyOptions {
        create: None,
        wait: Duration::from_secs(5),
        allow_network_fs: true,
        zero_fill: false,
        limits,
        command: "test".to_string(),
    };
    let options = CopyOptions {
        sync: SyncWhen::Exit,
        delete: false,
        truncate: false,
        one_way: false,
        limits,
    };
    (LogCopy::new(&host(), path, open, "a"), options)
}

/// Serves copies below a directory, and sources of one log.
struct Server {
    dir: PathBuf,
    source: Option<PathBuf>,
}

fn source_of(path: &Path) -> OpenSource {
    let log = LogSource::open(&host(), path, true, "b", Limits::default()).unwrap();
    let options = SourceOptions::default();
    OpenSource {
        number: 3,
        log,
        options,
    }
}

impl Serves for Server {
    fn asked(&mut self, hello: &Hello) -> Result<()> {
        assert_eq!(hello.name, "b");
        Ok(())
    }

    fn sources(&mut self, _: &Hello) -> Result<Vec<OpenSource>> {
        Ok(self.source.iter().map(|p| source_of(p)).collect())
    }

    fn copy(&mut self, hello: &Hello, number: u32) -> Result<(LogCopy, CopyOptions)> {
        let path = self.dir.join(format!("{}-{number}", hello.name));
        Ok(copy_of(&path))
    }
}

fn limits() -> drive::Limits {
    drive::Limits {
        idle: Duration::from_secs(20),
        greeted: Instant::now() + Duration::from_secs(20),
    }
}

fn sample(batches: usize) -> TestLog {
    let log = TestLog::new("a-3");
    let mut next = 0;
    for s in 0..3 {
        let mut segment = log.segment(next);
        for b in 0..batches {
            let words = format!(
                "v{b}@{next} k=w{b}@{next} {}@{next}",
                "x".repeat(b * 37 % 400)
            );
            segment = segment.batch(next, &words);
            next += 3;
        }
        let _ = s;
        segment.write();
    }
    log.file("leader-epoch-checkpoint", b"0\n1\n0 0\n");
    log
}

/// One connection, broken after so many bytes of each direction.
fn connect(log: &TestLog, dir: &Path, pull: bool, down: usize, up: usize) -> [Result<Outcome>; 2] {
    let (a, b) = UnixStream::pair().unwrap();
    let cut = |stream: UnixStream, peer, read, write| {
        let socket = stream.try_clone().unwrap();
        let inner = pipe(stream, peer);
        Box::new(Cut {
            inner,
            socket,
            read,
            write,
            flip: None,
        })
    };
    // `down` bounds what flows from source to copy.
    let (here, there) = match pull {
        true => (
            cut(a, "there", usize::MAX, up),
            cut(b, "here", usize::MAX, down),
        ),
        false => (
            cut(a, "there", usize::MAX, down),
            cut(b, "here", usize::MAX, up),
        ),
    };
    run(log, dir, pull, here, there)
}

fn run(
    log: &TestLog,
    dir: &Path,
    pull: bool,
    here: Box<Cut>,
    there: Box<Cut>,
) -> [Result<Outcome>; 2] {
    let path = dir.join("b-3");
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            let source = pull.then(|| log.path());
            let mut server = Server {
                dir: dir.to_path_buf(),
                source,
            };
            let job = Job::Serve(&mut server);
            drive::run(
                &RealHost,
                there,
                job,
                limits(),
                &Throttle::new(None),
                &Quiet,
            )
        });
        let mut copy = |_| Ok(copy_of(&path));
        let sources = match pull {
            true => Vec::new(),
            false => vec![source_of(&log.path())],
        };
        let copy = &mut copy;
        let opens = Opens { sources, copy };
        let job = match pull {
            true => Job::Pull(hello(Role::Pull, &[]), opens),
            false => Job::Push(hello(Role::Push, &[3]), opens),
        };
        let mine = drive::run(&RealHost, here, job, limits(), &Throttle::new(None), &Quiet);
        [mine, server.join().unwrap()]
    })
}

fn segments(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let Ok(all) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let paths = all.map(|e| e.unwrap().path());
    let logs = paths.filter(|p| p.extension().is_some_and(|e| e == "log"));
    let name = |p: &Path| p.file_name().unwrap().to_str().unwrap().to_string();
    let mut out: Vec<_> = logs
        .map(|p| (name(&p), std::fs::read(p).unwrap()))
        .collect();
    out.sort();
    out
}

fn is_prefix(copy: &[(String, Vec<u8>)], of: &[(String, Vec<u8>)]) -> bool {
    copy.iter().enumerate().all(|(i, (name, bytes))| {
        let Some((wanted, whole)) = of.get(i) else {
            return false;
        };
        name == wanted && whole.starts_with(bytes) && (i + 1 == copy.len() || whole == bytes)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, ..ProptestConfig::default() })]

    #[test]
    fn connections_cut_at_any_byte_leave_a_prefix_and_end_equal(
        cuts in prop::collection::vec((0usize..9000, 0usize..900, any::<bool>()), 0..6), pull: bool,
    ) {
        let log = sample(20);
        let source = segments(&log.path());
        let dir = tempfile::tempdir().unwrap();
        for (down, up, pull) in cuts {
            let _ = connect(&log, dir.path(), pull, down, up);
            let copy = segments(&dir.path().join("b-3"));
            prop_assert!(is_prefix(&copy, &source));
        }
        let ended = connect(&log, dir.path(), pull, usize::MAX, usize::MAX);
        for outcome in ended {
            let outcome = outcome.unwrap();
            prop_assert!(outcome.errors.is_empty(), "{:?}", outcome.errors);
            let (number, report) = outcome.reports[0];
            prop_assert_eq!((number, report.end, report.durable), (3, Offset(180), Offset(180)));
        }
        prop_assert_eq!(segments(&dir.path().join("b-3")), source);
    }

    /// A bit that flips on the way is told as something worth another try, or does no harm.
    #[test]
    fn a_flipped_bit_is_worth_another_try(at in 0usize..12_000, to_copy: bool) {
        let log = sample(20);
        let source = segments(&log.path());
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        let cut = |stream: UnixStream, peer, flip| {
            let socket = stream.try_clone().unwrap();
            let (read, write) = (usize::MAX, usize::MAX);
            let inner = pipe(stream, peer);
            Box::new(Cut { inner, socket, read, write, flip })
        };
        let here = cut(a, "there", (!to_copy).then_some(at % 900));
        let there = cut(b, "here", to_copy.then_some(at));
        let ended = run(&log, dir.path(), false, here, there);
        let copy = segments(&dir.path().join("b-3"));
        prop_assert!(is_prefix(&copy, &source));
        for side in ended {
            let errors: Vec<_> = match side {
                Ok(outcome) => outcome.errors.into_iter().map(|(_, e)| e).collect(),
                Err(e) => vec![e],
            };
            for e in errors {
                let again = [ErrorKind::Unreachable, ErrorKind::Version, ErrorKind::Data];
                prop_assert!(again.contains(&e.kind()), "{:?}", e);
                // What the batches' own bytes were damaged in is never fatal.
                let fatal = e.kind() == ErrorKind::Data && !e.to_string().contains("protocol");
                prop_assert!(!fatal, "{:?}", e);
            }
        }
        let again = connect(&log, dir.path(), false, usize::MAX, usize::MAX);
        prop_assert!(again.iter().all(Result::is_ok), "{:?}", again);
        prop_assert_eq!(segments(&dir.path().join("b-3")), source);
    }

    /// Whatever a peer sends: an error within the limits, and nothing written.
    #[test]
    fn garbage_ends_the_connection(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let dir = tempfile::tempdir().unwrap();
        let (a, mut b) = UnixStream::pair().unwrap();
        b.write_all(&bytes).unwrap();
        b.shutdown(std::net::Shutdown::Write).unwrap();
        let mut server = Server { dir: dir.path().to_path_buf(), source: None };
        let carrier = Box::new(pipe(a, "there"));
        let job = Job::Serve(&mut server);
        let e = drive::run(&RealHost, carrier, job, limits(), &Throttle::new(None), &Quiet);
        let kind = e.unwrap_err().kind();
        prop_assert!(matches!(kind, ErrorKind::Unreachable | ErrorKind::Version), "{:?}", kind);
        prop_assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
    }
}

/// A peer that asks and takes no answers is not read from any more: what waits is bounded.
#[test]
fn questions_wait_while_answers_do() {
    use super::ends::SourceLog;
    use crate::format::wire::{Ask, Message, Question, SESSION, encode};
    let log = sample(400);
    let mut bytes = Vec::new();
    let hello = Message::Hello(hello(Role::Push, &[3]));
    encode(SESSION, &hello, &mut bytes);
    let info = source_of(&log.path()).log.info().unwrap();
    encode(3, &Message::Source(info), &mut bytes);
    for _ in 0..2000 {
        let what = Question::Records;
        let offsets = Offset(0)..Offset(3600);
        encode(3, &Message::Ask(Ask { what, offsets }), &mut bytes);
    }
    let (a, mut b) = UnixStream::pair().unwrap();
    b.set_nonblocking(true).unwrap();
    let dir = log.path().parent().unwrap().to_path_buf();
    std::fs::rename(log.path(), dir.join("b-3")).unwrap();
    let sent = b.write(&bytes).unwrap(); // what fits; nothing is ever read
    assert!(sent > 30_000);
    let mut server = Server { dir, source: None };
    let limits = drive::Limits {
        idle: Duration::from_secs(2),
        greeted: Instant::now() + Duration::from_secs(20),
    };
    let held = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let inner = pipe(a, "there");
    let carrier = Box::new(Largest {
        inner,
        held: Arc::clone(&held),
    });
    let job = Job::Serve(&mut server);
    let e = drive::run(
        &RealHost,
        carrier,
        job,
        limits,
        &Throttle::new(None),
        &Quiet,
    );
    assert_eq!(e.unwrap_err().kind(), ErrorKind::Unreachable);
    let held = held.load(std::sync::atomic::Ordering::SeqCst);
    assert!((1 << 20..6 << 20).contains(&held), "{held}");
}

#[test]
fn a_silent_peer_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (a, _b) = UnixStream::pair().unwrap();
    let mut server = Server {
        dir: dir.path().to_path_buf(),
        source: None,
    };
    let limits = drive::Limits {
        idle: Duration::from_secs(20),
        greeted: Instant::now() + Duration::from_millis(30),
    };
    let carrier = Box::new(pipe(a, "there"));
    let job = Job::Serve(&mut server);
    let e = drive::run(
        &RealHost,
        carrier,
        job,
        limits,
        &Throttle::new(None),
        &Quiet,
    );
    let e = e.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unreachable);
    assert_eq!(
        e.to_string(),
        "there: the other side does not say what it wants"
    );
}
