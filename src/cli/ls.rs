//! `logd ls`: one row per log.

use super::table::{self, Cell};
use super::{Context, Outcome, args};
use crate::error::{Error, Result};
use crate::ops::info::{self, LogInfo};
use crate::ops::topic::{self, Partition};
use clap::{ArgMatches, Command};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;

const HEADINGS: [&str; 8] = [
    "name",
    "partitions",
    "earliest",
    "end",
    "records",
    "size",
    "oldest",
    "newest",
];

const EXAMPLES: &str = "\
Examples:
  logd ls logs
  logd ls --json logs | jq -r 'select(.records > 0).name'";

const LONG: &str = "\
Prints one row per log: its name, how many partitions it has, the smallest and the largest offset
in any of them, records and bytes in all of them, and the oldest and newest timestamp.

On a terminal the table is aligned and sizes have units; elsewhere it is tab-separated with one
header row, and sizes are bytes. In --json timestamps are milliseconds since 1970.";

/// The definition.
pub fn command() -> Command {
    let dirs = args::operand("dir", "DIR").num_args(0..);
    Command::new("ls")
        .long_about(LONG)
        .arg(
            dirs.help(
                "Directories of logs, or logs; HOST:DIR through ssh [default: $LOGD_DIR, else the working directory]",
            ),
        )
        .arg(args::json())
        .after_help(EXAMPLES)
}

/// Lists the logs.
pub fn run(ctx: &mut Context, matches: &ArgMatches) -> Result<Outcome> {
    let mut dirs = args::os_all(matches, "dir");
    if dirs.is_empty() {
        dirs.push(OsStr::new("."));
    }
    let mut rows = Vec::new();
    for dir in dirs {
        match logs_of(ctx, dir) {
            Ok(logs) => {
                for (name, partitions) in logs {
                    rows.extend(row(ctx, &name, &partitions));
                }
            }
            Err(e) => ctx.fail(&e),
        }
    }
    table::print(ctx, &HEADINGS, &rows)?;
    Ok(Outcome::Done)
}

/// The logs in a directory, or the one that the word names, by name.
fn logs_of(ctx: &Context, word: &OsStr) -> Result<BTreeMap<String, Vec<Partition>>> {
    let path = ctx.path(word)?;
    let mut logs: BTreeMap<String, Vec<Partition>> = BTreeMap::new();
    let dir = topic::open_if_there(&*ctx.host, &path)?;
    let Some(dir) = dir.filter(|d| !topic::is_partition(&**d).unwrap_or(false)) else {
        let partitions = ctx.resolve(word, None)?;
        logs.insert(word.to_string_lossy().into_owned(), partitions);
        return Ok(logs);
    };
    // Names that can be given to another command as they are, below $LOGD_DIR as these were.
    let prefix = match word == "." {
        true => Path::new(""),
        false => Path::new(word),
    };
    for (topic, number) in topic::partitions_in(&*dir)? {
        let name = prefix.join(&topic).to_string_lossy().into_owned();
        let path = path.join(crate::format::names::partition_name(&topic, number));
        let of_topic = logs.entry(name).or_default();
        of_topic.push(Partition {
            path,
            topic,
            number,
        });
    }
    Ok(logs)
}

/// The row of one log, with all its partitions taken together; none if nothing could be read.
fn row(ctx: &mut Context, name: &str, partitions: &[Partition]) -> Option<Vec<Cell>> {
    let mut infos: Vec<LogInfo> = Vec::new();
    for p in partitions {
        match info::survey(&*ctx.host, p) {
            Ok(i) => {
                fail_on_damage(ctx, p, &i);
                infos.push(i);
            }
            Err(e) => ctx.fail(&e),
        }
    }
    let earliest = infos.iter().map(|i| i.earliest).min()?;
    let end = infos.iter().map(|i| i.end).max()?;
    let records: u64 = infos.iter().map(LogInfo::records).sum();
    Some(vec![
        Cell::Text(ctx.name_for_caller(name).into_owned()),
        Cell::count(partitions.len()),
        earliest.into(),
        end.into(),
        Cell::Number(i64::try_from(records).unwrap_or(i64::MAX)),
        Cell::Bytes(infos.iter().map(LogInfo::bytes).sum()),
        infos.iter().filter_map(LogInfo::oldest).min().into(),
        infos.iter().filter_map(LogInfo::newest).max().into(),
    ])
}

/// Tells where a log stopped making sense: what is behind that is not in its numbers.
pub(super) fn fail_on_damage(ctx: &mut Context, p: &Partition, info: &LogInfo) {
    for s in &info.segments {
        if let Some((position, why)) = &s.damage {
            use crate::format::names::{Kind, file_name};
            let file = p.path.join(file_name(s.base, Kind::Log));
            let error = Error::data(format!("{why}; what follows is not counted"));
            let error = error.at_path(file).at_position(position.0);
            ctx.fail(&error.hint(format!("logd verify {}", p.path.display())));
        }
    }
}
