//! The words every command shares: text to plain values, and nothing else.
//!
//! | module | word | value |
//! |---|---|---|
//! | [`pos`] | POS, RANGE | [`Pos`], [`Range`] |
//! | [`time`] | TIME | [`crate::format::TimestampMs`], counted from a [`Now`] |
//! | [`quantity`] | DURATION, SIZE, percent | [`std::time::Duration`], bytes, a fraction |
//! | [`field`] | FIELD | [`Field`] |
//! | [`operand`] | LOG, the LIST of `-p` | [`LogName`], [`Partitions`] |
//!
//! Every error is [`Error::usage`] with the text `WORD: what is wrong`, and its hint, where there is
//! one, is the word to write instead. [`in_option`] puts the option's name before both. No word is
//! ever guessed: overflow, a missing unit or a stray sign is an error.

pub mod field;
pub mod operand;
pub mod pos;
pub mod quantity;
pub mod time;

pub use field::{Column, Field, header_pair};
pub use operand::{LogName, Partitions, host_and_port};
pub use pos::{Pos, Range};
pub use quantity::{duration, duration_or_none, fraction, share, size, size_or_none};
pub use time::{Now, time};

use crate::error::Error;

/// The error of a word given to `option` (for example `--max-age`): `--max-age 7: a duration needs
/// a unit`, with the hint `--max-age 7d`.
pub fn in_option(option: &str, error: Error) -> Error {
    let named = Error::new(error.kind(), format!("{option} {}", error.what()));
    match error.hint_text() {
        Some(hint) => named.hint(format!("{option} {hint}")),
        None => named,
    }
}

/// A usage error about `word`.
pub(in crate::ops) fn bad(word: &str, what: impl std::fmt::Display) -> Error {
    Error::usage(format!("{word}: {what}"))
}

/// A usage error about `word` that says what to write `instead`.
pub(in crate::ops) fn bad_try(
    word: &str,
    what: impl std::fmt::Display,
    instead: impl Into<String>,
) -> Error {
    let instead = instead.into();
    let plain = |c: char| c.is_alphanumeric() || "-_./:@+%,=".contains(c);
    bad(word, what).hint(if instead.chars().all(plain) {
        instead
    } else {
        format!("'{}'", instead.replace('\'', r"'\''"))
    })
}

#[cfg(test)]
pub(crate) fn refusal<T: std::fmt::Debug>(r: crate::error::Result<T>) -> String {
    let e = r.unwrap_err();
    assert_eq!(e.kind(), crate::error::ErrorKind::Usage, "{e}");
    match e.hint_text() {
        Some(h) => format!("{e} | {h}"),
        None => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_name_stands_before_word_and_hint() {
        let e = in_option("--max-age", duration("7", "d").unwrap_err());
        assert_eq!(e.to_string(), "--max-age 7: a duration needs a unit");
        assert_eq!(e.hint_text(), Some("--max-age 7d"));
    }

    #[test]
    fn hint_with_a_blank_is_quoted_for_the_shell() {
        assert_eq!(
            bad_try("x", "no", "@2026-01-01 08:00").hint_text(),
            Some("'@2026-01-01 08:00'")
        );
    }
}
