//! `logd cat`: print what is there, then stop.

use clap::{ArgMatches, Command};

use super::{Context, Outcome, args, reading};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::cat;
use crate::ops::emit::Flow;

const EXAMPLES: &str = "\
Examples:
  logd cat --from-offset 4096 logs/orders-0
  logd cat -o @yesterday..@today -F csv logs/orders > orders.csv
  logd cat -o end-1000 -F json logs/orders | jq -r 'select(.key==\"u42\").value'
  logd cat -o @-1h --speed 10 logs/orders | ./consumer --dry-run";

/// The definition.
pub fn command() -> Command {
    Command::new("cat")
        .args(reading::options())
        .arg(args::reverse())
        .arg(args::option(
            "speed",
            "X",
            "Pace output by timestamps: 1 is real time, 10 ten times as fast",
        ))
        .arg(args::logs())
        .after_help(EXAMPLES)
}

/// Runs it.
///
/// # Errors
/// What the first thing that cannot be told and passed over is.
pub fn run(ctx: &mut Context, m: &ArgMatches) -> Result<Outcome> {
    let mut emitter = reading::emitter(ctx, m, args::count(m, "limit")?)?;
    let options = reading::cat_options(ctx, m)?;
    let select = args::partitions(m)?;
    let mut partitions = Vec::new();
    for log in args::os_all(m, "log") {
        match ctx.resolve(log, select.as_ref()) {
            Ok(found) => partitions.extend(found),
            Err(e) if e.kind() == ErrorKind::Usage => return Err(e),
            Err(e) => ctx.fail(&e),
        }
    }
    let mut losses = false;
    for partition in &partitions {
        reading::wait_for(ctx, m, partition)?;
        let host = ctx.host.clone();
        let mut stdout = std::mem::take(&mut ctx.stdout);
        let mut sink = reading::Out::new(&mut stdout);
        let mut note = |n| losses |= reading::tell(ctx, &n);
        let read = cat::cat(
            &host,
            partition,
            &options,
            &mut emitter,
            &mut sink,
            &mut note,
        );
        // What was read before an error is good, and goes out before it is told.
        let flushed = emitter.flush(&mut sink);
        ctx.stdout = stdout;
        flushed?;
        ctx.stdout.flush_now()?;
        match read {
            Ok(Flow::More) => {}
            Ok(Flow::Full) => break,
            Err(e) if e.kind() == ErrorKind::ClosedPipe => return Err(e),
            Err(e) => ctx.fail(&name_log(e, partition)),
        }
    }
    reading::tell_newlines(ctx, &emitter);
    Ok(if losses {
        Outcome::Losses
    } else {
        Outcome::Done
    })
}

fn name_log(e: Error, partition: &crate::ops::topic::Partition) -> Error {
    e.at_path(&partition.path)
}
