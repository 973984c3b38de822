//! What differs between two logs by their hashes, wherever each of them is.
//!
//! Both sides work at once: one here on a thread of its own, one elsewhere through ssh. That one answers
//! with a line for each partition and one for each hash in it, the objects of `--json`.

use super::{hex, object, place};
use crate::cli::exit::Exit;
use crate::cli::{Context, Outcome, remote};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Offset;
use crate::ops::remote::host_word;
use crate::ops::throttle::Throttle;
use crate::ops::topic::Partition;
use crate::ops::verify::Options;
use crate::ops::verify::digest::{Line, Over, digest};
use crate::ops::words::{LogName, Partitions};
use clap::ArgMatches;
use serde_json::Value;
use std::ffi::OsStr;

/// What is compared, and how.
pub(super) struct How<'a> {
    pub over: Over,
    pub options: &'a Options,
    pub throttle: &'a Throttle,
    pub select: Option<&'a Partitions>,
}

/// One of the two logs.
enum Side {
    Here(Vec<Partition>),
    There(String, remote::Asked),
}

/// The hashes of one partition.
struct Hashes {
    number: i32,
    /// What it is called.
    log: String,
    lines: Result<Vec<Line>>,
}

/// Prints what differs, partition by partition.
///
/// # Errors
/// Usage; `Unreachable`; a closed stdout.
pub(super) fn compare(
    ctx: &mut Context,
    m: &ArgMatches,
    words: [&OsStr; 2],
    how: &How<'_>,
) -> Result<Outcome> {
    let mut sides = Vec::new();
    for word in words {
        match side(ctx, m, word, how.select) {
            Err(e) if e.kind() == ErrorKind::Usage => return Err(e),
            Err(e) => ctx.fail(&e),
            Ok(side) => sides.push(side),
        }
    }
    let Ok([a, b]) = <[Side; 2]>::try_from(sides) else {
        return Ok(Outcome::Done); // what is missing was told
    };
    let host = ctx.host.clone();
    let one = |p: &Partition| Hashes {
        number: p.number,
        log: p.path.display().to_string(),
        lines: digest(&host, p, how.over, how.options, how.throttle)
            .map_err(|e| e.at_path(&p.path)),
    };
    let here = |side: &Side| match side {
        Side::Here(partitions) => partitions.iter().map(one).collect(),
        Side::There(..) => Vec::new(),
    };
    // Each is one thread's work: both at once.
    let (left, right) = std::thread::scope(|s| {
        let right = s.spawn(|| here(&b));
        (here(&a), right.join())
    });
    let right = right.map_err(|_| Error::new(ErrorKind::Bug, "a thread panicked"))?;
    match (hashes(ctx, a, left)?, hashes(ctx, b, right)?) {
        (Some(left), Some(right)) => pairs(ctx, left, right),
        _ => Ok(Outcome::Done),
    }
}

fn side(ctx: &Context, m: &ArgMatches, word: &OsStr, select: Option<&Partitions>) -> Result<Side> {
    match LogName::parse(word)? {
        LogName::Remote { host, path } if !ctx.confined => {
            let asked = remote::ask_digest(ctx, m, &host, &path)?;
            Ok(Side::There(host, asked))
        }
        _ => ctx.resolve(word, select).map(Side::Here),
    }
}

/// The hashes of a side, those of one elsewhere waited for; none if it failed, which was told.
fn hashes(ctx: &mut Context, side: Side, here: Vec<Hashes>) -> Result<Option<Vec<Hashes>>> {
    let Side::There(host, asked) = side else {
        return Ok(Some(here));
    };
    match asked.answer(ctx) {
        Ok((Exit::Done, bytes)) => {
            let host = host_word(&host);
            parse(&bytes).map(Some).ok_or_else(|| {
                let why = "what came back are no hashes: another version of logd, or no logd";
                Error::data(why).at_path(host)
            })
        }
        Ok((exit, _)) => {
            ctx.note(exit);
            Ok(None)
        }
        Err(e) if e.kind() == ErrorKind::ClosedPipe => Err(e),
        Err(e) => {
            ctx.fail(&e);
            Ok(None)
        }
    }
}

fn parse(answer: &[u8]) -> Option<Vec<Hashes>> {
    let mut all: Vec<Hashes> = Vec::new();
    for line in answer.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let value: Value = serde_json::from_slice(line).ok()?;
        let number = i32::try_from(value.get("partition")?.as_i64()?).ok()?;
        let log = value.get("log")?.as_str()?;
        if all.last().is_none_or(|h| h.number != number) {
            all.push(Hashes {
                number,
                log: log.to_string(),
                lines: Ok(Vec::new()),
            });
        }
        let Some(hash) = value.get("sha256") else {
            continue;
        };
        let hash = data_encoding::HEXLOWER
            .decode(hash.as_str()?.as_bytes())
            .ok()?;
        let line = Line {
            segment: value.get("segment")?.as_i64().map(Offset),
            end: Offset(value.get("end")?.as_i64()?),
            hash: hash.try_into().ok()?,
        };
        all.last_mut()?.lines.as_mut().ok()?.push(line);
    }
    Some(all)
}

fn pairs(ctx: &mut Context, left: Vec<Hashes>, mut right: Vec<Hashes>) -> Result<Outcome> {
    let single = left.len() == 1 && right.len() == 1;
    let mut same = true;
    for a in left {
        let Some(at) = right.iter().position(|b| single || b.number == a.number) else {
            alone(ctx, &a);
            continue;
        };
        let b = right.swap_remove(at);
        match (a.lines, b.lines) {
            (Ok(of_a), Ok(of_b)) => {
                let one = (a.log.as_str(), a.number, of_a.as_slice());
                let other = (b.log.as_str(), b.number, of_b.as_slice());
                same &= differences(ctx, one, other)?;
            }
            (of_a, of_b) => [of_a.err(), of_b.err()]
                .iter()
                .flatten()
                .for_each(|e| ctx.fail(e)),
        }
    }
    right.sort_by_key(|b| b.number);
    right.iter().for_each(|b| alone(ctx, b));
    Ok(if same { Outcome::Done } else { Outcome::No })
}

fn alone(ctx: &mut Context, hashes: &Hashes) {
    let why = format!("no partition {} to compare it with", hashes.number);
    ctx.fail(&Error::not_found(why).at_path(&hashes.log));
}

/// Prints what only one side has; true if there is nothing.
fn differences(
    ctx: &mut Context,
    left: (&str, i32, &[Line]),
    right: (&str, i32, &[Line]),
) -> Result<bool> {
    let mut same = true;
    for (mark, (log, number, lines), (_, _, others)) in [("<", left, right), (">", right, left)] {
        for line in lines.iter().filter(|l| !others.contains(l)) {
            same = false;
            let text = match ctx.json {
                true => format!("{}\n", object(log, number, line)),
                false => {
                    let (hash, place) = (hex(&line.hash), place(log, line.segment));
                    format!("{mark} {hash}  {place}  up to {}\n", line.end)
                }
            };
            ctx.stdout.put(text.as_bytes())?;
        }
    }
    Ok(same)
}
