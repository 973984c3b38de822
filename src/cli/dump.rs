//! `logd dump`: what is stored, as stored.

use super::{Context, Outcome, args};
use crate::error::{Error, Result};
use crate::ops::dump::{Item, Options, dump};
use crate::ops::words::Range;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};

mod json;
mod kafka;

/// Lines gather up to this many bytes before they are handed on.
const GATHER_BYTES: usize = 32 << 10;

pub fn command() -> Command {
    Command::new("dump")
        .arg(args::from_offset())
        .arg(args::switch("batches", "Only batch headers"))
        .arg(args::switch("records", "Only records"))
        .arg(args::switch("indexes", "Only indexes, snapshots and checkpoints"))
        .group(ArgGroup::new("what").args(["batches", "records", "indexes"]))
        .arg(
            Arg::new("kafka")
                .long("kafka")
                .action(ArgAction::SetTrue)
                .conflicts_with("what")
                .help("The lines of kafka-dump-log --deep-iteration"),
        )
        .arg(
            args::operand("log", "FILE|LOG")
                .num_args(1..)
                .required(true)
                .help("Files of a log, partition directories or topics; relative names below $LOGD_DIR"),
        )
        .after_help(
            "Examples:\n  \
             logd dump --batches logs/orders-0 | jq -c 'select(.codec==\"none\")|.position'\n  \
             logd dump --kafka /var/lib/kafka/orders-0/00000000000000368769.log | head\n  \
             logd dump /var/lib/kafka/__consumer_offsets-7 | jq -c 'select(.kind==\"offset_commit\")'",
        )
}

pub fn run(ctx: &mut Context, matches: &ArgMatches) -> Result<Outcome> {
    let options = options(ctx, matches)?;
    let mut lines: Box<dyn Lines> = match options.as_kafka {
        true => Box::new(kafka::Kafka::default()),
        false => Box::new(json::Json::new(ctx.stdout.is_terminal())),
    };
    let mut out = Vec::new();
    for word in args::os_all(matches, "log") {
        let (path, host) = (ctx.path(word)?, ctx.host.clone());
        let mut file = path.clone();
        let shown = dump(&*host, &path, &options, &mut |item| {
            lines.item(&item, &mut out);
            match &item {
                Item::File(info) => file.clone_from(&info.path),
                // Kafka has no line for it.
                Item::Damage {
                    position, reason, ..
                } if options.as_kafka => {
                    ctx.message
                        .warn(format!("{}: byte {position}: {reason}", file.display()));
                }
                _ => {}
            }
            match out.len() < GATHER_BYTES {
                true => Ok(()),
                false => hand_on(ctx, &mut out),
            }
        });
        hand_on(ctx, &mut out)?;
        match shown {
            Ok(summary) if summary.damages > 0 => ctx.fail(&damaged(summary.damages).at_path(path)),
            Ok(_) => {}
            Err(e) if e.path().is_some_and(|p| p.as_os_str() == "stdout") => return Err(e),
            Err(e) => ctx.fail(&e.at_path(path)),
        }
    }
    lines.end(&mut out);
    hand_on(ctx, &mut out)?;
    Ok(Outcome::Done)
}

fn hand_on(ctx: &mut Context, out: &mut Vec<u8>) -> Result<()> {
    ctx.stdout.put(out)?;
    out.clear();
    ctx.stdout.end_record()
}

fn damaged(places: u64) -> Error {
    Error::data(match places {
        1 => "1 place is damaged".to_string(),
        n => format!("{n} places are damaged"),
    })
}

/// How items look.
trait Lines {
    /// Appends the lines of `item`.
    fn item(&mut self, item: &Item<'_>, out: &mut Vec<u8>);

    /// Appends what comes last.
    fn end(&mut self, out: &mut Vec<u8>);
}

fn options(ctx: &Context, matches: &ArgMatches) -> Result<Options> {
    let flag = |id| args::flag(matches, id);
    let only = ["batches", "records", "indexes"].into_iter().any(flag);
    let range = args::word(matches, "from-offset", |w| Range::parse(w, &ctx.now()))?;
    Ok(Options {
        batches: !only || flag("batches"),
        records: !only || flag("records"),
        indexes: !only || flag("indexes"),
        range,
        as_kafka: flag("kafka"),
        ..Options::default()
    })
}

#[cfg(test)]
mod tests;
