//! What the options of `append` say, checked before anything is touched.

use std::ffi::OsStr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;

use crate::cli::{Context, args};
use crate::error::{Error, Result};
use crate::format::{Limits, Offset};
use crate::log::config::{Settings, Timestamps};
use crate::ops::append::{OnFull, Options, SyncWhen};
use crate::ops::input::{InputOptions, RECORD_BYTES_MAX};
use crate::ops::output::Format;
use crate::ops::settings::Words;
use crate::ops::topic::Partition;
use crate::ops::words::{self, Field, Now, Partitions, in_option};

/// Default of `--batch-size`.
const BATCH_BYTES: usize = 256 << 10;
/// What a batch may need beyond the records in it: header, framing, a codec's worst case.
const BATCH_SLACK: usize = 1 << 20;
/// Default of `--sync`.
const SYNC: SyncWhen = SyncWhen::Every(Duration::from_secs(1));
/// Default of `--wait`.
const WAIT: Duration = Duration::from_secs(10);

/// The command line of one run.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What the work itself needs.
    pub options: Options,
    /// Settings given as options.
    pub words: Words,
    /// `-p`.
    pub partitions: Option<Partitions>,
    /// `--create`.
    pub create: bool,
    /// `--wait`.
    pub wait: Duration,
    /// `--allow-network-fs`.
    pub allow_network_fs: bool,
    /// `--skip-if-locked`.
    pub skip_if_locked: bool,
    /// `-T`.
    pub tee: bool,
    /// `--raw`.
    pub raw: bool,
    /// `--print`.
    pub print: Option<String>,
    /// `--rejects`.
    pub rejects: Option<PathBuf>,
    /// `--spill`.
    pub spill: Option<PathBuf>,
}

impl Asked {
    /// Reads the options.
    ///
    /// # Errors
    /// Usage.
    pub fn new(ctx: &Context, matches: &ArgMatches) -> Result<Asked> {
        let mut words = Words::default();
        args::word(matches, "compress", |w| words.set("compress", w))?;
        let input = input_options(matches, ctx.now())?;
        let asked = Asked {
            options: options(ctx, matches, input)?,
            words,
            partitions: args::partitions(matches)?,
            create: args::flag(matches, "create"),
            wait: args::duration(matches, "wait", "s")?.unwrap_or(WAIT),
            allow_network_fs: args::flag(matches, "allow-network-fs"),
            skip_if_locked: args::flag(matches, "skip-if-locked"),
            tee: args::flag(matches, "tee"),
            raw: args::flag(matches, "raw"),
            print: args::text(matches, "print").map(str::to_string),
            rejects: args::os(matches, "rejects").map(PathBuf::from),
            spill: args::os(matches, "spill").map(PathBuf::from),
        };
        asked.check(ctx, matches)?;
        Ok(asked)
    }

    /// Options that contradict each other.
    fn check(&self, ctx: &Context, matches: &ArgMatches) -> Result<()> {
        let o = &self.options;
        let skip = args::text(matches, "on-error") == Some("skip");
        let batch = o.input.format == Format::Batch;
        let refuse = |wrong: bool, why: &str| match wrong {
            true => Err(Error::usage(why).hint("logd append --help")),
            false => Ok(()),
        };
        refuse(
            skip && self.rejects.is_none(),
            "--on-error skip needs --rejects FILE: nothing is dropped unseen",
        )?;
        refuse(
            !skip && self.rejects.is_some(),
            "--rejects needs --on-error skip",
        )?;
        refuse(
            o.once.is_some() && o.unique.is_some(),
            "--once and --unique exclude each other",
        )?;
        refuse(
            o.once.is_some() && batch,
            "--once and -F batch exclude each other",
        )?;
        refuse(
            o.once.is_some() && o.input.keep_offsets,
            "--once and --keep-offsets exclude each other",
        )?;
        refuse(
            o.once.is_some() && o.skip_bytes > 0,
            "--once finds its place by itself, without --skip-bytes",
        )?;
        refuse(
            o.unique.is_some() && batch,
            "--unique and -F batch exclude each other",
        )?;
        refuse(
            batch && self.words.get("compress").is_some(),
            "-F batch keeps the compression of its batches, without -z",
        )?;
        refuse(
            self.tee && (self.print.is_some() || ctx.json),
            "-T has stdout to itself, without --print and --json",
        )?;
        refuse(
            self.tee && o.input.format.is_binary() && ctx.stdout.is_terminal() && !self.raw,
            "-T: binary input to a terminal, without --raw",
        )?;
        refuse(
            self.print.is_some() && ctx.json,
            "--print and --json exclude each other",
        )
    }

    /// Options that need a single partition.
    ///
    /// # Errors
    /// Usage, if there are several.
    pub fn check_partitions(&self, partitions: &[Partition]) -> Result<()> {
        if partitions.len() < 2 {
            return Ok(());
        }
        let one = match self.print.as_deref() {
            Some("first" | "last" | "next") => Some("--print first, last and next"),
            _ if self.options.input.keep_offsets => Some("--keep-offsets"),
            _ if self.options.expect.is_some() => Some("--expect-offset"),
            _ => None,
        };
        match one {
            Some(option) => {
                let why = format!(
                    "{option}: offsets need one partition, and there are {}",
                    partitions.len()
                );
                Err(Error::usage(why).hint("-p 0"))
            }
            None => Ok(()),
        }
    }

    /// Takes over what the log's settings say.
    pub fn take_settings(&mut self, settings: &Settings) {
        self.options.compression = settings.compression;
        self.options.partitioner = settings.partitioner;
        self.options.append_time = settings.timestamps == Timestamps::Append;
    }
}

fn options(ctx: &Context, matches: &ArgMatches, input: InputOptions) -> Result<Options> {
    let on_full = match args::text(matches, "on-full") {
        Some("wait") => OnFull::Wait,
        _ => OnFull::Fail,
    };
    let defaults = Settings::default();
    Ok(Options {
        input,
        sync: args::word(matches, "sync", sync_when)?.unwrap_or(SYNC),
        batch_bytes: bounded_size(matches, "batch-size", BATCH_BYTES)?,
        batch_records: args::word(matches, "batch-records", batch_records)?,
        linger: args::duration(matches, "linger", "ms")?.unwrap_or(Duration::ZERO),
        compression: defaults.compression,
        append_time: false,
        partitioner: defaults.partitioner,
        on_full,
        exclusive: args::flag(matches, "exclusive"),
        expect: matches.get_one("expect-offset").copied().map(Offset),
        once: args::text(matches, "once").map(str::to_string),
        unique: args::duration(matches, "unique", "h")?,
        skip_bytes: matches.get_one("skip-bytes").copied().unwrap_or(0),
        deadline: ctx.deadline,
    })
}

fn input_options(matches: &ArgMatches, now: Now) -> Result<InputOptions> {
    let format = match args::flag(matches, "nul") {
        true => Format::Nul,
        false => args::word(matches, "format", Format::parse)?.unwrap_or(Format::Lines),
    };
    let field = |id| args::word(matches, id, Field::parse);
    let timestamp = args::word(matches, "timestamp", |w| words::time(w, &now))?;
    let bytes = |s: &OsStr| std::os::unix::ffi::OsStrExt::as_bytes(s).to_vec();
    let headers = args::os_all(matches, "header");
    let mut options = InputOptions::new(format, now.clone());
    options.key = args::os(matches, "key").map(bytes);
    options.key_delimiter = args::text(matches, "key-delimiter").map(str::to_string);
    options.key_from = field("key-from")?;
    options.value_from = field("value-from")?;
    options.timestamp_from = field("timestamp-from")?;
    options.id_from = field("id-from")?;
    options.headers = headers.into_iter().map(header).collect::<Result<_>>()?;
    options.empty_is_tombstone = args::flag(matches, "empty-is-tombstone");
    options.timestamp = timestamp.map(|t| t.0);
    options.header_row = !args::flag(matches, "no-header-row");
    options.keep_offsets = args::flag(matches, "keep-offsets");
    options.whole = args::flag(matches, "whole");
    options.record_bytes_max = bounded_size(matches, "max-record-size", RECORD_BYTES_MAX)?;
    Ok(options)
}

fn header(word: &OsStr) -> Result<(String, String)> {
    let shown = word.to_string_lossy();
    let pair = word.to_str().and_then(|w| w.split_once('='));
    match pair {
        Some((name, value)) => Ok((name.to_string(), value.to_string())),
        None => {
            let why = format!("--header {shown}: a header is written NAME=VALUE");
            Err(Error::usage(why).hint(format!("-H {shown}=1")))
        }
    }
}

/// Reads WHEN.
pub(in crate::cli) fn sync_when(word: &str) -> Result<SyncWhen> {
    Ok(match word {
        "batch" => SyncWhen::Batch,
        "exit" => SyncWhen::Exit,
        "never" => SyncWhen::Never,
        _ => match words::duration(word, "s")? {
            Duration::ZERO => SyncWhen::Batch,
            every => SyncWhen::Every(every),
        },
    })
}

fn batch_records(word: &str) -> Result<i32> {
    let n = word.parse::<NonZeroU64>().ok();
    let n = n.ok_or_else(|| Error::usage(format!("{word}: a number of records, 1 or more")))?;
    Ok(i32::try_from(n.get()).unwrap_or(i32::MAX))
}

/// A size that a batch must be able to hold.
fn bounded_size(matches: &ArgMatches, id: &str, default: usize) -> Result<usize> {
    let max = Limits::default().batch_bytes_max - BATCH_SLACK;
    let Some(size) = args::word(matches, id, words::size)? else {
        return Ok(default);
    };
    match usize::try_from(size) {
        Ok(n) if n <= max => Ok(n),
        _ => {
            let word = args::text(matches, id).unwrap_or_default();
            let why = format!("{word}: no batch is larger than {} MiB", max >> 20);
            Err(in_option(&format!("--{id}"), Error::usage(why)))
        }
    }
}
