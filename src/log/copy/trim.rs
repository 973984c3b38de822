//! Taking away from a copy: its end, where it parts from its source, and its beginning, where the
//! source has forgotten it.
//!
//! Both are maintenance: the maintenance lock is held beside the receiver's (order: receiver,
//! maintenance, append, sync), and what others left half done is cleared first.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Copy;
use crate::error::Result;
use crate::format::Offset;
use crate::format::names::Kind;
use crate::log::files;
use crate::log::listing::SegmentRef;
use crate::log::lost::Lost;
use crate::log::maintenance::{Maintenance, MaintenanceOptions};
use crate::log::state::unlink_if_there;
use crate::log::{producers, swap};

/// How long to wait for maintenance that is at work.
const MAINTENANCE_WAIT: Duration = Duration::from_secs(60);

impl Copy {
    /// Cuts the copy so that it ends at `at`, or before the batch that holds it, and keeps what goes in
    /// `.logd/lost+found`. D is lowered first. Returns what went, highest first; durable on return.
    ///
    /// # Errors
    /// `Data` for damage below the cut; `Locked` while maintenance is at work; else what the system
    /// answers: the copy then ends there or later, and another call finishes.
    pub fn truncate(&mut self, at: Offset, why: &str) -> Result<Vec<Lost>> {
        let _maintenance = self.maintenance()?;
        self.writer.maintenance_is_held(true);
        let cut = self.cut(at, why);
        self.writer.maintenance_is_held(false);
        cut
    }

    fn cut(&mut self, at: Offset, why: &str) -> Result<Vec<Lost>> {
        (self.txns, self.txn_file) = (None, None);
        self.unwritten.clear();
        let mut hold = self.writer.hold()?;
        if at >= hold.next_offset() {
            hold.release()?;
            return Ok(Vec::new());
        }
        let lost = hold.cut(at, why);
        let next = hold.next_offset();
        hold.release()?;
        let lost = lost?;
        self.end = next;
        Ok(lost)
    }

    /// A power cut in the middle of a cut may leave a segment under both of its names, and a file of two
    /// names is not written to: it belongs to lost+found.
    pub(super) fn finish_moves(&self) -> Result<()> {
        let (log, own) = (self.writer.log(), self.writer.logd_dir());
        let fail = |e| self.error("cannot finish an interrupted cut", e);
        let kept = match own.open_dir(files::LOST_FOUND) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(fail)?,
        };
        let names = kept.list().map_err(fail)?;
        for segment in log.segments()?.iter().rev() {
            let meta = log.dir().stat(&segment.log_name()).map_err(fail)?;
            let Some(meta) = meta.filter(|m| m.nlink > 1) else {
                continue;
            };
            let same = |n: &String| kept.id_of(n).is_ok_and(|id| id == Some(meta.id));
            if !names.iter().any(same) {
                continue;
            }
            for kind in [
                Kind::OffsetIndex,
                Kind::TimeIndex,
                Kind::TxnIndex,
                Kind::Snapshot,
                Kind::Log,
            ] {
                unlink_if_there(log.dir().as_ref(), &segment.index_name(kind)).map_err(fail)?;
            }
            log.dir().sync().map_err(fail)?;
        }
        Ok(())
    }

    /// Removes the whole segments below `start`, the source's log start, as retention does. A copy that
    /// ends below it goes on there.
    ///
    /// # Errors
    /// `Locked` while maintenance is at work; else what the system answers.
    pub fn forget_before(&mut self, start: Offset) -> Result<()> {
        let segments = self.writer.log().segments()?;
        let goes = segments.get(1).is_some_and(|s| s.base() <= start);
        if !goes && self.settle()? >= start {
            return Ok(());
        }
        let maintenance = self.maintenance()?;
        if self.settle()? < start {
            self.refuse_unmarked()?;
            self.begin_segment(start)?;
        }
        forget(&maintenance, start)
    }

    /// Takes the partition for maintenance.
    pub(super) fn maintenance(&self) -> Result<Maintenance> {
        let options = MaintenanceOptions {
            command: self.options.command.clone(),
            wait: MAINTENANCE_WAIT,
            allow_network_fs: self.options.allow_network_fs,
        };
        let path: &Path = self.path();
        Maintenance::open(&Arc::clone(&self.host), path, &options)
    }
}

/// Deletes the segments that lie below `start`, after the state of their producers is in a snapshot
/// that stays. On a full disk that finds room only after.
fn forget(m: &Maintenance, start: Offset) -> Result<()> {
    let segments = m.segments()?;
    let count = segments
        .partition_point(|s| s.base() <= start)
        .saturating_sub(1);
    let going = segments.get(..count).unwrap_or_default();
    let (Some(kept), Some(active)) = (segments.get(count), segments.last()) else {
        return Ok(());
    };
    if going.is_empty() {
        return Ok(());
    }
    let at = SegmentRef::base(active);
    let state = producers::to_keep_before_deletion(m.log(), going, kept.base(), at)?;
    let written = state.as_ref().map(|s| s.write_snapshot(m.log(), at));
    if state.is_some() || m.log().has_snapshots()? {
        // A snapshot counts only if the log reaches it, after a power cut too.
        m.make_durable(at)?;
    }
    swap::delete_oldest(m, going)?;
    match (written, state) {
        (Some(Err(_)), Some(state)) => state.write_snapshot(m.log(), at),
        _ => Ok(()),
    }
}
