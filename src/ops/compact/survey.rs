//! The first pass of a compaction: which records are superseded.
//!
//! Reads every batch of the log up to a bound once, checks it, and leaves one bit a record ([`Live`]),
//! in the order of the log; more passes follow only if the keys do not fit the memory ([`Keys`]).
//! A bit is cleared when a newer record with the same key is met, when an aborted transaction is, and
//! when a tombstone's time has passed; whoever writes the log anew needs no key for that.
//!
//! Only headers of whole batches speak of transactions, so they are read ahead once, when the first
//! transactional batch is met ([`Transactions`]).

use std::collections::HashMap;
use std::sync::Arc;

use super::keys::{Inserted, Keys, Part};
use super::txns::Transactions;
use crate::error::{Error, Result};
use crate::format::batch::{Batch, BatchHeader, Scratch};
use crate::format::{Limits, Offset, TimestampMs};
use crate::log::listing::{LogDir, SegmentRef, end_of};
use crate::segment::scan::{Scan, Scanner, Span, Tail, is_zero};
use crate::sys::File;

/// A segment as the survey saw it.
pub struct Source {
    /// Its name.
    pub segment: SegmentRef,
    /// Its log, held open.
    pub file: Arc<dyn File>,
    /// Bytes of it that were read.
    pub len: u64,
    /// When it was last changed.
    pub mtime_ms: i64,
    /// Ordinal of its first record.
    pub first: u64,
    /// Records in it, without control records.
    pub records: u64,
    /// Batches whose fate is more than that of their records: of transactions, control batches, and
    /// empty ones before the last.
    pub is_special: bool,
    /// Holds a tombstone without a deadline, live or superseded.
    pub bare_tombstones: bool,
}

/// One bit a record: whether it stays.
#[derive(Default)]
pub struct Live(Vec<u64>);

impl Live {
    fn add(&mut self, ordinal: u64) {
        let (word, bit) = place(ordinal);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        if let Some(w) = self.0.get_mut(word) {
            *w |= bit;
        }
    }

    #[inline]
    fn clear(&mut self, ordinal: u64) {
        let (word, bit) = place(ordinal);
        if let Some(w) = self.0.get_mut(word) {
            *w &= !bit;
        }
    }

    /// Whether the record stays.
    #[inline]
    pub fn is_set(&self, ordinal: u64) -> bool {
        let (word, bit) = place(ordinal);
        self.0.get(word).is_some_and(|w| w & bit != 0)
    }

    /// How many of `count` records from `first` on stay.
    pub fn count(&self, first: u64, count: u64) -> u64 {
        let end = first.saturating_add(count);
        let (mut at, mut sum) = (first, 0);
        while at < end {
            let (word, _) = place(at);
            let until = (at / 64 + 1).saturating_mul(64).min(end);
            let mut bits = self.0.get(word).copied().unwrap_or(0) >> (at % 64);
            if until - at < 64 {
                bits &= (1 << (until - at)) - 1;
            }
            sum += u64::from(bits.count_ones());
            at = until;
        }
        sum
    }
}

#[inline]
fn place(ordinal: u64) -> (usize, u64) {
    (
        usize::try_from(ordinal / 64).unwrap_or(usize::MAX),
        1 << (ordinal % 64),
    )
}

/// What the survey goes by.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Versions of each key that stay.
    pub keep: usize,
    /// Memory for keys, in bytes.
    pub memory: usize,
    /// When it is.
    pub now: TimestampMs,
    /// Deadline of a tombstone that has none yet.
    pub horizon: TimestampMs,
    /// Seed of the hashes.
    pub seed: u64,
}

/// What the log holds below the bound.
pub struct Survey {
    /// The segments, oldest first; the active one may be the last.
    pub sources: Vec<Source>,
    /// Which records stay.
    pub live: Live,
    /// Records below the bound.
    pub records: u64,
    /// Batches at or above this offset stay as they are.
    pub bound: Offset,
    /// The last batch of each producer: whether it has data, and its last offset.
    pub producers: HashMap<i64, (bool, Offset)>,
    /// Log end, as far as its batches are whole.
    pub end: Offset,
    /// The active segment ends in something that is no batch: a write under way, or this damage.
    pub odd_tail: Option<Error>,
    /// How transactions ended, where there are any.
    pub transactions: Option<Transactions>,
}

/// Watches over the work: called with the bytes read or written since the last call.
pub type Pace<'a> = &'a mut dyn FnMut(u64) -> Result<()>;

impl Survey {
    /// Surveys segments of `log`. What is not a whole batch at the end of the active one, the last if
    /// `has_active`, is not there yet.
    ///
    /// # Errors
    /// `Data`, naming the place, for damage; else what the system answers, and `pace`.
    pub fn of(
        log: &LogDir,
        segments: &[SegmentRef],
        has_active: bool,
        terms: &Terms,
        pace: Pace<'_>,
    ) -> Result<Survey> {
        let mut survey = Survey {
            sources: Vec::new(),
            live: Live::default(),
            records: 0,
            bound: Offset::MAX,
            producers: HashMap::new(),
            end: Offset::ZERO,
            odd_tail: None,
            transactions: None,
        };
        for segment in segments {
            survey.sources.push(open(log, segment)?);
        }
        let mut parts = vec![Part::ALL];
        let mut keys = Keys::new(terms.seed, terms.keep, terms.memory);
        let mut is_first = true;
        while let Some(part) = parts.pop() {
            keys.clear();
            let mut pass = Pass {
                log,
                terms,
                part,
                later: Vec::new(),
                keys: &mut keys,
                is_first,
                has_active,
                ordinal: 0,
                scratch: Scratch::new(),
            };
            pass.run(&mut survey, pace)?;
            parts.append(&mut pass.later);
            is_first = false;
        }
        Ok(survey)
    }

    /// Records of a source that stay.
    pub fn live_in(&self, source: &Source) -> u64 {
        self.live.count(source.first, source.records)
    }

    /// Records that go.
    pub fn superseded(&self) -> u64 {
        self.records - self.live.count(0, self.records)
    }
}

fn open(log: &LogDir, segment: &SegmentRef) -> Result<Source> {
    let file = log.open_file(&segment.log_name())?;
    let place = |e: Error| e.at_path(log.path_of(&segment.log_name()));
    let len = end_of(file.as_ref()).map_err(place)?.0;
    let meta = file
        .meta()
        .map_err(|e| place(Error::io("cannot stat", e)))?;
    file.advise_sequential();
    Ok(Source {
        segment: *segment,
        file,
        len,
        mtime_ms: meta.mtime_ms,
        first: 0,
        records: 0,
        is_special: false,
        bare_tombstones: false,
    })
}

/// One pass over the log, for the keys of one part.
struct Pass<'a> {
    log: &'a LogDir,
    terms: &'a Terms,
    part: Part,
    /// What did not fit, for passes to come.
    later: Vec<Part>,
    keys: &'a mut Keys,
    is_first: bool,
    has_active: bool,
    ordinal: u64,
    scratch: Scratch,
}

impl Pass<'_> {
    fn run(&mut self, survey: &mut Survey, pace: Pace<'_>) -> Result<()> {
        for i in 0..survey.sources.len() {
            self.segment(survey, i, pace)?;
        }
        survey.records = self.ordinal;
        Ok(())
    }

    fn segment(&mut self, survey: &mut Survey, i: usize, pace: Pace<'_>) -> Result<()> {
        let is_last = i + 1 == survey.sources.len();
        let is_active = is_last && self.has_active;
        let Some(source) = survey.sources.get_mut(i) else {
            return Ok(());
        };
        source.first = self.ordinal;
        let name = source.segment.log_name();
        let span = Span::whole(source.segment.base(), source.len);
        let mut scanner = Scanner::new(Arc::clone(&source.file), span, Limits::default());
        let mut had_empty = false;
        let place = |e: Error| e.at_path(self.log.path_of(&name));
        loop {
            let (batch, position) = match scanner.next().map_err(place)? {
                Scan::Batch(batch, position) => (batch, position),
                Scan::End(end) if is_active && end.tail != Tail::Partial => break,
                Scan::End(end) => {
                    let zeros = end.tail == Tail::Zeros
                        && is_zero(scanner.file().as_ref(), end.position, scanner.end())?;
                    if zeros || end.tail == Tail::Clean {
                        break;
                    }
                    let e = Error::data("the data ends before the file");
                    let e = damage(self.log, &name, e.at_position(end.position.0));
                    survey.odd(e, is_active)?;
                    break;
                }
                Scan::Bad(bad) => {
                    let at = bad.position.0 + bad.defect.at as u64;
                    let e = Error::data(bad.defect.reason).at_position(at);
                    survey.odd(damage(self.log, &name, e), is_active)?;
                    break;
                }
            };
            if batch.header().base_offset >= survey.bound {
                // Checked all the same, once: damage is told before anything is changed.
                match self.is_first {
                    true => continue,
                    false => break,
                }
            }
            if self.is_first {
                let special = batch.header().is_transactional() || batch.header().is_control();
                survey.note_special(i, special || had_empty);
                had_empty |= batch.header().count == 0;
                self.transactions(survey, i, batch.header(), position.0)?;
                if batch.header().base_offset >= survey.bound {
                    continue;
                }
                survey.note_producer(batch.header());
            }
            let (at, size) = (batch.header().base_offset, batch.header().size as u64);
            let done = self.batch(survey, i, &batch);
            done.map_err(|d| {
                let e = Error::data(d.reason).at_offset(at.0);
                damage(self.log, &name, e.at_position(position.0 + d.at as u64))
            })?;
            pace(size)?;
        }
        if let Some(source) = survey.sources.get_mut(i) {
            source.records = self.ordinal - source.first;
            if is_last {
                // What is appended from now on is not judged.
                survey.end = survey.end.max(scanner.next_offset());
                survey.bound = survey.bound.min(scanner.next_offset());
            }
        }
        Ok(())
    }

    /// At the first batch of a transaction: how all of them ended, and where the first open one begins.
    fn transactions(
        &self,
        survey: &mut Survey,
        i: usize,
        header: &BatchHeader,
        position: u64,
    ) -> Result<()> {
        if survey.transactions.is_none() && (header.is_transactional() || header.is_control()) {
            let rest = survey.sources.get(i..).unwrap_or_default();
            let transactions = Transactions::of(self.log, rest, position)?;
            survey.bound = survey.bound.min(transactions.first_open());
            survey.transactions = Some(transactions);
        }
        Ok(())
    }

    fn batch(
        &mut self,
        survey: &mut Survey,
        i: usize,
        batch: &Batch<'_>,
    ) -> std::result::Result<(), crate::format::Defect> {
        let header = batch.header();
        if header.is_control() {
            return Ok(());
        }
        let aborted = survey.is_aborted(header);
        let horizon = header.delete_horizon().unwrap_or(self.terms.horizon);
        let expired = horizon <= self.terms.now;
        let bare = header.delete_horizon().is_none() && !expired;
        let mut next = Offset(i64::MIN);
        let mut scratch = std::mem::take(&mut self.scratch);
        for record in batch.records(&mut scratch, &Limits::default())? {
            let record = record?;
            if record.offset < next || record.offset > header.last_offset {
                let why = format!(
                    "record offset {} out of order or outside its batch",
                    record.offset
                );
                return Err(crate::format::Defect::new(0, why));
            }
            next = record.offset.next();
            let ordinal = self.ordinal;
            self.ordinal += 1;
            if self.is_first {
                survey.live.add(ordinal);
            }
            if aborted {
                survey.live.clear(ordinal);
                continue;
            }
            let Some(key) = record.key else { continue };
            if record.value.is_none() && bare {
                survey.note_bare(i);
            }
            let hash = self.keys.hash(key);
            if !self.part.holds(hash) {
                continue;
            }
            if record.value.is_some() || !expired {
                self.insert(hash, key, ordinal, &mut survey.live);
            } else {
                self.keys
                    .forget(hash, key, |older| survey.live.clear(older));
                survey.live.clear(ordinal);
            }
        }
        self.scratch = scratch;
        Ok(())
    }

    #[inline]
    fn insert(&mut self, hash: u64, key: &[u8], ordinal: u64, live: &mut Live) {
        match self.keys.insert(hash, key, ordinal) {
            Inserted::Kept => {}
            Inserted::Superseded(older) => live.clear(older),
            Inserted::Full => self.halve(hash, key, ordinal, live),
        }
    }

    /// Goes on with half of the keys; the others get a pass of their own. What this one has found of
    /// them stays true.
    #[cold]
    fn halve(&mut self, hash: u64, key: &[u8], ordinal: u64, live: &mut Live) {
        let Some((part, later)) = self.part.split() else {
            return; // 2^32 passes would not do: what cannot be told is kept
        };
        self.part = part;
        self.later.push(later);
        self.keys.retain(part);
        if part.holds(hash) {
            self.insert(hash, key, ordinal, live);
        }
    }
}

impl Survey {
    /// What is no batch: damage, but in the active segment perhaps a write under way.
    fn odd(&mut self, e: Error, is_active: bool) -> Result<()> {
        match is_active {
            true => self.odd_tail = Some(e),
            false => return Err(e),
        }
        Ok(())
    }

    fn note_special(&mut self, i: usize, is_special: bool) {
        if let Some(source) = self.sources.get_mut(i) {
            source.is_special |= is_special;
        }
    }

    fn note_bare(&mut self, i: usize) {
        if let Some(source) = self.sources.get_mut(i) {
            source.bare_tombstones = true;
        }
    }

    fn note_producer(&mut self, header: &BatchHeader) {
        if header.has_producer() {
            let is_data = !header.is_control();
            let last = self
                .producers
                .entry(header.producer_id)
                .or_insert((false, header.last_offset));
            if is_data || !last.0 {
                *last = (is_data, header.last_offset);
            }
        }
    }

    /// Whether the batch is of a transaction that was aborted.
    pub fn is_aborted(&self, header: &BatchHeader) -> bool {
        header.is_transactional()
            && !header.is_control()
            && self
                .transactions
                .as_ref()
                .is_some_and(|t| t.is_aborted(header))
    }

    /// Whether the batch tells what its producer did last.
    pub fn is_last_of_producer(&self, header: &BatchHeader) -> bool {
        let last = self.producers.get(&header.producer_id);
        header.has_producer()
            && last.is_some_and(|l| *l == (!header.is_control(), header.last_offset))
    }
}

/// Names the file of a damage, and the way on.
pub fn damage(log: &LogDir, name: &str, e: Error) -> Error {
    let hint = format!("logd verify {}", log.dir().path().display());
    e.at_path(log.path_of(name)).hint(hint)
}
