//! `logd groups`: named reader positions.

use std::ffi::OsStr;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};

use super::table::{self, Cell};
use super::{Context, Outcome, args};
use crate::error::{Error, Result};
use crate::format::{Offset, TimestampMs};
use crate::log::groups::check_name;
use crate::ops::groups::{self, Change, ChangeOptions, Changed, Lag, Old, Standing};
use crate::ops::topic::Partition;
use crate::ops::words::{self, Pos};

const ACTIONS: [&str; 5] = ["ls", "lag", "commit", "seek", "reset"];

const LONG: &str = "\
A group is a name with one position per partition: the next offset to read. cat -g and tail -g start
there and advance it.

  ls      where the groups are, and how far a read came that is not confirmed (marked)
  lag     how far behind the end: offsets (gaps counted), bytes, and the age of the first unread record
  commit  confirm the last read with --no-commit: its mark becomes the position
  seek    go on at POS: 4096, earliest, end-100, @yesterday, current-5, current+1
  reset   forget the group

commit, seek and reset are refused (75) while a reader is active, in any partition they concern, and
change nothing then. seek and reset print the old and the new position. In --json, and wherever
stdout is no terminal, an age is in milliseconds.

commit confirms what is marked in every partition of LOG. Two jobs that read one group at the same time
say which partitions they mean, both times: -p 0..4.";

const EXAMPLES: &str = "\
Examples:
  logd cat -g nightly --no-commit -F json logs/orders > part && load part && logd groups commit logs/orders nightly
  logd groups lag --max-lag 15m logs/orders nightly || page 'nightly load is late'
  logd groups seek --dry-run logs/orders nightly @yesterday
  logd groups seek logs/orders-3 mailer current+1";

/// The definition.
pub fn command() -> Command {
    let action = Arg::new("action").value_name("ACTION").required(true);
    Command::new("groups")
        .override_usage("logd groups ACTION [OPTIONS] LOG [GROUP] [POS]")
        .long_about(LONG)
        .arg(
            action
                .value_parser(ACTIONS)
                .hide_possible_values(true)
                .help("ls, lag, commit, seek or reset"),
        )
        .arg(args::log())
        .arg(
            Arg::new("name")
                .value_name("GROUP")
                .help("The group; ls and lag: all without it"),
        )
        .arg(
            Arg::new("pos")
                .value_name("POS")
                .allow_hyphen_values(true)
                .help("seek: where to go on"),
        )
        .arg(
            args::option(
                "max-lag",
                "D|N",
                "lag: exit 1 if more than N offsets or older than D",
            )
            .allow_hyphen_values(false),
        )
        .arg(args::clamp().help("seek: take the nearest offset that is in the log"))
        .arg(args::partition())
        .arg(args::json())
        .arg(args::dry_run())
        .args(args::waiting())
        .arg(args::allow_network_fs())
        .after_help(EXAMPLES)
}

/// Runs it.
///
/// # Errors
/// Wrong usage, and what the operations may meet.
pub fn run(ctx: &mut Context, m: &ArgMatches) -> Result<Outcome> {
    let action = args::text(m, "action").unwrap_or_default();
    let group = args::text(m, "name");
    refuse_odd_words(m, action, group)?;
    let log = args::os(m, "log").unwrap_or(OsStr::new(""));
    let partitions = ctx.resolve(log, args::partitions(m)?.as_ref())?;
    match (action, group) {
        ("ls", _) => list(ctx, &partitions, group),
        ("lag", _) => lag(ctx, m, &partitions, group),
        (_, Some(group)) => change(ctx, m, &partitions, action, group),
        (_, None) => Err(Error::usage("GROUP is missing").hint("logd groups --help")),
    }
}

fn refuse_odd_words(m: &ArgMatches, action: &str, group: Option<&str>) -> Result<()> {
    if let Some(name) = group {
        check_name(name)?;
    }
    match (action, args::text(m, "pos")) {
        ("seek", None) => {
            let why = "seek: POS is missing (4096, earliest, end-100, @-2h, current-5)";
            return Err(Error::usage(why));
        }
        ("seek", Some(_)) | (_, None) => {}
        (_, Some(pos)) => {
            return Err(Error::usage(format!("{pos}: {action} takes no POS")));
        }
    }
    for (option, of) in [("max-lag", "lag"), ("clamp", "seek")] {
        let given = args::flag(m, option) || args::text(m, option).is_some();
        if given && action != of {
            return Err(Error::usage(format!("--{option}: only with {of}")));
        }
    }
    Ok(())
}

/// All groups of the partitions, or one, which must be in some of them.
fn standings<'a>(
    ctx: &mut Context,
    partitions: &'a [Partition],
    group: Option<&str>,
) -> Result<Vec<(&'a Partition, Standing)>> {
    let mut all = Vec::new();
    for p in partitions {
        match groups::standings(&*ctx.host, &p.path, group) {
            Ok(found) => all.extend(found.into_iter().map(|s| (p, s))),
            Err(e) => ctx.fail(&e),
        }
    }
    let there = |(_, s): &(&Partition, Standing)| s.position.is_some();
    match (group, partitions.first()) {
        (Some(name), Some(p)) if !all.iter().any(there) && ctx.worst() == super::Exit::Done => {
            let why = format!("no such group: {name}");
            Err(Error::not_found(why).at_path(&p.path))
        }
        _ => Ok(all),
    }
}

fn list(ctx: &mut Context, partitions: &[Partition], group: Option<&str>) -> Result<Outcome> {
    let all = standings(ctx, partitions, group)?;
    let rows = all.iter().map(|(p, s)| {
        let position = s.position.as_ref();
        vec![
            Cell::Text(p.name()),
            Cell::Text(s.group.clone()),
            position.map(|p| p.next).into(),
            position.and_then(|p| p.marked).into(),
        ]
    });
    let rows: Vec<_> = rows.collect();
    table::print(ctx, &["name", "group", "position", "marked"], &rows)?;
    Ok(Outcome::Done)
}

/// How far a group may be behind.
enum MaxLag {
    Records(u64),
    Age(Duration),
}

impl MaxLag {
    fn parse(word: &str) -> Result<MaxLag> {
        match word.parse() {
            Ok(n) if word.bytes().all(|b| b.is_ascii_digit()) => Ok(MaxLag::Records(n)),
            _ => words::duration(word, "m").map(MaxLag::Age),
        }
    }

    fn is_passed(&self, lag: &Lag, age: Option<Duration>) -> bool {
        match self {
            MaxLag::Records(n) => lag.records > *n,
            // A first unread record whose age cannot be told is late, rather than not looked at.
            MaxLag::Age(d) => lag.records > 0 && age.is_none_or(|a| a > *d),
        }
    }
}

fn lag(
    ctx: &mut Context,
    m: &ArgMatches,
    partitions: &[Partition],
    group: Option<&str>,
) -> Result<Outcome> {
    let max = args::word(m, "max-lag", MaxLag::parse)?;
    let mut behind = false;
    let rows = lag_rows(ctx, partitions, group, |lag, age| {
        behind |= max.as_ref().is_some_and(|max| max.is_passed(lag, age));
    })?;
    table::print(ctx, &LAG_HEADINGS, &rows)?;
    Ok(if behind { Outcome::No } else { Outcome::Done })
}

/// Headings of the rows of [`lag_rows`].
pub(super) const LAG_HEADINGS: [&str; 7] = [
    "name", "group", "position", "end", "records", "bytes", "age",
];

/// A row for each group in each partition; one that has not read there is behind by all of it. `each`
/// hears of them.
pub(super) fn lag_rows(
    ctx: &mut Context,
    partitions: &[Partition],
    group: Option<&str>,
    mut each: impl FnMut(&Lag, Option<Duration>),
) -> Result<Vec<Vec<Cell>>> {
    let now = ctx.host.wall_ms();
    let mut rows = Vec::new();
    for (p, s) in standings(ctx, partitions, group)? {
        let position = s.position.as_ref().map(|p| p.next);
        match groups::lag(&ctx.host, &p.path, position) {
            Ok(lag) => {
                let age = lag.oldest.map(|t| age_of(t, now));
                each(&lag, age);
                rows.push(vec![
                    Cell::Text(p.name()),
                    Cell::Text(s.group),
                    position.into(),
                    lag.end.into(),
                    Cell::Number(i64::try_from(lag.records).unwrap_or(i64::MAX)),
                    Cell::Bytes(lag.bytes),
                    age.into(),
                ]);
            }
            Err(e) => ctx.fail(&e),
        }
    }
    Ok(rows)
}

/// How old a timestamp is; one of the future is new.
fn age_of(t: TimestampMs, now: i64) -> Duration {
    Duration::from_millis(u64::try_from(now.saturating_sub(t.0)).unwrap_or(0))
}

fn change(
    ctx: &mut Context,
    m: &ArgMatches,
    partitions: &[Partition],
    action: &str,
    group: &str,
) -> Result<Outcome> {
    let change = match (action, args::text(m, "pos")) {
        ("commit", _) => Change::Commit,
        ("seek", Some(pos)) => Change::Seek(Pos::parse(pos, &ctx.now())?, args::flag(m, "clamp")),
        _ => Change::Reset,
    };
    let options = ChangeOptions {
        group: group.to_string(),
        command: "logd groups".to_string(),
        wait: args::duration(m, "wait", "s")?.unwrap_or_default(),
        dry_run: args::flag(m, "dry-run"),
        allow_network_fs: args::flag(m, "allow-network-fs"),
    };
    let changed = groups::change(&ctx.host, partitions, change, &options)?;
    // What is asked for by a script every night prints nothing when all is well.
    if matches!(change, Change::Commit) && !ctx.json && !options.dry_run {
        let n = changed.len();
        ctx.message
            .summary(|| format!("group {group}: committed in {n} partitions"));
        return Ok(Outcome::Done);
    }
    let rows: Vec<Vec<Cell>> = changed.iter().map(|c| row(c, group)).collect();
    table::print(ctx, &["name", "group", "old", "new"], &rows)?;
    Ok(Outcome::Done)
}

fn row(changed: &Changed, group: &str) -> Vec<Cell> {
    let old = match changed.old {
        Old::None => Cell::None,
        Old::Damaged => Cell::Text("damaged".into()),
        Old::At(next, _) => next.into(),
    };
    let new: Option<Offset> = changed.new;
    vec![
        Cell::Text(changed.partition.name()),
        Cell::Text(group.to_string()),
        old,
        new.into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_is_passed_by_offsets_or_by_age() {
        let lag = |records| Lag {
            end: Offset(100),
            records,
            bytes: 0,
            oldest: None,
        };
        let is = |word: &str, records, age: Option<u64>| {
            let max = MaxLag::parse(word).unwrap();
            max.is_passed(&lag(records), age.map(Duration::from_secs))
        };
        assert!(!is("10", 10, None) && is("10", 11, None) && is("0", 1, None));
        assert!(!is("1m", 5, Some(60)) && is("1m", 5, Some(61)));
        assert!(!is("1m", 0, None) && is("1m", 5, None));
        assert!(MaxLag::parse("10x").is_err() && MaxLag::parse("-1").is_err());
    }

    #[test]
    fn times_of_the_future_are_new() {
        assert_eq!(age_of(TimestampMs(5), 9), Duration::from_millis(4));
        assert_eq!(age_of(TimestampMs(9), 5), Duration::ZERO);
        assert!(age_of(TimestampMs(i64::MIN), i64::MAX) > Duration::ZERO);
    }
}
