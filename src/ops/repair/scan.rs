//! One segment taken apart: what of it is intact, and what lies between.

use crate::error::{Error, Result};
use crate::format::batch::{Batch, BatchHeader, Scratch};
use crate::format::{Limits, Offset, Position};
use crate::ops::verify::records::check_batch;
use crate::segment::salvage::{Damage, Found, Salvage};
use crate::segment::scan::{Span, Tail};
use crate::sys::File;
use std::ops::Range;
use std::sync::Arc;

/// How often the content of a file may begin anew at a lower offset.
const STRANDS_MAX: usize = 1024;
/// From so many pieces on they are told apart by bytes only: a compacted segment is all gaps.
const PIECES_MAX: usize = 1 << 16;

/// Intact batches one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where the first begins and the last ends.
    pub bytes: Range<Position>,
    /// Their offsets: the base of the first, behind the last of the last.
    pub offsets: Range<Offset>,
}

/// A stretch that does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Where it lies.
    pub bytes: Range<Position>,
    /// What it may have held.
    pub offsets: Range<Offset>,
    /// What is wrong with it.
    pub reason: String,
    /// Nothing intact follows in the file.
    pub is_last: bool,
    /// The checksum of the batch holds; its records are what is wrong.
    pub is_whole: bool,
}

/// Pieces whose offsets rise, and the cuts between.
#[derive(Clone, Debug, Default)]
pub struct Strand {
    /// What is intact, in the order of positions and of offsets.
    pub pieces: Vec<Piece>,
    /// What is not.
    pub cuts: Vec<Cut>,
    /// Offset behind what is in it, batches that were taken out by their records included.
    pub end: Offset,
    /// Where the data ends; zeros may follow.
    pub data_end: Position,
    /// The batch found last: where it begins, its base offset, the one expected there.
    pub last: Option<(Position, Offset, Offset)>,
}

/// A segment taken apart.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// What is at home in the segment.
    pub home: Strand,
    /// Intact batches that lie in this file behind higher offsets, or below the file's name.
    pub strays: Vec<Strand>,
}

/// Takes a segment apart. Its batches begin at `next` or above; `len` is how far the file counts.
///
/// # Errors
/// The file cannot be read.
pub fn scan(
    file: &Arc<dyn File>,
    base: Offset,
    next: Offset,
    len: Position,
    limits: Limits,
) -> Result<Scan> {
    let span = Span {
        base,
        next: next.max(base),
        from: Position(0),
        end: len,
    };
    let home = strand(file, span, limits)?;
    let mut strays: Vec<Strand> = Vec::new();
    let mut open: Vec<Cut> = home.cuts.clone();
    while let Some(cut) = open.pop().filter(|_| strays.len() < STRANDS_MAX) {
        let (from, end) = (cut.bytes.start, cut.bytes.end);
        let header = match cut.is_whole {
            true => None,
            false => whole_at(file, from, end, &limits)?,
        };
        let below = |h: &BatchHeader| (Offset::ZERO..cut.offsets.start).contains(&h.base_offset);
        if let Some(header) = header.filter(below) {
            let (base, next) = (header.base_offset, header.base_offset);
            let stray = strand(
                file,
                Span {
                    base,
                    next,
                    from,
                    end,
                },
                limits,
            )?;
            open.extend(stray.cuts.iter().cloned());
            strays.push(stray);
        }
    }
    Ok(Scan { home, strays })
}

fn strand(file: &Arc<dyn File>, span: Span, limits: Limits) -> Result<Strand> {
    let mut walk = Salvage::new(file.clone(), span, limits);
    let mut scratch = Scratch::new();
    let mut out = Strand {
        end: span.next,
        ..Strand::default()
    };
    let mut last: Option<BatchHeader> = None;
    loop {
        let expected = walk.next_offset();
        match walk.step()? {
            Found::Batch(at) => {
                let Some(batch) = walk.batch() else { continue };
                let header = batch.header();
                out.last = Some((at, header.base_offset, expected));
                out.end = header.last_offset.next();
                match check_batch(header, batch.bytes(), &mut scratch, &limits) {
                    Ok(_) => out.keep(header, at),
                    Err((_, reason)) => out.cuts.push(Cut {
                        bytes: at..at + header.size as u64,
                        offsets: header.base_offset..header.last_offset.next(),
                        reason,
                        is_last: false,
                        is_whole: true,
                    }),
                }
                last = Some(header.clone());
            }
            Found::Damage(damage) => out.cuts.push(cut(damage)),
            Found::Disowned(damage) => {
                out.end = damage.lost.start;
                out.disown(&damage, last.take());
                out.cuts.push(cut(damage));
            }
            Found::End(end) => {
                if end.tail == Tail::Partial {
                    out.cuts.push(Cut {
                        bytes: end.position..span.end,
                        offsets: walk.next_offset()..Offset::MAX,
                        reason: "the file ends inside a batch".to_string(),
                        is_last: true,
                        is_whole: false,
                    });
                }
                out.data_end = end.position;
                return Ok(out);
            }
        }
    }
}

fn cut(damage: Damage) -> Cut {
    Cut {
        bytes: damage.position..damage.position + damage.bytes,
        offsets: damage.lost,
        reason: damage.defect.reason,
        is_last: damage.is_last,
        is_whole: false,
    }
}

impl Strand {
    fn keep(&mut self, header: &BatchHeader, at: Position) {
        let (end, next) = (at + header.size as u64, header.last_offset.next());
        let many = self.pieces.len() >= PIECES_MAX;
        let follows =
            |p: &&mut Piece| p.bytes.end == at && (many || p.offsets.end == header.base_offset);
        match self.pieces.last_mut().filter(follows) {
            Some(piece) => {
                piece.bytes.end = end;
                piece.offsets.end = next;
            }
            None => self.pieces.push(Piece {
                bytes: at..end,
                offsets: header.base_offset..next,
            }),
        }
    }

    /// Takes the last batch back.
    fn disown(&mut self, damage: &Damage, header: Option<BatchHeader>) {
        if header.is_none() {
            return;
        }
        self.cuts.retain(|c| c.bytes.start != damage.position);
        if let Some(piece) = self
            .pieces
            .last_mut()
            .filter(|p| p.bytes.end > damage.position)
        {
            piece.bytes.end = damage.position;
            piece.offsets.end = damage.lost.start;
            if piece.bytes.is_empty() {
                self.pieces.pop();
            }
        }
    }

    /// Takes the last batch out if it reaches beyond `next`, where the next segment begins, and would
    /// end exactly there if it began where the one before it ends: then its base offset is wrong.
    pub fn disown_last(&mut self, next: Offset) {
        let Some((at, base, expected)) = self.last else {
            return;
        };
        let should_end = expected + (self.end - base);
        if self.end <= next || base == expected || should_end != next {
            return;
        }
        let Some(piece) = self.pieces.last_mut().filter(|p| p.bytes.end > at) else {
            return;
        };
        self.cuts.push(Cut {
            bytes: at..piece.bytes.end,
            offsets: expected..next,
            reason: format!(
                "base offset {base} of a batch that the next segment shows to begin at {expected}"
            ),
            is_last: true,
            is_whole: false,
        });
        (piece.bytes.end, piece.offsets.end, self.end) = (at, expected, expected);
        if piece.bytes.is_empty() {
            self.pieces.pop();
        }
    }

    /// The offsets it holds, gaps between pieces included.
    pub fn offsets(&self) -> Option<Range<Offset>> {
        let (first, last) = (self.pieces.first()?, self.pieces.last()?);
        Some(first.offsets.start..last.offsets.end)
    }

    /// Bytes of what is intact.
    pub fn bytes(&self) -> u64 {
        self.pieces
            .iter()
            .map(|p| p.bytes.end - p.bytes.start)
            .sum()
    }
}

/// The header of the batch at `at`, if it is one by its checksum.
fn whole_at(
    file: &Arc<dyn File>,
    at: Position,
    end: Position,
    limits: &Limits,
) -> Result<Option<BatchHeader>> {
    use crate::format::frame::{BATCH_HEADER_BYTES, Frame, frame};
    let fail = |e| Error::io("cannot read", e).at_position(at.0);
    let mut head = [0; BATCH_HEADER_BYTES];
    let n = file.read_full_at(&mut head, at.0).map_err(fail)?;
    let size = match frame(head.get(..n).unwrap_or_default(), limits) {
        Frame::Entry(size) | Frame::NeedMore(size) if size as u64 <= end - at => size,
        _ => return Ok(None),
    };
    let mut bytes = vec![0; size];
    let n = file.read_full_at(&mut bytes, at.0).map_err(fail)?;
    let batch = Batch::check(bytes.get(..n).unwrap_or_default());
    Ok(batch.ok().map(|b| b.header().clone()))
}
