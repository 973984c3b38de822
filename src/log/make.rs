//! Making a partition, from its directory to its first segment.
//!
//! In this order, so that a directory with a `.log` is finished, and one without is a maker's that was
//! killed: making it again goes on where that one stopped, as long as nothing else is in there.
//!
//! 1. the directory `TOPIC-N`; the parent synced
//! 2. `.logd/`, and in it a lock that keeps two makers apart; the partition synced
//! 3. `.logd/id`, `.logd/config.toml`, `leader-epoch-checkpoint` (epoch 0 from offset 0), each whole
//!    and synced
//! 4. the first segment's `.index` and `.timeindex`, then its `.log`; the partition synced

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::format::Offset;
use crate::format::checkpoint::{EpochStart, render_epochs};
use crate::format::names::{self, Kind, file_name};
use crate::log::files;
use crate::log::id::render_uuid;
use crate::log::lock::LockFile;
use crate::log::place::open_logd_dir;
use crate::log::state::write_state_file;
use crate::sys::{Dir, Host, Wait};

/// How long to wait for another maker of the same partition, or for an appender: they need
/// milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Makes the partition `name` in the directory `parent`, or finishes one whose maker was killed; with
/// the text of its settings. Durable on return.
///
/// # Errors
/// `CannotCreate` if something else is there, `Locked` if another maker does not end, else what the
/// system answers.
pub fn make_partition(host: &dyn Host, parent: &dyn Dir, name: &str, settings: &str) -> Result<()> {
    let path = parent.path().join(name);
    let cannot = |e| Error::io("cannot make the log", e).at_path(&path);
    make_dir_if_absent(parent, name).map_err(cannot)?;
    // Also after another maker's mkdir: it may not have come to its sync.
    parent.sync().map_err(cannot)?;
    let dir = parent.open_dir(name).map_err(cannot)?;
    refuse_foreign(&*dir)?;
    let own = open_logd_dir(&*dir)?;
    let lock = lock_own(host, &*own, files::MAINTENANCE_LOCK, &path)?;
    let made = match is_finished(&*dir)? {
        true => Ok(()), // by the maker we waited for
        false => fill(host, &*dir, &*own, settings).map_err(cannot),
    };
    lock.clear_note();
    made
}

fn make_dir_if_absent(dir: &dyn Dir, name: &str) -> io::Result<()> {
    match dir.make_dir(name) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// Takes one of the partition's locks, waiting for as long as its holder may reasonably need.
///
/// # Errors
/// `Locked` if the wait is over; else what the system answers.
pub fn lock_own(
    host: &dyn Host,
    own: &dyn Dir,
    name: &'static str,
    log: &Path,
) -> Result<LockFile> {
    let lock = LockFile::open(own, name)?;
    if !lock.acquire(own, Wait::Until(Instant::now() + LOCK_WAIT))? {
        let why = "was replaced by another process meanwhile";
        return Err(Error::new(ErrorKind::Locked, why).at_path(log));
    }
    lock.write_note(host, "logd init");
    Ok(lock)
}

/// Whether a partition directory is one: it holds a segment.
///
/// # Errors
/// The directory cannot be read.
pub fn is_finished(dir: &dyn Dir) -> Result<bool> {
    let all = dir.list();
    let all = all.map_err(|e| Error::io("cannot list", e).at_path(dir.path()))?;
    let segment = |n: &String| names::parse(n).is_some_and(|f| f.kind == Kind::Log);
    Ok(all.iter().any(segment))
}

/// Refuses a directory that holds anything a killed maker cannot have left.
fn refuse_foreign(dir: &dyn Dir) -> Result<()> {
    let all = dir.list();
    let all = all.map_err(|e| Error::io("cannot list", e).at_path(dir.path()))?;
    let first = [Kind::Log, Kind::OffsetIndex, Kind::TimeIndex].map(|k| file_name(Offset::ZERO, k));
    let ours = |n: &&String| {
        *n == files::LOGD_DIR
            || n.trim_end_matches(".tmp") == names::LEADER_EPOCH_CHECKPOINT
            || first.contains(n)
    };
    match all.iter().find(|n| !ours(n)) {
        Some(name) => {
            let why = format!("not empty: it holds {name}");
            Err(Error::new(ErrorKind::CannotCreate, why).at_path(dir.path()))
        }
        None => Ok(()),
    }
}

/// Steps 3 and 4, with the lock held.
fn fill(host: &dyn Host, dir: &dyn Dir, own: &dyn Dir, settings: &str) -> io::Result<()> {
    if own.stat(files::ID)?.is_none() {
        write_state_file(own, files::ID, new_id(host)?.as_bytes())?;
    }
    write_state_file(own, files::CONFIG, settings.as_bytes())?;
    let epochs = render_epochs(&[EpochStart {
        epoch: 0,
        start: Offset::ZERO,
    }]);
    write_state_file(dir, names::LEADER_EPOCH_CHECKPOINT, epochs.as_bytes())?;
    for kind in [Kind::OffsetIndex, Kind::TimeIndex, Kind::Log] {
        match dir.create(&file_name(Offset::ZERO, kind)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            made => drop(made?),
        }
    }
    dir.sync()
}

/// What `.logd/id` of a new log holds: a random (version 4) UUID.
///
/// # Errors
/// The system has no source of randomness.
pub fn new_id(host: &dyn Host) -> io::Result<String> {
    let mut id = host.random_id()?;
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    Ok(format!("{}\n", render_uuid(id)))
}
