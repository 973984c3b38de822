//! A RANGE applied to one partition: from words to offsets.
//!
//! Relative places clamp to what is there. An absolute offset that retention has removed, or that
//! lies past the end, is an error, unless clamping is asked for.

use std::ops::Range;

use super::words::{self, Pos};
use crate::error::{Error, Result};
use crate::format::{Limits, Offset};
use crate::log::view::View;

/// The offsets that `range` means in `view`. Without an upper bound it reaches as far as the view.
///
/// # Errors
/// `NotFound` for an absolute offset outside the log without `clamp`; `Usage` for a group's position.
pub fn resolve(
    view: &mut View,
    range: &words::Range,
    clamp: bool,
    limits: Limits,
) -> Result<Range<Offset>> {
    let start = view.start();
    let from = match range.from {
        None => start,
        Some(pos) => place(view, pos, clamp, limits)?,
    };
    let to = match range.to {
        None => Offset::MAX,
        Some(pos) => place(view, pos, clamp, limits)?,
    };
    Ok(from..to.max(from))
}

/// The offset that `pos` means in `view`.
///
/// # Errors
/// As [`resolve`].
pub fn place(view: &mut View, pos: Pos, clamp: bool, limits: Limits) -> Result<Offset> {
    let start = view.start();
    match pos {
        Pos::Earliest(0) => Ok(start),
        Pos::Earliest(n) if is_inside(view, start + n) => Ok(start + n),
        Pos::Earliest(n) => Ok((start + n).min(view.end(limits)?)),
        Pos::Latest(n) => Ok((view.end(limits)? + -n).max(start)),
        Pos::Offset(n) => absolute(view, Offset(n), clamp, limits),
        Pos::Time(at) => match view.first_at(at, limits)? {
            Some(offset) => Ok(offset),
            None => view.end(limits),
        },
        Pos::Current(_) => {
            Err(Error::usage("current: only a group has a current position").hint("-g GROUP"))
        }
    }
}

fn absolute(view: &View, n: Offset, clamp: bool, limits: Limits) -> Result<Offset> {
    let start = view.start();
    if n < start {
        return match clamp {
            true => Ok(start),
            false => Err(Error::not_found(format!(
                "offset {n} was removed by retention; earliest is {start}"
            ))
            .at_path(view.log().dir().path())
            .hint(format!("--clamp starts at {start}"))),
        };
    }
    if is_inside(view, n) {
        return Ok(n);
    }
    let end = view.end(limits)?;
    if n > end {
        return match clamp {
            true => Ok(end),
            false => Err(Error::not_found(format!(
                "offset {n} is past the end; the log ends at {end}"
            ))
            .at_path(view.log().dir().path())
            .hint(format!("--clamp stops at {end}"))),
        };
    }
    Ok(n)
}

/// Whether an offset is not past the end for sure: the active segment begins there or above, so the
/// end need not be looked for.
pub fn is_inside(view: &View, n: Offset) -> bool {
    view.tail().is_some_and(|t| n <= t.segment.base())
}
