//! Named reader positions: `.logd/groups/` of a partition.
//!
//! | file | what |
//! |---|---|
//! | `NAME` | the position of group NAME here |
//! | `NAME.lock` | held by the one reader that NAME has here, while it reads |
//! | `NAME.member-K` | each held by one member that shares a topic ([`super::members`]) |
//! | `NAME.tmp` | a position being written |
//!
//! So no name of a group may end in `.lock`, `.tmp` or `.member-` and digits ([`check_name`]). Lock
//! files are never unlinked; a group is there while its position is.
//!
//! A position is text, replaced whole ([`super::state`]), 4 KiB at most:
//!
//! | line | meaning |
//! |---|---|
//! | `1` | version |
//! | `position N` | the next offset to read: everything below is done |
//! | `marked N` | read up to here, exclusive, by a read whose work is not confirmed yet; may be absent |
//! | `WORD ...` | from a later version: not looked at, and kept as long as the group only reads on |
//! | `crc32 HHHHHHHH` | CRC-32 (IEEE) of all lines above, their newlines included |
//!
//! Invariants:
//!
//! * What is on record, position or mark, never lies beyond the durable offset at the time of its
//!   writing: the log is synced that far before, through the sync queue. So no power cut makes a group
//!   pass over records that are written afterwards under offsets it has seen.
//! * Only the holder of `NAME.lock` writes `NAME`.
//! * A file that does not hold what it should is damage, told as such, and never "no position": a
//!   group that began anew without a word would deliver everything again.
//!
//! A mark lives until the next read of the group begins here, so that a confirmation is only ever of
//! the last read that came to its end.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Limits, Offset};
use crate::log::listing::LogDir;
use crate::log::lock::LockFile;
use crate::log::lost::Lost;
use crate::log::state::{read_state_file, seal, unlink_if_there, unseal, write_state_file};
use crate::log::sync::Syncer;
use crate::log::view::View;
use crate::log::writer::{Writer, WriterOptions, check_place, open_end, open_logd_dir};
use crate::log::{end, files};
use crate::segment::active::RollLimits;
use crate::sys::{Dir, Host, Wait};

/// Longest name of a group.
const NAME_BYTES_MAX: usize = 249;
/// Longest beginning of the name of a member file: with `.member-` and seven digits it makes 255.
const MEMBER_STEM_BYTES_MAX: usize = 240;
/// Largest position file.
const FILE_BYTES_MAX: usize = 4096;
/// How long the first commit after a reboot waits for those who append, and so recover the log.
const RECOVERY_WAIT: Duration = Duration::from_secs(10);
/// Version of the position file.
const VERSION: &str = "1";

/// What is on record of a group in a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The next offset to read.
    pub next: Offset,
    /// How far an unconfirmed read came (exclusive).
    pub marked: Option<Offset>,
    /// Lines of a later version.
    kept: String,
}

impl Position {
    fn encode(&self) -> Vec<u8> {
        let mut text = format!("{VERSION}\nposition {}\n", self.next);
        if let Some(marked) = self.marked {
            text.push_str(&format!("marked {marked}\n"));
        }
        text.push_str(&self.kept);
        seal(text)
    }

    /// Reads a position file, or says what is wrong with it.
    fn decode(bytes: &[u8]) -> std::result::Result<Position, &'static str> {
        let body = unseal(bytes)?;
        let mut lines = body.lines();
        if lines.next() != Some(VERSION) {
            return Err("of another version");
        }
        let (mut next, mut marked, mut kept) = (None, None, String::new());
        for line in lines {
            let taken = match line.split_once(' ') {
                Some(("position", n)) => next.replace(offset(n)?),
                Some(("marked", n)) => marked.replace(offset(n)?),
                _ => {
                    kept.push_str(line);
                    kept.push('\n');
                    None
                }
            };
            if taken.is_some() {
                return Err("a line is there twice");
            }
        }
        let next = next.ok_or("no position")?;
        match marked {
            Some(m) if m < next => Err("the mark lies below the position"),
            _ => Ok(Position { next, marked, kept }),
        }
    }
}

fn offset(word: &str) -> std::result::Result<Offset, &'static str> {
    let digits = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    let number = word.parse().ok().filter(|_| digits);
    number.map(Offset).ok_or("not an offset")
}

/// Checks that `name` can be a group's: 1 to 249 of the characters `A-Z a-z 0-9 . _ -`, not `.` or
/// `..`, and not ending as the files do that lie beside positions.
///
/// # Errors
/// `Usage`.
pub fn check_name(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if !(1..=NAME_BYTES_MAX).contains(&name.len())
        || !name.bytes().all(plain)
        || [".", ".."].contains(&name)
    {
        let why = "a group's name has 1 to 249 of the characters A-Z a-z 0-9 . _ -";
        return Err(Error::usage(format!("{name}: {why}")));
    }
    match is_beside(name) {
        true => Err(Error::usage(format!(
            "{name}: no group's name ends in .lock, .tmp or .member-N"
        ))),
        false => Ok(()),
    }
}

/// Whether a file of that name is no position but lies beside one.
fn is_beside(name: &str) -> bool {
    let member = name.rsplit_once(".member-");
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    name.ends_with(".lock") || name.ends_with(".tmp") || member.is_some_and(|(_, k)| digits(k))
}

/// What the names of a group's member files begin with. A long name is cut and its hash put behind, so
/// that the file's name has room for a number.
pub fn member_stem(name: &str) -> String {
    if name.len() <= MEMBER_STEM_BYTES_MAX {
        return name.to_string();
    }
    let hash = Sha256::digest(name);
    let hash: String = hash.iter().take(8).map(|b| format!("{b:02x}")).collect();
    let room = MEMBER_STEM_BYTES_MAX - 1 - hash.len();
    format!("{}-{hash}", name.get(..room).unwrap_or_default())
}

/// Names of the groups with a position in a partition's `.logd` directory, in order.
///
/// # Errors
/// What the system answers.
pub fn names(logd_dir: &dyn Dir) -> Result<Vec<String>> {
    match groups_if_there(logd_dir)? {
        Some(dir) => names_in(dir.as_ref()).map_err(|e| cannot_read(logd_dir, e)),
        None => Ok(Vec::new()),
    }
}

fn names_in(dir: &dyn Dir) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for name in dir.list()? {
        // Whatever else somebody put there is not ours.
        if check_name(&name).is_ok() && dir.stat(&name)?.is_some_and(|m| m.is_file) {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// What is on record of group `name` in a partition's `.logd` directory; `None` if there is no such
/// group.
///
/// # Errors
/// `Data` for a damaged file; else what the system answers.
pub fn read(logd_dir: &dyn Dir, name: &str) -> Result<Option<Position>> {
    match groups_if_there(logd_dir)? {
        Some(dir) => read_in(dir.as_ref(), name),
        None => Ok(None),
    }
}

fn read_in(dir: &dyn Dir, name: &str) -> Result<Option<Position>> {
    let damaged = |why: &str| {
        Error::data(format!("damaged position of a group: {why}"))
            .at_path(dir.path().join(name))
            .hint("logd groups seek LOG GROUP POS            (sets it anew)")
    };
    match read_state_file(dir, name, FILE_BYTES_MAX) {
        Ok(None) => Ok(None),
        Ok(Some(bytes)) => Position::decode(&bytes).map(Some).map_err(damaged),
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(damaged("too large")),
        Err(e) => Err(Error::io("cannot read", e).at_path(dir.path().join(name))),
    }
}

/// Position of every group in a partition's `.logd` directory, by name: what lies below the smallest of
/// them has been read by all.
///
/// # Errors
/// As [`read`].
pub fn positions(logd_dir: &dyn Dir) -> Result<Vec<(String, Offset)>> {
    let mut all = Vec::new();
    for name in names(logd_dir)? {
        if let Some(position) = read(logd_dir, &name)? {
            all.push((name, position.next));
        }
    }
    Ok(all)
}

fn groups_if_there(logd_dir: &dyn Dir) -> Result<Option<Arc<dyn Dir>>> {
    match logd_dir.open_dir(files::GROUPS) {
        Ok(dir) => Ok(Some(dir)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(cannot_read(logd_dir, e)),
    }
}

fn cannot_read(logd_dir: &dyn Dir, e: io::Error) -> Error {
    Error::io("cannot read", e).at_path(logd_dir.path().join(files::GROUPS))
}

/// Opens `.logd/groups` of a partition, making it where there is none; its name is durable on return.
///
/// # Errors
/// What the system answers.
pub fn open_groups_dir(logd_dir: &dyn Dir) -> Result<Arc<dyn Dir>> {
    let open = || match logd_dir.open_dir(files::GROUPS) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            match logd_dir.make_dir(files::GROUPS) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
            logd_dir.sync()?;
            logd_dir.open_dir(files::GROUPS)
        }
        other => other,
    };
    let at = logd_dir.path().parent().unwrap_or(logd_dir.path());
    open().map_err(|e| Error::io("cannot open .logd/groups", e).at_path(at))
}

/// One group in one partition, for whoever stores its position. Its lock is freed with it.
pub struct Group {
    host: Arc<dyn Host>,
    log: LogDir,
    logd_dir: Arc<dyn Dir>,
    dir: Arc<dyn Dir>,
    name: String,
    lock: LockFile,
    syncer: Option<Syncer>,
    lost: Vec<Lost>,
}

impl Group {
    /// Opens group `name` of the partition at `path`, making the directories and the lock file where
    /// there are none. Takes no lock and stores nothing.
    ///
    /// # Errors
    /// `Usage` for a name that cannot be one, `NotFound` for a log, `Permission` where nothing can be
    /// stored, `Config` on a network file system; else what the system answers.
    pub fn open(
        host: &Arc<dyn Host>,
        path: &Path,
        name: &str,
        allow_network_fs: bool,
    ) -> Result<Group> {
        check_name(name)?;
        let log = LogDir::open(host.as_ref(), path)?;
        check_place(log.dir().as_ref(), allow_network_fs)?;
        let logd_dir = open_logd_dir(log.dir().as_ref())?;
        let dir = open_groups_dir(logd_dir.as_ref())?;
        let lock = open_lock(&log, dir.as_ref(), name)?;
        Ok(Group {
            host: Arc::clone(host),
            log,
            logd_dir,
            dir,
            name: name.to_string(),
            lock,
            syncer: None,
            lost: Vec::new(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The partition's directory.
    pub fn path(&self) -> &Path {
        self.log.dir().path()
    }

    /// Takes the lock that makes this process the group's only reader here. `command` is what others
    /// are told.
    ///
    /// # Errors
    /// `Locked`, naming the reader, if the wait is over; else what the system answers.
    pub fn claim(&mut self, wait: Wait, command: &str) -> Result<()> {
        if !self.try_claim(wait)? {
            // Somebody replaced the lock file; a directory that was replaced is another log.
            self.lock = open_lock(&self.log, self.dir.as_ref(), &self.name)?;
            if !self.try_claim(wait)? {
                let why = "the log was replaced by another directory";
                return Err(Error::not_found(why).at_path(self.path()));
            }
        }
        self.lock.write_note(self.host.as_ref(), command);
        Ok(())
    }

    fn try_claim(&self, wait: Wait) -> Result<bool> {
        self.lock.acquire(self.dir.as_ref(), wait).map_err(|e| {
            let e = match e.kind() {
                ErrorKind::Locked => {
                    let what = format!("group {}: {}", self.name, e.what());
                    Error::new(ErrorKind::Locked, what)
                }
                _ => e,
            };
            e.at_path(self.path())
        })
    }

    /// What a recovery took out of the log since this was last asked: the first to store something
    /// after a reboot may be the one to find a torn tail.
    pub fn take_lost(&mut self) -> Vec<Lost> {
        std::mem::take(&mut self.lost)
    }

    /// What is on record; `None` before the group's first read here.
    ///
    /// # Errors
    /// As [`read`].
    pub fn read(&self) -> Result<Option<Position>> {
        read_in(self.dir.as_ref(), &self.name)
    }

    /// Stores that everything below `next` is done, once that is durable; a mark goes with it. The
    /// caller holds the lock. Returns what was stored, which is less only if the log ends before: it
    /// was cut back.
    ///
    /// # Errors
    /// `Io` if the log cannot be synced, `Data` if what is on record is damaged; else what the system
    /// answers. What was on record is then still there.
    pub fn commit(&mut self, next: Offset) -> Result<Offset> {
        let next = self.durable_up_to(next)?;
        let kept = self.read()?.unwrap_or_default().kept;
        self.store(&Position {
            next,
            marked: None,
            kept,
        })?;
        Ok(next)
    }

    /// Stores that a read came to `upto`, once that is durable, and leaves the position. The caller
    /// holds the lock. Returns what was stored, as [`Group::commit`] does.
    ///
    /// # Errors
    /// As [`Group::commit`]; `NotFound` if the group has no position.
    pub fn mark(&mut self, upto: Offset) -> Result<Offset> {
        let upto = self.durable_up_to(upto)?;
        let there = self.read()?.ok_or_else(|| self.missing())?;
        self.store(&Position {
            next: there.next.min(upto),
            marked: Some(upto),
            kept: there.kept,
        })?;
        Ok(upto)
    }

    /// Makes the mark of the last read the position. The caller holds the lock. Returns both; `None`
    /// if nothing is marked.
    ///
    /// # Errors
    /// As [`Group::mark`].
    pub fn confirm(&mut self) -> Result<Option<(Offset, Offset)>> {
        let there = self.read()?.ok_or_else(|| self.missing())?;
        match there.marked {
            // It was durable when it was marked.
            Some(marked) => self.commit(marked).map(|next| Some((there.next, next))),
            None => Ok(None),
        }
    }

    /// Takes back the mark, if there is one: a new read begins. The caller holds the lock.
    ///
    /// # Errors
    /// As [`Group::commit`].
    pub fn unmark(&mut self) -> Result<()> {
        match self.read()? {
            Some(there) if there.marked.is_some() => self.store(&Position {
                marked: None,
                ..there
            }),
            _ => Ok(()),
        }
    }

    /// Stores another position whatever is on record, damaged or not, once the log is durable that
    /// far. The caller holds the lock. Returns what was stored, as [`Group::commit`] does.
    ///
    /// # Errors
    /// `Io` if the log cannot be synced; else what the system answers.
    pub fn seek(&mut self, next: Offset) -> Result<Offset> {
        let next = self.durable_up_to(next)?;
        self.store(&Position {
            next,
            ..Position::default()
        })?;
        Ok(next)
    }

    /// Forgets the group here, durably. The caller holds the lock.
    ///
    /// # Errors
    /// What the system answers.
    pub fn reset(&mut self) -> Result<()> {
        let forget = || {
            unlink_if_there(self.dir.as_ref(), &format!("{}.tmp", self.name))?;
            unlink_if_there(self.dir.as_ref(), &self.name)?;
            self.dir.sync()
        };
        forget().map_err(|e| self.io("cannot remove", e))
    }

    fn store(&self, position: &Position) -> Result<()> {
        write_state_file(self.dir.as_ref(), &self.name, &position.encode())
            .map_err(|e| self.io("cannot write", e))
    }

    /// Has the log synced up to `next`, or its end if that comes before; returns the smaller.
    fn durable_up_to(&mut self, next: Offset) -> Result<Offset> {
        let cannot = |e| Error::io("cannot read .logd/end", e).at_path(self.path());
        let end = end::read(self.logd_dir.as_ref()).map_err(cannot)?;
        if end.durable.is_some_and(|d| d >= next) {
            return Ok(next);
        }
        let start = View::of(self.log.clone())?.start();
        // Nothing lies below the start that could be lost.
        if next <= start {
            return Ok(next);
        }
        if end.rebooted(self.host.boot_id()) && !self.recover()? {
            return Ok(next.min(end.durable.unwrap_or(start).max(start)));
        }
        let next = next.min(View::of(self.log.clone())?.end(Limits::default())?);
        self.syncer()?.sync_to(next)?;
        Ok(next)
    }

    /// Has a log recovered to which nobody has appended since the host rebooted: what lies above D may
    /// still be cut, at a place that only recovery knows, so it must not be called durable before. False
    /// if that is not ours to do.
    fn recover(&mut self) -> Result<bool> {
        for mark in [files::REPLICA, files::FENCED] {
            let there = self.logd_dir.stat(mark);
            if there.map_err(|e| self.io("cannot store", e))?.is_some() {
                return Ok(false);
            }
        }
        let options = WriterOptions {
            wait: Some(RECOVERY_WAIT),
            allow_network_fs: true, // asked when this was opened
            zero_fill: false,
            roll: RollLimits {
                segment_bytes: u64::MAX, // nothing is appended
                segment_age_ms: None,
            },
            command: "logd groups".to_string(),
        };
        let mut writer = match Writer::open(&self.host, self.path(), options) {
            // A broker has recovered it.
            Err(e) if e.kind() == ErrorKind::Locked => return Ok(true),
            writer => writer?,
        };
        match writer.hold() {
            Err(e) if e.kind() == ErrorKind::Locked => return Ok(true), // who appends has, too
            hold => hold?.release()?,
        }
        self.lost.extend(writer.take_lost());
        Ok(true)
    }

    fn syncer(&mut self) -> Result<&Syncer> {
        if self.syncer.is_none() {
            open_end(self.host.as_ref(), &self.log, self.logd_dir.as_ref())?;
            let (dir, logd_dir) = (self.log.dir().clone(), self.logd_dir.clone());
            self.syncer = Some(Syncer::open(self.host.clone(), dir, logd_dir)?);
        }
        let missing = || Error::new(ErrorKind::Bug, "no sync queue");
        self.syncer.as_ref().ok_or_else(missing)
    }

    fn missing(&self) -> Error {
        Error::not_found(format!("no such group: {}", self.name)).at_path(self.path())
    }

    fn io(&self, what: &str, e: io::Error) -> Error {
        Error::io(format!("{what} groups/{}", self.name), e).at_path(self.path())
    }
}

fn open_lock(log: &LogDir, dir: &dyn Dir, name: &str) -> Result<LockFile> {
    LockFile::open(dir, &format!("{name}.lock")).map_err(|e| e.at_path(log.dir().path()))
}

#[cfg(test)]
#[path = "groups_tests.rs"]
mod tests;
