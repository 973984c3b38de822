//! A log kept equal to another: locally, through a pipe, or on another host.
//!
//! Bytes of the protocol are `format::wire`'s; `man/logd-protocol.5` describes it for whoever writes a
//! peer. Here is what happens with them.
//!
//! | module | owns |
//! |---|---|
//! | [`source`], [`copy`] | the two halves of a channel: pure state machines, one pair a partition |
//! | [`compare`] | is the copy a prefix of the source |
//! | [`ends`] | what the machines need of a log |
//! | [`log_source`], [`log_copy`] | a partition directory as either |
//! | [`names`] | which log a peer means |
//! | [`outbox`], [`refusal`] | frames on their way out; errors that cross a connection |
//! | [`local`] | both halves in one process |
//! | [`drive`] | one connection and all its channels |
//! | [`stream`] | one way, to be carried by hand |
//! | [`carrier`] | bytes to and from a peer, whatever carries them |
//!
//! This file pairs what is to be copied with where it goes.

pub mod carrier;
pub mod compare;
pub mod copy;
pub mod drive;
#[cfg(test)]
mod drive_tests;
pub mod ends;
pub mod local;
pub mod log_copy;
pub mod log_source;
#[cfg(test)]
mod log_source_tests;
pub mod names;
pub mod outbox;
pub mod refusal;
pub mod source;
pub mod stream;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::topic::{self, Partition};
use super::words;
use crate::error::{Error, Result};
use crate::format::names::{parse_partition, partition_name};
use crate::format::{Limits, Offset};
use crate::ops::span;
use crate::sys::{FileId, Host};
use log_source::LogSource;

/// Directories above another are looked through up to this depth.
const DEPTH_MAX: usize = 1000;

/// The partition at `dest` that a partition is copied to: `dest` itself if it names a partition, else
/// the one of that topic with the number `number`. `alone` says that there is one partition only.
///
/// # Errors
/// Usage, for several partitions into one.
pub fn dest_of(host: &dyn Host, dest: &Path, number: i32, alone: bool) -> Result<PathBuf> {
    let name = dest.file_name().and_then(|n| n.to_str());
    let Some(name) = name else {
        return Err(Error::usage(format!(
            "{}: no name for a log",
            dest.display()
        )));
    };
    let there = match topic::open_if_there(host, dest)? {
        Some(dir) => topic::is_partition(dir.as_ref())?,
        None => false,
    };
    if !there && parse_partition(name).is_none() {
        return Ok(dest.with_file_name(partition_name(name, number)));
    }
    match alone {
        true => Ok(dest.to_path_buf()),
        false => {
            let why = format!("{}: one partition cannot hold a topic", dest.display());
            Err(Error::usage(why))
        }
    }
}

/// Refuses a destination that is the source, lies in it or around it.
///
/// # Errors
/// Usage.
pub fn refuse_same(host: &dyn Host, source: &Path, dest: &Path) -> Result<()> {
    let Some(src) = topic::open_if_there(host, source)? else {
        return Ok(());
    };
    let id = |dir: &dyn crate::sys::Dir| {
        dir.id()
            .map_err(|e| Error::io("cannot open", e).at_path(dir.path()))
    };
    let src_id = id(src.as_ref())?;
    // What is there of the way to DEST; the rest will be made below it.
    let mut path = dest.to_path_buf();
    let mut depth = 0;
    let there = loop {
        if let Some(dir) = topic::open_if_there(host, &path)? {
            break dir;
        }
        depth += 1;
        path = topic::parent(&path);
        if depth > DEPTH_MAX {
            return Ok(());
        }
    };
    let refuse = |what: &str| {
        let why = format!("{}: {what} {}", dest.display(), source.display());
        Err(Error::usage(why))
    };
    let dest_id = id(there.as_ref())?;
    if depth == 0 && dest_id == src_id {
        return refuse("the same log as");
    }
    if above(host, there.path())?.contains(&src_id) || (depth > 0 && dest_id == src_id) {
        return refuse("lies inside");
    }
    if depth == 0 && above(host, source)?.contains(&dest_id) {
        return refuse("holds");
    }
    Ok(())
}

/// The directories that one lies in, to the root.
fn above(host: &dyn Host, path: &Path) -> Result<Vec<FileId>> {
    let mut out: Vec<FileId> = Vec::new();
    let mut path = path.join("..");
    while out.len() < DEPTH_MAX {
        let Ok(dir) = host.open_dir(&path) else {
            break; // one that may not be looked into
        };
        let id = dir.id();
        let id = id.map_err(|e| Error::io("cannot open", e).at_path(&path))?;
        if out.last() == Some(&id) {
            break; // the root is above itself
        }
        out.push(id);
        path.push("..");
    }
    Ok(out)
}

/// A partition opened as a source, and a RANGE of it as offsets: where an empty copy begins, and where
/// to stop.
///
/// # Errors
/// The log cannot be read, or the range is not in it.
pub fn open_source(
    host: &Arc<dyn Host>,
    partition: &Partition,
    range: &words::Range,
    clamp: bool,
    peer: &str,
) -> Result<(LogSource, Option<Offset>, Option<Offset>)> {
    let limits = Limits::default();
    let log = LogSource::open(host, &partition.path, true, peer, limits)?;
    let mut view = log.view().clone();
    let offsets = span::resolve(&mut view, range, clamp, limits)?;
    let from = range.from.map(|_| offsets.start);
    let upto = range.to.map(|_| offsets.end);
    Ok((log, from, upto))
}
