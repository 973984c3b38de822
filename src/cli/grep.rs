//! `logd grep`: records that match.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use clap::{ArgMatches, Command};

use super::{Context, Outcome, args, reading};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Limits;
use crate::ops::cat::Cat;
use crate::ops::emit::{Emitter, Flow};
use crate::ops::grep::{self, Around, Grep, Pattern, PatternOptions, Query, Stored, Want};
use crate::ops::output::Format;
use crate::ops::select::Selection;
use crate::ops::tail::{Ended, TailOptions};
use crate::ops::topic::Partition;
use crate::ops::words::{Column, Field};

const EXAMPLES: &str = "\
PATTERN is a regular expression as in ripgrep. ^ and $ are the ends of the field, whatever lines
it holds. A record that lacks the field does not match; a tombstone lacks its value.
-q prints nothing and stops at the first match. -n ends after N matches. Context is marked off by
-- in lines only; -F '%t-%p %o %s\\n' tells where a record lies.
Exit 0 if something matched, 1 if not, 2 or more on error.

Examples:
  logd grep -i -C 2 'timeout' logs/app
  logd grep -c --in json:/status '^5' -o @today logs/access
  logd grep -f --in header:trace -Q ab12 -F '%D %o %s\\n' logs/*-[0-9]*
  logd grep -q -o @-5m 'panic' logs/app && echo 'panic in the last five minutes'";

/// The definition.
pub fn command() -> Command {
    let count = |long, short, help| {
        let option = args::option(long, "N", help);
        option.short(short).allow_hyphen_values(false)
    };
    Command::new("grep")
        .override_usage("logd grep [OPTIONS] PATTERN LOG...")
        .args([
            args::switch("ignore-case", "Letters match whatever their case").short('i'),
            args::switch("invert-match", "Records that do not match").short('v'),
            args::switch("literal", "PATTERN is plain text").short('Q'),
            args::switch("count", "Print how many match; of several logs LOG:COUNT")
                .short('c')
                .conflicts_with("follow"),
            count("after-context", 'A', "As many records behind each match"),
            count("before-context", 'B', "As many records ahead of each match"),
            count("context", 'C', "As many records on both sides"),
            args::option(
                "in",
                "FIELD",
                "Where to look: value (default), key, header:NAME, json:/POINTER, column:N",
            )
            .allow_hyphen_values(false),
        ])
        .args(reading::options())
        .arg(args::reverse().conflicts_with("follow"))
        .arg(args::follow())
        .arg(
            args::operand("pattern", "PATTERN")
                .required(true)
                .help("What to look for"),
        )
        .arg(args::logs_anywhere().required(false))
        .after_help(EXAMPLES)
}

/// Runs it.
///
/// # Errors
/// Wrong usage, and what the first thing that cannot be told and passed over is.
pub fn run(ctx: &mut Context, m: &ArgMatches) -> Result<Outcome> {
    let asked = Asked::new(m)?;
    match args::flag(m, "follow") {
        true => asked.follow(ctx, m),
        false => asked.search(ctx, m),
    }
}

/// What is asked for.
struct Asked<'a> {
    logs: Vec<&'a OsStr>,
    quiet: bool,
    count: bool,
    limit: Option<u64>,
    around: Around,
    format: Format,
}

/// What became of the logs.
#[derive(Default)]
struct Ending {
    losses: bool,
    /// What is told, but does not count where something matched and nothing else is asked (`-q`).
    failed: Vec<Error>,
}

impl<'a> Asked<'a> {
    fn new(m: &'a ArgMatches) -> Result<Asked<'a>> {
        let logs = args::os_all(m, "log");
        let habit = Habit { m, logs: &logs };
        let format = reading::format(m).map_err(|e| habit.format(e))?;
        let limit = args::count(m, "limit").map_err(|e| habit.limit(e))?;
        if logs.is_empty() {
            return Err(habit.no_log());
        }
        let (quiet, count) = (args::flag(m, "quiet"), args::flag(m, "count"));
        let both = args::count(m, "context")?;
        let around = Around {
            before: args::count(m, "before-context")?.or(both).unwrap_or(0),
            after: args::count(m, "after-context")?.or(both).unwrap_or(0),
            separator: format == Format::Lines,
        };
        if !around.is_none() && format == Format::Batch {
            return Err(Error::usage(
                "-F batch has no place for records around a match; not with -A, -B or -C",
            ));
        }
        Ok(Asked {
            logs,
            quiet,
            count,
            limit: if quiet {
                Some(limit.map_or(1, |n| n.min(1)))
            } else {
                limit
            },
            around,
            format,
        })
    }

    /// The search, for one log or several.
    fn grep(&self, m: &ArgMatches, selection: Selection) -> Result<Grep> {
        let field = args::word(m, "in", Field::parse)?.unwrap_or(Field::Value);
        if let Field::Column(Column::Name(name)) = &field {
            return Err(Error::usage(format!(
                "--in column:{name}: rows in a log have no header row; say which column by its number"
            ))
            .hint("--in column:3"));
        }
        let options = PatternOptions {
            literal: args::flag(m, "literal"),
            ignore_case: args::flag(m, "ignore-case"),
        };
        let stored = match field {
            Field::Json(_) => Stored::Json,
            Field::Column(_) => Stored::Cell,
            Field::Key | Field::Value | Field::Header(_) => Stored::AsIs,
        };
        let pattern = args::os(m, "pattern").unwrap_or_default().as_bytes();
        let query = Query {
            pattern: Pattern::new(pattern, options, stored)?,
            field,
            invert: args::flag(m, "invert-match"),
            selection,
            want: match self.count || self.quiet {
                true => Want::Count,
                false if self.around.is_none() => Want::Matches,
                false => Want::All,
            },
            reverse: args::flag(m, "reverse"),
            limits: Limits::default(),
        };
        Ok(Grep::new(query, self.around, self.limit))
    }

    /// The emitter, searching.
    fn emitter(&self, ctx: &Context, m: &ArgMatches) -> Result<Emitter> {
        let silent = self.count || self.quiet;
        let format = if silent { &Format::Lines } else { &self.format };
        let mut grep = self.grep(m, reading::selection(m)?)?;
        if ctx.caller.after {
            grep.go_on();
        }
        let mut emitter = reading::emitter_of(ctx, m, format, Selection::default(), None)?;
        emitter.search(Box::new(grep));
        Ok(emitter)
    }

    /// Searches what is there, log by log.
    fn search(&self, ctx: &mut Context, m: &ArgMatches) -> Result<Outcome> {
        let mut emitter = self.emitter(ctx, m)?;
        let mut ending = Ending::default();
        let mut number = 0;
        'logs: for log in &self.logs {
            let matched = emitter.matched();
            let partitions = self.partitions(ctx, m, log, &mut ending)?;
            let is_there = !partitions.is_empty();
            for partition in partitions {
                reading::wait_for(ctx, m, &partition)?;
                let flow = self.one(ctx, m, &mut emitter, (&partition, number), &mut ending)?;
                number += 1;
                if flow == Flow::Full && (self.quiet || !self.count) {
                    break 'logs;
                }
            }
            if self.count && !self.quiet && is_there {
                self.tell_count(ctx, log, emitter.matched() - matched)?;
            }
        }
        reading::tell_newlines(ctx, &emitter);
        ctx.printed = emitter.matched();
        Ok(self.outcome(ctx, &emitter, ending))
    }

    fn partitions(
        &self,
        ctx: &mut Context,
        m: &ArgMatches,
        log: &OsStr,
        ending: &mut Ending,
    ) -> Result<Vec<Partition>> {
        match ctx.resolve(log, args::partitions(m)?.as_ref()) {
            Err(e) if e.kind() == ErrorKind::Usage => Err(e),
            Err(e) => {
                ending.failed.push(e);
                Ok(Vec::new())
            }
            found => found,
        }
    }

    /// Searches one partition.
    fn one(
        &self,
        ctx: &mut Context,
        m: &ArgMatches,
        emitter: &mut Emitter,
        (partition, number): (&Partition, usize),
        ending: &mut Ending,
    ) -> Result<Flow> {
        let options = reading::cat_options(ctx, m)?;
        let host = ctx.host.clone();
        let mut stdout = std::mem::take(&mut ctx.stdout);
        let mut sink = reading::Out::new(&mut stdout);
        let mut note = |n| ending.losses |= reading::tell(ctx, &n);
        let mut cat = Cat {
            host: &host,
            options: &options,
            emitter: &mut *emitter,
            sink: &mut sink,
            note: &mut note,
        };
        let read = grep::grep(&mut cat, partition, number);
        // What was found before an error is good, and goes out before it is told.
        let flushed = emitter.flush(&mut sink);
        ctx.stdout = stdout;
        flushed?;
        ctx.stdout.flush_now()?;
        match read {
            Err(e) if e.kind() == ErrorKind::ClosedPipe => Err(e),
            Err(e) => {
                ending.failed.push(e.at_path(&partition.path));
                Ok(Flow::More)
            }
            read => read,
        }
    }

    fn tell_count(&self, ctx: &mut Context, log: &OsStr, count: u64) -> Result<()> {
        let mut line = Vec::new();
        if self.logs.len() > 1 || ctx.caller.several {
            line.extend_from_slice(ctx.name_for_caller("").as_bytes());
            line.extend_from_slice(log.as_bytes());
            line.push(b':');
        }
        line.extend_from_slice(count.to_string().as_bytes());
        line.push(b'\n');
        ctx.stdout.put(&line)?;
        ctx.stdout.end_record()
    }

    /// Searches what is there and what comes next.
    fn follow(&self, ctx: &mut Context, m: &ArgMatches) -> Result<Outcome> {
        let mut emitter = self.emitter(ctx, m)?;
        let select = args::partitions(m)?;
        let (mut partitions, mut topics) = (Vec::new(), Vec::new());
        for log in &self.logs {
            let found = ctx.resolve(log, select.as_ref())?;
            topics.extend(reading::topic(ctx, log, select.is_none(), &found)?);
            partitions.extend(found);
        }
        for partition in &partitions {
            reading::wait_for(ctx, m, partition)?;
        }
        let options = TailOptions {
            read: reading::cat_options(ctx, m)?,
            last: None,
            follow: true,
            idle: None,
            pid: None,
            deadline: ctx.deadline,
            group: None,
            topics,
        };
        let mut ending = Ending::default();
        let ended = reading::run_tail(ctx, partitions, &options, &mut emitter, &mut ending.losses)?;
        match ended {
            Ended::TimedOut => Err(Error::new(ErrorKind::Timeout, "--timeout passed")),
            Ended::Done | Ended::Stopped(_) => Ok(self.outcome(ctx, &emitter, ending)),
        }
    }

    fn outcome(&self, ctx: &mut Context, emitter: &Emitter, ending: Ending) -> Outcome {
        let matched = emitter.matched() > 0;
        for e in &ending.failed {
            match matched && self.quiet {
                true => ctx.message.error(e), // as grep: the answer is yes, whatever else there is
                false => ctx.fail(e),
            }
        }
        match (matched, ending.losses) {
            (true, true) if self.quiet => Outcome::Done,
            (_, true) => Outcome::Losses,
            (true, false) => Outcome::Done,
            (false, false) => Outcome::No,
        }
    }
}

/// What an option means to whose fingers know grep.
struct Habit<'a> {
    m: &'a ArgMatches,
    logs: &'a [&'a OsStr],
}

impl Habit<'_> {
    /// `-F PATTERN`: plain text, there.
    fn format(&self, e: Error) -> Error {
        let word = args::text(self.m, "format").unwrap_or_default();
        let (pattern, log) = self.meant(word);
        Error::usage(e.to_string()).hint(format!(
            "logd grep -Q {pattern} {log}            (-F is how records look)"
        ))
    }

    /// `-n PATTERN`: line numbers, there.
    fn limit(&self, e: Error) -> Error {
        let word = args::text(self.m, "limit").unwrap_or_default();
        let (pattern, log) = self.meant(word);
        Error::usage(e.to_string()).hint(format!(
            "logd grep -F '%o:%s\\n' {pattern} {log}            (-n is a limit)"
        ))
    }

    /// No LOG: an option may have taken PATTERN, so that PATTERN took LOG. `-o PATTERN`: only what
    /// matched, there.
    fn no_log(&self) -> Error {
        let error = Error::usage("LOG is missing");
        match args::text(self.m, "from-offset") {
            Some(word) => {
                let (pattern, log) = self.meant(word);
                error.hint(format!(
                    "logd grep {pattern} {log} | grep -o {pattern}            (-o is where to start)"
                ))
            }
            None => error.hint("logd grep --help"),
        }
    }

    /// The pattern and the log that were meant, as a shell takes them, if `word` was to be the
    /// pattern.
    fn meant(&self, word: &str) -> (String, String) {
        let operand = args::os(self.m, "pattern").unwrap_or_default();
        let quoted = |w: &OsStr| quoted(&w.to_string_lossy());
        match self.logs.first() {
            None => (quoted(OsStr::new(word)), quoted(operand)),
            Some(log) => (quoted(operand), quoted(log)),
        }
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,@%+=".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_string(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}
