//! One log made into several.
//!
//! Modes come in two kinds. *In order* (by position, size, count): one part behind the other, so a
//! batch goes to one part but at a border, and a sealed segment that lies wholly in a part is linked,
//! not copied. *By content* (by a field, by time): each record says where it belongs; a batch whose
//! records agree is moved as it is stored. `--partitions` mixes all partitions in order of time and
//! sends keys where Kafka's clients do.
//!
//! What is read is what `cat` shows: committed records, up to the first open transaction. Markers, and
//! what was aborted, are in no part; the offsets they had stay free.
//!
//! Segments are linked only from a log without producer snapshots: each roll behind a batch of a
//! producer leaves one, so without any no sealed segment has such batches, and none was aborted.
//! Linked segments are not read (but for `--max-records`, their headers); damage in one is linked with
//! it and told by whoever reads the part.
//!
//! All parts are built aside and get their names at the end ([`super::site`]).

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU32;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cat::{self, CatOptions, Note};
use super::merge;
use super::mix::{Laid, Mixer, Order};
use super::output::date::rfc3339_string;
use super::part::{Coder, Numbers, Part};
use super::site::{Makes, Site};
use super::span;
use super::topic::Partition;
use super::words::{Field, Pos};
use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::Scratch;
use crate::format::checkpoint::EpochStart;
use crate::format::names::{State, valid_topic};
use crate::format::partitioner::{self, RoundRobin};
use crate::format::plain::Plain;
use crate::format::record::Record;
use crate::format::{Limits, Offset, TimestampMs};
use crate::log::epoch;
use crate::log::fresh::Fresh;
use crate::log::isolation::Feed;
use crate::log::listing::{LogDir, SegmentRef};
use crate::log::reader::{Advance, Piece, ReadOptions, Reader};
use crate::log::view::View;
pub use crate::segment::active::RollLimits;
use crate::segment::scan::{HeaderWalk, Span, Walk};
use crate::sys::Host;

/// Parts that hold files open at a time; each has four.
const OPEN_MAX: usize = 128;
/// Memory for batches that are not written yet, over all parts.
const MEMORY_MAX: usize = 64 << 20;
/// A day, in ms.
const DAY_MS: i64 = 86_400_000;
/// The part of records that have no such field, or no time.
const NONE: &str = "_none";
/// The part of records whose field is empty.
const EMPTY: &str = "_empty";

/// Where a record goes.
#[derive(Clone, Debug)]
pub enum Mode {
    /// Into this many partitions of one topic, by key.
    Partitions(NonZeroU32),
    /// Into a part for each value of a field.
    By(Field),
    /// Into a part for each period of so many ms, counted from 1970 in UTC.
    Every(i64),
    /// Into parts of at most so many bytes of batches; a larger batch gets one of its own.
    Size(u64),
    /// Into parts of so many records.
    Records(u64),
    /// Into parts that begin at these places.
    At(Vec<Pos>),
}

/// How to split.
#[derive(Clone, Debug)]
pub struct SplitOptions {
    /// Where a record goes.
    pub mode: Mode,
    /// What is read.
    pub read: CatOptions,
    /// Number records from 0 in each part.
    pub renumber: bool,
    /// Most parts that are made.
    pub max_parts: usize,
    /// Everything is durable before the parts get their names.
    pub durable: bool,
    /// Write on a network file system too.
    pub allow_network_fs: bool,
}

/// The settings of a log that its parts take over.
#[derive(Clone, Debug)]
pub struct Settings {
    /// When a segment is full.
    pub roll: RollLimits,
    /// As they are written down.
    pub config: String,
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of batches in it.
    pub bytes: u64,
}

/// What the work is handed besides.
pub struct Hooks<'a> {
    /// Asked now and then whether to give up; nothing is left then.
    pub stop: &'a dyn Fn() -> bool,
    /// Hears what a person should know.
    pub note: &'a mut dyn FnMut(Note),
}

/// Splits `partitions` into logs named after `dest`. `settings` gives those of a partition. `None` if
/// it was told to stop.
///
/// # Errors
/// `CannotCreate` if a log of such a name exists, two values meet in one name, or there would be too
/// many; `Data` for damage; else as [`super::cat::cat`], and what writing may meet. Nothing is left
/// then.
pub fn split(
    host: &Arc<dyn Host>,
    partitions: &[Partition],
    dest: &Path,
    options: &SplitOptions,
    settings: &dyn Fn(&Partition) -> Result<Settings>,
    hooks: &mut Hooks<'_>,
) -> Result<Option<Vec<Made>>> {
    let makes = match options.mode {
        Mode::Partitions(_) => Makes::Dest,
        _ => Makes::Parts,
    };
    let site = Site::open(host.as_ref(), dest, makes, options.allow_network_fs)?;
    let topic = dest.file_name().and_then(|n| n.to_str());
    let mut parts = Parts {
        host,
        site,
        topic: topic.unwrap_or_default().to_string(),
        options,
        list: Vec::new(),
        by_name: HashMap::new(),
        coder: Coder::default(),
        awake: Vec::new(),
    };
    if let Mode::Partitions(n) = options.mode {
        if !spread(&mut parts, partitions, n, settings, hooks)? {
            return Ok(None);
        }
    } else {
        for partition in partitions {
            let settings = settings(partition)?;
            let done = Splitter::open(&mut parts, partition, settings)
                .and_then(|s| s.run(partition, hooks));
            if !done.map_err(|e| e.at_path(&partition.path))? {
                return Ok(None);
            }
        }
    }
    parts.finish().map(Some)
}

/// The parts made so far.
struct Parts<'a> {
    host: &'a Arc<dyn Host>,
    site: Site,
    topic: String,
    options: &'a SplitOptions,
    list: Vec<Named>,
    by_name: HashMap<(String, i32), usize>,
    coder: Coder,
    /// Those that took anything since they were parked last: only they hold memory or files.
    awake: Vec<usize>,
}

struct Named {
    part: Part,
    is_awake: bool,
    /// What the name was made of.
    value: Option<Vec<u8>>,
    config: String,
}

impl Parts<'_> {
    fn numbers(&self) -> Numbers {
        match self.options.renumber || matches!(self.options.mode, Mode::Partitions(_)) {
            true => Numbers::Dense,
            false => Numbers::Keep,
        }
    }

    /// Makes a part of this topic.
    fn add(
        &mut self,
        topic: &str,
        number: i32,
        value: Option<&[u8]>,
        settings: &Settings,
        epochs: &[EpochStart],
    ) -> Result<usize> {
        let most = self.options.max_parts;
        if self.list.len() >= most && !matches!(self.options.mode, Mode::Partitions(_)) {
            let error = Error::new(
                ErrorKind::CannotCreate,
                format!("more than {most} parts would be made"),
            );
            return Err(error.hint(format!("--max-parts {}", most.saturating_mul(10).max(1))));
        }
        if !valid_topic(topic) {
            let why = format!("{topic}: the name of a part would be longer than 249 characters");
            return Err(Error::new(ErrorKind::CannotCreate, why));
        }
        let name = self.site.add(topic, number)?;
        let fresh = Fresh::begin(self.host, self.site.dir(), &name, settings.roll);
        let index = self.list.len();
        self.list.push(Named {
            part: Part::new(fresh, self.numbers(), epochs),
            is_awake: false,
            value: value.map(<[u8]>::to_vec),
            config: settings.config.clone(),
        });
        self.by_name.insert((topic.to_string(), number), index);
        Ok(index)
    }

    /// The part of a value, made if it is not there yet.
    fn of_value(
        &mut self,
        value: Option<&[u8]>,
        number: i32,
        settings: &Settings,
        epochs: &[EpochStart],
    ) -> Result<usize> {
        let key = (format!("{}-{}", self.topic, part_name(value)), number);
        let Some(index) = self.by_name.get(&key).copied() else {
            return self.add(&key.0, number, value, settings, epochs);
        };
        match self.list.get(index) {
            Some(named) if named.value.as_deref() != value => {
                let why = format!(
                    "two values would meet in {}: {} and {}",
                    key.0,
                    shown(named.value.as_deref()),
                    shown(value)
                );
                Err(Error::new(ErrorKind::CannotCreate, why))
            }
            _ => Ok(index),
        }
    }

    fn part(&mut self, index: usize) -> Result<(&mut Part, &mut Coder)> {
        let missing = || Error::new(ErrorKind::Bug, "a part that was never made");
        let named = self.list.get_mut(index).ok_or_else(missing)?;
        if !std::mem::replace(&mut named.is_awake, true) {
            self.awake.push(index);
        }
        Ok((&mut named.part, &mut self.coder))
    }

    /// Keeps open files and memory within bounds.
    fn settle(&mut self) -> Result<()> {
        let (mut open, mut memory) = (0, 0);
        for named in self.awake.iter().filter_map(|i| self.list.get(*i)) {
            open += usize::from(named.part.is_open());
            memory += named.part.memory();
        }
        match open > OPEN_MAX || memory > MEMORY_MAX {
            true => self.park_all(),
            false => Ok(()),
        }
    }

    /// Writes what all parts have gathered, and gives their memory and files back.
    fn park_all(&mut self) -> Result<()> {
        for index in std::mem::take(&mut self.awake) {
            if let Some(named) = self.list.get_mut(index) {
                named.part.park(&mut self.coder)?;
                named.is_awake = false;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Made>> {
        let mut bytes = Vec::new();
        for named in self.list {
            bytes.push(named.part.bytes());
            let (host, durable) = (self.host.as_ref(), self.options.durable);
            let coder = &mut self.coder;
            named.part.finish(coder, host, &named.config, durable)?;
        }
        let paths = self.site.publish(self.options.durable)?;
        let made = paths.into_iter().zip(bytes);
        Ok(made.map(|(path, bytes)| Made { path, bytes }).collect())
    }
}

/// Mixes all partitions in order of time and sends each record where its key belongs. False if it was
/// told to stop.
fn spread(
    parts: &mut Parts<'_>,
    partitions: &[Partition],
    n: NonZeroU32,
    settings: &dyn Fn(&Partition) -> Result<Settings>,
    hooks: &mut Hooks<'_>,
) -> Result<bool> {
    let Some(first) = partitions.first() else {
        return Ok(true);
    };
    let settings = settings(first)?;
    let topic = parts.topic.clone();
    for number in 0..n.get() {
        let number = i32::try_from(number).unwrap_or(i32::MAX);
        parts.add(&topic, number, None, &settings, &[])?;
    }
    let read = &parts.options.read;
    let mut mixer = Mixer::open(parts.host, partitions, Order::Time, read, hooks.note)?;
    let mut turn = RoundRobin::default();
    while let Some(run) = mixer.next_run() {
        if (hooks.stop)() {
            return Ok(false);
        }
        if let Some(laid) = mixer.laid(run.log)
            && let Some(plain) = laid.plain()
        {
            let places = laid.places.get(run.from..run.to).unwrap_or_default();
            let mut goes = |record: &Record<'_>| match record.key {
                Some(key) => partitioner::java(key, n) as usize,
                None => turn.pick(n) as usize,
            };
            let records = places.iter().map(|p| plain.record_at(p.position as usize));
            let records: Vec<_> = records.flatten().map(|r| (goes(&r), r)).collect();
            let whole = records
                .first()
                .filter(|f| records.iter().all(|r| r.0 == f.0));
            if let Some((index, _)) = whole.filter(|_| run.is_batch) {
                let (part, coder) = parts.part(*index)?;
                merge::take(part, coder, laid, &run)?;
            } else {
                for (index, record) in &records {
                    let (part, coder) = parts.part(*index)?;
                    part.record(coder, plain.header(), record)?;
                }
            }
        }
        mixer.took(&run, hooks.note)?;
        if run.is_batch || mixer.laid(run.log).is_some_and(Laid::is_new) {
            parts.settle()?;
        }
    }
    Ok(true)
}

/// Reads one partition.
struct Splitter<'p, 'a> {
    out: Out<'p, 'a>,
    input: Input,
    log: LogDir,
    /// Sealed segments that may be linked, and where each ends.
    links: VecDeque<(SegmentRef, Offset)>,
}

/// Where batches come from, and what it takes to lay one open.
struct Input {
    feed: Feed,
    limits: Limits,
    scratch: Scratch,
    open: Vec<u8>,
}

/// A batch laid open.
struct Opened<'i> {
    reader: &'i Reader,
    piece: Piece<'i>,
    plain: Plain<'i>,
}

impl Input {
    /// Lays the batch open that was found.
    fn opened(&mut self) -> Result<Option<Opened<'_>>> {
        let reader = self.feed.reader();
        let Some(piece) = self.feed.piece() else {
            return Ok(None);
        };
        let plain = Plain::open(
            &piece.batch,
            &mut self.scratch,
            &self.limits,
            &mut self.open,
        );
        let plain = plain.map_err(|d| reader.condemn(d).error())?;
        Ok(Some(Opened {
            reader,
            piece,
            plain,
        }))
    }
}

impl Opened<'_> {
    /// Its wanted records.
    fn records(&self) -> impl Iterator<Item = Result<Record<'_>>> {
        let records = self.plain.records();
        let wanted = records.filter(|r| {
            let offset = r.as_ref().map(|r| r.offset);
            offset.is_ok_and(|o| self.piece.wanted.contains(&o)) || r.is_err()
        });
        wanted.map(|r| r.map_err(|d| self.reader.condemn(d).error()))
    }
}

/// Where the records of one partition go.
struct Out<'p, 'a> {
    parts: &'p mut Parts<'a>,
    number: i32,
    settings: Settings,
    epochs: Vec<EpochStart>,
    /// Where parts begin, for [`Mode::At`].
    cuts: Vec<Offset>,
    /// The part that records go to in order, and where it ends, for [`Mode::At`].
    current: Option<usize>,
    current_end: Offset,
}

impl<'p, 'a> Splitter<'p, 'a> {
    fn open(
        parts: &'p mut Parts<'a>,
        partition: &Partition,
        settings: Settings,
    ) -> Result<Splitter<'p, 'a>> {
        let (host, options) = (parts.host, parts.options);
        let read = &options.read;
        let log = LogDir::open(host.as_ref(), &partition.path)?;
        let epochs = epoch::read(log.dir().as_ref())?;
        let mut view = View::of(log.clone())?;
        let wanted = span::resolve(&mut view, &read.range, read.clamp, read.limits)?;
        let mut cuts = Vec::new();
        if let Mode::At(places) = &options.mode {
            for pos in places {
                cuts.push(span::place(&mut view, *pos, read.clamp, read.limits)?);
            }
            cuts.sort_unstable();
            cuts.dedup();
        }
        let links = match options.renumber {
            true => VecDeque::new(),
            false => links(&options.mode, &view, &wanted)?,
        };
        let how = ReadOptions {
            limits: read.limits,
            skip_corrupt: false,
        };
        let feed = Feed::new(host.clone(), view, wanted, read.isolation, how)?;
        let out = Out {
            parts,
            number: partition.number,
            settings,
            epochs,
            cuts,
            current: None,
            current_end: Offset::ZERO,
        };
        let input = Input {
            feed,
            limits: read.limits,
            scratch: Scratch::new(),
            open: Vec::new(),
        };
        Ok(Splitter {
            out,
            input,
            log,
            links,
        })
    }

    /// Reads to the end; false if it was told to stop.
    fn run(mut self, partition: &Partition, hooks: &mut Hooks<'_>) -> Result<bool> {
        let path = &partition.path;
        loop {
            if (hooks.stop)() {
                return Ok(false);
            }
            match self.input.feed.advance()? {
                Advance::Batch => {}
                Advance::End => break,
                Advance::Gone(range) if self.out.parts.options.read.clamp => {
                    (hooks.note)(Note::Gone(path.clone(), range));
                    continue;
                }
                Advance::Gone(range) => return Err(cat::gone(partition, &range, None)),
                Advance::Damage(damage) => return Err(damage.error()),
            }
            self.batch()?;
            self.out.parts.settle()?;
        }
        if let Some(open) = self.input.feed.open() {
            (hooks.note)(Note::Open(path.clone(), open));
        } else if let Some((path, position)) = self.input.feed.reader_mut().torn_tail()? {
            (hooks.note)(Note::TornTail(path, position));
        }
        Ok(true)
    }

    /// The batch that was found, or the whole segment that it begins.
    fn batch(&mut self) -> Result<()> {
        let Some(piece) = self.input.feed.piece() else {
            return Ok(());
        };
        let header = piece.batch.header();
        let base = header.base_offset.max(piece.wanted.start);
        let count = u64::try_from(header.count).unwrap_or(u64::MAX); // a wrapper of old: not known
        let (last, size) = (header.last_offset, header.size as u64);
        let is_whole = piece.is_whole();
        if count == 0 && self.link_at(base).is_none() {
            return Ok(()); // what compaction leaves to remember a producer: no part begins for it
        }
        let out = &mut self.out;
        let fits = match out.parts.options.mode {
            Mode::By(_) | Mode::Every(_) => return self.by_content(),
            Mode::Size(max) => {
                out.make_room(base, |bytes, _| bytes.saturating_add(size) <= max)?;
                true
            }
            Mode::Records(max) => {
                out.make_room(base, |_, records| records < max)?;
                out.taken().1.saturating_add(count) <= max
            }
            Mode::At(_) | Mode::Partitions(_) => {
                out.reach(base)?;
                last < out.current_end
            }
        };
        if let Some((segment, end)) = self.link_at(base)
            && self.link(segment, end)?
        {
            self.input.feed.reader_mut().skip_to(end);
            return Ok(());
        }
        if let Some(piece) = self.input.feed.piece().filter(|_| is_whole && fits) {
            let (part, coder) = self.out.current()?;
            if part.batch(coder, &piece.batch)? {
                return Ok(());
            }
        }
        self.in_order()
    }

    /// The segment that begins with the batch at `base`, if it may be linked.
    fn link_at(&mut self, base: Offset) -> Option<(SegmentRef, Offset)> {
        while self.links.front().is_some_and(|(_, end)| *end <= base) {
            self.links.pop_front();
        }
        let first = self.links.front().filter(|(s, _)| s.base() <= base)?;
        // Not from the middle of one: what is before would come twice.
        let position = self.input.feed.reader().found_at()?;
        (position.0 == 0).then_some(*first)
    }

    /// Links a segment if it goes wholly into the current part.
    fn link(&mut self, segment: SegmentRef, end: Offset) -> Result<bool> {
        let (bytes, records) = self.out.taken();
        let mut count = 0;
        let fits = match self.out.parts.options.mode {
            Mode::Size(max) => bytes.saturating_add(self.len_of(&segment)?) <= max,
            Mode::Records(max) => {
                count = self.count_of(&segment)?;
                count > 0 && records.saturating_add(count) <= max
            }
            Mode::At(_) => end <= self.out.current_end,
            _ => false,
        };
        if !fits {
            return Ok(false);
        }
        let (part, coder) = self.out.current()?;
        part.link(coder, &self.log, &segment, end, count)
    }

    fn len_of(&self, segment: &SegmentRef) -> Result<u64> {
        let file = self.log.open_file(&segment.log_name())?;
        file.len().map_err(|e| Error::io("cannot stat", e))
    }

    /// Records of a segment; 0 if they cannot be told from its headers.
    fn count_of(&self, segment: &SegmentRef) -> Result<u64> {
        let file = self.log.open_file(&segment.log_name())?;
        let len = file.len().map_err(|e| Error::io("cannot stat", e))?;
        let span = Span::whole(segment.base(), len);
        let mut walk = HeaderWalk::new(file, span, self.input.limits);
        let mut count = 0u64;
        loop {
            match walk.next()? {
                Walk::Header(header, _) => match u64::try_from(header.count) {
                    Ok(n) => count = count.saturating_add(n),
                    Err(_) => return Ok(0),
                },
                Walk::End(_) => return Ok(count),
                Walk::Bad(_) => return Ok(0),
            }
        }
    }

    /// The wanted records of the batch one by one, each into the part whose turn it is.
    fn in_order(&mut self) -> Result<()> {
        let Some(opened) = self.input.opened()? else {
            return Ok(());
        };
        for record in opened.records() {
            let record = record?;
            match self.out.parts.options.mode {
                Mode::Records(max) if self.out.taken().1 >= max => self.out.begin(record.offset)?,
                Mode::At(_) => self.out.reach(record.offset)?,
                _ => {}
            }
            let (part, coder) = self.out.current()?;
            part.record(coder, opened.plain.header(), &record)?;
        }
        Ok(())
    }

    /// Each wanted record of the batch into the part that it says; all of it as stored, if they agree.
    fn by_content(&mut self) -> Result<()> {
        let Some(opened) = self.input.opened()? else {
            return Ok(());
        };
        let mut goes = Vec::new();
        for record in opened.records() {
            goes.push(self.out.part_of(&record?)?);
        }
        let Some(first) = goes.first().copied() else {
            return Ok(());
        };
        if opened.piece.is_whole() && goes.iter().all(|g| *g == first) {
            let (part, coder) = self.out.parts.part(first)?;
            if part.batch(coder, &opened.piece.batch)? {
                return Ok(());
            }
        }
        for (record, index) in opened.records().zip(goes) {
            let (part, coder) = self.out.parts.part(index)?;
            part.record(coder, opened.plain.header(), &record?)?;
        }
        Ok(())
    }
}

impl Out<'_, '_> {
    /// Opens a new part at `base` unless the current one, of so many bytes and records, has room.
    fn make_room(&mut self, base: Offset, has_room: impl Fn(u64, u64) -> bool) -> Result<()> {
        let (bytes, records) = self.taken();
        match self.current.is_some() && (bytes == 0 || has_room(bytes, records)) {
            true => Ok(()),
            false => self.begin(base),
        }
    }

    /// Goes on to the part, by position, that `offset` belongs to.
    fn reach(&mut self, offset: Offset) -> Result<()> {
        if self.current.is_some() && offset < self.current_end {
            return Ok(());
        }
        let next = self.cuts.partition_point(|c| *c <= offset);
        let start = next.checked_sub(1).and_then(|i| self.cuts.get(i));
        let start = start.copied().unwrap_or(offset);
        self.current_end = self.cuts.get(next).copied().unwrap_or(Offset::MAX);
        self.begin(start)
    }

    /// Opens the part that begins at `first`.
    fn begin(&mut self, first: Offset) -> Result<()> {
        let topic = format!("{}-{first}", self.parts.topic);
        let (number, settings) = (self.number, &self.settings);
        let index = self
            .parts
            .add(&topic, number, None, settings, &self.epochs)?;
        self.current = Some(index);
        self.parts.park_all()
    }

    /// The part that records go to in order.
    fn current(&mut self) -> Result<(&mut Part, &mut Coder)> {
        self.parts.part(self.current.unwrap_or(usize::MAX))
    }

    /// Bytes and records in it.
    fn taken(&self) -> (u64, u64) {
        let current = self.current.and_then(|i| self.parts.list.get(i));
        current.map_or((0, 0), |n| (n.part.bytes(), n.part.records()))
    }

    /// The part that a record says it belongs to.
    fn part_of(&mut self, record: &Record<'_>) -> Result<usize> {
        let (number, settings, epochs) = (self.number, &self.settings, &self.epochs);
        let options = self.parts.options;
        let period;
        let value = match &options.mode {
            Mode::By(field) => {
                let header = |name: &[u8]| {
                    let found = record.headers.iter().find(|(n, _)| *n == name);
                    found.and_then(|(_, value)| value)
                };
                period = field.of(record.key, record.value, header);
                period.as_deref()
            }
            Mode::Every(ms) => {
                period = period_of(record.timestamp, *ms).map(|p| Cow::Owned(p.into_bytes()));
                period.as_deref()
            }
            _ => None,
        };
        self.parts.of_value(value, number, settings, epochs)
    }
}

/// The sealed segments that lie wholly in `wanted` and may be linked, and where each ends.
fn links(
    mode: &Mode,
    view: &View,
    wanted: &Range<Offset>,
) -> Result<VecDeque<(SegmentRef, Offset)>> {
    let in_order = matches!(mode, Mode::Size(_) | Mode::Records(_) | Mode::At(_));
    if !in_order || view.log().has_snapshots()? {
        return Ok(VecDeque::new());
    }
    let start = view.start().max(wanted.start);
    let segments = view.segments();
    let pairs = segments.iter().zip(segments.iter().skip(1));
    let tail = view.tail().map(|t| t.segment.base());
    let may = |(s, end): &(SegmentRef, Offset)| {
        let is_sealed = tail.is_some_and(|t| *end <= t);
        is_sealed && s.log.state == State::Plain && s.base() >= start && *end <= wanted.end
    };
    Ok(pairs
        .map(|(s, next)| (*s, next.base()))
        .filter(may)
        .collect())
}

/// What stands for a value in a part's name.
fn part_name(value: Option<&[u8]>) -> String {
    let Some(value) = value else {
        return NONE.to_string();
    };
    if value.is_empty() {
        return EMPTY.to_string();
    }
    let plain = |b: &u8| match *b {
        b if b.is_ascii_alphanumeric() || b"._-".contains(&b) => char::from(b),
        _ => '_',
    };
    value.iter().map(plain).collect()
}

/// A value, for a message.
fn shown(value: Option<&[u8]>) -> String {
    match value {
        None => "none".to_string(),
        Some(value) => format!("'{}'", value.escape_ascii()),
    }
}

/// The start of a record's period: a date, or a date and a time. `None` without a timestamp.
fn period_of(time: TimestampMs, every: i64) -> Option<String> {
    if time == TimestampMs::NONE {
        return None;
    }
    let start = time.0
        - time
            .0
            .rem_euclid(every.max(1))
            .min(time.0.saturating_sub(i64::MIN));
    let text = rfc3339_string(TimestampMs(start));
    let (date, clock) = text.split_once('T').unwrap_or((&text, ""));
    let clock = clock.replace(':', "");
    Some(match every {
        e if e % DAY_MS == 0 => date.to_string(),
        e if e % 1000 == 0 => format!("{date}T{}Z", clock.get(..6).unwrap_or_default()),
        _ => format!("{date}T{clock}"),
    })
}

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;
