//! `logd split`: one log into several.

use super::table::{self, Cell};
use super::{Context, Outcome, args, reading};
use crate::error::{Error, Result};
use crate::format::Limits;
use crate::log::isolation::Isolation;
use crate::ops::cat::CatOptions;
use crate::ops::settings::{Document, Words};
use crate::ops::split::{self, Hooks, Made, Mode, RollLimits, Settings, SplitOptions};
use crate::ops::topic::Partition;
use crate::ops::words::{self, Field, Pos};
use crate::sys::signals;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use std::num::NonZeroU32;

const EXAMPLES: &str = "\
Examples:
  logd split --partitions 12 logs/orders logs/orders12
  logd split --every 1d logs/access archive/access
  logd split --by json:/tenant -o @-30d.. logs/events tenants/events";

const LONG: &str = "\
DEST must not exist. --partitions makes the topic DEST, with keys where Kafka's clients put them and
records without a key in turn, all partitions of LOG mixed in order of time and numbered anew. Every
other mode makes a topic DEST-PART for each part; a topic is split partition by partition, and the
partitions keep their numbers.

PART is the first offset (--max-size, --max-records, --at), the start of the period (--every, counted
from 1970 in UTC: 2026-11-20, or 2026-11-20T083000Z if it is no whole number of days), or the value
(--by). Bytes of a value that no name may hold become _; two values that then meet are refused (73).
Records without the field, or without a timestamp, go to DEST-_none, those with an empty one to
DEST-_empty.

Records keep their offsets, timestamps and headers, so logd merge --order offset of the parts gives
back the original; --renumber numbers each part from 0. Batches are moved as they are stored where all
of their records go to one part; whole sealed segments are linked, not copied, by --max-size,
--max-records and --at, if nobody with a producer id ever wrote.

What is split is what logd cat shows: committed records up to the first open transaction. Producer ids
stay behind.

The parts are built in DEST.unfinished-0 and get their names when all of them are whole and, with
--sync exit (the default), durable. A failure leaves nothing; what a killed run left, the next one for
the same DEST clears away, or finishes if all was built.";

/// The definition.
pub fn command() -> Command {
    let word = |long, value, help| args::option(long, value, help).allow_hyphen_values(false);
    Command::new("split")
        .long_about(LONG)
        .arg(word(
            "partitions",
            "N",
            "Into a topic of N partitions, by key",
        ))
        .arg(word(
            "by",
            "FIELD",
            "A part for each value: key, header:NAME, json:/POINTER",
        ))
        .arg(word(
            "every",
            "DURATION",
            "A part for each period of record time",
        ))
        .arg(word("max-size", "SIZE", "Parts of at most SIZE"))
        .arg(word("max-records", "N", "Parts of N records"))
        .arg(
            args::option(
                "at",
                "POS",
                "A part from each POS on; repeatable, or with commas",
            )
            .action(ArgAction::Append),
        )
        .group(
            ArgGroup::new("mode")
                .args(["partitions", "by", "every", "max-size", "max-records", "at"])
                .required(true),
        )
        .arg(args::from_offset())
        .arg(args::clamp())
        .arg(args::switch(
            "renumber",
            "Number records from 0 in each part",
        ))
        .arg(word(
            "max-parts",
            "N",
            "Refuse to make more parts [default: 1000]",
        ))
        .arg(sync())
        .arg(args::partition())
        .arg(args::allow_network_fs())
        .arg(args::json())
        .arg(args::log())
        .arg(dest())
        .after_help(EXAMPLES)
}

fn dest() -> Arg {
    args::operand("dest", "DEST")
        .required(true)
        .help("What is made; it must not exist")
}

/// `--sync exit|never`, for commands that show nothing before they are done.
pub(super) fn sync() -> Arg {
    args::option(
        "sync",
        "WHEN",
        "When what is written reaches the disk: exit (default), never",
    )
    .value_parser(["exit", "never"])
    .hide_possible_values(true)
}

/// Splits the log.
pub fn run(ctx: &mut Context, m: &ArgMatches) -> Result<Outcome> {
    let options = options(ctx, m)?;
    let log = args::os(m, "log").unwrap_or_default().to_owned();
    let partitions = ctx.resolve(&log, args::partitions(m)?.as_ref())?;
    let dest = ctx.path(args::os(m, "dest").unwrap_or_default())?;
    signals::install().map_err(|e| Error::io("cannot handle signals", e))?;
    let host = ctx.host.clone();
    let shown: &Context = ctx;
    let mut hooks = Hooks {
        stop: &|| signals::stop_requested().is_some(),
        note: &mut |n| {
            let _ = reading::tell(shown, &n);
        },
    };
    let settings = |p: &Partition| settings_of(shown, p, &options.mode);
    let made = split::split(&host, &partitions, &dest, &options, &settings, &mut hooks)?;
    match (made, signals::stop_requested()) {
        (Some(made), _) => tell(ctx, &made).map(|()| Outcome::Done),
        (None, signal) => Ok(Outcome::Signal(
            u8::try_from(signal.unwrap_or(0)).unwrap_or(0),
        )),
    }
}

fn options(ctx: &Context, m: &ArgMatches) -> Result<SplitOptions> {
    let max_parts = args::count(m, "max-parts")?.unwrap_or(1000);
    Ok(SplitOptions {
        mode: mode(ctx, m)?,
        read: CatOptions {
            range: args::range(m, "from-offset", &ctx.now())?.unwrap_or(words::Range::ALL),
            clamp: args::flag(m, "clamp"),
            isolation: Isolation::Committed,
            durable: false,
            skip_corrupt: false,
            reverse: false,
            limits: Limits::default(),
        },
        renumber: args::flag(m, "renumber"),
        max_parts: usize::try_from(max_parts).unwrap_or(usize::MAX),
        durable: args::text(m, "sync") != Some("never"),
        allow_network_fs: args::flag(m, "allow-network-fs"),
    })
}

fn mode(ctx: &Context, m: &ArgMatches) -> Result<Mode> {
    if let Some(word) = args::text(m, "partitions") {
        let mut words = Words::default();
        let checked = words.set("partitions", word);
        checked.map_err(|e| words::in_option("--partitions", e))?;
        let n = word.parse().ok().and_then(NonZeroU32::new);
        return Ok(Mode::Partitions(n.unwrap_or(NonZeroU32::MIN)));
    }
    if let Some(field) = args::word(m, "by", Field::parse)? {
        return match field {
            Field::Column(_) => {
                Err(Error::usage("--by: records have no columns here").hint("--by json:/POINTER"))
            }
            field => Ok(Mode::By(field)),
        };
    }
    if let Some(every) = args::duration(m, "every", "d")? {
        let ms = i64::try_from(every.as_millis()).ok().filter(|ms| *ms > 0);
        let why = || Error::usage("--every: a period is at least 1ms").hint("--every 1d");
        return ms.map(Mode::Every).ok_or_else(why);
    }
    if let Some(size) = args::size(m, "max-size")? {
        return match size {
            0 => Err(Error::usage("--max-size: nothing goes into 0 bytes").hint("--max-size 1GiB")),
            size => Ok(Mode::Size(size)),
        };
    }
    if let Some(n) = args::count(m, "max-records")? {
        return match n {
            0 => {
                Err(Error::usage("--max-records: no part has 0 records").hint("--max-records 1000"))
            }
            n => Ok(Mode::Records(n)),
        };
    }
    let now = ctx.now();
    let words = m.get_many::<String>("at").into_iter().flatten();
    let words = words.flat_map(|w| w.split(','));
    let places = words.map(|w| match Pos::parse(w, &now) {
        Ok(Pos::Current(_)) => Err(Error::usage("--at: only a group has a current position")),
        Ok(pos) => Ok(pos),
        Err(e) => Err(words::in_option("--at", e)),
    });
    Ok(Mode::At(places.collect::<Result<_>>()?))
}

/// The settings that parts take over from a log.
fn settings_of(ctx: &Context, p: &Partition, mode: &Mode) -> Result<Settings> {
    let dir = ctx.host.open_dir(&p.path);
    let dir = dir.map_err(|e| Error::io("cannot open", e).at_path(&p.path))?;
    let mut document = crate::ops::settings::read(dir.as_ref())?;
    document.words.remove("partitions");
    if let Mode::Partitions(n) = mode {
        document.words.set("partitions", &n.to_string())?;
    }
    let roll = roll_of(ctx, &document)?;
    let config = document.render();
    Ok(Settings { roll, config })
}

/// When segments of a log with these settings are full.
pub(super) fn roll_of(ctx: &Context, document: &Document) -> Result<RollLimits> {
    let user = ctx.user_words()?;
    let layered = crate::ops::settings::layered(&Words::default(), &document.words, &user)?;
    let age = layered.settings.segment_ms;
    Ok(RollLimits {
        segment_bytes: layered.settings.segment_bytes,
        segment_age_ms: age.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
    })
}

fn tell(ctx: &mut Context, made: &[Made]) -> Result<()> {
    if ctx.json {
        let row = |made: &Made| {
            let name = Partition::at(&made.path).name();
            vec![Cell::Text(name), Cell::Bytes(made.bytes)]
        };
        let rows: Vec<Vec<Cell>> = made.iter().map(row).collect();
        return table::print(ctx, &["name", "bytes"], &rows);
    }
    let bytes: u64 = made.iter().map(|m| m.bytes).sum();
    let n = made.len();
    ctx.message
        .summary(|| format!("{n} logs made, {}", table::human_bytes(bytes)));
    Ok(())
}
