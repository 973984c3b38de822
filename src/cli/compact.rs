//! `logd compact`: keep the newest value per key.

use super::maintain::Pacer;
use super::table::{self, Cell, human_bytes};
use super::{Context, Outcome, args, maintain};
use crate::error::{Error, Result};
use crate::ops::compact::{self, Hooks, Plan, Report};
use crate::ops::settings::Words;
use crate::ops::topic::Partition;
use crate::ops::words;
use crate::sys::signals;
use clap::{ArgMatches, Command};

const EXAMPLES: &str = "\
Examples:
  logd compact --dry-run logs/users
  17 3 * * *  cd ~/logs && logd compact --min-dirty 0.5 --skip-if-locked users
  logd compact --keep 3 --rate 80MiB logs/settings";

const LONG: &str = "\
Removes every record that a newer one with the same key supersedes. Offsets, order and timestamps of
what stays never change; records without a key stay. Records of aborted transactions go, nothing from
the first open transaction on takes part, and each producer's last batch stays, if need be empty.

A deletion (a record without a value) is itself removed --tombstone-age after the first compaction
that met it; older values of its key go at once.

Sealed segments take part, and the active one if anything in it goes: it is sealed first. With
--min-age nothing from the first segment on takes part that holds a younger record. Small neighbours
are put together. At any time there is room needed for one new segment only.

--memory bounds what is kept of the keys; if they do not fit, the log is read more than once. One bit
a record comes on top.

Damage in the log is told (65) before anything is changed. A log with nothing to do is not written to.
INT and TERM end it after the segment in hand.";

/// The definition.
pub fn command() -> Command {
    let command = Command::new("compact")
        .long_about(LONG)
        .arg(
            args::option(
                "min-age",
                "DURATION",
                "Spare records younger than that [default: 0s]",
            )
            .allow_hyphen_values(false),
        )
        .arg(
            args::option(
                "tombstone-age",
                "DURATION",
                "Keep deletions visible that long [default: 24h]",
            )
            .allow_hyphen_values(false),
        )
        .arg(args::option(
            "min-dirty",
            "SHARE",
            "Do nothing until that share of the records is superseded [default: 0]",
        ))
        .arg(
            args::option("keep", "N", "Versions of each key that stay [default: 1]")
                .allow_hyphen_values(false),
        )
        .arg(args::option(
            "memory",
            "SIZE",
            "Memory for keys [default: 256MiB]",
        ))
        .arg(args::rate());
    maintain::arguments(command).after_help(EXAMPLES)
}

/// Compacts the logs, or says what would go.
pub fn run(ctx: &mut Context, matches: &ArgMatches) -> Result<Outcome> {
    let plan = plan(matches)?;
    let rate = args::size(matches, "rate")?;
    let options = maintain::options(matches, "compact")?;
    let dry_run = args::flag(matches, "dry-run");
    let partitions = maintain::partitions(ctx, matches)?;
    if !dry_run {
        signals::install().map_err(|e| Error::io("cannot handle signals", e))?;
    }
    let mut rows = Vec::new();
    for p in partitions {
        if let Some(signal) = signals::stop_requested() {
            return Ok(Outcome::Signal(u8::try_from(signal).unwrap_or(0)));
        }
        let done = of_log(ctx, &p, &plan).and_then(|plan| {
            let mut pacer = Pacer::new(ctx, rate);
            let mut hooks = Hooks {
                pace: &mut |bytes| {
                    pacer.moved(bytes);
                    Ok(())
                },
                stop: &|| signals::stop_requested().is_some(),
            };
            match dry_run {
                true => compact::preview(ctx.host.as_ref(), &p.path, &plan, &mut hooks).map(Some),
                false => compact::run(&ctx.host, &p.path, &plan, &options, &mut hooks),
            }
        });
        match done {
            Ok(Some(report)) => {
                tell(ctx, &p, &report, dry_run);
                rows.push(row(&p, &report, dry_run));
            }
            Ok(None) => {}
            Err(e) => ctx.fail(&e),
        }
    }
    if ctx.json || dry_run {
        let headings = [
            "name",
            "records",
            "removed",
            "segments",
            "bytes-before",
            "bytes-after",
        ];
        table::print(ctx, &headings, &rows)?;
    }
    match signals::stop_requested() {
        Some(signal) => Ok(Outcome::Signal(u8::try_from(signal).unwrap_or(0))),
        None => Ok(Outcome::Done),
    }
}

fn plan(matches: &ArgMatches) -> Result<Plan> {
    let ms = |id, unit, default: u64| -> Result<u64> {
        let given = args::duration(matches, id, unit)?;
        Ok(given.map_or(default, |d| {
            u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
        }))
    };
    let keep = args::count(matches, "keep")?.unwrap_or(1);
    let keep = usize::try_from(keep)
        .ok()
        .filter(|n| (1..=1000).contains(n));
    let keep = keep.ok_or_else(|| {
        Error::usage("--keep: 1 to 1000 versions of a key can be kept").hint("--keep 1")
    })?;
    let memory = args::size(matches, "memory")?.unwrap_or(256 << 20);
    Ok(Plan {
        min_age_ms: ms("min-age", "h", 0)?,
        tombstone_age_ms: ms("tombstone-age", "h", 24 * 3_600_000)?,
        min_dirty: args::word(matches, "min-dirty", words::share)?.unwrap_or(0.0),
        keep,
        memory: usize::try_from(memory).unwrap_or(usize::MAX).max(1 << 20),
        segment_bytes: 0,
    })
}

/// The same with the log's own segment size.
fn of_log(ctx: &Context, p: &Partition, plan: &Plan) -> Result<Plan> {
    let dir = ctx.host.open_dir(&p.path);
    let dir = dir.map_err(|e| Error::io("cannot open", e).at_path(&p.path))?;
    let settings = ctx.settings(&*dir, &Words::default())?.settings;
    let segment_bytes = settings.segment_bytes;
    Ok(Plan {
        segment_bytes,
        ..plan.clone()
    })
}

fn row(p: &Partition, report: &Report, dry_run: bool) -> Vec<Cell> {
    let number = |n: u64| Cell::Number(i64::try_from(n).unwrap_or(i64::MAX));
    let after = match dry_run {
        true => Cell::None,
        false => Cell::Bytes(report.bytes.1),
    };
    vec![
        Cell::Text(p.name()),
        number(report.records),
        number(report.removed),
        Cell::count(report.replaced),
        Cell::Bytes(report.bytes.0),
        after,
    ]
}

fn tell(ctx: &Context, p: &Partition, report: &Report, dry_run: bool) {
    maintain::tell_lost(ctx, &p.path, &report.lost);
    if !dry_run {
        ctx.message.summary(|| {
            let (name, removed, records) = (p.name(), report.removed, report.records);
            let (before, after) = (human_bytes(report.bytes.0), human_bytes(report.bytes.1));
            format!("{name}: {removed} of {records} records removed, {before} became {after}")
        });
    }
}
