//! Exit statuses: the one place where an outcome becomes a number.
//!
//! Owns the table of the command-line contract, section 3, and the order of severity that decides
//! between two of them when one run met several. Nothing below `cli` knows these numbers.

use crate::error::ErrorKind;

/// How a command ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All was done.
    Done,
    /// The answer is no: no match, no such key, damage found, behind.
    No,
    /// It went on to the end, but skipped or cut data on the way.
    Losses,
    /// A signal asked it to stop; what it held is safe.
    Signal(u8),
}

/// How the process ends. Ordered from mild to severe: of several, the greatest is the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Done; for writers: on stable storage.
    Done,
    /// The answer is no.
    No,
    /// `--timeout` passed.
    Timeout,
    /// Locked by another process. The only status worth retrying, so every other failure beats it.
    Locked,
    /// No such log, group, partition or offset (any more).
    NotFound,
    /// The destination exists or is not empty.
    CannotCreate,
    /// The other side is unreachable.
    Unreachable,
    /// The other side speaks another version.
    Version,
    /// Permission denied, or a copy was asked to take appends.
    Permission,
    /// Bad configuration, file system or clock.
    Config,
    /// Wrong usage; nothing was touched.
    Usage,
    /// Malformed input, or a corrupt, diverged or fenced log.
    Data,
    /// A read, write or sync failed, or the disk is full.
    Io,
    /// A bug in logd.
    Bug,
    /// Ended by this signal.
    Signal(u8),
}

/// Every status with its meaning, as `logd help exit-codes` and the manual list them.
pub const TABLE: &[(Exit, &str)] = &[
    (Exit::Done, "done (for writers: on stable storage)"),
    (
        Exit::No,
        "the answer is no: no match, no such key, damage found, behind",
    ),
    (Exit::Usage, "wrong usage; nothing was touched"),
    (
        Exit::Data,
        "bad data: malformed input, corrupt, diverged or fenced log",
    ),
    (
        Exit::NotFound,
        "no such log, group, partition or offset (any more)",
    ),
    (Exit::Unreachable, "other side unreachable"),
    (Exit::Bug, "a bug in logd"),
    (
        Exit::CannotCreate,
        "cannot create the destination (exists, not empty)",
    ),
    (Exit::Io, "read or write failed, disk full"),
    (Exit::Locked, "locked by another process; try again later"),
    (Exit::Version, "other side speaks another version"),
    (
        Exit::Permission,
        "permission denied, or a copy asked to take appends",
    ),
    (Exit::Config, "bad configuration, file system or clock"),
    (Exit::Timeout, "--timeout passed"),
];

impl Exit {
    /// The number a shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::No => 1,
            Exit::Usage => 2,
            Exit::Data => 65,
            Exit::NotFound => 66,
            Exit::Unreachable => 69,
            Exit::Bug => 70,
            Exit::CannotCreate => 73,
            Exit::Io => 74,
            Exit::Locked => 75,
            Exit::Version => 76,
            Exit::Permission => 77,
            Exit::Config => 78,
            Exit::Timeout => 124,
            Exit::Signal(n) => 128 | (n & 0x7f),
        }
    }
}

impl Exit {
    /// What a logd that ended with `code` meant; none for a status that is none of ours.
    pub fn of_code(code: u8) -> Option<Exit> {
        let known = TABLE.iter().find(|(exit, _)| exit.code() == code);
        // No signal has a number above 64.
        let signal = code.checked_sub(128).filter(|n| (1..=64).contains(n));
        known.map(|(exit, _)| *exit).or(signal.map(Exit::Signal))
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Exit {
        match kind {
            ErrorKind::No => Exit::No,
            ErrorKind::Usage => Exit::Usage,
            ErrorKind::Data => Exit::Data,
            ErrorKind::NotFound => Exit::NotFound,
            ErrorKind::Unreachable => Exit::Unreachable,
            ErrorKind::Bug => Exit::Bug,
            ErrorKind::CannotCreate => Exit::CannotCreate,
            ErrorKind::Io => Exit::Io,
            ErrorKind::Locked => Exit::Locked,
            ErrorKind::Version => Exit::Version,
            ErrorKind::Permission => Exit::Permission,
            ErrorKind::Config => Exit::Config,
            ErrorKind::Timeout => Exit::Timeout,
            ErrorKind::ClosedPipe => Exit::Done,
        }
    }
}

impl From<Outcome> for Exit {
    fn from(outcome: Outcome) -> Exit {
        match outcome {
            Outcome::Done => Exit::Done,
            Outcome::No => Exit::No,
            Outcome::Losses => Exit::Data,
            Outcome::Signal(n) => Exit::Signal(n),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_contract() {
        let codes: Vec<u8> = TABLE.iter().map(|(e, _)| e.code()).collect();
        assert_eq!(
            codes,
            [0, 1, 2, 65, 66, 69, 70, 73, 74, 75, 76, 77, 78, 124]
        );
        assert_eq!(
            (Exit::Signal(2).code(), Exit::Signal(15).code()),
            (130, 143)
        );
    }

    #[test]
    fn a_status_worth_retrying_never_hides_another_failure() {
        for (other, _) in TABLE {
            let mild = [Exit::Done, Exit::No, Exit::Timeout, Exit::Locked];
            assert_eq!(*other > Exit::Locked, !mild.contains(other), "{other:?}");
        }
    }

    #[test]
    fn work_that_lost_data_and_closed_pipes_end_as_promised() {
        assert_eq!(Exit::from(Outcome::Losses).code(), 65);
        assert_eq!(Exit::from(ErrorKind::ClosedPipe).code(), 0);
    }
}
