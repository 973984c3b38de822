//! TIME: a moment in words, as milliseconds since 1970.
//!
//! | word | moment |
//! |---|---|
//! | `2026-11-20T08:00:00Z`, `…+01:00` | RFC 3339 |
//! | `2026-11-20`, `2026-11-20 08:00[:30[.5]]` | by the clock on the wall of the local zone |
//! | `now`, `today`, `yesterday` | this moment; local midnight before it; the midnight before that |
//! | `-2h`, `-1d12h` | that DURATION before now (a day is 24 hours) |
//! | `@1763625600`, `@1763625600123ms` | seconds or milliseconds since 1970 |
//!
//! Anything finer than a millisecond is cut off. A local time that daylight saving skips or repeats
//! is read as RFC 5545 says: by the offset in force before the change.

use std::cell::OnceCell;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, Zoned};

use super::quantity::{duration, leading_digits};
use super::{bad, bad_try};
use crate::error::{Error, Result};
use crate::format::TimestampMs;

/// The last millisecond of the year 9999. A later time is a slip, most often milliseconds given as
/// seconds.
const LAST_MS: i64 = 253_402_300_799_999;

/// What relative times are counted from: a moment and the local time zone. The zone is looked for
/// when a word first needs it: finding it reads a hundred directories.
#[derive(Clone, Debug)]
pub struct Now {
    at: Timestamp,
    zoned: OnceCell<Zoned>,
}

impl Now {
    /// The moment `now`, in the zone of `$TZ` or else of the machine.
    pub fn new(now: TimestampMs) -> Now {
        let at = Timestamp::from_millisecond(now.0.min(LAST_MS)).unwrap_or(Timestamp::UNIX_EPOCH);
        let zoned = OnceCell::new();
        Now { at, zoned }
    }

    /// The moment `now` in `zone`.
    pub fn in_zone(now: TimestampMs, zone: TimeZone) -> Now {
        let now = Now::new(now);
        let zoned = OnceCell::from(now.at.to_zoned(zone));
        Now { zoned, ..now }
    }

    /// The moment.
    pub fn timestamp(&self) -> TimestampMs {
        TimestampMs(self.at.as_millisecond())
    }

    fn zoned(&self) -> &Zoned {
        self.zoned
            .get_or_init(|| self.at.to_zoned(TimeZone::system()))
    }
}

/// The name of the zone of local times, for another machine: `$TZ`, else that of this one. None where
/// it has no name that would mean the same there.
pub fn zone_name() -> Option<String> {
    let set = std::env::var("TZ").ok();
    match set.as_deref().map(|z| z.strip_prefix(':').unwrap_or(z)) {
        Some("") => Some("UTC".into()),
        Some(path) if path.starts_with('/') => None,
        Some(name) => Some(name.into()),
        None => TimeZone::system().iana_name().map(str::to_string),
    }
}

/// The zone of that name, or of a rule such as `CET-1CEST,M3.5.0,M10.5.0/3`.
pub fn zone_named(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).or_else(|_| TimeZone::posix(name)).ok()
}

/// Reads a TIME.
///
/// # Errors
/// Usage, when it is none of the forms above or past the year 9999.
pub fn time(word: &str, now: &Now) -> Result<TimestampMs> {
    if let Some(epoch) = word.strip_prefix('@') {
        return since_1970(word, epoch);
    }
    let ms = match word {
        "now" => now.timestamp().0,
        "today" => midnight(now, 0)?,
        "yesterday" => midnight(now, 1)?,
        _ if word.starts_with('-') => before(word, now)?,
        _ if is_date(word) => moment(word, now)?,
        _ => return Err(not_a_time(word)),
    };
    Ok(TimestampMs(ms))
}

/// Reads the TIME of a POS, where the `@` of seconds since 1970 is already spent.
pub(super) fn time_after_at(word: &str, now: &Now) -> Result<TimestampMs> {
    if word.starts_with('@') {
        return Err(bad_try(&format!("@{word}"), "the @ is not doubled", word));
    }
    match leading_digits(word) {
        (digits, "" | "ms") if !digits.is_empty() => since_1970(&format!("@{word}"), word),
        _ => time(word, now).map_err(|e| with_at(&e)),
    }
}

/// An error about TIME, told of `@TIME`.
fn with_at(e: &Error) -> Error {
    let named = Error::usage(format!("@{}", e.what()));
    match e.hint_text() {
        Some(h) if h.starts_with('@') => named.hint(h),
        Some(h) => named.hint(format!("@{h}")),
        None => named,
    }
}

/// Seconds, or milliseconds with `ms` after them.
fn since_1970(word: &str, text: &str) -> Result<TimestampMs> {
    let (digits, unit) = leading_digits(text);
    let scale = match unit {
        _ if digits.is_empty() => return Err(not_a_time(word)),
        "" => 1000,
        "ms" => 1,
        _ => return Err(not_a_time(word)),
    };
    let ms = digits
        .parse::<i64>()
        .ok()
        .and_then(|n| n.checked_mul(scale));
    match ms {
        Some(ms) if ms <= LAST_MS => Ok(TimestampMs(ms)),
        _ if scale == 1000 && digits.len() <= 15 => Err(bad_try(
            word,
            "seconds past the year 9999; are these milliseconds?",
            format!("@{digits}ms"),
        )),
        _ => Err(bad(word, "past the year 9999")),
    }
}

/// The local midnight `days` before today's.
fn midnight(now: &Now, days: i64) -> Result<i64> {
    now.zoned()
        .checked_sub(days.days())
        .and_then(|day| day.start_of_day())
        .map(|z| z.timestamp().as_millisecond())
        .map_err(|_| bad("today", "the clock is out of range"))
}

/// An age.
fn before(word: &str, now: &Now) -> Result<i64> {
    let age = duration(&word[1..], "h").map_err(|e| {
        let named = Error::usage(format!("-{}", e.what()));
        match e.hint_text() {
            Some(h) => named.hint(format!("-{h}")),
            None => named,
        }
    })?;
    i64::try_from(age.as_millis())
        .ok()
        .and_then(|ms| now.timestamp().0.checked_sub(ms))
        .ok_or_else(|| bad(word, "the duration is too long"))
}

/// Whether it begins as `2026-11-20` does.
fn is_date(word: &str) -> bool {
    let b = word.as_bytes();
    b.len() >= 10
        && b.iter().take(10).enumerate().all(|(i, c)| match i {
            4 | 7 => *c == b'-',
            _ => c.is_ascii_digit(),
        })
        && matches!(b.get(10), None | Some(b'T' | b't' | b' '))
}

/// RFC 3339, or a local date with or without a time. The word is known to begin with a date.
fn moment(word: &str, now: &Now) -> Result<i64> {
    // jiff would read past a zone in brackets, and past an offset after a local time.
    let local = word
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'-' | b':' | b'.' | b'T' | b't' | b' '));
    let zoned = !word.contains('[');
    if let (true, Ok(at)) = (zoned, word.parse::<Timestamp>()) {
        return Ok(at.as_millisecond());
    }
    let clock = word.get(11..).unwrap_or_default();
    let at = match local && !clock.contains('-') {
        true => word.parse::<DateTime>().ok(),
        false => None,
    };
    at.and_then(|at| at.to_zoned(now.zoned().time_zone().clone()).ok())
        .map(|z| z.timestamp().as_millisecond())
        .ok_or_else(|| bad(word, "no such date or time"))
}

fn not_a_time(word: &str) -> Error {
    let what = "not a time";
    let (digits, unit) = leading_digits(word);
    if !digits.is_empty() && matches!(unit, "" | "ms") {
        return bad_try(word, what, format!("@{word}"));
    }
    match duration(word, "h") {
        Ok(_) => bad_try(word, "not a time; an age has a minus", format!("-{word}")),
        Err(_) => bad_try(word, what, "2026-11-20T08:00:00Z"),
    }
}

/// Reads the time that a field of the input holds, for `--timestamp-from`: RFC 3339 or a local date
/// as above, a decimal fraction of seconds (`1763625600.123`), or a whole number. Exactly ten digits
/// are seconds (2001 to 2286, and never a sensible number of milliseconds); any other whole number is
/// milliseconds, as `ts` and `%T` print them.
///
/// Returns `None` if it is none of these.
pub fn field_time(text: &[u8], now: &Now) -> Option<TimestampMs> {
    let text = std::str::from_utf8(text).ok()?;
    if is_date(text) {
        return moment(text, now).ok().map(TimestampMs);
    }
    let (whole, rest) = leading_digits(text);
    let number: i64 = whole.parse().ok()?;
    if rest.is_empty() {
        let scale = if whole.len() == 10 { 1000 } else { 1 };
        return number.checked_mul(scale).map(TimestampMs);
    }
    let fraction = rest.strip_prefix('.')?;
    if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let ms: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    number.checked_mul(1000)?.checked_add(ms).map(TimestampMs)
}

#[cfg(test)]
mod tests {
    use super::super::refusal;
    use super::*;
    use jiff::tz::Offset;

    /// 2026-11-20T08:13:35.123Z, seen two hours east.
    fn now() -> Now {
        Now::in_zone(
            TimestampMs(1_795_162_415_123),
            TimeZone::fixed(Offset::constant(2)),
        )
    }

    fn ms(word: &str) -> i64 {
        time(word, &now()).unwrap().0
    }

    #[test]
    fn moments_are_absolute_with_an_offset_and_local_without() {
        let eight = 1_795_161_600_000;
        assert_eq!(ms("2026-11-20T08:00:00Z"), eight);
        assert_eq!(ms("2026-11-20t10:00:00+02:00"), eight);
        assert_eq!(ms("2026-11-20 10:00"), eight);
        assert_eq!(ms("2026-11-20T10:00:00.5"), eight + 500);
        assert_eq!(ms("2026-11-20"), eight - 36_000_000);
        assert_eq!(ms("1969-12-31T23:59:59Z"), -1000);
    }

    #[test]
    fn named_days_begin_at_local_midnight() {
        let midnight = ms("2026-11-20");
        assert_eq!(
            [ms("now"), ms("today"), ms("yesterday")],
            [1_795_162_415_123, midnight, midnight - 86_400_000]
        );
    }

    #[test]
    fn yesterday_follows_the_calendar_over_a_change_of_clocks() {
        let Ok(zone) = TimeZone::get("Europe/Berlin") else {
            println!("skipped: this machine has no time zone database");
            return;
        };
        // Monday after the clocks went back on Sunday 2026-10-25: that Sunday had 25 hours.
        let now = Now::in_zone(TimestampMs(1_792_998_000_000), zone);
        let (a, b) = (
            time("today", &now).unwrap(),
            time("yesterday", &now).unwrap(),
        );
        assert_eq!(a.0 - b.0, 25 * 3_600_000);
    }

    #[test]
    fn ages_count_back_from_now() {
        let now = now().timestamp().0;
        assert_eq!(
            [ms("-2h"), ms("-1d12h")],
            [now - 7_200_000, now - 129_600_000]
        );
    }

    #[test]
    fn epoch_is_seconds_unless_it_says_ms() {
        assert_eq!(
            [ms("@1763625600"), ms("@1763625600123ms"), ms("@0")],
            [1_763_625_600_000, 1_763_625_600_123, 0]
        );
    }

    #[test]
    fn time_refusals_say_what_to_write() {
        let no = |w| refusal(time(w, &now()));
        assert_eq!(no("1763625600"), "1763625600: not a time | @1763625600");
        assert_eq!(no("2h"), "2h: not a time; an age has a minus | -2h");
        assert_eq!(no("-2"), "-2: a duration needs a unit | -2h");
        assert_eq!(no("soon"), "soon: not a time | 2026-11-20T08:00:00Z");
        assert_eq!(no("2026-02-30"), "2026-02-30: no such date or time");
        assert_eq!(
            no("2026-11-20T25:00"),
            "2026-11-20T25:00: no such date or time"
        );
        assert_eq!(
            no("@1763626415123"),
            "@1763626415123: seconds past the year 9999; are these milliseconds? | @1763626415123ms"
        );
        assert_eq!(
            no("@9223372036854775807ms"),
            "@9223372036854775807ms: past the year 9999"
        );
        for w in [
            "",
            "@",
            "@-5",
            "@5s",
            "2026-11-20T08:00[UTC]",
            "2026-11-20 08:00-",
            "20261120T08",
        ] {
            no(w);
        }
    }

    #[test]
    fn field_times_are_ms_unless_ten_digits_or_a_fraction() {
        let got = |t: &str| field_time(t.as_bytes(), &now()).map(|t| t.0);
        assert_eq!(got("1763626415123"), Some(1_763_626_415_123));
        assert_eq!(got("1763626415"), Some(1_763_626_415_000));
        assert_eq!(got("1763626415.1239"), Some(1_763_626_415_123));
        assert_eq!((got("0.5"), got("17")), (Some(500), Some(17)));
        assert_eq!(got("2026-11-20T08:00:00Z"), Some(1_795_161_600_000));
        for t in ["", "x", "-1", "1.", "1e3", "now", "99999999999999999999"] {
            assert_eq!(got(t), None, "{t}");
        }
    }
}
