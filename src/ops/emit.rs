//! Records on their way out: chosen, formatted, gathered, written.
//!
//! * All or nothing: a batch whose records turn out to be bad delivers none of them. They are
//!   formatted behind a mark in the buffer, and the buffer is cut back to it. One that needs more
//!   than [`HOLD_BYTES`] is checked first and then shown piece by piece.
//! * Output is gathered into large writes while there is a backlog; whoever is about to wait calls
//!   [`Emitter::flush`].
//! * Memory follows the batch in hand.
//!
//! The common case, plain lines of everything, has a loop of its own. A search
//! ([`Emitter::search`]) chooses records by itself and has them shown by their positions.

use std::time::{Duration, Instant};

use super::grep::Grep;
use super::output::{Format, FormatOptions, Formatter, Meta};
use super::select::{Part, Selection};
use crate::error::{Error, Result};
use crate::format::batch::{Batch, BatchHeader, Scratch, TimestampType};
use crate::format::builder::{BatchBuilder, Seal, stamp};
use crate::format::plain::Plain;
use crate::format::record::{Header, Headers, NewRecord, Record};
use crate::format::{Defect, Limits, Offset, TimestampMs};
use crate::log::reader::Piece;

/// What stands for records left out between two that are shown.
pub const SEPARATOR: &[u8] = b"--\n";
/// Bytes that are gathered before they are written: a pipe takes writes of this size at its best
/// (measured: 16 to 64 KiB into a pipe of 1 MiB), and to a file it makes no difference.
const WRITE_BYTES: usize = 64 << 10;
/// Records of a batch that are held at once to be shown last first: some 25 MiB. Larger batches are
/// decoded once for each block.
const BLOCK_RECORDS: usize = 1 << 18;
/// Most that is held of one batch until the last of its records has proved good.
const HOLD_BYTES: usize = 8 << 20;
/// A buffer that one large batch has grown is given back above this.
const KEEP_BYTES: usize = 1 << 20;

/// Where output goes.
pub trait Sink {
    /// Takes bytes.
    ///
    /// # Errors
    /// `ClosedPipe` if the reader is gone; else `Io`.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// Waits, what was written before being visible. False if it is to stop instead.
    ///
    /// # Errors
    /// As [`Sink::write`].
    fn pause(&mut self, time: Duration) -> Result<bool>;
}

/// Whether there is more to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    More,
    /// The limit is reached, or the sink wants no more.
    Full,
}

/// What is to be shown, and how.
#[derive(Clone, Debug, Default)]
pub struct EmitOptions {
    /// Choices of the format.
    pub format: FormatOptions,
    /// Which records.
    pub selection: Selection,
    /// Which part of them.
    pub part: Part,
    /// At most so many records.
    pub limit: Option<u64>,
    /// Records of a batch last first.
    pub reverse: bool,
    /// Pace the output by timestamps, so many times as fast.
    pub speed: Option<f64>,
    /// Bounds of what is decoded.
    pub limits: Limits,
}

enum Mode {
    /// Values and newlines, nothing else to do.
    PlainLines,
    /// Each record by the formatter.
    Records(Box<Formatter>),
    /// Batches as stored.
    Batches,
}

/// Whether a batch was shown.
enum Held {
    /// It was.
    All,
    /// Nothing of it: it is larger than what is held back until all of it has proved good.
    TooLarge,
}

/// A record of a batch laid open that is to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// Where it begins.
    pub position: u32,
    /// Records were left out before it, which is to be seen.
    pub gap: bool,
}

/// Formats records and hands them on.
pub struct Emitter {
    mode: Mode,
    values_only: bool,
    options: EmitOptions,
    out: Vec<u8>,
    scratch: Scratch,
    left: u64,
    /// Wanted records that are passed over first.
    skip: u64,
    newline_in_lines: bool,
    pace: Option<Pace>,
    search: Option<Box<Grep>>,
    /// Number of the log that batches come from.
    log: usize,
}

impl Emitter {
    /// An emitter for `format`.
    ///
    /// # Errors
    /// `Usage` where the format does not go with the options.
    pub fn new(format: &Format, options: EmitOptions) -> Result<Emitter> {
        if options.reverse && options.speed.is_some() {
            return Err(Error::usage(
                "--speed: time does not run backward; not with --reverse",
            ));
        }
        let plain = *format == Format::Lines
            && !options.reverse
            && !options.format.visible
            && options.selection.is_all()
            && options.part == Part::Whole;
        let mode = match format {
            Format::Batch => Mode::Batches,
            Format::Lines if plain => Mode::PlainLines,
            _ => Mode::Records(Box::new(Formatter::new(format, &options.format)?)),
        };
        let mut out = Vec::new();
        if let Mode::Records(formatter) = &mode {
            formatter.begin(&mut out);
        }
        let values_only = matches!(
            format,
            Format::Lines | Format::Nul | Format::Hex | Format::Base64 | Format::Frames
        );
        Ok(Emitter {
            mode,
            values_only,
            out,
            scratch: Scratch::new(),
            left: options.limit.unwrap_or(u64::MAX),
            skip: 0,
            newline_in_lines: false,
            pace: options.speed.map(Pace::new),
            options,
            search: None,
            log: 0,
        })
    }

    /// Goes on behind what was shown by another process: no header row is shown again.
    pub fn go_on(&mut self) {
        self.out.clear();
    }

    /// Shows from now on what `search` finds, of all records.
    pub fn search(&mut self, search: Box<Grep>) {
        self.search = Some(search);
    }

    /// The search, given back.
    pub fn take_search(&mut self) -> Option<Box<Grep>> {
        self.search.take()
    }

    /// Records that the search has found.
    pub fn matched(&self) -> u64 {
        self.search.as_ref().map_or(0, |s| s.matched())
    }

    /// Batches come from the log with this number from now on; 0 at first.
    pub fn set_log(&mut self, log: usize) {
        self.log = log;
    }

    /// Whether a value printed as `lines` contained a newline, so that boundaries were lost.
    pub fn saw_newline_in_lines(&self) -> bool {
        match &self.mode {
            Mode::Records(formatter) => formatter.saw_newline_in_lines(),
            _ => self.newline_in_lines,
        }
    }

    /// Whether the limit is reached.
    pub fn is_full(&self) -> bool {
        self.left == 0
    }

    /// Records that may still be shown; `u64::MAX` without a limit.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Shows at most `n` records from here on.
    pub fn set_left(&mut self, n: u64) {
        self.left = n;
    }

    /// Shows only records with this key from here on, and those of a batch last first or not. Only for
    /// an emitter that was made to select by key.
    pub fn select_key(&mut self, key: &[u8], reverse: bool) {
        self.options.selection.key = Some(key.to_vec());
        self.options.reverse = reverse;
    }

    /// Passes over the next `n` wanted records.
    pub fn skip(&mut self, n: u64) {
        self.skip = n;
    }

    /// Whether a record is wanted at all.
    pub fn takes(&self, record: &Record<'_>) -> bool {
        self.options.selection.takes(record)
    }

    /// Appends one record to `out` as it would be shown, whether it is wanted or not.
    pub fn render(&mut self, meta: &Meta<'_>, record: Record<'_>, out: &mut Vec<u8>) {
        let mut projection = Vec::new();
        let shown = project(record, self.options.part, self.values_only, &mut projection);
        match &mut self.mode {
            Mode::Records(formatter) => formatter.record(out, meta, &shown),
            Mode::PlainLines | Mode::Batches => {
                let value = shown.value.unwrap_or_default();
                self.newline_in_lines |= memchr::memchr(b'\n', value).is_some();
                out.extend_from_slice(value);
                out.push(b'\n');
            }
        }
    }

    /// Shows bytes that were [rendered](Emitter::render).
    ///
    /// # Errors
    /// As [`Sink::write`].
    pub fn show(&mut self, rendered: &[u8], sink: &mut dyn Sink) -> Result<()> {
        self.out.extend_from_slice(rendered);
        match self.out.len() >= WRITE_BYTES {
            true => self.flush(sink),
            false => Ok(()),
        }
    }

    /// Shows these records of a batch all of whose records have proved good.
    ///
    /// # Errors
    /// As [`Sink::write`].
    pub fn picked(
        &mut self,
        meta: &Meta<'_>,
        plain: &Plain<'_>,
        picks: &[Pick],
        sink: &mut dyn Sink,
    ) -> Result<()> {
        let records = |p: &Pick| Some((plain.record_at(p.position as usize)?, p.gap));
        if self.copies_batches() {
            let records = picks
                .iter()
                .filter_map(records)
                .map(|(record, _)| Ok(record));
            recode(plain.header(), records, &mut self.out)
                .map_err(|defect| Error::data(defect.reason))?;
        } else {
            for (record, gap) in picks.iter().filter_map(records) {
                if gap {
                    self.out.extend_from_slice(SEPARATOR);
                }
                let mut out = std::mem::take(&mut self.out);
                self.render(meta, record, &mut out);
                self.out = out;
                if self.out.len() >= WRITE_BYTES {
                    self.flush(sink)?;
                }
            }
        }
        match self.out.len() >= WRITE_BYTES {
            true => self.flush(sink),
            false => Ok(()),
        }
    }

    /// Whether whole batches are copied.
    pub fn copies_batches(&self) -> bool {
        matches!(self.mode, Mode::Batches)
    }

    /// Shows what is wanted of a batch. The inner error is a batch that cannot be decoded: nothing
    /// of it was shown.
    ///
    /// # Errors
    /// As [`Sink::write`].
    pub fn piece(
        &mut self,
        meta: &Meta<'_>,
        piece: &Piece<'_>,
        sink: &mut dyn Sink,
    ) -> Result<std::result::Result<Flow, Defect>> {
        if let Some(mut search) = self.search.take() {
            let batch = (&piece.batch, &piece.wanted);
            let shown = search.piece(self, self.log, meta, batch, sink);
            self.search = Some(search);
            return shown;
        }
        let header = piece.batch.header();
        let fits = u64::try_from(header.count).is_ok_and(|n| n <= self.left);
        let whole = piece.is_whole() && fits && self.skip == 0;
        if self.pace.is_some() && !self.copies_batches() {
            return self.streamed(meta, piece, sink);
        }
        let shown = match &mut self.mode {
            Mode::PlainLines if whole => self.plain_lines(&piece.batch),
            Mode::Batches if whole && self.options.selection.is_all() => {
                let checked = piece
                    .batch
                    .check_records(&mut self.scratch, &self.options.limits);
                checked.map(|()| {
                    self.out.extend_from_slice(piece.batch.bytes());
                    self.left -= u64::from(header.count.cast_unsigned());
                    Held::All
                })
            }
            Mode::Batches => self.recode(piece).map(|()| Held::All),
            _ if self.options.reverse => self.reversed(meta, piece).map(|()| Held::All),
            _ => self.records(meta, piece),
        };
        match shown {
            Ok(Held::All) => {}
            Ok(Held::TooLarge) => return self.streamed(meta, piece, sink),
            Err(defect) => return Ok(Err(defect)),
        }
        if self.out.len() >= WRITE_BYTES {
            self.flush(sink)?;
        }
        Ok(Ok(if self.left == 0 {
            Flow::Full
        } else {
            Flow::More
        }))
    }

    /// Hands on what is gathered.
    ///
    /// # Errors
    /// As [`Sink::write`].
    pub fn flush(&mut self, sink: &mut dyn Sink) -> Result<()> {
        for part in self.out.chunks(WRITE_BYTES) {
            sink.write(part)?;
        }
        self.out.clear();
        self.out.shrink_to(KEEP_BYTES);
        Ok(())
    }

    /// Every value and a newline.
    fn plain_lines(&mut self, batch: &Batch<'_>) -> std::result::Result<Held, Defect> {
        let out = &mut self.out;
        let mark = out.len();
        out.reserve(batch.bytes().len());
        let mut count = 0;
        for record in batch.records(&mut self.scratch, &self.options.limits)? {
            match record {
                Ok(record) => {
                    let value = record.value.unwrap_or_default();
                    if out.len() - mark + value.len() > HOLD_BYTES {
                        out.truncate(mark);
                        return Ok(Held::TooLarge);
                    }
                    out.extend_from_slice(value);
                    out.push(b'\n');
                    count += 1;
                }
                Err(defect) => {
                    out.truncate(mark);
                    return Err(defect);
                }
            }
        }
        self.left -= count;
        if !self.newline_in_lines {
            // One pass over the whole is quicker than a look into each value.
            let shown = out.get(mark..).unwrap_or_default();
            self.newline_in_lines = memchr::memchr_iter(b'\n', shown).count() as u64 != count;
        }
        Ok(Held::All)
    }

    fn records(&mut self, meta: &Meta<'_>, piece: &Piece<'_>) -> std::result::Result<Held, Defect> {
        let (mark, mut left, mut skip) = (self.out.len(), self.left, self.skip);
        let Mode::Records(formatter) = &mut self.mode else {
            return self.few_lines(piece);
        };
        let mut projection = Vec::new();
        for record in piece
            .batch
            .records(&mut self.scratch, &self.options.limits)?
        {
            let record = match record {
                Ok(record) => record,
                Err(defect) => {
                    self.out.truncate(mark);
                    return Err(defect);
                }
            };
            // The rest of the batch is still decoded: a defect there takes all of it back.
            if left == 0 || !wanted(piece, &self.options.selection, &record) {
                continue;
            }
            if skip > 0 {
                skip -= 1;
                continue;
            }
            let shown = project(record, self.options.part, self.values_only, &mut projection);
            formatter.record(&mut self.out, meta, &shown);
            left -= 1;
            if self.out.len() - mark > HOLD_BYTES {
                self.out.truncate(mark);
                return Ok(Held::TooLarge);
            }
        }
        (self.left, self.skip) = (left, skip);
        Ok(Held::All)
    }

    /// Records last first, a block at a time, so that memory does not follow their number.
    fn reversed(&mut self, meta: &Meta<'_>, piece: &Piece<'_>) -> std::result::Result<(), Defect> {
        let limits = self.options.limits;
        let mut count = 0;
        for record in piece.batch.records(&mut self.scratch, &limits)? {
            record?;
            count += 1;
        }
        let mut projection = Vec::new();
        for block in (0..count).step_by(BLOCK_RECORDS).rev() {
            let records = piece.batch.records(&mut self.scratch, &limits)?;
            let block: Vec<Record<'_>> = records
                .skip(block)
                .take(BLOCK_RECORDS)
                .collect::<std::result::Result<_, _>>()?;
            for record in block.into_iter().rev() {
                if self.left == 0 || !wanted(piece, &self.options.selection, &record) {
                    continue;
                }
                let shown = project(record, self.options.part, self.values_only, &mut projection);
                if let Mode::Records(formatter) = &mut self.mode {
                    formatter.record(&mut self.out, meta, &shown);
                }
                self.left -= 1;
            }
        }
        Ok(())
    }

    /// Plain lines of a part of a batch.
    fn few_lines(&mut self, piece: &Piece<'_>) -> std::result::Result<Held, Defect> {
        let (mark, mut left, mut skip) = (self.out.len(), self.left, self.skip);
        for record in piece
            .batch
            .records(&mut self.scratch, &self.options.limits)?
        {
            let record = match record {
                Ok(record) => record,
                Err(defect) => {
                    self.out.truncate(mark);
                    return Err(defect);
                }
            };
            if left == 0 || !piece.wanted.contains(&record.offset) {
                continue;
            }
            if skip > 0 {
                skip -= 1;
                continue;
            }
            let value = record.value.unwrap_or_default();
            if self.out.len() - mark + value.len() > HOLD_BYTES {
                self.out.truncate(mark);
                return Ok(Held::TooLarge);
            }
            self.newline_in_lines |= memchr::memchr(b'\n', value).is_some();
            self.out.extend_from_slice(value);
            self.out.push(b'\n');
            left -= 1;
        }
        (self.left, self.skip) = (left, skip);
        Ok(Held::All)
    }

    /// A batch of those records that are wanted, at their offsets.
    fn recode(&mut self, piece: &Piece<'_>) -> std::result::Result<(), Defect> {
        let (mut left, mut skip) = (self.left, self.skip);
        let selection = &self.options.selection;
        let records = piece
            .batch
            .records(&mut self.scratch, &self.options.limits)?
            .filter(|record| match record {
                Ok(record) if left == 0 || !wanted(piece, selection, record) => false,
                Ok(_) if skip > 0 => {
                    skip -= 1;
                    false
                }
                Ok(_) => {
                    left -= 1;
                    true
                }
                Err(_) => true,
            });
        recode(piece.batch.header(), records, &mut self.out)?;
        (self.left, self.skip) = (left, skip);
        Ok(())
    }

    /// One value and a newline; a large value is not copied.
    fn line(&mut self, value: &[u8], sink: &mut dyn Sink) -> Result<()> {
        self.newline_in_lines |= memchr::memchr(b'\n', value).is_some();
        if value.len() < WRITE_BYTES {
            self.out.extend_from_slice(value);
        } else {
            self.flush(sink)?;
            sink.write(value)?;
        }
        self.out.push(b'\n');
        match self.out.len() >= WRITE_BYTES {
            true => self.flush(sink),
            false => Ok(()),
        }
    }

    /// One record at a time, each when it is due; the batch is checked first.
    fn streamed(
        &mut self,
        meta: &Meta<'_>,
        piece: &Piece<'_>,
        sink: &mut dyn Sink,
    ) -> Result<std::result::Result<Flow, Defect>> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let shown = self.streamed_with(&mut scratch, meta, piece, sink);
        self.scratch = scratch;
        shown
    }

    fn streamed_with(
        &mut self,
        scratch: &mut Scratch,
        meta: &Meta<'_>,
        piece: &Piece<'_>,
        sink: &mut dyn Sink,
    ) -> Result<std::result::Result<Flow, Defect>> {
        let limits = self.options.limits;
        if let Err(defect) = piece.batch.check_records(scratch, &limits) {
            return Ok(Err(defect));
        }
        let records = match piece.batch.records(scratch, &limits) {
            Ok(records) => records,
            Err(defect) => return Ok(Err(defect)),
        };
        for record in records.map_while(|r| r.ok()) {
            if self.left == 0 {
                break;
            }
            if !wanted(piece, &self.options.selection, &record) {
                continue;
            }
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            let due = self
                .pace
                .as_mut()
                .map_or(Duration::ZERO, |p| p.due_in(record.timestamp));
            if !due.is_zero() {
                self.flush(sink)?;
                if !sink.pause(due)? {
                    return Ok(Ok(Flow::Full));
                }
            }
            self.left -= 1;
            if let Mode::PlainLines = self.mode {
                self.line(record.value.unwrap_or_default(), sink)?;
                continue;
            }
            let mut out = std::mem::take(&mut self.out);
            self.render(meta, record, &mut out);
            self.out = out;
            if self.out.len() >= WRITE_BYTES {
                self.flush(sink)?;
            }
        }
        Ok(Ok(if self.left == 0 {
            Flow::Full
        } else {
            Flow::More
        }))
    }
}

/// Appends a batch of these records of one that has `header`, at their offsets.
fn recode<'a>(
    header: &BatchHeader,
    records: impl Iterator<Item = std::result::Result<Record<'a>, Defect>>,
    out: &mut Vec<u8>,
) -> std::result::Result<(), Defect> {
    let mut builder: Option<(Offset, BatchBuilder)> = None;
    for record in records {
        let record = record?;
        let (base, b) =
            builder.get_or_insert_with(|| (record.offset, BatchBuilder::begin(Vec::new())));
        let headers: Vec<Header<'_>> = record.headers.iter().collect();
        let delta = i32::try_from(record.offset - *base)
            .map_err(|_| Defect::new(0, "offsets of one batch are 2^31 apart"))?;
        let new = NewRecord {
            key: record.key,
            value: record.value,
            headers: &headers,
        };
        b.push_at(delta, record.timestamp, &new);
    }
    if let Some((base, builder)) = builder {
        let append = header.timestamp_type() == TimestampType::Append;
        let append_time = append.then_some(header.max_timestamp);
        let seal = Seal {
            append_time,
            ..Seal::default()
        };
        let (mut bytes, _) = builder.seal(&seal);
        stamp(&mut bytes, base, header.leader_epoch);
        out.extend_from_slice(&bytes);
    }
    Ok(())
}

fn wanted(piece: &Piece<'_>, selection: &Selection, record: &Record<'_>) -> bool {
    piece.wanted.contains(&record.offset) && selection.takes(record)
}

/// The part of a record that is shown.
fn project<'a>(
    record: Record<'a>,
    part: Part,
    values_only: bool,
    buffer: &'a mut Vec<u8>,
) -> Record<'a> {
    match (part, values_only) {
        (Part::Whole, _) => record,
        (Part::Key, true) => Record {
            value: record.key,
            ..record
        },
        (Part::Key, false) => Record {
            value: None,
            ..record
        },
        (Part::Headers, false) => Record {
            key: None,
            value: None,
            ..record
        },
        (Part::Headers, true) => {
            buffer.clear();
            render_headers(&record.headers, buffer);
            Record {
                value: Some(buffer),
                ..record
            }
        }
    }
}

fn render_headers(headers: &Headers<'_>, out: &mut Vec<u8>) {
    for (i, (name, value)) in headers.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name);
        if let Some(value) = value {
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
}

/// Output at the speed at which it was written, or a multiple of it.
struct Pace {
    speed: f64,
    /// When the first record came out, and its time.
    first: Option<(Instant, i64)>,
}

impl Pace {
    fn new(speed: f64) -> Pace {
        Pace { speed, first: None }
    }

    /// How long until a record of this time is due. One without a time is due at once.
    fn due_in(&mut self, timestamp: TimestampMs) -> Duration {
        if timestamp == TimestampMs::NONE {
            return Duration::ZERO;
        }
        let (began, first) = *self.first.get_or_insert((Instant::now(), timestamp.0));
        let after = timestamp.0.saturating_sub(first).max(0) as f64 / self.speed / 1000.0;
        // Further away than a century is as good as never.
        let after = Duration::try_from_secs_f64(after.min(3.2e9)).unwrap_or(Duration::ZERO);
        after.saturating_sub(began.elapsed())
    }
}
