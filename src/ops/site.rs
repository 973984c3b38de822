//! A place where new logs are built before anyone can take them for whole.
//!
//! `split` and `merge --to` make logs that must be there completely or not at all. They are built in
//! `DEST.unfinished-0/` beside DEST, which no command takes for a log with anything in it and whose
//! name a broker accepts, and get their names when all of them are finished and durable:
//!
//! | in the directory | what |
//! |---|---|
//! | `lock` | locked by who builds |
//! | `TOPIC-N/` | a log being built, under the name it will have |
//! | `commit` | all are finished: their names, one a line |
//!
//! 1. everything built and synced, the directory synced
//! 2. `commit` written and synced: from here on it goes forward only
//! 3. each log renamed to its place, the parent synced
//! 4. the directory removed
//!
//! Without durability asked for nothing is synced; the steps are the same.
//!
//! A failure, or a signal that is caught, before 2 removes the directory. What a killed process leaves
//! is told by the next who builds for the same DEST: without `commit` it is removed; with it, step 3 is
//! finished, and DEST then exists. Between 2 and 4 some of a topic's partitions may have their places
//! and others not: whoever looks a topic up asks [`refuse_half_made`] whether one is still missing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::create;
use super::topic;
use crate::error::{Error, ErrorKind, Result};
use crate::format::names::{self, Kind, parse_partition, partition_name, valid_topic};
use crate::log::broker::Parent;
use crate::log::files;
use crate::log::state::{read_state_file, write_state_file};
use crate::sys::{Access, Dir, File, Host, Lock, Wait};

/// Put behind DEST for the name of the directory.
const SUFFIX: &str = ".unfinished";
/// The lock in it.
const LOCK: &str = "lock";
/// The list of what is finished.
const COMMIT: &str = "commit";
/// The list until it is all written.
const COMMIT_NEW: &str = "commit.tmp";
/// Largest list that is read: far more logs than a command makes.
const COMMIT_BYTES_MAX: usize = 64 << 20;

/// Logs that are synced file by file; more of them by one sync of the file system, which writes what
/// others left unwritten too, but needs no seven syncs a log.
const SYNC_EACH_MAX: usize = 32;

/// What may be there under DEST's name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Makes {
    /// DEST itself is made.
    Dest,
    /// Topics `DEST-PART` are made.
    Parts,
}

/// Logs being built.
pub struct Site {
    parent: Arc<dyn Dir>,
    dir: Arc<dyn Dir>,
    name: String,
    names: Vec<String>,
    built: bool,
    _lock: Box<dyn File>,
    _broker: Parent,
}

impl Site {
    /// Makes the place for DEST at `dest`, clearing what a killed process left of it.
    ///
    /// # Errors
    /// `CannotCreate` if DEST exists, `Locked` if somebody builds it or a broker runs there, `Config`
    /// on a network file system, `Usage` for a name that no log can have, else what the system answers.
    pub fn open(
        host: &dyn Host,
        dest: &Path,
        makes: Makes,
        allow_network_fs: bool,
    ) -> Result<Site> {
        let topic = topic_of(dest, makes)?;
        refuse_inside(host, dest)?;
        let parent = create::open_parent(host, &topic::parent(dest))?;
        create::refuse_network_fs(parent.as_ref(), allow_network_fs)?;
        let broker = Parent::enter(host, parent.path())?;
        let name = partition_name(&format!("{topic}{SUFFIX}"), 0);
        let fail = |e| Error::io("cannot make the log", e).at_path(parent.path().join(&name));
        let mut finished = false;
        if parent.stat(&name).map_err(fail)?.is_some() {
            broker.spoil_clean_shutdown()?;
            finished = clear(&parent, &name)?;
        }
        let refused = refuse_existing(parent.as_ref(), dest, &topic, makes);
        refused.map_err(|e| match finished {
            true => {
                let why = "an earlier run was killed when all was built; it is whole now";
                Error::new(ErrorKind::CannotCreate, why).at_path(dest)
            }
            false => e,
        })?;
        broker.spoil_clean_shutdown()?;
        parent.make_dir(&name).map_err(fail)?;
        let site = parent.open_dir(&name).and_then(|dir| {
            let lock = dir.create(LOCK)?;
            Ok((lock.lock(Lock::Exclusive, Wait::No)?, dir, lock))
        });
        let (held, dir, lock) = site.map_err(|e| {
            let _ = parent.remove_dir(&name);
            fail(e)
        })?;
        if !held {
            return Err(busy(dest));
        }
        Ok(Site {
            parent,
            dir,
            name,
            names: Vec::new(),
            built: false,
            _lock: lock,
            _broker: broker,
        })
    }

    /// The directory in which logs are built.
    pub fn dir(&self) -> &Arc<dyn Dir> {
        &self.dir
    }

    /// Begins one more log: its directory, empty, is there on return.
    ///
    /// # Errors
    /// `CannotCreate` for one that is being built already; else what the system answers.
    pub fn add(&mut self, topic: &str, number: i32) -> Result<String> {
        let name = partition_name(topic, number);
        let made = self.dir.make_dir(&name);
        made.map_err(|e| Error::io("cannot make the log", e).at_path(self.dir.path().join(&name)))?;
        self.names.push(name.clone());
        Ok(name)
    }

    /// Gives all logs their names, durably if `durable`. Returns where they are.
    ///
    /// # Errors
    /// `CannotCreate` if one is there by now; else what the system answers. Once the list is written,
    /// what is not in its place yet is put there by the next who builds for this DEST.
    pub fn publish(mut self, durable: bool) -> Result<Vec<PathBuf>> {
        let fail = |e| Error::io("cannot make the log", e).at_path(self.parent.path());
        for name in &self.names {
            if self.parent.stat(name).map_err(fail)?.is_some() {
                return Err(exists(&self.parent.path().join(name)));
            }
        }
        let list: String = self.names.iter().map(|n| format!("{n}\n")).collect();
        if durable {
            self.sync()
                .map_err(|e| Error::io("cannot sync", e).at_path(self.dir.path()))?;
            write_state_file(self.dir.as_ref(), COMMIT, list.as_bytes()).map_err(fail)?;
        } else {
            let tmp = self.dir.create(COMMIT_NEW).map_err(fail)?;
            tmp.write_all_at(list.as_bytes(), 0).map_err(fail)?;
            self.dir.rename(COMMIT_NEW, COMMIT).map_err(fail)?;
        }
        self.built = true;
        finish(&self.parent, &self.dir, &self.name, &self.names, durable).map_err(|e| {
            let hint = "the same command once more puts every log in its place";
            fail(e).hint(hint)
        })?;
        let path = |n: &String| self.parent.path().join(n);
        Ok(self.names.iter().map(path).collect())
    }

    /// Makes all that was built durable, and the way to it.
    fn sync(&self) -> io::Result<()> {
        match self.names.len() > SYNC_EACH_MAX {
            true => self.dir.sync_filesystem(),
            false => {
                let mut names = self.names.iter();
                names.try_for_each(|n| sync_tree(self.dir.open_dir(n)?.as_ref()))?;
                self.dir.sync()?;
                self.parent.sync()
            }
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if !self.built {
            // What cannot be removed is told by its name, and the next run tries again.
            let removed = unlist(self.dir.as_ref());
            let removed = removed.and_then(|()| remove_tree(self.parent.as_ref(), &self.name));
            let _ = removed.and_then(|()| self.parent.sync());
        }
    }
}

/// Puts every log in its place and removes the directory.
fn finish(
    parent: &Arc<dyn Dir>,
    dir: &Arc<dyn Dir>,
    name: &str,
    names: &[String],
    durable: bool,
) -> io::Result<()> {
    for log in names {
        match (dir.stat(log)?, parent.stat(log)?) {
            (Some(_), None) => dir.rename_to(log, parent.as_ref(), log)?,
            // Somebody made a log of that name meanwhile; his stays, and ours is left to be seen.
            (Some(own), Some(other)) if own.id != other.id => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            _ => {}
        }
    }
    // Before the old names go: a log may have both for a while, but never none.
    if durable {
        parent.sync()?;
        dir.sync()?;
    }
    for file in [LOCK, COMMIT] {
        crate::log::state::unlink_if_there(dir.as_ref(), file)?;
    }
    parent.remove_dir(name)?;
    if durable { parent.sync() } else { Ok(()) }
}

/// Makes a directory durable, and everything in it but indexes, which are checked before they are
/// believed and can be made anew.
fn sync_tree(dir: &dyn Dir) -> io::Result<()> {
    for name in dir.list()? {
        let is_index = names::parse(&name).is_some_and(|n| n.kind != Kind::Log);
        match dir.stat(&name)? {
            Some(meta) if meta.is_dir => sync_tree(dir.open_dir(&name)?.as_ref())?,
            Some(_) if !is_index => dir.open(&name, Access::Read)?.sync()?,
            _ => {}
        }
    }
    dir.sync()
}

/// Refuses a topic of which some partitions have their names and others are still to get them, as
/// whoever gave the names was killed, or is at it. `partitions` are those of its directory.
///
/// # Errors
/// `Locked` for such a topic; else what the system answers.
pub fn refuse_half_made(dir: &dyn Dir, partitions: &[(String, i32)], topic: &str) -> Result<()> {
    let is_of = |dest: &str| {
        let rest = topic.strip_prefix(dest);
        rest.is_some_and(|r| r.is_empty() || r.starts_with('-'))
    };
    for (other, number) in partitions {
        let dest = other
            .strip_suffix(SUFFIX)
            .filter(|d| *number == 0 && is_of(d));
        let Some(dest) = dest else { continue };
        let name = partition_name(other, *number);
        let missing = || -> io::Result<bool> {
            let site = dir.open_dir(&name)?;
            let own = |n: &String| parse_partition(n).is_some_and(|(t, _)| t == topic);
            Ok(site.stat(COMMIT)?.is_some() && site.list()?.iter().any(own))
        };
        match missing() {
            Ok(false) => {}
            Ok(true) => {
                let why = format!("some partitions are still in {name}");
                let error = Error::new(ErrorKind::Locked, why).at_path(dir.path().join(topic));
                let hint = format!(
                    "if nothing is at work there, the command that was to make {dest} was killed; \
                     once more, it puts them in their places"
                );
                return Err(error.hint(hint));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("cannot look into", e).at_path(dir.path().join(name))),
        }
    }
    Ok(())
}

/// What a killed process left: finished if all was built, else removed. Tells whether it was finished.
fn clear(parent: &Arc<dyn Dir>, name: &str) -> Result<bool> {
    let path = parent.path().join(name);
    let fail = |e| Error::io("cannot clear what an earlier run left", e).at_path(&path);
    let dir = parent.open_dir(name).map_err(fail)?;
    let lock = dir.open_or_create(LOCK).map_err(fail)?;
    let held = lock.lock(Lock::Exclusive, Wait::No).map_err(fail)?;
    // The one who had it may have ended, and removed the directory, meanwhile.
    if !held || !dir.is_current().map_err(fail)? {
        return Err(busy(&path));
    }
    let list = read_state_file(dir.as_ref(), COMMIT, COMMIT_BYTES_MAX).map_err(fail)?;
    match list {
        None => remove_tree(parent.as_ref(), name)
            .map(|()| false)
            .map_err(fail),
        Some(list) => {
            let list = String::from_utf8_lossy(&list);
            let log = |l: &&str| parse_partition(l).is_some();
            let names: Vec<String> = list.lines().filter(log).map(str::to_string).collect();
            finish(parent, &dir, name, &names, true)
                .map(|()| true)
                .map_err(fail)
        }
    }
}

/// Takes the list away, durably, before anything that is on it is removed.
fn unlist(dir: &dyn Dir) -> io::Result<()> {
    match dir.stat(COMMIT)? {
        Some(_) => dir.unlink(COMMIT).and_then(|()| dir.sync()),
        None => Ok(()),
    }
}

/// Removes a directory and everything in it.
fn remove_tree(parent: &dyn Dir, name: &str) -> io::Result<()> {
    let dir = parent.open_dir(name)?;
    for inner in dir.list()? {
        match dir.stat(&inner)? {
            Some(meta) if meta.is_dir => remove_tree(dir.as_ref(), &inner)?,
            Some(_) => dir.unlink(&inner)?,
            None => {}
        }
    }
    drop(dir);
    parent.remove_dir(name)
}

/// The topic that DEST names; of `TOPIC-N` the topic.
fn topic_of(dest: &Path, makes: Makes) -> Result<String> {
    let name = dest
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default();
    let topic = match makes {
        Makes::Dest => parse_partition(name).map_or(name, |(topic, _)| topic),
        Makes::Parts => name,
    };
    let why = "a log's name has 1 to 249 of the characters A-Z a-z 0-9 . _ -";
    match valid_topic(&format!("{topic}{SUFFIX}")) && valid_topic(topic) {
        true => Ok(topic.to_string()),
        false => Err(Error::usage(format!("{}: {why}", dest.display()))),
    }
}

/// Refuses a DEST inside a partition, however deep.
fn refuse_inside(host: &dyn Host, dest: &Path) -> Result<()> {
    let inside = |at: PathBuf| {
        let why = "this directory is a log itself; another cannot be made inside it";
        Err(Error::new(ErrorKind::CannotCreate, why).at_path(at))
    };
    let mut above = topic::parent(dest);
    match topic::open_if_there(host, &above)? {
        Some(dir) if topic::is_partition(dir.as_ref())? => return inside(above),
        _ => {}
    }
    // By way of `..`, which a symbolic link does not mislead. Directories that may not be entered tell
    // nothing.
    let mut last = None;
    while let Ok(dir) = host.open_dir_to_search(&above) {
        let id = dir.id().ok();
        if dir.stat(files::LOGD_DIR).is_ok_and(|m| m.is_some()) {
            return inside(above);
        }
        if id.is_none() || id == last {
            break;
        }
        last = id;
        above.push("..");
    }
    Ok(())
}

/// Refuses a DEST that is there, and parts of one.
fn refuse_existing(parent: &dyn Dir, dest: &Path, topic: &str, makes: Makes) -> Result<()> {
    let fail = |e| Error::io("cannot look for the log", e).at_path(dest);
    let name = dest
        .file_name()
        .and_then(|n| n.to_str())
        .unwrap_or_default();
    if parent.stat(name).map_err(fail)?.is_some() {
        return Err(exists(dest));
    }
    if parse_partition(name).is_some() && makes == Makes::Dest {
        return Ok(()); // one partition of a topic that may well have others
    }
    let part = format!("{topic}-");
    for (other, number) in topic::partitions_in(parent)? {
        let is_part = makes == Makes::Parts && other.starts_with(&part);
        if other == topic || is_part {
            return Err(exists(&parent.path().join(partition_name(&other, number))));
        }
    }
    Ok(())
}

fn exists(path: &Path) -> Error {
    let shown = path.display();
    let error = Error::new(ErrorKind::CannotCreate, "exists already").at_path(path);
    error.hint(format!("logd info {shown}"))
}

fn busy(path: &Path) -> Error {
    Error::new(ErrorKind::Locked, "another process is making this log").at_path(path)
}
