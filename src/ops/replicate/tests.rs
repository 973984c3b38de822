//! The two machines against a model: random logs, random copies, cuts at any byte of either direction.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

use proptest::prelude::*;

use super::copy::{Copy, CopyOptions};
use super::ends::{Chunk, CopyLog, Reach, Read, Records, SourceLog};
use super::outbox::Outbox;
use super::source::{Note, Sent, Source, SourceOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::Batch;
use crate::format::checkpoint::EpochStart;
use crate::format::crc32c::{Crc32c, crc32c};
use crate::format::wire::{
    self, Ask, BatchId, Changed, CopyInfo, CopyState, Found, Framed, Question, RecordId, SourceInfo,
};
use crate::format::{Limits, Offset, TimestampMs};
use crate::ops::append::SyncWhen;

/// A batch of the model: its bytes are those of a magic 2 batch that would be taken for one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MBatch {
    segment: i64,
    base: i64,
    last: i64,
    bytes: Vec<u8>,
}

fn batch(segment: i64, base: i64, last: i64, payload: &[u8], epoch: i32) -> MBatch {
    let mut b = vec![0; 61];
    b[..8].copy_from_slice(&base.to_be_bytes());
    b[8..12].copy_from_slice(&(49 + payload.len() as i32).to_be_bytes());
    b[12..16].copy_from_slice(&epoch.to_be_bytes());
    b[16] = 2;
    b[23..27].copy_from_slice(&((last - base) as i32).to_be_bytes());
    b.extend(payload);
    let crc = crc32c(&b[21..]);
    b[17..21].copy_from_slice(&crc.to_be_bytes());
    MBatch {
        segment,
        base,
        last,
        bytes: b,
    }
}

impl MBatch {
    fn id(&self) -> BatchId {
        let crc = u32::from_be_bytes(self.bytes[17..21].try_into().unwrap());
        BatchId {
            base: Offset(self.base),
            last: Offset(self.last),
            size: self.bytes.len() as u32,
            crc,
        }
    }

    /// One record an offset, told apart by the payload.
    fn records(&self) -> impl Iterator<Item = RecordId> + '_ {
        let hash = u64::from(crc32c(&self.bytes[61..]));
        (self.base..=self.last).map(move |o| RecordId {
            offset: Offset(o),
            hash: hash ^ o as u64,
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mem {
    batches: Vec<MBatch>,
    start: i64,
    epochs: Vec<EpochStart>,
    changed: Vec<Changed>,
    /// How many of the batches may be sent.
    sendable: usize,
    read_at: usize,
    part_at: usize,
    state: CopyState,
    durable: i64,
    fenced: Option<i32>,
    /// Not the log that the others are.
    other: bool,
    /// Batches written since the last look.
    puts: usize,
}

impl Mem {
    fn end(&self) -> i64 {
        self.batches.last().map_or(self.start, |b| b.last + 1)
    }

    fn sendable_end(&self) -> i64 {
        let sent = self.batches[..self.sendable].last();
        sent.map_or(self.start, |b| b.last + 1)
    }

    fn in_range(&self, r: &Range<Offset>) -> impl Iterator<Item = &MBatch> {
        let r = r.clone();
        self.batches
            .iter()
            .filter(move |b| r.contains(&Offset(b.base)))
    }

    fn digest(&self, r: &Range<Offset>) -> (u64, u64) {
        let mut all = Vec::new();
        let mut n = 0;
        for b in self.in_range(r) {
            all.extend(&b.bytes[..21]);
            n += 1;
        }
        (n, u64::from(crc32c(&all)))
    }

    fn batch_at(&self, at: Offset) -> Option<BatchId> {
        let found = self.batches.iter().find(|b| b.last >= at.0);
        found.map(MBatch::id)
    }

    /// Three at a time, so that asking goes on.
    fn records(&self, r: &Range<Offset>) -> Records {
        let all = self.batches.iter().flat_map(MBatch::records);
        let all: Vec<_> = all.filter(|x| r.contains(&x.offset)).collect();
        match all.get(3) {
            Some(next) => (all[..3].to_vec(), next.offset),
            None => (all, r.end),
        }
    }
}

type Shared = Rc<RefCell<Mem>>;
struct MemSource(Shared);
struct MemCopy(Shared);

impl SourceLog for MemSource {
    fn info(&mut self) -> Result<SourceInfo> {
        let m = self.0.borrow();
        Ok(SourceInfo {
            id: [7; 16],
            start: Offset(m.start),
            end: Offset(m.sendable_end()),
            epochs: m.epochs.clone(),
            changed: m.changed.clone(),
            ..SourceInfo::default()
        })
    }

    fn reach(&mut self) -> Result<Reach> {
        let m = self.0.borrow();
        Ok(Reach {
            start: Offset(m.start),
            end: Offset(m.end()),
            sendable: Offset(m.sendable_end()),
            epochs: m.epochs.clone(),
        })
    }

    fn seek(&mut self, offset: Offset, within: bool) -> Result<Offset> {
        let mut m = self.0.borrow_mut();
        let fits = |b: &MBatch| b.base >= offset.0 || (within && b.last >= offset.0);
        m.read_at = m.batches.iter().position(fits).unwrap_or(m.batches.len());
        m.part_at = 0;
        Ok(m.batches.get(m.read_at).map_or(offset, |b| Offset(b.base)))
    }

    fn read(&mut self, buf: &mut [u8], upto: Offset) -> Result<Read> {
        let mut m = self.0.borrow_mut();
        let (mut bytes, mut crc, mut at) = (0, Crc32c::default(), m.read_at);
        let before = at.checked_sub(1).map_or(m.start, |i| m.batches[i].last + 1);
        let Some(first) = m.batches.get(at).filter(|b| b.base < upto.0).cloned() else {
            return Ok(Read::End);
        };
        // Batches over 300 bytes travel in parts, as if that were the largest frame.
        if first.bytes.len() > 300 || m.part_at > 0 {
            let from = m.part_at;
            let to = (from + 200).min(first.bytes.len());
            buf[..to - from].copy_from_slice(&first.bytes[from..to]);
            if from == 0 {
                crc.update(&first.bytes[..21]);
            }
            let part = to < first.bytes.len();
            m.part_at = if part { to } else { 0 };
            m.read_at += usize::from(!part);
            return Ok(Read::Chunk(Chunk {
                bytes: to - from,
                segment: Offset(first.segment),
                heads_crc: crc.value(),
                part,
                next: Offset(if part { before } else { first.last + 1 }),
                newest: TimestampMs(-1),
            }));
        }
        let mut next = before;
        while let Some(b) = m.batches.get(at) {
            let fits = bytes + b.bytes.len() <= buf.len().min(400) && b.bytes.len() <= 300;
            if !fits || b.segment != first.segment || b.base >= upto.0 {
                break;
            }
            buf[bytes..bytes + b.bytes.len()].copy_from_slice(&b.bytes);
            crc.update(&b.bytes[..21]);
            (bytes, at, next) = (bytes + b.bytes.len(), at + 1, b.last + 1);
        }
        m.read_at = at;
        Ok(Read::Chunk(Chunk {
            bytes,
            segment: Offset(first.segment),
            heads_crc: crc.value(),
            part: false,
            next: Offset(next),
            newest: TimestampMs(-1),
        }))
    }

    fn digest(&mut self, r: Range<Offset>) -> Result<(u64, u64)> {
        Ok(self.0.borrow().digest(&r))
    }

    fn batch(&mut self, at: Offset) -> Result<Option<BatchId>> {
        Ok(self.0.borrow().batch_at(at))
    }

    fn records(&mut self, r: Range<Offset>) -> Result<Records> {
        Ok(self.0.borrow().records(&r))
    }

    fn fence(&mut self, epoch: i32) -> Result<()> {
        self.0.borrow_mut().fenced = Some(epoch);
        Ok(())
    }
}

impl CopyLog for MemCopy {
    type Checked = Vec<(i64, i64, usize)>;

    fn check(bytes: &[u8], limits: &Limits) -> Result<Self::Checked> {
        let (mut rest, mut out) = (bytes, Vec::new());
        while !rest.is_empty() {
            let crate::format::frame::Frame::Entry(n) = crate::format::frame::frame(rest, limits)
            else {
                return Err(Error::data("no whole batch"));
            };
            let b = Batch::check(&rest[..n]).map_err(|d| Error::data(d.reason))?;
            out.push((b.header().base_offset.0, b.header().last_offset.0, n));
            rest = &rest[n..];
        }
        Ok(out)
    }

    fn end_of(checked: &Self::Checked) -> Option<Offset> {
        checked.last().map(|c| Offset(c.1 + 1))
    }

    fn info(&mut self) -> Result<CopyInfo> {
        let m = self.0.borrow();
        let last = m.batches.iter().rev().take(3).map(MBatch::id);
        let mut last: Vec<BatchId> = last.collect();
        last.reverse();
        Ok(CopyInfo {
            state: if m.batches.is_empty() {
                CopyState::None
            } else {
                m.state
            },
            id: [if m.other { 8 } else { 7 }; 16],
            start: Offset(m.start),
            end: Offset(m.end()),
            durable: Some(Offset(m.durable)),
            epochs: m.epochs.clone(),
            last,
            changed: m.changed.clone(),
            redactions: Vec::new(),
        })
    }

    fn answer(&mut self, ask: &Ask) -> Result<(Offset, Found)> {
        let m = self.0.borrow();
        Ok(match ask.what {
            Question::Digest => {
                let (batches, hash) = m.digest(&ask.offsets);
                (ask.offsets.end, Found::Digest { batches, hash })
            }
            Question::Batch => {
                let found = m.batch_at(ask.offsets.start);
                let found = found.filter(|b| b.base < ask.offsets.end);
                (ask.offsets.end, Found::Batch(found))
            }
            Question::Records => {
                let (records, upto) = m.records(&ask.offsets);
                (upto, Found::Records(records))
            }
        })
    }

    fn adopt(&mut self, _: &SourceInfo) -> Result<()> {
        self.0.borrow_mut().state = CopyState::Copy;
        Ok(())
    }

    fn set_epochs(&mut self, epochs: &[EpochStart]) -> Result<()> {
        assert_eq!(
            self.0.borrow().state,
            CopyState::Copy,
            "epochs before the mark"
        );
        self.0.borrow_mut().epochs = epochs.to_vec();
        Ok(())
    }

    fn truncate(&mut self, at: Offset) -> Result<()> {
        let mut m = self.0.borrow_mut();
        m.batches.retain(|b| b.base < at.0);
        m.durable = m.durable.min(at.0);
        Ok(())
    }

    fn put(&mut self, segment: Offset, bytes: &[u8], checked: &Self::Checked) -> Result<Offset> {
        let mut m = self.0.borrow_mut();
        assert_eq!(m.state, CopyState::Copy, "batches before the mark");
        let mut at = 0;
        for (base, last, size) in checked {
            if m.batches.is_empty() {
                m.start = *base;
            }
            if *base < m.end() {
                return Err(Error::data(format!("{base} below {}", m.end())));
            }
            let epoch = i32::from_be_bytes(bytes[at + 12..at + 16].try_into().unwrap());
            let known = m.epochs.iter().any(|e| e.epoch == epoch);
            assert!(known, "a batch of an epoch that was not told");
            m.batches.push(MBatch {
                segment: segment.0,
                base: *base,
                last: *last,
                bytes: bytes[at..at + size].to_vec(),
            });
            m.puts += 1;
            at += size;
        }
        Ok(Offset(m.end()))
    }

    fn sync(&mut self) -> Result<Offset> {
        let mut m = self.0.borrow_mut();
        m.durable = m.end();
        Ok(Offset(m.durable))
    }

    fn forget_before(&mut self, start: Offset) -> Result<()> {
        let mut m = self.0.borrow_mut();
        m.batches.retain(|b| b.last >= start.0);
        Ok(())
    }
}

/// One connection between two logs; bytes of each direction pass until it is cut.
struct Wire {
    source: Source<MemSource>,
    copy: Copy<MemCopy>,
    out: [Outbox; 2],
    on_way: [Vec<u8>; 2],
}

impl Wire {
    fn new(source: &Shared, copy: &Shared, so: SourceOptions, co: CopyOptions) -> Result<Wire> {
        let mut out = [Outbox::new(), Outbox::new()];
        Ok(Wire {
            source: Source::new(0, MemSource(Rc::clone(source)), so, &mut out[0])?,
            copy: Copy::new(0, MemCopy(Rc::clone(copy)), co),
            out,
            on_way: [Vec::new(), Vec::new()],
        })
    }

    /// Moves up to `n` bytes of one direction; takes the frames that are whole there.
    fn carry(&mut self, side: usize, n: usize) -> Result<usize> {
        let n = n.min(self.out[side].pending().len());
        self.on_way[side].extend(&self.out[side].pending()[..n]);
        self.out[side].consume(n);
        loop {
            let bytes = std::mem::take(&mut self.on_way[side]);
            let Framed::Whole(size) = wire::frame(&bytes) else {
                self.on_way[side] = bytes;
                break;
            };
            let frame = wire::decode(&bytes[..size]).expect("our own frame");
            let now = Instant::now();
            let [to_copy, to_source] = &mut self.out;
            let taken = match side {
                0 => self.copy.receive(&frame.message, None, now, to_source),
                _ => self.source.receive(&frame.message, to_copy),
            };
            self.on_way[side] = bytes[size..].to_vec();
            taken?;
        }
        Ok(n)
    }

    /// Runs until nothing moves, or the directions have passed so many bytes.
    fn run(&mut self, mut left: [usize; 2], step: usize) -> Result<()> {
        loop {
            let sent = self.source.send(&mut self.out[0])?;
            let mut moved = sent == Sent::Frame;
            for side in [0, 1] {
                let n = self.carry(side, step.min(left[side]))?;
                left[side] -= n;
                moved |= n > 0;
                if left[side] == 0 {
                    return Ok(());
                }
            }
            if !moved {
                let before = self.out[1].pending().len();
                self.copy.idle(Instant::now(), &mut self.out[1])?;
                if self.out[1].pending().len() == before {
                    return Ok(());
                }
            }
        }
    }
}

fn copy_options() -> CopyOptions {
    CopyOptions {
        sync: SyncWhen::Batch,
        delete: false,
        truncate: false,
        one_way: false,
        limits: Limits::default(),
    }
}

fn shared(m: &Mem) -> Shared {
    Rc::new(RefCell::new(m.clone()))
}

/// A log: batches with gaps before them, some of which begin a segment or an epoch.
fn logs() -> impl Strategy<Value = Mem> {
    let one = (0i64..4, 0i64..5, 0usize..500, any::<u8>(), 0u8..8, 0u8..9);
    prop::collection::vec(one, 0..25).prop_map(|plan| {
        let mut m = Mem {
            epochs: vec![EpochStart {
                epoch: 0,
                start: Offset(0),
            }],
            state: CopyState::Log,
            ..Mem::default()
        };
        let (mut next, mut segment) = (0, 0);
        for (gap, more, size, fill, roll, term) in plan {
            // A gap before the first batch is where the log starts.
            let base = next + gap;
            if m.batches.is_empty() {
                (m.start, segment) = (base, base);
            } else if roll == 0 {
                segment = next + gap / 2;
            }
            let epoch = m.epochs.last().unwrap().epoch;
            let epoch = match term {
                0 => {
                    let start = Offset(base);
                    m.epochs.push(EpochStart {
                        epoch: epoch + 1,
                        start,
                    });
                    epoch + 1
                }
                _ => epoch,
            };
            m.batches
                .push(batch(segment, base, base + more, &vec![fill; size], epoch));
            next = base + more + 1;
        }
        m.sendable = m.batches.len();
        m
    })
}

/// The first `n` batches of a log as a copy of it.
fn prefix(m: &Mem, n: usize, state: CopyState) -> Mem {
    let mut p = m.clone();
    p.batches.truncate(n);
    let end = p.end();
    p.epochs.retain(|e| e.start.0 < end);
    (p.state, p.durable, p.sendable) = (state, end, 0);
    p
}

fn is_prefix(copy: &Mem, of: &Mem) -> bool {
    of.batches.starts_with(&copy.batches)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Cuts at any byte of either direction, a source that grows meanwhile, a copy that loses what was
    /// not durable: always a prefix, at last equal, never a loss, a gap or a repeat.
    #[test]
    fn cut_anywhere_the_copy_is_a_prefix_and_at_last_equal(
        log in logs(), begun: prop::sample::Index, marked: bool, sendable: prop::sample::Index,
        cuts in prop::collection::vec((1usize..3000, 1usize..300, any::<bool>()), 0..8),
        step in 1usize..700, window in 1usize..2000,
    ) {
        let n = begun.index(log.batches.len() + 1);
        let state = if marked { CopyState::Copy } else { CopyState::Log };
        let (source, copy) = (shared(&log), shared(&prefix(&log, n, state)));
        source.borrow_mut().sendable = sendable.index(log.batches.len() + 1).max(n);
        let options = SourceOptions { window, ..SourceOptions::default() };
        for (down, up, crash) in cuts {
            let mut wire = Wire::new(&source, &copy, options.clone(), copy_options()).unwrap();
            wire.run([down, up], step).unwrap();
            drop(wire);
            prop_assert!(is_prefix(&copy.borrow(), &log));
            let mut m = copy.borrow_mut();
            if crash {
                let durable = m.durable;
                m.batches.retain(|b| b.last < durable);
            }
            drop(m);
            let mut m = source.borrow_mut();
            m.sendable = (m.sendable + 2).min(log.batches.len());
        }
        source.borrow_mut().sendable = log.batches.len();
        let mut wire = Wire::new(&source, &copy, options, copy_options()).unwrap();
        wire.run([usize::MAX; 2], step).unwrap();
        prop_assert!(wire.source.is_done() && wire.copy.is_done());
        prop_assert_eq!(wire.source.acked().1, Offset(if log.batches.is_empty() { 0 } else { log.end() }));
        let m = copy.borrow();
        prop_assert_eq!(&m.batches, &log.batches);
        prop_assert!(log.batches.is_empty() || m.epochs == log.epochs);
        prop_assert!(log.batches.is_empty() || m.durable == m.end());
    }

    /// What follows gets what is appended, and nothing else ends the run.
    #[test]
    fn a_follower_gets_what_is_appended(
        log in logs(), steps in prop::collection::vec(1usize..5, 1..6), step in 1usize..700,
    ) {
        let (source, copy) = (shared(&log), shared(&Mem::default()));
        source.borrow_mut().sendable = 0;
        let options = SourceOptions { follow: true, window: 700, ..SourceOptions::default() };
        let mut wire = Wire::new(&source, &copy, options, copy_options()).unwrap();
        for n in steps {
            wire.run([usize::MAX; 2], step).unwrap();
            prop_assert!(!wire.source.is_done());
            let sent = source.borrow().sendable;
            prop_assert_eq!(&copy.borrow().batches, &log.batches[..sent]);
            source.borrow_mut().sendable = (sent + n).min(log.batches.len());
            wire.source.wake(TimestampMs(1), &mut wire.out[0]).unwrap();
        }
    }

    /// A copy that parted is left as it was, and told where; cut on request, it becomes equal.
    #[test]
    fn divergence_writes_nothing_and_names_the_first_offset(
        log in logs(), at: prop::sample::Index, how in 0u8..4, marked: bool, step in 1usize..700,
    ) {
        prop_assume!(!log.batches.is_empty());
        let at = at.index(log.batches.len());
        let state = if marked { CopyState::Copy } else { CopyState::Log };
        let mut other = prefix(&log, log.batches.len(), state);
        let first = &log.batches[at];
        let (base, last, segment) = (first.base, first.last, first.segment);
        let wanted = match how {
            0 => {
                // Another payload, and all that follows as in the source.
                other.batches[at] = batch(segment, base, last, b"another", 0);
                if marked {
                    other.batches.truncate(at + 1); // a copy is known by its last batch
                }
                base
            }
            1 => {
                other.batches.truncate(at);
                other.batches.push(batch(segment, base, last + 1, b"longer", 0));
                base
            }
            2 => {
                // More than the source has.
                let end = log.end();
                other.batches.push(batch(segment, end, end + 3, b"more", 0));
                end
            }
            _ => {
                // A batch that the source has not.
                if marked { other.batches.truncate(at + 1); }
                other.batches[at] = batch(segment, base, last, b"", 0);
                other.batches[at].bytes[30] ^= 1; // size and checksum as they were... but not these
                let crc = crc32c(&other.batches[at].bytes[21..]);
                other.batches[at].bytes[17..21].copy_from_slice(&crc.to_be_bytes());
                base
            }
        };
        let (source, copy) = (shared(&log), shared(&other));
        let mut wire = Wire::new(&source, &copy, SourceOptions::default(), copy_options()).unwrap();
        let e = wire.run([usize::MAX; 2], step).unwrap_err();
        prop_assert_eq!(e.kind(), ErrorKind::Data);
        let words = format!("diverged at offset {wanted}");
        prop_assert!(e.to_string().starts_with(&words), "{}: {}", words, e);
        // The other side is told the same.
        if wire.out[0].pending().is_empty() {
            prop_assert!(false, "no REFUSE");
        }
        let e = wire.carry(0, usize::MAX).unwrap_err();
        prop_assert!(e.to_string().starts_with(&words), "{}: {}", words, e);
        drop(wire);
        prop_assert_eq!(&*copy.borrow(), &other);

        let options = SourceOptions { truncate: true, ..SourceOptions::default() };
        let mut co = copy_options();
        co.truncate = true;
        let mut wire = Wire::new(&source, &copy, options, co).unwrap();
        wire.run([usize::MAX; 2], step).unwrap();
        prop_assert!(wire.copy.is_done());
        prop_assert_eq!(wire.source.take_notes(), vec![Note::Cut(Offset(wanted))]);
        prop_assert_eq!(&copy.borrow().batches, &log.batches);
    }

    /// Where either side dropped records, batches may differ, and records that both have may not.
    #[test]
    fn rewritten_ranges_are_compared_by_records(
        log in logs(), n: prop::sample::Index, gone in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
        at_source: bool, spoil: bool, step in 1usize..700,
    ) {
        prop_assume!(log.batches.len() > 1);
        let n = 1 + n.index(log.batches.len());
        let mut copy = prefix(&log, n, CopyState::Log);
        let mut source = log.clone();
        let whole = Changed { kind: 0, offsets: Offset(0)..Offset(copy.end()) };
        // Compaction takes batches out, but never the last of a range.
        let side = if at_source { &mut source } else { &mut copy };
        for i in gone {
            let i = i.index(n);
            if i + 1 < n && side.batches.len() > 1 {
                let base = log.batches[i].base;
                side.batches.retain(|b| b.base != base);
            }
        }
        side.changed.push(whole);
        source.sendable = source.batches.len();
        let mut wanted = None;
        if spoil {
            let b = copy.batches.last_mut().unwrap();
            *b = batch(b.segment, b.base, b.last, b"spoilt", 0);
            wanted = Some(b.base);
        }
        let (s, c) = (shared(&source), shared(&copy));
        let mut wire = Wire::new(&s, &c, SourceOptions::default(), copy_options()).unwrap();
        let got = wire.run([usize::MAX; 2], step);
        match (got, wanted) {
            (Ok(()), None) => {
                let end = copy.end();
                let rest: Vec<_> = source.batches.iter().filter(|b| b.base >= end).cloned().collect();
                let wanted = [copy.batches, rest].concat();
                prop_assert_eq!(&c.borrow().batches, &wanted);
            }
            (Err(e), Some(base)) => {
                let words = format!("diverged at offset {base};");
                prop_assert!(e.to_string().starts_with(&words), "{}: {}", words, e);
                prop_assert_eq!(&*c.borrow(), &copy);
            }
            (got, wanted) => prop_assert!(false, "{:?} {:?}", got, wanted),
        }
    }

    /// A stream to carry by hand: what overlaps is compared, the rest appended; nobody answers.
    #[test]
    fn a_one_way_stream_is_compared_where_it_overlaps(
        log in logs(), n: prop::sample::Index, spoil: Option<prop::sample::Index>, step in 1usize..700,
    ) {
        let n = n.index(log.batches.len() + 1);
        let mut copy = prefix(&log, n, CopyState::Log);
        let mut wanted = None;
        if let Some(i) = spoil.filter(|_| n > 0) {
            let b = &mut copy.batches[i.index(n)];
            *b = batch(b.segment, b.base, b.last, b"spoilt", 0);
            wanted = Some(b.base);
        }
        let (s, c) = (shared(&log), shared(&copy));
        let options = SourceOptions { one_way: true, ..SourceOptions::default() };
        let mut co = copy_options();
        co.one_way = true;
        let mut wire = Wire::new(&s, &c, options, co).unwrap();
        let got = wire.run([usize::MAX; 2], step);
        prop_assert!(wire.out[1].is_empty());
        match (got, wanted) {
            (Ok(()), None) => {
                prop_assert!(wire.copy.is_done());
                prop_assert_eq!(&c.borrow().batches, &log.batches);
            }
            (Err(e), Some(base)) => {
                let words = format!("diverged at offset {base} ");
                prop_assert!(e.to_string().starts_with(&words), "{}: {}", words, e);
                prop_assert_eq!(&*c.borrow(), &copy);
            }
            (got, wanted) => prop_assert!(false, "{:?} {:?}", got, wanted),
        }
    }
}

fn two(n: i64) -> Mem {
    let batches = (0..n).map(|i| batch(0, i, i, b"x", 0)).collect::<Vec<_>>();
    Mem {
        sendable: batches.len(),
        batches,
        epochs: vec![EpochStart {
            epoch: 0,
            start: Offset(0),
        }],
        state: CopyState::Copy,
        ..Mem::default()
    }
}

#[test]
fn a_promoted_copy_fences_its_source() {
    let log = two(3);
    let mut promoted = prefix(&log, 2, CopyState::Log);
    promoted.epochs.push(EpochStart {
        epoch: 1,
        start: Offset(2),
    });
    let (s, c) = (shared(&log), shared(&promoted));
    let mut wire = Wire::new(&s, &c, SourceOptions::default(), copy_options()).unwrap();
    let words = "fenced: the copy was promoted to epoch 1, the source is at 0";
    let e = wire.run([usize::MAX; 2], 999).unwrap_err();
    assert_eq!((e.to_string().as_str(), e.kind()), (words, ErrorKind::Data));
    let e = wire.carry(1, usize::MAX).unwrap_err();
    assert_eq!((e.to_string().as_str(), e.kind()), (words, ErrorKind::Data));
    assert_eq!(s.borrow().fenced, Some(1));
    assert_eq!(*c.borrow(), promoted);
}

#[test]
fn another_log_or_one_that_may_only_read_fences_nobody() {
    let log = two(3);
    let mut promoted = prefix(&log, 2, CopyState::Log);
    promoted.epochs.push(EpochStart {
        epoch: 1,
        start: Offset(2),
    });
    for other in [true, false] {
        promoted.other = other;
        let (s, c) = (shared(&log), shared(&promoted));
        let options = SourceOptions {
            fences: other,
            ..SourceOptions::default()
        };
        let mut wire = Wire::new(&s, &c, options, copy_options()).unwrap();
        wire.run([usize::MAX; 2], 999).unwrap_err();
        let e = wire.carry(1, usize::MAX).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Data);
        assert_eq!(e.to_string().starts_with("another log"), other, "{e}");
        assert_eq!(s.borrow().fenced, None);
        assert_eq!(*c.borrow(), promoted);
    }
}

#[test]
fn a_copy_of_another_log_that_has_nothing_in_common_is_refused() {
    let mut log = two(9);
    let mut copy = prefix(&log, 2, CopyState::Copy);
    copy.other = true;
    log.batches.drain(..5);
    (log.start, log.sendable) = (5, 4);
    let (s, c) = (shared(&log), shared(&copy));
    for truncate in [false, true] {
        let options = SourceOptions {
            clamp: true,
            truncate,
            ..SourceOptions::default()
        };
        let mut wire = Wire::new(&s, &c, options, copy_options()).unwrap();
        let e = wire.run([usize::MAX; 2], 999).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Data);
        assert_eq!(*c.borrow(), copy);
    }
}

#[test]
fn a_source_that_was_cut_below_what_it_sent_is_not_gone_on_with() {
    let log = two(5);
    let (s, c) = (shared(&log), shared(&Mem::default()));
    let options = SourceOptions {
        follow: true,
        ..SourceOptions::default()
    };
    let mut wire = Wire::new(&s, &c, options, copy_options()).unwrap();
    wire.run([usize::MAX; 2], 999).unwrap();
    assert_eq!(c.borrow().end(), 5);
    s.borrow_mut().batches.truncate(3);
    s.borrow_mut().sendable = 3;
    let e = wire.source.wake(TimestampMs(0), &mut wire.out[0]);
    assert_eq!(e.unwrap_err().kind(), ErrorKind::Data);
}

#[test]
fn what_the_source_removed_is_told_or_ends_the_run() {
    let mut log = two(9);
    let copy = prefix(&log, 2, CopyState::Copy);
    log.batches.drain(..5);
    (log.start, log.sendable) = (5, 4);
    let (s, c) = (shared(&log), shared(&copy));
    let mut wire = Wire::new(&s, &c, SourceOptions::default(), copy_options()).unwrap();
    let e = wire.run([usize::MAX; 2], 999).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    assert_eq!(
        e.to_string(),
        "offsets 2 to 4 were removed at the source before the copy had them"
    );
    assert_eq!(*c.borrow(), copy);
    let clamp = SourceOptions {
        clamp: true,
        ..SourceOptions::default()
    };
    let mut wire = Wire::new(&s, &c, clamp, copy_options()).unwrap();
    wire.run([usize::MAX; 2], 999).unwrap();
    assert_eq!(wire.source.take_notes(), [Note::Lost(Offset(2)..Offset(5))]);
    assert_eq!(c.borrow().end(), 9);
    assert_eq!(c.borrow().batches.len(), 6);
}

#[test]
fn damage_on_the_way_is_never_written() {
    let log = two(3);
    let (s, c) = (shared(&log), shared(&Mem::default()));
    let mut wire = Wire::new(&s, &c, SourceOptions::default(), copy_options()).unwrap();
    wire.run([usize::MAX, 60], 30).unwrap(); // until COPY is on its way
    let mut refused = 0;
    for bit in 0..(3 * 62 * 8) {
        let (s, c) = (shared(&log), shared(&Mem::default()));
        let mut wire = Wire::new(&s, &c, SourceOptions::default(), copy_options()).unwrap();
        wire.carry(0, usize::MAX).unwrap();
        wire.carry(1, usize::MAX).unwrap();
        wire.carry(0, usize::MAX).unwrap(); // START
        wire.source.send(&mut wire.out[0]).unwrap(); // EPOCHS
        wire.carry(0, usize::MAX).unwrap();
        wire.source.send(&mut wire.out[0]).unwrap(); // DATA
        let mut bytes = wire.out[0].pending().to_vec();
        wire.out[0].consume(usize::MAX / 2);
        let at = wire::DATA_HEAD_BYTES + bit / 8;
        bytes[at] ^= 1 << (bit % 8);
        let frame = wire::decode(&bytes).unwrap();
        let taken = wire
            .copy
            .receive(&frame.message, None, Instant::now(), &mut wire.out[1]);
        refused += usize::from(taken.is_err());
        assert!(c.borrow().batches.is_empty(), "bit {bit}");
    }
    assert_eq!(refused, 3 * 62 * 8);
}
