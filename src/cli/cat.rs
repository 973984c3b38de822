//! `logd cat`: print what is there, then stop.

use std::path::PathBuf;

use clap::{ArgMatches, Command};

use super::{Context, Outcome, args, reading};
use crate::error::{Error, ErrorKind, Result};
use crate::log::groups::Group;
use crate::log::members::Share;
use crate::ops::cat::{self, Cat, CatOptions};
use crate::ops::consume::{self, Claim, GroupOptions};
use crate::ops::emit::{Emitter, Flow};
use crate::ops::topic::Partition;

const EXAMPLES: &str = "\
Examples:
  logd cat --from-offset 4096 logs/orders-0
  logd cat -o @yesterday..@today -F csv logs/orders > orders.csv
  logd cat -o end-1000 -F json logs/orders | jq -r 'select(.key==\"u42\").value'
  logd cat -g nightly --no-commit logs/orders > part && load part && logd groups commit logs/orders nightly
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
        .args(reading::group_options())
        .args(args::waiting())
        .arg(args::logs_anywhere())
        .after_help(EXAMPLES)
}

/// Runs it.
///
/// # Errors
/// What the first thing that cannot be told and passed over is.
pub fn run(ctx: &mut Context, m: &ArgMatches) -> Result<Outcome> {
    let limit = args::count(m, "limit")?;
    let mut emitter = reading::emitter(ctx, m, limit)?;
    let options = reading::cat_options(ctx, m)?;
    if args::text(m, "group").is_some() {
        return run_group(ctx, m, &mut emitter, &options);
    }
    reading::refuse_group_words(m)?;
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
    ctx.printed = limit.map_or(0, |n| n.saturating_sub(emitter.left()));
    Ok(if losses {
        Outcome::Losses
    } else {
        Outcome::Done
    })
}

/// Reads in the name of a group, and commits what stdout took if all went well.
fn run_group(
    ctx: &mut Context,
    m: &ArgMatches,
    emitter: &mut Emitter,
    options: &CatOptions,
) -> Result<Outcome> {
    let select = args::partitions(m)?;
    let mut jobs = Vec::new();
    for log in args::os_all(m, "log") {
        let partitions = ctx.resolve(log, select.as_ref())?;
        for partition in &partitions {
            reading::wait_for(ctx, m, partition)?;
        }
        if let Some(how) = reading::group(ctx, m, "cat", log, &partitions)? {
            jobs.push((partitions, how));
        }
    }
    let mut losses = false;
    let host = ctx.host.clone();
    let mut stdout = std::mem::take(&mut ctx.stdout);
    let mut sink = reading::Out::new(&mut stdout);
    let mut note = |n| losses |= reading::tell(ctx, &n);
    let mut cat = Cat {
        host: &host,
        options,
        emitter,
        sink: &mut sink,
        note: &mut note,
    };
    let (mut shares, mut claims) = (Vec::new(), Vec::new());
    let read = jobs.iter().try_for_each(|(partitions, how)| {
        let mut share = Share::join(&host, &paths(partitions), how.name.clone(), how.as_member)?;
        let read = match !claims.is_empty() && cat.emitter.is_full() {
            true => unmark_rest(&mut share),
            false => read_share(&mut cat, partitions, &mut share, how, &mut claims),
        };
        shares.push(share);
        read
    });
    // What was read before an error is good, and goes out before it is told.
    let flushed = emitter.flush(&mut sink);
    ctx.stdout = stdout;
    flushed?;
    ctx.stdout.flush_now()?;
    reading::tell_newlines(ctx, emitter);
    read?;
    if losses {
        return Ok(Outcome::Losses);
    }
    let mut note = |n| {
        let _ = reading::tell(ctx, &n); // nothing of it was to be shown
    };
    claims.iter_mut().try_for_each(|c| c.store(&mut note))?;
    Ok(Outcome::Done)
}

/// Reads one after another the partitions that this reader gets of its share. They are held until their
/// positions are stored.
fn read_share(
    cat: &mut Cat<'_>,
    partitions: &[Partition],
    share: &mut Share,
    how: &GroupOptions,
    claims: &mut Vec<Claim>,
) -> Result<()> {
    let mut groups = consume::take_first(share, how.wait, 1)?;
    while let Some(group) = groups.pop() {
        let of_group = |p: &&Partition| p.path == group.path();
        let Some(partition) = partitions.iter().find(of_group) else {
            break;
        };
        let (flow, claim) = cat.claimed(partition, group, how)?;
        claims.push(claim);
        if flow == Flow::Full {
            return unmark_rest(share);
        }
        groups = share.take(1)?;
    }
    Ok(())
}

/// Takes back the marks of partitions that this read does not come to. They are of a read before it, and
/// whoever confirms this one has not seen to what that one delivered.
fn unmark_rest(share: &mut Share) -> Result<()> {
    let mut groups = share.take(usize::MAX)?;
    groups.iter_mut().try_for_each(Group::unmark)
}

fn paths(partitions: &[Partition]) -> Vec<PathBuf> {
    partitions.iter().map(|p| p.path.clone()).collect()
}

fn name_log(e: Error, partition: &Partition) -> Error {
    e.at_path(&partition.path)
}
