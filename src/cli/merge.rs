//! `logd merge`: several logs in one order.

use super::split::{roll_of, sync};
use super::table::{self, Cell};
use super::{Context, Outcome, args, reading};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::cat::CatOptions;
use crate::ops::merge::{self, Printer, ToOptions};
use crate::ops::mix::{Following, Order};
use crate::ops::settings::{Document, Words};
use crate::ops::topic::Partition;
use crate::sys::signals;
use clap::{ArgMatches, Command};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  logd merge -F '%D %t-%p %s\\n' logs/orders
  logd merge --order offset --to logs/orders-all logs/orders12
  logd merge -o @-1h.. -F json logs/access-0 logs/access-1 | jq .value
  logd merge -f -o end.. logs/web1 logs/web2 | goaccess -";

/// How long a quiet log holds the others back if nothing is said: cli.md 7.
const LATENESS: Duration = Duration::from_secs(1);

const LONG: &str = "\
Prints the records of all partitions of all LOGs in one order: by time, or by offset. Ties go by
partition, then offset. Each partition stays in its own order, so a record with an earlier time than
the one before it in its partition comes right behind that one.

--to DEST writes a new log instead, which must not exist (73). By time its records are numbered from 0;
by offset they keep their offsets, and two records with the same one are refused (65): parts that
logd split made become the original again.

What is merged is what logd cat shows: committed records up to the first open transaction of each
partition, at the end as it was at the start. Memory is one batch a partition.

-f goes on as the logs grow, new partitions of a topic too. A log that has nothing more might still get
a record that belongs first, so it holds the others back: each batch of theirs for at most --lateness
(1s) from when it was seen. What comes later than that is printed behind them. With --lateness none it
holds them until it has more or reaches the end of its range: slow where a log is quiet, but the order
depends on nothing but the records. -f prints only; logd append makes a log of what it prints.

DEST is built in DEST.unfinished-0 and gets its name when it is whole and, with --sync exit (the
default), durable. A failure leaves nothing; what a killed run left, the next one clears away.";

/// The definition.
pub fn command() -> Command {
    Command::new("merge")
        .long_about(LONG)
        .arg(
            args::option("order", "ORDER", "time (default) or offset")
                .value_parser(["time", "offset"])
                .hide_possible_values(true),
        )
        .arg(
            args::option("to", "DEST", "Write a new log")
                .value_parser(clap::value_parser!(std::ffi::OsString)),
        )
        .arg(args::follow())
        .arg(
            args::option(
                "lateness",
                "DURATION",
                "How long a quiet log holds the others back: 1s (default), none",
            )
            .requires("follow")
            .allow_hyphen_values(false),
        )
        .arg(args::from_offset())
        .arg(args::clamp())
        .args(args::format())
        .arg(args::raw())
        .arg(args::switch(
            "nest",
            "Print a value that is JSON as value_json (-F json)",
        ))
        .arg(args::option(
            "columns",
            "LIST",
            "Columns of csv and tsv: offset,ts,key,value,topic,partition,headers",
        ))
        .arg(args::isolation())
        .arg(args::switch(
            "durable",
            "Stop at the durable offset of each log",
        ))
        .arg(sync().requires("to"))
        .arg(args::partition())
        .arg(args::allow_network_fs())
        .arg(args::json())
        .arg(args::logs())
        .after_help(EXAMPLES)
}

/// Prints, or writes, what was asked for.
pub fn run(ctx: &mut Context, m: &ArgMatches) -> Result<Outcome> {
    let order = match args::text(m, "order") {
        Some("offset") => Order::Offset,
        _ => Order::Time,
    };
    let select = args::partitions(m)?;
    let mut partitions: Vec<Partition> = Vec::new();
    for log in args::os_all(m, "log") {
        for partition in ctx.resolve(log, select.as_ref())? {
            if partitions.iter().any(|p| p.path == partition.path) {
                let shown = partition.path.display();
                return Err(Error::usage(format!("{shown}: named twice")));
            }
            partitions.push(partition);
        }
    }
    match args::os(m, "to") {
        Some(dest) => write(ctx, m, &partitions, order, dest),
        None => print(ctx, m, &partitions, order),
    }
}

fn print(
    ctx: &mut Context,
    m: &ArgMatches,
    partitions: &[Partition],
    order: Order,
) -> Result<Outcome> {
    let mut emitter = reading::emitter(ctx, m, None)?;
    let read = reading::cat_options(ctx, m)?;
    let following = match args::flag(m, "follow") {
        true => Some(following(ctx, m, partitions, &read)?),
        false => None,
    };
    let host = ctx.host.clone();
    let mut stdout = std::mem::take(&mut ctx.stdout);
    let mut sink = reading::Out::new(&mut stdout);
    let mut printer = Printer {
        emitter: &mut emitter,
        sink: &mut sink,
        note: &mut |n| {
            let _ = reading::tell(ctx, &n);
        },
    };
    let out = std::io::stdout();
    let printed = match following {
        Some(following) => {
            let out = Some(out.as_fd());
            merge::follow(&host, partitions, order, following, &mut printer, out)
        }
        None => merge::print(&host, partitions, order, &read, &mut printer),
    };
    // What was read before an error is good, and goes out before it is told.
    let closed = |e: &Error| e.kind() == ErrorKind::ClosedPipe;
    let flushed = match printed.as_ref().is_err_and(closed) {
        true => Ok(()),
        false => emitter.flush(&mut sink),
    };
    ctx.stdout = stdout;
    flushed?;
    printed?;
    ctx.stdout.flush_now()?;
    reading::tell_newlines(ctx, &emitter);
    Ok(Outcome::Done)
}

/// How logs are followed.
fn following(
    ctx: &Context,
    m: &ArgMatches,
    partitions: &[Partition],
    read: &CatOptions,
) -> Result<Following> {
    let lateness = match args::text(m, "lateness") {
        Some("none") => None,
        Some(_) => args::duration(m, "lateness", "s")?,
        None => Some(LATENESS),
    };
    let all = args::text(m, "partition").is_none();
    let mut topics = Vec::new();
    for log in args::os_all(m, "log") {
        topics.extend(reading::topic(ctx, log, all, partitions)?);
    }
    Ok(Following {
        lateness,
        topics,
        read: read.clone(),
    })
}

fn write(
    ctx: &mut Context,
    m: &ArgMatches,
    partitions: &[Partition],
    order: Order,
    dest: &OsStr,
) -> Result<Outcome> {
    if args::text(m, "format").is_some() || args::flag(m, "nul") {
        return Err(Error::usage(
            "--format: a log that is written has none; not with --to",
        ));
    }
    if args::flag(m, "follow") {
        let why = "--follow: --to makes a log that is whole when it gets its name";
        return Err(
            Error::usage(why).hint("logd merge -f -F json LOG... | logd append -F json DEST")
        );
    }
    let read = reading::cat_options(ctx, m)?;
    let dest = ctx.path(dest)?;
    let document = Document::from(Words::default());
    let to = ToOptions {
        dest: &dest,
        roll: roll_of(ctx, &document)?,
        config: document.render(),
        durable: args::text(m, "sync") != Some("never"),
        allow_network_fs: args::flag(m, "allow-network-fs"),
    };
    signals::install().map_err(|e| Error::io("cannot handle signals", e))?;
    let host = ctx.host.clone();
    let stop = || signals::stop_requested().is_some();
    let mut note = |n| {
        let _ = reading::tell(ctx, &n);
    };
    let merged = merge::write(&host, partitions, order, &read, &to, &stop, &mut note)?;
    let Some(merged) = merged else {
        let signal = signals::stop_requested().unwrap_or(0);
        return Ok(Outcome::Signal(u8::try_from(signal).unwrap_or(0)));
    };
    let name = Partition::at(&merged.path).name();
    let records = merged.records;
    if ctx.json {
        let records = Cell::Number(i64::try_from(records).unwrap_or(i64::MAX));
        table::print(
            ctx,
            &["name", "records"],
            &[vec![Cell::Text(name), records]],
        )?;
    } else {
        ctx.message.summary(|| format!("{name}: {records} records"));
    }
    Ok(Outcome::Done)
}
