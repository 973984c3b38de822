//! Reading commands on other machines: `host:path` where a LOG is named.
//!
//! The operands of a command are cut into *stretches*, neighbours on the same machine. One stretch
//! elsewhere is the usual case: `ssh HOST logd COMMAND ...` inherits our stdout and stderr, so nothing
//! is copied, and its status is ours. Several are run one after the other, those on this machine in this
//! process. What one command keeps across its logs then travels in [`Caller`] and [`Report`]: how many
//! records are left of `--limit`, whether a header row was printed. Tables are gathered and printed as
//! one.
//!
//! Invariants:
//!
//! * Nothing is left behind: when the reader of stdout goes away, or a signal comes, ssh is ended, and
//!   the logd there ends because nobody reads from it.
//! * The stdin of ssh is empty: it would eat that of a `while read` around us.
//! * Every status is one of logd's own. 69 is all that ssh itself can fail with.

use super::caller::{Caller, REPORT_MARK, Report};
use super::exit::Exit;
use super::{Context, Entry, Outcome, When, args, definition, table};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::remote::{self, Ssh};
use crate::ops::words::{LogName, time};
use crate::sys::child::{Ended, Flags, Waiter};
use crate::sys::signals;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches};
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::process::{ChildStderr, Stdio};
use std::time::Duration;

/// The commands that can be asked of another machine, and the operand that names logs.
const READING: [(&str, &str); 7] = [
    ("cat", "log"),
    ("tail", "log"),
    ("grep", "log"),
    ("get", "log"),
    ("ls", "dir"),
    ("info", "log"),
    ("verify", "log"),
];

/// Longest table, or list of hashes, that is taken from another machine.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// Longest report.
const REPORT_BYTES_MAX: usize = 256;
/// How much later than the other logd we give up ourselves.
const TIMEOUT_MORE: Duration = Duration::from_secs(2);

/// The operand of a command that may name logs on other machines.
pub(super) fn operand(command: &str) -> Option<&'static str> {
    let (_, id) = READING.iter().find(|(name, _)| *name == command)?;
    Some(id)
}

/// Whether an operand of `m` is on another machine.
pub(super) fn is_asked(command: &str, m: &ArgMatches) -> bool {
    let Some(id) = operand(command) else {
        return false;
    };
    let remote = |w: &&OsStr| matches!(LogName::parse(w), Ok(LogName::Remote { .. }));
    let words = args::os_all(m, id);
    // What differs between two logs is found out here, wherever they are.
    let compares = command == "verify" && args::text(m, "digest").is_some() && words.len() == 2;
    !compares && words.iter().any(remote)
}

/// Neighbours among the operands that are on one machine.
#[derive(Debug, PartialEq, Eq)]
struct Stretch {
    /// `None`: this one.
    host: Option<String>,
    logs: Vec<OsString>,
}

fn stretches(words: &[&OsStr]) -> Result<Vec<Stretch>> {
    let mut all: Vec<Stretch> = Vec::new();
    for word in words {
        let (host, log) = match LogName::parse(word)? {
            LogName::Remote { host, path } => (Some(host), remote::local_word(&path)),
            _ => (None, word.to_os_string()),
        };
        match all.last_mut() {
            Some(last) if last.host == host => last.logs.push(log),
            _ => all.push(Stretch {
                host,
                logs: vec![log],
            }),
        }
    }
    Ok(all)
}

/// Runs a command some of whose logs are on other machines.
///
/// # Errors
/// Usage, for what cannot be done across machines; `Unreachable`; a closed stdout.
pub(super) fn run(ctx: &mut Context, entry: &'static Entry, m: &ArgMatches) -> Result<Outcome> {
    let id = operand(entry.name).unwrap_or("log");
    let stretches = stretches(&args::os_all(m, id))?;
    signals::install().map_err(|e| Error::io("cannot catch signals", e))?;
    let job = Job { entry, m, id };
    match stretches.as_slice() {
        [
            Stretch {
                host: Some(host),
                logs,
            },
        ] => {
            let caller = caller(ctx, host);
            let (exit, _) = job.pass(ctx, host, logs, &caller, &[])?;
            ctx.note(exit);
            Ok(Outcome::Done)
        }
        stretches => job.several(ctx, stretches),
    }
}

/// What the logd on `host` is told about us.
fn caller(ctx: &Context, host: &str) -> Caller {
    Caller {
        host: remote::host_word(host),
        out: ctx.stdout.is_terminal(),
        err: ctx.message.is_terminal(),
        color_out: ctx.color,
        color_err: ctx.message.is_colored(),
        zone: time::zone_name(),
        ..Caller::default()
    }
}

/// One command line.
struct Job<'a> {
    entry: &'static Entry,
    m: &'a ArgMatches,
    /// Id of the operand that names logs.
    id: &'static str,
}

impl Job<'_> {
    /// The words of this command for some of its logs, with some options `changed`.
    fn words(&self, logs: &[OsString], changed: &[(&str, String)]) -> Vec<OsString> {
        let command = definition(self.entry);
        let mut words = Vec::new();
        let (operands, options): (Vec<&Arg>, Vec<&Arg>) =
            command.get_arguments().partition(|a| a.is_positional());
        for arg in options {
            let id = arg.get_id().as_str();
            let given = self.m.value_source(id) == Some(ValueSource::CommandLine);
            if given && !changed.iter().any(|(name, _)| *name == id) {
                option_words(arg, self.m, &mut words);
            }
        }
        words.extend(
            changed
                .iter()
                .map(|(name, v)| format!("--{name}={v}").into()),
        );
        words.push("--".into());
        for arg in operands {
            match arg.get_id().as_str() == self.id {
                true => words.extend_from_slice(logs),
                false => words.extend(raw(self.m, arg.get_id().as_str())),
            }
        }
        words
    }

    /// The words for another machine.
    fn there(
        &self,
        ctx: &Context,
        logs: &[OsString],
        caller: &Caller,
        changed: &[(&str, String)],
    ) -> Vec<OsString> {
        let mut all = changed.to_vec();
        all.push(("color", "never".into())); // what is to be coloured is in the words of the caller
        if ctx.progress == When::Auto && ctx.message.is_terminal() && !ctx.message.is_quiet() {
            all.push(("progress", "always".into())); // no bar from afar, but lines
        }
        all.push(("caller", caller.words()));
        let mut words: Vec<OsString> = vec!["logd".into(), self.entry.name.into()];
        words.extend(self.words(logs, &all));
        words
    }

    /// Has `logs` on `host` printed to our own stdout.
    fn pass(
        &self,
        ctx: &mut Context,
        host: &str,
        logs: &[OsString],
        caller: &Caller,
        changed: &[(&str, String)],
    ) -> Result<(Exit, Report)> {
        let ssh = ssh();
        let mut command = ssh.command(host, &self.there(ctx, logs, caller, changed));
        command.stdin(Stdio::null());
        if caller.report {
            command.stderr(Stdio::piped());
        }
        ctx.stdout.flush_now()?;
        let (out, err) = (std::io::stdout(), std::io::stderr());
        let flags = (Flags::of(out.as_fd()), Flags::of(err.as_fd()));
        let child = command.spawn().map_err(|e| ssh.cannot_start(host, e))?;
        let mut child = Waiter::new(child);
        let stderr = child.child().stderr.take();
        let filter = stderr.map(|s| std::thread::spawn(move || filter(s)));
        let ended = wait(ctx, &mut child, host);
        let report = filter.and_then(|f| f.join().ok()).unwrap_or_default();
        flags.0.iter().for_each(|f| f.restore(out.as_fd()));
        flags.1.iter().for_each(|f| f.restore(err.as_fd()));
        Ok((ended?, report))
    }

    /// Takes one stretch after the other.
    fn several(&self, ctx: &mut Context, stretches: &[Stretch]) -> Result<Outcome> {
        self.refuse_together(stretches)?;
        let tables = self.entry.name == "ls"
            || self.entry.name == "info" && args::text(self.m, "print").is_none();
        let mut limit = args::count(self.m, "limit")?;
        let mut join = Join::new(self.entry.name == "grep", args::flag(self.m, "quiet"));
        ctx.tables = tables.then(Vec::new);
        let mut begun = false;
        for stretch in stretches {
            let mut changed = Vec::new();
            if let Some(left) = ctx.time_left() {
                changed.push(("timeout", format!("{}ms", left.as_millis())));
            }
            changed.extend(limit.map(|n| ("limit", n.to_string())));
            let more = Caller {
                several: true,
                after: begun,
                report: !tables,
                cells: tables,
                ..Caller::default()
            };
            let (exit, report) = match self.stretch(ctx, stretch, &more, &changed) {
                Err(e) if matches!(e.kind(), ErrorKind::ClosedPipe | ErrorKind::Usage) => {
                    return Err(e);
                }
                Err(e) => {
                    ctx.message.error(&e);
                    (e.kind().into(), Report::default())
                }
                Ok(done) => done,
            };
            begun |= report.begun;
            limit = limit.map(|n| n.saturating_sub(report.records));
            if join.take(exit) || limit == Some(0) {
                break;
            }
        }
        ctx.caller = Caller::default();
        ctx.note(join.exit());
        let tables = ctx.tables.take().unwrap_or_default();
        table::print_gathered(ctx, tables)?;
        Ok(Outcome::Done)
    }

    /// What only one process can do for several logs.
    fn refuse_together(&self, stretches: &[Stretch]) -> Result<()> {
        let local = stretches.iter().any(|s| s.host.is_none());
        let what = if local {
            "here and elsewhere"
        } else {
            "of several hosts"
        };
        if args::flag(self.m, "follow") {
            let why = format!("--follow: not for logs {what} at once");
            return Err(Error::usage(why));
        }
        if args::text(self.m, "group").is_some() {
            return Err(Error::usage(format!(
                "--group: not for logs {what} at once"
            )));
        }
        Ok(())
    }

    fn stretch(
        &self,
        ctx: &mut Context,
        stretch: &Stretch,
        more: &Caller,
        changed: &[(&str, String)],
    ) -> Result<(Exit, Report)> {
        let Some(host) = &stretch.host else {
            return self.here(ctx, &stretch.logs, more, changed);
        };
        let caller = Caller {
            several: more.several,
            after: more.after,
            report: more.report,
            cells: more.cells,
            ..caller(ctx, host)
        };
        if !more.cells {
            return self.pass(ctx, host, &stretch.logs, &caller, changed);
        }
        let words = self.there(ctx, &stretch.logs, &caller, changed);
        let (exit, bytes) = Asked::start(host, &words)?.answer(ctx)?;
        let tables = table::from_cells(&bytes).map_err(|e| e.at_path(host))?;
        ctx.tables.get_or_insert_default().extend(tables);
        Ok((exit, Report::default()))
    }

    /// Does what is to be done on this machine.
    fn here(
        &self,
        ctx: &mut Context,
        logs: &[OsString],
        more: &Caller,
        changed: &[(&str, String)],
    ) -> Result<(Exit, Report)> {
        let words = self.words(logs, changed);
        let m = definition(self.entry).try_get_matches_from(words);
        let m = m.map_err(|e| super::usage::error_of(self.entry.name, &e))?;
        let outer = ctx.begin_part(Caller {
            several: more.several,
            after: more.after,
            ..Caller::default()
        });
        let ran = (self.entry.run)(ctx, &m);
        let report = ctx.report();
        let flushed = ctx.stdout.flush_now();
        let worst = ctx.end_part(outer);
        let outcome = ran?;
        flushed?;
        Ok((worst.max(outcome.into()), report))
    }
}

/// The words that give an option again, as they were read.
fn option_words(arg: &Arg, m: &ArgMatches, words: &mut Vec<OsString>) {
    let id = arg.get_id().as_str();
    let name = match (arg.get_long(), arg.get_short()) {
        (Some(long), _) => format!("--{long}"),
        (None, Some(short)) => format!("-{short}"),
        (None, None) => return,
    };
    match arg.get_action() {
        ArgAction::SetTrue => words.push(name.into()),
        _ => words.extend(raw(m, id).map(|value| {
            let mut word = OsString::from(format!("{name}="));
            word.push(value);
            word
        })),
    }
}

/// The values of an argument as they were given.
fn raw<'a>(m: &'a ArgMatches, id: &str) -> impl Iterator<Item = OsString> + 'a {
    let values = m.get_raw(id).into_iter().flatten();
    values.map(OsStr::to_os_string)
}

/// One status of several, as the command joins those of its logs.
struct Join {
    /// Any log that matched is a yes.
    any: bool,
    quiet: bool,
    yes: bool,
    worst: Exit,
}

impl Join {
    fn new(any: bool, quiet: bool) -> Join {
        Join {
            any,
            quiet,
            yes: false,
            worst: Exit::Done,
        }
    }

    /// Takes the status of a stretch; true if no other is wanted.
    fn take(&mut self, exit: Exit) -> bool {
        self.yes |= exit == Exit::Done;
        let counts = !(self.any && exit == Exit::No);
        if counts {
            self.worst = self.worst.max(exit);
        }
        matches!(exit, Exit::Usage | Exit::Signal(_)) || (self.any && self.quiet && self.yes)
    }

    fn exit(&self) -> Exit {
        match self.worst {
            _ if self.any && self.quiet && self.yes => Exit::Done,
            Exit::Done if self.any && !self.yes => Exit::No,
            worst => worst,
        }
    }
}

fn ssh() -> Ssh {
    Ssh::new(std::env::var_os("LOGD_SSH").as_deref())
}

/// Waits for ssh, and for whatever makes it needless.
fn wait(ctx: &Context, child: &mut Waiter, host: &str) -> Result<Exit> {
    let cannot = |e| Error::io("cannot wait", e).at_path(host);
    let out = std::io::stdout();
    let until = ctx.deadline.and_then(|d| d.checked_add(TIMEOUT_MORE));
    match child.wait(Some(out.as_fd()), until).map_err(cannot)? {
        Ended::Exited(status) => exit_of(host, status.code()),
        Ended::ReaderGone => {
            child.end(signals::TERM).map_err(cannot)?;
            Err(Error::new(ErrorKind::ClosedPipe, "the reader is gone"))
        }
        Ended::TimedOut => {
            child.end(signals::TERM).map_err(cannot)?;
            Err(Error::new(ErrorKind::Timeout, "--timeout passed").at_path(host))
        }
        Ended::Interrupted => {
            let signal = signals::stop_requested().unwrap_or(signals::TERM);
            child.end(signal).map_err(cannot)?;
            Ok(Exit::Signal(u8::try_from(signal).unwrap_or(0)))
        }
    }
}

/// The status of a logd elsewhere as ours.
fn exit_of(host: &str, code: Option<i32>) -> Result<Exit> {
    let code = remote::status(host, code)?;
    Exit::of_code(code).ok_or_else(|| {
        let what = format!("what ran there ended with {code}, which no logd does");
        let error = Error::new(ErrorKind::Unreachable, what).at_path(host);
        error.hint(format!("ssh {host} logd --version"))
    })
}

/// Copies the words of another logd to our stderr and keeps its report back.
fn filter(from: ChildStderr) -> Report {
    let mut from = BufReader::new(from);
    let mut report = Report::default();
    let mut line_begins = true;
    loop {
        let bytes = match from.fill_buf() {
            Ok(bytes) if !bytes.is_empty() => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            _ => return report,
        };
        if line_begins && bytes.first() == REPORT_MARK.as_bytes().first() {
            let mut line = Vec::new();
            let most = REPORT_BYTES_MAX as u64;
            if (&mut from).take(most).read_until(b'\n', &mut line).is_err() {
                return report;
            }
            let line = String::from_utf8_lossy(&line);
            report = Report::parse(line.strip_prefix(REPORT_MARK).unwrap_or_default());
            continue;
        }
        let end = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
        let (line, _) = bytes.split_at(end);
        line_begins = line.ends_with(b"\n");
        let _ = std::io::stderr().write_all(line); // nobody is left to be told
        from.consume(end);
    }
}

/// A command elsewhere whose output is for us.
pub(super) struct Asked {
    host: String,
    child: Waiter,
    reader: std::thread::JoinHandle<std::io::Result<Vec<u8>>>,
}

impl Asked {
    /// Starts `words` on `host`.
    ///
    /// # Errors
    /// `Unreachable`, when ssh cannot be started.
    pub fn start(host: &str, words: &[OsString]) -> Result<Asked> {
        signals::install().map_err(|e| Error::io("cannot catch signals", e))?;
        let ssh = ssh();
        let mut command = ssh.command(host, words);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| ssh.cannot_start(host, e))?;
        let stdout = child.stdout.take();
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(stdout) = stdout {
                stdout.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut bytes)?;
            }
            Ok(bytes)
        });
        Ok(Asked {
            host: host.to_string(),
            child: Waiter::new(child),
            reader,
        })
    }

    /// Its output and its status.
    ///
    /// # Errors
    /// `Unreachable`; `Data` for more than anybody would print.
    pub fn answer(mut self, ctx: &Context) -> Result<(Exit, Vec<u8>)> {
        let exit = wait(ctx, &mut self.child, &self.host)?;
        let cannot = |e| Error::io("cannot read the answer", e).at_path(&self.host);
        let gone = || Err(std::io::ErrorKind::Other.into());
        let bytes = self.reader.join().unwrap_or_else(|_| gone());
        let bytes = bytes.map_err(cannot)?;
        if bytes.len() as u64 > ANSWER_BYTES_MAX {
            return Err(Error::data("the answer is too long").at_path(&self.host));
        }
        Ok((exit, bytes))
    }
}

/// Starts `verify --digest` of one log elsewhere, to be compared here.
///
/// # Errors
/// As [`Asked::start`].
pub(super) fn ask_digest(ctx: &Context, m: &ArgMatches, host: &str, log: &OsStr) -> Result<Asked> {
    let entry = super::entry("verify").ok_or_else(|| Error::new(ErrorKind::Bug, "no verify"))?;
    let job = Job {
        entry,
        m,
        id: "log",
    };
    let mut caller = caller(ctx, host);
    caller.cells = true;
    let words = job.there(ctx, &[remote::local_word(log)], &caller, &[]);
    Asked::start(host, &words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job_words(line: &[&str], logs: &[&str]) -> Vec<String> {
        let entry = super::super::entry(line[0]).unwrap();
        let words = line[1..].iter().map(OsString::from);
        let m = definition(entry).try_get_matches_from(words).unwrap();
        let id = operand(entry.name).unwrap();
        let job = Job { entry, m: &m, id };
        let logs: Vec<OsString> = logs.iter().map(OsString::from).collect();
        let text = |w: OsString| w.into_string().unwrap();
        job.words(&logs, &[]).into_iter().map(text).collect()
    }

    #[test]
    fn a_command_line_is_given_again_as_it_was_meant() {
        let words = ["grep", "-iQ", "-C", "2", "-k", "-a b", "h:x", "--", "h:y"];
        assert_eq!(
            job_words(&words, &["l"]),
            [
                "--ignore-case",
                "--literal",
                "--context=2",
                "--key=-a b",
                "--",
                "h:x",
                "l"
            ]
        );
        let words = [
            "cat", "-F", "csv", "-0", "-H", "a=1", "-H", "b=", "-o", "-2..", "h:x",
        ];
        assert_eq!(
            job_words(&words, &["l", "-m"]),
            [
                "--from-offset=-2..",
                "--header=a=1",
                "--header=b=",
                "-0",
                "--",
                "l",
                "-m"
            ]
        );
        let words = ["verify", "--digest", "h:x", "h:y", "h:z"];
        assert_eq!(job_words(&words, &["x"]), ["--digest=batches", "--", "x"]);
        let words = ["get", "h:x", "1..3", "end-1"];
        assert_eq!(job_words(&words, &["x"]), ["--", "x", "1..3", "end-1"]);
        assert_eq!(
            job_words(&["ls", "h:x", "-q"], &["x"]),
            ["--quiet", "--", "x"]
        );
    }

    #[test]
    fn neighbours_on_one_machine_are_asked_at_once() {
        let words = ["a:x", "a:y:z", "l", "./b:m", "b:z", "a:x"].map(OsStr::new);
        let shown: Vec<String> = stretches(&words)
            .unwrap()
            .iter()
            .map(|s| format!("{:?}{:?}", s.host.as_deref().unwrap_or(""), s.logs))
            .collect();
        let want = [
            r#""a"["x", "./y:z"]"#,
            r#"""["l", "./b:m"]"#,
            r#""b"["z"]"#,
            r#""a"["x"]"#,
        ];
        assert_eq!(shown, want);
    }

    #[test]
    fn statuses_are_joined_as_the_command_joins_those_of_its_logs() {
        let join = |any, quiet, exits: &[Exit]| {
            let mut join = Join::new(any, quiet);
            let stopped = exits.iter().position(|e| join.take(*e));
            (join.exit(), stopped)
        };
        assert_eq!(
            join(false, false, &[Exit::Done, Exit::No]),
            (Exit::No, None)
        );
        assert_eq!(
            join(true, false, &[Exit::No, Exit::Done]),
            (Exit::Done, None)
        );
        assert_eq!(join(true, false, &[Exit::No, Exit::No]), (Exit::No, None));
        let both = [Exit::NotFound, Exit::Done];
        assert_eq!(join(true, false, &both), (Exit::NotFound, None));
        assert_eq!(join(true, true, &both), (Exit::Done, Some(1)));
        assert_eq!(
            join(true, true, &[Exit::Done, Exit::No]),
            (Exit::Done, Some(0))
        );
        assert_eq!(
            join(false, false, &[Exit::Usage, Exit::Done]),
            (Exit::Usage, Some(0))
        );
    }

    #[test]
    fn every_status_of_logd_is_known_again_and_others_are_not() {
        for (exit, _) in super::super::exit::TABLE {
            assert_eq!(Exit::of_code(exit.code()), Some(*exit));
        }
        assert_eq!(Exit::of_code(143), Some(Exit::Signal(15)));
        assert_eq!((Exit::of_code(3), Exit::of_code(128)), (None, None));
        let e = exit_of("web1", Some(3)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unreachable);
    }
}
