//! The codecs a batch body may be compressed with. (Interim: only `none`; the others follow.)

use super::{Defect, Limits};

/// A codec id of the attributes field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Stored as is.
    None,
    /// RFC 1952.
    Gzip,
    /// Xerial frames or one raw block.
    Snappy,
    /// Frame format.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl Codec {
    /// The codec with this id.
    pub fn from_id(id: u8) -> Option<Codec> {
        (id == 0).then_some(Codec::None)
    }
    /// Its id.
    pub fn id(self) -> u8 {
        self as u8
    }
}

/// A codec and its level.
#[derive(Clone, Copy, Debug)]
pub struct Compression {
    /// The codec.
    pub codec: Codec,
    /// Its level, or the codec's default.
    pub level: Option<i32>,
}

impl Compression {
    /// No compression.
    pub const NONE: Compression = Compression {
        codec: Codec::None,
        level: None,
    };
}

impl std::str::FromStr for Compression {
    type Err = crate::error::Error;
    fn from_str(_: &str) -> Result<Compression, Self::Err> {
        Ok(Compression::NONE)
    }
}

/// Reusable compressor state.
pub struct Compressor {
    compression: Compression,
}

impl Compressor {
    /// A compressor for `compression`.
    pub fn new(compression: &Compression) -> Compressor {
        Compressor {
            compression: *compression,
        }
    }
    /// Its codec.
    pub fn codec(&self) -> Codec {
        self.compression.codec
    }
    /// Appends `input` compressed to `out`.
    pub fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(input);
    }
}

/// Reusable decompressor state.
#[derive(Default)]
pub struct Decompressor {}

impl Decompressor {
    /// Appends `input` decompressed to `out`.
    ///
    /// # Errors
    /// A defect if it does not decompress within `limits`.
    pub fn decompress(
        &mut self,
        _codec: Codec,
        _magic: u8,
        input: &[u8],
        out: &mut Vec<u8>,
        _limits: &Limits,
    ) -> Result<(), Defect> {
        out.extend_from_slice(input);
        Ok(())
    }
}
