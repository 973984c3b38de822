//! Reading in the name of a group: where it starts, how far it came, and when that is stored.
//!
//! * A group begins with its first read: where it starts is stored before the first record is shown, so
//!   that a read that dies early does not move the start of the next (`--start latest`).
//! * What is stored never lies beyond what the sink took. [`Claim::shown`] is told only of batches that
//!   were handed to the emitter whole, or of the record that reached the limit, and [`Claim::store`] is
//!   called only after emitter and sink were flushed.
//! * Damage, and what retention took, is never passed over by a position unless it was asked for.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::cat::Note;
use super::emit::Emitter;
use super::span;
use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::Scratch;
use crate::format::{Limits, Offset};
use crate::log::groups::Group;
use crate::log::lost::Lost;
use crate::log::members::{Name, Share};
use crate::log::reader::{Piece, read_end};
use crate::log::view::View;

/// Pause between two looks for a free partition, with `--wait`.
const LOOK_PAUSE: Duration = Duration::from_millis(10);

/// Where a new group starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the first record kept.
    Earliest,
    /// Behind the last.
    Latest,
}

/// How to read in the name of a group.
#[derive(Clone, Debug)]
pub struct GroupOptions {
    /// The group, and who reads.
    pub name: Name,
    /// Where it starts if it is new.
    pub start: Start,
    /// Mark what was read instead of committing it.
    pub no_commit: bool,
    /// How often a follower stores how far it came.
    pub commit_every: Duration,
    /// Share the partitions with other members.
    pub as_member: bool,
    /// How long to wait for the first free partition, if not following.
    pub wait: Duration,
}

/// A partition that is read in the name of a group, held until this is dropped.
pub struct Claim {
    group: Group,
    no_commit: bool,
    /// What is on record; `None` while a mark is due.
    stored: Option<Offset>,
    shown: Offset,
}

impl Claim {
    /// Begins a read of `group`, whose lock is held. [`Claim::next`] is where.
    ///
    /// # Errors
    /// `NotFound` if what it was to read next is gone, without `clamp`; `Data` for a damaged position;
    /// else what storing may meet.
    pub fn begin(
        mut group: Group,
        view: &mut View,
        options: &GroupOptions,
        clamp: bool,
        note: &mut dyn FnMut(Note),
    ) -> Result<Claim> {
        let limits = Limits::default();
        let next = match group.read()? {
            None => {
                let start = match options.start {
                    Start::Earliest => view.start(),
                    Start::Latest => view.end(limits)?,
                };
                group.commit(start)?
            }
            Some(there) => {
                group.unmark()?;
                match within(&group, view, there.next, clamp)? {
                    next if next == there.next => next,
                    next => {
                        let path = PathBuf::from(group.path());
                        if there.next < next {
                            note(Note::Gone(path, there.next..next));
                        }
                        group.commit(next)?
                    }
                }
            }
        };
        tell_lost(&mut group, note);
        Ok(Claim {
            group,
            no_commit: options.no_commit,
            stored: (!options.no_commit).then_some(next),
            shown: next,
        })
    }

    /// The partition's directory.
    pub fn path(&self) -> &std::path::Path {
        self.group.path()
    }

    /// The next offset to show.
    pub fn next(&self) -> Offset {
        self.shown
    }

    /// Takes note that everything below `next` was handed on, or need not be.
    pub fn shown(&mut self, next: Offset) {
        self.shown = next;
    }

    /// Whether there is something to store.
    pub fn is_due(&self) -> bool {
        self.stored != Some(self.shown)
    }

    /// Stores how far it came, all of which the sink has taken.
    ///
    /// # Errors
    /// As [`Group::commit`].
    pub fn store(&mut self, note: &mut dyn FnMut(Note)) -> Result<()> {
        if !self.is_due() {
            return Ok(());
        }
        match self.no_commit {
            true => self.group.mark(self.shown)?,
            false => self.group.commit(self.shown)?,
        };
        self.stored = Some(self.shown);
        tell_lost(&mut self.group, note);
        Ok(())
    }

    /// The error of a group that retention has overtaken.
    pub fn overtaken(&self, gone: &std::ops::Range<Offset>) -> Error {
        overtaken(&self.group, gone.start, gone.end)
    }

    /// The error of a group whose log was cut back below what it has read.
    pub fn cut_back(&self) -> Error {
        let why = format!(
            "group {}: the log was cut back below offset {}, which it has read",
            self.group.name(),
            self.shown
        );
        Error::data(why)
            .at_path(self.group.path())
            .hint("a new reader starts at the end of what was kept")
    }
}

fn tell_lost(group: &mut Group, note: &mut dyn FnMut(Note)) {
    let path = PathBuf::from(group.path());
    let lost: Vec<Lost> = group.take_lost();
    if !lost.is_empty() {
        note(Note::Lost(path, lost));
    }
}

/// Where a group goes on that is at `next`: there, if the log reaches there.
fn within(group: &Group, view: &View, next: Offset, clamp: bool) -> Result<Offset> {
    let start = view.start();
    if next < start {
        return match clamp {
            true => Ok(start),
            false => Err(overtaken(group, next, start)),
        };
    }
    if span::is_inside(view, next) {
        return Ok(next);
    }
    let end = end_of(view)?;
    match next <= end {
        true => Ok(next),
        false if clamp => Ok(end),
        false => {
            let name = group.name();
            let why = format!("group {name} is at offset {next}; the log ends at {end}");
            let log = group.path().display();
            Err(Error::not_found(why)
                .at_path(group.path())
                .hint(format!("logd groups seek {log} {name} end")))
        }
    }
}

/// Where a log ends for a group. What is durable is in the log, also behind damage, before which the
/// view ends.
///
/// # Errors
/// A file cannot be read.
pub fn end_of(view: &View) -> Result<Offset> {
    let durable = read_end(view)?.durable.unwrap_or_default();
    Ok(view.end(Limits::default())?.max(durable))
}

fn overtaken(group: &Group, from: Offset, to: Offset) -> Error {
    let name = group.name();
    let why =
        format!("offsets {from}..{to} were removed by retention before group {name} read them");
    Error::not_found(why)
        .at_path(group.path())
        .hint(format!("--clamp goes on at {to}"))
}

/// The partitions that a reader gets that does not follow, `most` at most, waiting for the first of them
/// as long as it was told to.
///
/// # Errors
/// `Locked`, naming who holds one, if there is none; else as [`Share::take`].
pub fn take_first(share: &mut Share, wait: Duration, most: usize) -> Result<Vec<Group>> {
    let began = Instant::now();
    loop {
        let taken = share.take(most)?;
        if !taken.is_empty() {
            return Ok(taken);
        }
        let left = wait.saturating_sub(began.elapsed());
        if left.is_zero() {
            let none = || Error::new(ErrorKind::Locked, "no partition is free");
            return Err(share.refusal().unwrap_or_else(none));
        }
        std::thread::sleep(left.min(LOOK_PAUSE));
    }
}

/// The offset behind the last record that was shown of a piece, when `count` of those that are wanted
/// were; where it begins if none was.
pub fn behind_shown(emitter: &Emitter, piece: &Piece<'_>, count: u64, limits: &Limits) -> Offset {
    let mut scratch = Scratch::new();
    let mut behind = piece.wanted.start;
    let mut left = count;
    let records = match piece.batch.records(&mut scratch, limits) {
        Ok(records) => records,
        Err(_) => return behind, // it was shown, so this cannot be
    };
    for record in records.map_while(|r| r.ok()) {
        if left == 0 {
            break;
        }
        if piece.wanted.contains(&record.offset) && emitter.takes(&record) {
            left -= 1;
            behind = record.offset.next();
        }
    }
    behind
}
