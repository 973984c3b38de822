//! DURATION, SIZE and percent.
//!
//! A duration is number and unit, chained at will (`1h30m`); a day is 24 hours and a week 7 days,
//! and there are no months or years, whose length is not fixed. A size is a number of bytes with an
//! optional unit: `K KiB` are 1024, `KB` is 1000. Zero means zero; `none` lifts a limit, where
//! there is one. Units are case sensitive, so `1m` is never taken for `1M`.

use std::time::Duration;

use super::{bad, bad_try};
use crate::error::Result;

/// Units of time and their milliseconds.
const TIME_UNITS: [(&str, u64); 6] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 604_800_000),
];

/// Units of size and their bytes.
const SIZE_UNITS: [(&str, u64); 14] = [
    ("", 1),
    ("B", 1),
    ("K", 1 << 10),
    ("M", 1 << 20),
    ("G", 1 << 30),
    ("T", 1 << 40),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Reads a DURATION. `unit` is the one that a hint adds to a bare number (`"d"` for ages of
/// records, `"s"` for waits). The result is whole milliseconds and fits `i64`.
///
/// # Errors
/// Usage, when the unit is missing or unknown, or the sum is too large.
pub fn duration(word: &str, unit: &str) -> Result<Duration> {
    Ok(Duration::from_millis(millis(word, unit)?))
}

/// Reads a DURATION or `none`.
///
/// # Errors
/// As [`duration`].
pub fn duration_or_none(word: &str, unit: &str) -> Result<Option<Duration>> {
    match word {
        "none" => Ok(None),
        _ => duration(word, unit).map(Some),
    }
}

/// The milliseconds of a DURATION, at most `i64::MAX`.
fn millis(word: &str, unit: &str) -> Result<u64> {
    if word == "none" {
        return Err(bad(word, "a duration is needed here, there is no 'none'"));
    }
    let mut rest = word;
    let mut sum = 0u64;
    while !rest.is_empty() || word.is_empty() {
        let (number, after) = leading_digits(rest);
        if number.is_empty() {
            return Err(bad_try(word, "not a duration", format!("30{unit}")));
        }
        let name_len = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (name, next) = after.split_at(name_len);
        if name.is_empty() && next.is_empty() {
            let known = &word[..word.len() - number.len()];
            return Err(bad_try(
                word,
                "a duration needs a unit",
                format!("{known}{number}{unit}"),
            ));
        }
        let scale = time_unit(word, number, name)?;
        sum = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(scale))
            .and_then(|ms| ms.checked_add(sum))
            .filter(|ms| i64::try_from(*ms).is_ok())
            .ok_or_else(|| bad(word, "the duration is too long"))?;
        rest = next;
    }
    Ok(sum)
}

/// The milliseconds of one unit of time.
fn time_unit(word: &str, number: &str, name: &str) -> Result<u64> {
    if let Some((_, ms)) = TIME_UNITS.iter().find(|(n, _)| *n == name) {
        return Ok(*ms);
    }
    let n: u64 = number.parse().unwrap_or(1);
    let what = "the units are ms, s, m, h, d and w";
    Err(match name {
        "" => bad_try(word, "a duration is whole numbers with units", "1h30m"),
        "M" | "mo" | "mon" | "month" | "months" => bad_try(
            word,
            "months have no fixed length; the units are ms, s, m, h, d and w",
            format!("{}d", n.saturating_mul(30)),
        ),
        "y" | "Y" | "year" | "years" => bad_try(
            word,
            "years have no fixed length; the units are ms, s, m, h, d and w",
            format!("{}d", n.saturating_mul(365)),
        ),
        _ => match long_unit(name) {
            Some(short) => bad_try(word, what, format!("{number}{short}")),
            None => bad(word, what),
        },
    })
}

/// The unit that a longer or capital spelling stands for.
fn long_unit(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let short = match name.trim_end_matches('s') {
        "milli" | "millisecond" | "msec" => "ms",
        "sec" | "second" | "" => "s",
        "min" | "minute" => "m",
        "h" | "hr" | "hour" => "h",
        "d" | "day" => "d",
        "w" | "week" => "w",
        _ => return None,
    };
    Some(short)
}

/// Reads a SIZE, in bytes.
///
/// # Errors
/// Usage, when it is not a size or does not fit 64 bits.
pub fn size(word: &str) -> Result<u64> {
    if word == "none" {
        return Err(bad(word, "a size is needed here, there is no 'none'"));
    }
    let (number, unit) = leading_digits(word);
    if number.is_empty() {
        return Err(bad_try(word, "not a size", "64MiB"));
    }
    let Some((_, scale)) = SIZE_UNITS.iter().find(|(n, _)| *n == unit) else {
        let what = "the units of a size are KiB, MiB, GiB, TiB (1024) and KB, MB, GB, TB (1000)";
        let near = SIZE_UNITS
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(unit));
        return Err(match near {
            Some((n, _)) => bad_try(word, what, format!("{number}{n}")),
            None => bad(word, what),
        });
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(*scale))
        .ok_or_else(|| bad(word, "the size is too large"))
}

/// Reads a SIZE, in bytes, or `none`.
///
/// # Errors
/// As [`size`].
pub fn size_or_none(word: &str) -> Result<Option<u64>> {
    match word {
        "none" => Ok(None),
        _ => size(word).map(Some),
    }
}

/// Reads a percentage (`1%`, `0.5%`) as a fraction from 0 to 1.
///
/// # Errors
/// Usage, when the sign is missing or it is not between 0 and 100.
pub fn fraction(word: &str) -> Result<f64> {
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let Some(number) = word.strip_suffix('%') else {
        return Err(match !word.is_empty() && plain(word) {
            true => bad_try(word, "a share needs a percent sign", format!("{word}%")),
            false => bad_try(word, "not a percentage", "1%"),
        });
    };
    let percent: Option<f64> = number.parse().ok().filter(|_| plain(number));
    match percent {
        Some(p) if p <= 100.0 => Ok(p / 100.0),
        Some(_) => Err(bad_try(word, "more than all of it", "100%")),
        None => Err(bad_try(word, "not a percentage", "1%")),
    }
}

/// Reads a share: `0.5`, from 0 to 1, or `50%`.
///
/// # Errors
/// Usage, when it is neither.
pub fn share(word: &str) -> Result<f64> {
    if word.ends_with('%') {
        return fraction(word);
    }
    let plain = word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    match word.parse::<f64>() {
        Ok(share) if plain && share <= 1.0 => Ok(share),
        Ok(percent) if plain && percent <= 100.0 => {
            let what = "a share is at most 1, or has a percent sign";
            Err(bad_try(word, what, format!("{word}%")))
        }
        _ => Err(bad_try(word, "not a share", "0.5")),
    }
}

/// `word` split after its leading ASCII digits.
pub(super) fn leading_digits(word: &str) -> (&str, &str) {
    let end = word
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(word.len());
    word.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::super::refusal;
    use super::*;

    #[test]
    fn shares_are_of_one_or_of_a_hundred() {
        for (word, want) in [("0", 0.0), ("0.5", 0.5), ("1", 1.0), ("50%", 0.5)] {
            assert_eq!(share(word).unwrap(), want, "{word}");
        }
        for word in [
            "", "50", "1.1", "-1", "NaN", "inf", "1e0", "101%", "half", "%",
        ] {
            share(word).unwrap_err();
        }
    }

    #[test]
    fn durations_chain_and_add_up() {
        let ms = |w| duration(w, "s").unwrap().as_millis();
        assert_eq!(
            ["500ms", "30s", "15m", "12h", "7d", "2w"].map(ms),
            [500, 30_000, 900_000, 43_200_000, 604_800_000, 1_209_600_000]
        );
        assert_eq!(
            (ms("1h30m"), ms("1d12h5ms"), ms("0s")),
            (5_400_000, 129_600_005, 0)
        );
        assert_eq!(duration_or_none("none", "s").unwrap(), None);
        assert_eq!(ms("9223372036854775807ms"), i64::MAX as u128);
    }

    #[test]
    fn duration_refusals_say_what_to_write() {
        let no = |w| refusal(duration(w, "d"));
        assert_eq!(no("7"), "7: a duration needs a unit | 7d");
        assert_eq!(no("1h30"), "1h30: a duration needs a unit | 1h30d");
        assert_eq!(
            no("1.5h"),
            "1.5h: a duration is whole numbers with units | 1h30m"
        );
        assert_eq!(
            no("3months"),
            "3months: months have no fixed length; the units are ms, s, m, h, d and w | 90d"
        );
        assert_eq!(
            no("1y"),
            "1y: years have no fixed length; the units are ms, s, m, h, d and w | 365d"
        );
        assert_eq!(no("5min"), "5min: the units are ms, s, m, h, d and w | 5m");
        assert_eq!(no("5us"), "5us: the units are ms, s, m, h, d and w");
        assert_eq!(no(""), ": not a duration | 30d");
        assert_eq!(no("-5s"), "-5s: not a duration | 30d");
        assert_eq!(
            no("none"),
            "none: a duration is needed here, there is no 'none'"
        );
    }

    #[test]
    fn overflow_is_an_error_never_a_wrap() {
        for w in [
            "9223372036854775808ms",
            "18446744073709551616s",
            "30500568905w",
        ] {
            assert_eq!(
                refusal(duration(w, "s")),
                format!("{w}: the duration is too long")
            );
        }
        assert!(duration("15250284452w1ms", "s").is_ok());
        assert!(duration("9223372036854775807ms1ms", "s").is_err());
        assert_eq!(size("18446744073709551615").unwrap(), u64::MAX);
        for w in ["18446744073709551616", "16777216TiB"] {
            assert_eq!(refusal(size(w)), format!("{w}: the size is too large"));
        }
    }

    #[test]
    fn sizes_count_in_1024_or_1000() {
        let got = [
            "0", "4096", "64KiB", "64M", "64MiB", "10GiB", "64MB", "1TB", "7B",
        ]
        .map(size);
        let want = [
            0,
            4096,
            64 << 10,
            64 << 20,
            64 << 20,
            10 << 30,
            64_000_000,
            1_000_000_000_000,
            7,
        ];
        assert_eq!(got.map(Result::unwrap), want);
        assert_eq!(size_or_none("none").unwrap(), None);
        assert_eq!(size_or_none("0").unwrap(), Some(0));
    }

    #[test]
    fn size_refusals_say_what_to_write() {
        let units = "the units of a size are KiB, MiB, GiB, TiB (1024) and KB, MB, GB, TB (1000)";
        assert_eq!(refusal(size("64mib")), format!("64mib: {units} | 64MiB"));
        assert_eq!(refusal(size("64kB")), format!("64kB: {units} | 64KB"));
        assert_eq!(refusal(size("1.5GiB")), format!("1.5GiB: {units}"));
        assert_eq!(refusal(size("big")), "big: not a size | 64MiB");
        assert_eq!(refusal(size("-1")), "-1: not a size | 64MiB");
        assert_eq!(
            refusal(size("none")),
            "none: a size is needed here, there is no 'none'"
        );
    }

    #[test]
    fn percentages_need_their_sign() {
        assert_eq!(
            ["1%", "0%", "100%", "0.5%"].map(|w| fraction(w).unwrap()),
            [0.01, 0.0, 1.0, 0.005]
        );
        assert_eq!(
            refusal(fraction("1")),
            "1: a share needs a percent sign | 1%"
        );
        assert_eq!(
            refusal(fraction("101%")),
            "101%: more than all of it | 100%"
        );
        for w in ["", "%", "nan%", "-1%", "1e1%", "inf%"] {
            assert_eq!(refusal(fraction(w)), format!("{w}: not a percentage | 1%"));
        }
    }
}
