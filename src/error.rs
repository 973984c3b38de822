//! The one error type of the library: what failed, on which file, at which offset and byte, why,
//! and what to do next.
//!
//! * A kind says what a caller can do about it; it maps one to one to an exit status
//!   (`cli::exit` turns it into a number).
//! * Context is added once, at the layer that knows the noun: `segment` adds the file, offset and
//!   byte, `log` the log's name, `cli` the verb.
//! * The hint is one line that can be pasted; it is data, printed on a line of its own.
//!
//! The error is boxed, so a `Result<(), Error>` is one word wide and the happy path stays cheap.

use std::fmt;
use std::path::{Path, PathBuf};

/// Result of everything fallible in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What a caller can do about an error. Each kind is one exit status of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The answer is no: nothing matched, an expectation did not hold (1).
    No,
    /// The command line is wrong; nothing was touched (2).
    Usage,
    /// Input is malformed, or stored data is damaged, diverged or fenced (65).
    Data,
    /// No such log, group, partition or offset, or not any more (66).
    NotFound,
    /// The other side cannot be reached (69).
    Unreachable,
    /// A broken invariant of our own code (70).
    Bug,
    /// The destination cannot be made: it exists, or is not empty (73).
    CannotCreate,
    /// A read, write or sync failed, or the disk is full (74).
    Io,
    /// Another process holds it; trying again later may work (75).
    Locked,
    /// The other side speaks another version (76).
    Version,
    /// Not permitted, or a copy was asked to take appends (77).
    Permission,
    /// Configuration, file system or clock is unfit (78).
    Config,
    /// `--timeout` passed (124).
    Timeout,
    /// The reader of our output is gone: a normal end, printed by nobody (0).
    ClosedPipe,
}

/// An error with its place, its cause and its remedy.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    what: String,
    path: Option<PathBuf>,
    offset: Option<i64>,
    position: Option<u64>,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Makes an error of `kind` that says `what` happened (lower case, no full stop).
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            what: what.into(),
            path: None,
            offset: None,
            position: None,
            hint: None,
            source: None,
        }))
    }

    /// Bad stored or input data (65).
    pub fn data(what: impl Into<String>) -> Error {
        Error::new(ErrorKind::Data, what)
    }

    /// Wrong usage (2).
    pub fn usage(what: impl Into<String>) -> Error {
        Error::new(ErrorKind::Usage, what)
    }

    /// Something that is not there (66).
    pub fn not_found(what: impl Into<String>) -> Error {
        Error::new(ErrorKind::NotFound, what)
    }

    /// An operating system error while doing `what` (for example `"cannot open"`), with the kind
    /// that its errno calls for.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Error {
        let mut e = Error::new(kind_of(&source), what);
        e.0.source = Some(Box::new(source));
        e
    }

    /// Says which file or log it was. Only the first (innermost) call counts.
    pub fn at_path(mut self, path: impl AsRef<Path>) -> Error {
        self.0
            .path
            .get_or_insert_with(|| path.as_ref().to_path_buf());
        self
    }

    /// Says which record offset it was. Only the first call counts.
    pub fn at_offset(mut self, offset: i64) -> Error {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Says at which byte of the file it was. Only the first call counts.
    pub fn at_position(mut self, position: u64) -> Error {
        self.0.position.get_or_insert(position);
        self
    }

    /// Adds one line that can be pasted. Only the first call counts.
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint.get_or_insert_with(|| hint.into());
        self
    }

    /// Changes the kind, keeping everything else.
    pub fn with_kind(mut self, kind: ErrorKind) -> Error {
        self.0.kind = kind;
        self
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file or log it happened on.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// The record offset it happened at.
    pub fn offset(&self) -> Option<i64> {
        self.0.offset
    }

    /// The byte of the file it happened at.
    pub fn position(&self) -> Option<u64> {
        self.0.position
    }

    /// What to do next.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The message without place and cause.
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// The operating system's error number, where one is behind this.
    pub fn raw_os_error(&self) -> Option<i32> {
        let source = self.0.source.as_deref()?;
        source.downcast_ref::<std::io::Error>()?.raw_os_error()
    }
}

/// The kind an operating system error calls for.
fn kind_of(e: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind as K;
    match e.kind() {
        K::NotFound => ErrorKind::NotFound,
        K::PermissionDenied | K::ReadOnlyFilesystem => ErrorKind::Permission,
        K::AlreadyExists => ErrorKind::CannotCreate,
        K::BrokenPipe => ErrorKind::ClosedPipe,
        _ => ErrorKind::Io,
    }
}

impl fmt::Display for Error {
    /// `WHERE: offset N, byte P: what: cause`, each part only where it is known.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let i = &*self.0;
        if let Some(p) = &i.path {
            write!(f, "{}: ", p.display())?;
        }
        match (i.offset, i.position) {
            (Some(o), Some(p)) => write!(f, "offset {o}, byte {p}: ")?,
            (Some(o), None) => write!(f, "offset {o}: ")?,
            (None, Some(p)) => write!(f, "byte {p}: ")?,
            (None, None) => {}
        }
        f.write_str(&i.what)?;
        if let Some(s) = &i.source {
            write!(f, ": {}", lower_first(&cause(s.as_ref())))?;
        }
        Ok(())
    }
}

/// The cause as words: an errno's text without Rust's "(os error N)".
fn cause(e: &(dyn std::error::Error + 'static)) -> String {
    let text = e.to_string();
    match text.rfind(" (os error ") {
        Some(at) => text[..at].to_string(),
        None => text,
    }
}

fn lower_first(s: &str) -> String {
    let mut c = s.chars();
    match (c.next(), c.clone().next()) {
        // An acronym keeps its capitals.
        (Some(a), Some(b)) if a.is_uppercase() && !b.is_uppercase() => {
            a.to_lowercase().chain(c).collect()
        }
        _ => s.to_string(),
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0
            .source
            .as_ref()
            .map(|s| &**s as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_names_file_offset_byte_and_cause() {
        let e = Error::io("cannot read", std::io::Error::from_raw_os_error(5))
            .at_path("orders-0/x.log")
            .at_offset(7)
            .at_position(99);
        assert_eq!(
            e.to_string(),
            "orders-0/x.log: offset 7, byte 99: cannot read: input/output error"
        );
        assert_eq!(e.kind(), ErrorKind::Io);
    }

    #[test]
    fn innermost_place_wins() {
        let e = Error::data("bad")
            .at_path("in")
            .at_path("out")
            .hint("a")
            .hint("b");
        assert_eq!(
            (e.to_string().as_str(), e.hint_text()),
            ("in: bad", Some("a"))
        );
    }

    #[test]
    fn error_is_one_word_wide() {
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }
}
