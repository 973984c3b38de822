//! What it takes to read one partition as it grows: which file to watch, and what a look finds.
//!
//! `tail -f` and `merge -f` share it. The rule against misses is that of [`crate::sys::watch`]: watch
//! first, then look, then wait.

use super::wait;
use crate::error::Result;
use crate::format::Offset;
use crate::log::isolation::{Feed, OpenTransaction};
use crate::log::reader::{Refresh, read_end};
use crate::log::view::View;
use crate::sys::FileId;
use crate::sys::watch::{Watch, WatchId};

/// A partition that is followed, but for the [`Feed`] that reads it.
pub(super) struct Followed {
    /// The active segment's file that is watched.
    watched: Option<(FileId, WatchId)>,
    /// Whether the file is watched that D is published in; none is if it does not matter.
    durable: Option<bool>,
    /// Where the range ends that was asked for.
    pub(super) end: Offset,
    /// The open transaction that was told of.
    told: Option<OpenTransaction>,
}

impl Followed {
    /// A partition that is read up to `end`, or only as far as it is `durable` by then.
    pub(super) fn new(end: Offset, durable: bool) -> Followed {
        Followed {
            watched: None,
            durable: durable.then_some(false),
            end,
            told: None,
        }
    }

    /// Watches the file that takes appends now, and the one D is published in. Tells whether one of
    /// them was not watched before.
    pub(super) fn watch(&mut self, feed: &Feed, watch: &mut Watch) -> bool {
        let view = feed.reader().view();
        let mut new = false;
        if let Some(watched) = self.durable.as_mut().filter(|w| !**w) {
            *watched = wait::watch_durable(watch, view);
            new = *watched;
        }
        let Some(tail) = view.tail() else { return new };
        let Ok(now) = tail.file.id() else { return new };
        if self.watched.as_ref().is_some_and(|(id, _)| *id == now) {
            return new;
        }
        self.unwatch(watch);
        self.watched = Some((now, watch.file(tail.file.as_ref())));
        true
    }

    /// Ends the watch of the file that takes appends.
    pub(super) fn unwatch(&mut self, watch: &mut Watch) {
        if let Some((_, id)) = self.watched.take() {
            watch.remove(id);
        }
    }

    /// Looks for what is new; `was_woken` as in [`Feed::refresh`]. Tells what was found, and whether
    /// there may be more to read.
    ///
    /// # Errors
    /// As [`Feed::refresh`].
    pub(super) fn refresh(&self, feed: &mut Feed, was_woken: bool) -> Result<(Refresh, bool)> {
        let found = feed.refresh(was_woken)?;
        let mut more = found != Refresh::Nothing;
        if self.durable.is_some() {
            let durable = durable(feed.reader().view())?.min(self.end);
            more |= durable > feed.reader().until();
            feed.reader_mut().set_until(durable);
        }
        Ok((found, more))
    }

    /// Whether everything was read that was asked for.
    pub(super) fn is_at_end(&self, feed: &Feed) -> bool {
        feed.reader().next_offset() >= self.end
    }

    /// The open transaction that stops the feed, unless it was told of.
    pub(super) fn newly_open(&mut self, feed: &Feed) -> Option<OpenTransaction> {
        let open = feed.open().filter(|open| Some(*open) != self.told);
        self.told = open.or(self.told);
        open
    }
}

/// The durable offset of a log; its start if none is known.
///
/// # Errors
/// What reading `.logd/end` may meet.
pub(super) fn durable(view: &View) -> Result<Offset> {
    Ok(read_end(view)?.durable.unwrap_or(view.start()))
}

/// Watches the directory of a partition.
pub(super) fn watch_dir(watch: &mut Watch, view: &View) {
    let _ = watch.dir(view.log().dir().as_ref());
}
