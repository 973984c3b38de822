//! Mixing logs while they grow.
//!
//! A log that was read to its end may get a record that belongs before those of the others at any
//! moment, so it holds them back. How long is a choice:
//!
//! * For ever: the order is then a function of what is in the logs, however their writers took turns.
//! * For so much real time, counted for each batch of the others from when it was first seen. What a
//!   writer brings later than that comes behind what was shown.
//!
//! When a batch was seen is told from marks: the place to which a log reached at each look. They are as
//! coarse as a 64th of the time to wait, so there are never more than that many.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Laid, Mixer, Source, feed};
use crate::error::{Error, Result};
use crate::format::Offset;
use crate::log::isolation::{Feed, OpenTransaction};
use crate::log::listing::LogDir;
use crate::log::reader::Refresh;
use crate::log::view::View;
use crate::ops::cat::{CatOptions, Note};
use crate::ops::follow::{self, Followed};
use crate::ops::topic::{self, Partition};
use crate::ops::{span, words};
use crate::sys::Host;
use crate::sys::watch::Watch;

/// Marks within the time to wait.
const MARKS: u32 = 64;

/// How logs are followed.
#[derive(Clone, Debug)]
pub struct Following {
    /// How long a log without more holds the others back; `None`: until it has.
    pub lateness: Option<Duration>,
    /// Paths of the topics whose new partitions are mixed in as they appear.
    pub topics: Vec<PathBuf>,
    /// What is read of each partition.
    pub read: CatOptions,
}

/// What comes next of logs that grow.
#[derive(Clone, Copy, Debug)]
pub enum Due {
    /// There are records whose turn it is.
    Now,
    /// Nothing comes before this moment unless a log grows; never, if there is none.
    At(Option<Instant>),
}

/// How a followed log grew.
pub(super) struct Growth {
    pub(super) followed: Followed,
    /// Base offset of the last segment and its size, at each look.
    marks: VecDeque<(Instant, Offset, u64)>,
    lateness: Option<Duration>,
    /// It was read to its end.
    is_quiet: bool,
    /// Since when it is not.
    awake: Instant,
    /// When the batch was first seen that is laid open.
    since: Instant,
}

impl Growth {
    fn new(feed: &Feed, end: Offset, following: &Following, now: Instant) -> Growth {
        let mut growth = Growth {
            followed: Followed::new(end, following.read.durable),
            marks: VecDeque::new(),
            lateness: following.lateness,
            is_quiet: false,
            awake: now,
            since: now,
        };
        growth.saw(feed, now);
        growth
    }

    /// Notes how far the log reaches.
    fn saw(&mut self, feed: &Feed, now: Instant) {
        let (Some(lateness), Some(tail)) = (self.lateness, feed.reader().view().tail()) else {
            return;
        };
        let (base, end) = (tail.segment.base(), tail.end.0);
        match self.marks.back_mut() {
            Some(last) if (last.1, last.2) == (base, end) => return,
            // What came a little later counts as if it had come then: it waits a little less.
            Some(last) if last.0 + lateness / MARKS > now => (last.1, last.2) = (base, end),
            _ => self.marks.push_back((now, base, end)),
        }
        while self.marks.get(1).is_some_and(|m| m.0 + lateness <= now) {
            self.marks.pop_front();
        }
    }

    /// A batch was laid open.
    pub(super) fn loaded(&mut self, feed: &Feed) {
        self.is_quiet = false;
        let reader = feed.reader();
        let (Some(header), Some(position)) = (reader.header(), reader.found_at()) else {
            return;
        };
        let (base, end) = (header.base_offset, position.0 + header.size as u64);
        let segments = self.marks.iter().map(|m| m.1).filter(|s| *s <= base);
        let segment = segments.max();
        let there = |m: &&(Instant, Offset, u64)| {
            base < m.1 || (segment.is_none_or(|s| s == m.1) && end <= m.2)
        };
        let mark = self.marks.iter().find(there).map(|m| m.0);
        self.since = mark.map_or(self.awake, |at| at.max(self.awake));
    }

    /// The end was reached. An open transaction there is told of once.
    pub(super) fn drained(&mut self, feed: &Feed) -> Option<OpenTransaction> {
        self.is_quiet = !self.followed.is_at_end(feed);
        self.followed.newly_open(feed)
    }
}

impl Mixer {
    /// Goes on when the logs grow, as `following` says. `watch` watches them from here on.
    ///
    /// # Errors
    /// A topic's directory cannot be opened.
    pub fn follow(
        &mut self,
        host: &Arc<dyn Host>,
        following: Following,
        watch: &mut Watch,
    ) -> Result<()> {
        for topic in &following.topics {
            let parent = topic::parent(topic);
            let dir = host.open_dir(&parent);
            let dir = dir.map_err(|e| Error::io("cannot open", e).at_path(&parent))?;
            let _ = watch.dir(dir.as_ref());
        }
        let now = Instant::now();
        for source in &mut self.sources {
            follow::watch_dir(watch, source.feed.reader().view());
            let end = source.end;
            let mut growth = Growth::new(&source.feed, end, &following, now);
            if source.laid.places.is_empty() {
                growth.drained(&source.feed);
            }
            source.growth = Some(growth);
        }
        self.following = Some(following);
        Ok(())
    }

    /// Watches the file of each log that takes appends now. Tells whether one was not watched before:
    /// then it may have grown unseen.
    pub fn watch(&mut self, watch: &mut Watch) -> bool {
        let mut new = false;
        for source in &mut self.sources {
            if let Some(growth) = &mut source.growth {
                new |= growth.followed.watch(&source.feed, watch);
            }
        }
        new
    }

    /// Whether it is the next records' turn at the moment `now`.
    pub fn due(&self, now: Instant) -> Due {
        let growths = || self.sources.iter().filter_map(|s| s.growth.as_ref());
        if self.heads.is_empty() {
            return Due::At(None);
        }
        if !growths().any(|g| g.is_quiet) {
            return Due::Now;
        }
        let Some(lateness) = self.following.as_ref().and_then(|f| f.lateness) else {
            return Due::At(None);
        };
        // Whoever has waited longest; those that come before it need not wait longer than it.
        let heads = self
            .heads
            .iter()
            .filter_map(|Reverse(k)| self.sources.get(k.3));
        let since = heads.filter_map(|s| s.growth.as_ref()).map(|g| g.since);
        match since.min().and_then(|since| since.checked_add(lateness)) {
            Some(at) if at <= now => Due::Now,
            at => Due::At(at),
        }
    }

    /// Whether everything that was asked for has come: each log has reached the end of its range.
    pub fn is_at_end(&self) -> bool {
        let open = |s: &Source| {
            let growth = s.growth.as_ref();
            growth.is_some_and(|g| !g.followed.is_at_end(&s.feed))
        };
        self.heads.is_empty() && !self.sources.iter().any(open)
    }

    /// Looks for what is new in each log, and for new partitions of a topic, at the moment `now`.
    /// `was_woken` says that this is the first look since a wait. Tells whether there may be more.
    ///
    /// # Errors
    /// As [`super::Mixer::open`]; `NotFound` if a log is gone.
    pub fn refresh(
        &mut self,
        host: &Arc<dyn Host>,
        watch: &mut Watch,
        (was_woken, now): (bool, Instant),
        note: &mut dyn FnMut(Note),
    ) -> Result<bool> {
        let mut more = false;
        for log in 0..self.sources.len() {
            let Some(source) = self.sources.get_mut(log) else {
                continue;
            };
            let Some(growth) = &mut source.growth else {
                continue;
            };
            let path = &source.partition.path;
            let (found, may_more) = growth
                .followed
                .refresh(&mut source.feed, was_woken)
                .map_err(|e| e.at_path(path))?;
            if found == Refresh::CutBack {
                note(Note::CutBack(
                    path.clone(),
                    source.feed.reader().next_offset(),
                ));
            }
            if !may_more {
                continue;
            }
            more = true;
            growth.saw(&source.feed, now);
            if growth.is_quiet {
                growth.awake = now;
                self.load(log, note)?;
            }
        }
        Ok(self.add_new(host, watch, note)? || more)
    }

    /// Adds partitions that appeared.
    fn add_new(
        &mut self,
        host: &Arc<dyn Host>,
        watch: &mut Watch,
        note: &mut dyn FnMut(Note),
    ) -> Result<bool> {
        let Some(following) = self.following.clone() else {
            return Ok(false);
        };
        let mut any = false;
        for path in &following.topics {
            for partition in topic::find(host.as_ref(), path)? {
                let is_it = |s: &Source| s.partition.path == partition.path;
                if !self.sources.iter().any(is_it) {
                    self.add(host, partition, &following, watch, note)?;
                    any = true;
                }
            }
        }
        Ok(any)
    }

    fn add(
        &mut self,
        host: &Arc<dyn Host>,
        partition: Partition,
        following: &Following,
        watch: &mut Watch,
        note: &mut dyn FnMut(Note),
    ) -> Result<()> {
        let read = &following.read;
        let mut view = View::of(LogDir::open(host.as_ref(), &partition.path)?)?;
        follow::watch_dir(watch, &view);
        let mut wanted = span::resolve(&mut view, &words::Range::ALL, read.clamp, read.limits)?;
        let end = wanted.end;
        if read.durable {
            wanted.end = end.min(follow::durable(&view)?);
        }
        let feed = feed(host, view, wanted, read)?;
        let growth = Growth::new(&feed, end, following, Instant::now());
        let log = self.sources.len();
        self.sources.push(Source {
            partition,
            feed,
            laid: Laid::default(),
            end,
            growth: Some(growth),
        });
        self.load(log, note)
    }
}
