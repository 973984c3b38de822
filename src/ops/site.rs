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
//! A failure, or a signal that is caught, before 2 removes the directory. What a killed process leaves
//! is told by the next who builds for the same DEST: without `commit` it is removed; with it, step 3 is
//! finished, and DEST then exists.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::create;
use super::topic;
use crate::error::{Error, ErrorKind, Result};
use crate::format::names::{parse_partition, partition_name, valid_topic};
use crate::log::broker::Parent;
use crate::log::state::{read_state_file, write_state_file};
use crate::sys::{Dir, File, Host, Lock, Wait};

/// Put behind DEST for the name of the directory.
const SUFFIX: &str = ".unfinished";
/// The lock in it.
const LOCK: &str = "lock";
/// The list of what is finished.
const COMMIT: &str = "commit";
/// Largest list that is read: far more logs than a command makes.
const COMMIT_BYTES_MAX: usize = 64 << 20;

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
        if parent.stat(&name).map_err(fail)?.is_some() {
            clear(&parent, &name)?;
        }
        refuse_existing(parent.as_ref(), dest, &topic, makes)?;
        parent.make_dir(&name).map_err(fail)?;
        let dir = parent.open_dir(&name).map_err(fail)?;
        let lock = dir.create(LOCK).map_err(fail)?;
        if !lock.lock(Lock::Exclusive, Wait::No).map_err(fail)? {
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
        if durable {
            self.dir.sync().map_err(fail)?;
            self.parent.sync().map_err(fail)?;
        }
        let list: String = self.names.iter().map(|n| format!("{n}\n")).collect();
        write_state_file(self.dir.as_ref(), COMMIT, list.as_bytes()).map_err(fail)?;
        self.built = true;
        finish(&self.parent, &self.dir, &self.name, &self.names).map_err(fail)?;
        let path = |n: &String| self.parent.path().join(n);
        Ok(self.names.iter().map(path).collect())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if !self.built {
            // What cannot be removed is told by its name, and the next run tries again.
            let _ = remove_tree(self.parent.as_ref(), &self.name);
            let _ = self.parent.sync();
        }
    }
}

/// Puts every log in its place and removes the directory.
fn finish(
    parent: &Arc<dyn Dir>,
    dir: &Arc<dyn Dir>,
    name: &str,
    names: &[String],
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
    parent.sync()?;
    dir.sync()?;
    for file in [LOCK, COMMIT] {
        crate::log::state::unlink_if_there(dir.as_ref(), file)?;
    }
    parent.remove_dir(name)?;
    parent.sync()
}

/// What a killed process left: finished if all was built, else removed.
fn clear(parent: &Arc<dyn Dir>, name: &str) -> Result<()> {
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
        None => remove_tree(parent.as_ref(), name).map_err(fail),
        Some(list) => {
            let list = String::from_utf8_lossy(&list);
            let log = |l: &&str| parse_partition(l).is_some();
            let names: Vec<String> = list.lines().filter(log).map(str::to_string).collect();
            finish(parent, &dir, name, &names).map_err(fail)
        }
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

/// Refuses a DEST inside a partition.
fn refuse_inside(host: &dyn Host, dest: &Path) -> Result<()> {
    let above = topic::parent(dest);
    match topic::open_if_there(host, &above)? {
        Some(dir) if topic::is_partition(dir.as_ref())? => {
            let why = "this directory is a log itself; another cannot be made inside it";
            Err(Error::new(ErrorKind::CannotCreate, why).at_path(above))
        }
        _ => Ok(()),
    }
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
