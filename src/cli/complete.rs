//! Completion of command lines: what could stand where the cursor is.
//!
//! The shells' scripts (`completions/`, printed by `logd completions SHELL`) are a few lines each
//! that ask `logd __complete WORD...`, the words after `logd` up to the cursor, and get one
//! candidate a line, with a tab and a description behind it where there is one. So every shell knows
//! the same, none goes stale with an update, and log names, groups and formats are completed from
//! what is there. A candidate that ends in `/` is not the end of the word. No candidate means: what
//! the shell would complete by itself.

use super::{COMMANDS, Context, Entry, Outcome, args, definition, entry, help};
use crate::error::{Error, Result};
use crate::format::codec::Codec;
use crate::format::names::parse_partition;
use crate::log::{files, groups as log_groups};
use crate::ops::index;
use crate::ops::topic::{find, open_if_there, parent};
use clap::{Arg, ArgMatches, Command};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

/// The shells there is a script for, each with it.
pub(super) const SCRIPTS: [(&str, &str, &str); 5] = [
    (
        "bash",
        "logd.bash",
        include_str!("../../completions/logd.bash"),
    ),
    ("zsh", "_logd", include_str!("../../completions/_logd")),
    (
        "fish",
        "logd.fish",
        include_str!("../../completions/logd.fish"),
    ),
    (
        "elvish",
        "logd.elv",
        include_str!("../../completions/logd.elv"),
    ),
    (
        "powershell",
        "_logd.ps1",
        include_str!("../../completions/_logd.ps1"),
    ),
];

/// Names that `-F` takes.
const FORMATS: [&str; 9] = [
    "lines", "nul", "json", "csv", "tsv", "hex", "base64", "frames", "batch",
];

/// Most entries of a directory that are looked at.
const ENTRIES_MAX: usize = 10_000;

const EXAMPLES: &str = "\
Examples:
  logd completions bash > ~/.local/share/bash-completion/completions/logd
  logd completions fish > ~/.config/fish/completions/logd.fish";

/// The definition of `completions`.
pub fn command() -> Command {
    let shells = SCRIPTS.map(|(shell, _, _)| shell);
    Command::new("completions")
        .arg(
            Arg::new("shell")
                .value_name("SHELL")
                .required(true)
                .value_parser(shells)
                .hide_possible_values(true)
                .help("bash, zsh, fish, elvish or powershell"),
        )
        .after_help(EXAMPLES)
}

/// Prints the script of a shell.
pub fn run(ctx: &mut Context, matches: &ArgMatches) -> Result<Outcome> {
    let shell = args::text(matches, "shell").unwrap_or_default();
    let script = SCRIPTS.iter().find(|(name, _, _)| *name == shell);
    let (_, _, text) = script.ok_or_else(|| Error::usage(format!("{shell}: no such shell")))?;
    ctx.stdout.put(text.as_bytes())?;
    Ok(Outcome::Done)
}

/// A candidate and what it is, which may be empty.
type Candidate = (String, String);

/// Prints the candidates for the last of `words`.
pub(super) fn complete(ctx: &mut Context, words: &[OsString]) -> Result<Outcome> {
    let words: Vec<String> = words.iter().map(|w| w.to_string_lossy().into()).collect();
    for (candidate, about) in candidates(ctx, &words) {
        let line = match about.is_empty() {
            true => format!("{candidate}\n"),
            false => format!("{candidate}\t{about}\n"),
        };
        ctx.stdout.put(line.as_bytes())?;
    }
    Ok(Outcome::Done)
}

fn candidates(ctx: &Context, words: &[String]) -> Vec<Candidate> {
    let Some((current, before)) = words.split_last() else {
        return Vec::new();
    };
    let Some((name, before)) = before.split_first() else {
        return starting(commands(), current);
    };
    match entry(name) {
        Some(entry) => in_command(ctx, entry, before, current),
        None => Vec::new(),
    }
}

fn commands() -> Vec<Candidate> {
    COMMANDS
        .iter()
        .map(|e| (e.name.into(), e.about.into()))
        .collect()
}

fn topics() -> Vec<Candidate> {
    help::TOPICS
        .iter()
        .map(|t| (t.name.into(), t.about.into()))
        .collect()
}

fn starting(all: Vec<Candidate>, prefix: &str) -> Vec<Candidate> {
    all.into_iter()
        .filter(|(c, _)| c.starts_with(prefix))
        .collect()
}

fn in_command(ctx: &Context, entry: &Entry, before: &[String], current: &str) -> Vec<Candidate> {
    let command = definition(entry);
    let mut operands: Vec<&str> = Vec::new();
    let mut option: Option<&Arg> = None; // whose value the next word is
    let mut only_operands = false;
    for word in before.iter().map(String::as_str) {
        match (option, word) {
            (Some(_), "=") => {} // bash takes --option=value for three words
            (Some(_), _) => option = None,
            (None, "--") if !only_operands => only_operands = true,
            (None, w) if w.starts_with('-') && w.len() > 1 && !only_operands => {
                option = wants_value(&command, w);
            }
            (None, w) => operands.push(w),
        }
    }
    if let Some(option) = option {
        let current = if current == "=" { "" } else { current };
        return starting(values(ctx, option, &operands), current);
    }
    if !only_operands && current.starts_with('-') {
        if let Some((name, value)) = current.split_once('=')
            && let Some(option) = wants_value(&command, name)
        {
            let all = starting(values(ctx, option, &operands), value);
            let with_name = |(c, about)| (format!("{name}={c}"), about);
            return all.into_iter().map(with_name).collect();
        }
        return starting(options(&command), current);
    }
    match entry.name {
        "help" => starting([commands(), topics()].concat(), current),
        "man" => starting(commands(), current),
        "groups" => match operands.len() {
            0 => operand(ctx, &command, current),
            1 => logs(ctx, current),
            2 => starting(groups(ctx, operands.get(1..).unwrap_or_default()), current),
            _ => Vec::new(),
        },
        _ => operand(ctx, &command, current),
    }
}

/// The option that `word` ends in, if its value is still to come.
fn wants_value<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let takes = |a: &&Arg| a.get_action().takes_values();
    match word.strip_prefix("--") {
        Some(long) => command
            .get_arguments()
            .filter(takes)
            .find(|a| a.get_long() == Some(long)),
        None => {
            // Of a cluster such as -fF only the last letter's value can still be missing.
            let mut letters = word.chars().skip(1).peekable();
            while let Some(letter) = letters.next() {
                let found = command
                    .get_arguments()
                    .find(|a| a.get_short() == Some(letter));
                let valued = found.filter(takes);
                if valued.is_some() {
                    return valued.filter(|_| letters.peek().is_none());
                }
            }
            None
        }
    }
}

fn options(command: &Command) -> Vec<Candidate> {
    let shown = command.get_arguments().filter(|a| !a.is_hide_set());
    shown
        .filter_map(|a| {
            let about = a.get_help().map(ToString::to_string);
            Some((format!("--{}", a.get_long()?), about.unwrap_or_default()))
        })
        .collect()
}

/// What an option's value may be.
fn values(ctx: &Context, option: &Arg, operands: &[&str]) -> Vec<Candidate> {
    let plain = |names: &[&str]| {
        names
            .iter()
            .map(|n| (n.to_string(), String::new()))
            .collect()
    };
    match option.get_id().as_str() {
        "format" => plain(&FORMATS),
        "compress" => plain(&Codec::ALL.map(Codec::name)),
        "timestamps" => plain(&["create", "append"]),
        "cleanup" => plain(&["delete", "compact", "compact,delete"]),
        "partitioner" => plain(&["murmur2", "crc32", "round-robin"]),
        "sync" => plain(&["batch", "exit", "never"]),
        "group" => groups(ctx, operands),
        "by" => fields(ctx, operands),
        _ => {
            let possible = option.get_possible_values();
            let names = possible
                .iter()
                .map(|v| (v.get_name().to_string(), String::new()));
            names.collect()
        }
    }
}

/// Names of groups that the logs on the command line have.
fn groups(ctx: &Context, operands: &[&str]) -> Vec<Candidate> {
    let mut names = BTreeMap::new();
    for log in operands {
        let partitions = ctx.resolve(log.as_ref(), None).unwrap_or_default();
        for p in partitions {
            let dir = p.path.join(files::LOGD_DIR);
            let dir = open_if_there(&*ctx.host, &dir).ok().flatten();
            let found = dir.and_then(|d| log_groups::names(&*d).ok());
            for name in found.unwrap_or_default() {
                names.insert(name, String::new());
            }
        }
    }
    names.into_iter().collect()
}

/// The fields that are indexed in the logs on the command line, and those that need no name.
fn fields(ctx: &Context, operands: &[&str]) -> Vec<Candidate> {
    let mut words: BTreeMap<String, String> = ["key", "value", "header:", "json:/"]
        .map(|w| (w.to_string(), String::new()))
        .into();
    for log in operands {
        for p in ctx.resolve(log.as_ref(), None).unwrap_or_default() {
            let (rows, _) = index::list(&*ctx.host, &p).unwrap_or_default();
            for word in rows.into_iter().filter_map(|r| r.field) {
                words.insert(word, "indexed".to_string());
            }
        }
    }
    words.into_iter().collect()
}

fn operand(ctx: &Context, command: &Command, current: &str) -> Vec<Candidate> {
    let Some(first) = command.get_positionals().next() else {
        return Vec::new();
    };
    match first.get_id().as_str() {
        "log" | "dir" => logs(ctx, current),
        _ => {
            let possible = first.get_possible_values();
            let all = possible
                .iter()
                .map(|v| (v.get_name().to_string(), String::new()));
            starting(all.collect(), current)
        }
    }
}

/// Logs and directories whose name begins as `current` does.
fn logs(ctx: &Context, current: &str) -> Vec<Candidate> {
    let (above, name) = match current.rfind('/') {
        Some(at) => current.split_at(at + 1),
        None => ("", current),
    };
    let base = ctx.base.as_deref().unwrap_or(Path::new(""));
    let path = match base.join(above) {
        p if p.as_os_str().is_empty() => parent(Path::new("x")),
        p => p,
    };
    let dir = open_if_there(&*ctx.host, &path).ok().flatten();
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let names = dir.and_then(|d| d.list().ok()).unwrap_or_default();
    for entry in names.into_iter().take(ENTRIES_MAX) {
        match parse_partition(&entry) {
            Some((topic, _)) => {
                found.insert(format!("{above}{topic}"), "topic".into());
                // One of its partitions only once the topic itself is written out.
                if name.starts_with(topic) {
                    found.insert(format!("{above}{entry}"), "partition".into());
                }
            }
            None if entry.starts_with('.') => {}
            None => {
                let at = path.join(&entry);
                if open_if_there(&*ctx.host, &at).ok().flatten().is_some() {
                    let is_log = find(&*ctx.host, &at).is_ok_and(|p| !p.is_empty());
                    let end = if is_log { "" } else { "/" };
                    found.insert(format!("{above}{entry}{end}"), String::new());
                }
            }
        }
    }
    starting(found.into_iter().collect(), current)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn scratch() -> (tempfile::TempDir, Context) {
        let temp = tempfile::tempdir().unwrap();
        for dir in [
            "orders-0/.logd/groups",
            "orders-1",
            "users-0",
            "old/x-0",
            ".hidden",
        ] {
            fs::create_dir_all(temp.path().join(dir)).unwrap();
        }
        for group in ["nightly", "nightly.lock"] {
            fs::write(temp.path().join("orders-0/.logd/groups").join(group), "").unwrap();
        }
        let mut ctx = Context::new("");
        ctx.base = Some(temp.path().to_path_buf());
        (temp, ctx)
    }

    fn get(ctx: &Context, words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(|w| w.to_string()).collect();
        candidates(ctx, &words)
            .into_iter()
            .map(|(c, _)| c)
            .collect()
    }

    #[test]
    fn commands_options_and_values_are_completed() {
        let (_t, ctx) = scratch();
        assert_eq!(get(&ctx, &["in"]), ["init", "info", "index"]);
        assert!(get(&ctx, &["init", "--part"]).contains(&"--partitions".to_string()));
        assert_eq!(get(&ctx, &["init", "-z", "l"]), ["lz4"]);
        assert_eq!(get(&ctx, &["init", "--compress=l"]), ["--compress=lz4"]);
        assert_eq!(get(&ctx, &["init", "--compress", "=", "l"]), ["lz4"]);
        assert_eq!(get(&ctx, &["init", "-qz", "g"]), ["gzip"]);
        assert_eq!(get(&ctx, &["info", "--print", "e"]), ["earliest", "end"]);
        assert_eq!(get(&ctx, &["index", "--by", "k"]), ["key"]);
        assert_eq!(get(&ctx, &["completions", "z"]), ["zsh"]);
        assert!(get(&ctx, &["help", "exit"]).contains(&"exit-codes".to_string()));
        assert!(get(&ctx, &["nope", ""]).is_empty());
        assert!(get(&ctx, &["info", "--hidden", "--zz"]).is_empty());
    }

    #[test]
    fn logs_are_completed_below_the_base() {
        let (_t, ctx) = scratch();
        assert_eq!(get(&ctx, &["info", ""]), ["old/", "orders", "users"]);
        assert_eq!(get(&ctx, &["info", "or"]), ["orders"]);
        assert_eq!(get(&ctx, &["info", "orders-"]), ["orders-0", "orders-1"]);
        assert_eq!(get(&ctx, &["info", "old/"]), ["old/x"]);
        assert_eq!(get(&ctx, &["info", "--", "-"]), Vec::<String>::new());
        assert_eq!(get(&ctx, &["info", "--json", "users", "us"]), ["users"]);
    }

    #[test]
    fn groups_are_those_of_the_logs_named() {
        let (_t, ctx) = scratch();
        let group = args::group();
        let names = |log| values(&ctx, &group, &[log]).into_iter().map(|(c, _)| c);
        assert_eq!(names("orders").collect::<Vec<_>>(), ["nightly"]);
        assert_eq!(names("users").count(), 0);
        assert_eq!(get(&ctx, &["groups", "l"]), ["ls", "lag"]);
        assert_eq!(get(&ctx, &["groups", "lag", "or"]), ["orders"]);
        assert_eq!(get(&ctx, &["groups", "lag", "orders", "n"]), ["nightly"]);
        assert_eq!(get(&ctx, &["cat", "orders", "-g", ""]), ["nightly"]);
    }
}
