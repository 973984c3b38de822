//! What `append` tells at its end.
//!
//! Every end but a silent success prints one summary line: records and input bytes acknowledged,
//! their offsets, how far the log is durable, and the input bytes that were read but not
//! acknowledged. A malformed record's message has the count as well, since that is where one looks.

use std::ffi::OsStr;
use std::fmt::Write as _;

use super::asked::Asked;
use crate::cli::{Context, Outcome};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Offset;
use crate::log::lost::Lost;
use crate::log::writer::Writer;
use crate::ops::append::ledger::Tally;
use crate::ops::append::{End, Report, SyncWhen};
use crate::ops::topic::Partition;

/// Partitions whose offsets the summary line has room for.
const PARTITIONS_NAMED: usize = 4;

/// Tells what recovery took out of a log before this run wrote to it.
pub fn lost(ctx: &Context, name: &str, lost: &[Lost]) {
    for l in lost {
        ctx.message.warn(format!(
            "{name}: {}: {} bytes from offset {} on were taken out (segment {:020}, byte {})",
            l.reason, l.bytes, l.offset, l.segment.0, l.position
        ));
    }
}

/// `--print next` of a run that wrote nothing is the log's end.
pub fn next_offset(asked: &Asked, writers: &mut [Writer]) -> Option<Offset> {
    if asked.print.as_deref() != Some("next") {
        return None;
    }
    let hold = writers.first_mut()?.hold().ok()?;
    let next = hold.next_offset();
    hold.release().ok()?;
    Some(next)
}

/// Tells how the run ended, and turns that into an outcome.
///
/// # Errors
/// `Timeout`; or stdout cannot be written.
pub fn tell(
    ctx: &mut Context,
    asked: &Asked,
    log: &OsStr,
    partitions: &[Partition],
    report: Report,
    next: Option<Offset>,
    seekable: bool,
) -> Result<Outcome> {
    let name = match partitions {
        [one] => one.name(),
        _ => log.to_string_lossy().into_owned(),
    };
    print(ctx, asked, &report, next)?;
    if ctx.json {
        let line = json(partitions, &report);
        ctx.stdout.put(format!("{line}\n").as_bytes())?;
    }
    if report.forgot {
        ctx.message.warn(format!(
            "{name}: --unique had more IDs to remember than it has room for; the oldest were forgotten early"
        ));
    }
    let summary = summary(&name, partitions, &report, asked.options.sync, seekable);
    let (outcome, silent) = outcome(ctx, asked, &name, &report);
    for e in &report.further {
        ctx.fail(e);
    }
    match silent && report.further.is_empty() {
        true => ctx.message.summary(|| summary),
        false => ctx.message.progress(&summary),
    }
    outcome
}

/// The outcome, its errors told, and whether it is a success that needs no words.
fn outcome(
    ctx: &mut Context,
    asked: &Asked,
    name: &str,
    report: &Report,
) -> (Result<Outcome>, bool) {
    match &report.end {
        End::Input if report.rejected > 0 => {
            let why = format!("{name}: {} records were rejected", report.rejected);
            ctx.message.warn(why);
            (Ok(Outcome::Losses), false)
        }
        End::Input => (Ok(Outcome::Done), true),
        End::BadInput(e) => {
            ctx.fail(&bad_input(name, e, report));
            (Ok(Outcome::Done), false)
        }
        End::Signal(n) => (Ok(Outcome::Signal(u8::try_from(*n).unwrap_or(0))), false),
        End::Timeout => {
            let why = "the time of --timeout passed before the input ended";
            ctx.fail(&Error::new(ErrorKind::Timeout, why).at_path(name));
            (Ok(Outcome::Done), false)
        }
        End::Failed(e) => {
            ctx.fail(e);
            let quiet = asked.skip_if_locked && e.kind() == ErrorKind::Locked;
            (Ok(Outcome::Done), quiet)
        }
    }
}

/// `orders-0: stdin:18204: not JSON at column 17; 18203 records were written, offsets 512..18715`
fn bad_input(name: &str, e: &Error, report: &Report) -> Error {
    let mut what = format!("{e}; {} records were written", report.records());
    if let [
        Tally {
            offsets: Some((first, next)),
            ..
        },
    ] = report.tallies.as_slice()
    {
        let _ = write!(what, ", offsets {first}..{next}");
    }
    let error = Error::new(e.kind(), what).at_path(name);
    match e.hint_text() {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn summary(
    name: &str,
    partitions: &[Partition],
    report: &Report,
    sync: SyncWhen,
    seekable: bool,
) -> String {
    let done = match sync {
        SyncWhen::Never => "written",
        _ => "safely written",
    };
    let mut line = format!(
        "{name}: {} records {done}, from {} bytes of input",
        report.records(),
        report.bytes()
    );
    let there = report.tallies.iter().zip(partitions);
    let there: Vec<_> = there.filter(|(t, _)| t.offsets.is_some()).collect();
    for (i, (tally, partition)) in there.iter().take(PARTITIONS_NAMED).enumerate() {
        let Some((first, next)) = tally.offsets else {
            continue;
        };
        let _ = match (i, partitions.len()) {
            (_, 1) => write!(line, ", offsets {first}..{next}"),
            (0, _) => write!(line, ", offsets {} {first}..{next}", partition.name()),
            _ => write!(line, ", {} {first}..{next}", partition.name()),
        };
        if let Some(d) = tally.durable {
            let _ = write!(line, " (durable to {d})");
        }
    }
    if there.len() > PARTITIONS_NAMED {
        let _ = write!(
            line,
            " and {} partitions more",
            there.len() - PARTITIONS_NAMED
        );
    }
    for (n, what) in [
        (report.skipped, "records were there from an earlier run"),
        (report.repeated, "repeats dropped"),
        (report.rejected, "records rejected"),
    ] {
        if n > 0 {
            let _ = write!(line, "; {n} {what}");
        }
    }
    let _ = write!(
        line,
        "; {} bytes read and not acknowledged",
        report.unacknowledged
    );
    if seekable && !matches!(report.end, End::Input) {
        let _ = write!(line, "; go on with --skip-bytes {}", report.frontier);
    }
    line
}

fn print(ctx: &mut Context, asked: &Asked, report: &Report, end: Option<Offset>) -> Result<()> {
    let offsets = report.tallies.first().and_then(|t| t.offsets);
    let value = match asked.print.as_deref() {
        Some("count") => Some(report.records().cast_signed()),
        Some("first") => offsets.map(|(first, _)| first.0),
        Some("last") => offsets.map(|(_, next)| next.0 - 1),
        Some("next") => offsets.map(|(_, next)| next.0).or(end.map(|o| o.0)),
        _ => None,
    };
    match value {
        Some(n) => ctx.stdout.put(format!("{n}\n").as_bytes()),
        None => Ok(()),
    }
}

fn json(partitions: &[Partition], report: &Report) -> serde_json::Value {
    let each = partitions.iter().zip(&report.tallies).map(|(p, t)| {
        serde_json::json!({
            "topic": p.topic,
            "partition": p.number,
            "records": t.records,
            "bytes": t.bytes,
            "first": t.offsets.map(|o| o.0.0),
            "next": t.offsets.map(|o| o.1.0),
            "durable": t.durable.map(|d| d.0),
        })
    });
    let (end, error) = match &report.end {
        End::Input => ("input", None),
        End::BadInput(e) => ("bad-input", Some(e.to_string())),
        End::Signal(_) => ("signal", None),
        End::Timeout => ("timeout", None),
        End::Failed(e) => ("failed", Some(e.to_string())),
    };
    serde_json::json!({
        "records": report.records(),
        "bytes": report.bytes(),
        "unacknowledged": report.unacknowledged,
        "resume": report.frontier,
        "skipped": report.skipped,
        "repeated": report.repeated,
        "rejected": report.rejected,
        "end": end,
        "error": error,
        "partitions": each.collect::<Vec<_>>(),
    })
}
