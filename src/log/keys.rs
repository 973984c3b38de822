//! The look-up indexes of a log: the files of `.logd/keys`, one for each sealed segment and field.
//!
//! Owns their names, who may be believed, and how they come and go. What is in one is
//! [`format::lookup`](crate::format::lookup)'s matter, making one is [`keys_build`](super::keys_build)'s.
//!
//! Rules:
//!
//! * A file counts for a segment if it says that it was made from a `.log` of this base offset and
//!   length, whose last batch stands where it says with the checksum that it says. So the index of a
//!   segment that was compacted, cut or replaced is void by itself. It is asked about the very file
//!   that was compared.
//! * It may be deleted at any moment, and nobody needs it: without one, or with one that is damaged,
//!   the segment is read instead. An index saves time and never decides an answer.
//! * Files are written aside in `.logd/tmp`, synced and renamed, and never changed afterwards; that is
//!   why they may be mapped.
//! * Readers make nothing: no directory, no lock.
//!
//! A file's name is `BASE-FIELD.lookup`: twenty digits, and the field's word with `%XX` for what is no
//! letter, digit, `_`, `.` or `:`; a longer word than a name can hold is its XXH64 instead.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use twox_hash::XxHash64;

use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::BatchHeader;
use crate::format::frame::BATCH_HEADER_BYTES;
use crate::format::lookup::{Candidates, Header, Lookup};
use crate::format::{Defect, Offset, Position};
use crate::log::files;
use crate::log::listing::{LogDir, SegmentRef};
use crate::log::state::unlink_if_there;
use crate::sys::map::Bytes;
use crate::sys::{Access, Dir, File};

/// How a look-up index's name ends.
const SUFFIX: &str = ".lookup";
/// Digits of a base offset in a name.
const BASE_DIGITS: usize = 20;
/// Longest encoded word that is part of a name; 255 bytes are what most file systems take.
const WORD_BYTES_MAX: usize = 200;

/// Name of the index of a segment and a field.
pub fn file_name(base: Offset, field: &str) -> String {
    format!("{:020}-{}{SUFFIX}", base.0, encode(field))
}

/// The base offset in a name, and the field's word where the name holds it; `None` for a name that no
/// index has.
pub fn parse_name(name: &str) -> Option<(Offset, Option<String>)> {
    let stem = name.strip_suffix(SUFFIX)?;
    let (base, word) = stem.split_once('-')?;
    if base.len() != BASE_DIGITS || !base.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let word = decode(word).filter(|w| encode(w) == word);
    Some((Offset(base.parse().ok()?), word))
}

fn encode(field: &str) -> String {
    let mut out = String::new();
    for b in field.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b':' => out.push(char::from(b)),
            _ => {
                let _ = write!(out, "%{b:02X}"); // a String takes everything
            }
        }
    }
    match out.len() > WORD_BYTES_MAX {
        true => format!("%%{:016x}", XxHash64::oneshot(0, field.as_bytes())),
        false => out,
    }
}

fn decode(word: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut rest = word.as_bytes();
    while let [b, tail @ ..] = rest {
        match (b, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let hex = [*high, *low];
                out.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
                rest = tail;
            }
            (b'%', _) => return None,
            _ => {
                out.push(*b);
                rest = tail;
            }
        }
    }
    String::from_utf8(out).ok()
}

/// The directory of a log's look-up indexes, for reading.
#[derive(Clone)]
pub struct Keys {
    dir: Option<Arc<dyn Dir>>,
}

/// What [`Keys::find`] found.
pub enum Found {
    /// An index that covers the segment as it is.
    Sound(Box<Open>),
    /// None, or one of a segment that has been replaced since.
    Nothing,
    /// One that cannot be used.
    Damaged(Error),
}

/// An index that covers its segment, and the segment's `.log` that it was compared with.
pub struct Open {
    header: Header,
    bytes: Bytes,
    path: PathBuf,
    file: Arc<dyn File>,
}

impl Keys {
    /// The indexes of `log`. What cannot be opened is as good as absent.
    ///
    /// # Errors
    /// The system is out of descriptors or memory.
    pub fn of(log: &LogDir) -> Result<Keys> {
        let own = existing(log.dir(), files::LOGD_DIR)?;
        let dir = match own {
            Some(own) => existing(&own, files::KEYS)?,
            None => None,
        };
        Ok(Keys { dir })
    }

    /// Whether there is no index at all, for sure.
    pub fn is_absent(&self) -> bool {
        self.dir.is_none()
    }

    /// The directory.
    pub fn dir(&self) -> Option<&Arc<dyn Dir>> {
        self.dir.as_ref()
    }

    /// The index of a sealed segment by `field`, the word of `index --by`.
    ///
    /// # Errors
    /// `NotFound` if the segment is gone (list again); else what opening it may meet.
    pub fn find(&self, log: &LogDir, segment: &SegmentRef, field: &str) -> Result<Found> {
        let Some(dir) = &self.dir else {
            return Ok(Found::Nothing);
        };
        let name = file_name(segment.base(), field);
        let (header, bytes) = match load(&**dir, &name) {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return Ok(Found::Nothing),
            Err(e) if is_exhausted(&e) => return Err(e),
            Err(e) => return Ok(Found::Damaged(e)),
        };
        if header.field != field || header.cover.base != segment.base() {
            return Ok(Found::Nothing); // of a word with the same hash
        }
        let file = log.open_file(&segment.log_name())?;
        match covers(&header, &*file) {
            Ok(true) => Ok(Found::Sound(Box::new(Open {
                header,
                bytes,
                path: dir.path().join(name),
                file,
            }))),
            Ok(false) => Ok(Found::Nothing),
            Err(e) => Err(e.at_path(log.path_of(&segment.log_name()))),
        }
    }

    /// Every file in the directory that has an index's name: name, base offset, the word in the name.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn names(&self) -> Result<Vec<(String, Offset, Option<String>)>> {
        let Some(dir) = &self.dir else {
            return Ok(Vec::new());
        };
        let all = dir.list();
        let all = all.map_err(|e| Error::io("cannot list", e).at_path(dir.path()))?;
        let mut out: Vec<_> = all
            .into_iter()
            .filter_map(|n| parse_name(&n).map(|(base, word)| (n, base, word)))
            .collect();
        out.sort_unstable();
        Ok(out)
    }

    /// The header of one of them, and the length of the file; `None` if it is gone.
    ///
    /// # Errors
    /// It is damaged, or cannot be read.
    pub fn header(&self, name: &str) -> Result<Option<(Header, u64)>> {
        let Some(dir) = &self.dir else {
            return Ok(None);
        };
        let loaded = load(&**dir, name)?;
        Ok(loaded.map(|(header, bytes)| (header, bytes.len() as u64)))
    }
}

impl Open {
    /// What it says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The segment's `.log`.
    pub fn file(&self) -> &Arc<dyn File> {
        &self.file
    }

    /// Begins a search for the batches that may hold `value`, newest first. Only an index with a table
    /// ([`Header::has_table`]) can be asked.
    ///
    /// # Errors
    /// `Data`: the index is damaged.
    pub fn candidates(&self, value: &[u8]) -> Result<Candidates> {
        self.named(self.lookup().candidates(value))
    }

    /// The position of the next batch that may hold the value.
    ///
    /// # Errors
    /// `Data`: the index is damaged.
    pub fn next(&self, search: &mut Candidates) -> Result<Option<Position>> {
        self.named(self.lookup().next(search))
    }

    /// Whether a record of the segment may have exactly `value` in the field. False is certain.
    ///
    /// # Errors
    /// `Data`: the index is damaged.
    pub fn may_contain(&self, value: &[u8]) -> Result<bool> {
        self.named(self.lookup().may_contain(value))
    }

    /// Whether the field of a record of the segment may contain `text`. False is certain; without a
    /// filter it is never false. With `ignore_case` letters may have either case, also where they
    /// equal one outside ASCII.
    ///
    /// # Errors
    /// `Data`: the index is damaged.
    pub fn may_contain_text(&self, text: &[u8], ignore_case: bool) -> Result<bool> {
        self.named(self.lookup().may_contain_text(text, ignore_case))
    }

    /// Checks every byte of it.
    ///
    /// # Errors
    /// `Data`: the index is damaged.
    pub fn check(&self) -> Result<()> {
        self.named(self.lookup().check())
    }

    /// The error of an index that leads to where no batch is.
    pub fn misleads(&self, position: Position) -> Error {
        Error::data(format!("leads to byte {position}, where no batch begins")).at_path(&self.path)
    }

    fn lookup(&self) -> Lookup<'_> {
        Lookup::new(&self.header, &self.bytes)
    }

    fn named<T>(&self, answer: std::result::Result<T, Defect>) -> Result<T> {
        answer.map_err(|d| {
            Error::data(d.reason)
                .at_path(&self.path)
                .at_position(d.at as u64)
        })
    }
}

/// Whether `file` is the `.log` that an index was made from.
fn covers(header: &Header, file: &dyn File) -> Result<bool> {
    let len = file.len().map_err(|e| Error::io("cannot stat", e))?;
    if len != header.cover.file_bytes {
        return Ok(false);
    }
    let mut bytes = [0; BATCH_HEADER_BYTES];
    let n = file
        .read_full_at(&mut bytes, header.cover.last_position.0)
        .map_err(|e| Error::io("cannot read", e))?;
    let last = BatchHeader::parse(bytes.get(..n).unwrap_or_default());
    Ok(last.is_ok_and(|last| header.cover.is_of(len, &last)))
}

fn load(dir: &dyn Dir, name: &str) -> Result<Option<(Header, Bytes)>> {
    let place = |e: Error| e.at_path(dir.path().join(name));
    let file = match dir.open(name, Access::Read) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(place(Error::io("cannot open", e))),
    };
    let bytes = file.map();
    let bytes = bytes.map_err(|e| place(Error::io("cannot map", e)))?;
    let header = Header::parse(&bytes, bytes.len() as u64)
        .map_err(|d| place(Error::data(d.reason).at_position(d.at as u64)))?;
    Ok(Some((header, bytes)))
}

/// Whether the machine, not the file, is at fault.
fn is_exhausted(e: &Error) -> bool {
    e.kind() == ErrorKind::Io
}

/// A directory in `dir`, if it is there and may be opened.
fn existing(dir: &Arc<dyn Dir>, name: &str) -> Result<Option<Arc<dyn Dir>>> {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
    match dir.open_dir(name) {
        Ok(found) => Ok(Some(found)),
        Err(e) if matches!(e.kind(), NotFound | NotADirectory | PermissionDenied) => Ok(None),
        Err(e) => Err(Error::io("cannot open", e).at_path(dir.path().join(name))),
    }
}

/// Makes sure that a directory is in `own` (`.logd`), durably.
///
/// # Errors
/// What the system answers.
pub fn make_dir(own: &dyn Dir, name: &str) -> Result<Arc<dyn Dir>> {
    let cannot = |e| Error::io("cannot make the directory", e).at_path(own.path().join(name));
    match own.make_dir(name) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        made => {
            made.map_err(cannot)?;
            own.sync().map_err(cannot)?;
        }
    }
    own.open_dir(name).map_err(cannot)
}

/// Removes these files of `dir`, durably.
///
/// # Errors
/// What the system answers.
pub fn remove(dir: &dyn Dir, names: &[String]) -> Result<()> {
    let cannot = |e| Error::io("cannot remove", e).at_path(dir.path());
    for name in names {
        unlink_if_there(dir, name).map_err(cannot)?;
    }
    match names.is_empty() {
        true => Ok(()),
        false => dir.sync().map_err(cannot),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_base_and_field() {
        for field in ["key", "json:/a~1b/é", "header:x-y", "value", "", "a%b"] {
            let name = file_name(Offset(42), field);
            assert!(!name.contains('/') && name.is_ascii(), "{name}");
            let parsed = parse_name(&name);
            assert_eq!(parsed, Some((Offset(42), Some(field.to_string()))));
        }
        let long = format!("json:/{}", "x".repeat(300));
        let name = file_name(Offset(42), &long);
        assert!(name.len() < 255);
        assert_eq!(parse_name(&name), Some((Offset(42), None)));
        for stranger in [
            "x.lookup",
            "1-key.lookup",
            "notes",
            "00000000000000000042-key.log",
        ] {
            assert_eq!(parse_name(stranger), None);
        }
    }
}
