//! The command line: text in, text out, and nothing that the library below needs to know.
//!
//! Owns the table of commands and the way from arguments to an exit status. One file per command,
//! each with `command()`, its clap definition (the one source of help, manual page and
//! completions), and `run()`. Only the definition of the command asked for is built, and no thread
//! is started, so that start-up costs microseconds.
//!
//! | module | owns |
//! |---|---|
//! | [`args`] | options that mean the same everywhere |
//! | [`caller`] | what a command is told by a logd on another machine |
//! | [`context`] | what a command is handed |
//! | [`table`] | reports: aligned, tab-separated, or JSON |
//! | [`exit`] | exit statuses |
//! | [`message`] | the one door to stderr |
//! | [`progress`] | how far a long job is |
//! | [`stdio`] | stdout |
//! | `maintain` | what the commands that look after a log share |
//! | `remote` | reading commands on other machines |
//! | [`reading`] | what the commands that print records share |

use crate::error::{Error, ErrorKind, Result};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::ffi::OsString;

mod append;
pub mod args;
pub mod caller;
mod cat;
mod compact;
mod complete;
pub mod context;
mod dump;
pub mod exit;
mod forced;
mod get;
mod grep;
mod groups;
mod help;
mod index;
mod info;
mod init;
mod ls;
mod maintain;
pub mod man;
mod merge;
pub mod message;
pub mod progress;
mod promote;
pub mod reading;
mod redact;
mod remote;
mod repair;
mod replicate;
mod retain;
mod split;
pub mod stdio;
pub mod table;
mod tail;
mod usage;
mod verify;

pub use context::{Context, When};
pub use exit::{Exit, Outcome};
pub use message::Messages;

/// One line for `--version`.
const VERSION: &str = concat!("logd ", env!("CARGO_PKG_VERSION"), "\n");

/// The group a command is listed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    WriteAndRead,
    Look,
    LookAfter,
    Move,
    Process,
    SetUp,
}

/// A command: its name, what it does in a few words, its definition, its work.
struct Entry {
    name: &'static str,
    job: Job,
    about: &'static str,
    command: fn() -> Command,
    run: fn(&mut Context, &ArgMatches) -> Result<Outcome>,
}

/// Every command, in the order in which help lists them.
const COMMANDS: &[Entry] = &[
    Entry {
        name: "init",
        job: Job::WriteAndRead,
        about: "make a log",
        command: init::command,
        run: init::run,
    },
    Entry {
        name: "cat",
        job: Job::WriteAndRead,
        about: "print what is there, then stop",
        command: cat::command,
        run: cat::run,
    },
    Entry {
        name: "tail",
        job: Job::WriteAndRead,
        about: "the last records, and what comes next",
        command: tail::command,
        run: tail::run,
    },
    Entry {
        name: "grep",
        job: Job::WriteAndRead,
        about: "records that match",
        command: grep::command,
        run: grep::run,
    },
    Entry {
        name: "get",
        job: Job::WriteAndRead,
        about: "records by key or by offset",
        command: get::command,
        run: get::run,
    },
    Entry {
        name: "ls",
        job: Job::Look,
        about: "list the logs in a directory",
        command: ls::command,
        run: ls::run,
    },
    Entry {
        name: "info",
        job: Job::Look,
        about: "tell what a log holds",
        command: info::command,
        run: info::run,
    },
    Entry {
        name: "append",
        job: Job::WriteAndRead,
        about: "write records from stdin or files",
        command: append::command,
        run: append::run,
    },
    Entry {
        name: "dump",
        job: Job::Look,
        about: "what is stored, as stored",
        command: dump::command,
        run: dump::run,
    },
    Entry {
        name: "verify",
        job: Job::Look,
        about: "is it sound",
        command: verify::command,
        run: verify::run,
    },
    Entry {
        name: "repair",
        job: Job::LookAfter,
        about: "make it sound again",
        command: repair::command,
        run: repair::run,
    },
    Entry {
        name: "groups",
        job: Job::Process,
        about: "named reader positions",
        command: groups::command,
        run: groups::run,
    },
    Entry {
        name: "index",
        job: Job::LookAfter,
        about: "make lookups fast",
        command: index::command,
        run: index::run,
    },
    Entry {
        name: "compact",
        job: Job::LookAfter,
        about: "keep the newest value per key",
        command: compact::command,
        run: compact::run,
    },
    Entry {
        name: "retain",
        job: Job::LookAfter,
        about: "delete the old",
        command: retain::command,
        run: retain::run,
    },
    Entry {
        name: "redact",
        job: Job::LookAfter,
        about: "remove what must not be kept",
        command: redact::command,
        run: redact::run,
    },
    Entry {
        name: "split",
        job: Job::Move,
        about: "one log into several",
        command: split::command,
        run: split::run,
    },
    Entry {
        name: "merge",
        job: Job::Move,
        about: "several logs in one order",
        command: merge::command,
        run: merge::run,
    },
    Entry {
        name: "replicate",
        job: Job::Move,
        about: "copy a log and keep it equal",
        command: replicate::command,
        run: replicate::run,
    },
    Entry {
        name: "promote",
        job: Job::Move,
        about: "let a copy take over",
        command: promote::command,
        run: promote::run,
    },
    Entry {
        name: "completions",
        job: Job::SetUp,
        about: "print a script that completes command lines",
        command: complete::command,
        run: complete::run,
    },
    Entry {
        name: "man",
        job: Job::SetUp,
        about: "print manual pages",
        command: man::command,
        run: man::run,
    },
    Entry {
        name: "help",
        job: Job::SetUp,
        about: "explain a command or a topic",
        command: help::command,
        run: help::run,
    },
];

fn entry(name: &str) -> Option<&'static Entry> {
    COMMANDS.iter().find(|e| e.name == name)
}

/// The full definition of a command: what its file says and what all share.
fn definition(entry: &Entry) -> Command {
    let help = Arg::new("help")
        .short('h')
        .long("help")
        .action(ArgAction::HelpShort)
        .help("Print help");
    let version = Arg::new("version")
        .short('V')
        .long("version")
        .action(ArgAction::Version)
        .help("Print version");
    let command = match remote::operand(entry.name) {
        Some(_) => (entry.command)().arg(caller::option()),
        None => (entry.command)(),
    };
    command
        .name(entry.name)
        .bin_name(format!("logd {}", entry.name))
        .about(entry.about)
        .help_template(template(entry, ""))
        .version(env!("CARGO_PKG_VERSION"))
        .no_binary_name(true)
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .args(args::everywhere())
        .arg(help)
        .arg(version)
}

/// The layout of help: what it is, how to call it, `long`, what it takes, examples.
fn template(entry: &Entry, long: &str) -> String {
    let Entry { name, about, .. } = entry;
    format!(
        "logd {name} - {about}\n\n{{usage-heading}} {{usage}}\n\n{long}{{all-args}}{{after-help}}\n"
    )
}

/// Runs `logd` with the words of the command line, the program's name first. Everything is written
/// and flushed on return; nothing is left to do but to end with the status.
pub fn run(mut words: impl Iterator<Item = OsString>) -> Exit {
    words.next();
    let first = words.next();
    match first.as_deref().and_then(|f| f.to_str()) {
        Some("-V" | "--version") => end(&mut Context::new(""), |ctx| {
            ctx.stdout.put(VERSION.as_bytes()).map(|()| Outcome::Done)
        }),
        Some("__complete") => {
            let words: Vec<OsString> = words.collect();
            end(&mut Context::new(""), |ctx| complete::complete(ctx, &words))
        }
        Some("-h" | "--help") => end(&mut Context::new("help"), help::overview),
        Some(name) => match entry(name) {
            Some(entry) => run_command(entry, words),
            None => end(&mut Context::new(""), |_| Err(no_such_command(name))),
        },
        None => end(&mut Context::new(""), |_| {
            let what = if first.is_some() {
                "the command is not UTF-8"
            } else {
                "no command given"
            };
            Err(Error::usage(what).hint("logd help"))
        }),
    }
}

fn run_command(entry: &'static Entry, words: impl Iterator<Item = OsString>) -> Exit {
    message::install_panic_hook(entry.name);
    parse_and(
        &mut Context::new(entry.name),
        entry,
        words,
        |ctx, m| match remote::is_asked(entry.name, m) {
            true => remote::run(ctx, entry, m),
            false => (entry.run)(ctx, m),
        },
    )
}

/// Reads the words of a command, does its `work`, and gives the status.
fn parse_and(
    ctx: &mut Context,
    entry: &'static Entry,
    words: impl Iterator<Item = OsString>,
    work: impl FnOnce(&mut Context, &ArgMatches) -> Result<Outcome>,
) -> Exit {
    end(ctx, |ctx| {
        match definition(entry).try_get_matches_from(words) {
            Ok(matches) => {
                ctx.set(&matches)?;
                work(ctx, &matches)
            }
            Err(e) => match e.kind() {
                clap::error::ErrorKind::DisplayHelp => help::show(ctx, e.render()),
                clap::error::ErrorKind::DisplayVersion => {
                    ctx.stdout.put(VERSION.as_bytes()).map(|()| Outcome::Done)
                }
                _ => Err(usage::error_of(entry.name, &e)),
            },
        }
    })
}

/// Does the work, flushes what it wrote, tells what failed, and gives the status.
fn end(ctx: &mut Context, work: impl FnOnce(&mut Context) -> Result<Outcome>) -> Exit {
    let outcome = work(ctx);
    // After a failure as well: what was written before it is good.
    let flushed = match &outcome {
        Err(e) if e.kind() == ErrorKind::ClosedPipe => Ok(()),
        _ => ctx.stdout.flush_now(),
    };
    let exit = match outcome {
        Ok(outcome) => outcome.into(),
        Err(e) => {
            ctx.fail(&e);
            Exit::Done
        }
    };
    if let Err(e) = flushed {
        ctx.fail(&e);
    }
    if ctx.caller.report {
        let report = ctx.report();
        ctx.message.report(report);
    }
    exit.max(ctx.worst())
}

fn no_such_command(name: &str) -> Error {
    let error = Error::usage(format!("{name}: no such command"));
    if name.starts_with('-') {
        return Error::usage(format!("{name}: options come after the command")).hint("logd help");
    }
    // clap's own measure of likeness, asked with nothing but names.
    let names = COMMANDS.iter().map(|e| Command::new(e.name));
    let asked = Command::new("logd")
        .no_binary_name(true)
        .disable_help_subcommand(true)
        .subcommands(names);
    let similar = asked.try_get_matches_from([name]).err().and_then(|e| {
        match e.get(clap::error::ContextKind::SuggestedSubcommand) {
            Some(clap::error::ContextValue::Strings(s)) => s.first().cloned(),
            _ => None,
        }
    });
    match similar {
        Some(s) => error.hint(format!("logd {s}")),
        None => error.hint("logd help"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slip_in_a_command_s_name_is_told_the_right_one() {
        let e = no_such_command("inti");
        assert_eq!(
            (e.to_string().as_str(), e.hint_text()),
            ("inti: no such command", Some("logd init"))
        );
        assert_eq!(no_such_command("xyzzy").hint_text(), Some("logd help"));
    }

    #[test]
    fn every_definition_is_sound() {
        for e in COMMANDS {
            definition(e).debug_assert();
        }
    }

    fn refusal(entry: &Entry, words: &[&str]) -> String {
        let words = words.iter().map(OsString::from);
        let e = definition(entry).try_get_matches_from(words).unwrap_err();
        let e = usage::error_of(entry.name, &e);
        assert_eq!(e.kind(), ErrorKind::Usage);
        format!("{e} | {}", e.hint_text().unwrap_or_default())
    }

    /// A command with one option of each sort.
    const SAMPLE: Entry = Entry {
        name: "sample",
        job: Job::Look,
        about: "test",
        command: || {
            Command::new("sample")
                .arg(args::from_offset())
                .arg(args::limit())
                .arg(args::follow())
                .args(args::format())
                .arg(args::header("x"))
                .arg(args::reverse().conflicts_with("follow"))
                .arg(args::logs())
        },
        run: |_, _| Ok(Outcome::Done),
    };

    #[test]
    fn wrong_usage_is_one_line_and_a_hint() {
        let no = |w: &[&str]| refusal(&SAMPLE, w);
        let help = "logd sample --help";
        assert_eq!(
            no(&["x", "--fromat", "json"]),
            "--fromat: no such option | --format"
        );
        assert_eq!(
            no(&["x", "--zzz"]),
            format!("--zzz: no such option | {help}")
        );
        assert_eq!(no(&["x", "-y"]), format!("-y: no such option | {help}"));
        assert_eq!(no(&[]), format!("LOG is missing | {help}"));
        assert_eq!(
            no(&["x", "--color", "allways"]),
            "--color allways: not one of auto, always, never | --color always"
        );
        assert_eq!(
            no(&["x", "-n"]),
            "--limit: a value is missing | --limit <N>"
        );
        assert_eq!(
            no(&["x", "-r", "-f"]),
            format!("--reverse and --follow exclude each other | {help}")
        );
    }

    #[test]
    fn counts_are_decimal_digits() {
        let n = |w| {
            let m = definition(&SAMPLE).try_get_matches_from(["x", "-n", w]);
            args::count(&m.unwrap(), "limit")
        };
        assert_eq!(n("0").unwrap(), Some(0));
        for bad in ["7x", "+7", "", "18446744073709551616"] {
            let e = n(bad).unwrap_err();
            assert_eq!(e.to_string(), format!("--limit {bad}: not a number"));
        }
    }

    #[test]
    fn long_options_are_never_abbreviated() {
        assert!(refusal(&SAMPLE, &["x", "--foll"]).starts_with("--foll: no such option"));
    }

    #[test]
    fn options_and_operands_mix_and_the_last_of_two_options_counts() {
        let words = [
            "a", "-o", "-5", "b", "-F", "json", "-H", "x=1", "-F", "csv", "-H", "y=2", "-", "--",
            "-z",
        ];
        let m = definition(&SAMPLE).try_get_matches_from(words).unwrap();
        assert_eq!(args::os_all(&m, "log"), ["a", "b", "-", "-z"]);
        assert_eq!(args::text(&m, "from-offset"), Some("-5"));
        assert_eq!(args::text(&m, "format"), Some("csv"));
        assert_eq!(args::os_all(&m, "header"), ["x=1", "y=2"]);
        assert!(!args::flag(&m, "follow") && !args::flag(&m, "no-such"));
    }
}
