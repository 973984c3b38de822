//! `logd help`: the list of commands, one command, or a topic.

use super::{COMMANDS, Context, Entry, Job, Outcome, args, definition, entry};
use crate::error::{Error, Result};
use clap::{ArgMatches, Command};
use std::fmt::Write;

/// The groups of the overview with the words above them.
const JOBS: &[(Job, &str)] = &[
    (Job::WriteAndRead, "write and read"),
    (Job::Look, "look"),
    (Job::LookAfter, "look after"),
    (Job::Move, "move"),
    (Job::Process, "process"),
    (Job::SetUp, "set up"),
];

pub fn command() -> Command {
    Command::new("help").arg(args::operand("topic", "COMMAND|TOPIC").help("What to explain"))
}

pub fn run(ctx: &mut Context, matches: &ArgMatches) -> Result<Outcome> {
    let Some(topic) = args::os(matches, "topic") else {
        return overview(ctx);
    };
    let topic = topic.to_string_lossy();
    match entry(&topic) {
        Some(entry) => {
            let text = definition(entry).render_help();
            show(ctx, text)
        }
        None => Err(Error::usage(format!("{topic}: no such command or topic")).hint("logd help")),
    }
}

/// Prints a help text, with colours where they are wanted.
pub(super) fn show(ctx: &mut Context, text: clap::builder::StyledStr) -> Result<Outcome> {
    let text = match ctx.color {
        true => text.ansi().to_string(),
        false => text.to_string(),
    };
    ctx.stdout.put(text.as_bytes())?;
    Ok(Outcome::Done)
}

/// Prints the list of commands.
pub(super) fn overview(ctx: &mut Context) -> Result<Outcome> {
    let mut out = String::from(
        "logd - commit logs as plain directories\n\n\
         Usage: logd COMMAND [OPTIONS] LOG...\n",
    );
    for (job, title) in JOBS {
        let mut entries = COMMANDS.iter().filter(|e| e.job == *job).peekable();
        if entries.peek().is_some() {
            let _ = writeln!(out, "\n{title}");
        }
        for Entry { name, about, .. } in entries {
            let _ = writeln!(out, "  {name:<12} {about}");
        }
    }
    out.push_str("\nlogd help COMMAND explains one of them.\n");
    ctx.stdout.put(out.as_bytes())?;
    Ok(Outcome::Done)
}
