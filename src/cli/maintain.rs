//! What the commands that look after a log share: their options, and what is said of a recovery.

use super::progress::Progress;
use super::{Context, args};
use crate::error::Result;
use crate::log::lost::Lost;
use crate::log::maintenance::MaintenanceOptions;
use crate::ops::throttle::Throttle;
use crate::ops::topic::Partition;
use clap::{ArgMatches, Command};
use std::path::Path;
use std::time::Duration;

/// Adds `--dry-run --wait --skip-if-locked --allow-network-fs -p --json` and the operands.
pub fn arguments(command: Command) -> Command {
    command
        .arg(args::dry_run())
        .args(args::waiting())
        .arg(args::allow_network_fs())
        .arg(args::partition())
        .arg(args::json())
        .arg(args::logs())
}

/// How the partitions are to be taken. Without `--wait` not at all.
///
/// # Errors
/// Usage.
pub fn options(matches: &ArgMatches, command: &str) -> Result<MaintenanceOptions> {
    Ok(MaintenanceOptions {
        command: format!("logd {command}"),
        wait: args::duration(matches, "wait", "s")?.unwrap_or(Duration::ZERO),
        allow_network_fs: args::flag(matches, "allow-network-fs"),
    })
}

/// The partitions of all LOG operands; what cannot be found is told, and the others get their turn.
///
/// # Errors
/// Usage.
pub fn partitions(ctx: &mut Context, matches: &ArgMatches) -> Result<Vec<Partition>> {
    let select = args::partitions(matches)?;
    let mut partitions = Vec::new();
    for log in args::os_all(matches, "log") {
        match ctx.resolve(log, select.as_ref()) {
            Ok(found) => partitions.extend(found),
            Err(e) => ctx.fail(&e),
        }
    }
    Ok(partitions)
}

/// How often the work is paced and its progress told.
const PACE_BYTES: u64 = 1 << 20;

/// Holds a job to its `--rate` and tells how far it is.
pub struct Pacer {
    progress: Progress,
    throttle: Throttle,
    moved: u64,
}

impl Pacer {
    /// For a job of unknown size.
    pub fn new(ctx: &Context, rate: Option<u64>) -> Pacer {
        Pacer {
            progress: Progress::new(ctx, None),
            throttle: Throttle::new(rate),
            moved: 0,
        }
    }

    /// So many bytes were read or written.
    pub fn moved(&mut self, bytes: u64) {
        self.moved += bytes;
        if self.moved >= PACE_BYTES {
            self.progress.advance(self.moved, 0);
            self.throttle.spend(std::mem::take(&mut self.moved));
        }
    }
}

/// Says what recovery had to take out before the work could begin.
pub fn tell_lost(ctx: &Context, path: &Path, lost: &[Lost]) {
    for l in lost {
        let (path, bytes, offset) = (path.display(), l.bytes, l.offset);
        let reason = &l.reason;
        ctx.message.warn(format!(
            "{path}: offset {offset}: {bytes} bytes were set aside in .logd/lost+found: {reason}"
        ));
    }
}
