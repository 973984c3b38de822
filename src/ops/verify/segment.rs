//! One segment: every batch, every record, and its indexes against them.

use super::indexes::{Ended, Lie, Offsets, Times, Txns};
use super::records::{Checked, Chunk};
use super::{Env, Finding};
use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::BatchHeader;
use crate::format::names::Kind;
use crate::format::{Offset, Position};
use crate::log::listing::{SegmentRef, read_small};
use crate::segment::salvage::{Found, Salvage};
use crate::segment::scan::{End, HeaderWalk, Span, Tail, Walk};
use crate::sys::File;
use std::ops::Range;
use std::sync::Arc;

/// Largest index that is read, in bytes; Kafka's default bound is 10 MiB.
const INDEX_BYTES_MAX: u64 = 64 << 20;
/// Most findings of one segment that are told.
const FINDINGS_MAX: usize = 1000;

/// What is to be checked of a segment.
pub struct Task {
    /// Which one.
    pub segment: SegmentRef,
    /// Its log file.
    pub file: Arc<dyn File>,
    /// How far.
    pub end: Position,
    /// Whether it may still grow.
    pub is_tail: bool,
    /// Checksums and records too, not just headers.
    pub full: bool,
    /// Only batches that hold one of these offsets.
    pub wanted: Range<Offset>,
}

/// What a segment came to.
#[derive(Default)]
pub struct Report {
    /// What is wrong, in the order of positions.
    pub findings: Vec<Finding>,
    /// Offset behind the last intact batch; the base of an empty segment.
    pub end: Offset,
    /// Base offset of the first intact batch.
    pub first: Option<Offset>,
    /// Intact batches, their records (with headers only: what they claim) and bytes.
    pub batches: u64,
    /// See `batches`.
    pub records: u64,
    /// See `batches`.
    pub bytes: u64,
    /// The largest leader epoch, and the first offset that has it.
    pub epoch: Option<(i32, Offset)>,
    /// What it says of transactions.
    pub txns: Ended,
    /// Where the active segment's data ends without being whole.
    pub torn: Option<Torn>,
    /// Zeros stand behind the data.
    pub zeros: bool,
    /// Index entries of the active segment behind its data: kind, byte, offset. They may speak of
    /// batches that were appended since.
    pub beyond: Vec<(Kind, u64, Offset)>,
    /// Some offset between its first and its last has no record: as compaction leaves it.
    pub has_gaps: bool,
}

/// The end of the active segment, where it is no batch (yet).
#[derive(Clone, Debug)]
pub struct Torn {
    /// Where it begins.
    pub position: Position,
    /// Offset expected there.
    pub next: Offset,
    /// What is wrong there.
    pub reason: String,
}

/// Checks one segment.
///
/// # Errors
/// `NotFound` if a file is gone; else what reading may meet.
pub fn check(env: &Env<'_>, task: &Task) -> Result<Report> {
    let checker = Checker::new(env, task)?;
    let place = |e: Error| e.at_path(env.log.path_of(&task.segment.log_name()));
    match task.full {
        true => checker.walk().map_err(place),
        false => checker.walk_headers().map_err(place),
    }
}

struct Checker<'a> {
    env: &'a Env<'a>,
    task: &'a Task,
    out: Report,
    offsets: Offsets,
    times: Times,
    txns: Txns,
    odd_magic: bool,
    damaged: bool,
}

impl<'a> Checker<'a> {
    fn new(env: &'a Env<'a>, task: &'a Task) -> Result<Checker<'a>> {
        let base = task.segment.base();
        let mut out = Report {
            end: base,
            ..Report::default()
        };
        let mut index = |kind: Kind| -> Result<Vec<u8>> {
            let name = task.segment.index_name(kind);
            let read = match env.log.open_optional(&name)? {
                Some(file) => read_small(&*file, INDEX_BYTES_MAX),
                None => {
                    // The active segment's is made by the next append.
                    if kind != Kind::TxnIndex && !task.is_tail && task.end > Position(0) {
                        out.findings
                            .push(env.finding(&name, 0, "the index is missing"));
                    }
                    return Ok(Vec::new());
                }
            };
            match read {
                Err(e) if e.kind() == ErrorKind::Data => {
                    out.findings.push(env.finding(&name, 0, e.what()));
                    Ok(Vec::new())
                }
                read => read.map_err(|e| e.at_path(env.log.path_of(&name))),
            }
        };
        let (offsets, times, txns) = (
            index(Kind::OffsetIndex)?,
            index(Kind::TimeIndex)?,
            index(Kind::TxnIndex)?,
        );
        // An index is read after the log's end was taken, so it may know more of a live log.
        let len = match task.is_tail {
            true => u64::MAX,
            false => task.end.0,
        };
        Ok(Checker {
            env,
            task,
            out,
            offsets: Offsets::new(&offsets, base, len),
            times: Times::new(&times, base),
            txns: Txns::new(&txns, base, env.limits),
            odd_magic: false,
            damaged: false,
        })
    }

    /// Reads on one core what is checked on another.
    fn walk(mut self) -> Result<Report> {
        let task = self.task;
        let span = Span::whole(task.segment.base(), task.end.0);
        let mut walk = Salvage::new(task.file.clone(), span, self.env.limits);
        let (mut filling, mut full) = (Chunk::default(), Chunk::default());
        let (limits, mut more) = (self.env.limits, true);
        while more || !full.is_empty() {
            let (filled, checked) = match (more, full.is_empty()) {
                (true, true) => (self.fill(&mut walk, &mut filling), Checked::default()),
                (false, _) => (Ok(false), full.check(&limits)),
                _ => rayon::join(
                    || self.fill(&mut walk, &mut filling),
                    || full.check(&limits),
                ),
            };
            more = filled?;
            self.records(checked);
            full.clear();
            std::mem::swap(&mut filling, &mut full);
        }
        Ok(self.finish())
    }

    /// Gathers batches; false at the end of the segment.
    fn fill(&mut self, walk: &mut Salvage, chunk: &mut Chunk) -> Result<bool> {
        while !chunk.is_full() {
            match walk.step()? {
                Found::Batch(position) => {
                    let Some(batch) = walk.batch() else { continue };
                    let header = batch.header();
                    self.env.throttle.spend(header.size as u64);
                    if header.is_transactional() {
                        self.txns.feed(&batch);
                    }
                    if self.wants(header) {
                        chunk.push(&batch, position);
                    }
                    self.header(header, position);
                }
                Found::Damage(damage) => {
                    if damage.is_last && self.task.is_tail {
                        self.torn(damage.position, damage.lost.start, damage.defect.reason);
                        return Ok(false);
                    }
                    self.damage(damage);
                }
                Found::Disowned(damage) => {
                    self.out.end = damage.lost.start;
                    self.damage(damage);
                }
                Found::End(end) => {
                    self.end(end, walk.next_offset());
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn wants(&self, header: &BatchHeader) -> bool {
        let wanted = &self.task.wanted;
        header.last_offset >= wanted.start && header.base_offset < wanted.end
    }

    fn walk_headers(mut self) -> Result<Report> {
        let task = self.task;
        let span = Span::whole(task.segment.base(), task.end.0);
        let mut walk = HeaderWalk::new(task.file.clone(), span, self.env.limits);
        loop {
            match walk.next()? {
                Walk::Header(header, position) => {
                    self.out.records += u64::try_from(header.count).unwrap_or(0);
                    self.header(&header, position);
                }
                Walk::End(end) => {
                    self.end(end, walk.next_offset());
                    break;
                }
                Walk::Bad(bad) => {
                    // What lies behind is not looked for here: the full check does.
                    let at = bad.position.0 + bad.defect.at as u64;
                    self.damaged = true;
                    self.tell(at, Some(walk.next_offset()), bad.defect.reason);
                    break;
                }
            }
        }
        self.txns = Txns::new(&[], task.segment.base(), self.env.limits);
        Ok(self.finish())
    }

    /// Counts a batch and holds the indexes against it.
    fn header(&mut self, header: &BatchHeader, position: Position) {
        self.out.batches += 1;
        self.out.bytes += header.size as u64;
        let expected = match self.out.first {
            Some(_) => self.out.end,
            None => header.base_offset,
        };
        let full =
            header.magic < 2 || i64::from(header.count) > header.last_offset - header.base_offset;
        // Of a compressed magic 0 or 1 wrapper only the last offset is known.
        self.out.has_gaps |= !full || header.magic >= 2 && header.base_offset != expected;
        self.out.first.get_or_insert(header.base_offset);
        self.out.end = header.last_offset.next();
        if self.out.epoch.is_none_or(|(e, _)| header.leader_epoch > e) && header.leader_epoch >= 0 {
            self.out.epoch = Some((header.leader_epoch, header.base_offset));
        }
        self.offsets.feed(header, position);
        self.times.feed(header);
        if header.magic > 2 && !self.odd_magic {
            self.odd_magic = true;
            let why = format!("magic {} is not known; read as 2", header.magic);
            let name = self.task.segment.log_name();
            self.out
                .findings
                .push(self.env.warning(&name, position.0 + 16, why));
        }
    }

    fn damage(&mut self, damage: crate::segment::salvage::Damage) {
        self.damaged = true;
        self.offsets.pass(damage.position, damage.bytes);
        self.times.pass();
        self.txns.pass(damage.lost.end);
        let at = damage.position.0 + damage.defect.at as u64;
        let lost = &damage.lost;
        let what = match (lost.end == Offset::MAX, lost.end - lost.start) {
            (true, _) => format!("; offsets from {} on are lost", lost.start),
            (false, 0) => String::new(),
            (false, 1) => format!("; offset {} is lost", lost.start),
            (false, _) => format!("; offsets {}..{} are lost", lost.start, lost.end),
        };
        self.tell(
            at,
            Some(lost.start),
            format!("{}{what}", damage.defect.reason),
        );
    }

    fn torn(&mut self, position: Position, next: Offset, reason: String) {
        self.out.torn = Some(Torn {
            position,
            next,
            reason,
        });
    }

    fn end(&mut self, end: End, next: Offset) {
        self.out.zeros = end.tail == Tail::Zeros;
        if end.tail != Tail::Partial {
            return;
        }
        let reason = "the file ends inside a batch".to_string();
        match self.task.is_tail {
            true => self.torn(end.position, next, reason),
            false => self.tell(end.position.0, Some(next), reason),
        }
    }

    fn records(&mut self, checked: Checked) {
        self.out.records += checked.records;
        for bad in checked.bad {
            let at = bad.position.0 + bad.at as u64;
            self.tell(at, Some(bad.offsets.start), bad.reason);
        }
    }

    fn tell(&mut self, at: u64, offset: Option<Offset>, reason: String) {
        if self.out.findings.len() < FINDINGS_MAX {
            let name = self.task.segment.log_name();
            let mut finding = self.env.finding(&name, at, reason);
            finding.offset = offset;
            self.out.findings.push(finding);
        }
    }

    fn finish(mut self) -> Report {
        let open = self.task.is_tail || self.damaged;
        // Batches of different threads: in the order of the file again.
        self.out.findings.sort_by_key(|f| f.position);
        if self.task.is_tail && !self.damaged {
            let ahead = [
                (Kind::OffsetIndex, self.offsets.beyond()),
                (Kind::TimeIndex, self.times.beyond()),
            ];
            let ahead = ahead.into_iter();
            self.out.beyond = ahead
                .filter_map(|(k, b)| b.map(|(at, o)| (k, at, o)))
                .collect();
        }
        let (txn_lies, txns) = self.txns.finish(self.out.end);
        let lies: [(Kind, Vec<Lie>); 3] = [
            (Kind::OffsetIndex, self.offsets.finish(open)),
            (Kind::TimeIndex, self.times.finish(open)),
            (Kind::TxnIndex, txn_lies),
        ];
        for (kind, lies) in lies {
            let name = self.task.segment.index_name(kind);
            for (at, why) in lies {
                self.out.findings.push(self.env.finding(&name, at, why));
            }
        }
        self.out.txns = txns;
        self.out
    }
}
