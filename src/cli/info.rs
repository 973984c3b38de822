//! `logd info`: what a log holds, in rows or as one bare value.

use super::groups;
use super::index::parts;
use super::ls::fail_on_damage;
use super::table::{self, Cell};
use super::{Context, Outcome, args};
use crate::error::{Error, Result};
use crate::ops::index::{self, State};
use crate::ops::info::{self, LogInfo};
use crate::ops::settings::Words;
use crate::ops::topic::Partition;
use clap::{ArgMatches, Command};

/// What a log's row holds after its name; each can be printed alone.
const FIELDS: [&str; 9] = [
    "earliest",
    "end",
    "durable",
    "records",
    "bytes",
    "oldest",
    "newest",
    "segments",
    "dirty-ratio",
];

const EXAMPLES: &str = "\
Examples:
  logd info logs/orders
  logd info --segments logs/orders-0
  logd info --groups logs/orders
  test \"$(logd info --print end logs/orders-0)\" -gt 0";

const LONG: &str = "\
Prints one row per partition, from batch headers alone:

  earliest     the log start: the smallest offset that can be read
  end          the offset the next record gets
  durable      below it everything survives a power cut; - if unknown
  records      without control records, gaps not counted
  bytes        of batches, as stored
  oldest       smallest timestamp that a batch header names
  newest       largest timestamp
  segments     how many there are
  dirty-ratio  share of bytes that no compaction has been over; an estimate

The dirty ratio counts the bytes of batches behind the last offset that a compaction is known to have
written. What it looked at behind that and left as it was counts as dirty, and so does the segment
that is appended to.

--print writes one of these as a bare value. Checksums are not looked at. Damage that shows in
headers is told, what follows it in that segment is not counted, and the exit status is 65.";

/// The definition.
pub fn command() -> Command {
    let views = ["segments", "groups", "indexes", "settings", "print"];
    let mut command = Command::new("info")
        .long_about(LONG)
        .arg(args::switch("segments", "One row per segment"))
        .arg(args::switch("groups", "One row per named reader position, and how far behind it is"))
        .arg(args::switch("indexes", "One row per look-up index and segment"))
        .arg(args::switch("settings", "Each setting, and where it came from"))
        .arg(
            args::option("print", "FIELD", "One bare value: earliest end durable records bytes oldest newest segments dirty-ratio")
                .value_parser(FIELDS)
                .hide_possible_values(true),
        )
        .arg(args::partition())
        .arg(args::json())
        .arg(args::logs_anywhere())
        .after_help(EXAMPLES);
    for view in views {
        let others = views.into_iter().filter(|v| *v != view);
        command = command.mut_arg(view, |a| a.conflicts_with_all(others));
    }
    command
}

/// Prints what was asked for.
pub fn run(ctx: &mut Context, matches: &ArgMatches) -> Result<Outcome> {
    let select = args::partitions(matches)?;
    let mut partitions = Vec::new();
    for log in args::os_all(matches, "log") {
        match ctx.resolve(log, select.as_ref()) {
            Ok(found) => partitions.extend(found),
            Err(e) => ctx.fail(&e),
        }
    }
    if let Some(field) = args::text(matches, "print") {
        for p in &partitions {
            print_field(ctx, p, field)?;
        }
    } else if args::flag(matches, "groups") {
        let rows = groups::lag_rows(ctx, &partitions, None, |_, _| {})?;
        table::print(ctx, &groups::LAG_HEADINGS, &rows)?;
    } else if args::flag(matches, "settings") {
        settings(ctx, &partitions)?;
    } else if args::flag(matches, "indexes") {
        indexes(ctx, &partitions)?;
    } else if args::flag(matches, "segments") {
        segments(ctx, &partitions)?;
    } else {
        logs(ctx, &partitions)?;
    }
    Ok(Outcome::Done)
}

/// One bare value on a line of its own. The ends of a log are told without looking at all of it.
fn print_field(ctx: &mut Context, p: &Partition, field: &str) -> Result<()> {
    let value = match field {
        "earliest" | "end" => info::ends(&*ctx.host, p).map(|(earliest, end)| match field {
            "end" => end.into(),
            _ => earliest.into(),
        }),
        "durable" => info::durable(&*ctx.host, p).map(Cell::from),
        _ => survey(ctx, p).map(|i| cell(&i, field)),
    };
    match value {
        Ok(value) => ctx
            .stdout
            .put(format!("{}\n", value.text(false)).as_bytes()),
        Err(e) => {
            ctx.fail(&e);
            Ok(())
        }
    }
}

fn survey(ctx: &mut Context, p: &Partition) -> Result<LogInfo> {
    let info = info::survey(&*ctx.host, p)?;
    fail_on_damage(ctx, p, &info);
    Ok(info)
}

fn number(n: u64) -> Cell {
    Cell::Number(i64::try_from(n).unwrap_or(i64::MAX))
}

/// A field of the row of a log.
fn cell(info: &LogInfo, field: &str) -> Cell {
    match field {
        "earliest" => info.earliest.into(),
        "end" => info.end.into(),
        "records" => number(info.records()),
        "bytes" => Cell::Bytes(info.bytes()),
        "oldest" => info.oldest().into(),
        "newest" => info.newest().into(),
        "segments" => Cell::count(info.segments.len()),
        "dirty-ratio" => Cell::Share(info.dirty_ratio()),
        _ => Cell::None,
    }
}

fn logs(ctx: &mut Context, partitions: &[Partition]) -> Result<()> {
    let mut rows = Vec::new();
    for p in partitions {
        let row = survey(ctx, p).and_then(|info| {
            let durable = info::durable(&*ctx.host, p)?;
            let mut row = vec![Cell::Text(p.name())];
            row.extend(FIELDS.iter().map(|f| match *f {
                "durable" => durable.into(),
                f => cell(&info, f),
            }));
            Ok(row)
        });
        match row {
            Ok(row) => rows.push(row),
            Err(e) => ctx.fail(&e),
        }
    }
    let headings: Vec<&str> = ["name"].into_iter().chain(FIELDS).collect();
    table::print(ctx, &headings, &rows)
}

fn segments(ctx: &mut Context, partitions: &[Partition]) -> Result<()> {
    let mut rows = Vec::new();
    for p in partitions {
        let info = match survey(ctx, p) {
            Ok(info) => info,
            Err(e) => {
                ctx.fail(&e);
                continue;
            }
        };
        rows.extend(info.segments.iter().map(|s| {
            vec![
                Cell::Text(p.name()),
                s.base.into(),
                s.end.into(),
                number(s.records),
                number(s.batches),
                Cell::Bytes(s.bytes),
                s.oldest.into(),
                s.newest.into(),
                Cell::Text(if s.active { "active" } else { "sealed" }.into()),
            ]
        }));
    }
    let headings = [
        "name", "base", "end", "records", "batches", "bytes", "oldest", "newest", "state",
    ];
    table::print(ctx, &headings, &rows)
}

fn indexes(ctx: &mut Context, partitions: &[Partition]) -> Result<()> {
    let mut out = Vec::new();
    for p in partitions {
        match index::list(&*ctx.host, p) {
            Ok((rows, _)) => out.extend(rows.into_iter().map(|r| {
                let state = match r.state {
                    State::Sound => "sound",
                    State::Void => "void",
                    State::Damaged => "damaged",
                };
                vec![
                    Cell::Text(p.name()),
                    r.field.map_or(Cell::None, Cell::Text),
                    r.base.into(),
                    Cell::Text(parts(r.table, r.filter)),
                    number(r.values),
                    Cell::Bytes(r.bytes),
                    Cell::Text(state.into()),
                ]
            })),
            Err(e) => ctx.fail(&e),
        }
    }
    let headings = ["name", "field", "base", "parts", "values", "bytes", "state"];
    table::print(ctx, &headings, &out)
}

fn settings(ctx: &mut Context, partitions: &[Partition]) -> Result<()> {
    let mut rows = Vec::new();
    for p in partitions {
        let opened = ctx.host.open_dir(&p.path);
        let layered = opened
            .map_err(|e| Error::io("cannot open", e).at_path(&p.path))
            .and_then(|dir| ctx.settings(&*dir, &Words::default()));
        match layered {
            Ok(layered) => rows.extend(layered.rows.into_iter().map(|r| {
                vec![
                    Cell::Text(p.name()),
                    Cell::Text(r.name.into()),
                    Cell::Text(r.word),
                    Cell::Text(r.source.name().into()),
                ]
            })),
            Err(e) => ctx.fail(&e),
        }
    }
    table::print(ctx, &["name", "setting", "value", "source"], &rows)
}
