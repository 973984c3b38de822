//! Living beside a Kafka broker that owns the directory above the partition.
//!
//! A broker holds a record lock on `.lock` in its log directory for life and keeps in memory what is
//! in its partitions. Every writing command therefore holds a shared one while it runs: a running
//! broker blocks us, and we block its start. And since a broker trusts a directory that it closed
//! cleanly, `.kafka_cleanshutdown` goes before our first write, so that it checks what we wrote.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Offset, checkpoint, names};
use crate::log::state::read_state_file;
use crate::sys::{Access, Dir, File, Host};

/// Largest checkpoint file that is read: 10 000 partitions with the longest names and numbers.
const CHECKPOINT_BYTES_MAX: usize = 4 << 20;

/// The directory above a partition, with the broker's lock held where there is one.
pub struct Parent {
    dir: Option<Arc<dyn Dir>>,
    /// The partition's name in it.
    name: Option<String>,
    /// Held until this is dropped.
    _lock: Option<Box<dyn File>>,
}

impl Parent {
    /// Opens the directory above `partition`, which exists, and takes the shared lock, if there is a
    /// `.lock`. Where `partition` is a symbolic link, it is the directory above the real one.
    ///
    /// # Errors
    /// `Locked` if a broker runs there; else what the system answers.
    pub fn join(host: &dyn Host, partition: &Path) -> Result<Parent> {
        // The name only finds hints of a broker, so doing without it is no error.
        let name = host.real_name(partition).ok().flatten();
        let parent = Parent::enter(host, &partition.join(".."))?;
        Ok(Parent { name, ..parent })
    }

    /// Takes the shared lock of the directory at `path`, for partitions that are yet to be made in it.
    ///
    /// # Errors
    /// As [`Parent::join`].
    pub fn enter(host: &dyn Host, path: &Path) -> Result<Parent> {
        let none = Parent {
            dir: None,
            name: None,
            _lock: None,
        };
        let opened = match host.open_dir(path) {
            // To look for the lock, permission to search is enough.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => host.open_dir_to_search(path),
            opened => opened,
        };
        let out_of_sight = |e: &io::Error| {
            matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
            )
        };
        let dir = match opened {
            Ok(dir) => dir,
            Err(e) if out_of_sight(&e) => return Ok(none),
            Err(e) => return Err(Error::io("cannot look for a broker's .lock", e).at_path(path)),
        };
        match dir.stat(names::LOCK) {
            Ok(_) => {}
            Err(e) if out_of_sight(&e) => return Ok(none),
            Err(e) => return Err(Error::io("cannot look for a broker's .lock", e).at_path(path)),
        }
        let lock = match dir.open(names::LOCK, Access::Read) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io("cannot open the broker's .lock", e).at_path(path)),
        };
        if let Some(file) = &lock {
            let held = file
                .lock_ofd_shared()
                .map_err(|e| Error::io("cannot lock the broker's .lock", e).at_path(path))?;
            if !held {
                let why = "a Kafka broker is running on this directory";
                return Err(Error::new(ErrorKind::Locked, why)
                    .at_path(path)
                    .hint("stop the broker, or write through it"));
            }
        }
        Ok(Parent {
            dir: Some(dir),
            name: None,
            _lock: lock,
        })
    }

    /// Removes the broker's mark of a clean shutdown, durably, before the first write.
    ///
    /// # Errors
    /// What the system answers.
    pub fn spoil_clean_shutdown(&self) -> Result<()> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let there = dir
            .stat(names::CLEAN_SHUTDOWN)
            .map_err(|e| at(dir.as_ref(), e))?;
        if there.is_none() {
            return Ok(());
        }
        super::state::unlink_if_there(dir.as_ref(), names::CLEAN_SHUTDOWN)
            .and_then(|()| dir.sync())
            .map_err(|e| at(dir.as_ref(), e))
    }

    /// The broker's recovery point of this partition, if there is one: everything below is on disk.
    pub fn recovery_point(&self) -> Option<Offset> {
        let (dir, name) = (self.dir.as_ref()?, self.name.as_ref()?);
        checkpointed(dir.as_ref(), names::RECOVERY_POINT_CHECKPOINT, name)
    }

    /// As [`flushed_since`].
    pub fn flushed_since(&self, wall_ms: Option<i64>) -> Option<Offset> {
        let (dir, name) = (self.dir.as_ref()?, self.name.as_ref()?);
        flushed_since(dir.as_ref(), name, wall_ms)
    }
}

/// The broker's recovery point of the partition `name` if the broker ran after `wall_ms`, the time of
/// our last append: it writes the checkpoint every minute and when it ends. Then everything below is
/// on disk as it is now, gaps of its cleaner included. An older one may speak of files that are gone.
pub fn flushed_since(parent: &dyn Dir, name: &str, wall_ms: Option<i64>) -> Option<Offset> {
    let file = names::RECOVERY_POINT_CHECKPOINT;
    let written = parent.stat(file).ok()??.mtime_ms;
    let is_newer = wall_ms.is_none_or(|ours| written > ours);
    is_newer.then(|| checkpointed(parent, file, name)).flatten()
}

fn at(dir: &dyn Dir, e: io::Error) -> Error {
    Error::io(format!("cannot remove {}", names::CLEAN_SHUTDOWN), e).at_path(dir.path())
}

/// The entry of the partition `name` in a checkpoint of its parent. A file that is missing or unreadable as a
/// whole says nothing: these are hints of another program.
pub fn checkpointed(parent: &dyn Dir, file: &str, name: &str) -> Option<Offset> {
    let (topic, number) = names::parse_partition(name)?;
    let bytes = read_state_file(parent, file, CHECKPOINT_BYTES_MAX).ok()??;
    let entries = checkpoint::parse_offsets(&bytes).ok()?;
    let entry = entries
        .iter()
        .find(|e| e.topic == topic && e.partition == number)?;
    Some(entry.offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::RealHost;
    use nix::fcntl::{FcntlArg, fcntl};
    use nix::libc;
    use std::os::unix::fs::symlink;

    /// A broker's directory with the partition `x-0`, locked as by a broker while the file lives.
    fn brokers_directory() -> (tempfile::TempDir, std::fs::File) {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("data");
        std::fs::create_dir_all(data.join("x-0")).unwrap();
        let points = "0\n1\nx 0 7\n";
        std::fs::write(data.join(names::RECOVERY_POINT_CHECKPOINT), points).unwrap();
        let lock = std::fs::File::create(data.join(names::LOCK)).unwrap();
        let whole = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: 0,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(&lock, FcntlArg::F_OFD_SETLK(&whole)).unwrap();
        (temp, lock)
    }

    fn refused(path: &Path) -> ErrorKind {
        Parent::join(&RealHost, path).map(drop).unwrap_err().kind()
    }

    #[test]
    fn a_symbolic_link_to_a_partition_leads_to_its_brokers_lock_and_checkpoints() {
        let (temp, lock) = brokers_directory();
        let link = temp.path().join("y-3");
        symlink(temp.path().join("data/x-0"), &link).unwrap();
        assert_eq!(refused(&temp.path().join("data/x-0")), ErrorKind::Locked);
        assert_eq!(refused(&link), ErrorKind::Locked);
        drop(lock);
        let parent = Parent::join(&RealHost, &link).unwrap();
        assert_eq!(parent.recovery_point(), Some(Offset(7)));
    }

    #[test]
    fn a_directory_that_may_only_be_searched_shows_its_lock() {
        let (temp, _lock) = brokers_directory();
        let dir = RealHost.open_dir_to_search(&temp.path().join("data"));
        let file = dir.unwrap().open(names::LOCK, Access::Read).unwrap();
        assert!(!file.lock_ofd_shared().unwrap());
    }

    #[test]
    fn a_parent_that_cannot_be_opened_is_an_error_and_not_a_missing_lock() {
        let temp = tempfile::tempdir().unwrap();
        symlink("loop", temp.path().join("loop")).unwrap();
        let at = temp.path().join("loop");
        assert!(Parent::enter(&RealHost, &at).is_err());
        assert!(Parent::enter(&RealHost, &temp.path().join("none")).is_ok());
    }
}
