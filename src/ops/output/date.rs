//! Timestamps as RFC 3339 in UTC, to the millisecond.
//!
//! Written by hand because `%D` is printed per record; `jiff` is its twin in the tests. Civil dates
//! from days follow Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".

use crate::format::TimestampMs;

/// First and last millisecond of the years 0000 to 9999, which RFC 3339 can write.
const YEARS_MS: std::ops::RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;
const DAY_MS: i64 = 86_400_000;

/// Appends `time` as `2026-11-20T08:13:35.123Z`. "No timestamp" is `-`; a time outside the years
/// 0000 to 9999 is `@MSms`.
pub fn rfc3339(time: TimestampMs, out: &mut Vec<u8>) {
    if time == TimestampMs::NONE {
        out.push(b'-');
        return;
    }
    if !YEARS_MS.contains(&time.0) {
        out.extend_from_slice(format!("@{}ms", time.0).as_bytes());
        return;
    }
    let (days, ms) = (time.0.div_euclid(DAY_MS), time.0.rem_euclid(DAY_MS));
    let (year, month, day) = civil(days);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    digits(&mut text, 0..4, year);
    digits(&mut text, 5..7, month);
    digits(&mut text, 8..10, day);
    digits(&mut text, 11..13, ms / 3_600_000);
    digits(&mut text, 14..16, ms / 60_000 % 60);
    digits(&mut text, 17..19, ms / 1000 % 60);
    digits(&mut text, 20..23, ms % 1000);
    out.extend_from_slice(&text);
}

/// `time` as [`rfc3339`] writes it.
pub fn rfc3339_string(time: TimestampMs) -> String {
    let mut out = Vec::with_capacity(24);
    rfc3339(time, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn digits(text: &mut [u8; 24], place: std::ops::Range<usize>, mut n: i64) {
    for digit in text.get_mut(place).unwrap_or_default().iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
    }
}

/// Year, month (1 to 12) and day (1 to 31) of a day counted from 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    // Days from 0000-03-01, so that the leap day ends its year; an era is 400 years.
    let z = days + 719_468;
    let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_one_width() {
        assert_eq!(rfc3339_string(TimestampMs(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            rfc3339_string(TimestampMs(1_795_162_415_123)),
            "2026-11-20T08:13:35.123Z"
        );
        assert_eq!(rfc3339_string(TimestampMs(-1)), "-");
        assert_eq!(
            rfc3339_string(TimestampMs(i64::MAX)),
            "@9223372036854775807ms"
        );
        assert_eq!(
            rfc3339_string(TimestampMs(i64::MIN)),
            "@-9223372036854775808ms"
        );
    }

    proptest::proptest! {
        #[test]
        fn dates_equal_those_of_jiff(ms in YEARS_MS) {
            let twin = jiff::Timestamp::from_millisecond(ms).unwrap();
            let twin = twin.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string();
            proptest::prop_assume!(ms != -1);
            proptest::prop_assert_eq!(rfc3339_string(TimestampMs(ms)), twin);
        }
    }
}
