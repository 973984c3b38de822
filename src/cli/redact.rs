//! `logd redact`: remove what must not be kept.

use std::os::unix::ffi::OsStrExt;

use clap::{ArgAction, ArgMatches, Command};

use super::maintain::Pacer;
use super::table::{self, Cell};
use super::{Context, Outcome, args, maintain};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::redact::{self, Action, HEADER, RedactOptions, Report};
use crate::ops::topic::Partition;
use crate::ops::words::{self, Column, Field};

const EXAMPLES: &str = "\
Examples:
  logd redact -k u42 --reason 'erasure request 881' --dry-run logs/users
  logd redact -k u42 --reason 'erasure request 881' --yes logs/users
  logd redact --match '4[0-9]{15}' --only json:/card --reason 'card numbers' --yes logs/payments";

const LONG: &str = "\
Removes content from every segment that holds it, whatever its age, and from .logd/lost+found. A
record is meant if it has one of the keys, matches the pattern, and lies in one of the ranges, as
far as they are given; at least one of the three must be. A lone POS means that one record.

The value of such a record becomes null; its key and headers stay. --only limits that to the fields
named: key, value and header:NAME become null, json:/POINTER becomes null inside the value, column:N
an empty cell, and every other byte of the value stays. --drop takes the whole record out. Offsets
and times stay, and so do all other records, bit by bit. A changed record gains the header
redacted=ID; batches of the formats before headers (magic 0 and 1) become magic 2 for that. On a log
that is compacted by key a value of null deletes the key.

Without --yes it only reports which files hold how many such records. With it, an entry with who,
when, why and how many is written to .logd/redactions first; of keys and patterns it holds a digest,
salted with ID: who guesses one can tell that the guess is right. Do not put the content into
--reason. The entry ends when a search of everything, up to where the log ended, has found nothing
left. Killed before that, the same command run again goes on and ends the same entry, ranges as they
were understood the first time; until then logd verify reports it.

Look-up indexes of what is changed are removed: logd index --by makes them anew.
Files in .logd/lost+found are removed if they hold such a record, or bytes that are no whole batch
and so cannot be searched. If the pattern is still found in the field searched, but outside the
fields of --only, or a value is no JSON or more than one row, so that the field cannot be found in
it, it tells the first such offset and exits 65. Of repeated headers and JSON members each is looked
at, and in JSON strings with their escapes resolved; --in value looks at the bytes as they are.

What it cannot reach: a reader that has an old file open reads it to its end; blocks that the file
system has freed are not overwritten; backups, and this command line in a shell's history, are not
its matter. A copy made before still holds what was removed; replicate refuses it (65) until it is made
anew. Needs free space for one segment.";

/// The definition.
pub fn command() -> Command {
    Command::new("redact")
        .long_about(LONG)
        .arg(args::key("Records with this key; repeatable").action(ArgAction::Append))
        .arg(
            args::option(
                "match",
                "PATTERN",
                "Records in which this regular expression is found",
            )
            .value_parser(clap::value_parser!(std::ffi::OsString)),
        )
        .arg(
            args::option(
                "in",
                "FIELD",
                "Where to look: value (default), key, header:NAME, json:/POINTER, column:N",
            )
            .allow_hyphen_values(false)
            .requires("match"),
        )
        .arg(args::option("reason", "TEXT", "Why; kept in .logd/redactions").required(true))
        .arg(
            args::option("only", "FIELD", "Remove this field only; repeatable")
                .allow_hyphen_values(false)
                .action(ArgAction::Append)
                .conflicts_with("drop"),
        )
        .arg(args::switch("drop", "Remove the whole record"))
        .arg(args::dry_run().conflicts_with("yes"))
        .arg(args::switch("yes", "Do it; without this it only reports"))
        .arg(args::rate())
        .args(args::waiting())
        .arg(args::allow_network_fs())
        .arg(args::clamp())
        .arg(args::partition())
        .arg(args::json())
        .arg(args::log())
        .arg(
            args::operand("range", "RANGE")
                .num_args(0..)
                .allow_hyphen_values(false)
                .help("Records in these offsets: 4096, 5000..5010, @2026-11-01..@2026-11-02"),
        )
        .after_help(EXAMPLES)
}

/// Runs it.
///
/// # Errors
/// Usage, and a LOG that cannot be found; what fails in a partition is told, and the others get
/// their turn.
pub fn run(ctx: &mut Context, m: &ArgMatches) -> Result<Outcome> {
    let options = options(ctx, m)?;
    let maintenance = maintain::options(m, "redact")?;
    let select = args::partitions(m)?;
    let log = args::os(m, "log").unwrap_or_default();
    let partitions = ctx.resolve(log, select.as_ref())?;
    let yes = args::flag(m, "yes");
    let rate = args::size(m, "rate")?;
    let host = ctx.host.clone();
    let mut rows = Vec::new();
    let mut outcome = Outcome::Done;
    for partition in &partitions {
        let path = &partition.path;
        let mut pacer = Pacer::new(ctx, rate);
        let mut pace = |bytes| {
            pacer.moved(bytes);
            Ok(())
        };
        let done = match yes {
            true => redact::redact(&host, path, &options, &maintenance, &mut pace),
            false => redact::survey(&host, path, &options, &mut pace),
        };
        drop(pacer);
        match done {
            Ok(report) => {
                rows.extend(self::rows(partition, &report));
                tell(ctx, partition, &report, yes);
                if yes && report.left + report.outside > 0 {
                    outcome = Outcome::Losses;
                }
            }
            Err(e) if e.kind() == ErrorKind::Usage => return Err(e),
            Err(e) => ctx.fail(&hinted(e.at_path(path), path)),
        }
    }
    if !yes || ctx.json {
        let headings = ["name", "file", "records", "redaction"];
        table::print(ctx, &headings, &rows)?;
    }
    if !yes && !args::flag(m, "dry-run") && !rows.is_empty() {
        ctx.message.note("nothing was changed; --yes does it");
    }
    Ok(outcome)
}

fn hinted(e: Error, path: &std::path::Path) -> Error {
    match e.kind() {
        ErrorKind::Data => e.hint(format!("logd verify {}", path.display())),
        _ => e,
    }
}

fn options(ctx: &Context, m: &ArgMatches) -> Result<RedactOptions> {
    let keys = args::os_all(m, "key").into_iter();
    let keys: Vec<Vec<u8>> = keys.map(|k| k.as_bytes().to_vec()).collect();
    let field = args::word(m, "in", Field::parse)?.unwrap_or(Field::Value);
    let pattern = args::os(m, "match").map(|p| (p.as_bytes().to_vec(), numbered("--in", field)));
    let pattern = match pattern {
        Some((pattern, field)) => Some((pattern, field?)),
        None => None,
    };
    let now = ctx.now();
    let range = |word: &std::ffi::OsStr| {
        let text = word.to_str();
        let text = text.ok_or_else(|| Error::usage("a range of offsets is text"))?;
        Ok((text.to_string(), words::Range::parse(text, &now)?))
    };
    let ranges = args::os_all(m, "range").into_iter().map(range);
    let ranges: Vec<(String, words::Range)> = ranges.collect::<Result<_>>()?;
    if keys.is_empty() && pattern.is_none() && ranges.is_empty() {
        let log = args::os(m, "log").unwrap_or_default().to_string_lossy();
        let why = "what to redact is missing: -k KEY, --match PATTERN, or offsets";
        return Err(
            Error::usage(why).hint(format!("logd redact -k KEY --reason TEXT --dry-run {log}"))
        );
    }
    Ok(RedactOptions {
        keys,
        pattern,
        ranges,
        clamp: args::flag(m, "clamp"),
        action: action(m)?,
        reason: reason(m)?,
        who: ctx.who(),
    })
}

fn reason(m: &ArgMatches) -> Result<String> {
    match args::text(m, "reason").unwrap_or_default() {
        "" => Err(Error::usage("--reason: a reason has words").hint("--reason 'request 881'")),
        reason => Ok(reason.to_string()),
    }
}

fn action(m: &ArgMatches) -> Result<Action> {
    if args::flag(m, "drop") {
        return Ok(Action::Drop);
    }
    let only = m.get_many::<String>("only").into_iter().flatten();
    let fields = only.map(|word| {
        let field = Field::parse(word).map_err(|e| words::in_option("--only", e))?;
        match numbered("--only", field)? {
            Field::Header(name) if name == HEADER => Err(Error::usage(format!(
                "--only {word}: this header is logd's own mark"
            ))),
            field => Ok(field),
        }
    });
    let fields: Vec<Field> = fields.collect::<Result<_>>()?;
    Ok(match fields.is_empty() {
        true => Action::Null,
        false => Action::Only(fields),
    })
}

/// Refuses a column by name: rows in a log have no header row.
fn numbered(option: &str, field: Field) -> Result<Field> {
    match field {
        Field::Column(Column::Name(name)) => Err(Error::usage(format!(
            "{option} column:{name}: rows in a log have no header row; say which column by its number"
        ))
        .hint(format!("{option} column:3"))),
        field => Ok(field),
    }
}

fn rows(partition: &Partition, report: &Report) -> Vec<Vec<Cell>> {
    let count = |n: u64| Cell::Number(i64::try_from(n).unwrap_or(i64::MAX));
    let id = || match report.id.is_empty() {
        true => Cell::None,
        false => Cell::Text(report.id.clone()),
    };
    let files = report.files.iter().map(|f| {
        vec![
            Cell::Text(partition.name()),
            Cell::Text(f.file.clone()),
            f.records.map_or(Cell::None, count),
            id(),
        ]
    });
    files.collect()
}

fn tell(ctx: &Context, partition: &Partition, report: &Report, yes: bool) {
    let path = partition.path.display();
    maintain::tell_lost(ctx, &partition.path, &report.lost);
    let first = report
        .first_left
        .map_or(String::new(), |o| format!(", first at offset {o}"));
    if yes && report.left > 0 {
        let left = report.left;
        ctx.message
            .warn(format!("{path}: {left} records or files are left{first}"));
    }
    if report.outside > 0 {
        let n = report.outside;
        // Beside records that do hold it, the first of both is the wrong one to name.
        let first = if yes && report.left == 0 {
            first
        } else {
            String::new()
        };
        ctx.message.warn(format!(
            "{path}: {n} records hold it outside of the fields that --only names, or are no JSON or \
             row to find these in{first}"
        ));
    }
    if yes && !report.id.is_empty() {
        let (n, id) = (report.records(), &report.id);
        let name = partition.name();
        ctx.message
            .summary(|| format!("redacted {n} records of {name} as {id}"));
    }
}
