//! Named reader positions as a person sees and moves them.
//!
//! Looking takes no lock. A change takes the lock of the group in every partition it is made in before
//! it changes any of them, so it is refused while a reader is active, and then as a whole.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::consume::end_of;
use super::span;
use super::topic::Partition;
use super::words::Pos;
use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::Scratch;
use crate::format::names::Kind;
use crate::format::{Limits, Offset, TimestampMs};
use crate::log::files;
use crate::log::groups::{self, Group, Position};
use crate::log::isolation::{Feed, Isolation};
use crate::log::listing::{self, LogDir, SegmentRef};
use crate::log::reader::{Advance, ReadOptions};
use crate::log::view::{View, scanner_at};
use crate::segment::lookup::seek_last;
use crate::segment::scan::{Scanner, Span, Step, Walk};
use crate::sys::{Dir, File, Host, Wait};

/// How often the size of what is unread is counted anew because a segment vanished.
const COUNTS_MAX: usize = 16;

/// A group in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The group.
    pub group: String,
    /// What is on record; `None` where it has not read yet.
    pub position: Option<Position>,
}

/// Groups of a partition, by name: all that are there, or the one called `only`, there or not.
///
/// # Errors
/// `Data` for a damaged position; else what the system answers.
pub fn standings(host: &dyn Host, partition: &Path, only: Option<&str>) -> Result<Vec<Standing>> {
    let Some(logd_dir) = logd_dir(host, partition)? else {
        let nowhere = |group: &str| Standing {
            group: group.to_string(),
            position: None,
        };
        return Ok(only.map(nowhere).into_iter().collect());
    };
    let names = match only {
        Some(name) => vec![name.to_string()],
        None => groups::names(logd_dir.as_ref())?,
    };
    let standing = |group: String| {
        let position = groups::read(logd_dir.as_ref(), &group)?;
        Ok(Standing { group, position })
    };
    names.into_iter().map(standing).collect()
}

/// The `.logd` directory of a partition, if there is one.
fn logd_dir(host: &dyn Host, partition: &Path) -> Result<Option<Arc<dyn Dir>>> {
    let dir = LogDir::open(host, partition)?
        .dir()
        .open_dir(files::LOGD_DIR);
    match dir {
        Ok(dir) => Ok(Some(dir)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("cannot open .logd", e).at_path(partition)),
    }
}

/// How far behind the end of a partition a group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lag {
    /// Log end offset.
    pub end: Offset,
    /// Offsets up to there; those that compaction removed are counted too.
    pub records: u64,
    /// Bytes of the batches that are not read, or not wholly.
    pub bytes: u64,
    /// Timestamp of the first unread record; `None` if there is none, or it cannot be read.
    pub oldest: Option<TimestampMs>,
}

/// How far `next`, or the start of the log without one, is behind the end.
///
/// # Errors
/// `NotFound` for a log; else what reading it may meet. Damage is none.
pub fn lag(host: &Arc<dyn Host>, partition: &Path, next: Option<Offset>) -> Result<Lag> {
    for _ in 0..COUNTS_MAX {
        match lag_once(host, partition, next) {
            // The log is there, or it would not have been opened: a segment is gone.
            Err(e) if e.kind() == ErrorKind::NotFound => LogDir::open(host.as_ref(), partition)?,
            lag => return lag,
        };
    }
    let why = "segments vanish faster than they can be looked at";
    Err(Error::new(ErrorKind::Locked, why).at_path(partition))
}

fn lag_once(host: &Arc<dyn Host>, partition: &Path, next: Option<Offset>) -> Result<Lag> {
    let view = View::of(LogDir::open(host.as_ref(), partition)?)?;
    let end = view.end(Limits::default())?;
    let next = next.unwrap_or(view.start()).max(view.start());
    if next >= end {
        return Ok(Lag {
            end,
            records: 0,
            bytes: 0,
            oldest: None,
        });
    }
    Ok(Lag {
        end,
        records: (end - next).unsigned_abs(),
        bytes: unread_bytes(&view, next)?,
        oldest: first_time(host, view, next)?,
    })
}

/// Bytes from the batch that holds `next` to the end of the data.
fn unread_bytes(view: &View, next: Offset) -> Result<u64> {
    let Some(tail) = view.tail() else {
        return Ok(0);
    };
    let last = data_end(view)?;
    if next >= tail.segment.base() {
        let at = place_of(
            view,
            &tail.segment,
            Arc::clone(&tail.file),
            tail.end.0,
            next,
        )?;
        return Ok(last.saturating_sub(at));
    }
    let mut bytes = last;
    let mut at = view.sealed_at(next);
    while let Some(segment) = at {
        let file = view.log().open_file(&segment.log_name())?;
        let len = listing::end_of(&*file)?.0;
        let from = match segment.base() <= next {
            true => place_of(view, &segment, file, len, next)?,
            false => 0,
        };
        bytes = bytes.saturating_add(len.saturating_sub(from));
        at = view.sealed_after(segment.base());
    }
    Ok(bytes)
}

/// Where in a segment the first batch begins that holds `next` or more.
fn place_of(
    view: &View,
    segment: &SegmentRef,
    file: Arc<dyn File>,
    len: u64,
    next: Offset,
) -> Result<u64> {
    let span = Span::whole(segment.base(), len);
    let mut scanner = Scanner::new(file, span, Limits::default());
    scanner_at(view, &mut scanner, segment, next)?;
    let mut walk = scanner.walk();
    loop {
        match walk.next()? {
            Walk::Header(header, _) if header.last_offset < next => {}
            Walk::Header(_, position) => return Ok(position.0),
            Walk::End(_) | Walk::Bad(_) => return Ok(walk.position().0),
        }
    }
}

/// Where the data of the active segment ends.
fn data_end(view: &View) -> Result<u64> {
    let Some(tail) = view.tail() else {
        return Ok(0);
    };
    let span = Span::whole(tail.segment.base(), tail.end.0);
    let mut scanner = Scanner::new(Arc::clone(&tail.file), span, Limits::default());
    let index = view.index(&tail.segment, Kind::OffsetIndex)?;
    seek_last(&mut scanner, index.as_deref())?;
    while let Step::Batch(_) = scanner.step()? {}
    Ok(scanner.position().0)
}

/// The timestamp of the first record at or behind `next`.
fn first_time(host: &Arc<dyn Host>, view: View, next: Offset) -> Result<Option<TimestampMs>> {
    let options = ReadOptions {
        limits: Limits::default(),
        skip_corrupt: true,
    };
    let wanted = next..Offset::MAX;
    let mut feed = Feed::new(host.clone(), view, wanted, Isolation::Uncommitted, options)?;
    let mut scratch = Scratch::new();
    loop {
        match feed.advance()? {
            Advance::Batch => {}
            Advance::End => return Ok(None),
            Advance::Gone(_) | Advance::Damage(_) => continue,
        }
        let Some(piece) = feed.piece() else { continue };
        let Ok(records) = piece.batch.records(&mut scratch, &Limits::default()) else {
            continue;
        };
        let mut wanted = records
            .map_while(|r| r.ok())
            .filter(|r| piece.wanted.contains(&r.offset));
        if let Some(record) = wanted.next() {
            return Ok(Some(record.timestamp).filter(|t| *t != TimestampMs::NONE));
        }
    }
}

/// What is to be done to a group.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// The last read was worth it: its mark becomes the position.
    Commit,
    /// Go on at another place; with the flag, places outside the log are moved into it.
    Seek(Pos, bool),
    /// Forget the group.
    Reset,
}

/// How a change is made.
#[derive(Clone, Debug)]
pub struct ChangeOptions {
    /// The group.
    pub group: String,
    /// The command, for who finds a lock taken.
    pub command: String,
    /// How long to wait for readers to end.
    pub wait: Duration,
    /// Take no lock and change nothing.
    pub dry_run: bool,
    /// Change positions on a network file system all the same.
    pub allow_network_fs: bool,
}

/// A change in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The partition.
    pub partition: Partition,
    /// The position before.
    pub old: Old,
    /// The position after; `None`: the group is gone.
    pub new: Option<Offset>,
}

/// A position that is to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    /// The group is not there.
    None,
    /// Its file is damaged.
    Damaged,
    /// It is here.
    At(Offset, Option<Offset>),
}

/// Changes a group in all of `partitions`, or tells what would change. Those that it does not concern
/// are left out of the answer.
///
/// # Errors
/// `NotFound` if none of them has the group, or the place is none; `Locked`, naming the reader, while
/// one is active; `No` if nothing is marked that could be committed; else what reading and storing may
/// meet. Nothing is changed then, unless it was storing that failed: what was stored is.
pub fn change(
    host: &Arc<dyn Host>,
    partitions: &[Partition],
    change: Change,
    options: &ChangeOptions,
) -> Result<Vec<Changed>> {
    groups::check_name(&options.group)?;
    let mut concerned = Vec::new();
    let mut found = false;
    for partition in partitions {
        let there = is_there(host.as_ref(), &partition.path, &options.group)?;
        found |= there;
        if there || matches!(change, Change::Seek(..)) {
            concerned.push(partition);
        }
    }
    if !found {
        let why = format!("no such group: {}", options.group);
        let at = partitions.first().map_or(Path::new("."), |p| &p.path);
        return Err(Error::not_found(why).at_path(at));
    }
    let mut claimed = claim_all(host, concerned, options)?;
    let mut planned = Vec::new();
    for (i, (partition, _)) in claimed.iter().enumerate() {
        if let Some(changed) = plan(host, partition, change, &options.group)? {
            planned.push((i, changed));
        }
    }
    if planned.is_empty() {
        return Err(nothing_marked(partitions, &options.group));
    }
    for (i, changed) in &mut planned {
        if let Some((_, Some(group))) = claimed.get_mut(*i) {
            changed.new = apply(group, change, changed.new)?;
        }
    }
    Ok(planned.into_iter().map(|(_, changed)| changed).collect())
}

fn nothing_marked(partitions: &[Partition], group: &str) -> Error {
    let at = partitions.first().map_or(Path::new("."), |p| &p.path);
    let log = at.display();
    let why = format!("group {group}: no read is marked");
    Error::new(ErrorKind::No, why)
        .at_path(at)
        .hint(format!("logd cat -g {group} --no-commit {log}"))
}

/// Whether a group has a position here, be it damaged.
fn is_there(host: &dyn Host, partition: &Path, group: &str) -> Result<bool> {
    let Some(dir) = logd_dir(host, partition)? else {
        return Ok(false);
    };
    match groups::read(dir.as_ref(), group) {
        Err(e) if e.kind() == ErrorKind::Data => Ok(true),
        read => Ok(read?.is_some()),
    }
}

/// Takes the group's lock in each partition; none for a dry run.
fn claim_all<'a>(
    host: &Arc<dyn Host>,
    partitions: Vec<&'a Partition>,
    options: &ChangeOptions,
) -> Result<Vec<(&'a Partition, Option<Group>)>> {
    let wait = match Instant::now().checked_add(options.wait) {
        _ if options.wait.is_zero() => Wait::No,
        Some(until) => Wait::Until(until),
        None => Wait::Forever,
    };
    let claim = |partition: &'a Partition| {
        if options.dry_run {
            return Ok((partition, None));
        }
        let network = options.allow_network_fs;
        let mut group = Group::open(host, &partition.path, &options.group, network)?;
        group.claim(wait, &options.command)?;
        Ok((partition, Some(group)))
    };
    partitions.into_iter().map(claim).collect()
}

/// What a change will do in a partition; `None` if it does not concern it.
fn plan(
    host: &Arc<dyn Host>,
    partition: &Partition,
    change: Change,
    group: &str,
) -> Result<Option<Changed>> {
    let old = match logd_dir(host.as_ref(), &partition.path)? {
        Some(dir) => match groups::read(dir.as_ref(), group) {
            // To move a group or to forget it, one need not know where it was.
            Err(e) if e.kind() == ErrorKind::Data && !needs_old(change) => Old::Damaged,
            read => read?.map_or(Old::None, |p| Old::At(p.next, p.marked)),
        },
        None => Old::None,
    };
    let new = match (change, old) {
        (Change::Commit, Old::At(_, Some(marked))) => Some(marked),
        (Change::Commit, _) => return Ok(None),
        (Change::Seek(Pos::Current(_), _), Old::None) => return Ok(None),
        (Change::Seek(pos, clamp), old) => Some(target(host, partition, pos, clamp, old)?),
        (Change::Reset, Old::None) => return Ok(None),
        (Change::Reset, _) => None,
    };
    Ok(Some(Changed {
        partition: partition.clone(),
        old,
        new,
    }))
}

fn needs_old(change: Change) -> bool {
    matches!(change, Change::Commit | Change::Seek(Pos::Current(_), _))
}

/// The offset that a POS means for a group.
fn target(
    host: &Arc<dyn Host>,
    partition: &Partition,
    pos: Pos,
    clamp: bool,
    old: Old,
) -> Result<Offset> {
    let limits = Limits::default();
    let mut view = View::of(LogDir::open(host.as_ref(), &partition.path)?)?;
    match (pos, old) {
        (Pos::Current(n), Old::At(next, _)) => {
            let moved = Offset(next.0.saturating_add(n));
            Ok(moved.min(end_of(&view)?).max(view.start()))
        }
        (Pos::Offset(n), _) if Offset(n) >= view.start() && Offset(n) <= end_of(&view)? => {
            Ok(Offset(n))
        }
        _ => span::place(&mut view, pos, clamp, limits),
    }
}

fn apply(group: &mut Group, change: Change, new: Option<Offset>) -> Result<Option<Offset>> {
    match (change, new) {
        (Change::Commit, _) => Ok(group.confirm()?.map(|(_, new)| new)),
        (Change::Seek(..), Some(new)) => group.seek(new).map(Some),
        (Change::Seek(..) | Change::Reset, _) => group.reset().map(|()| None),
    }
}
