//! `logd repair`: make it sound again.

use super::{Context, Outcome, args};
use crate::error::{Error, Result};
use crate::format::Offset;
use crate::ops::output::escape::visible_string;
use crate::ops::repair::{Loss, Options, Report, repair};
use crate::ops::topic::Partition;
use clap::{ArgMatches, Command};
use serde_json::json;

const EXAMPLES: &str = "\
Examples:
  logd verify logs/orders-0 || logd repair --dry-run logs/orders-0
  logd repair --json logs/orders-0 | tee repair.json";

const LONG: &str = "\
Cuts a torn tail, takes damaged batches out, finishes or undoes an interrupted replacement of
segments, makes indexes anew, clears a failed sync. Every intact batch stays, at its offset. What is
taken out is kept in .logd/lost+found, with a list. --dry-run tells exactly what would be done.

Prints one line for each range of offsets whose records are lost. Ends with 0 if nothing is, with 1
if the log is sound now but records were lost, with 65 if something is left that only a person can
mend. A sound log is not touched, and a second run changes nothing.";

/// The definition.
pub fn command() -> Command {
    Command::new("repair")
        .long_about(LONG)
        .arg(args::dry_run())
        .arg(args::json())
        .args(args::waiting())
        .arg(args::partition())
        .arg(args::allow_network_fs())
        .arg(args::logs())
        .after_help(EXAMPLES)
}

/// Repairs each log.
pub fn run(ctx: &mut Context, matches: &ArgMatches) -> Result<Outcome> {
    let options = Options {
        dry_run: args::flag(matches, "dry-run"),
        wait: args::duration(matches, "wait", "s")?.unwrap_or_default(),
        allow_network_fs: args::flag(matches, "allow-network-fs"),
        ..Options::default()
    };
    let select = args::partitions(matches)?;
    let mut lossless = true;
    for word in args::os_all(matches, "log") {
        let partitions = match ctx.resolve(word, select.as_ref()) {
            Ok(partitions) => partitions,
            Err(e) => {
                ctx.fail(&e);
                continue;
            }
        };
        for p in &partitions {
            match repair(&ctx.host.clone(), p, &options) {
                Ok(report) => {
                    lossless &= report.lost.is_empty();
                    tell(ctx, p, &report, options.dry_run)?;
                }
                Err(e) => ctx.fail(&e.at_path(&p.path)),
            }
        }
    }
    Ok(if lossless { Outcome::Done } else { Outcome::No })
}

fn tell(ctx: &mut Context, p: &Partition, report: &Report, dry_run: bool) -> Result<()> {
    let name = p.name();
    for step in &report.steps {
        let path = p.path.join(&step.file).display().to_string();
        if ctx.json {
            let kind = if dry_run { "would" } else { "did" };
            let line = json!({"kind": kind, "log": name, "file": path, "what": step.what});
            ctx.stdout.put(format!("{line}\n").as_bytes())?;
        } else if dry_run {
            put(ctx, &format!("{path}: {}", step.what))?;
        } else {
            ctx.message.explain(|| format!("{path}: {}", step.what));
        }
    }
    for loss in &report.lost {
        let path = p.path.join(&loss.file).display().to_string();
        if ctx.json {
            let line = json!({
                "kind": "lost", "log": name, "file": path, "first": loss.offsets.start.0,
                "end": (loss.offsets.end != Offset::MAX).then_some(loss.offsets.end.0),
                "reason": loss.reason,
            });
            ctx.stdout.put(format!("{line}\n").as_bytes())?;
        } else {
            put(ctx, &format!("{path}: {}: {}", lost(loss), loss.reason))?;
        }
    }
    for (path, reason) in &report.left {
        ctx.fail(&Error::data(format!("{reason}; left as it is")).at_path(path));
    }
    let (steps, lost) = (report.steps.len(), report.lost.len());
    ctx.message.summary(|| match (steps, dry_run) {
        (0, _) => format!("{name}: sound"),
        (n, true) => format!("{name}: {n} steps would be taken, {lost} ranges are lost"),
        (n, false) => format!("{name}: repaired in {n} steps, {lost} ranges are lost"),
    });
    Ok(())
}

fn put(ctx: &mut Context, line: &str) -> Result<()> {
    let line = visible_string(line.as_bytes()) + "\n";
    ctx.stdout.put(line.as_bytes())?;
    ctx.stdout.end_record()
}

fn lost(loss: &Loss) -> String {
    match (loss.offsets.start, loss.offsets.end) {
        (start, Offset::MAX) => format!("lost from offset {start} on"),
        (start, end) => format!("lost offsets {start}..{end}"),
    }
}
