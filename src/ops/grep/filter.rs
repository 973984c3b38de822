//! Segments that cannot match, by the filters of `index --bloom`.
//!
//! What every match must hold is asked of the filter of a sealed segment: the plain texts of the
//! pattern, or, where it is plain text between `^` and `$`, the field as a whole. If one is nowhere in
//! the segment, none of it is read. The answer stays the same, but for what nobody looked at: damage
//! in such a segment is not met.
//!
//! A segment is passed over only where that hides no open transaction: under committed isolation those
//! that began in it must have ended in it.

use super::find::{Query, Want};
use super::pattern::Pattern;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Limits, Offset};
use crate::log::isolation::{Isolation, open_before};
use crate::log::keys::{Found, Keys, Open};
use crate::log::listing::SegmentRef;
use crate::log::view::View;

/// Passes over segments.
pub(super) struct Skips<'a> {
    keys: Keys,
    query: &'a Query,
    field: String,
    isolation: Isolation,
    limits: Limits,
    /// Up to here nothing is to be asked.
    asked: Offset,
    /// Indexes that were found to be damaged.
    damaged: Vec<Error>,
}

impl<'a> Skips<'a> {
    /// `None` where there is nothing to ask, or what is passed over would be missed.
    pub(super) fn of(query: &'a Query, view: &View, isolation: Isolation) -> Result<Option<Self>> {
        if query.invert || query.want == Want::All || !query.pattern.needs_text() {
            return Ok(None);
        }
        let keys = Keys::of(view.log())?;
        Ok((!keys.is_absent()).then(|| Skips {
            keys,
            query,
            field: query.field.to_string(),
            isolation,
            limits: query.limits,
            asked: Offset::ZERO,
            damaged: Vec::new(),
        }))
    }

    /// The indexes that were found to be damaged since this was last asked, each once.
    pub(super) fn take_damaged(&mut self) -> impl Iterator<Item = Error> {
        std::mem::take(&mut self.damaged).into_iter()
    }

    /// Where to go on from `next`: there, or behind segments that cannot match.
    pub(super) fn from(&mut self, view: &View, mut next: Offset) -> Result<Offset> {
        while next >= self.asked
            && let Some(tail) = view.tail()
            && next < tail.segment.base()
            && let Some(segment) = view.sealed_at(next)
        {
            let after = view.sealed_after(segment.base());
            self.asked = after.map_or(tail.segment.base(), |s| s.base());
            if self.asked <= next || self.may_match(view, &segment)? {
                break;
            }
            if self.isolation == Isolation::Committed
                && !open_before(view, self.asked, &self.limits)?.is_empty()
            {
                break;
            }
            next = self.asked;
        }
        Ok(next)
    }

    /// Whether a record of the segment may match. It may if nothing tells.
    fn may_match(&mut self, view: &View, segment: &SegmentRef) -> Result<bool> {
        let found = match self.keys.find(view.log(), segment, &self.field) {
            Ok(Found::Sound(open)) => open,
            Ok(Found::Nothing) => return Ok(true),
            Ok(Found::Damaged(e)) => {
                self.damaged.push(e);
                return Ok(true);
            }
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(true),
            Err(e) => return Err(e),
        };
        // One that is damaged knows nothing.
        Ok(may_hold(&found, &self.query.pattern).unwrap_or_else(|e| {
            self.damaged.push(e);
            true
        }))
    }
}

/// Whether a segment may hold what every match holds.
///
/// # Errors
/// The index is damaged.
fn may_hold(index: &Open, pattern: &Pattern) -> Result<bool> {
    if let Some(whole) = pattern.whole()
        && !index.may_contain(whole)?
    {
        return Ok(false);
    }
    for text in pattern.texts() {
        if !index.may_contain_text(text, pattern.ignores_case())? {
            return Ok(false);
        }
    }
    Ok(true)
}
