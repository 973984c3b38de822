//! `logd man`: manual pages, written by walking the definitions of the commands.
//!
//! `logd.1` is the overview with the words that all commands share, `logd-COMMAND.1` one command,
//! and `logd-format.5` and `logd-protocol.5`, which are written by hand, the directory on disk and what
//! two hosts say to each other.

use super::{COMMANDS, Context, Entry, Outcome, args, definition, entry, exit, help};
use crate::error::{Error, Result};
use clap::{ArgMatches, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::Path;

const FORMAT_PAGE: &str = include_str!("../../man/logd-format.5");
const PROTOCOL_PAGE: &str = include_str!("../../man/logd-protocol.5");
const MANUAL: &str = "logd manual";
const SOURCE: &str = concat!("logd ", env!("CARGO_PKG_VERSION"));

const EXAMPLES: &str = "\
Examples:
  logd man append | man -l -
  logd man --all ~/.local/share/man/man1";

/// The definition.
pub fn command() -> Command {
    Command::new("man")
        .long_about(
            "Prints a manual page: of COMMAND, of format (the directory on disk), or logd(1), which \
             has what all commands share.",
        )
        .arg(
            args::option("all", "DIR", "Write every page into DIR")
                .conflicts_with("command")
                .value_parser(clap::value_parser!(std::ffi::OsString)),
        )
        .arg(args::operand("command", "COMMAND").help("The page of this command, or format"))
        .after_help(EXAMPLES)
}

/// Prints a page, or writes all.
pub fn run(ctx: &mut Context, matches: &ArgMatches) -> Result<Outcome> {
    if let Some(dir) = args::os(matches, "all") {
        write_all(Path::new(dir))?;
        return Ok(Outcome::Done);
    }
    let name = args::os(matches, "command").unwrap_or(OsStr::new("logd"));
    let name = name.to_string_lossy();
    let text = match (&*name, entry(&name)) {
        ("logd", _) => overview_page(),
        ("format" | "logd-format", _) => FORMAT_PAGE.to_string(),
        ("protocol" | "logd-protocol", _) => PROTOCOL_PAGE.to_string(),
        (_, Some(entry)) => command_page(entry),
        (_, None) => {
            return Err(Error::usage(format!("{name}: no such command")).hint("logd help"));
        }
    };
    ctx.stdout.put(text.as_bytes())?;
    Ok(Outcome::Done)
}

/// Every page: the name of its file, and its text.
pub fn pages() -> Vec<(String, String)> {
    let mut pages = vec![
        ("logd.1".to_string(), overview_page()),
        ("logd-format.5".to_string(), FORMAT_PAGE.to_string()),
        ("logd-protocol.5".to_string(), PROTOCOL_PAGE.to_string()),
    ];
    for entry in COMMANDS {
        pages.push((format!("logd-{}.1", entry.name), command_page(entry)));
    }
    pages
}

fn write_all(dir: &Path) -> Result<()> {
    for (name, text) in pages() {
        let path = dir.join(name);
        // Pages are made anew at will: nothing is lost when a write is cut short.
        std::fs::write(&path, text).map_err(|e| Error::io("cannot write", e).at_path(path))?;
    }
    Ok(())
}

/// The page of one command.
fn command_page(entry: &Entry) -> String {
    let name = format!("logd-{}", entry.name);
    let mut command = definition(entry);
    let examples = command.get_after_help().map(ToString::to_string);
    let long = command.get_long_about().map(ToString::to_string);
    command = command.after_help("");
    let man = Man::new(command.clone())
        .title(&name)
        .section("1")
        .date("")
        .source(SOURCE)
        .manual(MANUAL);
    let mut page = Page::new(&name);
    page.section("NAME");
    page.line(&format!("{name} - {}", entry.about));
    page.section("SYNOPSIS");
    let usage = command.render_usage().to_string();
    page.line(usage.trim_start_matches("Usage: "));
    if let Some(long) = long {
        page.section("DESCRIPTION");
        page.text(&long);
    }
    page.rendered(|out| man.render_options_section(out));
    if let Some(examples) = examples {
        page.section("EXAMPLES");
        page.text(examples.trim_start_matches("Examples:\n"));
    }
    page.section("EXIT STATUS");
    page.line("See logd(1).");
    page.section("SEE ALSO");
    page.line("logd(1), logd-format(5)");
    page.text
}

fn overview_page() -> String {
    let mut page = Page::new("logd");
    page.section("NAME");
    page.line("logd - commit logs as plain directories");
    page.section("SYNOPSIS");
    page.rendered(|out| {
        Roff::new()
            .text([bold("logd"), roman(" COMMAND [OPTIONS] LOG...")])
            .to_writer(out)
    });
    page.section("DESCRIPTION");
    page.text(
        "logd works on commit logs kept as directories of segments in the on-disk format of Apache\n\
         Kafka. There is no daemon: every command opens the directory, does one job and exits. Data\n\
         goes to stdout, words about data go to stderr.\n\n\
         Options and operands come in any order; -- ends options; - is stdin or stdout. Long options\n\
         are never abbreviated, and of an option given twice the last one counts. logd never asks a\n\
         question.",
    );
    page.section("COMMANDS");
    for entry in COMMANDS {
        page.item(&format!("logd-{}(1)", entry.name), entry.about);
    }
    for topic in help::TOPICS.iter().filter(|t| t.name != "exit-codes") {
        page.section(&topic.name.to_uppercase());
        let text = topic.text();
        // The first line is the topic's heading, which the section has.
        let body = text.split_once("\n\n").map_or("", |(_, body)| body);
        page.text(body);
    }
    page.section("EXIT STATUS");
    for (exit, meaning) in exit::TABLE {
        page.item(&exit.code().to_string(), meaning);
    }
    page.item("128+N", "ended by signal N (130 ^C, 143 TERM)");
    page.section("ENVIRONMENT");
    for (name, meaning) in ENVIRONMENT {
        page.item(name, meaning);
    }
    page.section("FILES");
    page.item(
        "TOPIC-N/",
        "one partition; logd-format(5) tells what is in it",
    );
    page.item(
        "TOPIC-N/.logd/config.toml",
        "settings of the log, written by logd init",
    );
    page.item(
        "$XDG_CONFIG_HOME/logd/config.toml",
        "settings for logs that do not say otherwise (~/.config if the variable is not set)",
    );
    page.section("SEE ALSO");
    page.line("logd-format(5)");
    page.text
}

const ENVIRONMENT: [(&str, &str); 7] = [
    ("LOGD_DIR", "base of relative LOG names"),
    (
        "LOGD_CONFIG",
        "settings file instead of the one below $XDG_CONFIG_HOME",
    ),
    (
        "LOGD_SSH",
        "what reaches other hosts, split at blanks [default: ssh]",
    ),
    ("NO_COLOR", "if not empty: no colours"),
    (
        "CLICOLOR_FORCE",
        "if neither empty nor 0: colours to pipes and files too",
    ),
    ("TZ", "time zone of local times"),
    ("COLUMNS", "width of help"),
];

/// A page as it is put together.
struct Page {
    text: String,
}

impl Page {
    fn new(name: &str) -> Page {
        let section = "1";
        let name = name.to_uppercase().replace('-', "\\-");
        Page {
            text: format!(
                ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n\
                 .TH {name} {section} \"\" \"{SOURCE}\" \"{MANUAL}\"\n"
            ),
        }
    }

    fn section(&mut self, title: &str) {
        let _ = writeln!(self.text, ".SH \"{title}\"");
    }

    /// What clap_mangen writes.
    fn rendered(&mut self, write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) {
        let mut out = Vec::new();
        let _ = write(&mut out); // memory takes everything
        let text = String::from_utf8_lossy(&out);
        // Its preamble, two requests for groff's quotes, is wanted once at most.
        for line in text
            .lines()
            .filter(|l| !l.starts_with(".ie ") && !l.starts_with(".el "))
        {
            let _ = writeln!(self.text, "{}", line.trim_end());
        }
    }

    /// One line of filled text.
    fn line(&mut self, text: &str) {
        let _ = writeln!(self.text, "{}", escaped(text));
    }

    fn item(&mut self, term: &str, text: &str) {
        let _ = writeln!(
            self.text,
            ".TP\n\\fB{}\\fR\n{}",
            escaped(term),
            escaped(text)
        );
    }

    /// Paragraphs: those that begin with a blank are shown as they are, others are filled.
    fn text(&mut self, text: &str) {
        for paragraph in text.trim_end().split("\n\n") {
            let as_is = paragraph.starts_with(' ');
            self.text
                .push_str(if as_is { ".PP\n.nf\n" } else { ".PP\n" });
            for line in paragraph.trim_end().lines() {
                self.line(line);
            }
            if as_is {
                self.text.push_str(".fi\n");
            }
        }
    }
}

/// Text as roff shows it literally.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_literal_in_a_page() {
        assert_eq!(escaped(".TH \\n --x"), "\\&.TH \\en \\-\\-x");
        let mut page = Page::new("logd-x");
        page.text("fill\nthis\n\n  as\n  it is");
        let body = page.text.split_once("manual\"\n").unwrap().1;
        assert_eq!(body, ".PP\nfill\nthis\n.PP\n.nf\n  as\n  it is\n.fi\n");
    }

    #[test]
    fn every_page_of_a_command_has_examples() {
        for entry in COMMANDS {
            let page = command_page(entry);
            assert!(page.contains(".SH \"EXAMPLES\""), "{}", entry.name);
            assert!(
                page.contains(".SH \"SYNOPSIS\"") && page.contains(".SH OPTIONS"),
                "{}",
                entry.name
            );
        }
    }
}
