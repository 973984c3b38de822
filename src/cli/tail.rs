//! `logd tail`: the last records, and what comes next.

use std::ffi::OsStr;

use clap::{ArgMatches, Command};

use super::{Context, Outcome, args, reading};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::tail::{Ended, TailOptions};

const EXAMPLES: &str = "\
Examples:
  logd tail -f logs/app
  logd tail -f -n 0 -F json logs/orders | jq --unbuffered 'select(.value|test(\"error\"))'
  logd tail -n 100 -F '%D %k %s\\n' logs/orders";

/// Records that are shown without `-n` and `-o`.
const LAST: u64 = 10;

/// The definition.
pub fn command() -> Command {
    Command::new("tail")
        .args(reading::options())
        .arg(args::follow())
        .arg(
            args::option(
                "idle",
                "DURATION",
                "Exit 0 after that long without a record",
            )
            .allow_hyphen_values(false),
        )
        .arg(args::option("pid", "PID", "Stop when that process ends").allow_hyphen_values(false))
        .arg(args::log())
        .after_help(EXAMPLES)
}

/// Runs it.
///
/// # Errors
/// As [`tail::tail`].
pub fn run(ctx: &mut Context, m: &ArgMatches) -> Result<Outcome> {
    let count = args::count(m, "limit")?;
    let ranged = args::text(m, "from-offset").is_some();
    // With -o, -n is a limit; without it, how far back to begin.
    let mut emitter = reading::emitter(ctx, m, if ranged { count } else { None })?;
    let select = args::partitions(m)?;
    let log = args::os(m, "log").unwrap_or(OsStr::new(""));
    let partitions = ctx.resolve(log, select.as_ref())?;
    let last = (!ranged).then(|| count.unwrap_or(LAST));
    if emitter.copies_batches() && partitions.len() > 1 && last.is_some_and(|n| n > 0) {
        let why = "-F batch cannot choose the last records of several partitions";
        return Err(Error::usage(why).hint("-n 0, or -o end-100"));
    }
    for partition in &partitions {
        reading::wait_for(ctx, m, partition)?;
    }
    let options = TailOptions {
        read: reading::cat_options(ctx, m)?,
        last,
        follow: args::flag(m, "follow"),
        idle: args::duration(m, "idle", "s")?,
        pid: pid(m)?,
        deadline: ctx.deadline,
        topics: Vec::from_iter(reading::topic(ctx, log, select.is_none(), &partitions)?),
    };
    let mut losses = false;
    let ended = reading::run_tail(ctx, partitions, &options, &mut emitter, &mut losses)?;
    match ended {
        Ended::TimedOut => Err(Error::new(ErrorKind::Timeout, "--timeout passed")),
        Ended::Done if losses => Ok(Outcome::Losses),
        Ended::Done => Ok(Outcome::Done),
    }
}

fn pid(m: &ArgMatches) -> Result<Option<i32>> {
    args::word(m, "pid", |word| match word.parse::<i32>() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(Error::usage(format!("{word}: not a process number"))),
    })
}
