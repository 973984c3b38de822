//! A partition that is written for the first time, where nobody looks yet.
//!
//! `split` and `merge` build logs in a directory of their own and give it its name when all is in it.
//! So there are no other writers, no readers and no end to be found: batches are placed where they
//! belong and written in large pieces. Nothing is synced here; that is done for all at once, before
//! they get their names.
//!
//! * The first segment begins at the first offset; each next one at the log end, so that no gap is
//!   left between segments.
//! * A sealed segment of another log may become one of this by a hard link. Nothing is ever written
//!   to it: what follows goes into a segment of its own, and the last one is new and empty then.
//!   Indexes are copied: a broker that recovers a log writes them in place.
//! * Batches carry no producer: its state belongs to the log they come from.
//! * Many may be open at once; one that is [parked](Fresh::park) holds no descriptor.

use std::io;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::builder::{SealedBatch, detach, stamp};
use crate::format::checkpoint::{EpochStart, render_epochs};
use crate::format::names::{Kind, LEADER_EPOCH_CHECKPOINT, file_name};
use crate::format::{Offset, TimestampMs};
use crate::log::end::{self, EndHint};
use crate::log::files;
use crate::log::listing::{LogDir, SegmentRef};
use crate::segment::active::{ActiveSegment, Noted, RELATIVE_OFFSET_MAX, RollLimits, Tally};
use crate::sys::{Access, Dir, Host};

/// Bytes that are gathered before they are written: `split -b` of coreutils copies the same.
const WRITE_BYTES: usize = 256 << 10;
/// Largest index that is copied with a segment: one is never longer (`segment.index.bytes`).
const INDEX_BYTES_MAX: u64 = crate::segment::active::INDEX_BYTES_MAX as u64;

/// A batch that is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct Placed {
    /// Base offset it gets.
    pub base: Offset,
    /// Its last offset there.
    pub last: Offset,
    /// Its largest timestamp.
    pub max_timestamp: TimestampMs,
    /// Leader epoch it gets.
    pub epoch: i32,
    /// It carries a producer or belongs to a transaction, which it must not here.
    pub detach: bool,
}

/// A partition being written for the first time.
pub struct Fresh {
    host: Arc<dyn Host>,
    /// The directory it lies in, and its name there.
    home: Arc<dyn Dir>,
    name: String,
    dir: Option<Arc<dyn Dir>>,
    roll: RollLimits,
    active: Active,
    /// Base offsets of all segments.
    bases: Vec<Offset>,
    /// Log end offset with what is gathered.
    next: Option<Offset>,
    gathered: Vec<u8>,
    noted: Vec<Noted>,
    bytes: u64,
}

/// What a new log says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its settings, as they are written down.
    pub config: &'a str,
    /// Its leader epochs, at least one.
    pub epochs: &'a [EpochStart],
}

/// The segment that takes batches.
enum Active {
    /// None: the next batch begins one.
    None,
    Open(Box<ActiveSegment>),
    Parked {
        base: Offset,
        tally: Tally,
        index: (u64, u64),
    },
}

impl Fresh {
    /// A log without batches in the empty directory `name` of `home`.
    pub fn begin(host: &Arc<dyn Host>, home: &Arc<dyn Dir>, name: &str, roll: RollLimits) -> Fresh {
        Fresh {
            host: host.clone(),
            home: home.clone(),
            name: name.to_string(),
            dir: None,
            roll,
            active: Active::None,
            bases: Vec::new(),
            next: None,
            gathered: Vec::new(),
            noted: Vec::new(),
            bytes: 0,
        }
    }

    /// Log end offset; `None` while there is nothing in it.
    pub fn next_offset(&self) -> Option<Offset> {
        self.next
    }

    /// Where its first segment begins; `None` while there is none.
    pub fn first_offset(&self) -> Option<Offset> {
        self.bases.first().copied()
    }

    /// Bytes of batches so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes gathered and not yet written.
    pub fn gathered(&self) -> usize {
        self.gathered.capacity()
    }

    /// Whether it holds files open.
    pub fn is_open(&self) -> bool {
        self.dir.is_some()
    }

    /// Places a whole magic 2 batch behind what is there.
    ///
    /// # Errors
    /// `Data` if it lies below the end; else what the system answers.
    pub fn put(&mut self, bytes: &[u8], placed: &Placed) -> Result<()> {
        let Placed { base, last, .. } = *placed;
        let next = self.next.unwrap_or(base);
        if base < next || last < base {
            let why = format!("a batch of offsets {base} to {last} where the log ends at {next}");
            return Err(Error::data(why));
        }
        let sealed = SealedBatch {
            start: 0,
            size: bytes.len(),
            count: 0,
            last_offset_delta: 0,
            max_timestamp: placed.max_timestamp,
            has_producer: false,
        };
        let first_noted = self.noted.first().map(|n| n.max_timestamp);
        let gathered = self.gathered.len() as u64;
        let roll = self.roll;
        let active = self.active()?;
        let full = active.as_ref().is_some_and(|active| {
            let mut ahead = active.ahead();
            if let Some(first) = first_noted.filter(|_| ahead.position.0 == 0) {
                ahead.first_timestamp = first;
            }
            ahead.position = ahead.position + gathered;
            active.must_roll(&roll, &ahead, &sealed, last)
        });
        if full || active.is_none() {
            self.seal()?;
            // Named after the log end, so that no gap is left between segments, unless the jump is
            // too wide for one segment.
            let wide = last - next > RELATIVE_OFFSET_MAX;
            self.open_segment(if wide { base } else { next })?;
        }
        let at = self.gathered.len();
        self.gathered.extend_from_slice(bytes);
        let own = self.gathered.get_mut(at..).unwrap_or_default();
        if placed.detach {
            detach(own);
        }
        stamp(own, base, placed.epoch);
        self.noted.push(Noted {
            size: bytes.len() as u64,
            last_offset: last,
            max_timestamp: placed.max_timestamp,
            has_producer: false,
        });
        self.next = Some(last.next());
        self.bytes += bytes.len() as u64;
        match self.gathered.len() >= WRITE_BYTES {
            true => self.write(),
            false => Ok(()),
        }
    }

    /// Takes a whole sealed segment of another log, whose next segment begins at `end`, by a hard
    /// link. False, and nothing changed, where the file system or its rules do not allow it. No batch
    /// of it may carry a producer.
    ///
    /// # Errors
    /// What the system answers.
    pub fn link(&mut self, source: &LogDir, segment: &SegmentRef, end: Offset) -> Result<bool> {
        let base = segment.base();
        if self.next.is_some_and(|next| base < next) {
            return Ok(false);
        }
        self.seal()?;
        let dir = self.dir()?;
        let name = file_name(base, Kind::Log);
        match source
            .dir()
            .link_to(&segment.log_name(), dir.as_ref(), &name)
        {
            Ok(()) => {}
            Err(e) if may_copy_instead(&e) => return Ok(false),
            Err(e) => return Err(self.error(e)),
        }
        for kind in [Kind::OffsetIndex, Kind::TimeIndex] {
            let copied = copy_index(source, &segment.index_name(kind), dir.as_ref(), base, kind);
            copied.map_err(|e| self.error(e))?;
        }
        let file = dir.open(&name, Access::Read);
        let len = file.and_then(|f| f.len()).map_err(|e| self.error(e))?;
        self.bases.push(base);
        self.bytes += len;
        self.next = Some(end);
        Ok(true)
    }

    /// Writes what is gathered and gives its memory and every descriptor back, until it is wanted
    /// again.
    ///
    /// # Errors
    /// What the system answers.
    pub fn park(&mut self) -> Result<()> {
        self.write()?;
        if let Active::Open(active) = &mut self.active {
            let flushed = active.flush();
            let parked = Active::Parked {
                base: active.base(),
                tally: *active.tally(),
                index: active.index_bytes(),
            };
            flushed.map_err(|e| self.error(e))?;
            self.active = parked;
        }
        self.gathered = Vec::new();
        self.dir = None;
        Ok(())
    }

    /// Ends the log and writes its own files; one without batches begins, and ends, at offset 0 or
    /// where the history of epochs begins. Nothing is synced, though `.logd/end` says that all of it is
    /// durable if `will_be_durable`: the caller syncs it before anyone may look.
    ///
    /// # Errors
    /// What the system answers.
    pub fn finish(mut self, own_files: &Own<'_>, will_be_durable: bool) -> Result<()> {
        self.write()?;
        let first = own_files.epochs.first().map_or(Offset::ZERO, |e| e.start);
        let next = *self.next.get_or_insert(first);
        if self.active()?.is_none() {
            self.open_segment(next)?;
        }
        let (host, dir) = (self.host.clone(), self.dir()?);
        let fail = |e| Error::io("cannot write", e).at_path(dir.path());
        let Some(active) = self.active()? else {
            return Err(Error::new(ErrorKind::Bug, "a log without a segment"));
        };
        active.flush().map_err(fail)?;
        let epoch = own_files.epochs.last().map_or(0, |e| e.epoch);
        let hint = EndHint {
            boot_id: host.boot_id(),
            wall_ms: host.wall_ms(),
            boot_ms: host.boot_ms(),
            ..hint(active, next, epoch)
        };
        let epochs = render_epochs(own_files.epochs);
        let written = write_new(dir.as_ref(), LEADER_EPOCH_CHECKPOINT, epochs.as_bytes());
        written.map_err(fail)?;
        dir.make_dir(files::LOGD_DIR).map_err(fail)?;
        let own = dir.open_dir(files::LOGD_DIR).map_err(fail)?;
        write_new(own.as_ref(), files::ID, own_files.id.as_bytes()).map_err(fail)?;
        write_new(own.as_ref(), files::CONFIG, own_files.config.as_bytes()).map_err(fail)?;
        let file = own.create(files::END).map_err(fail)?;
        file.set_len(end::FILE_BYTES).map_err(fail)?;
        end::write_hint(file.as_ref(), &hint).map_err(fail)?;
        if will_be_durable {
            end::write_durable(file.as_ref(), 1, host.boot_id(), next).map_err(fail)?;
        }
        Ok(())
    }

    /// The segment that takes batches, opened again if it was parked.
    fn active(&mut self) -> Result<Option<&mut ActiveSegment>> {
        if let Active::Parked { base, tally, index } = self.active {
            let dir = self.dir()?;
            let resumed = ActiveSegment::resume(dir.as_ref(), base, tally, index.0, index.1);
            let resumed = resumed.map_err(|e| self.error(e))?;
            let Some(active) = resumed else {
                let why = "an index was taken away while the log was being made";
                return Err(Error::data(why).at_path(dir.path()));
            };
            self.active = Active::Open(Box::new(active));
        }
        Ok(match &mut self.active {
            Active::Open(active) => Some(active),
            _ => None,
        })
    }

    fn open_segment(&mut self, base: Offset) -> Result<()> {
        let dir = self.dir()?;
        let active = ActiveSegment::create(dir.as_ref(), base).map_err(|e| self.error(e))?;
        self.active = Active::Open(Box::new(active));
        self.bases.push(base);
        Ok(())
    }

    /// Writes what is gathered and seals the segment, if there is one.
    fn seal(&mut self) -> Result<()> {
        self.write()?;
        let dir = self.dir()?;
        if let Some(active) = self.active()? {
            let sealed = active.seal(dir.as_ref());
            sealed.map_err(|e| self.error(e))?;
        }
        self.active = Active::None;
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let (bytes, noted) = (
            std::mem::take(&mut self.gathered),
            std::mem::take(&mut self.noted),
        );
        let failed = match self.active()? {
            Some(active) => {
                let (_, failed) = active.write(&bytes, false);
                if failed.is_none() {
                    noted.iter().for_each(|n| active.note(n));
                }
                failed
            }
            None => None,
        };
        if let Some(e) = failed {
            return Err(self.error(e));
        }
        (self.gathered, self.noted) = (bytes, noted);
        self.gathered.clear();
        self.noted.clear();
        Ok(())
    }

    /// Its directory.
    ///
    /// # Errors
    /// What the system answers.
    pub fn dir(&mut self) -> Result<Arc<dyn Dir>> {
        if let Some(dir) = &self.dir {
            return Ok(dir.clone());
        }
        let dir = self.home.open_dir(&self.name).map_err(|e| self.error(e))?;
        self.dir = Some(dir.clone());
        Ok(dir)
    }

    fn error(&self, e: io::Error) -> Error {
        Error::io("cannot write", e).at_path(self.home.path().join(&self.name))
    }
}

/// Writes a file where nobody looks yet.
fn write_new(dir: &dyn Dir, name: &str, content: &[u8]) -> io::Result<()> {
    dir.create(name)?.write_all_at(content, 0)
}

/// What the next appender of this boot is told. The host's clocks are the caller's to add.
fn hint(active: &ActiveSegment, next: Offset, epoch: i32) -> EndHint {
    let t = active.tally();
    let (index, time_index) = active.index_bytes();
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let relative = (t.max_timestamp_offset - active.base()).max(0);
    EndHint {
        sequence: 1,
        boot_id: [0; 16],
        base: active.base(),
        position: t.position,
        end: next,
        highest: next,
        wall_ms: 0,
        boot_ms: 0,
        inode: active.inode(),
        max_timestamp: t.max_timestamp,
        first_timestamp: t.first_timestamp,
        max_timestamp_relative: small(u64::try_from(relative).unwrap_or(0)),
        since_index_entry: small(t.since_index_entry),
        index_bytes: small(index),
        time_index_bytes: small(time_index),
        epoch,
        has_producers: false,
    }
}

/// Whether a link was refused for a reason that does not keep the bytes from being copied: another
/// file system, one without links, too many of them, a file of somebody else's, or a segment that
/// retention took: the reader tells of that.
fn may_copy_instead(e: &io::Error) -> bool {
    use nix::errno::Errno;
    let code = e.raw_os_error().map(Errno::from_raw);
    matches!(
        code,
        Some(
            Errno::EXDEV
                | Errno::EPERM
                | Errno::EACCES
                | Errno::EMLINK
                | Errno::EOPNOTSUPP
                | Errno::ENOENT
        )
    )
}

/// Copies an index; one that is missing or longer than any may be is left out, as it can be built anew.
fn copy_index(
    source: &LogDir,
    name: &str,
    dir: &dyn Dir,
    base: Offset,
    kind: Kind,
) -> io::Result<()> {
    let file = match source.dir().open(name, Access::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let len = file.len()?;
    if len > INDEX_BYTES_MAX {
        return Ok(());
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let n = file.read_full_at(&mut bytes, 0)?;
    bytes.truncate(n);
    let copy = dir.create(&file_name(base, kind))?;
    copy.write_all_at(&bytes, 0)
}
