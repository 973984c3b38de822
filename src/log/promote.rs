//! A copy takes over: a new leader epoch, and the mark goes. And the other side of it: a source that
//! was refused by its own copy takes no more appends.
//!
//! With the receiver's lock, so that nothing more arrives:
//!
//! 1. everything in the copy is made durable
//! 2. under the append lock: `leader-epoch-checkpoint` gets the epoch after the last one, from the log
//!    end on, durably; then the end hint says so too
//! 3. the mark `replica` is removed, durably, and the lock is freed
//!
//! Killed before 3 the log is still a copy, and promotion is run again: the epoch that begins at the end
//! is replaced by a higher one. No power cut takes the epoch away, as the log does not end below its
//! start. From then on the old source meets a higher epoch than its own, and is refused.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::format::Offset;
use crate::format::checkpoint::EpochStart;
use crate::log::copy::{CopyOptions, take_receiver_lock};
use crate::log::listing::LogDir;
use crate::log::lock::LockFile;
use crate::log::lost::Lost;
use crate::log::place::open_logd_dir;
use crate::log::replica::{self, FencedBy};
use crate::log::writer::{Writer, WriterOptions};
use crate::log::{epoch, files};
use crate::segment::active::RollLimits;
use crate::sys::{Host, Wait};

/// How long a fence waits for appenders, who hold their lock for milliseconds.
const APPEND_WAIT: Duration = Duration::from_secs(10);

/// How a copy is to be taken.
#[derive(Clone, Debug)]
pub struct PromoteOptions {
    /// How long to wait for a receiver to end.
    pub wait: Duration,
    /// Write on a network file system all the same.
    pub allow_network_fs: bool,
    /// This command, for who finds a lock taken.
    pub command: String,
}

/// What a promotion did.
#[derive(Debug)]
pub struct Promoted {
    /// The leader epoch that has begun.
    pub epoch: i32,
    /// Its first offset.
    pub offset: Offset,
    /// What recovery had to take out first.
    pub lost: Vec<Lost>,
}

/// Whether the partition at `path` is a copy.
///
/// # Errors
/// `NotFound`; else what the system answers.
pub fn is_copy(host: &dyn Host, path: &Path) -> Result<bool> {
    let log = LogDir::open(host, path)?;
    match log.dir().open_dir(files::LOGD_DIR) {
        Ok(own) => replica::is_marked(own.as_ref(), files::REPLICA),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("cannot open .logd", e).at_path(path)),
    }
}

/// Makes the copy at `path` a log of its own. Durable on return.
///
/// # Errors
/// `No` if it is no copy, `Locked` while something is still received, `Data` for a damaged log; else
/// what the system answers: it is then still a copy, or a log of its own already.
pub fn promote(host: &Arc<dyn Host>, path: &Path, options: &PromoteOptions) -> Result<Promoted> {
    let not_a_copy = || Error::new(ErrorKind::No, "not a copy").at_path(path);
    if !is_copy(host.as_ref(), path)? {
        return Err(not_a_copy());
    }
    let mut writer = Writer::open_to_receive(
        host,
        path,
        WriterOptions {
            wait: None,
            allow_network_fs: options.allow_network_fs,
            zero_fill: false,
            roll: RollLimits {
                segment_bytes: u64::MAX, // nothing is appended
                segment_age_ms: None,
            },
            command: options.command.clone(),
        },
    )?;
    let copy = CopyOptions {
        create: None,
        wait: options.wait,
        allow_network_fs: options.allow_network_fs,
        zero_fill: false,
        limits: crate::format::Limits::default(),
        command: options.command.clone(),
    };
    let _receiver = take_receiver_lock(host.as_ref(), &writer, &copy)?;
    let hold = writer.hold()?;
    let end = hold.next_offset();
    hold.release()?;
    writer.syncer().sync_to(end)?;
    let own = Arc::clone(writer.logd_dir());
    let dir = Arc::clone(writer.log().dir());
    let mut hold = writer.hold()?;
    if !replica::is_marked(own.as_ref(), files::REPLICA)? {
        return Err(not_a_copy()); // another one was quicker
    }
    let offset = hold.next_offset();
    let mut epochs = epoch::read(dir.as_ref())?;
    let next = epochs.last().map_or(0, |e| e.epoch).checked_add(1);
    let epoch = next.ok_or_else(|| Error::data("there are no more leader epochs").at_path(path))?;
    epochs.retain(|e| e.start < offset);
    let start = offset;
    epochs.push(EpochStart { epoch, start });
    epoch::write(dir.as_ref(), &epochs)?;
    hold.begin_epoch(epoch)?;
    replica::remove(own.as_ref(), files::REPLICA)?;
    hold.release()?;
    Ok(Promoted {
        epoch,
        offset,
        lost: writer.take_lost(),
    })
}

/// Marks the log at `path` as fenced, durably: a copy of it was promoted. On return nobody appends any
/// more.
///
/// # Errors
/// `Locked` if appenders keep their lock; else what the system answers.
pub fn fence(host: &dyn Host, path: &Path, by: &FencedBy) -> Result<()> {
    let log = LogDir::open(host, path)?;
    let own = open_logd_dir(log.dir().as_ref())?;
    // Appenders look for the mark under this lock.
    let lock = LockFile::open(own.as_ref(), files::APPEND_LOCK)?;
    if !lock.acquire(
        own.as_ref(),
        Wait::FirmlyUntil(Instant::now() + APPEND_WAIT),
    )? {
        let why = "the log was replaced by another directory";
        return Err(Error::new(ErrorKind::NotFound, why).at_path(path));
    }
    let written = replica::write_fence(own.as_ref(), by);
    lock.release()
        .map_err(|e| Error::io("cannot free the append lock", e).at_path(path))?;
    written
}

#[cfg(test)]
#[path = "promote_tests.rs"]
mod tests;
