//! What a command is told about the process that asked for it from another machine.
//!
//! `logd cat web1:orders` runs `logd cat --caller WORDS -- orders` on web1. Output is to be what it
//! would be here, so WORDS say what that logd cannot see: whether a person reads it, the zone of local
//! times, what was printed before. They are blank-separated and only grow; an unknown one is ignored.
//!
//! | word | means |
//! |---|---|
//! | `host=NAME` | how this machine is called there: put before names of logs and files |
//! | `out`, `err` | stdout, stderr is a terminal |
//! | `color=LIST` | `o`, `e`: stdout, stderr is to be coloured |
//! | `zone=NAME` | the zone of local times: a name, or a POSIX rule |
//! | `several` | there are other logs: what is printed names its log |
//! | `after` | something was printed before: no header row now, and marks between |
//! | `report` | tell at the end, by one line on stderr that begins with 0x1e, how much was printed |
//! | `cells` | print tables as JSON for [`super::table`] |
//!
//! The option is no part of the stable surface: it is for another logd, and never shown.

use super::args;
use clap::Arg;

/// What the line of a report begins with: no message begins so, since messages are escaped.
pub(super) const REPORT_MARK: &str = "\x1elogd ";

/// The words of `--caller`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// How this machine is called by whoever asks; empty if nobody does.
    pub host: String,
    /// Stdout is a terminal.
    pub out: bool,
    /// Stderr is a terminal.
    pub err: bool,
    /// Stdout is to be coloured.
    pub color_out: bool,
    /// Stderr is to be coloured.
    pub color_err: bool,
    /// The zone of local times.
    pub zone: Option<String>,
    /// There are other logs than those named here.
    pub several: bool,
    /// Something was printed before.
    pub after: bool,
    /// A report is wanted.
    pub report: bool,
    /// Tables are for another logd.
    pub cells: bool,
}

/// How much was printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Records that count for `--limit`.
    pub records: u64,
    /// Anything was printed at all.
    pub begun: bool,
}

/// The option.
pub(super) fn option() -> Arg {
    args::option("caller", "WORDS", "For another logd").hide(true)
}

impl Caller {
    /// Reads the words.
    pub fn parse(words: &str) -> Caller {
        let mut caller = Caller::default();
        for word in words.split(' ') {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "host" => caller.host = value.to_string(),
                "out" => caller.out = true,
                "err" => caller.err = true,
                "color" => {
                    caller.color_out = value.contains('o');
                    caller.color_err = value.contains('e');
                }
                "zone" => caller.zone = Some(value.to_string()),
                "several" => caller.several = true,
                "after" => caller.after = true,
                "report" => caller.report = true,
                "cells" => caller.cells = true,
                _ => {}
            }
        }
        caller
    }

    /// The words.
    pub fn words(&self) -> String {
        let mut out = format!("host={}", self.host);
        let flags = [
            (self.out, " out"),
            (self.err, " err"),
            (self.color_out || self.color_err, " color="),
            (self.color_out, "o"),
            (self.color_err, "e"),
            (self.several, " several"),
            (self.after, " after"),
            (self.report, " report"),
            (self.cells, " cells"),
        ];
        for (_, word) in flags.iter().filter(|(on, _)| *on) {
            out.push_str(word);
        }
        let blank = |z: &&String| z.contains(|c: char| c.is_whitespace() || c.is_control());
        if let Some(zone) = self.zone.as_ref().filter(|z| !blank(z)) {
            out.push_str(&format!(" zone={zone}"));
        }
        out
    }
}

impl Report {
    /// The line of it.
    pub fn line(self) -> String {
        let begun = if self.begun { " begun" } else { "" };
        format!("{REPORT_MARK}records={}{begun}\n", self.records)
    }

    /// Reads the line, without its mark.
    pub fn parse(line: &str) -> Report {
        let mut report = Report::default();
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some(("records", n)) => report.records = n.parse().unwrap_or(0),
                None if word == "begun" => report.begun = true,
                _ => {}
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_as_they_were_written() {
        let all = Caller {
            host: "ops@[fe80::1]".into(),
            out: true,
            err: true,
            color_out: false,
            color_err: true,
            zone: Some("CET-1CEST,M3.5.0,M10.5.0/3".into()),
            several: true,
            after: true,
            report: true,
            cells: true,
        };
        assert_eq!(Caller::parse(&all.words()), all);
        let one = Caller {
            host: "web1".into(),
            ..Caller::default()
        };
        assert_eq!(one.words(), "host=web1");
        assert_eq!(Caller::parse(&one.words()), one);
    }

    #[test]
    fn what_a_later_version_says_is_ignored_and_a_zone_is_one_word() {
        let caller = Caller::parse("host=a new=1 newer out");
        assert!(caller.out && caller.host == "a");
        let odd = Caller {
            zone: Some("x several".into()),
            ..Caller::default()
        };
        assert_eq!(odd.words(), "host=");
    }

    #[test]
    fn reports_are_read_as_they_were_written() {
        for (records, begun) in [(0, false), (7, true)] {
            let report = Report { records, begun };
            let line = report.line();
            let line = line.strip_prefix(REPORT_MARK).unwrap();
            assert_eq!(Report::parse(line), report);
        }
        assert_eq!(Report::parse("records=x nonsense"), Report::default());
    }
}
