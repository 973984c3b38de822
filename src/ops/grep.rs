//! Searches logs: which records match, and what is around them.
//!
//! | module | owns |
//! |---|---|
//! | [`pattern`] | what is searched for, compiled; searching batches as a whole |
//! | [`find`] | the records of a batch that match |
//! | `show` | limit and context |
//! | `ahead` | batches read and searched on all cores, in order |
//! | `filter` | segments that cannot match, by `index --bloom` |
//! | `column` | cells of rows |
//!
//! What is found never hangs on how: searched as a whole or record by record, on one core or on
//! several, the answer is that of looking at each record in turn.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::cat::{Cat, Source};
use super::emit::{Emitter, Flow, Sink};
use super::output::Meta;
use super::topic::Partition;
use crate::error::{Error, ErrorKind, Result};
use crate::format::batch::Batch;
use crate::format::plain::Plain;
use crate::format::{Defect, Offset};

mod ahead;
pub(super) mod column;
mod filter;
pub mod find;
pub mod pattern;
mod show;
#[cfg(test)]
mod tests;

pub use find::{Query, Want};
pub use pattern::{Pattern, PatternOptions, Stored};
pub use show::Around;

use ahead::Stand;
pub(super) use find::Finder;
use find::Found;
use show::{Place, Shower};

/// A search under way, over any number of logs one after the other or side by side.
pub struct Grep {
    query: Arc<Query>,
    finder: Finder,
    shower: Shower,
    /// How far each log is, by its number in the search.
    places: HashMap<usize, Place>,
    open: Vec<u8>,
    found: Found,
    matched: u64,
}

impl Grep {
    /// A search for `query` that shows, or counts, at most `limit` matches.
    pub fn new(query: Query, around: Around, limit: Option<u64>) -> Grep {
        Grep {
            finder: Finder::new(&query),
            query: Arc::new(query),
            shower: Shower::new(around, limit),
            places: HashMap::new(),
            open: Vec::new(),
            found: Found::default(),
            matched: 0,
        }
    }

    /// Goes on behind what was shown by another process: a mark comes before the first match, too.
    pub fn go_on(&mut self) {
        self.shower.go_on();
    }

    /// Records that matched so far, and were within the limit.
    pub fn matched(&self) -> u64 {
        self.matched
    }

    /// Searches one batch of the log with this number and shows what is wanted of it. The inner error
    /// is a batch that cannot be decoded: nothing of it was shown.
    ///
    /// # Errors
    /// As [`Sink::write`].
    pub(super) fn piece(
        &mut self,
        emitter: &mut Emitter,
        log: usize,
        meta: &Meta<'_>,
        (batch, wanted): (&Batch<'_>, &Range<Offset>),
        sink: &mut dyn Sink,
    ) -> Result<std::result::Result<Flow, Defect>> {
        let (mut open, mut found) = (
            std::mem::take(&mut self.open),
            std::mem::take(&mut self.found),
        );
        let plain = self
            .finder
            .find(&self.query, batch, wanted, &mut open, &mut found);
        let shown = match plain {
            Ok(plain) => self.found(emitter, log, meta, &plain, &found, sink).map(Ok),
            Err(defect) => Ok(Err(defect)),
        };
        give_back(&mut open);
        (self.open, self.found) = (open, found);
        shown
    }

    /// Shows what is wanted of what was found in a batch.
    fn found(
        &mut self,
        emitter: &mut Emitter,
        log: usize,
        meta: &Meta<'_>,
        plain: &Plain<'_>,
        found: &Found,
        sink: &mut dyn Sink,
    ) -> Result<Flow> {
        match self.query.want {
            Want::Count => self.matched += self.shower.count(found.matches),
            Want::Matches if found.matches == 0 => {}
            Want::Matches => {
                self.matched += self.shower.matches(emitter, meta, plain, found, sink)?;
            }
            Want::All => {
                let place = self.places.entry(log).or_default();
                let (shower, lines) = (&mut self.shower, &found.lines);
                let (matched, flow) = shower.around(place, emitter, meta, plain, lines, sink)?;
                self.matched += matched;
                return Ok(flow);
            }
        }
        Ok(self.shower.flow())
    }
}

/// A buffer that one large batch has grown is given back above this.
const KEEP_BYTES: usize = 1 << 20;

/// Empties a buffer, and gives it back if it has grown.
fn give_back(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(KEEP_BYTES);
}

/// Searches the partition with number `log` in the search, up to its end as it is now. The emitter of
/// `cat` holds the search ([`Emitter::search`]).
///
/// # Errors
/// As [`super::cat::cat`].
pub fn grep(cat: &mut Cat<'_>, partition: &Partition, log: usize) -> Result<Flow> {
    cat.emitter.set_log(log);
    let mut source = cat.open(partition)?;
    let Source::Forward(feed) = &mut source else {
        return cat.read(partition, &mut source, None);
    };
    let Some(mut grep) = cat.emitter.take_search() else {
        return Err(Error::new(ErrorKind::Bug, "there is nothing to search for"));
    };
    let stand = ahead::search(feed, partition, cat, (&mut grep, log));
    let (view, until) = (feed.reader().view().clone(), feed.reader().until());
    cat.emitter.search(grep);
    match stand? {
        Stand::Ended(Flow::Full) => Ok(Flow::Full),
        Stand::Ended(Flow::More) => cat.end(partition, &mut source),
        Stand::Before(offset) => {
            let mut source = Source::new(cat.host, view, offset..until, cat.options)?;
            cat.read(partition, &mut source, None)
        }
    }
}
