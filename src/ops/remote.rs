//! Commands for other machines: ssh started, words quoted for whatever shell is there, and taken
//! apart again without one.
//!
//! sshd hands the command of a client to the login shell of the account as one line. That line is made
//! of words in single quotes, in which no shell looks for anything. Two bytes are written outside of
//! them: a quote, and a backslash, which fish takes for an escape even there. So one line means the
//! same words to sh, bash, zsh, ksh and fish, and to [`split`]:
//!
//! ```text
//! LINE  = WORD {BLANK WORD}
//! WORD  = PIECE {PIECE}
//! PIECE = "'" any bytes but "'" "'" | "\'" | "\\" | bytes that mean nothing to a shell
//! ```
//!
//! (csh cannot have a newline in quotes; it refuses such a line as a whole.)
//!
//! [`split`] is for a key that may do one thing only: sshd puts the line of the client into
//! `SSH_ORIGINAL_COMMAND` and runs a fixed command instead, ours, which looks at the words without any
//! shell.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::Command;

use crate::error::{Error, ErrorKind, Result};
use crate::ops::words::LogName;

/// Longest line that [`split`] takes: no exec of Linux hands over a longer word.
const LINE_BYTES_MAX: usize = 128 << 10;

/// The program that reaches other machines, with the words that go before the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ssh {
    program: OsString,
    options: Vec<OsString>,
}

impl Ssh {
    /// What `$LOGD_SSH` says, split at blanks; `ssh` where it says nothing.
    pub fn new(text: Option<&OsStr>) -> Ssh {
        let text = text.map(OsStrExt::as_bytes).unwrap_or_default();
        let words = text.split(u8::is_ascii_whitespace);
        let words = words.filter(|w| !w.is_empty());
        let mut words = words.map(|w| OsStr::from_bytes(w).to_os_string());
        let program = words.next().unwrap_or_else(|| "ssh".into());
        Ssh {
            program,
            options: words.collect(),
        }
    }

    /// The command that runs `words` on `host`, its streams not yet said. No terminal is asked for there,
    /// whatever the settings of ssh say: one would change bytes.
    pub fn command(&self, host: &str, words: &[OsString]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.options).args(["-T", "--", host]);
        command.arg(OsString::from_vec(line(words)));
        command
    }

    /// The error of a program that cannot be started.
    pub fn cannot_start(&self, host: &str, e: std::io::Error) -> Error {
        let what = format!("cannot run {}", self.program.to_string_lossy());
        let error = Error::io(what, e).with_kind(ErrorKind::Unreachable);
        error.at_path(host).hint("LOGD_SSH=/usr/bin/ssh")
    }
}

/// A line of a shell that means these words.
pub fn line(words: &[OsString]) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, word) in words.iter().enumerate() {
        if i > 0 {
            out.push(b' ');
        }
        quote(word.as_bytes(), &mut out);
    }
    out
}

fn quote(word: &[u8], out: &mut Vec<u8>) {
    out.push(b'\'');
    for byte in word {
        match byte {
            b'\'' => out.extend_from_slice(br"'\''"),
            b'\\' => out.extend_from_slice(br"'\\'"),
            b => out.push(*b),
        }
    }
    out.push(b'\'');
}

/// Whether a byte outside of quotes means itself to every shell.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte >= 0x80 || b"-_./:=,@%+".contains(&byte)
}

/// The words of a line that [`line`] made, or that somebody wrote in the same way.
///
/// # Errors
/// `Permission`, for anything that would mean more than itself to a shell.
pub fn split(line: &[u8]) -> Result<Vec<OsString>> {
    let refused = |what: String| Err(Error::new(ErrorKind::Permission, what));
    if line.len() > LINE_BYTES_MAX {
        return refused("the command is too long".into());
    }
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut rest = line;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after.first()) {
            (b' ', _) => words.extend(word.take()),
            (b'\'', _) => {
                let Some(end) = memchr::memchr(b'\'', after) else {
                    return refused("the command ends inside quotes".into());
                };
                let (quoted, after) = after.split_at(end);
                word.get_or_insert_default().extend_from_slice(quoted);
                rest = after.get(1..).unwrap_or_default();
            }
            (b'\\', Some(next @ (b'\'' | b'\\'))) => {
                word.get_or_insert_default().push(*next);
                rest = after.get(1..).unwrap_or_default();
            }
            (b, _) if is_plain(*b) => word.get_or_insert_default().push(*b),
            (b, _) => {
                let shown = char::from(*b).escape_default();
                return refused(format!("the command holds {shown} outside single quotes"));
            }
        }
    }
    words.extend(word);
    Ok(words.into_iter().map(OsString::from_vec).collect())
}

/// How a host is written before the colon of an operand.
pub fn host_word(host: &str) -> String {
    match host.rsplit_once('@') {
        Some((user, name)) if name.contains(':') => format!("{user}@[{name}]"),
        None if host.contains(':') => format!("[{host}]"),
        _ => host.to_string(),
    }
}

/// A log's name as an operand for the machine it is on, where it is to mean nothing but a path.
pub fn local_word(path: &OsStr) -> OsString {
    match LogName::parse(path) {
        Ok(LogName::Local(_)) => path.to_os_string(),
        _ => {
            let mut word = OsString::from("./");
            word.push(path);
            word
        }
    }
}

const NO_LOGD: &str = "no logd there";
const NO_RUN: &str = "the logd there cannot be run";

/// Whether another try would end the same way.
pub fn is_final(e: &Error) -> bool {
    [NO_LOGD, NO_RUN].contains(&e.what())
}

/// What a command that ran on `host` ended with: the exit status of the logd there, or the error that
/// there was none. `code` is that of ssh, `None` if a signal ended it.
///
/// # Errors
/// `Unreachable`: ssh's own 255, and what shells say of a command that is not there or cannot be run.
pub fn status(host: &str, code: Option<i32>) -> Result<u8> {
    let unreachable = |what: &str| Error::new(ErrorKind::Unreachable, what).at_path(host);
    let path = "PATH of a command there";
    match code {
        Some(127) => Err(unreachable(NO_LOGD).hint(format!(
            "install logd on {host} where ssh finds it:  ssh {host} 'echo $PATH'"
        ))),
        Some(126) => Err(unreachable(NO_RUN).hint(format!(
            "ssh {host} 'command -v logd'            (the {path})"
        ))),
        Some(255) | None => {
            Err(unreachable("no connection, or it was lost")
                .hint(format!("ssh {host} logd --version")))
        }
        Some(code) => u8::try_from(code)
            .map_err(|_| unreachable(&format!("ssh ended with {code}, which is no exit status"))),
    }
}

/// The kind of error that an exit status of logd stands for; `Io` for a status that is none.
pub fn kind_of(code: u8) -> ErrorKind {
    match code {
        1 => ErrorKind::No,
        2 => ErrorKind::Usage,
        65 => ErrorKind::Data,
        66 => ErrorKind::NotFound,
        69 => ErrorKind::Unreachable,
        70 => ErrorKind::Bug,
        73 => ErrorKind::CannotCreate,
        75 => ErrorKind::Locked,
        76 => ErrorKind::Version,
        77 => ErrorKind::Permission,
        78 => ErrorKind::Config,
        124 => ErrorKind::Timeout,
        _ => ErrorKind::Io,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(all: &[&str]) -> Vec<OsString> {
        all.iter().map(OsString::from).collect()
    }

    fn text(all: &[&str]) -> String {
        String::from_utf8(line(&words(all))).unwrap()
    }

    #[test]
    fn every_word_is_quoted_and_the_two_odd_bytes_are_outside() {
        assert_eq!(text(&["logd", "cat", "", "a b"]), "'logd' 'cat' '' 'a b'");
        assert_eq!(text(&["it's"]), r"'it'\''s'");
        assert_eq!(text(&[r"\d\"]), r"''\\'d'\\''");
    }

    #[test]
    fn a_line_written_by_hand_is_understood() {
        let split = |l: &str| split(l.as_bytes()).map_err(|e| e.to_string());
        assert_eq!(
            split("logd cat  -n 3 'a b'"),
            Ok(words(&["logd", "cat", "-n", "3", "a b"]))
        );
        assert_eq!(split(""), Ok(vec![]));
        assert_eq!(split(r"a\'b\\c''"), Ok(words(&[r"a'b\c"])));
        assert_eq!(split("''"), Ok(words(&[""])));
        for (line, what) in [
            ("logd cat 'x", "the command ends inside quotes"),
            ("logd cat x;id", "the command holds ; outside single quotes"),
            (
                "logd cat $(id)",
                "the command holds $ outside single quotes",
            ),
            (
                "logd cat x\nid",
                "the command holds \\n outside single quotes",
            ),
            (
                "logd cat x\\",
                "the command holds \\\\ outside single quotes",
            ),
            (
                "logd cat \"x\"",
                "the command holds \\\" outside single quotes",
            ),
            ("logd cat ~", "the command holds ~ outside single quotes"),
            ("logd\tcat", "the command holds \\t outside single quotes"),
        ] {
            assert_eq!(split(line), Err(what.to_string()));
        }
        assert!(split(&"x".repeat(LINE_BYTES_MAX + 1)).is_err());
    }

    /// What a shell makes of a line.
    fn by_shell(shell: &str, line: &[u8]) -> Option<Vec<u8>> {
        let mut script = b"printf '%s\\0' ".to_vec();
        script.extend_from_slice(line);
        let ran = Command::new(shell)
            .arg("-c")
            .arg(OsString::from_vec(script))
            .output();
        ran.ok().map(|o| o.stdout)
    }

    #[test]
    fn shells_read_the_same_words() {
        let odd = words(&[
            "",
            " ",
            "a b",
            "it's",
            "''",
            r"\",
            r"\\",
            r"\'",
            r"a\'b\\'c",
            "$(id)",
            "`id`",
            "!x",
            "~",
            "*",
            "a\nb",
            "\t",
            "-n",
            "--",
            "#",
            "é",
            "{a,b}",
            "a;b&c|d>e<f",
            "\"q\"",
            "%s",
            "\u{202e}",
            "\x1b[2J",
            "^x",
            "=ls",
            "[x]",
            "?",
            "$'a'",
            "(x)",
            "a=b",
        ]);
        let bytes = OsString::from_vec(b"caf\xe9\xff".to_vec());
        let want = |words: &[OsString]| -> Vec<u8> {
            words
                .iter()
                .flat_map(|w| [w.as_bytes(), b"\0"].concat())
                .collect()
        };
        let mut asked = 0;
        for shell in ["sh", "dash", "bash", "zsh", "ksh", "fish", "busybox-sh"] {
            let mut words = odd.clone();
            words.push(bytes.clone());
            if let Some(got) = by_shell(shell, &line(&words)) {
                assert_eq!(got, want(&words), "{shell}");
                asked += 1;
            }
        }
        assert!(asked > 0);
    }

    proptest! {
        #[test]
        fn split_gives_back_what_was_quoted(
            words in prop::collection::vec(prop::collection::vec(1u8.., 0..20), 0..6)
        ) {
            let words: Vec<OsString> = words.into_iter().map(OsString::from_vec).collect();
            prop_assert_eq!(split(&line(&words)).unwrap(), words);
        }

        #[test]
        fn sh_reads_what_was_quoted(word in prop::collection::vec(1u8.., 0..40)) {
            let word = OsString::from_vec(word);
            let got = by_shell("sh", &line(std::slice::from_ref(&word))).unwrap();
            prop_assert_eq!(got, [word.as_bytes(), b"\0"].concat());
        }
    }

    #[test]
    fn ssh_is_called_so_that_nothing_is_an_option() {
        let ssh = Ssh::new(Some(OsStr::new("  /usr/bin/ssh  -p 22 ")));
        let command = ssh.command("ops@web1", &words(&["logd", "cat", "-n"]));
        assert_eq!(command.get_program(), "/usr/bin/ssh");
        let args: Vec<&OsStr> = command.get_args().collect();
        let want = ["-p", "22", "-T", "--", "ops@web1", "'logd' 'cat' '-n'"];
        assert_eq!(args, want);
        assert_eq!(Ssh::new(None), Ssh::new(Some(OsStr::new("ssh"))));
    }

    #[test]
    fn a_name_with_a_colon_is_a_path_there() {
        let word = |w: &str| local_word(OsStr::new(w));
        assert_eq!(word("logs/app"), "logs/app");
        assert_eq!(word("/var/a:b"), "/var/a:b");
        assert_eq!(word("a:b"), "./a:b");
        assert_eq!(word("-"), "./-");
        assert_eq!(word("-x:y"), "./-x:y");
        assert_eq!(word("tcp://h:1/x"), "./tcp://h:1/x");
        assert_eq!(host_word("me@::1"), "me@[::1]");
        assert_eq!(
            (host_word("::1"), host_word("web1")),
            ("[::1]".into(), "web1".into())
        );
    }

    #[test]
    fn what_ssh_says_itself_is_unreachable() {
        for code in [Some(255), Some(126), Some(127), None] {
            let e = status("web1", code).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Unreachable);
            assert!(e.to_string().starts_with("web1: "), "{e}");
            assert!(e.hint_text().unwrap().contains("web1"));
        }
        assert_eq!(status("web1", Some(66)).unwrap(), 66);
    }
}
