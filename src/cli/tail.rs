//! `logd tail`: the last records, and what comes next.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::{ArgMatches, Command};

use super::{Context, Outcome, args, reading};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::tail::{self, Ended, TailOptions};
use crate::ops::topic::Partition;

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
        topic: topic(ctx, log, select.is_none(), &partitions)?,
    };
    let mut losses = false;
    let host = ctx.host.clone();
    let mut stdout = std::mem::take(&mut ctx.stdout);
    let mut sink = reading::Out::new(&mut stdout);
    let mut note = |n| losses |= reading::tell(ctx, &n);
    let out = std::io::stdout();
    let fd = Some(out.as_fd());
    let ended = tail::tail(
        &host,
        partitions,
        &options,
        &mut emitter,
        &mut sink,
        &mut note,
        fd,
    );
    let flushed = emitter.flush(&mut sink);
    ctx.stdout = stdout;
    if ended
        .as_ref()
        .is_err_and(|e| e.kind() == ErrorKind::ClosedPipe)
    {
        return ended.map(|_| Outcome::Done);
    }
    flushed?;
    ctx.stdout.flush_now()?;
    reading::tell_newlines(ctx, &emitter);
    match ended? {
        Ended::TimedOut => Err(Error::new(ErrorKind::Timeout, "--timeout passed")),
        Ended::Done if losses => Ok(Outcome::Losses),
        Ended::Done => Ok(Outcome::Done),
    }
}

/// The topic's path, where new partitions are to be followed: the operand is no partition itself.
fn topic(
    ctx: &Context,
    log: &OsStr,
    all: bool,
    partitions: &[Partition],
) -> Result<Option<PathBuf>> {
    let path = ctx.path(log)?;
    let is_partition = partitions.iter().any(|p| p.path == path);
    Ok((all && !is_partition).then_some(path))
}

fn pid(m: &ArgMatches) -> Result<Option<i32>> {
    args::word(m, "pid", |word| match word.parse::<i32>() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err(Error::usage(format!("{word}: not a process number"))),
    })
}
