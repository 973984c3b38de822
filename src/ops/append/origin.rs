//! Which bytes of the input a set of records came from.
//!
//! Positions count from the start of the input, all files together. Records of one partition lie in
//! runs of adjoining bytes: one run where there is one partition, many where keys scatter records
//! over several. The sum of bytes and the first position are always known; the runs themselves only
//! where somebody will ask for exactly the bytes that were not acknowledged (`--spill`), for two to
//! four bytes of memory a run.

use crate::format::varint::{read_varlong, write_varint};

/// Bytes of the input, half-open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// First byte.
    pub start: u64,
    /// Byte after the last.
    pub end: u64,
}

impl Span {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }
}

/// The input bytes of a set of records, which grows in input order.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// Where the first run begins.
    start: u64,
    /// The last run; empty until something was added.
    from: u64,
    to: u64,
    /// Bytes in the runs before the last.
    earlier: u64,
    /// The runs before the last, each as (gap after the run before it, length).
    runs: Vec<u8>,
    /// End of the last run in `runs`.
    runs_end: u64,
    exact: bool,
}

impl Origin {
    /// An empty one, which knows its runs if `exact`.
    pub fn new(exact: bool) -> Origin {
        Origin {
            exact,
            ..Origin::default()
        }
    }

    /// Adds the bytes of a record, which lie after all those added before.
    #[inline(always)]
    pub fn add(&mut self, span: Span) {
        if span.start == self.to && self.from != self.to {
            self.to = span.end;
        } else {
            self.jump(span);
        }
    }

    fn jump(&mut self, span: Span) {
        if span.is_empty() {
            return;
        }
        if self.from == self.to {
            self.start = span.start;
        } else {
            self.earlier += self.to - self.from;
            if self.exact {
                write_varint(&mut self.runs, (self.from - self.runs_end).cast_signed());
                write_varint(&mut self.runs, (self.to - self.from).cast_signed());
                self.runs_end = self.to;
            }
        }
        (self.from, self.to) = (span.start, span.end);
    }

    /// Adds all of `other`, which came later in the input.
    pub fn absorb(&mut self, other: &Origin) {
        if other.from == other.to {
            return;
        }
        if self.exact || other.earlier == 0 {
            other.spans().for_each(|s| self.add(s));
            return;
        }
        // The runs between are not known: only sum and first position are kept right.
        let bytes = self.bytes() + other.bytes();
        self.start = self.start().unwrap_or(other.start);
        (self.from, self.to) = (other.from, other.to);
        self.earlier = bytes - (self.to - self.from);
    }

    /// Input bytes in it.
    pub fn bytes(&self) -> u64 {
        self.earlier + (self.to - self.from)
    }

    /// First position, if there is anything.
    pub fn start(&self) -> Option<u64> {
        (self.from != self.to).then_some(self.start)
    }

    /// Memory that its runs take, in bytes.
    pub fn memory(&self) -> usize {
        self.runs.len()
    }

    /// Its runs in order. Unless it is exact, only the last.
    pub fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        let (mut at, mut end) = (0, 0u64);
        let coded = std::iter::from_fn(move || {
            let (gap, next) = read_varlong(&self.runs, at).ok()?;
            let (len, next) = read_varlong(&self.runs, next).ok()?;
            at = next;
            let start = end + gap.cast_unsigned();
            end = start + len.cast_unsigned();
            Some(Span { start, end })
        });
        let last = Span {
            start: self.from,
            end: self.to,
        };
        coded.chain((!last.is_empty()).then_some(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Disjoint spans in rising order from (gap, length) pairs.
    fn spans(pairs: &[(u64, u64)]) -> Vec<Span> {
        let mut at = 0;
        let span = |&(gap, len): &(u64, u64)| {
            let start = at + gap;
            at = start + len;
            Span { start, end: at }
        };
        pairs.iter().map(span).collect()
    }

    fn merged(spans: &[Span]) -> Vec<Span> {
        let mut out: Vec<Span> = Vec::new();
        for s in spans.iter().filter(|s| !s.is_empty()) {
            match out.last_mut() {
                Some(last) if last.end == s.start => last.end = s.end,
                _ => out.push(*s),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn origin_knows_exactly_the_bytes_added(
            pairs in proptest::collection::vec((0u64..3, 0u64..200), 0..40),
            cut in 0usize..40,
        ) {
            let all = spans(&pairs);
            let (a, b) = all.split_at(cut.min(all.len()));
            for exact in [true, false] {
                let [mut first, mut second] = [a, b].map(|part| {
                    let mut o = Origin::new(exact);
                    part.iter().for_each(|s| o.add(*s));
                    o
                });
                first.absorb(&second);
                prop_assert_eq!(first.bytes(), all.iter().map(Span::len).sum::<u64>());
                prop_assert_eq!(first.start(), merged(&all).first().map(|s| s.start));
                if exact {
                    prop_assert_eq!(first.spans().collect::<Vec<_>>(), merged(&all));
                }
                second.absorb(&Origin::new(exact));
                prop_assert_eq!(second.bytes(), b.iter().map(Span::len).sum::<u64>());
            }
        }
    }
}
