//! Carries a plan out, in the order that the module above tells.

use super::derived;
use super::plan::{Looked, Plan, Rewrite, Tail, make};
use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::Batch;
use crate::format::builder::empty_batch;
use crate::format::checkpoint::render_epochs;
use crate::format::index::{Entry, TxnEntry};
use crate::format::names::{FileName, Kind, LEADER_EPOCH_CHECKPOINT, State, file_name};
use crate::format::{Limits, Offset, Position};
use crate::log::end::{self, EndHint};
use crate::log::files;
use crate::log::keys::{self, Keys};
use crate::log::lock::LockFile;
use crate::log::lost::{Lost, LostFound};
use crate::log::maintenance::Maintenance;
use crate::log::producers::Producers;
use crate::log::rewritten::{self, Reason};
use crate::log::state::{unlink_if_there, write_state_file};
use crate::log::swap::{self, Output};
use crate::segment::active::ActiveSegment;
use crate::segment::indexes::Indexes;
use crate::segment::scan::{Scanner, Span, Step};
use crate::sys::{Access, Wait};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long to wait for appenders, who hold their locks for milliseconds.
const APPEND_WAIT: Duration = Duration::from_secs(10);

/// Carries out `first`, or rather what has to be done once leftovers are gone and the cache of a log
/// whose sync failed is dropped.
///
/// # Errors
/// What the system answers; a second run goes on.
pub fn carry_out(m: &mut Maintenance, first: &Plan, limits: Limits) -> Result<()> {
    m.spoil_clean_shutdown()?;
    if first.failed {
        read_back(m, first)?;
    }
    if !first.leftovers.is_empty() {
        adopt_damaged(m, &first.bad_swaps)?;
        m.clear_leftovers()?;
    }
    m.empty_tmp()?;
    let again = make(m.host().as_ref(), m.log(), limits)?;
    let plan = &again;
    let settle = Act { m, plan, limits }.run()?;
    if settle {
        m.settle()?;
    }
    Act { m, plan, limits }.finish()
}

/// What is still dirty reaches the device, and what is cached and clean is forgotten: the next read
/// shows what the device holds.
fn read_back(m: &Maintenance, plan: &Plan) -> Result<()> {
    for looked in &plan.segments {
        let place = |e| {
            Error::io("the device still fails", e)
                .at_path(m.log().path_of(&looked.segment.log_name()))
        };
        let file = looked.open(m.log())?;
        file.sync().map_err(|e| place(e).with_kind(ErrorKind::Io))?;
        file.drop_cache(0);
    }
    m.log()
        .dir()
        .sync()
        .map_err(|e| m.error("the device still fails", e))
}

/// Puts damaged replacements in place as they are, keeping what they replace.
fn adopt_damaged(m: &Maintenance, swaps: &[FileName]) -> Result<()> {
    let dir = m.log().dir().as_ref();
    let fail = |e| m.error("cannot put a replacement in place", e);
    for swap in swaps {
        let plain = file_name(swap.base, Kind::Log);
        if let Some(meta) = dir.stat(&plain).map_err(fail)? {
            LostFound::open(m.host().as_ref(), m.logd_dir().as_ref())?.keep_segment(
                dir,
                &Lost {
                    segment: swap.base,
                    position: Position(0),
                    bytes: meta.len,
                    offset: swap.base,
                    reason: "replaced by a segment that is damaged".to_string(),
                },
            )?;
        }
        for kind in [Kind::OffsetIndex, Kind::TimeIndex, Kind::TxnIndex] {
            unlink_if_there(dir, &swap.sibling(kind).to_string()).map_err(fail)?;
        }
        dir.rename(&swap.to_string(), &plain).map_err(fail)?;
        dir.sync().map_err(fail)?;
    }
    Ok(())
}

struct Act<'a> {
    m: &'a Maintenance,
    plan: &'a Plan,
    limits: Limits,
}

impl Act<'_> {
    /// All that comes before ordinary recovery; tells whether that is wanted.
    fn run(&self) -> Result<bool> {
        let (m, plan) = (self.m, self.plan);
        self.set_aside()?;
        for gap in &plan.gaps {
            rewritten::add(m.logd_dir().as_ref(), Reason::Repair, gap.clone())?;
        }
        let txns = match plan.txns.is_empty() && plan.rewrites.is_empty() {
            true => BTreeMap::new(),
            false => derived::transactions(m.log(), &plan.segments, self.limits)?,
        };
        if let Tail::NewSegment(begin) = plan.tail {
            self.begin_segment(begin)?;
        }
        if plan.raise_durable {
            let last = plan
                .segments
                .last()
                .map_or(Offset::ZERO, |s| s.segment.base());
            m.make_durable(last)?;
        }
        for rewrite in &plan.rewrites {
            self.rewrite(rewrite, &txns)?;
        }
        for at in &plan.moved {
            self.move_away(*at)?;
        }
        let active = plan
            .segments
            .len()
            .checked_sub(1)
            .filter(|_| !matches!(plan.tail, Tail::NewSegment(_)));
        for at in plan.indexes.iter().filter(|at| Some(**at) != active) {
            self.make_indexes(*at)?;
        }
        for at in &plan.txns {
            self.make_txn_index(*at, &txns)?;
        }
        self.orphans()?;
        if let Some(epochs) = &plan.epochs {
            write_state_file(
                m.log().dir().as_ref(),
                LEADER_EPOCH_CHECKPOINT,
                render_epochs(epochs).as_bytes(),
            )
            .map_err(|e| m.error("cannot write the leader epochs", e))?;
        }
        let lying = active.filter(|at| plan.indexes.contains(at));
        let settle = plan.tail == Tail::Cut || lying.is_some();
        if settle {
            self.unsettle(lying)?;
        }
        Ok(settle)
    }

    /// What comes last.
    fn finish(&self) -> Result<()> {
        self.snapshots()?;
        if let Some(dir) = Keys::of(self.m.log())?.dir() {
            keys::remove(dir.as_ref(), &self.plan.lookups)?;
        }
        if self.plan.failed {
            let dir = self.m.logd_dir().as_ref();
            unlink_if_there(dir, files::FAILED)
                .and_then(|()| dir.sync())
                .map_err(|e| self.m.error("cannot remove the mark of a failed sync", e))?;
        }
        Ok(())
    }

    fn looked(&self, at: usize) -> Result<&Looked> {
        let missing = || Error::new(ErrorKind::Bug, "a segment that is not in the plan");
        self.plan.segments.get(at).ok_or_else(missing)
    }

    /// Copies what will be taken out.
    fn set_aside(&self) -> Result<()> {
        let rebooted = self.plan.end.rebooted(self.m.host().boot_id());
        // After a reboot recovery itself keeps the tail that it cuts.
        if self.plan.taken_out.is_empty()
            || self.plan.tail == Tail::Cut && rebooted && self.plan.rewrites.is_empty()
        {
            return Ok(());
        }
        let keep = LostFound::open(self.m.host().as_ref(), self.m.logd_dir().as_ref())?;
        for t in &self.plan.taken_out {
            let looked = self.looked(t.at)?;
            keep.keep_bytes(
                looked.open(self.m.log())?.as_ref(),
                &Lost {
                    segment: looked.segment.base(),
                    position: t.bytes.start,
                    bytes: t.bytes.end - t.bytes.start,
                    offset: t.offset,
                    reason: t.reason.clone(),
                },
            )?;
        }
        Ok(())
    }

    /// Seals the active segment as it is and begins another at `begin`, D published past it first.
    fn begin_segment(&self, begin: Offset) -> Result<()> {
        let m = self.m;
        let fail = |e| m.error("cannot begin a new segment", e);
        let append = self.lock(files::APPEND_LOCK)?;
        let sync = self.lock(files::SYNC_LOCK)?;
        let (dir, logd) = (m.log().dir().as_ref(), m.logd_dir().as_ref());
        let end_file = logd.open(files::END, Access::Write).map_err(fail)?;
        let known = end::read_from(end_file.as_ref()).map_err(fail)?;
        if let Some(last) = self.plan.segments.last() {
            let name = last.segment.log_name();
            let file = dir.open(&name, Access::Write).map_err(fail)?;
            if file.len().map_err(fail)? != last.len.0 {
                let why = "the log grew under the repair";
                return Err(Error::new(ErrorKind::Locked, why).at_path(m.path()));
            }
            let data_end = last.scan.home.data_end.0;
            if last.is_sound && last.zeros {
                file.set_len(data_end).map_err(fail)?;
            }
        }
        match known.durable {
            Some(_) => {
                for looked in &self.plan.segments {
                    looked.open(m.log())?.sync().map_err(fail)?;
                }
                dir.sync().map_err(fail)?;
            }
            None => dir.sync_filesystem().map_err(fail)?,
        }
        let boot = m.host().boot_id();
        if known.durable < Some(begin) {
            end::write_durable(end_file.as_ref(), known.durable_sequence + 1, boot, begin)
                .map_err(fail)?;
            end_file.sync().map_err(fail)?;
        }
        let end = self.plan.segments.last().map_or(begin, |s| s.scan.home.end);
        if end < begin {
            rewritten::add(logd, Reason::Repair, end..begin)?;
        }
        ActiveSegment::create(dir, begin).map_err(fail)?;
        dir.sync().map_err(fail)?;
        if let Some(hint) = known.hint {
            let hint = EndHint {
                base: begin,
                end: begin,
                highest: hint.highest.max(begin),
                position: Position(0),
                ..hint
            };
            self.void(end_file.as_ref(), &hint)?;
        }
        drop((append, sync));
        Ok(())
    }

    /// Leaves a hint that nobody believes, so that everyone who has the log open looks again.
    fn void(&self, end_file: &dyn crate::sys::File, hint: &EndHint) -> Result<()> {
        let void = EndHint {
            sequence: hint.sequence + 1,
            boot_id: self.m.host().boot_id(),
            inode: 0,
            index_bytes: 0,
            time_index_bytes: 0,
            since_index_entry: 0,
            ..*hint
        };
        end::write_hint(end_file, &void).map_err(|e| self.m.error("cannot write .logd/end", e))
    }

    fn lock(&self, name: &'static str) -> Result<LockFile> {
        let logd = self.m.logd_dir().as_ref();
        let lock = LockFile::open(logd, name)?;
        match lock.acquire(logd, Wait::Until(Instant::now() + APPEND_WAIT))? {
            true => Ok(lock),
            false => Err(
                Error::not_found("the log was replaced by another directory")
                    .at_path(self.m.path()),
            ),
        }
    }

    /// Replaces a run by one segment.
    fn rewrite(&self, rewrite: &Rewrite, txns: &BTreeMap<Offset, Vec<TxnEntry>>) -> Result<()> {
        let m = self.m;
        let sources: Vec<_> = rewrite
            .run
            .clone()
            .map(|i| self.looked(i).map(|l| l.segment))
            .collect::<Result<_>>()?;
        let (Some(first), Some(last)) = (sources.first(), sources.last()) else {
            return Ok(());
        };
        let mut out = Output::begin(m, first.base())?;
        let mut has_txns = false;
        for source in &sources {
            has_txns |= m
                .log()
                .open_optional(&source.index_name(Kind::TxnIndex))?
                .is_some();
        }
        let entries = sources.iter().flat_map(|s| txns.get(&s.base())).flatten();
        let mut entries: Vec<TxnEntry> = entries.copied().collect();
        entries.sort_by_key(|e| e.last_offset);
        if has_txns || !entries.is_empty() {
            out.want_txn_index();
        }
        entries.into_iter().for_each(|e| out.add_txn(e));
        let mut epoch = -1;
        for (at, piece) in &rewrite.pieces {
            let looked = self.looked(*at)?;
            let span = Span {
                base: looked.segment.base().min(piece.offsets.start),
                next: piece.offsets.start,
                from: piece.bytes.start,
                end: piece.bytes.end,
            };
            let file = looked.open(m.log())?;
            let mut scanner = Scanner::new(file, span, self.limits);
            while let Step::Batch(_) = scanner.step()? {
                if let Some(batch) = scanner.batch() {
                    epoch = batch.header().leader_epoch.max(epoch);
                    out.put(batch.header(), batch.bytes())?;
                }
            }
            if scanner.position() != piece.bytes.end {
                let why = "what was intact is not any more";
                return Err(Error::data(why).at_path(m.log().path_of(&looked.segment.log_name())));
            }
        }
        if let Some(offset) = rewrite.filler {
            let bytes = empty_batch(offset, epoch);
            let batch = Batch::check(&bytes).map_err(|d| Error::new(ErrorKind::Bug, d.reason))?;
            out.put(batch.header(), batch.bytes())?;
        }
        let mtime = self.looked(rewrite.run.end - 1)?.open(m.log())?.meta();
        let mtime = mtime.map_err(|e| m.error("cannot stat", e))?.mtime_ms;
        let end = out.last_offset().map_or(last.base(), Offset::next);
        rewritten::add(
            m.logd_dir().as_ref(),
            Reason::Repair,
            first.base()..end.max(first.base().next()),
        )?;
        swap::replace(m, &out.finish(mtime)?, &sources)
    }

    fn move_away(&self, at: usize) -> Result<()> {
        let looked = self.looked(at)?;
        let keep = LostFound::open(self.m.host().as_ref(), self.m.logd_dir().as_ref())?;
        keep.keep_segment(
            self.m.log().dir().as_ref(),
            &Lost {
                segment: looked.segment.base(),
                position: Position(0),
                bytes: looked.len.0,
                offset: looked.segment.base(),
                reason: "nothing of it counts: its offsets are in other segments".to_string(),
            },
        )
    }

    /// Makes the offset and the time index of a sealed segment anew, aside.
    fn make_indexes(&self, at: usize) -> Result<()> {
        let looked = self.looked(at)?;
        let mut indexes = Indexes::new(looked.segment.base());
        derived::batches(self.m.log(), looked, self.limits, |batch, position| {
            indexes.note(batch.header(), position);
            Ok(())
        })?;
        let (offsets, times) = indexes.finish();
        self.m
            .put_index(&looked.segment, Kind::OffsetIndex, &offsets)?;
        self.m.put_index(&looked.segment, Kind::TimeIndex, &times)
    }

    fn make_txn_index(&self, at: usize, txns: &BTreeMap<Offset, Vec<TxnEntry>>) -> Result<()> {
        let looked = self.looked(at)?;
        let mut bytes = Vec::new();
        let entries = txns.get(&looked.segment.base()).into_iter().flatten();
        entries.for_each(|e| e.encode(&mut bytes));
        self.m.put_index(&looked.segment, Kind::TxnIndex, &bytes)
    }

    /// Indexes without a log: an appender that rolls makes those of the next segment first.
    fn orphans(&self) -> Result<()> {
        let (m, dir) = (self.m, self.m.log().dir().as_ref());
        let fail = |e| m.error("cannot remove an index without a log", e);
        let orphans = self
            .plan
            .leftovers
            .iter()
            .filter(|n| n.state == State::Plain);
        let orphans: Vec<&FileName> = orphans.collect();
        if orphans.is_empty() {
            return Ok(());
        }
        let _append = self.lock(files::APPEND_LOCK)?;
        for name in orphans {
            if dir
                .stat(&name.sibling(Kind::Log).to_string())
                .map_err(fail)?
                .is_none()
            {
                unlink_if_there(dir, &name.to_string()).map_err(fail)?;
            }
        }
        dir.sync().map_err(fail)
    }

    /// Makes the next holder of the append lock recover the active segment: it cuts a torn tail and
    /// makes missing indexes anew.
    fn unsettle(&self, lying: Option<usize>) -> Result<()> {
        let m = self.m;
        let fail = |e| m.error("cannot open the log for appending", e);
        let _append = self.lock(files::APPEND_LOCK)?;
        let end_file = m.logd_dir().open(files::END, Access::Write).map_err(fail)?;
        if let Some(hint) = end::read_from(end_file.as_ref()).map_err(fail)?.hint {
            // Which boot wrote last still matters for what recovery makes of a torn tail.
            let sequence = hint.sequence + 1;
            let void = EndHint {
                sequence,
                inode: 0,
                ..hint
            };
            end::write_hint(end_file.as_ref(), &void).map_err(fail)?;
        }
        if let Some(at) = lying {
            let segment = self.looked(at)?.segment;
            for kind in [Kind::OffsetIndex, Kind::TimeIndex] {
                unlink_if_there(m.log().dir().as_ref(), &segment.index_name(kind)).map_err(fail)?;
            }
        }
        Ok(())
    }

    /// Removes the snapshots that lie, and makes anew those of offsets that the log has.
    fn snapshots(&self) -> Result<()> {
        let (m, dir) = (self.m, self.m.log().dir().as_ref());
        let fail = |e| m.error("cannot replace a producer snapshot", e);
        if self.plan.snapshots.is_empty() {
            return Ok(());
        }
        for (at, _) in &self.plan.snapshots {
            unlink_if_there(dir, &file_name(*at, Kind::Snapshot)).map_err(fail)?;
        }
        dir.sync().map_err(fail)?;
        for (at, _) in self.plan.snapshots.iter().filter(|(_, anew)| *anew) {
            Producers::load(m.log(), *at, &self.limits)?.write_snapshot(m.log(), *at)?;
        }
        Ok(())
    }
}
