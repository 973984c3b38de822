//! What every command is handed: the machine, its streams, and what the shared options and the
//! environment say.

use super::args;
use super::message::Messages;
use super::stdio::Stdout;
use super::{Exit, message};
use crate::error::{Error, ErrorKind, Result};
use crate::sys::{Host, RealHost};
use clap::ArgMatches;
use std::ffi::OsStr;
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
    skip_if_locked: bool,
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
            skip_if_locked: false,
            worst: Exit::Done,
        }
    }

    /// Takes in the shared options.
    ///
    /// # Errors
    /// Usage, for a `--timeout` that is no duration.
    pub(super) fn set(&mut self, matches: &ArgMatches) -> Result<()> {
        let color = When::of(matches, "color");
        let on = |terminal| match color {
            When::Always => true,
            When::Never => false,
            When::Auto => color_by_environment(terminal),
        };
        self.color = on(self.stdout.is_terminal());
        let stderr = on(self.message.is_terminal());
        let (quiet, verbose) = (args::flag(matches, "quiet"), args::flag(matches, "verbose"));
        self.message.set(quiet, verbose, stderr);
        self.json = args::flag(matches, "json");
        self.progress = When::of(matches, "progress");
        self.skip_if_locked = args::flag(matches, "skip-if-locked");
        Ok(())
    }

    /// The path that a LOG operand means: relative ones lie below `$LOGD_DIR`.
    pub fn path(&self, name: &OsStr) -> PathBuf {
        match &self.base {
            Some(base) => base.join(name), // an absolute name replaces the base
            None => Path::new(name).to_path_buf(),
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

    /// The worst status of what was told so far.
    pub fn worst(&self) -> Exit {
        self.worst
    }

    /// Time left until `--timeout` passes; `None` if there is no limit.
    pub fn time_left(&self) -> Option<Duration> {
        Some(self.deadline?.saturating_duration_since(Instant::now()))
    }
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
