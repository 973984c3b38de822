//! Makes a damaged log sound again, keeping every intact batch: salvage without guessing.
//!
//! First everything is looked at and a [`plan::Plan`] is made, without a lock and without a write. A
//! sound log has an empty one and is left alone. `--dry-run` tells the plan; else it is made again
//! under the maintenance lock and carried out ([`act`]), in an order in which a crash at any point
//! leaves a log that the next repair finishes:
//!
//! 1. What an interrupted replacement left is finished or undone ([`Maintenance::clear_leftovers`]). A
//!    committed replacement that is damaged is put in place as it is; what it replaces goes to
//!    lost+found instead of away.
//! 2. After a failed sync: what is still dirty is synced (if that fails too, nothing else is done), the
//!    cached pages are dropped, and the plan is made of what the device holds.
//! 3. What will be taken out is copied to lost+found, and listed there with range and reason.
//! 4. The end. A torn tail that nobody was promised is cut by ordinary recovery. Where more is wrong
//!    with the active segment, where the log ends below D, or after a failed sync, a *new* segment
//!    begins at the highest offset ever given; D is published past it first, so that the gap is lawful.
//!    The old one is sealed then.
//! 5. Each damaged sealed segment is replaced by one with its intact batches ([`swap`]). Where its end
//!    was lost, an empty batch carries the last offset. Batches that lie in a file of a lower or
//!    higher name than theirs (files swapped or misnamed) are brought home. A segment of which
//!    nothing counts, and whose offsets another one has, moves to lost+found whole.
//! 6. Indexes, producer snapshots, leader epochs that lie are made anew from the log.
//! 7. The mark of a failed sync goes last.
//!
//! An intact batch that cannot be kept in its place (its offsets are another's) is taken out like
//! damage; the earlier one in the log wins, as it does for readers.

pub mod act;
pub mod derived;
pub mod plan;
pub mod scan;
pub mod tell;

use crate::error::{Error, ErrorKind, Result};
use crate::format::{Limits, Offset};
use crate::log::broker::Parent;
use crate::log::listing::LogDir;
use crate::log::maintenance::{Maintenance, MaintenanceOptions};
use crate::ops::topic::Partition;
use crate::sys::Host;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How to repair.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Tell what would be done; take no lock.
    pub dry_run: bool,
    /// How long to wait for the maintenance lock.
    pub wait: Duration,
    /// Write on a network file system all the same.
    pub allow_network_fs: bool,
    /// Bounds on what is read.
    pub limits: Limits,
}

/// One change, done or to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The file it is about.
    pub file: String,
    /// What is done to it.
    pub what: String,
}

impl Step {
    fn new(file: impl Into<String>, what: impl Into<String>) -> Step {
        let (file, what) = (file.into(), what.into());
        Step { file, what }
    }
}

/// Offsets whose records are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Which, at most; up to [`Offset::MAX`] where the end is not known.
    pub offsets: Range<Offset>,
    /// The file that had them.
    pub file: String,
    /// Why they are lost.
    pub reason: String,
}

/// What a repair came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was done, or would be, in order; empty for a sound log.
    pub steps: Vec<Step>,
    /// What could not be kept.
    pub lost: Vec<Loss>,
    /// What is wrong and left as it is: only a person can tell what is right.
    pub left: Vec<(PathBuf, String)>,
}

/// Repairs one partition.
///
/// # Errors
/// `Locked` while a broker runs there or another one maintains it; `Data` for what cannot be
/// repaired; `Io` if the device still fails; else what the system answers.
pub fn repair(host: &Arc<dyn Host>, partition: &Partition, options: &Options) -> Result<Report> {
    let path = &partition.path;
    let log = LogDir::open(host.as_ref(), path)?;
    // A broker keeps in memory what is on disk, and its log may look damaged while it writes.
    let broker = match options.dry_run {
        true => None,
        false => Some(Parent::join(host.as_ref(), path)?),
    };
    let mut plan = plan::make(host.as_ref(), &log, options.limits)?;
    if options.dry_run || plan.is_empty() {
        return Ok(plan.report());
    }
    let take = MaintenanceOptions {
        command: "logd repair".to_string(),
        wait: options.wait,
        allow_network_fs: options.allow_network_fs,
    };
    let mut maintenance = Maintenance::take(host, path, &take)?;
    drop(broker);
    plan = plan::make(host.as_ref(), maintenance.log(), options.limits)?;
    let report = plan.report();
    act::carry_out(&mut maintenance, &plan, options.limits).map_err(|e| match e.kind() {
        // Somebody is at work on the very files after all.
        ErrorKind::NotFound => {
            Error::new(ErrorKind::Locked, "the log changed under the repair").at_path(path)
        }
        _ => e,
    })?;
    Ok(report)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod crash_tests;
