//! `logd init`: make a log, or change the settings of one.

use super::{Context, Outcome, args};
use crate::error::{Error, Result};
use crate::ops::create::{self, NewLog};
use crate::ops::settings::{self, KEYS, Words};
use crate::ops::topic::Partition;
use clap::{Arg, ArgMatches, Command};

const EXAMPLES: &str = "\
Examples:
  logd init logs/orders
  logd init --partitions 8 --cleanup compact logs/users
  logd init --set --max-age 30d logs/orders";

const LONG: &str = "\
Makes the log LOG: a directory LOG-N for each partition, or, for a name that ends in -N, that one
partition. Directories above it are made too. All of it is on stable storage when the command ends;
one that was killed is finished by running it again. A log that exists is left alone (73).

Settings given here are written into .logd/config.toml of each partition. What is not given is
looked up when it is needed: in the user's settings file, then among the defaults.

With --set, changes settings of a log that exists. --partitions then adds partitions: records with
a key may go elsewhere from then on.";

/// The definition.
pub fn command() -> Command {
    Command::new("init")
        .long_about(LONG)
        .arg(args::switch(
            "set",
            "Change the settings of a log that exists",
        ))
        .args(KEYS.iter().map(setting))
        .arg(args::allow_network_fs())
        .arg(args::json())
        .arg(args::log())
        .after_help(EXAMPLES)
}

/// The option of a setting.
fn setting(key: &settings::Key) -> Arg {
    let help = format!("{} [default: {}]", key.about, key.default);
    let arg = args::option(key.name, key.value, "").help(help);
    match key.name {
        "compress" => arg.short('z'),
        _ => arg,
    }
}

/// The settings given as options.
///
/// # Errors
/// Usage, naming the option.
pub(super) fn given(matches: &ArgMatches) -> Result<Words> {
    let mut words = Words::default();
    for key in KEYS {
        args::word(matches, key.name, |w| words.set(key.name, w))?;
    }
    Ok(words)
}

/// Makes the log, or changes its settings.
pub fn run(ctx: &mut Context, matches: &ArgMatches) -> Result<Outcome> {
    let words = given(matches)?;
    let allow_network_fs = args::flag(matches, "allow-network-fs");
    let Some(log) = args::os(matches, "log") else {
        return Err(Error::usage("LOG is missing"));
    };
    let (partitions, done) = if args::flag(matches, "set") {
        if words.is_empty() {
            let error = Error::usage("--set: no setting is given");
            return Err(error.hint("logd init --set --max-age 30d LOG"));
        }
        let there = ctx.resolve(log, None)?;
        (create::change(&*ctx.host, &there, &words)?, "changed")
    } else {
        let user = ctx.user_words()?;
        let new = NewLog {
            path: &ctx.path(log)?,
            words: &words,
            partitions: user
                .get("partitions")
                .and_then(|n| n.parse().ok())
                .unwrap_or(1),
            allow_network_fs,
        };
        (create::create(&*ctx.host, &new)?, "made")
    };
    if ctx.json {
        report(ctx, &partitions)?;
    } else {
        let names: Vec<String> = partitions.iter().map(Partition::name).collect();
        ctx.message.summary(|| match names.as_slice() {
            [first, .., last] => format!("{done} {first} to {last}"),
            one => format!("{done} {}", one.concat()),
        });
    }
    Ok(Outcome::Done)
}

/// One object per partition.
fn report(ctx: &mut Context, partitions: &[Partition]) -> Result<()> {
    for p in partitions {
        let line = serde_json::json!({
            "topic": p.topic,
            "partition": p.number,
            "path": p.path.to_string_lossy(),
        });
        ctx.stdout.put(format!("{line}\n").as_bytes())?;
    }
    Ok(())
}
