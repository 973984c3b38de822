//! `logd replicate`: a log kept equal to another.

use super::append::sync_when;
use super::maintain::tell_lost;
use super::progress::Progress;
use super::table::{self, Cell};
use super::{Context, Outcome, args};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Limits;
use crate::log::copy::CopyOptions as OpenOptions;
use crate::ops::append::SyncWhen;
use crate::ops::replicate::copy::CopyOptions;
use crate::ops::replicate::local::{self, Report, Watcher};
use crate::ops::replicate::log_copy::LogCopy;
use crate::ops::replicate::names::Served;
use crate::ops::replicate::source::{Note, SourceOptions};
use crate::ops::replicate::{dest_of, open_source, refuse_same, stream};
use crate::ops::throttle::Throttle;
use crate::ops::topic::Partition;
use crate::ops::words::{self, LogName};
use crate::sys::pipe::{StreamKind, stream_kind};
use crate::sys::signals;
use clap::{ArgMatches, Command};
use serve::Server;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

mod elsewhere;
pub(super) mod serve;

const EXAMPLES: &str = "\
Examples:
  logd replicate logs/orders backup/orders
  logd replicate -f --delete logs/orders /mnt/spare/orders
  */5 * * * *  logd replicate --skip-if-locked ~/logs/orders backup1:logs/orders
  logd replicate -f web1:logs/orders logs/orders
  logd replicate -f logs/orders tcp://dr1:9440/orders --tls-cert me.pem --tls-key me.key --tls-ca ca.pem
  logd replicate logs/orders - | zstd | ssh vault 'zstd -d | logd replicate - logs/orders'";

const LONG: &str = "\
Copies what DEST lacks and stops; -f goes on as SRC grows. Batches travel as they are stored: same
offsets, same bytes, same segments, so DEST's .log files are equal to SRC's. Every batch is checked
before it is written. SRC is synced first, and only what is durable there and below the first open
transaction is sent, so a copy never holds what its source can still lose.

DEST is made if it is not there. It becomes a copy: it takes no appends (77) until logd promote. A
partition is copied to DEST, or to DEST-N if DEST is no name of a partition; a topic to the topic DEST.

What DEST has already is compared first. A log that is no prefix of SRC is refused (65) with the first
offset that differs, and nothing is written; --truncate-divergent cuts it to what is common and keeps
the rest in its .logd/lost+found. In ranges that compact, redact or repair changed on either side the
records that both still have must be equal. If SRC has removed what DEST would need next, one run
ends (66); with -f, or --clamp, the gap is told and the copy goes on behind it.

HOST:LOG is reached through ssh, which runs logd there; tcp://HOST:PORT/NAME is a logd that listens. A
connection that breaks is made anew, and the copy goes on where it is. Exit 69 is for a host that could
not be reached for as long as --retry-for says.

--listen ADDR LOG... takes connections and receives into each LOG, which peers call by its last path
part; --read-only serves them to those who pull instead. Beyond this machine both sides show certificates
that --tls-ca has signed. --stdio DIR is for authorized_keys: command=\"logd replicate --stdio DIR\",restrict.

- is a stream to be carried by hand: logd replicate SRC - writes it, logd replicate - DEST reads it,
compares what overlaps with what DEST has, and appends the rest.";

/// The definition.
pub fn command() -> Command {
    Command::new("replicate")
        .long_about(LONG)
        .arg(args::follow())
        .arg(args::from_offset())
        .arg(args::clamp())
        .arg(args::switch(
            "delete",
            "Let the copy forget what the source has forgotten",
        ))
        .arg(args::switch(
            "truncate-divergent",
            "Cut a DEST that differs to what is common",
        ))
        .arg(args::sync())
        .arg(args::rate())
        .arg(args::partition())
        .args(elsewhere::options_of())
        .arg(args::option(
            "listen",
            "ADDR",
            "Take connections there, and receive into the LOGs named; beyond this machine only with --tls-cert",
        ))
        .arg(
            args::switch("read-only", "With --listen or --stdio: serve those who pull, and nobody else"),
        )
        .arg(
            args::option(
                "stdio",
                "DIR",
                "The forced command of an ssh key: serve replicate and the reading commands below DIR",
            )
            .value_parser(clap::value_parser!(std::ffi::OsString))
            .conflicts_with("listen"),
        )
        .arg(args::switch("peer", "For another logd").hide(true))
        .args(args::waiting())
        .arg(args::allow_network_fs())
        .arg(args::json())
        .arg(
            args::operand("src", "SRC")
                .required_unless_present_any(["stdio", "peer"])
                .help("The log to copy: a LOG, HOST:LOG, tcp://HOST:PORT/NAME, or -"),
        )
        .arg(
            args::operand("dest", "DEST")
                .required_unless_present_any(["listen", "stdio", "peer"])
                .help("The copy: a LOG, HOST:LOG, tcp://HOST:PORT/NAME, or -"),
        )
        .arg(args::operand("more", "LOG").num_args(0..).hide(true))
        .after_help(EXAMPLES)
}

/// What the options say.
pub(super) struct Asked {
    source: SourceOptions,
    copy: CopyOptions,
    open: OpenOptions,
    range: words::Range,
    rate: Option<u64>,
}

/// Replicates.
pub fn run(ctx: &mut Context, m: &ArgMatches) -> Result<Outcome> {
    let asked = asked(ctx, m)?;
    if let Some(dir) = args::os(m, "stdio") {
        let dir = dir.to_owned();
        return super::forced::run(ctx, m, &asked, &dir);
    }
    if args::flag(m, "peer") {
        let served = Served::Anything(ctx.base.clone());
        let server = Server::through_ssh(ctx, served, &asked, true);
        return serve::stdio(ctx, &server);
    }
    if let Some(at) = args::text(m, "listen") {
        signals::install().map_err(|e| Error::io("cannot handle signals", e))?;
        return serve::listen(ctx, m, &asked, at);
    }
    if args::os(m, "more").is_some() {
        return Err(Error::usage("one operand too many").hint("logd replicate --help"));
    }
    let (src, dest) = (
        args::os(m, "src").unwrap_or_default().to_owned(),
        args::os(m, "dest").unwrap_or_default().to_owned(),
    );
    signals::install().map_err(|e| Error::io("cannot handle signals", e))?;
    match (LogName::parse(&src)?, LogName::parse(&dest)?) {
        (LogName::Local(_), LogName::Local(_)) => here(ctx, m, &asked, &src, &dest),
        (LogName::Local(_), LogName::Stdio) => export(ctx, m, &asked, &src),
        (LogName::Stdio, LogName::Local(_)) => import(ctx, m, &asked, &dest),
        (LogName::Stdio, LogName::Stdio) => {
            Err(Error::usage("-: a stream into a stream is what cat is for"))
        }
        (LogName::Local(_), elsewhere) => elsewhere::push(ctx, m, &asked, &src, elsewhere),
        (elsewhere, LogName::Local(_)) => elsewhere::pull(ctx, m, &asked, elsewhere, &dest),
        _ => Err(Error::usage(
            "one of the two logs has to be on this machine",
        )),
    }
}

fn asked(ctx: &Context, m: &ArgMatches) -> Result<Asked> {
    let limits = Limits::default();
    let sync = match args::word(m, "sync", sync_when)? {
        Some(sync) => sync,
        None => serve::SYNC,
    };
    Ok(Asked {
        source: SourceOptions {
            follow: args::flag(m, "follow"),
            truncate: args::flag(m, "truncate-divergent"),
            clamp: args::flag(m, "clamp"),
            ..SourceOptions::default()
        },
        copy: CopyOptions {
            sync,
            delete: args::flag(m, "delete"),
            truncate: args::flag(m, "truncate-divergent"),
            one_way: false,
            limits,
        },
        open: OpenOptions {
            create: None,
            wait: args::duration(m, "wait", "s")?.unwrap_or(Duration::ZERO),
            allow_network_fs: args::flag(m, "allow-network-fs"),
            zero_fill: sync == SyncWhen::Batch,
            limits,
            command: "logd replicate".to_string(),
        },
        range: args::range(m, "from-offset", &ctx.now())?.unwrap_or(words::Range::ALL),
        rate: args::size(m, "rate")?,
    })
}

/// Tells how far one partition is, from whichever thread.
struct Teller<'a> {
    ctx: &'a Context,
    name: String,
    progress: Mutex<Option<Progress>>,
}

impl<'a> Teller<'a> {
    fn new(ctx: &'a Context, name: String) -> Teller<'a> {
        let progress = Mutex::new(None);
        Teller {
            ctx,
            name,
            progress,
        }
    }
}

impl Watcher for Teller<'_> {
    fn begins(&self, bytes: u64) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        *progress = Some(Progress::new(self.ctx, Some(bytes)));
    }

    fn stored(&self, bytes: u64) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(progress) = &mut *progress {
            progress.advance(bytes, 0);
        }
    }

    fn note(&self, note: Note) {
        let name = &self.name;
        self.ctx.message.warn(match note {
            Note::Lost(r) => format!(
                "{name}: offsets {} to {} were removed at the source before the copy had them",
                r.start,
                r.end.0 - 1
            ),
            Note::Cut(at) => format!(
                "{name}: cut at offset {at}, where it differed; what was cut is in .logd/lost+found"
            ),
        });
    }
}

/// From directory to directory.
fn here(
    ctx: &mut Context,
    m: &ArgMatches,
    asked: &Asked,
    src: &OsStr,
    dest: &OsStr,
) -> Result<Outcome> {
    let partitions = ctx.resolve(src, args::partitions(m)?.as_ref())?;
    let dest = ctx.path(dest)?;
    let mut pairs = Vec::new();
    for p in partitions {
        // A topic of one partition stays a topic.
        let alone = same_path(&p.path, &ctx.path(src)?);
        let to = dest_of(ctx.host.as_ref(), &dest, p.number, alone)?;
        refuse_same(ctx.host.as_ref(), &p.path, &to)?;
        pairs.push((p, to));
    }
    let began = Instant::now();
    let reports = match asked.source.follow && pairs.len() > 1 {
        true => all_at_once(ctx, asked, &pairs),
        false => one_by_one(ctx, asked, &pairs),
    };
    finish(ctx, &reports?, began)
}

fn same_path(a: &Path, b: &Path) -> bool {
    a.components().eq(b.components())
}

/// A partition's name and what came of it.
type Row = (String, Report);

fn one_by_one(
    ctx: &mut Context,
    asked: &Asked,
    pairs: &[(Partition, PathBuf)],
) -> Result<Vec<Row>> {
    let mut reports = Vec::new();
    for (p, to) in pairs {
        match one(ctx, asked, p, to) {
            Ok(report) => {
                reports.push((Partition::at(to).name(), report));
                if report.stopped {
                    break;
                }
            }
            Err(e) => ctx.fail(&e),
        }
    }
    Ok(reports)
}

/// Every partition of a topic, each on threads of its own: none waits for another.
fn all_at_once(
    ctx: &mut Context,
    asked: &Asked,
    pairs: &[(Partition, PathBuf)],
) -> Result<Vec<Row>> {
    let shared: &Context = ctx;
    let results: Vec<Result<Row>> = std::thread::scope(|scope| {
        let start = |(p, to): &'_ (Partition, PathBuf)| {
            let (p, to) = (p.clone(), to.clone());
            scope.spawn(move || {
                let report = one(shared, asked, &p, &to)?;
                Ok((Partition::at(&to).name(), report))
            })
        };
        let running: Vec<_> = pairs.iter().map(start).collect();
        let crashed = |_| Err(Error::new(ErrorKind::Bug, "a thread ended"));
        running
            .into_iter()
            .map(|t| t.join().unwrap_or_else(crashed))
            .collect()
    });
    let mut reports = Vec::new();
    for result in results {
        match result {
            Ok(row) => reports.push(row),
            Err(e) => ctx.fail(&e),
        }
    }
    Ok(reports)
}

fn one(ctx: &Context, asked: &Asked, p: &Partition, to: &Path) -> Result<Report> {
    let shown = to.display().to_string();
    let place = |e: Error| e.at_path(to);
    let (log, from, upto) = open_source(&ctx.host, p, &asked.range, asked.source.clamp, &shown)?;
    let options = SourceOptions {
        from,
        upto,
        ..asked.source.clone()
    };
    let name = p.path.display().to_string();
    let copy = LogCopy::new(&ctx.host, to, asked.open.clone(), &name);
    let teller = Teller::new(ctx, shown);
    let throttle = Throttle::new(asked.rate);
    let report = local::replicate(
        &ctx.host,
        log,
        copy,
        &options,
        &asked.copy,
        &throttle,
        &teller,
        &mut |lost| tell_lost(ctx, to, &lost),
    );
    report.map_err(place)
}

/// Writes a stream.
fn export(ctx: &mut Context, m: &ArgMatches, asked: &Asked, src: &OsStr) -> Result<Outcome> {
    if ctx.stdout.is_terminal() {
        let why = "a stream of batches is nothing for a terminal";
        return Err(Error::usage(why).hint("logd replicate SRC - > FILE"));
    }
    let partitions = ctx.resolve(src, args::partitions(m)?.as_ref())?;
    let numbers = partitions
        .iter()
        .map(|p| u32::try_from(p.number).unwrap_or(0));
    let numbers: Vec<u32> = numbers.collect();
    let topic = partitions
        .first()
        .map(|p| p.topic.clone())
        .unwrap_or_default();
    // Not through the buffer of Rust's own stdout, which would copy everything.
    let out = io::stdout().as_fd().try_clone_to_owned();
    let mut out = File::from(out.map_err(|e| Error::io("cannot write to stdout", e))?);
    stream::greet(&mut out, &topic, &numbers)?;
    let throttle = Throttle::new(asked.rate);
    let mut stopped = false;
    for p in &partitions {
        let (log, from, upto) = open_source(&ctx.host, p, &asked.range, asked.source.clamp, "-")?;
        let options = SourceOptions {
            from,
            upto,
            ..asked.source.clone()
        };
        let channel = u16::try_from(p.number).unwrap_or(0);
        let teller = Teller::new(ctx, p.name());
        stopped = stream::send(&mut out, channel, log, &options, &throttle, &teller)?.stopped;
        if stopped {
            break;
        }
    }
    Ok(if stopped { by_signal() } else { Outcome::Done })
}

/// Reads a stream.
fn import(ctx: &mut Context, m: &ArgMatches, asked: &Asked, dest: &OsStr) -> Result<Outcome> {
    let input = io::stdin();
    if let Ok((StreamKind::Terminal, _)) = stream_kind(input.as_fd()) {
        return Err(Error::usage("-: a stream is not typed").hint("logd replicate - DEST < FILE"));
    }
    let select = args::partitions(m)?;
    if select.is_some() {
        return Err(Error::usage("-p: a stream holds what it holds"));
    }
    let dest = ctx.path(dest)?;
    let began = Instant::now();
    let shown: &Context = ctx;
    let teller = Teller::new(shown, dest.display().to_string());
    let mut input = io::stdin().lock();
    let reports = stream::receive(
        &mut input,
        &asked.copy,
        &mut |hello, number| {
            let number = i32::try_from(number).unwrap_or(i32::MAX);
            let alone = hello.partitions.len() == 1;
            let to = dest_of(shown.host.as_ref(), &dest, number, alone)?;
            Ok(LogCopy::new(
                &shown.host,
                &to,
                asked.open.clone(),
                &hello.name,
            ))
        },
        &teller,
    );
    drop(teller);
    let reports = reports.map_err(|e| e.at_path(&dest))?;
    let rows: Vec<Row> = reports
        .into_iter()
        .map(|(n, r)| (format!("{}-{n}", dest.display()), r))
        .collect();
    finish(ctx, &rows, began)
}

fn by_signal() -> Outcome {
    let signal = signals::stop_requested().unwrap_or(0);
    Outcome::Signal(u8::try_from(signal).unwrap_or(0))
}

/// Tells what was done.
fn finish(ctx: &mut Context, reports: &[Row], began: Instant) -> Result<Outcome> {
    if ctx.json {
        let row = |(name, r): &Row| {
            vec![
                Cell::Text(name.clone()),
                Cell::Number(r.from.0),
                Cell::Number(r.end.0),
                Cell::Number(r.durable.0),
                Cell::Bytes(r.bytes),
            ]
        };
        let rows: Vec<Vec<Cell>> = reports.iter().map(row).collect();
        table::print(ctx, &["name", "from", "end", "durable", "bytes"], &rows)?;
    }
    let records: i64 = reports.iter().map(|(_, r)| (r.end - r.from).max(0)).sum();
    let bytes: u64 = reports.iter().map(|(_, r)| r.bytes).sum();
    let rate = bytes as f64 / began.elapsed().as_secs_f64().max(0.001);
    let says = || {
        format!(
            "{records} offsets, {} copied, {}/s",
            table::human_bytes(bytes),
            table::human_bytes(rate as u64)
        )
    };
    if reports.iter().any(|(_, r)| r.stopped) {
        let ends = reports
            .iter()
            .map(|(n, r)| format!("{n} ends at offset {}, durable up to {}", r.end, r.durable));
        let ends: Vec<String> = ends.collect();
        ctx.message
            .note(format!("stopped: {}; {}", says(), ends.join(", ")));
        return Ok(by_signal());
    }
    ctx.message.summary(says);
    Ok(Outcome::Done)
}
