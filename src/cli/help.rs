//! `logd help`: the list of commands, one command, or a topic.

use super::{COMMANDS, Context, Entry, Job, Outcome, args, definition, entry, exit, template};
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

/// A page about something that all commands share.
pub(super) struct Topic {
    /// What it is asked for by.
    pub name: &'static str,
    /// What it tells.
    pub about: &'static str,
    text: &'static str,
}

/// Every topic. Exit statuses are rendered from their table.
pub(super) const TOPICS: [Topic; 5] = [
    Topic {
        name: "positions",
        about: "how to name logs, places in them, times and sizes",
        text: include_str!("topics/positions.txt"),
    },
    Topic {
        name: "formats",
        about: "how records look, -F",
        text: include_str!("topics/formats.txt"),
    },
    Topic {
        name: "durability",
        about: "what is safe when, --sync",
        text: include_str!("topics/durability.txt"),
    },
    Topic {
        name: "cron",
        about: "running from cron or a timer",
        text: include_str!("topics/cron.txt"),
    },
    Topic {
        name: "exit-codes",
        about: "what an exit status means",
        text: "",
    },
];

impl Topic {
    /// Its text, the heading first.
    pub fn text(&self) -> String {
        match self.name {
            "exit-codes" => exit_codes(),
            _ => self.text.to_string(),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  logd help init
  logd help positions";

/// The definition.
pub fn command() -> Command {
    Command::new("help")
        .arg(args::operand("topic", "COMMAND|TOPIC").help("What to explain"))
        .after_help(EXAMPLES)
}

/// Prints an explanation.
pub fn run(ctx: &mut Context, matches: &ArgMatches) -> Result<Outcome> {
    let Some(topic) = args::os(matches, "topic") else {
        return overview(ctx);
    };
    let topic = topic.to_string_lossy();
    if let Some(entry) = entry(&topic) {
        let mut command = definition(entry);
        if let Some(long) = command.get_long_about().cloned() {
            // In the place that the template has for it, with the options in short form.
            let template = template(entry, "{about}\n\n");
            command = command.about(long).help_template(template);
        }
        let text = command.render_help();
        return show(ctx, text);
    }
    match TOPICS.iter().find(|t| t.name == topic) {
        Some(topic) => {
            ctx.stdout.put(topic.text().as_bytes())?;
            Ok(Outcome::Done)
        }
        None => Err(Error::usage(format!("{topic}: no such command or topic")).hint("logd help")),
    }
}

fn exit_codes() -> String {
    let mut out = String::from("EXIT STATUS\n\n");
    for (exit, meaning) in exit::TABLE {
        let _ = writeln!(out, "  {:>3}  {meaning}", exit.code());
    }
    out.push_str(
        "  128+N  ended by signal N (130 ^C, 143 TERM)\n\n\
         75 is the only status worth retrying. Work that finished by skipping or cutting data never\n\
         exits 0. A reader of stdout that goes away (head) is a normal end: 0, without a word.\n",
    );
    out
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
    out.push_str("\ntopics (logd help TOPIC)\n");
    for Topic { name, about, .. } in &TOPICS {
        let _ = writeln!(out, "  {name:<12} {about}");
    }
    out.push_str("\nlogd help COMMAND explains a command, logd COMMAND -h in short.\n");
    ctx.stdout.put(out.as_bytes())?;
    Ok(Outcome::Done)
}
