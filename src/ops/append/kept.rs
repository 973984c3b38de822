//! Input that is kept until it is settled: for `-T`, which copies it to stdout once it is safely
//! written, and for `--spill`, which gets what was not.
//!
//! Input from regular files need not be kept for `--spill`; it is read again. What is kept is
//! bounded by the caller, who waits for a sync before it reads on ([`Kept::len`]).

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::origin::Span;
use crate::error::{Error, Result};

/// The bytes of the input from the frontier on.
#[derive(Debug, Default)]
struct Bytes {
    /// Input position of the first byte.
    base: u64,
    held: VecDeque<u8>,
    /// Spans that are not to be copied: rejected records.
    holes: VecDeque<Span>,
}

/// Input kept, and where it is copied to.
pub struct Kept {
    bytes: Mutex<Bytes>,
    tee: Mutex<Option<Box<dyn Write + Send>>>,
}

impl Kept {
    /// Keeps input from position `start` on; what becomes settled is copied to `tee`.
    pub fn new(start: u64, tee: Option<Box<dyn Write + Send>>) -> Kept {
        let bytes = Bytes {
            base: start,
            ..Bytes::default()
        };
        Kept {
            bytes: Mutex::new(bytes),
            tee: Mutex::new(tee),
        }
    }

    /// Adds bytes just read.
    pub fn push(&self, bytes: &[u8]) {
        self.bytes().held.extend(bytes);
    }

    /// Forgets what is kept; input from position `start` on follows.
    pub fn restart(&self, start: u64) {
        *self.bytes() = Bytes {
            base: start,
            ..Bytes::default()
        };
    }

    /// Says that a span is to be left out of the copy.
    pub fn leave_out(&self, span: Span) {
        self.bytes().holes.push_back(span);
    }

    /// Bytes kept.
    pub fn len(&self) -> usize {
        self.bytes().held.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything below `frontier` is settled: it is copied and let go. A stdout that was closed is
    /// no error; nothing is copied from then on.
    ///
    /// # Errors
    /// What the system answers about stdout.
    pub fn settle(&self, frontier: u64) -> Result<()> {
        // Held throughout, so that two threads that settle cannot swap their pieces.
        let mut tee = self.tee.lock().unwrap_or_else(PoisonError::into_inner);
        let pieces = self.bytes().take(frontier);
        let Some(out) = tee.as_mut() else {
            return Ok(());
        };
        let result = pieces.iter().try_for_each(|p| out.write_all(p));
        match result.and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(e) => {
                *tee = None;
                match e.kind() == io::ErrorKind::BrokenPipe {
                    true => Ok(()),
                    false => Err(Error::io("cannot write to stdout", e)),
                }
            }
        }
    }

    /// Writes these spans to `out`; all of them must still be kept.
    ///
    /// # Errors
    /// What the system answers.
    pub fn write_spans(&self, spans: &[Span], out: &mut dyn Write) -> io::Result<()> {
        let mut bytes = self.bytes();
        let base = bytes.base;
        let held = bytes.held.make_contiguous();
        for span in spans {
            let at = |p: u64| usize::try_from(p.saturating_sub(base)).unwrap_or(usize::MAX);
            out.write_all(held.get(at(span.start)..at(span.end)).unwrap_or_default())?;
        }
        Ok(())
    }

    fn bytes(&self) -> MutexGuard<'_, Bytes> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bytes {
    /// Takes the bytes below `frontier` out, without the holes.
    fn take(&mut self, frontier: u64) -> Vec<Vec<u8>> {
        let end = frontier.min(self.base + self.held.len() as u64);
        let mut pieces = Vec::new();
        while self.base < end {
            let hole = self.holes.front().copied();
            let stop = hole.map_or(end, |h| h.start.clamp(self.base, end));
            let piece = self.cut(stop);
            if !piece.is_empty() {
                pieces.push(piece);
            }
            match hole {
                Some(h) if h.start <= self.base && self.base < end => {
                    self.cut(h.end.min(end));
                    if h.end <= self.base {
                        self.holes.pop_front();
                    }
                }
                _ => {}
            }
        }
        pieces
    }

    fn cut(&mut self, to: u64) -> Vec<u8> {
        let n = usize::try_from(to.saturating_sub(self.base)).unwrap_or(0);
        let n = n.min(self.held.len());
        self.base += n as u64;
        self.held.drain(..n).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Out(Arc<Mutex<Vec<u8>>>);

    impl Write for Out {
        fn write(&mut self, b: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(b);
            Ok(b.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn tee_gets_what_is_settled_without_rejects_in_any_steps() {
        let input: Vec<u8> = (0..100).collect();
        let holes = [(0, 3), (10, 11), (40, 60), (60, 61), (95, 100)];
        let kept_byte = |i: &u8| !holes.iter().any(|(a, b)| (*a..*b).contains(&u64::from(*i)));
        let want: Vec<u8> = input.iter().copied().filter(kept_byte).collect();
        for step in [1, 7, 30, 100] {
            let out = Out::default();
            let kept = Kept::new(1000, Some(Box::new(out.clone())));
            for (a, b) in holes {
                kept.leave_out(Span {
                    start: 1000 + a,
                    end: 1000 + b,
                });
            }
            for (i, piece) in input.chunks(step).enumerate() {
                kept.push(piece);
                kept.settle(1000 + (i * step) as u64 / 2).unwrap();
            }
            kept.settle(u64::MAX).unwrap();
            assert_eq!(*out.0.lock().unwrap(), want, "step {step}");
            assert!(kept.is_empty());
        }
    }

    #[test]
    fn spans_are_found_after_part_was_let_go() {
        let kept = Kept::new(5, None);
        kept.push(b"abcdefghij");
        kept.settle(7).unwrap();
        let mut out = Vec::new();
        let spans = [Span { start: 7, end: 9 }, Span { start: 12, end: 15 }];
        kept.write_spans(&spans, &mut out).unwrap();
        assert_eq!(out, b"cdhij");
    }
}
