//! Placing batches as another log stores them: not a byte of them is changed.
//!
//! For [`crate::log::copy`] alone: what is placed was checked, lies behind the end, and belongs to the
//! segment that is active.

use std::io;

use super::{Hold, WriteState, Writer, count_whole};
use crate::error::{Error, Result};
use crate::format::Offset;
use crate::format::names::{Kind, file_name};
use crate::log::end::{self, End, EndHint};
use crate::log::lost::Lost;
use crate::log::state::unlink_if_there;
use crate::segment::active::{Noted, Tally};

impl Writer {
    /// From now on the hint says that appends go on under `epoch`.
    pub(in crate::log) fn note_epoch(&mut self, epoch: i32) {
        if let Some(state) = &mut self.state {
            state.epoch = epoch;
        }
    }

    fn read_end(&self) -> Result<End> {
        end::read_from(self.end_file.as_ref()).map_err(|e| self.io(e))
    }

    /// Leaves a hint that nobody believes: whoever comes next looks for himself. Returns its sequence.
    fn announce_nothing(&self) -> Result<u64> {
        let Some(last) = self.read_end()?.hint else {
            return Ok(0);
        };
        let hint = EndHint {
            sequence: last.sequence + 1,
            inode: 0,
            ..last
        };
        end::write_hint(self.end_file.as_ref(), &hint).map_err(|e| self.io(e))?;
        Ok(hint.sequence)
    }

    /// Makes everything below `through` durable, and the knowledge of it: to be called where offsets
    /// are left out between two segments, as a gap above D looks like a lost tail after a reboot.
    pub(in crate::log) fn settle_gap(&self, through: Offset) -> Result<()> {
        self.syncer.sync_to(through)?;
        self.end_file.sync().map_err(|e| self.io(e))
    }
}

impl Hold<'_> {
    /// Base offset of the active segment, and its numbers.
    pub(in crate::log) fn active(&mut self) -> Result<(Offset, Tally)> {
        let active = &self.writer.state()?.active;
        Ok((active.base(), *active.tally()))
    }

    /// Seals the active segment and begins the one named after `base`, which must not lie below the
    /// end. An empty one is replaced: no other log has it.
    pub(in crate::log) fn begin_segment(&mut self, base: Offset) -> Result<()> {
        let (old, tally) = self.active()?;
        if old == base {
            return Ok(());
        }
        if base < self.next {
            let why = format!(
                "a segment cannot begin at offset {base}; the log ends at {}",
                self.next
            );
            return Err(Error::data(why).at_path(self.writer.path()));
        }
        self.dirty = true;
        self.writer.roll(base)?;
        self.next = base;
        match tally.position.0 {
            0 => self.remove_empty(old).map_err(|e| self.writer.io(e)),
            _ => Ok(()),
        }
    }

    fn remove_empty(&self, base: Offset) -> io::Result<()> {
        let dir = self.writer.log.dir().as_ref();
        // The log last: an index without a log is an appender's, and goes with the next maintenance.
        for kind in [
            Kind::OffsetIndex,
            Kind::TimeIndex,
            Kind::TxnIndex,
            Kind::Log,
        ] {
            unlink_if_there(dir, &file_name(base, kind))?;
        }
        Ok(())
    }

    /// Writes whole batches at the end of the active segment. Returns how many are there now, and what
    /// kept the others out, of which nothing stays.
    ///
    /// # Errors
    /// Nothing was written.
    pub(in crate::log) fn receive(
        &mut self,
        bytes: &[u8],
        noted: &[Noted],
    ) -> Result<(usize, Option<Error>)> {
        let zero_fill = self.writer.options.zero_fill;
        let state = self.writer.state()?;
        self.dirty = true;
        let (written, e) = state.active.write(bytes, zero_fill);
        let whole = count_whole(&mut state.active, noted, written as u64);
        self.next = state.active.tally().next_offset;
        Ok((whole, e.map(|e| self.cut_back(e))))
    }

    /// Cuts the log so that it ends at `at`, or before the batch that holds it; what goes is kept in
    /// lost+found and told. The caller holds the maintenance lock too. D goes first, then the end hint.
    pub(in crate::log) fn cut(&mut self, at: Offset, why: &str) -> Result<Vec<Lost>> {
        let writer = &mut *self.writer;
        let end = writer.read_end()?;
        let Some(cut) = writer.recovery(end).plan_cut(at)? else {
            return Ok(Vec::new());
        };
        writer.syncer.lower(cut.offset)?;
        // Of this hold nothing may be believed until the cut is done.
        (self.dirty, self.next) = (false, cut.offset.min(self.next));
        let sequence = writer.announce_nothing()?;
        writer.state = None;
        let end = writer.read_end()?;
        let (active, lost) = writer.recovery(end).cut(&cut, why)?;
        let next = active.tally().next_offset;
        writer.state = Some(WriteState {
            epoch: writer.current_epoch(next)?,
            // Its offsets are another's from here on, who gives them again.
            highest: next,
            sequence,
            active,
        });
        (self.dirty, self.next) = (true, next);
        Ok(lost)
    }

    /// Leader epoch of what is appended.
    #[cfg(test)]
    pub(in crate::log) fn epoch(&self) -> i32 {
        self.writer.state.as_ref().map_or(0, |s| s.epoch)
    }

    /// From now on batches are appended under `epoch`, by others too: the end hint says so on return.
    pub(in crate::log) fn begin_epoch(&mut self, epoch: i32) -> Result<()> {
        self.writer.note_epoch(epoch);
        self.writer.write_hint()
    }

    /// Leaves the end hint as it is when this is released: what is behind it is looked at by the next
    /// process that comes.
    pub(in crate::log) fn keep_hint(&mut self) {
        self.dirty = false;
    }
}
