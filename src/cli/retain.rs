//! `logd retain`: delete the old.

use super::table::{self, Cell, human_bytes};
use super::{Context, Outcome, args, maintain};
use crate::error::{Error, Result};
use crate::ops::output::date::rfc3339_string;
use crate::ops::retain::{self, Bounds, Report};
use crate::ops::settings::Words;
use crate::ops::topic::Partition;
use crate::ops::words::{self, Pos};
use clap::{ArgMatches, Command};

const EXAMPLES: &str = "\
Examples:
  logd retain --max-age 7d --dry-run logs/app
  */10 * * * *  logd retain --max-size 20GiB --skip-if-locked ~/logs/app
  logd retain --before @2026-01-01 --exact --respect-groups logs/orders";

const LONG: &str = "\
Removes what is past any of the limits, from the start of each partition. Without a limit on the
command line, the log's own settings say what may go (max-age and max-size, where cleanup is delete).

Whole segments go. The newest segment is sealed first if it holds something to delete, and goes with
a later run at the latest. --exact also rewrites the segment that a limit falls into, so that the log
begins exactly there: at the first record, by offset, that no limit has passed.

--max-size keeps at least that much: the oldest segment goes once those behind it are enough.

A record's age is told by its timestamp. One from the future is reported and counts as the age of its
file. Where the clock has jumped more than an hour ahead since the last append of this boot, nothing
is deleted by age (78) without --force.

--respect-groups keeps what any group, or copy, has not read.";

/// The definition.
pub fn command() -> Command {
    let command = Command::new("retain")
        .long_about(LONG)
        .arg(
            args::option("max-age", "DURATION", "Records older than that may go")
                .allow_hyphen_values(false),
        )
        .arg(args::option(
            "max-size",
            "SIZE",
            "What is before the newest SIZE of each partition may go",
        ))
        .arg(args::option(
            "max-records",
            "N",
            "What is before the newest N records of each partition may go",
        ))
        .arg(args::option("before", "POS", "What is before POS may go"))
        .arg(args::switch(
            "exact",
            "Cut the segment that a limit falls into, too",
        ))
        .arg(args::switch(
            "respect-groups",
            "Keep what any group has not read",
        ))
        .arg(args::switch(
            "force",
            "Believe ages although the clock has jumped",
        ));
    maintain::arguments(command).after_help(EXAMPLES)
}

/// Removes what may go, or says what would.
pub fn run(ctx: &mut Context, matches: &ArgMatches) -> Result<Outcome> {
    let bounds = bounds(ctx, matches)?;
    let options = maintain::options(matches, "retain")?;
    let dry_run = args::flag(matches, "dry-run");
    // `none` lifts a limit; it does not call in the log's own.
    let is_given = ["max-age", "max-size"]
        .iter()
        .any(|id| matches.contains_id(id));
    let mut rows = Vec::new();
    for p in maintain::partitions(ctx, matches)? {
        let host = ctx.host.clone();
        let done = of_log(ctx, &p, &bounds, is_given).and_then(|bounds| match dry_run {
            true => retain::preview(host.as_ref(), &p.path, &bounds).map(Some),
            false => retain::run(&host, &p.path, &bounds, &options),
        });
        match done {
            Ok(Some(report)) => {
                tell(ctx, &p, &report, dry_run);
                rows.extend(table_rows(&p, &report));
            }
            Ok(None) => {}
            Err(e) => ctx.fail(&e),
        }
    }
    if ctx.json || dry_run {
        table::print(ctx, &["name", "from", "to", "bytes"], &rows)?;
    }
    Ok(Outcome::Done)
}

/// The limits on the command line.
fn bounds(ctx: &Context, matches: &ArgMatches) -> Result<Bounds> {
    let age = args::word(matches, "max-age", |w| words::duration_or_none(w, "d"))?.flatten();
    let bytes = args::word(matches, "max-size", words::size_or_none)?.flatten();
    let before = args::word(matches, "before", |w| Pos::parse(w, &ctx.now()))?;
    if matches!(before, Some(Pos::Current(_))) {
        let error = Error::usage("--before: only a group has a current position");
        return Err(error.hint("--respect-groups"));
    }
    Ok(Bounds {
        age_ms: age.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
        bytes,
        records: args::count(matches, "max-records")?,
        before,
        respect_groups: args::flag(matches, "respect-groups"),
        exact: args::flag(matches, "exact"),
        force: args::flag(matches, "force"),
    })
}

/// The same, or the log's own where the command line has none.
fn of_log(ctx: &Context, p: &Partition, bounds: &Bounds, is_given: bool) -> Result<Bounds> {
    if is_given || !bounds.is_empty() {
        return Ok(bounds.clone());
    }
    let dir = ctx.host.open_dir(&p.path);
    let dir = dir.map_err(|e| Error::io("cannot open", e).at_path(&p.path))?;
    let settings = ctx.settings(&*dir, &Words::default())?.settings;
    let delete = settings.cleanup.delete;
    Ok(Bounds {
        age_ms: settings.age_ms_max.filter(|_| delete),
        bytes: settings.log_bytes_max.filter(|_| delete),
        ..bounds.clone()
    })
}

fn table_rows(p: &Partition, report: &Report) -> Vec<Vec<Cell>> {
    let row = |g: &retain::Gone| {
        vec![
            Cell::Text(p.name()),
            g.from.into(),
            g.to.into(),
            g.bytes.map_or(Cell::None, Cell::Bytes),
        ]
    };
    report.gone.iter().map(row).collect()
}

/// Timestamps from the future, losses, and on a terminal what was done.
fn tell(ctx: &Context, p: &Partition, report: &Report, dry_run: bool) {
    for (base, timestamp) in &report.future {
        let (path, at) = (p.path.display(), rfc3339_string(*timestamp));
        ctx.message.warn(format!(
            "{path}: segment {base}: a timestamp from the future, {at}; its age is taken from its file"
        ));
    }
    maintain::tell_lost(ctx, &p.path, &report.lost);
    if let (false, Some(first), Some(last)) = (dry_run, report.gone.first(), report.gone.last()) {
        let bytes: u64 = report.gone.iter().filter_map(|g| g.bytes).sum();
        let (name, n) = (p.name(), report.gone.len());
        ctx.message.summary(|| {
            let (from, to, size) = (first.from, last.to, human_bytes(bytes));
            format!("{name}: {n} segments removed, offsets {from}..{to}, {size}")
        });
    }
}
