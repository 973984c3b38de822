//! `logd promote`: let a copy take over.

use super::{Context, Outcome, args, maintain};
use crate::error::{ErrorKind, Result};
use crate::log::promote::{PromoteOptions, Promoted, promote};
use crate::ops::topic::Partition;
use clap::{ArgMatches, Command};
use serde_json::json;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  logd promote logs/orders && systemctl start writers
  logd replicate --truncate-divergent dr1:logs/orders logs/orders    # on the old primary, later";

const LONG: &str = "\
Begins a new leader epoch on a copy, makes everything in it durable and removes the mark that kept it
from taking appends. What still receives into it must have ended (75 otherwise; --wait).

From then on the log that it was a copy of is refused: it is fenced, takes no appends either, and can
come back only as a copy. What it has that this log has not is then cut, and kept in its
.logd/lost+found.

On a terminal, or with --json, it tells each partition with its new epoch and the first offset of it.
Killed at any point it is run again. On a log that is no copy it ends with 1; of a topic the partitions that are none are passed over.";

/// The definition.
pub fn command() -> Command {
    Command::new("promote")
        .long_about(LONG)
        .args(args::waiting())
        .arg(args::allow_network_fs())
        .arg(args::partition())
        .arg(args::json())
        .arg(args::logs())
        .after_help(EXAMPLES)
}

/// Promotes each log.
pub fn run(ctx: &mut Context, matches: &ArgMatches) -> Result<Outcome> {
    let options = PromoteOptions {
        wait: args::duration(matches, "wait", "s")?.unwrap_or(Duration::ZERO),
        allow_network_fs: args::flag(matches, "allow-network-fs"),
        command: "logd promote".to_string(),
    };
    let select = args::partitions(matches)?;
    let mut any_is_none = false;
    for word in args::os_all(matches, "log") {
        let partitions = match ctx.resolve(word, select.as_ref()) {
            Ok(partitions) => partitions,
            Err(e) => {
                ctx.fail(&e);
                continue;
            }
        };
        let mut others = Vec::new();
        let count = partitions.len();
        for p in &partitions {
            match promote(&ctx.host.clone(), &p.path, &options) {
                Ok(done) => tell(ctx, p, &done)?,
                Err(e) if e.kind() == ErrorKind::No => others.push(p),
                Err(e) => ctx.fail(&e.at_path(&p.path)),
            }
        }
        if others.len() == count {
            any_is_none = true;
        }
        for p in others {
            ctx.message
                .warn(format!("{}: not a copy", p.path.display()));
        }
    }
    Ok(if any_is_none {
        Outcome::No
    } else {
        Outcome::Done
    })
}

fn tell(ctx: &mut Context, p: &Partition, done: &Promoted) -> Result<()> {
    maintain::tell_lost(ctx, &p.path, &done.lost);
    let (name, epoch, offset) = (p.name(), done.epoch, done.offset);
    if !ctx.json {
        ctx.message
            .summary(|| format!("{name}: epoch {epoch} from offset {offset}"));
        return Ok(());
    }
    let line = json!({"log": name, "epoch": epoch, "offset": offset.0});
    ctx.stdout.put(format!("{line}\n").as_bytes())?;
    ctx.stdout.end_record()
}
