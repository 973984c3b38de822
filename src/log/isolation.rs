//! Which batches a reader of transactions is shown.
//!
//! Owns the rules of `--isolation`. Control batches are never shown. *Uncommitted* shows all others.
//! *Committed*, the default, stops at the first transaction that is still open, and leaves out the
//! batches of aborted ones.
//!
//! How a transaction ended stands behind its records, in a marker of the same producer. So at the
//! first transactional batch a second reader, the [`Scout`], sets out from there and reads ahead to
//! the marker. It keeps what it learned of other producers on the way, so each batch is scouted once.
//! The `.txnindex` is not asked: it knows aborted transactions only, and could be stale. A log without
//! transactions costs nothing.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::format::batch::{Batch, BatchHeader, Scratch};
use crate::format::control::{self, Control};
use crate::format::{Limits, Offset};
use crate::log::producers::Producers;
use crate::log::reader::{Advance, Piece, ReadOptions, Reader, Refresh, read_end};
use crate::log::view::View;
use crate::sys::Host;

/// Most markers the scout keeps: 32 MiB or so. Beyond them it reads a stretch again.
const MARKERS_MAX: usize = 1 << 19;

/// What a reader is shown of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Up to the first open transaction, without aborted ones.
    Committed,
    /// All but control records.
    Uncommitted,
}

/// A transaction without an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// Its first batch that was met.
    pub offset: Offset,
}

/// A reader that shows what its isolation level allows.
pub struct Feed {
    reader: Reader,
    host: Arc<dyn Host>,
    limits: Limits,
    isolation: Isolation,
    scout: Option<Box<Scout>>,
    open: Option<OpenTransaction>,
    /// Transactions that were open where the read starts.
    before: Vec<OpenTransaction>,
}

impl Feed {
    /// A feed of the wanted offsets of `view`. Under committed isolation nothing is shown until the
    /// transactions have ended that were open where it starts ([`open_before`]).
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn new(
        host: Arc<dyn Host>,
        view: View,
        wanted: Range<Offset>,
        isolation: Isolation,
        options: ReadOptions,
    ) -> Result<Feed> {
        let limits = options.limits;
        let before = match isolation {
            Isolation::Committed => open_before(&view, wanted.start, &limits)?,
            Isolation::Uncommitted => Vec::new(),
        };
        Ok(Feed {
            reader: Reader::new(Arc::clone(&host), view, wanted, options),
            host,
            limits,
            isolation,
            scout: None,
            open: None,
            before,
        })
    }

    /// The reader.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// The reader.
    pub fn reader_mut(&mut self) -> &mut Reader {
        &mut self.reader
    }

    /// Leaves out what lies below `offset`, where the caller knows that no transaction is open.
    pub fn skip_to(&mut self, offset: Offset) {
        if offset > self.reader.next_offset() {
            self.before.clear();
            self.reader.skip_to(offset);
        }
    }

    /// What comes next. At an open transaction that is the end; [`Feed::open`] tells of it.
    ///
    /// # Errors
    /// As [`Reader::advance`].
    pub fn advance(&mut self) -> Result<Advance> {
        self.open = self.still_open()?;
        if self.open.is_some() {
            return Ok(Advance::End);
        }
        loop {
            match self.reader.advance()? {
                Advance::Batch => {}
                other => return Ok(other),
            }
            let Some(header) = self.reader.header() else {
                return Ok(Advance::End);
            };
            if header.is_control() {
                continue;
            }
            if self.isolation == Isolation::Uncommitted || !header.is_transactional() {
                return Ok(Advance::Batch);
            }
            let header = header.clone();
            match self.outcome(&header)? {
                Some(true) => return Ok(Advance::Batch),
                Some(false) => continue,
                None => {
                    self.open = Some(OpenTransaction {
                        producer_id: header.producer_id,
                        offset: header.base_offset,
                    });
                    self.reader.unread();
                    return Ok(Advance::End);
                }
            }
        }
    }

    /// The batch that [`Feed::advance`] found.
    pub fn piece(&self) -> Option<Piece<'_>> {
        self.reader.piece()
    }

    /// The open transaction before which the last call ended.
    pub fn open(&self) -> Option<OpenTransaction> {
        self.open
    }

    /// As [`Reader::refresh`].
    ///
    /// # Errors
    /// As [`Reader::refresh`].
    pub fn refresh(&mut self, was_written: bool) -> Result<Refresh> {
        if let Some(scout) = &mut self.scout {
            scout.is_stale = true;
        }
        self.reader.refresh(was_written)
    }

    /// A transaction from before the start that has not ended yet.
    fn still_open(&mut self) -> Result<Option<OpenTransaction>> {
        let last = Offset(self.reader.next_offset().0.saturating_sub(1));
        while let Some(open) = self.before.last().copied() {
            if self
                .scout_from(last)
                .outcome(open.producer_id, last)?
                .is_none()
            {
                return Ok(Some(open));
            }
            self.before.pop();
        }
        Ok(None)
    }

    /// Whether the transaction of this batch was committed; `None` while it is open.
    fn outcome(&mut self, header: &BatchHeader) -> Result<Option<bool>> {
        let last = header.last_offset;
        self.scout_from(last).outcome(header.producer_id, last)
    }

    fn scout_from(&mut self, after: Offset) -> &mut Scout {
        let (host, view) = (&self.host, self.reader.view());
        let scout = &mut self.scout;
        let new = || {
            Box::new(Scout::new(
                Arc::clone(host),
                view.clone(),
                after,
                self.limits,
            ))
        };
        scout.get_or_insert_with(new)
    }
}

/// The transactions that are open at `at`: those that began before and ended behind it, or not yet.
///
/// They are known from producer snapshots and the batches behind the newest of them. Where the
/// directory says that nobody but plain producers ever wrote, nothing is read: no snapshot, and the
/// last appender found no producer in the active segment.
///
/// # Errors
/// The log cannot be read.
pub fn open_before(view: &View, at: Offset, limits: &Limits) -> Result<Vec<OpenTransaction>> {
    if at <= view.start() || is_plain(view)? {
        return Ok(Vec::new());
    }
    let producers = Producers::load(view.log(), at, limits)?;
    let open = producers.open_transactions();
    Ok(open
        .map(|(producer_id, offset)| OpenTransaction {
            producer_id,
            offset,
        })
        .collect())
}

fn is_plain(view: &View) -> Result<bool> {
    let Some(hint) = read_end(view)?.hint else {
        return Ok(false);
    };
    let active = view.tail().is_some_and(|t| t.segment.base() == hint.base);
    Ok(active && !hint.has_producers && !view.log().has_snapshots()?)
}

/// Reads ahead for end markers.
pub struct Scout {
    host: Arc<dyn Host>,
    reader: Reader,
    limits: Limits,
    scratch: Scratch,
    /// Markers between the reader and the scout, by producer: offset, and whether it commits.
    ahead: HashMap<i64, VecDeque<(Offset, bool)>>,
    kept: usize,
    /// First marker that was not kept for want of room.
    forgotten: Option<Offset>,
    /// The view may have moved on since the end was reached.
    is_stale: bool,
}

impl Scout {
    /// A scout that sets out behind `after`.
    pub fn new(host: Arc<dyn Host>, view: View, after: Offset, limits: Limits) -> Scout {
        let reader = reader(&host, view, after.next(), limits);
        Scout {
            host,
            reader,
            limits,
            scratch: Scratch::new(),
            ahead: HashMap::new(),
            kept: 0,
            forgotten: None,
            is_stale: false,
        }
    }

    /// How the transaction of `producer_id` ended that was open at `after`: true if committed, `None`
    /// if it is open still. `after` never falls from call to call.
    ///
    /// # Errors
    /// As [`Reader::advance`], except damage: the reader behind meets that itself.
    pub fn outcome(&mut self, producer_id: i64, after: Offset) -> Result<Option<bool>> {
        if let Some(markers) = self.ahead.get_mut(&producer_id) {
            while markers.front().is_some_and(|m| m.0 <= after) {
                markers.pop_front();
                self.kept -= 1;
            }
            if let Some((_, committed)) = markers.front() {
                return Ok(Some(*committed));
            }
        }
        if let Some(offset) = self.forgotten.take() {
            self.forget_before(after);
            self.reader = reader(&self.host, self.reader.view().clone(), offset, self.limits);
        }
        self.reader.skip_to(after.next()); // not where the reader has been meanwhile
        loop {
            match self.reader.advance()? {
                Advance::Batch => {
                    if let Some(committed) = self.learn(producer_id) {
                        return Ok(Some(committed));
                    }
                }
                Advance::End if !self.moved_on()? => return Ok(None),
                Advance::End | Advance::Gone(_) | Advance::Damage(_) => {}
            }
        }
    }

    /// Takes note of a marker; tells how it ended a transaction of `producer_id`.
    fn learn(&mut self, producer_id: i64) -> Option<bool> {
        let piece = self.reader.piece()?;
        let header = piece.batch.header();
        if !header.is_control() || !header.is_transactional() {
            return None;
        }
        let (id, offset) = (header.producer_id, header.last_offset);
        let commit = marker(&piece.batch, &mut self.scratch, &self.limits)?;
        if self.forgotten.is_none() && self.kept < MARKERS_MAX {
            self.ahead
                .entry(id)
                .or_default()
                .push_back((offset, commit));
            self.kept += 1;
        } else {
            self.forgotten.get_or_insert(offset);
        }
        (id == producer_id).then_some(commit)
    }

    fn forget_before(&mut self, after: Offset) {
        self.ahead.retain(|_, markers| {
            markers.retain(|m| m.0 > after);
            !markers.is_empty()
        });
        self.kept = self.ahead.values().map(VecDeque::len).sum();
    }

    /// Whether the log has more than at the last look.
    fn moved_on(&mut self) -> Result<bool> {
        if !std::mem::take(&mut self.is_stale) {
            return Ok(false);
        }
        let mut more = self.reader.refresh(true)? != Refresh::Nothing;
        while self.reader.refresh(false)? != Refresh::Nothing {
            more = true;
        }
        Ok(more)
    }
}

/// Whether a control batch commits or aborts its producer's transaction; `None` if it does neither.
pub(super) fn marker(batch: &Batch<'_>, scratch: &mut Scratch, limits: &Limits) -> Option<bool> {
    let record = batch.records(scratch, limits).ok()?.next()?.ok()?;
    match control::decode(record.key, record.value).ok()? {
        Control::EndTxn { commit, .. } => Some(commit),
        _ => None,
    }
}

fn reader(host: &Arc<dyn Host>, view: View, from: Offset, limits: Limits) -> Reader {
    let options = ReadOptions {
        limits,
        skip_corrupt: true,
    };
    Reader::new(Arc::clone(host), view, from..Offset::MAX, options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus;
    use crate::log::listing::LogDir;
    use crate::log::testing::TestLog;
    use crate::sys::RealHost;
    use std::path::Path;

    fn feed(path: &Path, from: i64, isolation: Isolation) -> Feed {
        let host: Arc<dyn Host> = Arc::new(RealHost);
        let view = View::of(LogDir::open(&*host, path).unwrap()).unwrap();
        let options = ReadOptions {
            limits: Limits::default(),
            skip_corrupt: false,
        };
        Feed::new(host, view, Offset(from)..Offset::MAX, isolation, options).unwrap()
    }

    fn values(feed: &mut Feed) -> String {
        let (mut out, mut scratch) = (Vec::new(), Scratch::new());
        while let Advance::Batch = feed.advance().unwrap() {
            let piece = feed.piece().unwrap();
            let wanted = piece.wanted.clone();
            for record in piece
                .batch
                .records(&mut scratch, &Limits::default())
                .unwrap()
            {
                let record = record.unwrap();
                if wanted.contains(&record.offset) {
                    out.push(String::from_utf8_lossy(record.value.unwrap_or(b"-")).into_owned());
                }
            }
        }
        out.join(" ")
    }

    #[test]
    fn committed_hides_aborted_transactions_and_stops_at_an_open_one() {
        let log = TestLog::new("t-0");
        let s = log
            .segment(0)
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
        let path = log.path();
        let mut committed = feed(&path, 0, Isolation::Committed);
        assert_eq!(values(&mut committed), "p x");
        let open = committed.open().unwrap();
        assert_eq!((open.producer_id, open.offset), (8, Offset(7)));
        let mut all = feed(&path, 0, Isolation::Uncommitted);
        assert_eq!(values(&mut all), "p a b x c y d q");
        assert_eq!(all.open(), None);

        // Once it ends, a follower goes on where it stood.
        let s = s.commit(8, 11).batch(12, "r").write();
        assert_eq!(committed.refresh(false).unwrap(), Refresh::More);
        assert_eq!(values(&mut committed), "y d q r");
        drop(s.abort(7, 13).write());
        assert_eq!(
            values(&mut feed(&path, 2, Isolation::Committed)),
            "x y d q r"
        );
        assert_eq!(values(&mut feed(&path, 8, Isolation::Committed)), "d q r");
    }

    #[test]
    fn an_open_transaction_from_before_the_start_holds_back_what_follows() {
        let log = TestLog::new("t-0");
        let s = log
            .segment(0)
            .batch(0, "p")
            .txn(7, 1, "a")
            .batch(2, "q r")
            .write();
        let mut f = feed(&log.path(), 3, Isolation::Committed);
        assert_eq!(values(&mut f), "");
        assert_eq!(f.open().unwrap().offset, Offset(1));
        assert_eq!(
            values(&mut feed(&log.path(), 3, Isolation::Uncommitted)),
            "r"
        );
        drop(s.abort(7, 4).batch(5, "s").write());
        assert_eq!(f.refresh(false).unwrap(), Refresh::More);
        assert_eq!(values(&mut f), "r s");
    }

    #[test]
    fn markers_that_do_not_fit_are_scouted_again() {
        let log = TestLog::new("t-0");
        let mut s = log.segment(0).txn(1, 0, "long");
        for i in 0..20 {
            s = s.txn(10 + i, 1 + 2 * i, "v");
            s = if i % 2 == 0 {
                s.commit(10 + i, 2 + 2 * i)
            } else {
                s.abort(10 + i, 2 + 2 * i)
            };
        }
        s.commit(1, 41).write();
        let mut f = feed(&log.path(), 0, Isolation::Committed);
        let mut scout = Scout::new(
            Arc::clone(&f.host),
            f.reader.view().clone(),
            Offset(0),
            f.limits,
        );
        scout.kept = MARKERS_MAX - 3;
        f.scout = Some(Box::new(scout));
        assert_eq!(values(&mut f), ["long", "v"].join(" ") + &" v".repeat(9));
    }

    #[test]
    fn corpus_transactions_read_as_a_committed_consumer_sees_them() {
        let Some(root) = corpus::root() else { return };
        for name in [
            "broker/txn-0",
            "broker/txn-lz4-0",
            "broker/cmp-txn-0",
            "broker/cmp-txn-keep-0",
            "unclean/txn-0",
        ] {
            let path = root.join(name);
            let mut f = feed(&path, 0, Isolation::Committed);
            let mut shown = Vec::new();
            while let Advance::Batch = f.advance().unwrap() {
                let header = f.piece().unwrap().batch.header().clone();
                shown.push((
                    header.base_offset,
                    header.producer_id,
                    header.is_transactional(),
                ));
            }
            assert_eq!(shown, committed_batches(&path), "{name}");
        }
    }

    /// The data batches that a committed reader sees, found the plain way: all batches at once.
    fn committed_batches(path: &Path) -> Vec<(Offset, i64, bool)> {
        let mut f = feed(path, 0, Isolation::Uncommitted);
        let mut scratch = Scratch::new();
        let mut all = Vec::new();
        while let Advance::Batch = f.reader.advance().unwrap() {
            let piece = f.piece().unwrap();
            let header = piece.batch.header().clone();
            let mut end = None;
            if header.is_control() {
                let record = piece
                    .batch
                    .records(&mut scratch, &Limits::default())
                    .unwrap()
                    .next();
                let record = record.unwrap().unwrap();
                if let Ok(Control::EndTxn { commit, .. }) =
                    control::decode(record.key, record.value)
                {
                    end = Some(commit);
                }
            }
            all.push((header, end));
        }
        let mut out = Vec::new();
        for (i, (header, end)) in all.iter().enumerate() {
            if end.is_some() {
                continue;
            }
            let same = |m: &&(BatchHeader, Option<bool>)| {
                m.1.is_some() && m.0.producer_id == header.producer_id
            };
            let marker = all.get(i..).unwrap().iter().find(same).and_then(|m| m.1);
            match (header.is_transactional(), marker) {
                (true, None) => break,
                (true, Some(false)) => {}
                _ => out.push((
                    header.base_offset,
                    header.producer_id,
                    header.is_transactional(),
                )),
            }
        }
        out
    }
}
