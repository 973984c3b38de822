//! The five codecs of a batch body: names, ids, levels, and the bytes each of them makes.
//!
//! | id | codec | written here | read here |
//! |---|---|---|---|
//! | 0 | none | as it is | as it is |
//! | 1 | gzip | RFC 1952, one member | any number of members |
//! | 2 | snappy | xerial framing, blocks of 32 KiB | xerial framing or one raw block |
//! | 3 | lz4 | one frame, independent blocks of 64 KiB | one frame of any block size, linked or not |
//! | 4 | zstd | RFC 8878, one frame with its content size | any number of frames |
//!
//! What is written is what Kafka's Java clients write, so that every Kafka client can read it. What
//! is read is whatever real clients have written; each module under `codec` says how.
//!
//! Invariants, for any input whatever:
//! * Nothing panics and nothing loops: each step uses up input or produces output.
//! * Output stops in mid-stream once it passes [`Limits::body_bytes_max`].
//! * Memory follows the bytes produced. An announced size is a hint for a reservation that the
//!   compressed bytes at hand must be able to justify, never more.
//! * Bytes left over after the compressed data are a [`Defect`].
//!
//! Both [`Compressor`] and [`Decompressor`] keep codec state between batches (setting one up costs
//! more than a small batch does). They belong to one thread each.
//! Checksums of a batch are not looked at here.

use std::fmt;
use std::str::FromStr;

use super::{Defect, Limits};
use crate::error::Error;

mod gzip;
mod lz4;
mod snappy;
mod zstd;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// Stored as they are.
    #[default]
    None,
    /// RFC 1952.
    Gzip,
    /// Snappy blocks, framed the way xerial's snappy-java does or not framed at all.
    Snappy,
    /// LZ4 frame format.
    Lz4,
    /// RFC 8878. Only in batches of magic 2.
    Zstd,
}

impl Codec {
    /// Every codec, in the order of their ids.
    pub const ALL: [Codec; 5] = [
        Codec::None,
        Codec::Gzip,
        Codec::Snappy,
        Codec::Lz4,
        Codec::Zstd,
    ];

    /// The codec with the id that bits 0 to 2 of a batch's attributes hold; 5 to 7 are none.
    pub fn from_id(id: u8) -> Option<Codec> {
        Codec::ALL.get(usize::from(id)).copied()
    }

    /// The id, 0 to 4.
    pub fn id(self) -> u8 {
        match self {
            Codec::None => 0,
            Codec::Gzip => 1,
            Codec::Snappy => 2,
            Codec::Lz4 => 3,
            Codec::Zstd => 4,
        }
    }

    /// The name, as Kafka's `compression.type` and its tools spell it.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    /// Lowest, default and highest level of the codecs that have any.
    fn levels(self) -> Option<(i32, i32, i32)> {
        match self {
            Codec::Gzip => Some((1, 6, 9)),
            Codec::Zstd => Some((-7, 3, 22)),
            Codec::None | Codec::Snappy | Codec::Lz4 => None,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Codec {
    type Err = Error;

    fn from_str(name: &str) -> Result<Codec, Error> {
        Codec::ALL
            .into_iter()
            .find(|c| c.name() == name)
            .ok_or_else(|| {
                Error::usage(format!("unknown codec {name:?}"))
                    .hint("one of none, gzip, snappy, lz4, zstd")
            })
    }
}

/// A codec to write with, and how hard it is to try. As text: `lz4`, `zstd`, `zstd:19`, `gzip:1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Compression {
    /// The codec.
    pub codec: Codec,
    /// Its level (gzip 1 to 9, zstd -7 to 22); none means the codec's own default.
    pub level: Option<i32>,
}

impl Compression {
    /// Stored as it is.
    pub const NONE: Compression = Compression {
        codec: Codec::None,
        level: None,
    };

    /// The level to use: the one asked for, kept inside what the codec has, or its default.
    fn effective_level(self) -> i32 {
        match self.codec.levels() {
            Some((low, default, high)) => self.level.unwrap_or(default).clamp(low, high),
            None => 0,
        }
    }
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Compression {
        Compression { codec, level: None }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.level {
            Some(level) => write!(f, "{}:{level}", self.codec),
            None => self.codec.fmt(f),
        }
    }
}

impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Compression, Error> {
        let Some((name, level)) = text.split_once(':') else {
            return Ok(text.parse::<Codec>()?.into());
        };
        let codec: Codec = name.parse()?;
        let Some((low, _, high)) = codec.levels() else {
            return Err(Error::usage(format!("{codec} has no levels")).hint(format!("-z {codec}")));
        };
        match level.parse() {
            Ok(level) if (low..=high).contains(&level) => Ok(Compression {
                codec,
                level: Some(level),
            }),
            _ => Err(
                Error::usage(format!("{codec} has no level {level:?}")).hint(format!(
                    "{codec} takes levels {low} to {high}, for example {codec}:{high}"
                )),
            ),
        }
    }
}

/// Compresses batch bodies, one after another. Keeps codec state between them.
pub struct Compressor {
    codec: Codec,
    state: State,
}

enum State {
    None,
    Gzip(gzip::Writer),
    Snappy(Box<snappy::Writer>),
    Lz4,
    Zstd(zstd::Writer),
}

impl Compressor {
    /// A compressor that writes with `compression`.
    pub fn new(compression: &Compression) -> Compressor {
        let level = compression.effective_level();
        Compressor {
            codec: compression.codec,
            state: match compression.codec {
                Codec::None => State::None,
                Codec::Gzip => State::Gzip(gzip::Writer::new(level)),
                Codec::Snappy => State::Snappy(Box::default()),
                Codec::Lz4 => State::Lz4,
                Codec::Zstd => State::Zstd(zstd::Writer::new(level)),
            },
        }
    }

    /// The codec it writes with.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Appends `input`, compressed, to `out`.
    ///
    /// # Panics
    ///
    /// If the codec cannot get the memory it needs, as a `Vec` does. Compressing fails for no other
    /// reason.
    pub fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let done = match &mut self.state {
            State::None => {
                out.extend_from_slice(input);
                Ok(())
            }
            State::Gzip(writer) => writer.compress(input, out),
            State::Snappy(writer) => writer.compress(input, out),
            State::Lz4 => lz4::compress(input, out),
            State::Zstd(writer) => writer.compress(input, out),
        };
        if let Err(defect) = done {
            panic!("cannot compress: {}", defect.reason);
        }
    }
}

/// Decompresses batch bodies, one after another. Keeps codec state between them.
#[derive(Default)]
pub struct Decompressor {
    zstd: zstd::Reader,
}

impl Decompressor {
    /// A decompressor that has not set up anything yet.
    pub fn new() -> Decompressor {
        Decompressor::default()
    }

    /// Appends to `out` what `input`, all of it, decompresses to.
    ///
    /// `magic` is that of the batch: magic 0 has a quirk of its own in lz4.
    ///
    /// # Errors
    ///
    /// A [`Defect`] in `input` if it is not what the codec writes, ends early, has bytes left over,
    /// or would decompress to more than `limits` allow. `out` then ends in the bytes decompressed
    /// so far.
    pub fn decompress(
        &mut self,
        codec: Codec,
        magic: u8,
        input: &[u8],
        out: &mut Vec<u8>,
        limits: &Limits,
    ) -> Result<(), Defect> {
        let mut sink = Sink::new(out, limits.body_bytes_max);
        match codec {
            Codec::None => sink.extend(input),
            Codec::Gzip => gzip::decompress(input, &mut sink),
            Codec::Snappy => snappy::decompress(input, &mut sink),
            Codec::Lz4 => lz4::decompress(input, magic, &mut sink),
            Codec::Zstd => self
                .zstd
                .decompress(input, limits.zstd_window_log_max, &mut sink),
        }
    }
}

/// Where a decoder puts its output: the end of a caller's `Vec`, up to a limit.
struct Sink<'a> {
    out: &'a mut Vec<u8>,
    /// Length of `out` before this body.
    base: usize,
    /// Most bytes this body may have.
    max: usize,
}

impl<'a> Sink<'a> {
    fn new(out: &'a mut Vec<u8>, max: usize) -> Sink<'a> {
        Sink {
            base: out.len(),
            out,
            max,
        }
    }

    /// Bytes of this body so far.
    fn produced(&self) -> usize {
        self.out.len().saturating_sub(self.base)
    }

    /// Bytes that this body may still grow by.
    fn room(&self) -> usize {
        self.max.saturating_sub(self.produced())
    }

    /// The defect of a body that does not fit; `at` is where in the input that shows.
    fn too_big(&self, at: usize) -> Defect {
        Defect::new(at, format!("decompresses to more than {} bytes", self.max))
    }

    /// Adds bytes as they are.
    fn extend(&mut self, bytes: &[u8]) -> Result<(), Defect> {
        if bytes.len() > self.room() {
            return Err(self.too_big(0));
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Adds up to `len` bytes that `fill` produces. It gets this body so far and `len` zeroed bytes
    /// after it, and returns how many of them it used.
    fn fill<E>(
        &mut self,
        len: usize,
        fill: impl FnOnce(&[u8], &mut [u8]) -> Result<usize, E>,
    ) -> Result<(), E> {
        let start = self.out.len();
        self.out.resize(start.saturating_add(len), 0);
        let (before, after) = self.out.split_at_mut(start);
        let done = fill(before.get(self.base..).unwrap_or_default(), after);
        let used = done.as_ref().map_or(0, |n| (*n).min(len));
        self.out.truncate(start.saturating_add(used));
        done.map(|_| ())
    }
}

#[cfg(test)]
mod tests;
