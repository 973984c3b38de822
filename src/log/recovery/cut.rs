//! Cutting a sound log on purpose, where it parts from the one that it is to be a copy of.
//!
//! What goes is kept in lost+found. The order is that of a recovery after a crash of the host: whole
//! segments, highest first, then the bytes of the one that stays, and of that derived state and indexes
//! first, the log last. So being killed at any point leaves a log that ends at the cut or later, and
//! another call finishes.

use super::{ActiveSegment, Recovery, Start};
use crate::error::{Error, Result};
use crate::format::{Offset, Position};
use crate::log::epoch;
use crate::log::listing::SegmentRef;
use crate::log::lost::{Lost, LostFound};
use crate::segment::scan::{HeaderWalk, Scanner, Span, Walk};

/// What a cut takes away.
pub struct Cut {
    /// The segment that stays, and is active then.
    segment: SegmentRef,
    /// Where in it.
    position: Position,
    /// Where its data ends now.
    data_end: Position,
    /// Segments that go, ascending.
    whole: Vec<SegmentRef>,
    /// First offset that goes: the new end.
    pub offset: Offset,
}

impl Recovery<'_> {
    /// Finds out what a cut takes away that lets the log end at `at`, or before the batch that holds it.
    /// Segments that begin there or above go, except the first, which becomes empty. `None` for a log
    /// without segments.
    ///
    /// # Errors
    /// `Data` for damage below the cut; else what the system answers.
    pub fn plan_cut(&self, at: Offset) -> Result<Option<Cut>> {
        let segments = self.segments()?;
        let stays = segments
            .partition_point(|s| s.base() < at)
            .saturating_sub(1);
        let Some(segment) = segments.get(stays) else {
            return Ok(None);
        };
        let mut cut = self.place_of(segment, at)?;
        let whole = segments.get(stays + 1..).unwrap_or_default();
        cut.whole.extend_from_slice(whole);
        Ok(Some(cut))
    }

    /// Carries it out. D is not above the cut, and the end hint points to nothing. Tells what went.
    ///
    /// # Errors
    /// What the system answers.
    pub fn cut(&self, cut: &Cut, why: &str) -> Result<(ActiveSegment, Vec<Lost>)> {
        let keep = LostFound::open(self.host, self.logd_dir)?;
        let mut lost = Vec::new();
        for segment in cut.whole.iter().rev() {
            let len = self.log.open_file(&segment.log_name())?.len();
            let gone = Lost {
                segment: segment.base(),
                position: Position(0),
                bytes: len.map_err(|e| self.io(segment, e))?,
                offset: segment.base(),
                reason: why.to_string(),
            };
            keep.keep_segment(self.log.dir().as_ref(), &gone)?;
            lost.push(gone);
        }
        let segment = &cut.segment;
        let bytes = Lost {
            segment: segment.base(),
            position: cut.position,
            bytes: cut.data_end - cut.position,
            offset: cut.offset,
            reason: why.to_string(),
        };
        if bytes.bytes > 0 {
            let file = self.log.open_file(&segment.log_name())?;
            keep.keep_bytes(file.as_ref(), &bytes)?;
        }
        self.cut_epochs(cut.offset)?;
        let active = self.open_active(segment, &Start::empty(segment.base()), Some(&bytes))?;
        let synced = active.log().sync().and_then(|()| self.log.dir().sync());
        synced.map_err(|e| self.io(segment, e))?;
        lost.extend((bytes.bytes > 0).then_some(bytes));
        Ok((active, lost))
    }

    /// Finds the place, every batch below it checked.
    fn place_of(&self, segment: &SegmentRef, at: Offset) -> Result<Cut> {
        let file = self.log.open_file(&segment.log_name())?;
        let len = file.len().map_err(|e| self.io(segment, e))?;
        let span = Span::whole(segment.base(), len);
        let mut walk = HeaderWalk::new(file.clone(), span, self.limits);
        let mut place = Cut {
            segment: *segment,
            position: Position(0),
            data_end: Position(0),
            whole: Vec::new(),
            offset: segment.base(),
        };
        while let Walk::Header(h, _) = walk.next().map_err(|e| self.place(segment, e))? {
            if h.last_offset < at {
                (place.position, place.offset) = (walk.position(), walk.next_offset());
            }
            place.data_end = walk.position();
        }
        let span = Span {
            end: place.position,
            ..span
        };
        let mut scanner = Scanner::new(file, span, self.limits);
        let bad = self.run_scanner(&mut scanner, segment, |_| ())?;
        match bad {
            Some(bad) => Err(self.corrupt(&bad, "it lies below the cut".to_string())),
            None if scanner.position() != place.position => {
                let error = Error::data("batches end before the cut");
                Err(self.place(segment, error.at_position(scanner.position().0)))
            }
            None => Ok(place),
        }
    }

    /// Epochs that began here or above are not those of the log that this one follows.
    fn cut_epochs(&self, at: Offset) -> Result<()> {
        let dir = self.log.dir().as_ref();
        let mut epochs = epoch::read(dir)?;
        let first = epochs.first().map_or(at, |e| e.start);
        epochs.retain(|e| e.start < at || e.start == first);
        epoch::write(dir, &epochs)
    }
}
