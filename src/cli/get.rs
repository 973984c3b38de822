//! `logd get`: records by key or by offset.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{Context, Outcome, args, reading};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Limits;
use crate::ops::cat::{self, CatOptions};
use crate::ops::emit::{Emitter, Flow, Sink};
use crate::ops::get::{GetOptions, Getter, Told};
use crate::ops::topic::Partition;
use crate::ops::words::{self, Pos};

const EXAMPLES: &str = "\
Examples:
  logd get -k u42 logs/users
  logd get -k u42 --all -F '%D %s\\n' logs/users
  logd get -F json logs/orders-0 4096 5000..5010
  state=$(logd get -k feature-x --at @2026-11-01 logs/flags) || state=off";

const LONG: &str = "\
With -k, prints the newest value of each key, in the order in which the keys are given. A key that
is missing, or whose newest record is a tombstone, prints nothing, and the exit status is 1 in the
end; the others are printed all the same. --all prints every version of a key, tombstones too,
newest first (of a topic one partition after the other), and exits 1 for a key without any. --at
answers as of a place: what lies before it.

All partitions of a topic are searched (-p narrows). Where several hold the key, the record with the
largest timestamp is the newest; of equal ones that of the larger partition number.

Without -k it prints ranges of offsets: one record for a lone POS (the next one, if that offset is
gone), all of A..B. An operand for which there is no record makes the exit status 1.

Segments with an index by key (logd index --by key) cost one look each; all others are read, newest
first, until the key is found. The answer never depends on an index.";

/// The definition.
pub fn command() -> Command {
    Command::new("get")
        .long_about(LONG)
        .arg(args::key("The newest value of this key; repeatable").action(ArgAction::Append))
        .arg(args::switch("all", "Every version of each key, newest first").requires("key"))
        .arg(args::option("at", "POS", "As of then: what lies before this place").requires("key"))
        .args(args::format())
        .arg(args::option(
            "columns",
            "LIST",
            "Columns of csv and tsv: offset,ts,key,value,topic,partition,headers",
        ))
        .arg(args::switch(
            "nest",
            "Print a value that is JSON as value_json (-F json)",
        ))
        .arg(args::raw())
        .arg(args::partition())
        .arg(args::isolation())
        .arg(args::clamp())
        .arg(args::switch(
            "skip-corrupt",
            "Go on behind damaged batches; exit 65 at the end",
        ))
        .args(args::durable())
        .arg(args::timeout())
        .arg(args::log_anywhere())
        .arg(ranges())
        .after_help(EXAMPLES)
}

fn ranges() -> Arg {
    args::operand("range", "RANGE")
        .num_args(0..)
        .allow_hyphen_values(false)
        .help("Offsets: 4096, 5000..5010, end-1")
}

/// Runs it.
///
/// # Errors
/// The first thing that cannot be told and passed over.
pub fn run(ctx: &mut Context, m: &ArgMatches) -> Result<Outcome> {
    let keys: Vec<OsString> = args::os_all(m, "key").into_iter().map(Into::into).collect();
    let ranges = args::os_all(m, "range");
    match (keys.is_empty(), ranges.is_empty()) {
        (true, true) => {
            let log = args::os(m, "log").unwrap_or_default().to_string_lossy();
            return Err(
                Error::usage("what to get is missing: -k KEY, or offsets").hint(format!(
                    "logd get -k KEY {log}            (all of it: logd cat {log})"
                )),
            );
        }
        (false, false) => {
            let why = "keys and offsets exclude each other";
            return Err(Error::usage(why).hint("logd cat -k KEY -o RANGE LOG"));
        }
        _ => {}
    }
    let now = ctx.now();
    let ranges = ranges.into_iter().map(|word| {
        let text = word.to_str();
        let text = text.ok_or_else(|| Error::usage("a range of offsets is text"))?;
        words::Range::parse(text, &now)
    });
    let ranges: Vec<words::Range> = ranges.collect::<Result<_>>()?;
    let at = args::word(m, "at", |w| Pos::parse(w, &now))?;
    let mut emitter = reading::emitter(ctx, m, None)?;
    let select = args::partitions(m)?;
    let log = args::os(m, "log").unwrap_or_default().to_os_string();
    let partitions = ctx.resolve(&log, select.as_ref())?;
    for partition in &partitions {
        reading::wait_for(ctx, m, partition)?;
    }
    let mut found = Found::default();
    let read = match keys.is_empty() {
        true => offsets(ctx, m, &partitions, &ranges, &mut emitter, &mut found),
        false => {
            let options = GetOptions {
                at,
                clamp: args::flag(m, "clamp"),
                isolation: reading::isolation(m),
                durable: args::flag(m, "durable"),
                skip_corrupt: args::flag(m, "skip-corrupt"),
                limits: Limits::default(),
            };
            let all = args::flag(m, "all");
            by_key(
                ctx,
                &partitions,
                &options,
                &keys,
                all,
                &mut emitter,
                &mut found,
            )
        }
    };
    if let Err(e) = read {
        match e.kind() {
            ErrorKind::ClosedPipe | ErrorKind::Usage => return Err(e),
            _ => ctx.fail(&e),
        }
    }
    reading::tell_newlines(ctx, &emitter);
    Ok(match found {
        Found { losses: true, .. } => Outcome::Losses,
        Found { missing: true, .. } => Outcome::No,
        _ => Outcome::Done,
    })
}

/// What there is to say at the end.
#[derive(Default)]
struct Found {
    /// Something asked for was not there.
    missing: bool,
    /// Damage was passed.
    losses: bool,
}

/// Has `get` print to stdout. What it found before an error is good, and goes out before that is told.
fn print(
    ctx: &mut Context,
    emitter: &mut Emitter,
    get: impl FnOnce(&mut Context, &mut Emitter, &mut dyn Sink) -> Result<()>,
) -> Result<()> {
    let mut stdout = std::mem::take(&mut ctx.stdout);
    let mut sink = reading::Out::new(&mut stdout);
    let got = get(ctx, emitter, &mut sink);
    let flushed = emitter.flush(&mut sink);
    ctx.stdout = stdout;
    flushed?;
    ctx.stdout.flush_now()?;
    got
}

fn by_key(
    ctx: &mut Context,
    partitions: &[Partition],
    options: &GetOptions,
    keys: &[OsString],
    all: bool,
    emitter: &mut Emitter,
    found: &mut Found,
) -> Result<()> {
    let host = ctx.host.clone();
    print(ctx, emitter, |ctx, emitter, sink| {
        let mut tell = |told| match told {
            Told::Note(note) => found.losses |= reading::tell(ctx, &note),
            Told::Index(e) => ctx
                .message
                .explain(|| format!("{e}; the segment is read instead")),
        };
        let mut getter = Getter::open(&host, partitions, options, &mut tell)?;
        let keys: Vec<&[u8]> = keys.iter().map(|k| k.as_bytes()).collect();
        match &keys[..] {
            [key] if !all => found.missing = !getter.newest(key, emitter, sink, &mut tell)?,
            keys if !all => found.missing = !getter.newest_each(keys, emitter, sink, &mut tell)?,
            keys => {
                for key in keys {
                    found.missing |= !getter.all(key, emitter, sink, &mut tell)?;
                }
            }
        }
        Ok(())
    })
}

fn offsets(
    ctx: &mut Context,
    m: &ArgMatches,
    partitions: &[Partition],
    ranges: &[words::Range],
    emitter: &mut Emitter,
    found: &mut Found,
) -> Result<()> {
    let options = reading::cat_options(ctx, m)?;
    let host = ctx.host.clone();
    print(ctx, emitter, |ctx, emitter, sink| {
        let mut note = |n| found.losses |= reading::tell(ctx, &n);
        for range in ranges {
            let mut shown = 0;
            for partition in partitions {
                let limit = if range.lone { 1 } else { u64::MAX };
                emitter.set_left(limit);
                let options = CatOptions {
                    range: *range,
                    ..options.clone()
                };
                let flow = cat::cat(&host, partition, &options, emitter, sink, &mut note)?;
                shown += limit - emitter.left();
                if flow == Flow::Full && !range.lone {
                    return Ok(());
                }
            }
            found.missing |= shown == 0;
        }
        Ok(())
    })
}
