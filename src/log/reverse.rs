//! Reads a log backward, batch by batch, newest first.
//!
//! Batches can only be walked forward, so a segment is taken apart from its end: an offset index (or
//! the segment's start, without one) gives a place before the end of what is still to come; from
//! there a walk notes a place every [`STRETCH_BYTES`]; then stretch by stretch, last first, each one
//! is walked again and its batches are yielded back to front from memory. So a batch is read twice at
//! most, and memory follows the stretch in hand, plus 24 bytes for each 64 KiB of one segment.
//!
//! Offsets strictly fall. Damage is judged as the forward [reader](super::reader) does.
//!
//! Of transactions a committed reader sees what it sees forward: nothing from the first open one on,
//! which is looked for before the first batch, and no aborted ones. Going backward, the marker of a
//! transaction comes before its batches.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::{BatchHeader, Scratch};
use crate::format::names::Kind;
use crate::format::{Defect, Offset, Position};
use crate::log::isolation::{Isolation, OpenTransaction, Scout, marker, open_before};
use crate::log::listing::{SegmentRef, end_of};
use crate::log::reader::{Advance, Damage, Piece, ReadOptions, read_end};
use crate::log::view::View;
use crate::segment::lookup::seek_offset;
use crate::segment::scan::{
    READ_BYTES_SHORT, Resync, Scanner, Span, Step, Tail, is_zero, lost, resync,
};
use crate::sys::{File, Host};

/// Bytes of a stretch that is held in memory while its batches are yielded.
const STRETCH_BYTES: u64 = READ_BYTES_SHORT as u64 / 4 * 3;
/// How often in a row a segment may be gone when it is opened.
const RETRIES_MAX: usize = 64;

/// Reads one log backward.
pub struct Reverse {
    host: Arc<dyn Host>,
    view: View,
    options: ReadOptions,
    isolation: Isolation,
    /// Only batches with these offsets are still to come.
    wanted: Range<Offset>,
    /// Exclusive end of what was asked for.
    until: Offset,
    segment: Option<Open>,
    /// Places in the segment, in order; the last one is next.
    marks: Vec<Mark>,
    /// Batches of the stretch in hand, in order; the last one is next.
    batches: Vec<(Position, Offset)>,
    /// How far below the end of what is still to come the index is asked.
    reach: i64,
    retries: usize,
    scout: Option<Box<Scout>>,
    /// How the transaction ended whose batches come next, by producer.
    outcomes: HashMap<i64, bool>,
    open: Option<OpenTransaction>,
    scratch: Scratch,
    has_begun: bool,
    /// What is wanted of the batch found last.
    found: Range<Offset>,
}

/// The segment in hand.
struct Open {
    segment: SegmentRef,
    is_tail: bool,
    index: Option<Arc<dyn File>>,
    scanner: Scanner,
    /// Everything from its start on is in the marks, or was yielded.
    is_walked: bool,
}

enum Mark {
    /// A stretch of batches begins here, the first of which begins at this offset or above.
    Stretch(Position, Offset),
    Damage(Damage),
}

impl Reverse {
    /// A reader of `view` that yields the records with offsets in `wanted`, last first.
    pub fn new(
        host: Arc<dyn Host>,
        view: View,
        wanted: Range<Offset>,
        isolation: Isolation,
        options: ReadOptions,
    ) -> Reverse {
        Reverse {
            host,
            view,
            options,
            isolation,
            until: wanted.end,
            found: wanted.end..wanted.end,
            wanted,
            segment: None,
            marks: Vec::new(),
            batches: Vec::new(),
            reach: 1,
            retries: 0,
            scout: None,
            outcomes: HashMap::new(),
            open: None,
            scratch: Scratch::new(),
            has_begun: false,
        }
    }

    /// The open transaction before which the read began.
    pub fn open(&self) -> Option<OpenTransaction> {
        self.open
    }

    /// The batch that [`Reverse::advance`] found.
    pub fn piece(&self) -> Option<Piece<'_>> {
        Some(Piece {
            batch: self.segment.as_ref()?.scanner.batch()?,
            wanted: self.found.clone(),
        })
    }

    /// The damage that a batch found last is whose records cannot be decoded.
    pub fn condemn(&self, defect: Defect) -> Damage {
        let open = self.segment.as_ref();
        let header = open.and_then(|o| o.scanner.header());
        Damage {
            path: match open {
                Some(o) => self.view.path_of(&o.segment),
                None => self.view.log().dir().path().to_path_buf(),
            },
            position: open.and_then(|o| o.scanner.found_at()).unwrap_or_default(),
            defect,
            lost: header.map_or(self.found.clone(), |h| h.base_offset..h.last_offset.next()),
        }
    }

    /// What comes next, going back.
    ///
    /// # Errors
    /// As [`Reader::advance`](super::reader::Reader::advance).
    pub fn advance(&mut self) -> Result<Advance> {
        if !std::mem::replace(&mut self.has_begun, true) && self.isolation == Isolation::Committed {
            self.stop_before_open()?;
        }
        loop {
            let Some(advance) = self.turn()? else {
                continue;
            };
            let Advance::Batch = advance else {
                return Ok(advance);
            };
            let header = self
                .segment
                .as_ref()
                .and_then(|o| o.scanner.header())
                .cloned();
            let Some(header) = header else { continue };
            if self.shows(&header)? {
                self.found = self.floor()..self.until;
                return Ok(Advance::Batch);
            }
        }
    }

    /// Takes the first open transaction as the end of the read.
    fn stop_before_open(&mut self) -> Result<()> {
        let last = Offset(self.until.0.saturating_sub(1));
        for open in open_before(&self.view, self.until, &self.options.limits)? {
            if open.offset < self.wanted.end
                && self.scout().outcome(open.producer_id, last)?.is_none()
            {
                self.wanted.end = open.offset.max(self.wanted.start);
                self.until = self.wanted.end;
                self.open = Some(open);
            }
        }
        // It stands behind the end that was asked for; how transactions below the new one ended
        // may be written before that.
        self.scout = None;
        Ok(())
    }

    fn scout(&mut self) -> &mut Scout {
        let last = Offset(self.until.0.saturating_sub(1));
        let (host, view, limits) = (&self.host, &self.view, self.options.limits);
        let new = || Box::new(Scout::new(Arc::clone(host), view.clone(), last, limits));
        self.scout.get_or_insert_with(new)
    }

    /// Whether a batch is to be shown.
    fn shows(&mut self, header: &BatchHeader) -> Result<bool> {
        if header.is_control() {
            let piece = self.segment.as_ref().and_then(|o| o.scanner.batch());
            let limits = self.options.limits;
            if let Some(commit) = piece.and_then(|b| marker(&b, &mut self.scratch, &limits)) {
                self.outcomes.insert(header.producer_id, commit);
            }
            return Ok(false);
        }
        if self.isolation == Isolation::Uncommitted || !header.is_transactional() {
            return Ok(true);
        }
        let id = header.producer_id;
        if let Some(commit) = self.outcomes.get(&id) {
            return Ok(*commit);
        }
        let last = Offset(self.until.0.saturating_sub(1));
        let commit = self.scout().outcome(id, last)?.unwrap_or(false);
        self.outcomes.insert(id, commit);
        Ok(commit)
    }

    /// One step; `None` to go on.
    fn turn(&mut self) -> Result<Option<Advance>> {
        if self.wanted.is_empty() {
            return Ok(Some(Advance::End));
        }
        if let Some((position, next)) = self.batches.pop() {
            return self.read(position, next);
        }
        if self.wanted.end <= self.floor() {
            return Ok(Some(self.finish()));
        }
        match self.marks.pop() {
            Some(Mark::Stretch(position, next)) => self.walk_stretch(position, next)?,
            Some(Mark::Damage(damage)) => {
                self.wanted.end = self.wanted.end.min(damage.lost.start);
                return match self.options.skip_corrupt {
                    true => Ok(Some(Advance::Damage(damage))),
                    false => Err(damage.error()),
                };
            }
            None => return self.go_back(),
        }
        Ok(None)
    }

    /// Smallest offset that is wanted and there.
    fn floor(&self) -> Offset {
        self.wanted.start.max(self.view.start())
    }

    /// Ends the read, at the log's start or where it was to end.
    fn finish(&mut self) -> Advance {
        let (wanted, start) = (self.wanted.start, self.view.start());
        self.wanted.end = wanted;
        match wanted < start {
            true => Advance::Gone(wanted..start),
            false => Advance::End,
        }
    }

    /// Reads the batch at a place that was walked over before.
    fn read(&mut self, position: Position, next: Offset) -> Result<Option<Advance>> {
        let Some(open) = &mut self.segment else {
            return Ok(None);
        };
        open.scanner.seek(position, next);
        let path = self.view.path_of(&open.segment);
        if !matches!(
            open.scanner.step().map_err(|e| e.at_path(path))?,
            Step::Batch(_)
        ) {
            return Ok(None); // cut since; what was there is not there any more
        }
        let Some(header) = open.scanner.header() else {
            return Ok(None);
        };
        let (first, last) = (header.base_offset, header.last_offset);
        if last < self.floor() {
            return Ok(Some(self.finish()));
        }
        self.wanted.end = self.wanted.end.min(first);
        Ok(Some(Advance::Batch))
    }

    /// Notes each batch from `position` up to what is not wanted any more.
    fn walk_stretch(&mut self, position: Position, next: Offset) -> Result<()> {
        let end = self.wanted.end;
        let Some(open) = &mut self.segment else {
            return Ok(());
        };
        let path = self.view.path_of(&open.segment);
        open.scanner.seek(position, next);
        loop {
            let before = open.scanner.next_offset();
            let Step::Batch(at) = open.scanner.step().map_err(|e| e.at_path(&path))? else {
                return Ok(());
            };
            if open.scanner.header().is_some_and(|h| h.base_offset >= end) {
                return Ok(());
            }
            self.batches.push((at, before));
            if open.scanner.position() - position > STRETCH_BYTES {
                return Ok(());
            }
        }
    }

    /// Opens an earlier segment, or notes stretches of this one further back.
    fn go_back(&mut self) -> Result<Option<Advance>> {
        match &self.segment {
            Some(open) if !open.is_walked => self.note_stretches()?,
            _ => return self.open_segment(),
        }
        Ok(None)
    }

    /// Opens the segment that holds what comes before `wanted.end`.
    fn open_segment(&mut self) -> Result<Option<Advance>> {
        let bound = self
            .segment
            .take()
            .map_or(Offset::MAX, |o| o.segment.base());
        self.wanted.end = self.wanted.end.min(bound);
        if self.wanted.end <= self.floor() {
            return Ok(Some(self.finish()));
        }
        let last = Offset(self.wanted.end.0.saturating_sub(1));
        let tail = self
            .view
            .tail()
            .cloned()
            .filter(|t| last >= t.segment.base());
        let is_tail = tail.is_some();
        let (segment, file, end) = match (tail, self.view.sealed_at(last)) {
            (Some(t), _) => (t.segment, t.file, t.end),
            (None, Some(segment)) if segment.base() <= last => {
                let file = match self.view.log().open_file(&segment.log_name()) {
                    Err(e) if e.kind() == ErrorKind::NotFound && self.retries < RETRIES_MAX => {
                        self.retries += 1;
                        self.view.relist()?;
                        return Ok(None);
                    }
                    other => other?,
                };
                let end = end_of(&*file)?;
                (segment, file, end)
            }
            _ => return Ok(Some(Advance::End)),
        };
        self.retries = 0;
        let span = Span::whole(segment.base(), end.0);
        self.segment = Some(Open {
            index: self.view.index(&segment, Kind::OffsetIndex)?,
            scanner: Scanner::short(file, span, self.options.limits),
            is_tail,
            segment,
            is_walked: false,
        });
        Ok(None)
    }

    /// Walks from a place before `wanted.end` up to it, noting stretches and damage.
    fn note_stretches(&mut self) -> Result<()> {
        let (floor, end) = (self.floor(), self.wanted.end);
        let Some(open) = &mut self.segment else {
            return Ok(());
        };
        let path = self.view.path_of(&open.segment);
        let place = |e: Error| e.at_path(&path);
        let target = Offset(end.0.saturating_sub(self.reach)).max(open.segment.base());
        seek_offset(&mut open.scanner, open.index.as_deref(), target).map_err(place)?;
        let from = open.scanner.position();
        open.is_walked = from == Position(0);
        let mut stretch = None;
        loop {
            let before = open.scanner.next_offset();
            let (at, defect) = match open.scanner.step().map_err(place)? {
                Step::Batch(at) => {
                    if open.scanner.header().is_some_and(|h| h.base_offset >= end) {
                        break;
                    }
                    let begins = stretch.is_none_or(|s| at - s >= STRETCH_BYTES);
                    if begins {
                        stretch = Some(at);
                        self.marks.push(Mark::Stretch(at, before));
                    }
                    continue;
                }
                Step::End(e) => match e.tail {
                    Tail::Clean => break,
                    Tail::Zeros
                        if is_zero(&**open.scanner.file(), e.position, open.scanner.end())? =>
                    {
                        break;
                    }
                    Tail::Zeros => (
                        e.position,
                        Defect::new(8, "batch length 0 before more data"),
                    ),
                    Tail::Partial => (e.position, Defect::new(0, "the file ends inside a batch")),
                },
                Step::Bad(bad) => (bad.position, bad.defect),
            };
            let judged = judge(&self.view, open, before, at, defect, &self.options)?;
            let Some(mut damage) = judged else {
                break;
            };
            damage.lost.start = damage.lost.start.max(floor);
            let is_wanted = damage.lost.start < end && damage.lost.end > floor;
            stretch = None;
            let resume = open.scanner.position();
            let is_past = damage.lost.start >= end;
            if is_wanted {
                self.marks.push(Mark::Damage(damage));
            }
            if is_past || resume >= open.scanner.end() {
                break;
            }
        }
        // Ask further back where the index is dense, so that each walk is worth its reads.
        if open.scanner.position() - from < STRETCH_BYTES {
            self.reach = self.reach.saturating_mul(4);
        }
        Ok(())
    }
}

/// What bytes that are no batch are: damage, behind which the scanner then stands (or at its end), or
/// (`None`) the end of the log.
fn judge(
    view: &View,
    open: &mut Open,
    before: Offset,
    at: Position,
    defect: Defect,
    options: &ReadOptions,
) -> Result<Option<Damage>> {
    let end = open.scanner.end();
    open.scanner.extend(end);
    if let Step::Batch(_) = open.scanner.step()? {
        open.scanner.seek(at, before); // a writer was at work on it
        return Ok(None);
    }
    let span = Span {
        base: open.segment.base(),
        next: before,
        from: at + 1,
        end,
    };
    let behind = resync(&**open.scanner.file(), &span, &options.limits)?;
    let durable = match open.is_tail {
        true => read_end(view)?.durable.unwrap_or_default(),
        false => Offset::ZERO,
    };
    if open.is_tail && behind == Resync::None && before >= durable {
        return Ok(None);
    }
    let resume = match behind {
        Resync::Found(position, offset) => {
            open.scanner.seek(position, offset);
            offset
        }
        _ => {
            open.scanner.seek(end, before);
            let tail = view.tail().map(|t| t.segment.base());
            let next = view
                .sealed_after(open.segment.base())
                .map(|s| s.base())
                .or(tail);
            if open.is_tail {
                durable
            } else {
                next.unwrap_or(before)
            }
        }
    };
    Ok(Some(Damage {
        path: view.path_of(&open.segment),
        position: at,
        defect,
        lost: lost(before, resume),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus;
    use crate::format::Limits;
    use crate::log::isolation::Feed;
    use crate::log::listing::LogDir;
    use crate::log::testing::TestLog;
    use crate::sys::RealHost;
    use std::path::Path;

    fn options(skip_corrupt: bool) -> ReadOptions {
        let limits = Limits::default();
        ReadOptions {
            limits,
            skip_corrupt,
        }
    }

    fn view(path: &Path) -> View {
        View::of(LogDir::open(&RealHost, path).unwrap()).unwrap()
    }

    fn offsets(piece: &Piece<'_>) -> Vec<i64> {
        let mut scratch = Scratch::new();
        let records = piece
            .batch
            .records(&mut scratch, &Limits::default())
            .unwrap();
        let offsets = records
            .map_while(|r| r.ok())
            .map(|r| r.offset)
            .filter(|o| piece.wanted.contains(o));
        offsets.map(|o| o.0).collect()
    }

    /// Batches of offsets going forward, then turned round; and going backward.
    fn both(path: &Path, wanted: Range<i64>, isolation: Isolation) -> [Vec<Vec<i64>>; 2] {
        let wanted = Offset(wanted.start)..Offset(wanted.end);
        let host: Arc<dyn Host> = Arc::new(RealHost);
        let mut feed = Feed::new(
            host.clone(),
            view(path),
            wanted.clone(),
            isolation,
            options(true),
        )
        .unwrap();
        let mut forward = Vec::new();
        loop {
            match feed.advance().unwrap() {
                Advance::Batch => forward.push(offsets(&feed.piece().unwrap())),
                Advance::End => break,
                Advance::Damage(d) => forward.push(vec![-1, d.lost.start.0, d.lost.end.0]),
                Advance::Gone(_) => {}
            }
        }
        forward.reverse();
        let mut reverse = Reverse::new(host, view(path), wanted, isolation, options(true));
        let mut backward = Vec::new();
        loop {
            match reverse.advance().unwrap() {
                Advance::Batch => backward.push(offsets(&reverse.piece().unwrap())),
                Advance::End => break,
                Advance::Damage(d) => backward.push(vec![-1, d.lost.start.0, d.lost.end.0]),
                Advance::Gone(_) => {}
            }
        }
        [forward, backward]
    }

    fn assert_mirrored(path: &Path, wanted: Range<i64>) {
        for isolation in [Isolation::Committed, Isolation::Uncommitted] {
            let [forward, backward] = both(path, wanted.clone(), isolation);
            assert_eq!(
                backward,
                forward,
                "{} {wanted:?} {isolation:?}",
                path.display()
            );
        }
    }

    #[test]
    fn backward_is_forward_turned_round() {
        let log = TestLog::new("t-0");
        log.segment(0)
            .batch(0, "a b c")
            .gap_batch(5, 9, "d")
            .index()
            .write();
        log.segment(10).write();
        let mut s = log.segment(20);
        for i in 0..2000 {
            s = s.batch(25 + i, &"x".repeat(200));
        }
        s.index().write();
        for indexed in [true, false] {
            for wanted in [
                0..i64::MAX,
                1..6,
                6..26,
                27..28,
                500..1700,
                2024..2025,
                2025..3000,
                12..12,
            ] {
                assert_mirrored(&log.path(), wanted);
            }
            if indexed {
                log.remove("00000000000000000020.index");
            }
        }
    }

    #[test]
    fn damage_is_met_going_backward_too() {
        let log = TestLog::new("t-0");
        log.segment(0)
            .batch(0, "a")
            .batch(1, "b c")
            .batch(3, "d")
            .flip(1, 62)
            .write();
        log.segment(10).batch(10, "e").batch(11, "f").cut(3).write();
        assert_mirrored(&log.path(), 0..i64::MAX);
        log.segment(12).batch(12, "g").write();
        assert_mirrored(&log.path(), 0..i64::MAX);
        let wanted = Offset(0)..Offset::MAX;
        let mut strict = Reverse::new(
            Arc::new(RealHost),
            view(&log.path()),
            wanted,
            Isolation::Committed,
            options(false),
        );
        assert!(matches!(strict.advance().unwrap(), Advance::Batch));
        let e = strict.advance().unwrap_err();
        assert!(
            e.to_string()
                .contains("the file ends inside a batch; offset 11 is lost"),
            "{e}"
        );
    }

    #[test]
    fn transactions_show_the_same_in_both_directions() {
        let log = TestLog::new("t-0");
        log.segment(0)
            .batch(0, "p")
            .txn(7, 1, "a b")
            .txn(8, 3, "x")
            .commit(8, 4)
            .txn(7, 5, "c")
            .abort(7, 6)
            .txn(8, 7, "y")
            .txn(7, 8, "d")
            .commit(7, 9)
            .batch(10, "q")
            .write();
        for wanted in [0..i64::MAX, 0..4, 2..6, 0..7, 8..20] {
            assert_mirrored(&log.path(), wanted);
        }
    }

    #[test]
    fn corpus_reads_the_same_in_both_directions() {
        let Some(root) = corpus::root() else { return };
        for part in ["broker", "unclean", "crash"] {
            let logs = corpus::files(&root.join(part)).into_iter();
            let mut dirs: Vec<_> = logs
                .filter(|p| corpus::name(p).ends_with(".log"))
                .map(|p| p.parent().unwrap().to_path_buf())
                .collect();
            dirs.dedup();
            for dir in dirs {
                assert_mirrored(&dir, 0..i64::MAX);
                assert_mirrored(&dir, 20..100);
            }
        }
    }
}
