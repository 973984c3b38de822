//! `logd append`: write records from stdin or files.
//!
//! | module | owns |
//! |---|---|
//! | [`asked`] | what the options say, checked before anything is touched |
//! | [`report`] | what is told at the end: the summary line, `--print`, `--json` |
//! | [`tee`] | the copy on stdout |

mod asked;
mod report;
mod tee;

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Command};

use self::asked::Asked;
pub(super) use self::asked::sync_when;
use super::progress::Progress;
use super::{Context, Outcome, args};
use crate::error::{Error, Result};
use crate::log::config::Settings;
use crate::log::writer::{Writer, WriterOptions};
use crate::ops::append::rejects::Rejects;
use crate::ops::append::source::Source;
use crate::ops::append::{self, Streams, SyncWhen};
use crate::ops::create::{self, NewLog};
use crate::ops::settings::Words;
use crate::ops::topic::{self, Partition};
use crate::sys::FileId;
use crate::sys::pipe::stream_kind;
use crate::sys::signals;

const EXAMPLES: &str = "\
Examples:
  tail -F app.log | logd append logs/app
  logd append --create -F csv --key-from column:sku --once stock-2026-11-20 logs/stock < stock.csv
  printf 'u42\\t' | logd append -K '\\t' -Z logs/users
  make 2>&1 | logd append -T logs/builds | tee last-build.txt";

/// The definition.
pub fn command() -> Command {
    Command::new("append")
        .args(record_options())
        .args(batch_options())
        .args(safety_options())
        .args(report_options())
        .arg(args::log())
        .arg(
            args::operand("file", "FILE")
                .num_args(0..)
                .help("Files to read one after the other; - is stdin, as is none"),
        )
        .after_help(EXAMPLES)
}

/// How input becomes records.
fn record_options() -> Vec<Arg> {
    let option = args::option;
    let mut all: Vec<Arg> = args::format().into();
    all.extend([
        args::key("One key for all records"),
        option(
            "key-delimiter",
            "STR",
            "The text before the first STR is the key; \\t and \\xNN are understood",
        )
        .short('K'),
        option(
            "key-from",
            "FIELD",
            "Take the key from there: json:/user/id, column:sku, header:id",
        ),
        option("value-from", "FIELD", "Take the value from there"),
        option("timestamp-from", "FIELD", "Take the timestamp from there"),
        option("id-from", "FIELD", "Take the ID for --unique from there"),
        args::switch("no-header-row", "csv and tsv begin with a record"),
        args::header("Add a header to each record"),
        args::switch("empty-is-tombstone", "An empty value deletes its key").short('Z'),
        option(
            "timestamp",
            "TIME",
            "One timestamp for all records [default: now]",
        ),
        args::switch("whole", "Each FILE, or all of stdin, is one record"),
        option(
            "max-record-size",
            "SIZE",
            "Larger input is an error [default: 64MiB]",
        ),
    ]);
    all
}

/// When batches are closed, and what they are like.
fn batch_options() -> Vec<Arg> {
    let option = args::option;
    vec![
        args::partition(),
        args::compress(),
        option(
            "batch-size",
            "SIZE",
            "A batch is full at this size [default: 256KiB]",
        ),
        option(
            "batch-records",
            "N",
            "or with N records; with 1 each record is a write of its own",
        ),
        option(
            "linger",
            "DURATION",
            "Wait that long for more before a batch is closed [default: 0]",
        ),
        args::switch(
            "keep-offsets",
            "Records of -F json and batch keep the offsets they carry",
        ),
        args::switch("create", "Make the log if it is not there"),
    ]
}

/// What is safe when, and what happens when it is not.
fn safety_options() -> Vec<Arg> {
    let option = args::option;
    let mut all = vec![
        args::sync(),
        option(
            "on-full",
            "WHAT",
            "On a full disk: fail (default), or wait for room",
        )
        .value_parser(["fail", "wait"])
        .hide_possible_values(true),
        option(
            "spill",
            "FILE",
            "Input that was not acknowledged goes there",
        )
        .value_parser(clap::value_parser!(std::ffi::OsString)),
        option("skip-bytes", "N", "Start N bytes into the input")
            .value_parser(clap::value_parser!(u64)),
        option(
            "once",
            "NAME",
            "Skip input that was already written under NAME",
        ),
        option(
            "unique",
            "DURATION",
            "Drop a record whose ID or key was seen within DURATION",
        ),
        option(
            "expect-offset",
            "N",
            "Refuse (1) unless the first record gets offset N",
        )
        .value_parser(clap::value_parser!(i64)),
        option(
            "on-error",
            "WHAT",
            "At a malformed record: stop (default), or skip it",
        )
        .value_parser(["stop", "skip"])
        .hide_possible_values(true),
        option(
            "rejects",
            "FILE",
            "Where --on-error skip writes records and reasons",
        )
        .value_parser(clap::value_parser!(std::ffi::OsString)),
        args::switch("exclusive", "Hold the append lock throughout"),
        args::allow_network_fs(),
        args::timeout(),
    ];
    all.extend(args::waiting());
    all
}

fn report_options() -> Vec<Arg> {
    vec![
        args::switch("tee", "Copy input to stdout once it is safely written").short('T'),
        args::raw(),
        args::option(
            "print",
            "WHAT",
            "Print one value at the end: first, last, next, count",
        )
        .value_parser(["first", "last", "next", "count"])
        .hide_possible_values(true),
        args::json(),
    ]
}

/// Appends.
pub fn run(ctx: &mut Context, matches: &ArgMatches) -> Result<Outcome> {
    let mut asked = Asked::new(ctx, matches)?;
    let Some(log) = args::os(matches, "log") else {
        return Err(Error::usage("LOG is missing"));
    };
    signals::install().map_err(|e| Error::io("cannot catch signals", e))?;
    let files: Vec<PathBuf> = args::os_all(matches, "file")
        .iter()
        .map(PathBuf::from)
        .collect();
    let mut source = Source::open(&files)?;
    let partitions = find_or_create(ctx, &asked, log)?;
    asked.check_partitions(&partitions)?;
    refuse_own_input(ctx, &partitions, &source)?;
    let (mut writers, settings) = open_all(ctx, &asked, &partitions)?;
    asked.take_settings(&settings);

    let mut rejects = asked.rejects.as_deref().map(open_rejects).transpose()?;
    let mut spill = asked
        .spill
        .as_deref()
        .map(|p| Spill::open(p, &source))
        .transpose()?;
    let mut progress =
        (!looked_at_otherwise(ctx, &asked)).then(|| Progress::new(ctx, length(&files)));
    let mut look = |bytes, records| progress.as_mut()?.reach(bytes, records);
    let streams = Streams {
        source: &mut source,
        rejects: rejects.as_mut(),
        tee: asked.tee.then(|| tee::tee(asked.raw)),
        progress: Some(&mut look),
        spill: spill.as_mut().map(|s| s as &mut dyn Write),
    };
    let result = append::append(&ctx.host, &mut writers, streams, &asked.options);
    drop(progress); // a bar does not stand between words
    for (writer, partition) in writers.iter_mut().zip(&partitions) {
        report::lost(ctx, &partition.name(), &writer.take_lost());
    }
    let mut report = result?;
    if let Some(spill) = spill {
        report.further.extend(spill.finish().err());
    }
    let next = report::next_offset(&asked, &mut writers);
    for writer in writers {
        report.further.extend(writer.close().err());
    }
    let seekable = source.is_seekable();
    report::tell(ctx, &asked, log, &partitions, report, next, seekable)
}

/// Whether a bar would stand between what somebody types, or what is shown of it.
fn looked_at_otherwise(ctx: &Context, asked: &Asked) -> bool {
    ctx.message.is_terminal()
        && (io::stdin().is_terminal() || asked.tee && ctx.stdout.is_terminal())
}

/// Bytes of the input, if all of it is files.
fn length(files: &[PathBuf]) -> Option<u64> {
    let stdin = [PathBuf::from("-")];
    let files = match files {
        [] => &stdin,
        files => files,
    };
    let len = |path: &PathBuf| {
        let path = match path.as_os_str() == "-" {
            true => Path::new("/dev/stdin"),
            false => path,
        };
        let meta = std::fs::metadata(path).ok();
        meta.filter(|m| m.is_file()).map(|m| m.len())
    };
    files.iter().map(len).sum()
}

/// The partitions of LOG, made with `--create` if there are none.
fn find_or_create(ctx: &Context, asked: &Asked, log: &OsStr) -> Result<Vec<Partition>> {
    if asked.create {
        let path = ctx.path(log)?;
        if topic::find(ctx.host.as_ref(), &path)?.is_empty() {
            let user = ctx.user_words()?;
            let count = user.get("partitions").and_then(|n| n.parse().ok());
            let new = NewLog {
                path: &path,
                words: &Words::default(),
                partitions: count.unwrap_or(1),
                allow_network_fs: asked.allow_network_fs,
            };
            match create::create(ctx.host.as_ref(), &new) {
                // Another process was faster.
                Err(e)
                    if e.kind() == crate::error::ErrorKind::CannotCreate
                        && !topic::find(ctx.host.as_ref(), &path)?.is_empty() => {}
                made => drop(made?),
            }
        }
    }
    ctx.resolve(log, asked.partitions.as_ref())
}

/// Opens each partition for writing. The settings that hold for all are those of the first.
fn open_all(
    ctx: &Context,
    asked: &Asked,
    partitions: &[Partition],
) -> Result<(Vec<Writer>, Settings)> {
    let mut first = None;
    let mut writers = Vec::with_capacity(partitions.len());
    for p in partitions {
        let dir = ctx.host.open_dir(&p.path);
        let dir = dir.map_err(|e| Error::io("cannot open", e).at_path(&p.path))?;
        let settings = ctx.settings(dir.as_ref(), &asked.words)?.settings;
        let options = WriterOptions {
            wait: Some(asked.wait),
            allow_network_fs: asked.allow_network_fs,
            zero_fill: asked.options.sync == SyncWhen::Batch,
            roll: settings.roll_limits(),
            command: "logd append".to_string(),
        };
        writers.push(Writer::open(&ctx.host, &p.path, options)?);
        first.get_or_insert(settings);
    }
    Ok((writers, first.unwrap_or_default()))
}

/// Refuses input that is one of the log's own files: it would grow as it is read.
fn refuse_own_input(ctx: &Context, partitions: &[Partition], source: &Source) -> Result<()> {
    let inputs: Vec<FileId> = source.files();
    if inputs.is_empty() {
        return Ok(());
    }
    for p in partitions {
        let cannot = |e| Error::io("cannot list", e).at_path(&p.path);
        let dir = ctx.host.open_dir(&p.path).map_err(cannot)?;
        for name in dir.list().map_err(cannot)? {
            let meta = dir.stat(&name).map_err(cannot)?;
            if meta.is_some_and(|m| inputs.contains(&m.id)) {
                let why = format!("{}: the input is a file of this log", p.name());
                return Err(Error::usage(why));
            }
        }
    }
    Ok(())
}

fn open_rejects(path: &Path) -> Result<Rejects> {
    let file = File::create(path);
    let file = file.map_err(|e| Error::io("cannot create", e).at_path(path))?;
    Ok(Rejects::new(file, path.display().to_string()))
}

/// The file of `--spill`. It is opened first, so that a wrong path is found before anything is
/// written, but emptied last: until then somebody may still be reading an older spill from it.
struct Spill {
    file: File,
    path: PathBuf,
    begun: bool,
}

impl Spill {
    fn open(path: &Path, source: &Source) -> Result<Spill> {
        let cannot = |e| Error::io("cannot open", e).at_path(path);
        let mut options = OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(cannot)?;
        let (_, id) = stream_kind(file.as_fd()).map_err(cannot)?;
        if source.files().contains(&id) {
            let why = format!("--spill {}: this file is also the input", path.display());
            return Err(Error::usage(why));
        }
        Ok(Spill {
            file,
            path: path.to_path_buf(),
            begun: false,
        })
    }

    fn begin(&mut self) -> io::Result<()> {
        if !self.begun && self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.begun = true;
        Ok(())
    }

    /// Empties it if nothing was written, and makes it durable.
    fn finish(mut self) -> Result<()> {
        let done = self
            .begin()
            .and_then(|()| match self.file.metadata()?.is_file() {
                true => self.file.sync_data(),
                false => Ok(()),
            });
        done.map_err(|e| Error::io("cannot write", e).at_path(&self.path))
    }
}

impl Write for Spill {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begin()?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
