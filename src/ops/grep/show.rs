//! Which of the records found are shown: matches up to a limit, and records around them.
//!
//! Around is that of grep: `before` records ahead of a match and `after` behind it, none twice, and
//! a mark where records were left out between two that are shown. Records are counted as they are
//! looked at, in each log by itself. What may yet be shown ahead of a match in the next batch is
//! kept as it would be printed: at most `before` records a log.

use std::collections::VecDeque;

use super::find::{Found, Line};
use crate::error::Result;
use crate::format::plain::Plain;
use crate::ops::emit::{Emitter, Flow, Pick, SEPARATOR, Sink};
use crate::ops::output::Meta;

/// Records around a match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Around {
    /// Ahead of it.
    pub before: u64,
    /// Behind it.
    pub after: u64,
    /// Mark gaps with a line `--`.
    pub separator: bool,
}

impl Around {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.before == 0 && self.after == 0
    }
}

/// How far the records of one log were shown.
#[derive(Default)]
pub(super) struct Place {
    /// Number of the next record looked at.
    next: u64,
    /// Behind the last record shown.
    shown: Option<u64>,
    /// Records before this one come behind a match.
    after_until: u64,
    /// The last records that were not shown, by number, as they would be.
    held: VecDeque<(u64, Vec<u8>)>,
}

/// Chooses among what was found.
pub(super) struct Shower {
    around: Around,
    /// Matches still to be shown.
    left: u64,
    /// Whether anything was shown, of any log.
    any: bool,
    picks: Vec<Pick>,
}

impl Shower {
    pub(super) fn new(around: Around, limit: Option<u64>) -> Shower {
        Shower {
            around,
            left: limit.unwrap_or(u64::MAX),
            any: false,
            picks: Vec::new(),
        }
    }

    /// Goes on behind what was shown by another process.
    pub(super) fn go_on(&mut self) {
        self.any = true;
    }

    /// Whether more matches are wanted. What is around the last one is no concern of a count.
    pub(super) fn flow(&self) -> Flow {
        match self.left {
            0 => Flow::Full,
            _ => Flow::More,
        }
    }

    /// Takes up to as many matches as are left; tells how many.
    pub(super) fn count(&mut self, matches: u64) -> u64 {
        let taken = matches.min(self.left);
        self.left -= taken;
        taken
    }

    /// Shows matches, without context. Tells how many.
    pub(super) fn matches(
        &mut self,
        emitter: &mut Emitter,
        meta: &Meta<'_>,
        plain: &Plain<'_>,
        found: &Found,
        sink: &mut dyn Sink,
    ) -> Result<u64> {
        let taken = self.count(found.matches);
        self.picks.clear();
        let most = usize::try_from(taken).unwrap_or(usize::MAX);
        let lines = found.lines.iter().take(most);
        self.picks.extend(lines.map(|line| Pick {
            position: line.position,
            gap: false,
        }));
        emitter.picked(meta, plain, &self.picks, sink)?;
        Ok(taken)
    }

    /// Shows matches and what is around them. Tells how many matches, and whether more is wanted.
    pub(super) fn around(
        &mut self,
        place: &mut Place,
        emitter: &mut Emitter,
        meta: &Meta<'_>,
        plain: &Plain<'_>,
        lines: &[Line],
        sink: &mut dyn Sink,
    ) -> Result<(u64, Flow)> {
        self.picks.clear();
        let (first, mut taken) = (place.next, 0);
        let mut flow = Flow::More;
        for (i, line) in lines.iter().enumerate() {
            let number = first + i as u64;
            if line.is_match && self.left > 0 {
                (self.left, taken) = (self.left - 1, taken + 1);
                self.ahead(place, emitter, lines, first, number, sink)?;
                self.pick(place, number, line.position);
                place.after_until = number.saturating_add(1).saturating_add(self.around.after);
            } else if number < place.after_until {
                self.pick(place, number, line.position);
            }
            if self.left == 0 && number.saturating_add(1) >= place.after_until {
                flow = Flow::Full;
                break;
            }
        }
        emitter.picked(meta, plain, &self.picks, sink)?;
        place.next = first + lines.len() as u64;
        self.hold(place, emitter, meta, plain, lines, first);
        Ok((taken, flow))
    }

    /// Shows what was not shown of the records ahead of match `number`: those held of batches before,
    /// then those of this one.
    fn ahead(
        &mut self,
        place: &mut Place,
        emitter: &mut Emitter,
        lines: &[Line],
        first: u64,
        number: u64,
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let from = number.saturating_sub(self.around.before);
        let from = from.max(place.shown.unwrap_or(0));
        while let Some((held, bytes)) = place.held.pop_front() {
            if held >= from {
                if self.gap(place, held) {
                    emitter.show(SEPARATOR, sink)?;
                }
                emitter.show(&bytes, sink)?;
                (place.shown, self.any) = (Some(held + 1), true);
            }
        }
        for ahead in from.max(first)..number {
            let at = usize::try_from(ahead - first).unwrap_or(usize::MAX);
            if let Some(line) = lines.get(at) {
                self.pick(place, ahead, line.position);
            }
        }
        Ok(())
    }

    fn pick(&mut self, place: &mut Place, number: u64, position: u32) {
        let gap = self.gap(place, number);
        self.picks.push(Pick { position, gap });
        (place.shown, self.any) = (Some(number + 1), true);
    }

    /// Whether a mark goes before this record.
    fn gap(&self, place: &Place, number: u64) -> bool {
        self.around.separator && self.any && place.shown != Some(number)
    }

    /// Keeps the last records of a batch that were not shown.
    fn hold(
        &self,
        place: &mut Place,
        emitter: &mut Emitter,
        meta: &Meta<'_>,
        plain: &Plain<'_>,
        lines: &[Line],
        first: u64,
    ) {
        let from = place.next.saturating_sub(self.around.before);
        let from = from.max(place.shown.unwrap_or(0));
        while place.held.front().is_some_and(|(number, _)| *number < from) {
            place.held.pop_front();
        }
        for number in from.max(first)..place.next {
            let at = usize::try_from(number - first).unwrap_or(usize::MAX);
            let line = lines.get(at).map(|l| l.position as usize);
            let Some(record) = line.and_then(|p| plain.record_at(p)) else {
                continue;
            };
            let mut bytes = Vec::new();
            emitter.render(meta, record, &mut bytes);
            place.held.push_back((number, bytes));
        }
    }
}
