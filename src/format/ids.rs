//! Integers that must not be swapped for one another.

use std::fmt;
use std::ops::{Add, Sub};

/// Logical number of a record in a log, 0 and up. Never a place in a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Offset(pub i64);

/// Byte place in a segment file. Never an offset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

/// Milliseconds since 1970-01-01T00:00:00Z; -1 means "none".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TimestampMs(pub i64);

impl Offset {
    /// Offset 0.
    pub const ZERO: Offset = Offset(0);
    /// The largest offset there can be.
    pub const MAX: Offset = Offset(i64::MAX);

    /// The offset after this one.
    pub fn next(self) -> Offset {
        Offset(self.0.saturating_add(1))
    }
}

impl TimestampMs {
    /// "No timestamp".
    pub const NONE: TimestampMs = TimestampMs(-1);
}

impl Add<i64> for Offset {
    type Output = Offset;
    fn add(self, n: i64) -> Offset {
        Offset(self.0.saturating_add(n))
    }
}

impl Sub<Offset> for Offset {
    type Output = i64;
    fn sub(self, other: Offset) -> i64 {
        self.0.saturating_sub(other.0)
    }
}

impl Add<u64> for Position {
    type Output = Position;
    fn add(self, n: u64) -> Position {
        Position(self.0.saturating_add(n))
    }
}

impl Sub<Position> for Position {
    type Output = u64;
    fn sub(self, other: Position) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

macro_rules! show {
    ($($t:ty),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
show!(Offset, Position, TimestampMs);
