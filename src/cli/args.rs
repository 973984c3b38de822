//! Options and operands that mean the same in every command (the command-line contract, section 1),
//! and typed getters for them.
//!
//! A command picks the ones it takes: `command().arg(args::from_offset()).arg(args::logs())`. Every
//! value is kept as text; the getters below parse it into a word and put the option's name before
//! what is wrong with it. An id is the long option's name, so `args::text(m, "from-offset")`.

use crate::error::{Error, Result};
use crate::ops::words;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use std::ffi::{OsStr, OsString};
use std::time::Duration;

/// An option with a value, by its long name. A value that begins with a dash is taken (`-2h`).
pub fn option(long: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(long)
        .long(long)
        .value_name(value)
        .allow_hyphen_values(true)
        .help(help)
}

/// An option without a value, by its long name.
pub fn switch(long: &'static str, help: &'static str) -> Arg {
    Arg::new(long)
        .long(long)
        .action(ArgAction::SetTrue)
        .help(help)
}

/// The operands `LOG...`, at least one.
pub fn logs() -> Arg {
    operand("log", "LOG")
        .num_args(1..)
        .required(true)
        .help("A partition directory or a topic; relative names below $LOGD_DIR")
}

/// The operand `LOG`, exactly one.
pub fn log() -> Arg {
    operand("log", "LOG")
        .required(true)
        .help("A partition directory or a topic; relative names below $LOGD_DIR")
}

/// Help of a LOG that may be on another machine.
const ANYWHERE: &str =
    "A partition directory or a topic; relative names below $LOGD_DIR; HOST:LOG through ssh";

/// As [`logs`], for a command that can be asked of other machines.
pub fn logs_anywhere() -> Arg {
    logs().help(ANYWHERE)
}

/// As [`log`], for a command that can be asked of other machines.
pub fn log_anywhere() -> Arg {
    log().help(ANYWHERE)
}

/// An operand: a path or another word that need not be UTF-8.
pub fn operand(id: &'static str, value: &'static str) -> Arg {
    Arg::new(id)
        .value_name(value)
        .value_parser(value_parser!(OsString))
}

/// `-o, --from-offset RANGE`.
pub fn from_offset() -> Arg {
    option(
        "from-offset",
        "RANGE",
        "Where to start, and optionally to stop: 4096, end-100, @-1h..",
    )
    .short('o')
}

/// `-n, --limit N`.
pub fn limit() -> Arg {
    option("limit", "N", "At most N records")
        .short('n')
        .allow_hyphen_values(false)
}

/// `-f, --follow`.
pub fn follow() -> Arg {
    switch("follow", "Keep going as the log grows").short('f')
}

/// `-F, --format FMT` and its short form `-0`.
pub fn format() -> [Arg; 2] {
    [
        option("format", "FMT", "How records look: lines nul json csv tsv hex base64 frames batch, or a template with %")
            .short('F'),
        Arg::new("nul")
            .short('0')
            .action(ArgAction::SetTrue)
            .overrides_with("format")
            .help("Short for -F nul"),
    ]
}

/// `-k, --key KEY`, once.
pub fn key(help: &'static str) -> Arg {
    option("key", "KEY", help)
        .short('k')
        .value_parser(value_parser!(OsString))
}

/// `-H, --header NAME=VALUE`, repeatable.
pub fn header(help: &'static str) -> Arg {
    option("header", "NAME=VALUE", help)
        .short('H')
        .action(ArgAction::Append)
        .value_parser(value_parser!(OsString))
}

/// `-p, --partition LIST`.
pub fn partition() -> Arg {
    option("partition", "LIST", "Only these partitions: 0,3 or 4..8").short('p')
}

/// `-g, --group NAME`.
pub fn group() -> Arg {
    option(
        "group",
        "NAME",
        "Start at, and advance, a named reader position",
    )
    .short('g')
}

/// `-r, --reverse`.
pub fn reverse() -> Arg {
    switch("reverse", "Newest first").short('r')
}

/// `-z, --compress CODEC`.
pub fn compress() -> Arg {
    option(
        "compress",
        "CODEC",
        "none, gzip, snappy, lz4 or zstd[:LEVEL]",
    )
    .short('z')
}

/// `--json`.
pub fn json() -> Arg {
    switch("json", "Reports as one JSON object per line on stdout")
}

/// `--dry-run`.
pub fn dry_run() -> Arg {
    switch(
        "dry-run",
        "Say what would change, change nothing, take no lock",
    )
}

/// `--wait DURATION` and `--skip-if-locked`.
pub fn waiting() -> [Arg; 2] {
    [
        option("wait", "DURATION", "Wait that long for a lock").allow_hyphen_values(false),
        switch("skip-if-locked", "Exit 0 silently if a lock is taken"),
    ]
}

/// `--rate SIZE`.
pub fn rate() -> Arg {
    option(
        "rate",
        "SIZE",
        "Ceiling in bytes per second of disk or network traffic",
    )
}

/// `--sync WHEN`.
pub fn sync() -> Arg {
    option(
        "sync",
        "WHEN",
        "When what is written reaches the disk: batch, a DURATION, exit, never",
    )
}

/// `--durable` and `--wait-for OFFSET`.
pub fn durable() -> [Arg; 2] {
    [
        switch("durable", "Stop at the durable offset"),
        option(
            "wait-for",
            "OFFSET",
            "First wait until the log reaches OFFSET",
        ),
    ]
}

/// `--isolation committed|uncommitted`.
pub fn isolation() -> Arg {
    option(
        "isolation",
        "LEVEL",
        "Up to the first open transaction, without aborted ones (default), or all",
    )
    .value_parser(["committed", "uncommitted"])
    .hide_possible_values(true)
}

/// `--timeout DURATION`.
pub fn timeout() -> Arg {
    option("timeout", "DURATION", "Give up with exit 124")
}

/// `--allow-network-fs`.
pub fn allow_network_fs() -> Arg {
    switch(
        "allow-network-fs",
        "Write on NFS, SMB and FUSE all the same",
    )
}

/// `--clamp`.
pub fn clamp() -> Arg {
    switch(
        "clamp",
        "Start at the first record kept if the offset asked for is gone",
    )
}

/// `--raw`.
pub fn raw() -> Arg {
    switch("raw", "Bytes as they are to a terminal too")
}

/// What every command takes; [`super::run`] adds them.
pub(super) fn everywhere() -> [Arg; 4] {
    let when = |long, help| {
        option(long, "WHEN", help)
            .value_parser(["auto", "always", "never"])
            .hide_possible_values(true)
    };
    [
        switch("quiet", "Only errors on stderr").short('q'),
        switch("verbose", "Explain decisions on stderr"),
        when("color", "Colour: auto (default), always, never"),
        when(
            "progress",
            "Progress on stderr: auto (default), always, never",
        ),
    ]
}

/// Whether a switch was given; false for one that the command does not have.
pub fn flag(matches: &ArgMatches, id: &str) -> bool {
    matches!(matches.try_get_one::<bool>(id), Ok(Some(true)))
}

/// The value of an option as text; none for one that the command does not have.
pub fn text<'a>(matches: &'a ArgMatches, id: &str) -> Option<&'a str> {
    let value = matches.try_get_one::<String>(id).ok().flatten();
    value.map(String::as_str)
}

/// The value of an option that counts something.
///
/// # Errors
/// Usage, for anything but decimal digits that fit 64 bits.
pub fn count(matches: &ArgMatches, id: &str) -> Result<Option<u64>> {
    let Some(word) = text(matches, id) else {
        return Ok(None);
    };
    match word.parse() {
        Ok(n) if word.bytes().all(|b| b.is_ascii_digit()) => Ok(Some(n)),
        _ => Err(Error::usage(format!("--{id} {word}: not a number")).hint(format!("--{id} 10"))),
    }
}

/// The value of an option that takes a DURATION. `unit` is what a hint adds to a bare number.
///
/// # Errors
/// Usage, naming the option.
pub fn duration(matches: &ArgMatches, id: &str, unit: &str) -> Result<Option<Duration>> {
    word(matches, id, |w| words::duration(w, unit))
}

/// The value of an option that takes a SIZE, in bytes.
///
/// # Errors
/// Usage, naming the option.
pub fn size(matches: &ArgMatches, id: &str) -> Result<Option<u64>> {
    word(matches, id, words::size)
}

/// The value of an option that takes a RANGE.
///
/// # Errors
/// Usage, naming the option.
pub fn range(matches: &ArgMatches, id: &str, now: &words::Now) -> Result<Option<words::Range>> {
    word(matches, id, |w| words::Range::parse(w, now))
}

/// The list of `-p`.
///
/// # Errors
/// Usage, naming the option.
pub fn partitions(matches: &ArgMatches) -> Result<Option<words::Partitions>> {
    word(matches, "partition", words::Partitions::parse)
}

/// The value of the option `id`, read by `parse`; what is wrong with it names the option.
///
/// # Errors
/// Those of `parse`.
pub fn word<T>(
    matches: &ArgMatches,
    id: &str,
    parse: impl FnOnce(&str) -> Result<T>,
) -> Result<Option<T>> {
    let parsed = text(matches, id).map(parse).transpose();
    parsed.map_err(|e| words::in_option(&format!("--{id}"), e))
}

/// The value of an option or operand that need not be UTF-8.
pub fn os<'a>(matches: &'a ArgMatches, id: &str) -> Option<&'a OsStr> {
    let value = matches.try_get_one::<OsString>(id).ok().flatten();
    value.map(OsString::as_os_str)
}

/// All values of a repeatable option or of operands.
pub fn os_all<'a>(matches: &'a ArgMatches, id: &str) -> Vec<&'a OsStr> {
    let values = matches.try_get_many::<OsString>(id).ok().flatten();
    values
        .into_iter()
        .flatten()
        .map(OsString::as_os_str)
        .collect()
}
