//! A partition directory as an ordered list of segments, and where its log starts.
//!
//! Owns which files of the directory are the log right now. Takes no lock and changes nothing, so
//! what it returns is a moment's view: a file listed may be gone when it is opened, and then the
//! answer is to list again and go on at the next offset.
//!
//! A replacement of segments may be half done (`ops` writes the protocol). What a reader makes of it:
//!
//! * A `.log.swap` is the committed replacement of the plain segments whose base offset lies between
//!   its own and its last offset; those are left out. Its last batch carries that last offset.
//! * It does not count while a `.cleaned` of the same or a smaller base offset is there: the swap was
//!   not committed, or belongs to an unfinished split.
//! * `.cleaned` and `.deleted` files are never read.
//!
//! The log starts at the entry for this partition in the `log-start-offset-checkpoint` beside it, or
//! at the first segment's base offset, whichever is larger.

use std::io::ErrorKind as IoKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::names::{self, FileName, Kind, State};
use crate::format::{Limits, Offset, Position, checkpoint};
use crate::segment::scan::{HeaderWalk, Span, Walk};
use crate::sys::{Access, Dir, File, Host};

/// Largest checkpoint that is read, in bytes: some 100 000 partitions.
const CHECKPOINT_BYTES_MAX: u64 = 16 << 20;
/// How often a listing begins anew because a file vanished under it; each time somebody else finished
/// a whole replacement.
const LISTINGS_MAX: usize = 16;

/// One segment of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRef {
    /// Name of its log file, plain or `.swap`.
    pub log: FileName,
}

impl SegmentRef {
    /// Base offset in its name.
    pub fn base(&self) -> Offset {
        self.log.base
    }

    /// Name of the log file.
    pub fn log_name(&self) -> String {
        self.log.to_string()
    }

    /// Name of one of its indexes, in the same state as the log.
    pub fn index_name(&self, kind: Kind) -> String {
        self.log.sibling(kind).to_string()
    }
}

/// A partition directory opened for reading.
#[derive(Clone)]
pub struct LogDir {
    dir: Arc<dyn Dir>,
    /// The directory of partitions it lies in, for the log start checkpoint.
    parent: Option<Arc<dyn Dir>>,
    /// Last component of the path without symbolic links, for the checkpoint's topic and partition.
    name: String,
}

impl LogDir {
    /// Opens the partition directory at `path`.
    ///
    /// # Errors
    /// `NotFound` if there is none, and what opening a directory may meet. A parent that cannot be
    /// opened is no error: without it the log starts at its first segment.
    pub fn open(host: &dyn Host, path: &Path) -> Result<LogDir> {
        let dir = host.open_dir(path).map_err(|e| match e.kind() {
            IoKind::NotFound => Error::not_found("no such log").at_path(path),
            IoKind::NotADirectory => Error::not_found("not a directory").at_path(path),
            _ => Error::io("cannot open", e).at_path(path),
        })?;
        // Through the directory itself, so that a symbolic link leads to the real parent.
        let parent = host.open_dir(&path.join("..")).ok();
        let name = host.real_name(path).ok().flatten().unwrap_or_default();
        Ok(LogDir { dir, parent, name })
    }

    /// The directory.
    pub fn dir(&self) -> &Arc<dyn Dir> {
        &self.dir
    }

    /// The directory it lies in, if that can be opened.
    pub fn parent(&self) -> Option<&Arc<dyn Dir>> {
        self.parent.as_ref()
    }

    /// Last component of its real path: `orders-0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of a file in it, for messages.
    pub fn path_of(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The segments, in order of base offset. Empty if the directory holds none.
    ///
    /// # Errors
    /// The directory, or a `.swap` file in it, cannot be read.
    pub fn segments(&self) -> Result<Vec<SegmentRef>> {
        for _ in 0..LISTINGS_MAX {
            let names = self.list()?;
            match self.resolve(&names) {
                Err(e) if e.kind() == crate::error::ErrorKind::NotFound => {}
                other => return other,
            }
        }
        let why = "segments vanish faster than they can be listed";
        Err(Error::data(why).at_path(self.dir.path()))
    }

    /// Whether there are producer snapshots.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn has_snapshots(&self) -> Result<bool> {
        Ok(self
            .list()?
            .iter()
            .any(|n| n.kind == Kind::Snapshot && n.state == State::Plain))
    }

    fn list(&self) -> Result<Vec<FileName>> {
        let names = self.dir.list();
        let names = names.map_err(|e| Error::io("cannot list", e).at_path(self.dir.path()))?;
        Ok(names.iter().filter_map(|n| names::parse(n)).collect())
    }

    fn resolve(&self, names: &[FileName]) -> Result<Vec<SegmentRef>> {
        let logs = |state| {
            let is = move |n: &&FileName| n.kind == Kind::Log && n.state == state;
            names.iter().filter(is).copied()
        };
        let cleaned = names.iter().filter(|n| n.state == State::Cleaned);
        let undone = cleaned.map(|n| n.base).min().unwrap_or(Offset::MAX);
        let mut swaps: Vec<(FileName, Offset)> = Vec::new();
        for swap in logs(State::Swap).filter(|s| s.base < undone) {
            swaps.push((swap, self.last_offset(swap)?));
        }
        let covered = |base: Offset| {
            swaps
                .iter()
                .any(|(s, last)| (s.base..=*last).contains(&base))
        };
        let plain = logs(State::Plain).filter(|n| !covered(n.base));
        let mut out: Vec<SegmentRef> = plain.map(|log| SegmentRef { log }).collect();
        out.extend(swaps.iter().map(|(log, _)| SegmentRef { log: *log }));
        out.sort_by_key(SegmentRef::base);
        Ok(out)
    }

    /// The last offset in a `.log.swap`; its base if it is empty. Headers are believed: whoever made
    /// the file synced it and read it back before it got this name.
    fn last_offset(&self, swap: FileName) -> Result<Offset> {
        let name = swap.to_string();
        let file = self.open_file(&name)?;
        let len = file.len();
        let len = len.map_err(|e| Error::io("cannot stat", e).at_path(self.path_of(&name)))?;
        let span = Span::whole(swap.base, len);
        let mut walk = HeaderWalk::new(file, span, Limits::default());
        let mut last = swap.base;
        loop {
            match walk.next().map_err(|e| e.at_path(self.path_of(&name)))? {
                Walk::Header(header, _) => last = header.last_offset,
                Walk::End(_) | Walk::Bad(_) => return Ok(last),
            }
        }
    }

    /// Opens a file of the directory for reading.
    ///
    /// # Errors
    /// `NotFound` if it is gone (list again); else what opening it may meet.
    pub fn open_file(&self, name: &str) -> Result<Arc<dyn File>> {
        let file = self.dir.open(name, Access::Read);
        let file = file.map_err(|e| Error::io("cannot open", e).at_path(self.path_of(name)))?;
        Ok(Arc::from(file))
    }

    /// Opens a file that need not be there.
    ///
    /// # Errors
    /// As [`LogDir::open_file`], except that it is absent.
    pub fn open_optional(&self, name: &str) -> Result<Option<Arc<dyn File>>> {
        match self.open_file(name) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == crate::error::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Smallest offset that may be read, given the segments: 0 for a log without any.
    ///
    /// # Errors
    /// The checkpoint beside the partition cannot be read, or is malformed.
    pub fn start_offset(&self, segments: &[SegmentRef]) -> Result<Offset> {
        let first = segments.first().map_or(Offset::ZERO, SegmentRef::base);
        Ok(self.checkpointed_start()?.map_or(first, |c| c.max(first)))
    }

    fn checkpointed_start(&self) -> Result<Option<Offset>> {
        let (Some(parent), Some((topic, partition))) =
            (&self.parent, names::parse_partition(&self.name))
        else {
            return Ok(None);
        };
        let place = |e: Error| e.at_path(parent.path().join(names::LOG_START_CHECKPOINT));
        let file = match parent.open(names::LOG_START_CHECKPOINT, Access::Read) {
            Ok(file) => file,
            // Another user's directory may hide its checkpoint; the segments still tell a start.
            Err(e) if matches!(e.kind(), IoKind::NotFound | IoKind::PermissionDenied) => {
                return Ok(None);
            }
            Err(e) => return Err(place(Error::io("cannot open", e))),
        };
        let bytes = read_small(&*file, CHECKPOINT_BYTES_MAX).map_err(place)?;
        let entries = checkpoint::parse_offsets(&bytes);
        let entries = entries.map_err(|d| place(Error::data(d.reason).at_position(d.at as u64)))?;
        let mine = entries
            .iter()
            .find(|e| e.topic == topic && e.partition == partition);
        Ok(mine.map(|e| e.offset))
    }
}

/// The whole of a small file.
///
/// # Errors
/// It is larger than `bytes_max`, or cannot be read.
pub fn read_small(file: &dyn File, bytes_max: u64) -> Result<Vec<u8>> {
    let len = file.len().map_err(|e| Error::io("cannot stat", e))?;
    let size = usize::try_from(len.min(bytes_max.saturating_add(1))).unwrap_or(0);
    if len > bytes_max {
        return Err(Error::data(format!("{len} bytes, more than it can hold")));
    }
    let mut bytes = vec![0; size];
    let n = file
        .read_full_at(&mut bytes, 0)
        .map_err(|e| Error::io("cannot read", e))?;
    bytes.truncate(n);
    Ok(bytes)
}

/// Where a file's bytes end now.
///
/// # Errors
/// What fstat(2) answers.
pub fn end_of(file: &dyn File) -> Result<Position> {
    file.len()
        .map(Position)
        .map_err(|e| Error::io("cannot stat", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::TestLog;

    fn listed(log: &TestLog) -> Vec<String> {
        let segments = log.open().segments().unwrap();
        segments
            .iter()
            .map(|s| s.log_name().trim_start_matches('0').to_string())
            .collect()
    }

    #[test]
    fn segments_come_in_order_and_strangers_are_left_out() {
        let log = TestLog::new("t-0");
        for base in [100, 7, 20] {
            log.segment(base).batch(base, "a").index().write();
        }
        log.file("notes.txt", b"");
        log.file("foo.log", b"");
        log.file("00000000000000000003.log.deleted", b"");
        log.file("00000000000000000004.log.cleaned", b"");
        assert_eq!(listed(&log), ["7.log", "20.log", "100.log"]);
    }

    #[test]
    fn a_swap_replaces_the_segments_in_its_range() {
        let log = TestLog::new("t-0");
        for base in [0, 10, 20, 30] {
            log.segment(base)
                .batch(base, "a")
                .gap_batch(base + 1, base + 9, "b")
                .write();
        }
        log.segment(10)
            .gap_batch(11, 29, "b")
            .state(State::Swap)
            .write();
        assert_eq!(listed(&log), [".log", "10.log.swap", "30.log"]);
        log.file("00000000000000000010.index.cleaned", b"");
        assert_eq!(listed(&log), [".log", "10.log", "20.log", "30.log"]);
    }

    #[test]
    fn the_log_starts_at_its_first_segment_or_its_checkpoint() {
        let log = TestLog::new("t-0");
        let start = || {
            log.open()
                .start_offset(&log.open().segments().unwrap())
                .unwrap()
        };
        assert_eq!(start(), Offset(0));
        log.segment(40).batch(40, "a").write();
        assert_eq!(start(), Offset(40));
        log.log_start(17);
        assert_eq!(start(), Offset(40));
        log.log_start(41);
        assert_eq!(start(), Offset(41));
    }

    #[test]
    fn a_log_that_is_not_there_is_not_found() {
        let log = TestLog::new("t-0");
        let e = LogDir::open(&crate::sys::RealHost, &log.path().join("x-0"))
            .err()
            .unwrap();
        assert_eq!(e.kind(), crate::error::ErrorKind::NotFound);
        assert!(e.to_string().ends_with("x-0: no such log"), "{e}");
    }
}
