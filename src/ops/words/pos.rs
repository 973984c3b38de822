//! POS and RANGE: places in a log, before any log is known.
//!
//! ```text
//! RANGE = POS | [POS] ".." [POS]
//! POS   = OFFSET | "earliest" ["+" N] | ("latest" | "end") ["-" N] | "current" [("+"|"-") N]
//!       | "@" TIME
//! ```
//!
//! No POS contains `..`, so a range splits at the first. What a POS means in one partition, and
//! whether it clamps, is decided where the log is open.

use super::time::{Now, time_after_at};
use super::{bad, bad_try};
use crate::error::{Error, Result};
use crate::format::TimestampMs;

/// A place in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pos {
    /// That offset, 0 or more.
    Offset(i64),
    /// This many offsets (0 or more) after the first record kept.
    Earliest(i64),
    /// This many offsets (0 or more) back from the log end offset.
    Latest(i64),
    /// The first record at or after that time.
    Time(TimestampMs),
    /// A group's committed position, plus this (which may be negative).
    Current(i64),
}

impl Pos {
    /// Reads a POS; times are counted from `now`.
    ///
    /// # Errors
    /// Usage, with a hint where it is clear what was meant.
    pub fn parse(word: &str, now: &Now) -> Result<Pos> {
        if let Some(when) = word.strip_prefix('@') {
            return time_after_at(when, now).map(Pos::Time);
        }
        if word.starts_with(|c: char| c.is_ascii_digit()) {
            return offset(word);
        }
        let name_len = word
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(word.len());
        let (name, step) = word.split_at(name_len);
        let n = step_of(word, step)?;
        match name {
            "earliest" if n < 0 => Err(bad_try(word, "nothing lies before earliest", "earliest")),
            "earliest" => Ok(Pos::Earliest(n)),
            "latest" | "end" if n > 0 => Err(bad_try(word, "nothing lies after the end", name)),
            "latest" | "end" => Ok(Pos::Latest(n.saturating_neg())),
            "current" => Ok(Pos::Current(n)),
            _ => Err(unknown(word, name, step)),
        }
    }

    /// Whether it is a distance from an end of the log, which clamps to what is there.
    pub fn is_relative(self) -> bool {
        !matches!(self, Pos::Offset(_))
    }
}

/// A word of digits.
fn offset(word: &str) -> Result<Pos> {
    match word.parse::<i64>() {
        Ok(n) => Ok(Pos::Offset(n)),
        Err(_) if word.bytes().all(|b| b.is_ascii_digit()) => {
            Err(bad(word, "offsets end at 9223372036854775807"))
        }
        Err(_) => Err(not_an_offset(word)),
    }
}

/// The number after a name: `+10`, `-100`, or nothing.
fn step_of(word: &str, step: &str) -> Result<i64> {
    if step.is_empty() || step == word {
        return Ok(0);
    }
    let digits = step.strip_prefix(['+', '-']).unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(not_a_pos(word));
    }
    step.parse()
        .map_err(|_| bad(word, "offsets end at 9223372036854775807"))
}

/// What was meant by digits with something after them.
fn not_an_offset(word: &str) -> Error {
    if let Some((a, b)) = word.split_once(['-', ':']) {
        let number = |s: &str| !s.is_empty() && s.bytes().all(|c| c.is_ascii_digit());
        if number(a) && number(b) {
            return bad_try(word, "a range is written A..B", format!("{a}..{b}"));
        }
    }
    if super::duration(word, "h").is_ok() {
        return bad_try(word, "an age is a time", format!("@-{word}"));
    }
    // A date, perhaps with a time.
    if word.get(4..5) == Some("-") {
        return bad_try(word, "a time has an @ before it", format!("@{word}"));
    }
    not_a_pos(word)
}

/// What was meant by an unknown name.
fn unknown(word: &str, name: &str, step: &str) -> Error {
    let known = match name {
        "beginning" | "begin" | "start" | "first" | "head" | "oldest" => "earliest",
        "last" | "tail" | "newest" => "latest",
        "now" | "today" | "yesterday" => {
            return bad_try(word, "a time has an @ before it", format!("@{word}"));
        }
        "" if step.starts_with('-') => {
            let age = super::duration(&step[1..], "h").is_ok();
            return match age {
                true => bad_try(word, "a time has an @ before it", format!("@{word}")),
                false => bad_try(word, "no offset is negative", format!("end{word}")),
            };
        }
        _ => return not_a_pos(word),
    };
    bad_try(word, "not a position", format!("{known}{step}"))
}

fn not_a_pos(word: &str) -> Error {
    bad(
        word,
        "not a position (4096, earliest, earliest+10, end, end-100, @-2h)",
    )
}

/// From a POS up to, not including, another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Range {
    /// Where it begins; `None` is the start of the log.
    pub from: Option<Pos>,
    /// Where it ends (exclusive); `None` is the end of the log, or never when following.
    pub to: Option<Pos>,
    /// A lone POS was given, in `from`. As an operand it is that one record, as `-o` it is from
    /// there on: the caller decides.
    pub lone: bool,
}

impl Range {
    /// Everything.
    pub const ALL: Range = Range {
        from: None,
        to: None,
        lone: false,
    };

    /// Reads a RANGE; times are counted from `now`.
    ///
    /// # Errors
    /// Usage, when a side is not a POS or the range ends before it begins.
    pub fn parse(word: &str, now: &Now) -> Result<Range> {
        let Some((a, b)) = word.split_once("..") else {
            let from = Some(Pos::parse(word, now)?);
            return Ok(Range {
                from,
                to: None,
                lone: true,
            });
        };
        if let Some(end) = b.strip_prefix('=') {
            let next = end.parse::<i64>().ok().and_then(|n| n.checked_add(1));
            let e = "a range ends before its second number";
            return Err(match next {
                Some(n) => bad_try(word, e, format!("{a}..{n}")),
                None => bad(word, e),
            });
        }
        let side = |s: &str| match s {
            "" => Ok(None),
            _ => Pos::parse(s, now).map(Some),
        };
        let range = Range {
            from: side(a)?,
            to: side(b)?,
            lone: false,
        };
        match range.backwards() {
            true => Err(bad_try(
                word,
                "the range ends before it begins",
                format!("{b}..{a}"),
            )),
            false => Ok(range),
        }
    }

    /// Whether it is empty in every log. Only places of the same sort can be compared.
    fn backwards(&self) -> bool {
        match (self.from, self.to) {
            (Some(Pos::Offset(a)), Some(Pos::Offset(b)))
            | (Some(Pos::Earliest(a)), Some(Pos::Earliest(b)))
            | (Some(Pos::Latest(b)), Some(Pos::Latest(a)))
            | (Some(Pos::Current(a)), Some(Pos::Current(b))) => a > b,
            (Some(Pos::Time(a)), Some(Pos::Time(b))) => a > b,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::refusal;
    use super::*;
    use jiff::tz::TimeZone;

    const NOW: i64 = 1_795_162_415_123;

    fn now() -> Now {
        Now::in_zone(TimestampMs(NOW), TimeZone::UTC)
    }

    fn pos(word: &str) -> Pos {
        Pos::parse(word, &now()).unwrap()
    }

    fn range(word: &str) -> (Option<Pos>, Option<Pos>, bool) {
        let r = Range::parse(word, &now()).unwrap();
        (r.from, r.to, r.lone)
    }

    #[test]
    fn every_form_of_pos_parses() {
        assert_eq!(pos("4096"), Pos::Offset(4096));
        assert_eq!(pos("9223372036854775807"), Pos::Offset(i64::MAX));
        assert_eq!(
            (pos("earliest"), pos("earliest+10")),
            (Pos::Earliest(0), Pos::Earliest(10))
        );
        assert_eq!(
            (pos("latest"), pos("end"), pos("end-100")),
            (Pos::Latest(0), Pos::Latest(0), Pos::Latest(100))
        );
        assert_eq!(
            (pos("current"), pos("current-5"), pos("current+1")),
            (Pos::Current(0), Pos::Current(-5), Pos::Current(1))
        );
        assert_eq!(pos("@-2h"), Pos::Time(TimestampMs(NOW - 7_200_000)));
        assert_eq!(
            pos("@1763625600"),
            Pos::Time(TimestampMs(1_763_625_600_000))
        );
        assert_eq!(
            pos("@1763625600123ms"),
            Pos::Time(TimestampMs(1_763_625_600_123))
        );
        assert_eq!(
            pos("@2026-11-20 08:00"),
            Pos::Time(TimestampMs(1_795_161_600_000))
        );
        assert_eq!(pos("@now"), Pos::Time(TimestampMs(NOW)));
    }

    #[test]
    fn range_sides_may_be_left_out() {
        let o = |n| Some(Pos::Offset(n));
        assert_eq!(range("5..10"), (o(5), o(10), false));
        assert_eq!(range("5.."), (o(5), None, false));
        assert_eq!(range("..10"), (None, o(10), false));
        assert_eq!(range(".."), (None, None, false));
        assert_eq!(range("100"), (o(100), None, true));
        assert_eq!(range("7..7"), (o(7), o(7), false));
        let t = |ms| Some(Pos::Time(TimestampMs(ms)));
        assert_eq!(
            range("@-1d..@-1h"),
            (t(NOW - 86_400_000), t(NOW - 3_600_000), false)
        );
        assert_eq!(
            range("@2026-11-20T08:00:00.5Z..end-3"),
            (t(1_795_161_600_500), Some(Pos::Latest(3)), false)
        );
    }

    #[test]
    fn pos_refusals_say_what_to_write() {
        let no = |w| refusal(Pos::parse(w, &now()));
        assert_eq!(no("-100"), "-100: no offset is negative | end-100");
        assert_eq!(no("-2h"), "-2h: a time has an @ before it | @-2h");
        assert_eq!(no("2h"), "2h: an age is a time | @-2h");
        assert_eq!(
            no("yesterday"),
            "yesterday: a time has an @ before it | @yesterday"
        );
        assert_eq!(
            no("2026-11-20"),
            "2026-11-20: a time has an @ before it | @2026-11-20"
        );
        assert_eq!(
            no("beginning+3"),
            "beginning+3: not a position | earliest+3"
        );
        assert_eq!(
            no("earliest-1"),
            "earliest-1: nothing lies before earliest | earliest"
        );
        assert_eq!(no("end+1"), "end+1: nothing lies after the end | end");
        assert_eq!(no("5-10"), "5-10: a range is written A..B | 5..10");
        assert_eq!(
            no("@@1763625600"),
            "@@1763625600: the @ is not doubled | @1763625600"
        );
        assert_eq!(no("@2h"), "@2h: not a time; an age has a minus | @-2h");
        assert_eq!(no("@-2"), "@-2: a duration needs a unit | @-2h");
        assert_eq!(no("@soon"), "@soon: not a time | @2026-11-20T08:00:00Z");
        assert_eq!(
            no("9223372036854775808"),
            "9223372036854775808: offsets end at 9223372036854775807"
        );
        assert_eq!(
            no("end-99999999999999999999"),
            "end-99999999999999999999: offsets end at 9223372036854775807"
        );
        let forms = "not a position (4096, earliest, earliest+10, end, end-100, @-2h)";
        for w in [
            "",
            "x",
            "end-",
            "end-1x",
            "end - 1",
            "5x",
            "latest--1",
            "+5",
            "@",
            "é",
        ] {
            let text = no(w);
            assert!(w == "@" || text == format!("{w}: {forms}"), "{text}");
        }
    }

    #[test]
    fn range_refusals_say_what_to_write() {
        let no = |w| refusal(Range::parse(w, &now()));
        assert_eq!(
            no("10..5"),
            "10..5: the range ends before it begins | 5..10"
        );
        assert_eq!(
            no("end-1..end-5"),
            "end-1..end-5: the range ends before it begins | end-5..end-1"
        );
        assert_eq!(
            no("@-1h..@-1d"),
            "@-1h..@-1d: the range ends before it begins | @-1d..@-1h"
        );
        assert_eq!(
            no("5..=9"),
            "5..=9: a range ends before its second number | 5..10"
        );
        assert_eq!(
            no("5...9"),
            ".9: not a position (4096, earliest, earliest+10, end, end-100, @-2h)"
        );
    }

    proptest::proptest! {
        #[test]
        fn words_never_panic(w in "[-@0-9a-z.:+ %T\\[\\]é]{0,24}") {
            let _ = Range::parse(&w, &now());
            let _ = super::super::time(&w, &now());
            let _ = super::super::size(&w);
            let _ = super::super::duration(&w, "s");
            let _ = super::super::fraction(&w);
        }
    }
}
