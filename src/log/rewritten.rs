//! `.logd/rewritten`: ranges of offsets whose batches are no longer as they were appended.
//!
//! A copy and its source compare batches byte by byte; where either side compacted, redacted or
//! repaired, only the records that both still have can be equal. So whoever rewrites notes the range
//! *before* the rewritten segment is committed: a range noted in vain costs a slower comparison, one
//! not noted looks like divergence.
//!
//! Text, replaced whole: a line `0` (version), a line with the number of ranges, then one line each,
//! `KIND FIRST END` (END exclusive), in order of kind and offset. Ranges of one kind that touch or
//! overlap are one.

use crate::error::{Error, Result};
use crate::format::Offset;
use crate::log::files;
use crate::log::state::{read_state_file, write_state_file};
use crate::sys::Dir;
use std::ops::Range;

/// Largest file that is read; past some 20 000 ranges all of a kind become one.
const FILE_BYTES_MAX: usize = 1 << 20;
/// Most ranges that are written.
const RANGES_MAX: usize = 10_000;

/// Why offsets were rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Older values of keys were removed.
    Compact,
    /// Content was removed on request.
    Redact,
    /// Damaged batches were taken out.
    Repair,
    /// The first segment was cut at an exact limit.
    Retain,
    /// The source of this copy did not have them, or not any more.
    Gap,
}

impl Reason {
    const ALL: [(Reason, &'static str); 5] = [
        (Reason::Compact, "compact"),
        (Reason::Redact, "redact"),
        (Reason::Repair, "repair"),
        (Reason::Retain, "retain"),
        (Reason::Gap, "gap"),
    ];

    /// Its word in the file.
    pub fn word(self) -> &'static str {
        let found = Reason::ALL.iter().find(|(r, _)| *r == self);
        found.map_or("", |(_, w)| w)
    }

    fn parse(word: &str) -> Option<Reason> {
        Reason::ALL.iter().find(|(_, w)| *w == word).map(|r| r.0)
    }
}

/// A range of offsets that was rewritten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// Why.
    pub reason: Reason,
    /// Which offsets.
    pub offsets: Range<Offset>,
}

/// Every range on record; empty without a file.
///
/// # Errors
/// `Data` for a malformed file; else what the system answers.
pub fn read(logd_dir: &dyn Dir) -> Result<Vec<Rewritten>> {
    let place = || logd_dir.path().join(files::REWRITTEN);
    let bytes = read_state_file(logd_dir, files::REWRITTEN, FILE_BYTES_MAX)
        .map_err(|e| Error::io("cannot read", e).at_path(place()))?;
    let Some(bytes) = bytes else {
        return Ok(Vec::new());
    };
    let text = String::from_utf8_lossy(&bytes);
    parse(&text).ok_or_else(|| Error::data("not a list of ranges").at_path(place()))
}

fn parse(text: &str) -> Option<Vec<Rewritten>> {
    let mut lines = text.lines();
    if lines.next()? != "0" {
        return None;
    }
    let count: usize = lines.next()?.parse().ok()?;
    let all: Option<Vec<Rewritten>> = lines.map(parse_line).collect();
    all.filter(|a| a.len() == count)
}

fn parse_line(line: &str) -> Option<Rewritten> {
    let mut words = line.split(' ');
    let reason = Reason::parse(words.next()?)?;
    let first = Offset(words.next()?.parse().ok()?);
    let end = Offset(words.next()?.parse().ok()?);
    let is_sound = words.next().is_none() && Offset::ZERO <= first && first < end;
    let offsets = first..end;
    is_sound.then_some(Rewritten { reason, offsets })
}

/// Adds a range, durably. Nothing is written if it is covered already.
///
/// # Errors
/// As [`read`], and what writing may meet.
pub fn add(logd_dir: &dyn Dir, reason: Reason, offsets: Range<Offset>) -> Result<()> {
    let before = read(logd_dir)?;
    let mut all = before.clone();
    all.push(Rewritten { reason, offsets });
    let mut merged = merge(all);
    if merged == before {
        return Ok(());
    }
    if merged.len() > RANGES_MAX {
        merged = hulls(merged);
    }
    write_state_file(logd_dir, files::REWRITTEN, render(&merged).as_bytes())
        .map_err(|e| Error::io("cannot write", e).at_path(logd_dir.path().join(files::REWRITTEN)))
}

fn render(all: &[Rewritten]) -> String {
    let mut out = format!("0\n{}\n", all.len());
    for r in all {
        let (word, offsets) = (r.reason.word(), &r.offsets);
        out.push_str(&format!("{word} {} {}\n", offsets.start, offsets.end));
    }
    out
}

fn merge(mut all: Vec<Rewritten>) -> Vec<Rewritten> {
    all.sort_by_key(|r| (r.reason, r.offsets.start));
    let mut out: Vec<Rewritten> = Vec::new();
    for next in all {
        match out.last_mut() {
            Some(last) if last.reason == next.reason && next.offsets.start <= last.offsets.end => {
                last.offsets.end = last.offsets.end.max(next.offsets.end);
            }
            _ => out.push(next),
        }
    }
    out
}

/// One range for each reason, from its first offset to its last.
fn hulls(all: Vec<Rewritten>) -> Vec<Rewritten> {
    let mut out: Vec<Rewritten> = Vec::new();
    for next in all {
        match out.last_mut() {
            Some(last) if last.reason == next.reason => {
                last.offsets.end = last.offsets.end.max(next.offsets.end);
            }
            _ => out.push(next),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::Host;
    use crate::sys::sim::SimHost;
    use std::path::Path;

    #[test]
    fn ranges_of_a_kind_grow_together_and_are_written_once() {
        let host = SimHost::new();
        host.make_dir(Path::new("/d")).unwrap();
        let dir = host.open_dir(Path::new("/d")).unwrap();
        let add = |reason, r: Range<i64>| {
            add(dir.as_ref(), reason, Offset(r.start)..Offset(r.end)).unwrap();
        };
        add(Reason::Redact, 5..6);
        add(Reason::Compact, 0..10);
        add(Reason::Compact, 20..30);
        add(Reason::Compact, 10..20);
        let text = || String::from_utf8(host.read_file("/d/rewritten").unwrap()).unwrap();
        assert_eq!(text(), "0\n2\ncompact 0 30\nredact 5 6\n");
        let calls = host.calls();
        add(Reason::Compact, 3..7);
        assert_eq!(host.calls(), calls);
        assert_eq!(parse(&text()), Some(read(dir.as_ref()).unwrap()));
        for bad in [
            "",
            "1\n0\n",
            "0\n2\ncompact 0 1\n",
            "0\n1\nx 0 1\n",
            "0\n1\ncompact 1 1\n",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        let many = (0..30_000).map(|i| Rewritten {
            reason: Reason::Compact,
            offsets: Offset(3 * i)..Offset(3 * i + 1),
        });
        assert_eq!(hulls(merge(many.collect())).len(), 1);
    }
}
