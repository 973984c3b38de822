//! What every command is handed: the machine, its streams, and what the shared options and the
//! environment say.

use super::args;
use super::caller::{Caller, Report};
use super::message::Messages;
use super::stdio::Stdout;
use super::table::Gathered;
use super::{Exit, message};
use crate::error::{Error, ErrorKind, Result};
use crate::format::TimestampMs;
use crate::ops::settings::{self, CONFIG_BYTES_MAX, Document, Layered, Words};
use crate::ops::topic::{self, Partition};
use crate::ops::words::time::zone_named;
use crate::ops::words::{Now, Partitions};
use crate::sys::confined::ConfinedHost;
use crate::sys::user::{self, Who};
use crate::sys::{Dir, Host, RealHost};
use clap::ArgMatches;
use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// `auto`, `always` or `never`, of `--color` and `--progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Where a person looks.
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

impl When {
    pub(super) fn of(matches: &ArgMatches, id: &str) -> When {
        match args::text(matches, id) {
            Some("always") => When::Always,
            Some("never") => When::Never,
            _ => When::Auto,
        }
    }
}

/// The machine, for whoever needs it for longer than a command's context lives.
pub type SharedHost = Arc<dyn Host>;

/// One run of one command.
pub struct Context {
    /// The machine.
    pub host: Arc<dyn Host>,
    /// Standard output.
    pub stdout: Stdout,
    /// Standard error.
    pub message: Messages,
    /// `--json`: reports are one JSON object per line.
    pub json: bool,
    /// `--progress`.
    pub progress: When,
    /// Standard output is to be coloured.
    pub color: bool,
    /// When `--timeout` passes.
    pub deadline: Option<Instant>,
    /// `$LOGD_DIR`.
    pub base: Option<PathBuf>,
    /// Who asked from another machine; empty words for whoever is on this one.
    pub caller: Caller,
    /// Only what is below one directory may be seen: nothing is asked of other machines.
    pub confined: bool,
    /// Records printed that count for `--limit`, told by commands that print records.
    pub printed: u64,
    /// Where tables are gathered instead of printed.
    pub(super) tables: Option<Vec<Gathered>>,
    skip_if_locked: bool,
    worst: Exit,
}

/// What one of several parts of a command puts aside of the whole.
pub(super) struct Outer {
    worst: Exit,
}

impl Context {
    /// A context for `command`, with this machine and these streams.
    pub(super) fn new(command: &str) -> Context {
        Context {
            host: Arc::new(RealHost),
            stdout: Stdout::new(),
            message: message::Messages::new(command),
            json: false,
            progress: When::Auto,
            color: false,
            deadline: None,
            base: env_path("LOGD_DIR"),
            caller: Caller::default(),
            confined: false,
            printed: 0,
            tables: None,
            skip_if_locked: false,
            worst: Exit::Done,
        }
    }

    /// A context for `command` that knows of the working directory and nothing else.
    ///
    /// # Errors
    /// It cannot be opened.
    pub(super) fn confined(command: &str) -> Result<Context> {
        let host = ConfinedHost::here().map_err(|e| Error::io("cannot open", e).at_path("."))?;
        Ok(Context {
            host: Arc::new(host),
            base: None,
            confined: true,
            ..Context::new(command)
        })
    }

    /// Takes in the shared options.
    ///
    /// # Errors
    /// Usage, for a `--timeout` that is no duration.
    pub(super) fn set(&mut self, matches: &ArgMatches) -> Result<()> {
        if let Some(words) = args::text(matches, "caller") {
            self.caller = Caller::parse(words);
            self.stdout.set_terminal(self.caller.out);
            let Caller { host, err, .. } = &self.caller;
            self.message.set_reader(host, *err);
        }
        let color = When::of(matches, "color");
        let on = |terminal| match color {
            When::Always => true,
            When::Never => false,
            When::Auto => color_by_environment(terminal),
        };
        self.color = self.caller.color_out || on(self.stdout.is_terminal());
        let stderr = self.caller.color_err || on(self.message.is_terminal());
        let (quiet, verbose) = (args::flag(matches, "quiet"), args::flag(matches, "verbose"));
        self.message.set(quiet, verbose, stderr);
        self.json = args::flag(matches, "json");
        self.progress = When::of(matches, "progress");
        self.skip_if_locked = args::flag(matches, "skip-if-locked");
        let timeout = args::duration(matches, "timeout", "s")?;
        self.deadline = timeout.and_then(|d| Instant::now().checked_add(d));
        Ok(())
    }

    /// The partitions that a LOG operand means, narrowed by `-p`.
    ///
    /// # Errors
    /// As [`topic::resolve`].
    pub fn resolve(&self, log: &OsStr, select: Option<&Partitions>) -> Result<Vec<Partition>> {
        topic::resolve(&*self.host, self.base.as_deref(), log, select)
    }

    /// The path of a log that is to be made.
    ///
    /// # Errors
    /// As [`topic::local_path`].
    pub fn path(&self, log: &OsStr) -> Result<PathBuf> {
        topic::local_path(log, self.base.as_deref())
    }

    /// The moment that relative times are counted from, in the user's time zone.
    pub fn now(&self) -> Now {
        let now = TimestampMs(self.host.wall_ms());
        match self.caller.zone.as_deref().map(zone_named) {
            Some(Some(zone)) => Now::in_zone(now, zone),
            Some(None) => {
                self.message.explain(|| {
                    "the zone of local times is not known here; that of this machine is taken"
                        .into()
                });
                Now::new(now)
            }
            None => Now::new(now),
        }
    }

    /// A name or label as whoever asked would write it: with this machine's name before it, for one
    /// elsewhere.
    pub fn name_for_caller<'a>(&self, name: &'a str) -> Cow<'a, str> {
        match self.caller.host.as_str() {
            "" => Cow::Borrowed(name),
            host => Cow::Owned(format!("{host}:{name}")),
        }
    }

    /// How much was printed since the last report.
    pub(super) fn report(&mut self) -> Report {
        Report {
            records: std::mem::take(&mut self.printed),
            begun: self.stdout.take_begun(),
        }
    }

    /// Begins a part of a command that is asked of several machines.
    pub(super) fn begin_part(&mut self, caller: Caller) -> Outer {
        self.caller = caller;
        Outer {
            worst: std::mem::replace(&mut self.worst, Exit::Done),
        }
    }

    /// Ends it; returns the worst status of what it told.
    pub(super) fn end_part(&mut self, outer: Outer) -> Exit {
        std::mem::replace(&mut self.worst, outer.worst)
    }

    /// Remembers a status that was told elsewhere.
    pub(super) fn note(&mut self, exit: Exit) {
        self.worst = self.worst.max(exit);
    }

    /// The user's own settings: `$LOGD_CONFIG`, else `logd/config.toml` below `$XDG_CONFIG_HOME`
    /// (`~/.config`). Empty without such a file, unless `$LOGD_CONFIG` names it.
    ///
    /// # Errors
    /// `Config`, when the file cannot be read or understood.
    pub fn user_words(&self) -> Result<Words> {
        if self.confined {
            return Ok(Words::default()); // they lie elsewhere
        }
        let named = env_path("LOGD_CONFIG");
        let home = || Some(env_path("HOME")?.join(".config"));
        let usual = || {
            Some(
                env_path("XDG_CONFIG_HOME")
                    .or_else(home)?
                    .join("logd/config.toml"),
            )
        };
        let Some(path) = named.clone().or_else(usual) else {
            return Ok(Words::default());
        };
        let text = match read_text(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && named.is_none() => String::new(),
            text => text.map_err(|e| {
                let error = Error::io("cannot read", e).at_path(&path);
                error.with_kind(ErrorKind::Config)
            })?,
        };
        let document = Document::parse(&text).map_err(|e| e.at_path(&path))?;
        self.warn_unknown(&document, &path);
        Ok(document.words)
    }

    /// The user that runs this.
    pub fn who(&self) -> Who {
        user::who()
    }

    /// All settings of the partition `dir`, with `options` on top. Unknown keys are told.
    ///
    /// # Errors
    /// `Config`, for a file that cannot be understood.
    pub fn settings(&self, dir: &dyn Dir, options: &Words) -> Result<Layered> {
        let document = settings::read(dir)?;
        self.warn_unknown(&document, dir.path());
        settings::layered(options, &document.words, &self.user_words()?)
    }

    fn warn_unknown(&self, document: &Document, path: &Path) {
        let names: Vec<&str> = document.unknown().collect();
        if !names.is_empty() {
            let path = path.display();
            self.message
                .warn(format!("{path}: unknown settings: {}", names.join(", ")));
        }
    }

    /// Tells `error` and remembers its status, so that the other inputs still get their turn.
    pub fn fail(&mut self, error: &Error) {
        if error.kind() == ErrorKind::Locked && self.skip_if_locked {
            return;
        }
        self.message.error(error);
        self.worst = self.worst.max(error.kind().into());
    }

    /// `--skip-if-locked`: what is locked is no error.
    pub(super) fn skips_locked(&self) -> bool {
        self.skip_if_locked
    }

    /// The worst status of what was told so far.
    pub fn worst(&self) -> Exit {
        self.worst
    }

    /// Time left until `--timeout` passes; `None` if there is no limit.
    pub fn time_left(&self) -> Option<Duration> {
        Some(self.deadline?.saturating_duration_since(Instant::now()))
    }
}

/// The text of a settings file, of bounded size.
fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let limit = CONFIG_BYTES_MAX as u64;
    let file = std::fs::File::open(path)?;
    if file.take(limit + 1).read_to_string(&mut text)? as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too large"));
    }
    Ok(text)
}

/// A path from the environment; an empty variable is none.
pub(super) fn env_path(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name)?;
    (!value.is_empty()).then(|| value.into())
}

/// `NO_COLOR` beats `CLICOLOR_FORCE` beats the terminal; both count when they are not empty.
fn color_by_environment(terminal: bool) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|v| !v.is_empty() && v != "0");
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    !no_color && (terminal || set("CLICOLOR_FORCE"))
}
