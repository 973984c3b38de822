//! The last records of a log, and what comes next.
//!
//! Following reads a partition batch by batch to its end, hands on what it found, and sleeps until
//! the kernel tells of a change (`sys::watch`): a write to the active segment, a new name in the
//! directory, a new partition beside it, or the reader of our output going away. A wake-up costs one
//! look at the file's length and one read. Offsets only rise, whatever compaction, retention and
//! truncation do meanwhile; what retention takes before it was read is named.
//!
//! The last N over several partitions are chosen by (timestamp, partition, offset) and shown in that
//! order, each partition's records in the order of their offsets. Choosing keeps N triples of 24
//! bytes; showing keeps one batch a partition.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cat::{CatOptions, Note};
use super::consume::{Claim, GroupOptions, behind_shown};
use super::emit::{Emitter, Flow, Sink};
use super::follow::{self, Followed};
use super::output::Meta;
use super::topic::{self, Partition};
use super::{span, words};
use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::Scratch;
use crate::format::record::Record;
use crate::format::{Offset, TimestampMs};
use crate::log::isolation::Feed;
use crate::log::listing::LogDir;
use crate::log::reader::{Advance, ReadOptions, Refresh, read_end};
use crate::log::view::View;
use crate::sys::watch::{Wake, Watch};
use crate::sys::{Host, signals};
use group::Consumer;

mod group;

/// How often a process is looked for that cannot be waited for (`--pid`).
const PID_PAUSE: Duration = Duration::from_secs(1);

/// What to show, and for how long.
#[derive(Clone, Debug)]
pub struct TailOptions {
    /// What is read of each partition; its range counts where `last` is not given.
    pub read: CatOptions,
    /// Begin with the last so many records, over all partitions.
    pub last: Option<u64>,
    /// Keep going as the log grows.
    pub follow: bool,
    /// Stop after that long without a record.
    pub idle: Option<Duration>,
    /// Stop when this process ends.
    pub pid: Option<i32>,
    /// Stop at this moment.
    pub deadline: Option<Instant>,
    /// Read in the name of a group; then the last so many are not asked for.
    pub group: Option<GroupOptions>,
    /// Where partitions that are made meanwhile appear: the paths of the topics, if that is what was
    /// asked for.
    pub topics: Vec<PathBuf>,
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was asked for was shown.
    Done,
    /// The deadline passed.
    TimedOut,
    /// This signal asked to stop.
    Stopped(i32),
}

/// One partition being read.
struct Source {
    partition: Partition,
    feed: Feed,
    followed: Followed,
    /// That it is read in the name of a group.
    claim: Option<Claim>,
}

/// A run of `tail`.
pub struct Tail<'a> {
    host: &'a Arc<dyn Host>,
    options: &'a TailOptions,
    emitter: &'a mut Emitter,
    sink: &'a mut dyn Sink,
    note: &'a mut dyn FnMut(Note),
    sources: Vec<Source>,
    consumer: Option<Consumer<'a>>,
    /// A drain stopped before the end, so there is more to read.
    cut_short: bool,
    /// What was written last may not have got through.
    sink_failed: bool,
    /// When to look for the process next (`--pid`).
    pid_due: Instant,
}

/// Shows the last records of `partitions` and, following, what comes next. `out` is the descriptor
/// whose reader may go away.
///
/// # Errors
/// `ClosedPipe` when the reader is gone; else as [`super::cat::cat`].
pub fn tail(
    host: &Arc<dyn Host>,
    partitions: Vec<Partition>,
    options: &TailOptions,
    emitter: &mut Emitter,
    sink: &mut dyn Sink,
    note: &mut dyn FnMut(Note),
    out: Option<BorrowedFd<'_>>,
) -> Result<Ended> {
    let mut tail = Tail {
        host,
        options,
        emitter,
        sink,
        note,
        sources: Vec::new(),
        consumer: None,
        cut_short: false,
        sink_failed: false,
        pid_due: Instant::now() + PID_PAUSE,
    };
    let mut watch = options.follow.then(Watch::new);
    if let Some(watch) = &mut watch {
        for topic in &options.topics {
            let parent = topic::parent(topic);
            let dir = host.open_dir(&parent);
            let dir = dir.map_err(|e| Error::io("cannot open", e).at_path(&parent))?;
            let _ = watch.dir(dir.as_ref());
        }
    }
    if let Some(group) = &options.group {
        tail.consumer = Some(Consumer::new(host, partitions, group)?);
        tail.begin_group(watch.as_mut())?;
    } else {
        for partition in partitions {
            let source = tail.open(partition, options.read.range, watch.as_mut())?;
            tail.sources.push(source);
        }
        if let Some(n) = options.last {
            tail.show_last(n)?;
        }
    }
    let ended = tail.run(watch, out);
    tail.end_group(ended)
}

impl Tail<'_> {
    /// Opens a partition at the start of `range`, or at its start where the last N are to be chosen.
    fn open(
        &mut self,
        partition: Partition,
        range: words::Range,
        watch: Option<&mut Watch>,
    ) -> Result<Source> {
        let read = &self.options.read;
        let mut view = View::of(LogDir::open(self.host.as_ref(), &partition.path)?)?;
        if let Some(watch) = watch {
            follow::watch_dir(watch, &view);
        }
        let wanted = span::resolve(&mut view, &range, read.clamp, read.limits)?;
        self.source(partition, view, wanted, None)
    }

    fn source(
        &mut self,
        partition: Partition,
        view: View,
        mut wanted: std::ops::Range<Offset>,
        claim: Option<Claim>,
    ) -> Result<Source> {
        let end = wanted.end;
        if self.options.read.durable {
            if read_end(&view)?.durable.is_none() {
                (self.note)(Note::NothingDurable(partition.path.clone()));
            }
            wanted.end = end.min(follow::durable(&view)?);
        }
        let feed = self.feed(view, wanted)?;
        Ok(Source {
            partition,
            feed,
            followed: Followed::new(end, self.options.read.durable),
            claim,
        })
    }

    fn feed(&self, view: View, wanted: std::ops::Range<Offset>) -> Result<Feed> {
        let read = &self.options.read;
        let options = ReadOptions {
            limits: read.limits,
            skip_corrupt: read.skip_corrupt,
        };
        Feed::new(self.host.clone(), view, wanted, read.isolation, options)
    }

    /// Reads to the end of everything, then waits for more, and so on.
    fn run(&mut self, mut watch: Option<Watch>, out: Option<BorrowedFd<'_>>) -> Result<Ended> {
        let mut heard = Instant::now();
        // Whether something may have been written before it was watched.
        let mut is_unsure = true;
        loop {
            if let Some(watch) = &mut watch {
                is_unsure |= self.watch_tails(watch);
            }
            let mut shown = false;
            for i in 0..self.sources.len() {
                match self.drain(i)? {
                    (Flow::Full, _) => return Ok(Ended::Done),
                    (Flow::More, any) => shown |= any,
                }
            }
            self.flush()?;
            let Some(watch) = &mut watch else {
                return Ok(Ended::Done);
            };
            if shown {
                heard = Instant::now();
            }
            let had = self.sources.len();
            self.look_after_group(watch)?;
            if self.is_at_end() {
                return Ok(Ended::Done);
            }
            if let Some(ended) = self.is_over(heard) {
                return Ok(ended);
            }
            if std::mem::take(&mut self.cut_short) || self.sources.len() > had {
                continue;
            }
            // What one wake-up told of may be more than one look finds: a write and the roll after it.
            if self.refresh(watch, std::mem::take(&mut is_unsure))? {
                continue;
            }
            self.sleep(watch, heard, out)?;
            self.refresh(watch, true)?;
        }
    }

    /// Hands on what is gathered, all the way.
    fn flush(&mut self) -> Result<()> {
        let flushed = self.emitter.flush(self.sink);
        let flushed = flushed.and_then(|()| self.sink.pause(Duration::ZERO));
        self.sink_failed |= flushed.is_err();
        flushed.map(drop)
    }

    /// Whether everything that was asked for was shown. A reader that holds no partition has yet to get
    /// one.
    fn is_at_end(&self) -> bool {
        let at_end = |s: &Source| s.followed.is_at_end(&s.feed);
        let waits = self.consumer.is_some() && self.sources.is_empty();
        !waits && self.sources.iter().all(at_end)
    }

    /// Shows everything that a source has by now, or part of it if the group wants to be looked after.
    /// Tells whether that was anything.
    fn drain(&mut self, i: usize) -> Result<(Flow, bool)> {
        let mut any = false;
        self.emitter.set_log(i);
        loop {
            if any && self.is_group_due() {
                self.cut_short = true;
                return Ok((Flow::More, any));
            }
            let Some(source) = self.sources.get_mut(i) else {
                return Ok((Flow::More, any));
            };
            match source.feed.advance()? {
                Advance::Batch => {
                    any = true;
                    if self.show(i)? == Flow::Full {
                        return Ok((Flow::Full, true));
                    }
                }
                Advance::Gone(range) => {
                    if let Some(claim) = source.claim.as_ref().filter(|_| !self.options.read.clamp)
                    {
                        return Err(claim.overtaken(&range));
                    }
                    (self.note)(Note::Gone(source.partition.path.clone(), range));
                }
                Advance::Damage(damage) => (self.note)(Note::Damage(damage)),
                Advance::End => break,
            }
        }
        let Some(source) = self.sources.get_mut(i) else {
            return Ok((Flow::More, any));
        };
        source.note_shown();
        if let Some(open) = source.followed.newly_open(&source.feed) {
            (self.note)(Note::Open(source.partition.path.clone(), open));
        }
        Ok((Flow::More, any))
    }

    /// Shows the batch that a source has found.
    fn show(&mut self, i: usize) -> Result<Flow> {
        let Some(source) = self.sources.get_mut(i) else {
            return Ok(Flow::More);
        };
        let Some(piece) = source.feed.piece() else {
            return Ok(Flow::More);
        };
        let meta = Meta {
            topic: &source.partition.topic,
            partition: source.partition.number,
        };
        let left = self.emitter.left();
        let shown = self.emitter.piece(&meta, &piece, self.sink);
        self.sink_failed |= shown.is_err();
        match shown? {
            Ok(Flow::More) => source.note_shown(),
            Ok(Flow::Full) => {
                if let Some(claim) = &mut source.claim {
                    let (count, limits) = (left - self.emitter.left(), &self.options.read.limits);
                    claim.shown(behind_shown(self.emitter, &piece, count, limits));
                }
                self.flush()?;
                return Ok(Flow::Full);
            }
            Err(defect) => {
                let damage = source.feed.reader().condemn(defect);
                if !self.options.read.skip_corrupt {
                    return Err(damage.error());
                }
                (self.note)(Note::Damage(damage));
            }
        }
        Ok(Flow::More)
    }

    /// Watches the file that takes appends now, of every partition, and the one D is published in.
    /// Tells whether one of them was not watched before.
    fn watch_tails(&mut self, watch: &mut Watch) -> bool {
        let mut new = false;
        for source in &mut self.sources {
            new |= source.followed.watch(&source.feed, watch);
        }
        new
    }

    /// When it is to end if nothing comes any more, and why.
    fn end_time(&self, heard: Instant) -> Option<(Instant, Ended)> {
        let idle = self.options.idle.map(|d| (heard + d, Ended::Done));
        let deadline = self.options.deadline.map(|d| (d, Ended::TimedOut));
        [idle, deadline].into_iter().flatten().min_by_key(|e| e.0)
    }

    /// Tells if it is time to end, also while records keep coming.
    fn is_over(&mut self, heard: Instant) -> Option<Ended> {
        let now = Instant::now();
        let stop = signals::stop_requested().filter(|_| self.consumer.is_some());
        if let Some(signal) = stop {
            return Some(Ended::Stopped(signal));
        }
        if let Some(pid) = self.options.pid.filter(|_| self.pid_due <= now) {
            if !signals::is_alive(pid) {
                return Some(Ended::Done);
            }
            self.pid_due = now + PID_PAUSE;
        }
        let end = self.end_time(heard).filter(|end| end.0 <= now);
        end.map(|(_, ended)| ended)
    }

    /// Sleeps until something may have changed, or it may be time to end.
    fn sleep(&self, watch: &mut Watch, heard: Instant, out: Option<BorrowedFd<'_>>) -> Result<()> {
        let pid = self.options.pid.map(|_| self.pid_due);
        let end = self.end_time(heard).map(|end| end.0);
        let group = self.group_look();
        let until = [pid, end, group].into_iter().flatten().min();
        let left = until.map(|u| u.saturating_duration_since(Instant::now()));
        let wake = watch.wait(left, out);
        match wake.map_err(|e| Error::io("cannot wait", e))? {
            Wake::ReaderGone => Err(Error::new(ErrorKind::ClosedPipe, "the reader is gone")),
            Wake::Changed | Wake::Timeout | Wake::Interrupted => Ok(()),
        }
    }

    /// Looks for what is new: in each partition, and for new partitions of a topic. `was_woken` says
    /// that this is the first look since a wait. Tells whether there may be more.
    fn refresh(&mut self, watch: &mut Watch, was_woken: bool) -> Result<bool> {
        let mut more = false;
        for source in &mut self.sources {
            let (found, may_more) = source.followed.refresh(&mut source.feed, was_woken)?;
            more |= may_more;
            if found == Refresh::CutBack {
                if let Some(claim) = &source.claim {
                    return Err(claim.cut_back());
                }
                let next = source.feed.reader().next_offset();
                (self.note)(Note::CutBack(source.partition.path.clone(), next));
            }
        }
        for path in &self.options.topics {
            for partition in topic::find(self.host.as_ref(), path)? {
                if self.consumer.is_some() {
                    more |= self.add_to_group(partition);
                } else if !self
                    .sources
                    .iter()
                    .any(|s| s.partition.path == partition.path)
                {
                    let source = self.open(partition, words::Range::ALL, Some(watch))?;
                    self.sources.push(source);
                    more = true;
                }
            }
        }
        Ok(more)
    }

    /// Shows the last `n` records there are, and leaves every source behind its last one.
    fn show_last(&mut self, n: u64) -> Result<()> {
        match self.sources.len() {
            1 => self.show_last_of_one(n),
            _ => self.show_last_of_all(n),
        }
    }

    /// Counts forward from a place near enough to the end, then shows all but the first few. The
    /// place is moved further back while too few records are behind it (gaps, a selection).
    fn show_last_of_one(&mut self, n: u64) -> Result<()> {
        let Some(source) = self.sources.first() else {
            return Ok(());
        };
        let view = source.feed.reader().view().clone();
        let until = source.feed.reader().until();
        let (start, end) = (view.start(), view.end(self.options.read.limits)?.min(until));
        let mut back = i64::try_from(n).unwrap_or(i64::MAX);
        loop {
            let from = (end + -back).max(start);
            let mut count = 0u64;
            let mut feed = self.feed(view.clone(), from..end)?;
            self.each_record(&mut feed, |_| count += 1)?;
            if count >= n || from == start {
                self.emitter.skip(count.saturating_sub(n));
                let feed = self.feed(view, from..until)?;
                if let Some(source) = self.sources.first_mut() {
                    source.feed = feed;
                }
                return Ok(());
            }
            back = back.saturating_mul(4).max(1024);
        }
    }

    /// Chooses the newest `n` of all partitions, then merges their streams.
    fn show_last_of_all(&mut self, n: u64) -> Result<()> {
        let most = usize::try_from(n).unwrap_or(usize::MAX);
        let mut newest = BinaryHeap::new();
        for i in 0..self.sources.len() {
            self.choose(i, most, &mut newest)?;
        }
        let oldest = newest.into_sorted_vec().pop().map(|Reverse(place)| place);
        let mut queues: Vec<VecDeque<(Place, Vec<u8>)>> =
            self.sources.iter().map(|_| VecDeque::new()).collect();
        loop {
            for (i, queue) in queues.iter_mut().enumerate() {
                while queue.is_empty() && self.render_batch(i, oldest, queue)? {}
            }
            let heads = queues.iter().enumerate();
            let first = heads.filter_map(|(i, q)| Some((q.front()?.0, i))).min();
            let Some((_, i)) = first else { return Ok(()) };
            if let Some((_, bytes)) = queues.get_mut(i).and_then(VecDeque::pop_front) {
                self.emitter.show(&bytes, self.sink)?;
            }
        }
    }

    /// Adds the last records of a source to the newest so far.
    fn choose(
        &mut self,
        i: usize,
        most: usize,
        newest: &mut BinaryHeap<Reverse<Place>>,
    ) -> Result<()> {
        let Some(source) = self.sources.get(i) else {
            return Ok(());
        };
        let view = source.feed.reader().view().clone();
        let until = source.feed.reader().until();
        let (start, end) = (view.start(), view.end(self.options.read.limits)?.min(until));
        // Times need not be in order, so the last by offset may not be the newest; as many again as
        // asked for are looked at, and at least a few thousand.
        let mut back = i64::try_from(most)
            .unwrap_or(i64::MAX)
            .saturating_mul(2)
            .max(4096);
        loop {
            let from = (end + -back).max(start);
            let (mut own, mut count) = (BinaryHeap::new(), 0);
            let mut feed = self.feed(view.clone(), from..end)?;
            self.each_record(&mut feed, |r| {
                keep(&mut own, (r.timestamp, i, r.offset), most);
                count += 1;
            })?;
            if count >= most || from == start {
                for Reverse(place) in own {
                    keep(newest, place, most);
                }
                let feed = self.feed(view, from..until)?;
                if let Some(source) = self.sources.get_mut(i) {
                    source.feed = feed;
                }
                return Ok(());
            }
            back = back.saturating_mul(4);
        }
    }

    /// Renders the chosen records of a source's next batch. False at the end.
    fn render_batch(
        &mut self,
        i: usize,
        oldest: Option<Place>,
        queue: &mut VecDeque<(Place, Vec<u8>)>,
    ) -> Result<bool> {
        let Some(source) = self.sources.get_mut(i) else {
            return Ok(false);
        };
        match source.feed.advance()? {
            Advance::Batch => {}
            Advance::End => return Ok(false),
            Advance::Gone(range) => {
                (self.note)(Note::Gone(source.partition.path.clone(), range));
                return Ok(true);
            }
            Advance::Damage(damage) => {
                (self.note)(Note::Damage(damage));
                return Ok(true);
            }
        }
        let Some(piece) = source.feed.piece() else {
            return Ok(true);
        };
        let meta = Meta {
            topic: &source.partition.topic,
            partition: source.partition.number,
        };
        let mut scratch = Scratch::new();
        let limits = self.options.read.limits;
        let checked = piece.batch.check_records(&mut scratch, &limits);
        let records = checked.and_then(|()| piece.batch.records(&mut scratch, &limits));
        let records = match records {
            Ok(records) => records,
            Err(defect) => {
                let damage = source.feed.reader().condemn(defect);
                if !self.options.read.skip_corrupt {
                    return Err(damage.error());
                }
                (self.note)(Note::Damage(damage));
                return Ok(true);
            }
        };
        for record in records.map_while(|r| r.ok()) {
            let place = (record.timestamp, i, record.offset);
            let chosen = oldest.is_some_and(|o| place >= o);
            if chosen && piece.wanted.contains(&record.offset) && self.emitter.takes(&record) {
                let mut bytes = Vec::new();
                self.emitter.render(&meta, record, &mut bytes);
                queue.push_back((place, bytes));
            }
        }
        Ok(true)
    }

    /// Calls `each` for every wanted record of a feed. What else it meets is told when it is shown.
    fn each_record(&self, feed: &mut Feed, mut each: impl FnMut(&Record<'_>)) -> Result<()> {
        let mut scratch = Scratch::new();
        let limits = self.options.read.limits;
        loop {
            match feed.advance()? {
                Advance::Batch => {}
                Advance::End => return Ok(()),
                Advance::Gone(_) | Advance::Damage(_) => continue,
            }
            let Some(piece) = feed.piece() else { continue };
            if piece.batch.check_records(&mut scratch, &limits).is_err() {
                continue;
            }
            let Ok(records) = piece.batch.records(&mut scratch, &limits) else {
                continue;
            };
            for record in records.map_while(|r| r.ok()) {
                if piece.wanted.contains(&record.offset) && self.emitter.takes(&record) {
                    each(&record);
                }
            }
        }
    }
}

/// Where a record stands among those of several partitions.
type Place = (TimestampMs, usize, Offset);

/// Adds a place to the newest, of which there are at most so many.
fn keep(newest: &mut BinaryHeap<Reverse<Place>>, place: Place, most: usize) {
    newest.push(Reverse(place));
    if newest.len() > most {
        newest.pop();
    }
}
