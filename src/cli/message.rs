//! The one door to stderr.
//!
//! Every message is `logd COMMAND: WHERE: what happened`, one line, escaped always (a name or a
//! payload in it cannot steer the terminal), then at most one line `hint: ...` that can be pasted.
//! Each message is one write, so lines of several processes do not mix.
//!
//! | verb | shown | for |
//! |---|---|---|
//! | [`Messages::error`] | always | what failed |
//! | [`Messages::warn`] | unless `-q` | what the user must know: losses, jumps |
//! | [`Messages::note`] | unless `-q` | said once: what waits, what is slow |
//! | [`Messages::explain`] | with `--verbose` | why it was done so |
//! | [`Messages::summary`] | on a terminal, unless `-q` | one line after a success |
//!
//! A failing write to stderr has nobody left to be told; it is dropped.

use super::caller::Report;
use crate::error::{Error, ErrorKind};
use crate::ops::output::escape::visible_string;
use std::io::{IsTerminal, Write};

/// Where words about data go, and how many of them.
#[derive(Clone, Debug)]
pub struct Messages {
    prefix: String,
    quiet: bool,
    verbose: bool,
    terminal: bool,
    color: bool,
    /// How this machine is called by whoever reads this elsewhere, with a colon.
    at: String,
}

impl Messages {
    /// Messages of `logd COMMAND`; `command` is empty before one is known.
    pub fn new(command: &str) -> Messages {
        let blank = if command.is_empty() { "" } else { " " };
        let terminal = std::io::stderr().is_terminal();
        Messages {
            prefix: format!("logd{blank}{command}"),
            quiet: false,
            verbose: false,
            terminal,
            color: false,
            at: String::new(),
        }
    }

    /// Tells who reads this on another machine: how this one is called there, and whether they see a
    /// terminal.
    pub(super) fn set_reader(&mut self, host: &str, terminal: bool) {
        (self.at, self.terminal) = (format!("{host}:"), terminal);
    }

    /// Sets what `-q`, `--verbose` and `--color` ask for.
    pub(super) fn set(&mut self, quiet: bool, verbose: bool, color: bool) {
        (self.quiet, self.verbose, self.color) = (quiet, verbose, color);
    }

    /// Whether stderr is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether it is coloured.
    pub(super) fn is_colored(&self) -> bool {
        self.color
    }

    /// Only errors are wanted.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Tells an error and its hint. A closed pipe is a normal end and is not told.
    pub fn error(&self, e: &Error) {
        if e.kind() != ErrorKind::ClosedPipe {
            match e.path().is_some() && !self.at.is_empty() {
                // A name, and with the host before it the name it has there.
                true => self.place_line(&format!("{}{e}", self.at), e.hint_text()),
                false => self.line(&e.to_string(), e.hint_text()),
            }
        }
    }

    /// Tells what the user must know although the work goes on.
    pub fn warn(&self, what: impl AsRef<str>) {
        if !self.quiet {
            self.line(what.as_ref(), None);
        }
    }

    /// As [`Messages::warn`], with a line that can be pasted.
    pub fn warn_with_hint(&self, what: impl AsRef<str>, hint: &str) {
        if !self.quiet {
            self.line(what.as_ref(), Some(hint));
        }
    }

    /// Tells what explains a pause or a choice, once.
    pub fn note(&self, what: impl AsRef<str>) {
        self.warn(what);
    }

    /// Tells why something was done so, if `--verbose` asks; the words are made only then.
    pub fn explain(&self, what: impl FnOnce() -> String) {
        if self.verbose && !self.quiet {
            self.line(&what(), None);
        }
    }

    /// Tells a success, to a person at a terminal only.
    pub fn summary(&self, what: impl FnOnce() -> String) {
        if self.terminal && !self.quiet {
            self.line(&what(), None);
        }
    }

    /// Writes one line as it is, escaped: progress.
    pub fn progress(&self, what: &str) {
        self.line(what, None);
    }

    /// Tells a logd on another machine how much was printed.
    pub(super) fn report(&self, report: Report) {
        let _ = std::io::stderr().write_all(report.line().as_bytes());
    }

    fn line(&self, what: &str, hint: Option<&str>) {
        match self.at.as_str() {
            "" => self.place_line(what, hint),
            at => self.place_line(&format!("{at} {what}"), hint),
        }
    }

    fn place_line(&self, what: &str, hint: Option<&str>) {
        let _ = std::io::stderr().write_all(self.render(what, hint).as_bytes());
    }

    /// The message as it is written, newline included.
    fn render(&self, what: &str, hint: Option<&str>) -> String {
        let (bold, faint, off) = match self.color {
            true => ("\x1b[1m", "\x1b[36m", "\x1b[0m"),
            false => ("", "", ""),
        };
        let mut out = format!("{bold}{}:{off} ", self.prefix);
        out.push_str(&visible_string(what.as_bytes()));
        out.push('\n');
        if let Some(hint) = hint {
            out.push_str(&format!("{faint}hint:{off} "));
            if !self.at.is_empty() && hint.starts_with("logd ") {
                out.push_str(&visible_string(format!("on {} ", self.at).as_bytes()));
            }
            out.push_str(&visible_string(hint.as_bytes()));
            out.push('\n');
        }
        out
    }
}

/// Makes a panic one line that calls it what it is, a bug, and ends the process with that status.
/// `command` is what the line names.
pub(super) fn install_panic_hook(command: &'static str) {
    std::panic::set_hook(Box::new(move |info| {
        let place = match info.location() {
            Some(l) => format!("{}:{}: ", l.file(), l.line()),
            None => String::new(),
        };
        let what = info.payload_as_str().unwrap_or("panic");
        let messages = Messages::new(command);
        messages.line(&format!("{place}bug in logd: {what}"), None);
        std::process::exit(super::Exit::Bug.code().into());
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_one_escaped_line_and_a_hint() {
        let m = Messages::new("append");
        assert_eq!(
            m.render("or\nders\x1b[2J: no such log", Some("logd init 'or\x07'")),
            "logd append: or\\x0aders\\x1b[2J: no such log\nhint: logd init 'or\\x07'\n"
        );
        assert_eq!(
            Messages::new("").render("no command", None),
            "logd: no command\n"
        );
    }

    #[test]
    fn color_marks_the_prefix_and_the_hint_only() {
        let mut m = Messages::new("ls");
        m.set(false, false, true);
        assert_eq!(
            m.render("x", Some("y")),
            "\x1b[1mlogd ls:\x1b[0m x\n\x1b[36mhint:\x1b[0m y\n"
        );
    }
}
