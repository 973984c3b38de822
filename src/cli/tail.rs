//! `logd tail`: the last records, and what comes next.

use std::ffi::OsStr;
use std::time::Duration;

use clap::{ArgMatches, Command};

use super::{Context, Outcome, args, reading};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::tail::{Ended, TailOptions};
use crate::sys::signals;

const EXAMPLES: &str = "\
Examples:
  logd tail -f logs/app
  logd tail -f -n 0 -F json logs/orders | jq --unbuffered 'select(.value|test(\"error\"))'
  logd tail -f -g mailer -F '%k\\t%s\\n' logs/signups | send-mail
  logd tail -n 100 -F '%D %k %s\\n' logs/orders";

/// Records that are shown without `-n` and `-o`.
const LAST: u64 = 10;

/// Time that a group's last commit may take after a signal, a slow reader of our output included.
const STOP_TIME: Duration = Duration::from_secs(5);

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
        .args(reading::group_options())
        .arg(
            args::option(
                "commit-every",
                "DURATION",
                "With -f and -g: how often to store how far it came [default: 5s]",
            )
            .allow_hyphen_values(false),
        )
        .args(args::waiting())
        .arg(args::log_anywhere())
        .after_help(EXAMPLES)
}

/// Runs it.
///
/// # Errors
/// As [`tail::tail`].
pub fn run(ctx: &mut Context, m: &ArgMatches) -> Result<Outcome> {
    let count = args::count(m, "limit")?;
    let ranged = args::text(m, "from-offset").is_some();
    // With -o or -g, -n is a limit; without them, how far back to begin.
    let limits = ranged || args::text(m, "group").is_some();
    let mut emitter = reading::emitter(ctx, m, if limits { count } else { None })?;
    let select = args::partitions(m)?;
    let log = args::os(m, "log").unwrap_or(OsStr::new(""));
    let partitions = ctx.resolve(log, select.as_ref())?;
    let group = reading::group(ctx, m, "tail", log, &partitions)?;
    let last = (!limits).then(|| count.unwrap_or(LAST));
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
        group,
        topics: Vec::from_iter(reading::topic(ctx, log, select.is_none(), &partitions)?),
    };
    if options.group.is_some() && options.follow {
        signals::install().map_err(|e| Error::io("cannot catch signals", e))?;
        signals::end_within(STOP_TIME);
    }
    let mut losses = false;
    let ended = reading::run_tail(ctx, partitions, &options, &mut emitter, &mut losses)?;
    match ended {
        Ended::TimedOut => Err(Error::new(ErrorKind::Timeout, "--timeout passed")),
        Ended::Stopped(signal) => Ok(Outcome::Signal(u8::try_from(signal).unwrap_or(0))),
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
