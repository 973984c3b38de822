//! What the commands that print records share: their options, and stdout as a place where output
//! goes.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches};

use super::stdio::Stdout;
use super::{Context, args};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Limits, Offset};
use crate::log::groups;
use crate::log::isolation::Isolation;
use crate::log::members::Name;
use crate::ops::cat::{CatOptions, Note};
use crate::ops::consume::{GroupOptions, Start};
use crate::ops::emit::{EmitOptions, Emitter, Sink};
use crate::ops::output::table::TableColumn;
use crate::ops::output::{Format, FormatOptions};
use crate::ops::select::{Part, Selection};
use crate::ops::tail::{self, Ended, TailOptions};
use crate::ops::topic::Partition;
use crate::ops::{wait, words};
use crate::sys::watch::{Wake, Watch};
use crate::sys::{pipe, signals};

/// How often a follower stores how far its group came.
const COMMIT_EVERY: Duration = Duration::from_secs(5);

/// Options that choose and show records.
pub fn options() -> Vec<Arg> {
    let mut options = vec![
        args::from_offset(),
        args::limit(),
        args::key("Only records with this key"),
        args::header("Only records with this header; repeatable"),
        args::partition(),
        args::isolation(),
        args::timeout(),
        args::clamp(),
        args::raw(),
        args::switch("keys-only", "Print the key in place of the value"),
        args::switch("headers-only", "Print the headers in place of the value")
            .conflicts_with("keys-only"),
        args::switch("no-tombstones", "Leave out records without a value"),
        args::option(
            "sample",
            "SHARE",
            "About this share of the records: 1%, the same each time",
        )
        .allow_hyphen_values(false),
        args::switch("nest", "Print a value that is JSON as value_json (-F json)"),
        args::option(
            "columns",
            "LIST",
            "Columns of csv and tsv: offset,ts,key,value,topic,partition,headers",
        ),
        args::switch(
            "skip-corrupt",
            "Go on behind damaged batches; exit 65 at the end",
        ),
    ];
    options.extend(args::format());
    options.extend(args::durable());
    options
}

/// Options of reading in the name of a group.
pub fn group_options() -> Vec<Arg> {
    let start = args::option(
        "start",
        "WHERE",
        "Where a new group starts: earliest, latest",
    );
    vec![
        args::group(),
        start
            .value_parser(["earliest", "latest"])
            .hide_possible_values(true),
        args::switch(
            "no-commit",
            "Mark what was read; logd groups commit confirms it",
        ),
        args::allow_network_fs(),
    ]
}

/// How to read in the name of the group that `-g` names, if it does. `command` is what others are told;
/// `log` the operand, whose `partitions` are shared if they are all of a topic.
///
/// # Errors
/// `Usage` for words that do not go together.
pub fn group(
    ctx: &Context,
    m: &ArgMatches,
    command: &str,
    log: &OsStr,
    partitions: &[Partition],
) -> Result<Option<GroupOptions>> {
    let Some(name) = args::text(m, "group") else {
        let of_group = |id: &&str| args::flag(m, id) || args::text(m, id).is_some();
        return match ["start", "no-commit", "commit-every"]
            .iter()
            .find(|id| of_group(id))
        {
            Some(id) => Err(Error::usage(format!("--{id}: only with -g GROUP"))),
            None => Ok(None),
        };
    };
    let all = args::text(m, "partition").is_none();
    groups::check_name(name).map_err(|e| words::in_option("--group", e))?;
    let range = args::range(m, "from-offset", &ctx.now())?;
    if range.is_some_and(|r| r.from.is_some()) {
        let why = "-o: with -g reading starts where the group is; only an end may be given";
        let log = log.to_string_lossy();
        return Err(Error::usage(why).hint(format!("logd groups seek {log} {name} POS")));
    }
    if args::flag(m, "reverse") {
        return Err(Error::usage("--reverse: a group reads forward"));
    }
    Ok(Some(GroupOptions {
        name: Name {
            group: name.to_string(),
            command: format!("logd {command}"),
            allow_network_fs: args::flag(m, "allow-network-fs"),
        },
        start: match args::text(m, "start") {
            Some("latest") => Start::Latest,
            _ => Start::Earliest,
        },
        no_commit: args::flag(m, "no-commit"),
        commit_every: match m.try_contains_id("commit-every") {
            Ok(_) => args::duration(m, "commit-every", "s")?.unwrap_or(COMMIT_EVERY),
            Err(_) => COMMIT_EVERY,
        },
        as_member: topic(ctx, log, all, partitions)?.is_some(),
        wait: args::duration(m, "wait", "s")?.unwrap_or_default(),
    }))
}

/// Refuses what only goes with `-g`.
///
/// # Errors
/// `Usage`.
pub fn refuse_group_words(m: &ArgMatches) -> Result<()> {
    let given = |id: &&str| args::flag(m, id) || args::text(m, id).is_some();
    match ["start", "no-commit", "commit-every", "wait"]
        .iter()
        .find(|id| given(id))
    {
        Some(id) => Err(Error::usage(format!("--{id}: only with -g GROUP"))),
        None => Ok(()),
    }
}

/// The emitter that the options ask for.
///
/// # Errors
/// `Usage` for words that cannot be understood or do not go together.
pub fn emitter(ctx: &Context, m: &ArgMatches, limit: Option<u64>) -> Result<Emitter> {
    emitter_of(ctx, m, &format(m)?, selection(m)?, limit)
}

/// The format asked for.
///
/// # Errors
/// `Usage` for a word that is none.
pub fn format(m: &ArgMatches) -> Result<Format> {
    match args::flag(m, "nul") {
        true => Ok(Format::Nul),
        false => Ok(args::word(m, "format", Format::parse)?.unwrap_or(Format::Lines)),
    }
}

/// As [`emitter`], with a format and a selection that are not those of the options.
///
/// # Errors
/// As [`emitter`].
pub fn emitter_of(
    ctx: &Context,
    m: &ArgMatches,
    format: &Format,
    selection: Selection,
    limit: Option<u64>,
) -> Result<Emitter> {
    let raw = args::flag(m, "raw");
    let terminal = ctx.stdout.is_terminal() && !raw;
    if terminal && format.is_binary() {
        return Err(
            Error::usage(format!("-F {}: binary output to a terminal", format.name()))
                .hint("redirect it, or say --raw"),
        );
    }
    let columns = args::word(m, "columns", TableColumn::parse_list)?.unwrap_or_default();
    let part = match (args::flag(m, "keys-only"), args::flag(m, "headers-only")) {
        (true, _) => Part::Key,
        (_, true) => Part::Headers,
        _ => Part::Whole,
    };
    if part != Part::Whole && *format == Format::Batch {
        return Err(Error::usage(
            "-F batch copies batches as stored, not parts of records",
        ));
    }
    let options = EmitOptions {
        format: FormatOptions {
            nest: args::flag(m, "nest"),
            columns,
            visible: terminal,
        },
        selection,
        part,
        limit,
        reverse: args::flag(m, "reverse"),
        speed: speed(m)?,
        limits: Limits::default(),
    };
    let mut emitter = Emitter::new(format, options)?;
    if ctx.caller.after {
        emitter.go_on();
    }
    Ok(emitter)
}

/// The records that the options choose.
///
/// # Errors
/// `Usage`.
pub fn selection(m: &ArgMatches) -> Result<Selection> {
    let headers = args::os_all(m, "header").into_iter().map(|pair| {
        let bytes = pair.as_bytes();
        match memchr::memchr(b'=', bytes) {
            Some(at) => Ok((bytes[..at].to_vec(), bytes[at + 1..].to_vec())),
            None => Err(Error::usage(format!(
                "-H {}: not NAME=VALUE",
                pair.to_string_lossy()
            ))),
        }
    });
    Ok(Selection {
        key: args::os(m, "key").map(|k| k.as_bytes().to_vec()),
        headers: headers.collect::<Result<_>>()?,
        no_tombstones: args::flag(m, "no-tombstones"),
        sample: args::word(m, "sample", words::fraction)?,
    })
}

/// `--speed X`, where a command has it.
fn speed(m: &ArgMatches) -> Result<Option<f64>> {
    if m.try_contains_id("speed").is_err() {
        return Ok(None);
    }
    args::word(m, "speed", |word| {
        match word.trim_end_matches('x').parse::<f64>() {
            Ok(x) if x.is_finite() && x > 0.0 => Ok(x),
            _ => Err(Error::usage(format!(
                "{word}: a speed is a number above 0 (1 is real time)"
            ))
            .hint("10")),
        }
    })
}

/// `--isolation`.
pub fn isolation(m: &ArgMatches) -> Isolation {
    match args::text(m, "isolation") {
        Some("uncommitted") => Isolation::Uncommitted,
        _ => Isolation::Committed,
    }
}

/// What to read, by the options.
///
/// # Errors
/// `Usage`.
pub fn cat_options(ctx: &Context, m: &ArgMatches) -> Result<CatOptions> {
    Ok(CatOptions {
        range: args::range(m, "from-offset", &ctx.now())?.unwrap_or(words::Range::ALL),
        clamp: args::flag(m, "clamp"),
        isolation: isolation(m),
        durable: args::flag(m, "durable"),
        skip_corrupt: args::flag(m, "skip-corrupt"),
        reverse: args::flag(m, "reverse"),
        limits: Limits::default(),
    })
}

/// Waits, if `--wait-for` says so, until a partition has reached that offset.
///
/// # Errors
/// `Timeout` when `--timeout` passes first; else what reading may meet.
pub fn wait_for(ctx: &Context, m: &ArgMatches, partition: &Partition) -> Result<()> {
    let Some(word) = args::text(m, "wait-for") else {
        return Ok(());
    };
    let wanted: i64 = word.parse().map_err(|_| {
        Error::usage(format!("--wait-for {word}: not an offset")).hint("--wait-for 4096")
    })?;
    let durable = args::flag(m, "durable");
    let out = std::io::stdout();
    let (wanted, out) = (Offset(wanted), Some(out.as_fd()));
    wait::until(&ctx.host, partition, wanted, durable, ctx.deadline, out)
}

/// Runs [`tail::tail`] with stdout, and says what is to be said of its output; `losses` tells whether
/// data was skipped.
///
/// # Errors
/// As [`tail::tail`].
pub fn run_tail(
    ctx: &mut Context,
    partitions: Vec<Partition>,
    options: &TailOptions,
    emitter: &mut Emitter,
    losses: &mut bool,
) -> Result<Ended> {
    let host = ctx.host.clone();
    let mut stdout = std::mem::take(&mut ctx.stdout);
    let mut sink = Out::new(&mut stdout);
    let mut note = |n| *losses |= tell(ctx, &n);
    let out = std::io::stdout();
    let fd = Some(out.as_fd());
    let ended = tail::tail(
        &host, partitions, options, emitter, &mut sink, &mut note, fd,
    );
    let flushed = emitter.flush(&mut sink);
    ctx.stdout = stdout;
    let closed = |e: &Error| e.kind() == ErrorKind::ClosedPipe;
    if !ended.as_ref().is_err_and(closed) {
        flushed?;
        ctx.stdout.flush_now()?;
        tell_newlines(ctx, emitter);
    }
    ended
}

/// The topic's path, where new partitions are to be followed: the operand is no partition itself.
///
/// # Errors
/// `Usage`.
pub fn topic(
    ctx: &Context,
    log: &OsStr,
    all: bool,
    partitions: &[Partition],
) -> Result<Option<PathBuf>> {
    let path = ctx.path(log)?;
    let is_partition = partitions.iter().any(|p| p.path == path);
    Ok((all && !is_partition).then_some(path))
}

/// Says what a reading op noted. True if data was skipped.
pub fn tell(ctx: &Context, note: &Note) -> bool {
    match note {
        Note::Damage(damage) => {
            ctx.message.error(&damage.error());
            return true;
        }
        Note::Gone(path, range) => {
            let (start, end) = (range.start, range.end);
            let path = path.display();
            ctx.message.warn(format!(
                "{path}: offsets {start}..{end} were removed by retention before they were read"
            ));
        }
        Note::Open(path, open) => ctx.message.warn_with_hint(
            format!(
                "{}: offset {}: a transaction of producer {} is open; what follows waits for its end",
                path.display(),
                open.offset,
                open.producer_id
            ),
            "--isolation uncommitted shows it",
        ),
        Note::TornTail(path, position) => ctx.message.warn(format!(
            "{}: byte {position}: the host rebooted in the middle of a write; the log ends here",
            path.display()
        )),
        Note::CutBack(path, next) => ctx.message.warn(format!(
            "{}: the log was cut back; going on at offset {next}",
            path.display()
        )),
        Note::Lost(path, lost) => {
            for l in lost {
                ctx.message.warn(format!(
                    "{}: {}: {} bytes from offset {} on were taken out (segment {:020}, byte {})",
                    path.display(), l.reason, l.bytes, l.offset, l.segment.0, l.position
                ));
            }
        }
        Note::Index(e) => ctx
            .message
            .explain(|| format!("{e}; the segment is read instead")),
        Note::NothingDurable(path) => ctx.message.warn(format!(
            "{}: nothing is known to be durable here yet; nothing is shown",
            path.display()
        )),
    }
    false
}

/// Says once that values with newlines were printed as lines.
pub fn tell_newlines(ctx: &Context, emitter: &Emitter) {
    if emitter.saw_newline_in_lines() && !ctx.stdout.is_terminal() {
        ctx.message.warn_with_hint(
            "a value contains a newline, so lines are not records",
            "-F json, nul, csv, frames or batch keep record boundaries",
        );
    }
}

/// Stdout, as large as its pipe can be made.
pub struct Out<'a> {
    stdout: &'a mut Stdout,
    watch: Option<Watch>,
}

impl<'a> Out<'a> {
    /// Takes stdout; a pipe is enlarged, which halves the switches between the two processes.
    pub fn new(stdout: &'a mut Stdout) -> Out<'a> {
        pipe::enlarge(std::io::stdout().as_fd());
        Out {
            stdout,
            watch: None,
        }
    }
}

impl Sink for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stdout.put(bytes)?;
        self.stdout.end_record()
    }

    fn pause(&mut self, time: Duration) -> Result<bool> {
        self.stdout.flush_now()?;
        let until = Instant::now() + time;
        let watch = self.watch.get_or_insert_with(Watch::new);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(true);
            }
            let stdout = std::io::stdout();
            let wake = watch.wait(Some(left), Some(stdout.as_fd()));
            match wake.map_err(|e| Error::io("cannot wait", e))? {
                Wake::ReaderGone => {
                    return Err(Error::new(ErrorKind::ClosedPipe, "the reader is gone"));
                }
                Wake::Interrupted if signals::stop_requested().is_some() => return Ok(false),
                _ => {}
            }
        }
    }
}
