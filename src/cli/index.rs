//! `logd index`: make lookups fast.

use std::collections::BTreeMap;
use std::sync::Mutex;

use clap::{ArgAction, ArgMatches, Command};

use super::progress::Progress;
use super::table::{self, Cell};
use super::{Context, Outcome, args};
use crate::error::Result;
use crate::log::maintenance::{Maintenance, MaintenanceOptions};
use crate::ops::index::{self, IndexOptions, Report, Row, State};
use crate::ops::topic::Partition;
use crate::ops::words::Field;

const EXAMPLES: &str = "\
Examples:
  logd index --by key logs/users
  logd index --by json:/order_id --bloom logs/orders
  */5 * * * *  logd index --skip-if-locked ~/logs/orders";

const LONG: &str = "\
Makes an index for each sealed segment and field: with --by key, get finds a key at once instead of
reading back to it. The field is key, value, header:NAME or json:/POINTER. --bloom adds a filter, by
which grep skips segments that cannot hold a text; without --by it is one of the value alone.

Without options it brings every index that is there up to date: only segments without one are read,
and indexes of segments that are gone are removed. So are the offset and time indexes that each sealed
segment has: one that is missing, cut short or plainly wrong is made anew (verify checks each entry).
--rebuild makes all of them anew, --list tells which look-up indexes there are, --drop removes those
(with --by only some).

Indexes cover sealed segments; readers read the rest, so a stale or missing index costs time, never
answers. An index that is asked for by name therefore seals the active segment first if it holds a
MiB or more. Files lie in .logd/keys and may be deleted at any moment. A damaged segment gets none:
the damage is told, and the exit status is 65.";

/// The definition.
pub fn command() -> Command {
    Command::new("index")
        .long_about(LONG)
        .arg(
            args::option(
                "by",
                "FIELD",
                "key, value, header:NAME or json:/POINTER; repeatable",
            )
            .action(ArgAction::Append),
        )
        .arg(args::switch("bloom", "With a filter for text, for grep"))
        .arg(args::switch("rebuild", "Make all anew").conflicts_with_all(["drop", "list"]))
        .arg(
            args::switch("drop", "Remove all, or those of --by")
                .conflicts_with_all(["list", "bloom"]),
        )
        .arg(args::switch("list", "One row per field").conflicts_with_all(["by", "bloom"]))
        .arg(args::partition())
        .arg(args::json())
        .args(args::waiting())
        .arg(args::allow_network_fs())
        .arg(args::logs())
        .after_help(EXAMPLES)
}

/// Runs it.
///
/// # Errors
/// Wrong usage, before anything is touched.
pub fn run(ctx: &mut Context, m: &ArgMatches) -> Result<Outcome> {
    let by = m.try_get_many::<String>("by").ok().flatten();
    let by = by.into_iter().flatten().map(|word| {
        let field = Field::parse(word);
        let field = field.map_err(|e| crate::ops::words::in_option("--by", e))?;
        index::check_field(&field).map(|()| field)
    });
    let options = IndexOptions {
        by: by.collect::<Result<_>>()?,
        bloom: args::flag(m, "bloom"),
        rebuild: args::flag(m, "rebuild"),
    };
    let take = MaintenanceOptions {
        command: "logd index".to_string(),
        wait: args::duration(m, "wait", "s")?.unwrap_or_default(),
        allow_network_fs: args::flag(m, "allow-network-fs"),
    };
    let select = args::partitions(m)?;
    let mut partitions = Vec::new();
    for log in args::os_all(m, "log") {
        match ctx.resolve(log, select.as_ref()) {
            Ok(found) => partitions.extend(found),
            Err(e) => ctx.fail(&e),
        }
    }
    if args::flag(m, "list") {
        return list(ctx, &partitions);
    }
    let mut rows = Vec::new();
    for partition in &partitions {
        let done = match args::flag(m, "drop") {
            true => Maintenance::open(&ctx.host, &partition.path, &take)
                .and_then(|taken| index::drop_indexes(&taken, &options.by)),
            false => make(ctx, partition, &take, &options),
        };
        match done {
            Ok(report) => tell(ctx, partition, &report, &mut rows),
            Err(e) => ctx.fail(&e.at_path(&partition.path)),
        }
    }
    if ctx.json {
        table::print(
            ctx,
            &["name", "made", "bytes", "kept", "removed", "rebuilt"],
            &rows,
        )?;
    }
    Ok(Outcome::Done)
}

fn make(
    ctx: &Context,
    partition: &Partition,
    take: &MaintenanceOptions,
    options: &IndexOptions,
) -> Result<Report> {
    let mut taken = Maintenance::open(&ctx.host, &partition.path, take)?;
    let progress: Mutex<Option<Progress>> = Mutex::new(None);
    let with = |work: &mut dyn FnMut(&mut Option<Progress>)| {
        // A thread that panicked has ended the process.
        if let Ok(mut progress) = progress.lock() {
            work(&mut progress);
        }
    };
    let total = |bytes| with(&mut |p| *p = Some(Progress::new(ctx, Some(bytes))));
    let advance = |bytes, records| {
        with(&mut |p| {
            if let Some(p) = p {
                p.advance(bytes, records);
            }
        });
    };
    index::run(&mut taken, options, &total, &advance)
}

fn tell(ctx: &mut Context, partition: &Partition, report: &Report, rows: &mut Vec<Vec<Cell>>) {
    for e in &report.damaged {
        ctx.fail(e);
    }
    let name = partition.name();
    rows.push(vec![
        Cell::Text(name.clone()),
        number(report.made),
        Cell::Bytes(report.bytes),
        number(report.kept),
        number(report.removed),
        number(report.rebuilt),
    ]);
    ctx.message.summary(|| {
        let bytes = table::human_bytes(report.bytes);
        let Report {
            made,
            kept,
            removed,
            rebuilt,
            ..
        } = report;
        let beside = match rebuilt {
            0 => String::new(),
            n => format!("; offset and time indexes of {n} segments made anew"),
        };
        format!("{name}: {made} indexes made ({bytes}), {kept} kept, {removed} removed{beside}")
    });
}

fn number(n: u64) -> Cell {
    Cell::Number(i64::try_from(n).unwrap_or(i64::MAX))
}

/// One row for each field of each partition.
fn list(ctx: &mut Context, partitions: &[Partition]) -> Result<Outcome> {
    let mut out = Vec::new();
    for partition in partitions {
        let (rows, sealed) = match index::list(&*ctx.host, partition) {
            Ok(listed) => listed,
            Err(e) => {
                ctx.fail(&e);
                continue;
            }
        };
        let mut fields: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        for row in rows {
            fields
                .entry(row.field.clone().unwrap_or_default())
                .or_default()
                .push(row);
        }
        for (field, rows) in fields {
            let sound: Vec<&Row> = rows.iter().filter(|r| r.state == State::Sound).collect();
            out.push(vec![
                Cell::Text(partition.name()),
                Cell::Text(field),
                Cell::Text(parts(
                    rows.iter().any(|r| r.table),
                    rows.iter().any(|r| r.filter),
                )),
                Cell::count(sound.len()),
                Cell::count(sealed),
                number(sound.iter().map(|r| r.values).sum()),
                Cell::Bytes(rows.iter().map(|r| r.bytes).sum()),
            ]);
        }
    }
    let headings = [
        "name", "field", "parts", "segments", "sealed", "values", "bytes",
    ];
    table::print(ctx, &headings, &out)?;
    Ok(Outcome::Done)
}

/// What an index consists of, in words.
pub(super) fn parts(table: bool, filter: bool) -> String {
    match (table, filter) {
        (true, true) => "table,filter",
        (true, false) => "table",
        (false, true) => "filter",
        (false, false) => "-",
    }
    .to_string()
}
