//! Makes look-up indexes of a sealed segment, of several fields in one pass.
//!
//! The segment is read in chunks by all cores, each batch checked as a reader checks it. A record's
//! value becomes an entry of eight bytes; entries are gathered, sorted at the end and written. What
//! is more than [`ENTRIES_MAX`] goes sorted into a file in `.logd/tmp` and is merged, so memory is
//! bounded whatever the segment holds. The chunks meet end to end, so no batch is left out: a chunk
//! that does not end where the next begins was cut in a wrong place, and the segment is read again as
//! one.
//!
//! A segment with damage gets no index: whoever reads it must meet the damage.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::format::batch::{Batch, Scratch};
use crate::format::lookup::{
    BLOCK_BYTES, Cover, Header, POSITION_MAX, TableWriter, entry_of, filter_blocks, hash_of,
};
use crate::format::lookup_filter::{Adder, FilterBuilder};
use crate::format::names::Kind;
use crate::format::record::Record;
use crate::format::{Defect, Limits, Offset, Position};
use crate::log::keys::file_name;
use crate::log::listing::{LogDir, SegmentRef, end_of};
use crate::log::state::unlink_if_there;
use crate::segment::lookup::seek_offset;
use crate::segment::scan::{Scanner, Span, Step, Tail, is_zero};
use crate::sys::{Dir, File};
use std::sync::Arc;

/// Entries that are held in memory, over all fields: 128 MiB.
pub const ENTRIES_MAX: usize = 16 << 20;
/// Entries that a core gathers before it adds them to those of all.
const ENTRIES_LOCAL: usize = 64 << 10;
/// Bytes of a segment that a core reads at a time.
const CHUNK_BYTES: u64 = 16 << 20;
/// Bytes of one write, and of one read of a file that is merged.
const WRITE_BYTES: usize = 256 << 10;
/// How the name of a file with sorted entries ends.
const RUN_SUFFIX: &str = ".run";

/// Name of the file in `.logd/tmp` with what was spilled of an index.
fn run_name(base: Offset, field: &str) -> String {
    format!("{}{RUN_SUFFIX}", file_name(base, field))
}

/// Finds a field in a record.
pub type ValueOf<'a> = &'a (dyn for<'r> Fn(&Record<'r>) -> Option<Cow<'r, [u8]>> + Sync);

/// An index that is to be made.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The word of the field.
    pub field: &'a str,
    /// How it is found.
    pub value_of: ValueOf<'a>,
    /// With a table: for exact values.
    pub table: bool,
    /// With a filter: for text.
    pub filter: bool,
}

/// Where indexes are made.
pub struct Builder<'a> {
    /// The log.
    pub log: &'a LogDir,
    /// Its `.logd/keys`.
    pub keys: &'a dyn Dir,
    /// Its `.logd/tmp`.
    pub tmp: &'a dyn Dir,
    /// Bounds of what is read.
    pub limits: Limits,
    /// Told of bytes and records as they are read, by several threads.
    pub progress: &'a (dyn Fn(u64, u64) + Sync),
    /// Entries that are held in memory, over all fields: [`ENTRIES_MAX`].
    pub entries_max: usize,
}

/// What became of a segment.
#[derive(Debug)]
pub enum Built {
    /// Its indexes are there, durably; so many bytes each.
    Made(Vec<u64>),
    /// It holds no batch, or is larger than an index can tell of: it gets none.
    Unfit,
    /// It is damaged and gets none.
    Damaged(Error),
}

/// What was gathered for one index.
struct Gathering<'a> {
    wanted: Wanted<'a>,
    entries_max: usize,
    values: AtomicU64,
    runs: Mutex<Runs>,
    filter: Option<FilterBuilder>,
}

/// What one thread has gathered of a chunk for one index and not handed over.
struct Local<'a> {
    entries: Vec<u64>,
    filter: Option<Adder<'a>>,
}

/// Entries in memory, and those that were spilled: sorted runs of so many entries in a file.
#[derive(Default)]
struct Runs {
    entries: Vec<u64>,
    spilled: Vec<u64>,
    file: Option<Box<dyn File>>,
}

/// The last batch of a chunk.
#[derive(Clone, Copy)]
struct Last {
    position: Position,
    offset: Offset,
    crc: u32,
    end: Position,
}

/// Why a segment could not be read through.
enum Stop {
    Damage(Position, Offset, Defect),
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(e: Error) -> Stop {
        Stop::Failed(e)
    }
}

impl Builder<'_> {
    /// Makes indexes of a sealed segment; the next one begins at `next`.
    ///
    /// # Errors
    /// `NotFound` if the segment is gone; else what reading and writing may meet. Indexes that were
    /// there are then still there.
    pub fn build(
        &self,
        segment: &SegmentRef,
        next: Offset,
        wanted: &[Wanted<'_>],
    ) -> Result<Built> {
        let built = self.build_aside(segment, next, wanted);
        for w in wanted {
            // Also after an error, so that a full disk has its room back.
            let _ = unlink_if_there(self.tmp, &run_name(segment.base(), w.field));
        }
        built
    }

    fn build_aside(
        &self,
        segment: &SegmentRef,
        next: Offset,
        wanted: &[Wanted<'_>],
    ) -> Result<Built> {
        let name = segment.log_name();
        let at = |e: Error| e.at_path(self.log.path_of(&name));
        let file = self.log.open_file(&name)?;
        let len = end_of(&*file).map_err(at)?;
        if len.0 > POSITION_MAX {
            return Ok(Built::Unfit);
        }
        let chunks = self.chunks(segment, &file, len, next).map_err(at)?;
        let mut pass = Pass::new(self, segment, &file, len, wanted);
        let mut last = pass.read(&chunks);
        if matches!(last, Err(Stop::Damage(..))) && chunks.len() > 1 {
            pass = Pass::new(self, segment, &file, len, wanted);
            last = pass.read(&[(Position(0), segment.base())]);
        }
        let last = match last {
            Ok(Some(last)) => last,
            Ok(None) => return Ok(Built::Unfit),
            Err(Stop::Failed(e)) => return Err(at(e)),
            Err(Stop::Damage(position, offset, defect)) => {
                let error = Error::data(defect.reason).at_offset(offset.0);
                let byte = position.0.saturating_add(defect.at as u64);
                return Ok(Built::Damaged(at(error.at_position(byte))));
            }
        };
        let cover = Cover {
            base: segment.base(),
            file_bytes: len.0,
            end: last.end,
            last_position: last.position,
            last_offset: last.offset,
            last_crc: last.crc,
        };
        let made = pass.gatherings.into_iter().map(|g| self.write(g, cover));
        Ok(Built::Made(made.collect::<Result<_>>()?))
    }

    /// Where the chunks of a segment begin: positions of batches, and what their offsets reach at
    /// least.
    fn chunks(
        &self,
        segment: &SegmentRef,
        file: &Arc<dyn File>,
        len: Position,
        next: Offset,
    ) -> Result<Vec<(Position, Offset)>> {
        let mut out = vec![(Position(0), segment.base())];
        let count = i64::try_from(len.0.div_ceil(CHUNK_BYTES)).unwrap_or(1);
        if count < 2 {
            return Ok(out);
        }
        let name = segment.index_name(Kind::OffsetIndex);
        let index = self.log.open_optional(&name)?;
        let span = Span::whole(segment.base(), len.0);
        let mut scanner = Scanner::short(Arc::clone(file), span, self.limits);
        let step = (next - segment.base()) / count;
        for i in 1..count {
            let target = segment.base() + step.saturating_mul(i);
            seek_offset(&mut scanner, index.as_deref(), target)?;
            if out.last().is_some_and(|l| scanner.position() > l.0) {
                out.push((scanner.position(), scanner.next_offset()));
            }
        }
        Ok(out)
    }

    /// Writes one index aside, and puts it in its place.
    fn write(&self, gathering: Gathering<'_>, cover: Cover) -> Result<u64> {
        let field = gathering.wanted.field;
        let name = file_name(cover.base, field);
        let cannot =
            |e| Error::io("cannot write the index", e).at_path(self.keys.path().join(&name));
        let written = self.write_aside(&name, gathering, cover);
        let _ = unlink_if_there(self.tmp, &run_name(cover.base, field));
        if written.is_err() {
            // So that a full disk has its room back.
            let _ = unlink_if_there(self.tmp, &name);
        }
        let bytes = written?;
        self.tmp
            .rename_to(&name, self.keys, &name)
            .and_then(|()| self.keys.sync())
            .map_err(cannot)?;
        Ok(bytes)
    }

    fn write_aside(&self, name: &str, gathering: Gathering<'_>, cover: Cover) -> Result<u64> {
        let cannot = |e| Error::io("cannot write the index", e).at_path(self.tmp.path().join(name));
        let Gathering {
            wanted,
            values,
            runs,
            filter,
            ..
        } = gathering;
        let mut runs = runs.into_inner().unwrap_or_else(PoisonError::into_inner);
        runs.entries.par_sort_unstable();
        runs.entries.dedup();
        let mut filter = filter;
        let blocks = filter.as_mut().map(FilterBuilder::finish);
        let entries = wanted.table.then(|| runs.len());
        let values = values.into_inner();
        let header = Header::new(cover, wanted.field, values, entries, blocks)
            .map_err(|d| Error::usage(format!("{}: {}", wanted.field, d.reason)))?;
        unlink_if_there(self.tmp, name).map_err(cannot)?;
        let file = self.tmp.create(name).map_err(cannot)?;
        file.write_all_at(&header.encode(), 0).map_err(cannot)?;
        if wanted.table {
            write_table(&*file, &header, runs).map_err(cannot)?;
        }
        if let Some(filter) = &filter {
            let mut at = header.filter_position();
            for block in filter_blocks(&header, filter.payloads()) {
                file.write_all_at(&block, at).map_err(cannot)?;
                at += block.len() as u64;
            }
        }
        file.sync().map_err(cannot)?;
        Ok(header.file_bytes())
    }
}

/// Writes the table, then the directory before it.
fn write_table(file: &dyn File, header: &Header, runs: Runs) -> std::io::Result<()> {
    let mut writer = TableWriter::new(header);
    let mut out = Vec::with_capacity(WRITE_BYTES + BLOCK_BYTES);
    let mut at = header.table_position();
    for entry in runs.merged()? {
        writer.push(entry?, &mut out);
        if out.len() >= WRITE_BYTES && writer.is_at_block() {
            file.write_all_at(&out, at)?;
            at += out.len() as u64;
            out.clear();
        }
    }
    writer.finish(&mut out);
    file.write_all_at(&out, at)?;
    file.write_all_at(&writer.directory(), BLOCK_BYTES as u64)
}

/// One reading of a segment.
struct Pass<'a> {
    builder: &'a Builder<'a>,
    file: &'a Arc<dyn File>,
    base: Offset,
    len: Position,
    gatherings: Vec<Gathering<'a>>,
}

impl<'a> Pass<'a> {
    fn new(
        builder: &'a Builder<'a>,
        segment: &SegmentRef,
        file: &'a Arc<dyn File>,
        len: Position,
        wanted: &[Wanted<'a>],
    ) -> Pass<'a> {
        let gather = |w: &Wanted<'a>| Gathering {
            wanted: *w,
            entries_max: (builder.entries_max / wanted.len().max(1)).max(1),
            values: AtomicU64::new(0),
            runs: Mutex::default(),
            filter: w.filter.then(|| FilterBuilder::for_text(len.0)),
        };
        Pass {
            builder,
            file,
            base: segment.base(),
            len,
            gatherings: wanted.iter().map(gather).collect(),
        }
    }

    /// Reads the segment, chunk by chunk on all cores. Returns its last batch.
    fn read(&self, chunks: &[(Position, Offset)]) -> std::result::Result<Option<Last>, Stop> {
        let ends = chunks.iter().skip(1).map(|c| c.0);
        let spans: Vec<Span> = chunks
            .iter()
            .zip(ends.chain([self.len]))
            .map(|(&(from, next), end)| Span {
                base: self.base,
                next,
                from,
                end,
            })
            .collect();
        let lasts: Vec<_> = match &spans[..] {
            [one] => vec![self.chunk(*one)?],
            all => all
                .par_iter()
                .map(|span| self.chunk(*span))
                .collect::<std::result::Result<_, _>>()?,
        };
        Ok(lasts.into_iter().flatten().last())
    }

    fn chunk(&self, span: Span) -> std::result::Result<Option<Last>, Stop> {
        let limits = self.builder.limits;
        let mut scanner = Scanner::new(Arc::clone(self.file), span, limits);
        let mut scratch = Scratch::new();
        let local = self.gatherings.iter().map(|g| Local {
            entries: Vec::new(),
            filter: g.filter.as_ref().map(FilterBuilder::adder),
        });
        let mut local: Vec<Local<'_>> = local.collect();
        let mut last = None;
        loop {
            let before = scanner.next_offset();
            match scanner.step()? {
                Step::Batch(position) => {
                    let Some(batch) = scanner.batch() else {
                        continue;
                    };
                    let added = self.batch(&batch, position, &mut scratch, &mut local);
                    let records = added.map_err(|e| e.at(position, before))?;
                    let header = batch.header();
                    last = Some(Last {
                        position,
                        offset: header.last_offset,
                        crc: header.crc,
                        end: position + header.size as u64,
                    });
                    (self.builder.progress)(header.size as u64, records);
                }
                Step::Bad(bad) => return Err(Stop::Damage(bad.position, before, bad.defect)),
                Step::End(end) => {
                    let clean = match end.tail {
                        Tail::Clean => true,
                        Tail::Zeros => {
                            span.end == self.len && is_zero(&**self.file, end.position, span.end)?
                        }
                        Tail::Partial => false,
                    };
                    if !clean {
                        let defect = Defect::new(0, "no batch, and more behind it");
                        return Err(Stop::Damage(end.position, before, defect));
                    }
                    break;
                }
            }
        }
        for (gathering, local) in self.gatherings.iter().zip(&mut local) {
            gathering.add(local, self.builder.tmp, self.base)?;
        }
        Ok(last)
    }

    /// Adds what a batch holds. Returns the number of its records.
    fn batch(
        &self,
        batch: &Batch<'_>,
        position: Position,
        scratch: &mut Scratch,
        local: &mut [Local<'_>],
    ) -> std::result::Result<u64, Unread> {
        if batch.header().is_control() {
            return Ok(0);
        }
        let mut count = 0;
        for record in batch.records(scratch, &self.builder.limits)? {
            let record = record?;
            count += 1;
            for (gathering, local) in self.gatherings.iter().zip(&mut *local) {
                let Some(value) = (gathering.wanted.value_of)(&record) else {
                    continue;
                };
                if let Some(filter) = &mut local.filter {
                    filter.add(&value);
                }
                // Also without a table, so that the values are counted.
                local.entries.push(match gathering.wanted.table {
                    true => entry_of(hash_of(&value), position),
                    false => 0,
                });
                if local.entries.len() >= ENTRIES_LOCAL.min(gathering.entries_max) {
                    gathering.add(local, self.builder.tmp, self.base)?;
                }
            }
        }
        Ok(count)
    }
}

/// Why a batch could not be taken in.
enum Unread {
    Defect(Defect),
    Failed(Error),
}

impl Unread {
    fn at(self, position: Position, offset: Offset) -> Stop {
        match self {
            Unread::Defect(defect) => Stop::Damage(position, offset, defect),
            Unread::Failed(e) => Stop::Failed(e),
        }
    }
}

impl From<Defect> for Unread {
    fn from(d: Defect) -> Unread {
        Unread::Defect(d)
    }
}

impl From<Error> for Unread {
    fn from(e: Error) -> Unread {
        Unread::Failed(e)
    }
}

impl Gathering<'_> {
    /// Takes over the entries of `local`, which has none then.
    fn add(&self, local: &mut Local<'_>, tmp: &dyn Dir, base: Offset) -> Result<()> {
        let entries = &mut local.entries;
        let count = entries.len() as u64;
        self.values.fetch_add(count, Ordering::Relaxed);
        if let Some(filter) = &local.filter {
            filter.weigh();
        }
        if self.wanted.table {
            let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            let is_full = runs.entries.len() + entries.len() > self.entries_max;
            if is_full && !runs.entries.is_empty() {
                let name = run_name(base, self.wanted.field);
                let spilled = runs.spill(tmp, &name);
                let cannot = |e| Error::io("cannot write", e).at_path(tmp.path().join(&name));
                spilled.map_err(cannot)?;
            }
            if runs.entries.capacity() == 0 {
                // All at once: growing would hold it twice. Pages that are not used cost nothing.
                runs.entries.reserve_exact(self.entries_max);
            }
            runs.entries.extend_from_slice(entries);
        }
        entries.clear();
        Ok(())
    }
}

impl Runs {
    fn len(&self) -> u64 {
        self.entries.len() as u64 + self.spilled.iter().sum::<u64>()
    }

    /// Moves what is in memory to the file. Not sorted by all cores: this thread holds a lock, and
    /// while it waited for others it could be given work that takes the same lock.
    fn spill(&mut self, tmp: &dyn Dir, name: &str) -> std::io::Result<()> {
        self.entries.sort_unstable();
        self.entries.dedup();
        let file = match &self.file {
            Some(file) => file,
            None => {
                unlink_if_there(tmp, name)?;
                self.file.insert(tmp.create(name)?)
            }
        };
        let mut at = self.spilled.iter().sum::<u64>() * 8;
        for part in self.entries.chunks(WRITE_BYTES / 8) {
            let bytes: Vec<u8> = part.iter().flat_map(|e| e.to_be_bytes()).collect();
            file.write_all_at(&bytes, at)?;
            at += bytes.len() as u64;
        }
        self.spilled.push(self.entries.len() as u64);
        self.entries.clear();
        Ok(())
    }

    /// All entries in order; those in memory are sorted already.
    fn merged(self) -> std::io::Result<Merged> {
        let mut sources = vec![Source {
            buffer: self.entries,
            next: 0,
            from: 0,
            left: 0,
        }];
        let mut from = 0;
        for count in self.spilled {
            sources.push(Source {
                buffer: Vec::new(),
                next: 0,
                from,
                left: count,
            });
            from += count * 8;
        }
        let mut merged = Merged {
            file: self.file,
            sources,
            heap: BinaryHeap::new(),
        };
        for i in 0..merged.sources.len() {
            merged.refill(i)?;
        }
        Ok(merged)
    }
}

/// One sorted run: what is in memory, and how much of the file follows.
struct Source {
    buffer: Vec<u64>,
    next: usize,
    from: u64,
    left: u64,
}

/// Several sorted runs as one.
struct Merged {
    file: Option<Box<dyn File>>,
    sources: Vec<Source>,
    /// The smallest entry of each source, and which source that is.
    heap: BinaryHeap<Reverse<(u64, usize)>>,
}

impl Merged {
    /// Puts the next entry of source `i` on the heap.
    fn refill(&mut self, i: usize) -> std::io::Result<()> {
        let Some(source) = self.sources.get_mut(i) else {
            return Ok(());
        };
        if source.next >= source.buffer.len() && source.left > 0 {
            let count = source.left.min(WRITE_BYTES as u64 / 8);
            let mut bytes = vec![0; usize::try_from(count).unwrap_or(0) * 8];
            if let Some(file) = &self.file {
                file.read_exact_at(&mut bytes, source.from)?;
            }
            let entry = |b: &[u8]| u64::from_be_bytes(b.try_into().unwrap_or_default());
            source.buffer = bytes.chunks_exact(8).map(entry).collect();
            (source.next, source.left) = (0, source.left - count);
            source.from += count * 8;
        }
        if let Some(entry) = source.buffer.get(source.next) {
            source.next += 1;
            self.heap.push(Reverse((*entry, i)));
        }
        Ok(())
    }
}

impl Iterator for Merged {
    type Item = std::io::Result<u64>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if let [only] = &mut self.sources[..] {
            // Nothing was spilled: the first entry waits on the heap.
            if let Some(Reverse((entry, _))) = self.heap.pop() {
                return Some(Ok(entry));
            }
            let entry = only.buffer.get(only.next)?;
            only.next += 1;
            return Some(Ok(*entry));
        }
        let Reverse((entry, i)) = self.heap.pop()?;
        Some(self.refill(i).map(|()| entry))
    }
}
