//! `logd verify`: is it sound.

use super::progress::Progress;
use super::{Context, Outcome, args};
use crate::error::Result;
use crate::format::Offset;
use crate::format::names::{Kind, file_name};
use crate::ops::output::escape::visible_string;
use crate::ops::throttle::Throttle;
use crate::ops::topic::Partition;
use crate::ops::verify::digest::{Line, Over, digest};
use crate::ops::verify::{Finding, Options, Severity, Summary, verify};
use clap::{Arg, ArgMatches, Command};
use serde_json::json;
use std::fmt::Write;

mod compare;

const EXAMPLES: &str = "\
Examples:
  logd verify logs/*-[0-9]*
  30 4 * * 0  cd ~/logs && nice logd verify -q --rate 50MiB *-[0-9]*
  logd verify --digest logs/orders-0 backup/orders-0
  logd verify --digest logs/orders-0 backup1:logs/orders-0";

const LONG: &str = "\
Checks every checksum, every record, the order of offsets, and each file beside a segment against
it: offset, time and transaction index, producer snapshots, checkpoints, and logd's own. Takes no
lock and judges the log as of its start, so appends, retention and compaction may go on. Prints one
line for each problem, FILE:BYTE: what is wrong, and ends with 1 if there is any, else with 0.

No problem: zeros at the end of a file, an index that lags behind, gaps between offsets. What is odd but nothing to repair (a file that a broker would choke on) goes to stderr.

--quick reads batch headers, and all of the last segment only. --digest prints one SHA-256 for each
segment over its batches as stored, --digest=records one for each log over its records, whatever
batches, segments and compression hold them; of two logs, only what differs.";

/// The definition.
pub fn command() -> Command {
    Command::new("verify")
        .long_about(LONG)
        .arg(
            args::from_offset()
                .help("Only batches that hold these offsets, and nothing beside them"),
        )
        .arg(args::switch(
            "quick",
            "Batch headers and the last segment only",
        ))
        .arg(
            Arg::new("digest")
                .long("digest")
                .value_name("OVER")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("batches")
                .value_parser(["batches", "records"])
                .hide_possible_values(true)
                .conflicts_with("quick")
                .help(
                    "Hashes instead: over batches (default) or records; of two logs what differs",
                ),
        )
        .arg(args::partition())
        .arg(args::json())
        .arg(args::rate())
        .arg(args::logs_anywhere())
        .after_help(EXAMPLES)
}

/// Checks each log, or prints hashes.
pub fn run(ctx: &mut Context, matches: &ArgMatches) -> Result<Outcome> {
    let options = Options {
        range: args::range(matches, "from-offset", &ctx.now())?,
        quick: args::flag(matches, "quick"),
        rate: args::size(matches, "rate")?,
        ..Options::default()
    };
    let throttle = Throttle::new(options.rate);
    let select = args::partitions(matches)?;
    let over = args::text(matches, "digest").map(|word| match word {
        "records" => Over::Records,
        _ => Over::Batches,
    });
    let words = args::os_all(matches, "log");
    if let (Some(over), [a, b], false) = (over, words.as_slice(), ctx.caller.several) {
        let how = compare::How {
            over,
            options: &options,
            throttle: &throttle,
            select: select.as_ref(),
        };
        return compare::compare(ctx, matches, [a, b], &how);
    }
    let mut logs = Vec::new();
    for word in words {
        match ctx.resolve(word, select.as_ref()) {
            Ok(found) => logs.push(found),
            Err(e) => ctx.fail(&e),
        }
    }
    match over {
        Some(over) => hashes(ctx, &logs.concat(), over, &options, &throttle),
        None => check(ctx, &logs.concat(), &options, &throttle),
    }
}

fn check(
    ctx: &mut Context,
    partitions: &[Partition],
    options: &Options,
    throttle: &Throttle,
) -> Result<Outcome> {
    let mut progress = Progress::new(ctx, None);
    let mut total = Summary::default();
    for p in partitions {
        let (host, name) = (ctx.host.clone(), p.name());
        let mut tell = |finding: &Finding| put(ctx, &name, finding);
        let mut advance = |bytes, records| progress.advance(bytes, records);
        let summary = match verify(&*host, p, options, throttle, &mut tell, &mut advance) {
            Ok(summary) => summary,
            Err(e) if e.path().is_some_and(|p| p.as_os_str() == "stdout") => return Err(e),
            Err(e) => {
                ctx.fail(&e.at_path(&p.path));
                continue;
            }
        };
        if ctx.json {
            let line = json!({
                "kind": "summary", "log": name, "segments": summary.segments,
                "batches": summary.batches, "records": summary.records,
                "bytes": summary.bytes, "problems": summary.problems,
            });
            ctx.stdout.put(format!("{line}\n").as_bytes())?;
        }
        total.records += summary.records;
        total.problems += summary.problems;
    }
    drop(progress);
    ctx.message.summary(|| match total.problems {
        0 => format!("sound; {} records", total.records),
        n => format!("{n} problems; {} sound records", total.records),
    });
    Ok(match total.problems {
        0 => Outcome::Done,
        _ => Outcome::No,
    })
}

/// One finding: a problem to stdout, an oddity to stderr.
fn put(ctx: &mut Context, log: &str, f: &Finding) -> Result<()> {
    let path = f.path.display().to_string();
    let path = ctx.name_for_caller(&path);
    let problem = f.severity == Severity::Problem;
    if ctx.json {
        let line = json!({
            "kind": if problem { "problem" } else { "warning" }, "log": log,
            "file": path, "position": f.position,
            "offset": f.offset.map(|o| o.0), "reason": f.reason,
        });
        return ctx.stdout.put(format!("{line}\n").as_bytes());
    }
    let mut line = format!("{path}:{}: ", f.position);
    if let Some(offset) = f.offset {
        let _ = write!(line, "offset {offset}: ");
    }
    line.push_str(&f.reason);
    match problem {
        true => {
            let line = visible_string(line.as_bytes()) + "\n";
            ctx.stdout.put(line.as_bytes())?;
            ctx.stdout.end_record()
        }
        false => {
            ctx.message.warn(line);
            Ok(())
        }
    }
}

/// Hashes of each log.
fn hashes(
    ctx: &mut Context,
    partitions: &[Partition],
    over: Over,
    options: &Options,
    throttle: &Throttle,
) -> Result<Outcome> {
    for p in partitions {
        let host = ctx.host.clone();
        let log = p.path.display().to_string();
        let log = ctx.name_for_caller(&log).into_owned();
        match digest(&host, p, over, options, throttle) {
            Ok(lines) => {
                if ctx.caller.cells {
                    let line = json!({ "log": log, "partition": p.number });
                    ctx.stdout.put(format!("{line}\n").as_bytes())?;
                }
                for line in lines {
                    let text = match ctx.json || ctx.caller.cells {
                        true => format!("{}\n", object(&log, p.number, &line)),
                        false => format!("{}  {}\n", hex(&line.hash), place(&log, line.segment)),
                    };
                    ctx.stdout.put(text.as_bytes())?;
                }
            }
            Err(e) => ctx.fail(&e.at_path(&p.path)),
        }
    }
    Ok(Outcome::Done)
}

fn place(log: &str, segment: Option<Offset>) -> String {
    let name = segment.map(|base| format!("/{}", file_name(base, Kind::Log)));
    visible_string(format!("{log}{}", name.unwrap_or_default()).as_bytes())
}

fn object(log: &str, partition: i32, line: &Line) -> serde_json::Value {
    json!({
        "log": log, "partition": partition, "segment": line.segment.map(|s| s.0),
        "end": line.end.0, "sha256": hex(&line.hash),
    })
}

fn hex(hash: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(hash)
}
