//! `logd replicate --stdio DIR`: what a key may do that sshd has bound to this command.
//!
//! ```text
//! command="logd replicate --stdio /srv/logs",restrict ssh-ed25519 AAAA... backup
//! ```
//!
//! sshd runs this whatever the client asks for, and says in `SSH_ORIGINAL_COMMAND` what that was. It is
//! taken apart without a shell ([`remote::split`]) and served if it is `logd replicate --peer` or a
//! reading command; everything else is 77. Logs are below DIR: absolute names, `..` and links that lead
//! out are refused ([`ConfinedHost`]), settings of the account are not read, and no other machine is
//! asked. A reading command writes nothing, so it does not read in the name of a group; and each of its
//! options is on one of two lists here, so that a new one is refused until somebody has thought about it.

use super::exit::Exit;
use super::remote::operand;
use super::replicate;
use super::replicate::serve::{self, Server};
use super::{Context, Entry, Outcome, args, definition, entry, message};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::remote;
use crate::ops::replicate::names::Served;
use clap::ArgMatches;
use clap::parser::ValueSource;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// What sshd says that the client asked for.
const ASKED: &str = "SSH_ORIGINAL_COMMAND";

/// Options of reading commands that only choose what is read and how it looks.
#[rustfmt::skip]
const SERVED: [&str; 50] = [
    "after-context", "all", "at", "before-context", "caller", "clamp", "color", "columns", "context",
    "count", "digest", "durable", "follow", "format", "from-offset", "groups", "header",
    "headers-only", "help", "idle", "ignore-case", "in", "indexes", "invert-match", "isolation",
    "json", "key", "keys-only", "limit", "literal", "nest", "no-tombstones", "nul", "partition",
    "print", "progress", "quick", "quiet", "rate", "raw", "reverse", "sample", "segments", "settings",
    "skip-corrupt", "speed", "timeout", "verbose", "version", "wait-for",
];

/// Those that write, or look at what is not in the directory.
#[cfg(test)]
#[rustfmt::skip]
const REFUSED: [&str; 8] = [
    "allow-network-fs", "commit-every", "group", "no-commit", "pid", "skip-if-locked", "start", "wait",
];

/// What is asked for.
enum Asked {
    /// The protocol of replication, on stdin and stdout.
    Peer,
    /// A reading command with its words.
    Read(&'static Entry, Vec<OsString>),
}

/// Serves what the client asked for, below `dir`.
///
/// # Errors
/// `Permission`, for anything else.
pub(super) fn run(
    ctx: &mut Context,
    m: &ArgMatches,
    options: &replicate::Asked,
    dir: &OsStr,
) -> Result<Outcome> {
    let line = std::env::var_os(ASKED).ok_or_else(|| {
        let why = format!("{ASKED} is not set: this is the forced command of a key for sshd");
        Error::usage(why)
            .hint("command=\"logd replicate --stdio /srv/logs\",restrict ssh-ed25519 ...")
    })?;
    let asked = asked(&line)?;
    std::env::set_current_dir(dir).map_err(|e| Error::io("cannot enter", e).at_path(dir))?;
    match asked {
        Asked::Peer => {
            let mut inner = Context::confined("replicate")?;
            let receives = !args::flag(m, "read-only");
            let server = Server::through_ssh(&inner, Served::Below, options, receives);
            serve::stdio(&mut inner, &server)
        }
        Asked::Read(entry, words) => {
            ctx.note(read(entry, words)?);
            Ok(Outcome::Done)
        }
    }
}

fn refused(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Permission, what)
}

fn asked(line: &OsStr) -> Result<Asked> {
    let mut words = remote::split(line.as_bytes())?.into_iter();
    let program = words.next().unwrap_or_default();
    let name = words.next().unwrap_or_default();
    let name = name.to_string_lossy();
    if program == "logd" && name == "replicate" && words.as_slice() == ["--peer"] {
        return Ok(Asked::Peer);
    }
    let entry = entry(&name).filter(|e| program == "logd" && operand(e.name).is_some());
    match entry {
        Some(entry) => Ok(Asked::Read(entry, words.collect())),
        None => {
            let program = program.to_string_lossy();
            let why = format!("{program} {name}: this key may only replicate and read logs");
            Err(refused(why.trim_start().to_string()))
        }
    }
}

/// Runs a reading command on what is in the working directory. The error is about the words alone.
fn read(entry: &'static Entry, words: Vec<OsString>) -> Result<Exit> {
    message::install_panic_hook(entry.name);
    let mut ctx = Context::confined(entry.name)?;
    Ok(super::parse_and(
        &mut ctx,
        entry,
        words.into_iter(),
        |ctx, m| {
            check(entry, m)?;
            (entry.run)(ctx, m)
        },
    ))
}

/// Refuses what this key may not ask for.
fn check(entry: &Entry, m: &ArgMatches) -> Result<()> {
    let command = definition(entry);
    for arg in command.get_arguments().filter(|a| !a.is_positional()) {
        let id = arg.get_id().as_str();
        let given = m.value_source(id) == Some(ValueSource::CommandLine);
        if given && !SERVED.contains(&id) {
            return Err(refused(format!("--{id}: not with this key")));
        }
    }
    let logs = operand(entry.name).unwrap_or_default();
    args::os_all(m, logs).into_iter().try_for_each(inside)
}

/// Refuses a name that would lead out of the directory by its words.
fn inside(log: &OsStr) -> Result<()> {
    let path = Path::new(log);
    let out = |c: Component<'_>| !matches!(c, Component::Normal(_) | Component::CurDir);
    match path.components().find(|c| out(*c)) {
        None => Ok(()),
        Some(Component::ParentDir) => {
            Err(refused("a name with .. : not with this key").at_path(log))
        }
        Some(_) => {
            let why = "an absolute name: this key sees one directory, and names are below it";
            Err(refused(why).at_path(log))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::COMMANDS;

    #[test]
    fn every_option_of_a_reading_command_was_thought_about() {
        let mut seen = Vec::new();
        for entry in COMMANDS.iter().filter(|e| operand(e.name).is_some()) {
            for arg in definition(entry)
                .get_arguments()
                .filter(|a| !a.is_positional())
            {
                let id = arg.get_id().as_str().to_string();
                let lists = [&SERVED[..], &REFUSED].map(|l| l.contains(&id.as_str()));
                let on = lists.iter().filter(|on| **on).count();
                assert_eq!(on, 1, "{} --{id}", entry.name);
                seen.push(id);
            }
        }
        for id in SERVED.iter().chain(&REFUSED) {
            assert!(seen.iter().any(|s| s == id), "--{id} is no option any more");
        }
    }

    #[test]
    fn only_reading_and_replicating_is_served() {
        let asked = |line: &str| match asked(OsStr::new(line)) {
            Ok(Asked::Peer) => "peer".to_string(),
            Ok(Asked::Read(entry, words)) => format!("{} {words:?}", entry.name),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::Permission, "{line}");
                "no".to_string()
            }
        };
        assert_eq!(asked("logd replicate --peer"), "peer");
        assert_eq!(asked("'logd' 'replicate' '--peer'"), "peer");
        assert_eq!(asked("'logd' 'cat' '--' 'a b'"), r#"cat ["--", "a b"]"#);
        for line in [
            "",
            "sh",
            "logd",
            "logd append x",
            "logd replicate",
            "logd replicate --peer x",
            "logd replicate --peer --peer",
            "logd replicate --stdio /",
            "logd replicate x h:y",
            "/tmp/logd cat x",
            "./logd cat x",
            "LOGD cat x",
            "logd dump x",
            "logd groups ls x",
            "logd merge x",
            "logd __complete cat",
            "logd cat x; id",
            "logd cat x | sh",
            "logd cat `id`",
            "logd cat x\nid",
            "logd cat x > y",
            "logd 'cat",
            "internal-sftp",
            "scp -t .",
            "logd -V",
            "logd --help",
            "logd help cat",
            "logd man cat",
            "rsync --server . .",
            "exec logd cat x",
        ] {
            assert_eq!(asked(line), "no", "{line}");
        }
    }

    #[test]
    fn names_that_lead_out_are_refused_by_their_words() {
        for name in ["orders", "./a:b", "a/b", ".", "...", "a..b", "-x"] {
            assert!(inside(OsStr::new(name)).is_ok(), "{name}");
        }
        for name in ["..", "../x", "a/../b", "/", "/etc", "//x", "a/.."] {
            let e = inside(OsStr::new(name)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Permission, "{name}");
        }
    }
}
