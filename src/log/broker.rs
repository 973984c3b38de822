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
    /// Held until this is dropped.
    _lock: Option<Box<dyn File>>,
}

impl Parent {
    /// Opens the directory above `partition` and takes the shared lock, if there is a `.lock`.
    ///
    /// # Errors
    /// `Locked` if a broker runs there; else what the system answers.
    pub fn join(host: &dyn Host, partition: &Path) -> Result<Parent> {
        let path = parent_path(partition);
        let dir = match host.open_dir(&path) {
            Ok(dir) => dir,
            // Without permission there we could not read its `.lock` either; neither could a broker
            // of this user have made one.
            Err(_) => {
                return Ok(Parent {
                    dir: None,
                    _lock: None,
                });
            }
        };
        let lock = match dir.open(names::LOCK, Access::Read) {
            Ok(file) => Some(file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io("cannot open the broker's .lock", e).at_path(path)),
        };
        if let Some(file) = &lock {
            let held = file
                .lock_ofd_shared()
                .map_err(|e| Error::io("cannot lock the broker's .lock", e).at_path(&path))?;
            if !held {
                let why = "a Kafka broker is running on this directory";
                return Err(Error::new(ErrorKind::Locked, why)
                    .at_path(path)
                    .hint("stop the broker, or write through it"));
            }
        }
        Ok(Parent {
            dir: Some(dir),
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
    pub fn recovery_point(&self, partition: &Path) -> Option<Offset> {
        let dir = self.dir.as_ref()?;
        checkpointed(dir.as_ref(), names::RECOVERY_POINT_CHECKPOINT, partition)
    }
}

fn at(dir: &dyn Dir, e: io::Error) -> Error {
    Error::io(format!("cannot remove {}", names::CLEAN_SHUTDOWN), e).at_path(dir.path())
}

/// The path of the directory above a partition; `..` of a path that has no name of its own.
pub fn parent_path(partition: &Path) -> std::path::PathBuf {
    match (partition.file_name(), partition.parent()) {
        (Some(_), Some(parent)) if parent.as_os_str().is_empty() => Path::new(".").to_path_buf(),
        (Some(_), Some(parent)) => parent.to_path_buf(),
        _ => partition.join(".."),
    }
}

/// The entry of `partition` in a checkpoint of its parent. A file that is missing or unreadable as a
/// whole says nothing: these are hints of another program.
pub fn checkpointed(parent: &dyn Dir, file: &str, partition: &Path) -> Option<Offset> {
    let name = partition.file_name()?.to_str()?;
    let (topic, number) = names::parse_partition(name)?;
    let bytes = read_state_file(parent, file, CHECKPOINT_BYTES_MAX).ok()??;
    let entries = checkpoint::parse_offsets(&bytes).ok()?;
    let entry = entries
        .iter()
        .find(|e| e.topic == topic && e.partition == number)?;
    Some(entry.offset)
}
