//! Where the input comes from: stdin, or files one after the other, as one run of bytes.
//!
//! Owns the position in the input (all files together, bytes from the start), the name an error is
//! to be reported under, and the question whether more is ready. A regular file always is; of a
//! pipe, terminal or socket the system is asked. What regular files held can be read again.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::origin::Span;
use crate::error::{Error, ErrorKind, Result};
use crate::sys::FileId;
use crate::sys::pipe::{Ready, StreamKind, enlarge, stream_kind, wait_readable};

/// One input.
#[derive(Debug)]
struct Part {
    name: PathBuf,
    /// Where it begins in the whole input; known once it is opened.
    start: u64,
    /// Where reading began in the file: stdin may have been read before us.
    seek_start: u64,
}

#[derive(Debug)]
struct Current {
    file: File,
    /// Reading never waits: a regular file, a disk, `/dev/zero`.
    prompt: bool,
    regular: bool,
}

/// All input of a run.
#[derive(Debug)]
pub struct Source {
    parts: Vec<Part>,
    /// Parts opened so far; the last of them is the current one.
    opened: usize,
    current: Option<Current>,
    position: u64,
}

/// What a read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// So many bytes; none if another reader was faster.
    Bytes(usize),
    /// One input has ended. The next read opens the next.
    EndOfOne,
    /// All have ended.
    End,
}

impl Source {
    /// The input of these operands, in order; stdin if there are none, or for `-`. Opens the first
    /// and looks whether the others are there.
    ///
    /// # Errors
    /// What the system answers about an operand, with its name.
    pub fn open(names: &[PathBuf]) -> Result<Source> {
        let part = |name: PathBuf| Part {
            name,
            start: 0,
            seek_start: 0,
        };
        let mut parts: Vec<Part> = names.iter().cloned().map(part).collect();
        if parts.is_empty() {
            parts.push(part(PathBuf::from("-")));
        }
        for p in parts.iter().filter(|p| !is_stdin(&p.name)) {
            let meta = std::fs::metadata(&p.name).map_err(|e| cannot_read(e, &p.name))?;
            if meta.is_dir() {
                return Err(cannot_read(io::ErrorKind::IsADirectory.into(), &p.name));
            }
        }
        let mut source = Source {
            parts,
            opened: 0,
            current: None,
            position: 0,
        };
        source.open_next()?;
        Ok(source)
    }

    /// Input position after the bytes read so far, skipped ones included.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What messages call the current input.
    pub fn name(&self) -> String {
        match self.part() {
            Some(p) if !is_stdin(&p.name) => p.name.display().to_string(),
            _ => "stdin".to_string(),
        }
    }

    /// Where the current input begins in the whole.
    pub fn start_of_part(&self) -> u64 {
        self.part().map_or(0, |p| p.start)
    }

    /// Whether everything read so far and to come can be read again.
    pub fn is_seekable(&self) -> bool {
        self.parts.iter().all(|p| {
            let meta = match is_stdin(&p.name) {
                true => stdin().and_then(|f| f.metadata()),
                false => std::fs::metadata(&p.name),
            };
            meta.is_ok_and(|m| m.is_file())
        })
    }

    /// The inputs that are regular files.
    pub fn files(&self) -> Vec<FileId> {
        let id = |p: &Part| {
            let file = match is_stdin(&p.name) {
                true => stdin(),
                false if p.name.is_file() => File::open(&p.name),
                false => return None,
            };
            let (kind, id) = stream_kind(file.ok()?.as_fd()).ok()?;
            (kind == StreamKind::File).then_some(id)
        };
        self.parts.iter().filter_map(id).collect()
    }

    /// Reads what there is, up to the size of `buf`; waits if there is nothing.
    ///
    /// # Errors
    /// What the system answers.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<Fill> {
        if self.current.is_none() && !self.open_next()? {
            return Ok(Fill::End);
        }
        let name = self.part().map(|p| p.name.clone()).unwrap_or_default();
        let Some(current) = &mut self.current else {
            return Ok(Fill::End);
        };
        loop {
            match current.file.read(buf) {
                Ok(0) if !buf.is_empty() => {
                    self.current = None;
                    return Ok(Fill::EndOfOne);
                }
                Ok(n) => {
                    self.position += n as u64;
                    return Ok(Fill::Bytes(n));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Somebody set O_NONBLOCK on the stream that we share.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Fill::Bytes(0)),
                Err(e) => return Err(cannot_read(e, &name).with_kind(ErrorKind::Io)),
            }
        }
    }

    /// Passes over `bytes` bytes, into the following inputs if need be; fewer if the input ends.
    ///
    /// # Errors
    /// What the system answers.
    pub fn skip(&mut self, mut bytes: u64) -> Result<()> {
        let mut scratch = vec![0; 64 << 10];
        while bytes > 0 {
            if let Some(current) = self.current.as_mut().filter(|c| c.regular) {
                let failed = |e| Error::io("cannot skip input", e);
                let at = current.file.stream_position().map_err(failed)?;
                let len = current.file.metadata().map_err(failed)?.len();
                let step = bytes.min(len.saturating_sub(at));
                current
                    .file
                    .seek(SeekFrom::Start(at + step))
                    .map_err(failed)?;
                self.position += step;
                bytes -= step;
                if bytes == 0 {
                    return Ok(());
                }
            }
            let step = scratch
                .len()
                .min(usize::try_from(bytes).unwrap_or(usize::MAX));
            match self.read(scratch.get_mut(..step).unwrap_or_default())? {
                Fill::Bytes(n) => bytes -= n as u64,
                Fill::EndOfOne => {}
                Fill::End => return Ok(()),
            }
        }
        Ok(())
    }

    /// Waits until a read will not block, at most this long.
    ///
    /// # Errors
    /// What the system answers.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Ready> {
        match &self.current {
            Some(c) if !c.prompt => wait_readable(c.file.as_fd(), timeout)
                .map_err(|e| Error::io("cannot wait for input", e).at_path(self.name())),
            _ => Ok(Ready::Yes),
        }
    }

    /// Writes these spans of a seekable input to `out`.
    ///
    /// # Errors
    /// What the system answers.
    pub fn read_again(&self, spans: &[Span], out: &mut dyn Write) -> io::Result<()> {
        let opened = self.parts.get(..self.opened).unwrap_or_default();
        for (i, part) in opened.iter().enumerate() {
            let end = opened.get(i + 1).map_or(self.position, |next| next.start);
            let file = match is_stdin(&part.name) {
                true => stdin()?,
                false => File::open(&part.name)?,
            };
            for span in spans {
                let (from, to) = (span.start.max(part.start), span.end.min(end));
                copy_range(
                    &file,
                    part.seek_start,
                    from - part.start.min(from),
                    to.saturating_sub(part.start),
                    out,
                )?;
            }
        }
        Ok(())
    }

    fn part(&self) -> Option<&Part> {
        self.parts.get(self.opened.checked_sub(1)?)
    }

    /// Opens the next input; false if there is none.
    fn open_next(&mut self) -> Result<bool> {
        let Some(part) = self.parts.get_mut(self.opened) else {
            return Ok(false);
        };
        let failed = |e| cannot_read(e, &part.name);
        let mut file = match is_stdin(&part.name) {
            true => stdin().map_err(failed)?,
            false => File::open(&part.name).map_err(failed)?,
        };
        let (kind, _) = stream_kind(file.as_fd()).map_err(failed)?;
        let regular = kind == StreamKind::File;
        let seek_start = match regular {
            true => file.stream_position().map_err(failed)?,
            false => 0,
        };
        enlarge(file.as_fd());
        (part.start, part.seek_start) = (self.position, seek_start);
        self.opened += 1;
        let prompt = regular || kind == StreamKind::Other;
        self.current = Some(Current {
            file,
            prompt,
            regular,
        });
        Ok(true)
    }
}

/// Copies bytes `from..to` of a part that begins at `base` of its file.
fn copy_range(file: &File, base: u64, from: u64, to: u64, out: &mut dyn Write) -> io::Result<()> {
    let mut buf = vec![0; 64 << 10];
    let mut at = from;
    while at < to {
        let want = usize::try_from(to - at)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let place = buf.get_mut(..want).unwrap_or_default();
        match file.read_at(place, base + at)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                out.write_all(place.get(..n).unwrap_or_default())?;
                at += n as u64;
            }
        }
    }
    Ok(())
}

fn is_stdin(name: &Path) -> bool {
    name == Path::new("-")
}

/// Stdin under a descriptor of our own, so that it reads like any other file.
fn stdin() -> io::Result<File> {
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

fn cannot_read(e: io::Error, name: &Path) -> Error {
    Error::io("cannot read", e).at_path(match is_stdin(name) {
        true => Path::new("stdin"),
        false => name,
    })
}
