//! Taking a partition for maintenance: retain, compact, redact, repair, index.
//!
//! [`Maintenance::open`] does what all of them need before they touch anything, in this order:
//!
//! 1. The place is safe to write in, no broker runs on it, `.logd` is there, as for an appender.
//! 2. `maintenance.lock` is taken; one holder per partition. Appenders and readers go on.
//! 3. What an earlier holder, or a broker, left half done is finished or undone by the rules below,
//!    and `.logd/tmp` is emptied. In a directory without such leftovers nothing is written.
//!
//! The append lock is taken for moments only: to recover a log before it is changed
//! ([`Maintenance::settle`]) and to seal its active segment ([`Maintenance::roll`]).
//!
//! Leftovers, by the rules that a broker follows when it starts (Kafka `LogLoader`), so that both
//! come to the same log whoever is first:
//!
//! | found | done |
//! |---|---|
//! | a `.cleaned` file | every `.swap` of the same or a higher base offset goes, then every `.cleaned` |
//! | a `.log.swap` | plain files from its base to its last offset go, then it gets its plain name |
//! | another `.swap` | it gets its plain name (its log has it already) |
//! | a `.deleted` file | removed |
//! | an index below the active segment, without a log | removed |
//!
//! Names that are not a segment's are left alone.
//!
//! **Durable before gaps.** Whoever is about to let an offset gap show between two segments calls
//! [`Maintenance::make_durable`] for an offset past it first: after a reboot a gap above D is taken
//! for a lost tail.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::format::Offset;
use crate::format::names::{self, FileName, Kind, State};
use crate::log::broker::Parent;
use crate::log::listing::{LogDir, SegmentRef};
use crate::log::lock::LockFile;
use crate::log::lost::Lost;
use crate::log::state::unlink_if_there;
use crate::log::swap;
use crate::log::writer::{Writer, WriterOptions};
use crate::log::{config, end, files};
use crate::sys::{Access, Dir, Host, Wait};

/// How long a roll waits for appenders, who hold their lock for milliseconds.
const APPEND_WAIT: Duration = Duration::from_secs(10);

/// How often a look without the lock may begin anew.
const LOOKS_MAX: usize = 16;

/// How a log is to be taken.
#[derive(Clone, Debug)]
pub struct MaintenanceOptions {
    /// This command, for who finds the lock taken: `logd compact`.
    pub command: String,
    /// How long to wait for the maintenance lock.
    pub wait: Duration,
    /// Write on a network file system all the same.
    pub allow_network_fs: bool,
}

/// A partition whose maintenance lock is held until this is dropped.
pub struct Maintenance {
    host: Arc<dyn Host>,
    writer: Writer,
    /// Freed with its file.
    _lock: LockFile,
    lost: Vec<Lost>,
}

impl Maintenance {
    /// Takes the partition at `path` and clears what was left half done in it.
    ///
    /// # Errors
    /// As [`Maintenance::take`] and [`Maintenance::clear_leftovers`].
    pub fn open(
        host: &Arc<dyn Host>,
        path: &Path,
        options: &MaintenanceOptions,
    ) -> Result<Maintenance> {
        let maintenance = Maintenance::take(host, path, options)?;
        maintenance.clear_leftovers()?;
        maintenance.empty_tmp()?;
        Ok(maintenance)
    }

    /// Takes the partition at `path` as it is: for `repair`, which looks before it clears anything.
    ///
    /// # Errors
    /// `Locked` while another one maintains it or a broker runs; `NotFound`, `Permission`, `Config`
    /// as [`Writer::open`]; else what the system answers.
    pub fn take(
        host: &Arc<dyn Host>,
        path: &Path,
        options: &MaintenanceOptions,
    ) -> Result<Maintenance> {
        let mut writer = Writer::open_to_roll(
            host,
            path,
            WriterOptions {
                wait: Some(APPEND_WAIT),
                allow_network_fs: options.allow_network_fs,
                zero_fill: false,
                roll: config::Settings::default().roll_limits(),
                command: options.command.clone(),
            },
        )?;
        let lock = LockFile::open(writer.logd_dir().as_ref(), files::MAINTENANCE_LOCK)?;
        let wait = match options.wait {
            Duration::ZERO => Wait::No,
            wait => Wait::Until(Instant::now() + wait),
        };
        if !lock.acquire(writer.logd_dir().as_ref(), wait)? {
            let why = "the log was replaced by another directory";
            return Err(Error::new(ErrorKind::NotFound, why).at_path(path));
        }
        lock.write_note(host.as_ref(), &options.command);
        writer.maintenance_is_held(true);
        Ok(Maintenance {
            host: host.clone(),
            writer,
            _lock: lock,
            lost: Vec::new(),
        })
    }

    /// The machine.
    pub fn host(&self) -> &Arc<dyn Host> {
        &self.host
    }

    /// The partition as a list of segments; the last one is active.
    pub fn log(&self) -> &LogDir {
        self.writer.log()
    }

    /// The partition's `.logd` directory.
    pub fn logd_dir(&self) -> &Arc<dyn Dir> {
        self.writer.logd_dir()
    }

    /// The directory above, the broker's lock held.
    pub fn parent(&self) -> &Parent {
        self.writer.parent()
    }

    /// The partition's directory, for messages.
    pub fn path(&self) -> &Path {
        self.writer.path()
    }

    /// The segments, in order of base offset.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn segments(&self) -> Result<Vec<SegmentRef>> {
        self.log().segments()
    }

    /// Recovers the log as an appender does before its first batch, and returns the log end. To be
    /// called before anything in it is changed.
    ///
    /// # Errors
    /// `Data` for a damaged log, `Io` after a failed sync, `Locked` if appenders keep the append
    /// lock; else what the system answers.
    pub fn settle(&mut self) -> Result<Offset> {
        let hold = self.writer.hold()?;
        let next = hold.next_offset();
        hold.release()?;
        self.lost.extend(self.writer.take_lost());
        Ok(next)
    }

    /// Seals the active segment, if it holds anything. Returns the base offset of the segment that is
    /// active now: everything below it is sealed, and stays as it is until this is dropped.
    ///
    /// # Errors
    /// As [`Maintenance::settle`].
    pub fn roll(&mut self) -> Result<Offset> {
        let mut hold = self.writer.hold()?;
        let base = hold.roll()?;
        hold.release()?;
        self.lost.extend(self.writer.take_lost());
        Ok(base)
    }

    /// Whether recovery had to take something out since that was last asked for.
    pub fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// What recovery had to take out: for a notice.
    pub fn take_lost(&mut self) -> Vec<Lost> {
        std::mem::take(&mut self.lost)
    }

    /// Makes everything below `through` durable, and the knowledge of it too. `through` is at most
    /// the log end.
    ///
    /// # Errors
    /// As [`crate::log::sync::Syncer::sync_to`].
    pub fn make_durable(&self, through: Offset) -> Result<()> {
        // After a failed sync, what repair has read back and published needs no other one.
        let known = end::read(self.logd_dir().as_ref());
        let known = known
            .map_err(|e| self.error("cannot read .logd/end", e))?
            .durable;
        if known < Some(through) {
            self.writer.syncer().sync_to(through)?;
        }
        // D is published without a sync; an older one would make a gap look like a lost tail.
        let end = self.logd_dir().open(files::END, Access::Write);
        end.and_then(|file| file.sync())
            .map_err(|e| self.error("cannot sync .logd/end", e))
    }

    /// To be called before the first change of a directory that a broker may have closed cleanly: it
    /// must not trust its checkpoints and indexes any more.
    ///
    /// # Errors
    /// What the system answers.
    pub fn spoil_clean_shutdown(&self) -> Result<()> {
        self.parent().spoil_clean_shutdown()
    }

    /// `.logd/tmp`, where files are built; made if it is absent.
    ///
    /// # Errors
    /// What the system answers.
    pub fn tmp(&self) -> Result<Arc<dyn Dir>> {
        let fail = |e| self.error("cannot open .logd/tmp", e);
        match self.logd_dir().make_dir(files::TMP) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(fail)?,
        }
        self.logd_dir().open_dir(files::TMP).map_err(fail)
    }

    /// Removes every file in `.logd/tmp`: after a failure, so that a full disk is not kept full.
    ///
    /// # Errors
    /// What the system answers.
    pub fn empty_tmp(&self) -> Result<()> {
        let fail = |e| self.error("cannot empty .logd/tmp", e);
        let tmp = match self.logd_dir().open_dir(files::TMP) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(fail)?,
        };
        for name in tmp.list().map_err(fail)? {
            unlink_if_there(tmp.as_ref(), &name).map_err(fail)?;
        }
        Ok(())
    }

    /// Puts an index beside a sealed segment: built aside, synced, renamed.
    ///
    /// # Errors
    /// What the system answers; the one that was there is then still there.
    pub fn put_index(&self, segment: &SegmentRef, kind: Kind, bytes: &[u8]) -> Result<()> {
        let (tmp, dir) = (self.tmp()?, self.log().dir());
        let name = segment.index_name(kind);
        let put = || -> io::Result<()> {
            unlink_if_there(tmp.as_ref(), &name)?;
            let file = tmp.create(&name)?;
            file.write_all_at(bytes, 0)?;
            file.sync()?;
            tmp.rename_to(&name, dir.as_ref(), &name)?;
            dir.sync()
        };
        put().map_err(|e| {
            // So that a full disk has its room back.
            let _ = unlink_if_there(tmp.as_ref(), &name);
            Error::io("cannot make an index anew", e).at_path(self.log().path_of(&name))
        })
    }

    /// An error of the system, on this log.
    pub fn error(&self, what: &str, e: io::Error) -> Error {
        Error::io(what, e).at_path(self.path())
    }

    /// Finishes or undoes what an earlier holder of the lock, or a broker, left half done, by the
    /// table of the module. Without leftovers nothing is written.
    ///
    /// # Errors
    /// `Data` for a committed replacement that is damaged: it is left alone. Else what the system
    /// answers.
    pub fn clear_leftovers(&self) -> Result<()> {
        let dir = self.log().dir().as_ref();
        let fail = |e| self.error("cannot clear what was left half done", e);
        let names = self.names()?;
        if names.iter().all(|n| n.state == State::Plain) && orphans(&names).is_empty() {
            return Ok(());
        }
        self.spoil_clean_shutdown()?;
        self.undo_uncommitted(&names)?;
        for swap in self.names()?.into_iter().filter(|n| is_log_swap(*n)) {
            let last = self.checked_last_offset(swap)?;
            swap::finish(dir, swap.base, last.max(swap.base)).map_err(fail)?;
        }
        let names = self.names()?;
        for name in names.iter().filter(|n| n.state == State::Deleted) {
            unlink_if_there(dir, &name.to_string()).map_err(fail)?;
        }
        for name in names.iter().filter(|n| n.state == State::Swap) {
            let plain = name.in_state(State::Plain).to_string();
            dir.rename(&name.to_string(), &plain).map_err(fail)?;
        }
        for name in orphans(&self.names()?) {
            unlink_if_there(dir, &name.to_string()).map_err(fail)?;
        }
        dir.sync().map_err(fail)
    }

    /// Removes what was never committed. The `.swap` files go first: it is the `.cleaned` ones that
    /// tell that those do not count.
    fn undo_uncommitted(&self, names: &[FileName]) -> Result<()> {
        let dir = self.log().dir().as_ref();
        let cleaned = || names.iter().filter(|n| n.state == State::Cleaned);
        let Some(undone) = cleaned().map(|n| n.base).min() else {
            return Ok(());
        };
        let swaps = names
            .iter()
            .filter(|n| n.state == State::Swap && n.base >= undone);
        let unlink = |n: &FileName| unlink_if_there(dir, &n.to_string());
        let undo = || -> io::Result<()> {
            swaps.into_iter().try_for_each(unlink)?;
            dir.sync()?;
            cleaned().try_for_each(unlink)?;
            dir.sync()
        };
        undo().map_err(|e| self.error("cannot undo an interrupted replacement", e))
    }

    /// The last offset of a `.log.swap` all of whose batches are sound. Finishing it removes what it
    /// replaces, so this once every byte of it is looked at.
    fn checked_last_offset(&self, swap: FileName) -> Result<Offset> {
        let place = self.log().path_of(&swap.to_string());
        let file = self.log().open_file(&swap.to_string())?;
        let last = swap::last_offset_checked(file, swap.base).map_err(|e| {
            let hint = format!("logd repair {}", self.path().display());
            e.at_path(&place).hint(hint)
        })?;
        Ok(last.unwrap_or(swap.base))
    }

    fn names(&self) -> Result<Vec<FileName>> {
        let dir = self.log().dir();
        let all = dir.list().map_err(|e| self.error("cannot list", e))?;
        let mut names: Vec<FileName> = all.iter().filter_map(|n| names::parse(n)).collect();
        names.sort_unstable();
        Ok(names)
    }
}

/// Looks at a log without its lock: again and again while a segment that was listed is gone when it is
/// opened, because somebody replaced or deleted it.
///
/// # Errors
/// Those of `look`; `NotFound` only if it stays.
pub fn beside_others<T>(mut look: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 1..LOOKS_MAX {
        match look() {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            other => return other,
        }
    }
    look()
}

/// Whether something was left half done in a log, for [`Maintenance::open`] to clear: told without a
/// lock and without a write.
///
/// # Errors
/// A directory cannot be read.
pub fn has_leftovers(log: &LogDir) -> Result<bool> {
    let fail = |e| Error::io("cannot list", e).at_path(log.dir().path());
    let names = log.dir().list().map_err(fail)?;
    let names: Vec<FileName> = names.iter().filter_map(|n| names::parse(n)).collect();
    if names.iter().any(|n| n.state != State::Plain) || !orphans(&names).is_empty() {
        return Ok(true);
    }
    let open = |dir: &dyn Dir, name| match dir.open_dir(name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    };
    let tmp = match open(log.dir().as_ref(), files::LOGD_DIR).map_err(fail)? {
        Some(own) => open(own.as_ref(), files::TMP).map_err(fail)?,
        None => None,
    };
    let built = tmp.map(|tmp| tmp.list()).transpose().map_err(fail)?;
    Ok(built.is_some_and(|names| !names.is_empty()))
}

fn is_log_swap(name: FileName) -> bool {
    name.kind == Kind::Log && name.state == State::Swap
}

/// Plain indexes without a log, below the last segment: an appender that rolls makes the indexes of
/// the next one before its log.
fn orphans(names: &[FileName]) -> Vec<FileName> {
    let is_log = |n: &&FileName| n.kind == Kind::Log && n.state == State::Plain;
    let logs: std::collections::BTreeSet<Offset> =
        names.iter().filter(is_log).map(|n| n.base).collect();
    let active = logs.last().copied().unwrap_or(Offset::ZERO);
    let orphan = |n: &&FileName| {
        let is_index = matches!(n.kind, Kind::OffsetIndex | Kind::TimeIndex | Kind::TxnIndex);
        is_index && n.state == State::Plain && n.base < active && !logs.contains(&n.base)
    };
    names.iter().filter(orphan).copied().collect()
}
