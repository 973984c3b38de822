//! `logd replicate` where one side is on another machine: pushing, pulling, trying again.
//!
//! Whoever opens the connection says what is wanted; the other side has the log that is named, and its
//! own rights. A connection that breaks is made anew: the copy tells where it is, so nothing is lost or
//! sent twice. With `-f` that goes on for ever, otherwise for [`RETRY_FOR`]; `--retry-for` says how long
//! either way. The time begins anew with every connection that got as far as sending.

use super::{Asked, Row, Teller, finish};
use crate::cli::{Context, Outcome, args};
use crate::error::{Error, ErrorKind, Result};
use crate::format::wire::{self, Hello, Role, options};
use crate::ops::append::SyncWhen;
use crate::ops::remote::{self, Ssh, host_word};
use crate::ops::replicate::carrier::{Carrier, Dial, TlsConfig, TlsFiles};
use crate::ops::replicate::copy::CopyOptions;
use crate::ops::replicate::drive::{self, Job, Limits, OpenSource, Opens};
use crate::ops::replicate::log_copy::LogCopy;
use crate::ops::replicate::source::SourceOptions;
use crate::ops::replicate::{dest_of, open_source};
use crate::ops::throttle::Throttle;
use crate::ops::topic::Partition;
use crate::ops::words::LogName;
use crate::sys::watch::{Wake, Watch};
use clap::{Arg, ArgMatches};
use std::ffi::OsStr;
use std::time::{Duration, Instant};

/// How long a run that does not follow tries to reach the other side.
const RETRY_FOR: Duration = Duration::from_secs(30);
/// The first pause before another try; each is twice as long as the one before.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// How long logs that somebody holds are waited for: the other side notices a little late that the run
/// before this one, or the connection before this one, is gone.
const LOCKED_TIME: Duration = Duration::from_secs(10);
/// The longest.
const PAUSE_LAST: Duration = Duration::from_secs(5);

/// The options of it.
pub(super) fn options_of() -> [Arg; 4] {
    let file = |long, help| {
        args::option(long, "FILE", help).value_parser(clap::value_parser!(std::ffi::OsString))
    };
    [
        args::option(
            "retry-for",
            "DURATION",
            "How long to try to reach the other side [default: 30s, with -f none: for ever]",
        ),
        file("tls-cert", "Our certificate, for TCP beyond this machine"),
        file("tls-key", "Its key"),
        file("tls-ca", "Whose certificates a peer may show"),
    ]
}

/// The certificates that the options name, if they do.
pub(super) fn tls(m: &ArgMatches) -> Result<Option<TlsConfig>> {
    let file = |id| args::os(m, id).map(Into::into);
    match (file("tls-cert"), file("tls-key"), file("tls-ca")) {
        (None, None, None) => Ok(None),
        (Some(cert), Some(key), Some(ca)) => TlsConfig::new(&TlsFiles { cert, key, ca }).map(Some),
        _ => {
            let why = "--tls-cert, --tls-key and --tls-ca go together";
            Err(Error::usage(why).hint("--tls-cert me.pem --tls-key me.key --tls-ca ca.pem"))
        }
    }
}

/// What is on its way, and where.
struct Way<'a> {
    asked: &'a Asked,
    dial: Dial,
    log: LogName,
    retry_for: Option<Duration>,
}

impl<'a> Way<'a> {
    fn new(m: &ArgMatches, asked: &'a Asked, log: LogName) -> Result<Way<'a>> {
        let given = args::word(m, "retry-for", |w| {
            crate::ops::words::duration_or_none(w, "s")
        })?;
        let usual = (!asked.source.follow).then_some(RETRY_FOR);
        Ok(Way {
            asked,
            dial: Dial {
                ssh: Ssh::new(std::env::var_os("LOGD_SSH").as_deref()),
                tls: tls(m)?,
            },
            log,
            retry_for: given.unwrap_or(usual),
        })
    }

    /// What the log elsewhere is called.
    fn shown(&self) -> String {
        match &self.log {
            LogName::Remote { host, path } => {
                format!("{}:{}", host_word(host), path.to_string_lossy())
            }
            LogName::Tcp { address, name } => format!("tcp://{address}/{name}"),
            LogName::Local(path) => path.to_string_lossy().into_owned(),
            LogName::Stdio => "-".into(),
        }
    }

    fn hello(&self, role: Role, name: String, partitions: Vec<u32>, range: &str) -> Hello {
        let asked = self.asked;
        let bits = [
            (asked.source.follow, options::FOLLOW),
            (asked.copy.delete, options::DELETE),
            (asked.copy.truncate, options::TRUNCATE),
            (asked.copy.sync == SyncWhen::Never, options::SYNC_NEVER),
            (asked.copy.sync == SyncWhen::Batch, options::SYNC_BATCH),
            (asked.copy.sync == SyncWhen::Exit, options::SYNC_EXIT),
            (asked.source.clamp, options::CLAMP),
        ];
        let bits = bits.iter().filter(|(on, _)| *on);
        Hello {
            version: wire::VERSION,
            lowest: wire::VERSION_LOWEST,
            role,
            options: bits.fold(0, |all, (_, bit)| all | bit),
            idle_ms: u32::try_from(drive::IDLE.as_millis()).unwrap_or(u32::MAX),
            name,
            range: range.to_string(),
            group: String::new(),
            partitions,
        }
    }

    /// Connects and does the work, again while that is worth it.
    fn keep_at(
        &self,
        ctx: &Context,
        mut work: impl FnMut(Box<dyn Carrier>, String, &Progressed) -> Result<drive::Outcome>,
    ) -> Result<drive::Outcome> {
        let waits = !ctx.skips_locked();
        let (mut since, mut free) = (Instant::now(), Instant::now());
        let mut pause = PAUSE_FIRST;
        let mut told = false;
        loop {
            let moved = Progressed::default();
            let tried = self.dial.connect(&self.log);
            let tried = tried.and_then(|(carrier, name)| work(carrier, name, &moved));
            if moved.0.load(std::sync::atomic::Ordering::SeqCst) {
                (since, pause, told) = (Instant::now(), PAUSE_FIRST, false);
                free = since;
            }
            let error = match tried {
                Err(e) => match settled(e) {
                    e if e.kind() == ErrorKind::Unreachable && !remote::is_final(&e) => e,
                    e => return Err(e),
                },
                Ok(mut done) if waits && free.elapsed() < LOCKED_TIME && is_locked(&done) => {
                    match done.errors.pop() {
                        Some((_, e)) => e,
                        None => return Ok(done),
                    }
                }
                Ok(done) => return Ok(done),
            };
            let left = self.retry_for.map(|t| t.saturating_sub(since.elapsed()));
            if left.is_some_and(|l| l.is_zero()) {
                return Err(error);
            }
            if !std::mem::replace(&mut told, true) {
                let for_how_long = match self.retry_for {
                    Some(time) => format!("for {}s", time.as_secs()),
                    None => "until it is there".to_string(),
                };
                ctx.message
                    .warn(format!("{error}; trying again {for_how_long}"));
            }
            let wait = left.map_or(pause, |l| l.min(pause));
            pause = (pause * 2).min(PAUSE_LAST);
            let woke = Watch::new().wait(Some(wait), None);
            if woke.map_err(|e| Error::io("cannot wait", e))? == Wake::Interrupted {
                return Ok(drive::Outcome {
                    stopped: true,
                    ..drive::Outcome::default()
                });
            }
        }
    }
}

/// What is behind an error of a connection: what ssh, or a peer's view of our certificate, has to say.
fn settled(e: Error) -> Error {
    use std::error::Error as _;
    let Some(io) = e.source().and_then(|s| s.downcast_ref::<std::io::Error>()) else {
        return e;
    };
    if let Some(inner) = io.get_ref().and_then(|i| i.downcast_ref::<Error>()) {
        let error = Error::new(inner.kind(), inner.what());
        let error = match inner.path() {
            Some(path) => error.at_path(path),
            None => error,
        };
        return match inner.hint_text() {
            Some(hint) => error.hint(hint),
            None => error,
        };
    }
    match io.kind() {
        std::io::ErrorKind::PermissionDenied => e.with_kind(ErrorKind::Permission),
        _ => e,
    }
}

/// Whether nothing went wrong but that somebody holds the logs, or is about to make them.
fn is_locked(done: &drive::Outcome) -> bool {
    let locked =
        |(_, e): &(u32, Error)| matches!(e.kind(), ErrorKind::Locked | ErrorKind::CannotCreate);
    !done.errors.is_empty() && done.errors.iter().all(locked)
}

/// Whether a connection got as far as moving anything.
#[derive(Default)]
struct Progressed(std::sync::atomic::AtomicBool);

/// Tells what a connection does, and notes that it does something.
struct Telling<'a>(&'a Teller<'a>, &'a Progressed);

impl crate::ops::replicate::local::Watcher for Telling<'_> {
    fn begins(&self, bytes: u64) {
        self.1.0.store(true, std::sync::atomic::Ordering::SeqCst);
        self.0.begins(bytes);
    }

    fn stored(&self, bytes: u64) {
        self.1.0.store(true, std::sync::atomic::Ordering::SeqCst);
        self.0.stored(bytes);
    }

    fn note(&self, note: crate::ops::replicate::source::Note) {
        self.0.note(note);
    }
}

/// From here to elsewhere.
pub(super) fn push(
    ctx: &mut Context,
    m: &ArgMatches,
    asked: &Asked,
    src: &OsStr,
    dest: LogName,
) -> Result<Outcome> {
    let way = Way::new(m, asked, dest)?;
    let partitions = ctx.resolve(src, args::partitions(m)?.as_ref())?;
    let numbers: Vec<u32> = numbers(&partitions);
    let began = Instant::now();
    let shared: &Context = ctx;
    let teller = Teller::new(shared, src.to_string_lossy().into_owned());
    let throttle = Throttle::new(asked.rate);
    let done = way.keep_at(shared, |carrier, name, moved| {
        let hello = way.hello(Role::Push, name, numbers.clone(), "");
        let mut sources = Vec::new();
        for p in &partitions {
            let peer = carrier.peer().to_string();
            sources.push(source(shared, asked, p, &peer)?);
        }
        let mut none = |_| Err(Error::new(ErrorKind::Bug, "nothing is received"));
        let opens = Opens {
            sources,
            copy: &mut none,
        };
        let job = Job::Push(hello, opens);
        let telling = Telling(&teller, moved);
        let host = shared.host.as_ref();
        drive::run(host, carrier, job, Limits::default(), &throttle, &telling)
    });
    drop(teller);
    let topic = partitions.first().map(|p| p.topic.clone());
    end(ctx, done?, &way.shown(), &topic.unwrap_or_default(), began)
}

fn numbers(partitions: &[Partition]) -> Vec<u32> {
    let all = partitions.iter();
    all.map(|p| u32::try_from(p.number).unwrap_or(0)).collect()
}

fn source(ctx: &Context, asked: &Asked, p: &Partition, peer: &str) -> Result<OpenSource> {
    let clamp = asked.source.clamp;
    let (log, from, upto) = open_source(&ctx.host, p, &asked.range, clamp, peer)?;
    Ok(OpenSource {
        number: u32::try_from(p.number).unwrap_or(0),
        log,
        options: SourceOptions {
            from,
            upto,
            ..asked.source.clone()
        },
    })
}

/// From elsewhere to here.
pub(super) fn pull(
    ctx: &mut Context,
    m: &ArgMatches,
    asked: &Asked,
    src: LogName,
    dest: &OsStr,
) -> Result<Outcome> {
    let way = Way::new(m, asked, src)?;
    let dest = ctx.path(dest)?;
    let wanted = wanted(m)?;
    let range = args::text(m, "from-offset").unwrap_or_default();
    let began = Instant::now();
    let shared: &Context = ctx;
    let teller = Teller::new(shared, dest.display().to_string());
    let throttle = Throttle::new(asked.rate);
    let done = way.keep_at(shared, |carrier, name, moved| {
        let hello = way.hello(Role::Pull, name, wanted.clone(), range);
        let peer = carrier.peer().to_string();
        let mut opened = 0;
        let mut copy = |number: u32| -> Result<(LogCopy, CopyOptions)> {
            opened += 1;
            let number = i32::try_from(number).unwrap_or(i32::MAX);
            // Two partitions of a topic do not fit into one.
            let to = dest_of(shared.host.as_ref(), &dest, number, opened == 1)?;
            let log = LogCopy::new(&shared.host, &to, asked.open.clone(), &peer);
            Ok((log, asked.copy.clone()))
        };
        let opens = Opens {
            sources: Vec::new(),
            copy: &mut copy,
        };
        let job = Job::Pull(hello, opens);
        let telling = Telling(&teller, moved);
        let host = shared.host.as_ref();
        drive::run(host, carrier, job, Limits::default(), &throttle, &telling)
    });
    drop(teller);
    let topic = Partition::at(&dest).topic;
    end(ctx, done?, &way.shown(), &topic, began)
}

/// The partitions of `-p`; none if it is not given.
fn wanted(m: &ArgMatches) -> Result<Vec<u32>> {
    let Some(list) = args::partitions(m)? else {
        return Ok(Vec::new());
    };
    let all = 0..i32::from(wire::PARTITION_MAX);
    let all = all.filter(|n| list.contains(*n));
    let all: Vec<u32> = all.filter_map(|n| u32::try_from(n).ok()).collect();
    match all.len() > MOST_WANTED {
        true => Err(Error::usage("-p: name fewer partitions, of another host")),
        false => Ok(all),
    }
}

/// Most partitions that are named one by one to a peer.
const MOST_WANTED: usize = 10_000;

/// Tells what came of it.
fn end(
    ctx: &mut Context,
    done: drive::Outcome,
    peer: &str,
    topic: &str,
    began: Instant,
) -> Result<Outcome> {
    // What all partitions have met is told once.
    let mut told: Vec<String> = Vec::new();
    for (_, error) in done.errors {
        let error = error.at_path(peer);
        if !told.contains(&error.to_string()) {
            told.push(error.to_string());
            ctx.fail(&error);
        }
    }
    let rows = done.reports.into_iter();
    let rows: Vec<Row> = rows.map(|(n, r)| (format!("{topic}-{n}"), r)).collect();
    if done.stopped && rows.is_empty() {
        return Ok(super::by_signal());
    }
    finish(ctx, &rows, began)
}
