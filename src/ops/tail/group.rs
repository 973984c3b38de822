//! Tail in the name of a group: which partitions it holds, and when it stores how far it came.

use std::time::{Duration, Instant};

use super::{Ended, Source, Tail, follow};
use crate::error::{ErrorKind, Result};
use crate::log::groups::Group;
use crate::log::listing::LogDir;
use crate::log::members::Share;
use crate::log::view::View;
use crate::ops::consume::{Claim, GroupOptions, take_first};
use crate::ops::topic::Partition;
use crate::ops::{span, words};
use crate::sys::signals;
use crate::sys::watch::Watch;

/// How often a follower that has nothing to store looks for new members, at most.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// The group that is read for.
pub(super) struct Consumer<'a> {
    pub(super) options: &'a GroupOptions,
    share: Share,
    /// All partitions, whoever reads them.
    pub(super) all: Vec<Partition>,
    /// When it was stored last.
    stored: Instant,
    /// There is a partition that nobody was asked for yet.
    is_unsure: bool,
}

impl<'a> Consumer<'a> {
    pub(super) fn new(
        host: &std::sync::Arc<dyn crate::sys::Host>,
        all: Vec<Partition>,
        options: &'a GroupOptions,
    ) -> Result<Consumer<'a>> {
        let paths: Vec<_> = all.iter().map(|p| p.path.clone()).collect();
        let share = Share::join(host, &paths, options.name.clone(), options.as_member)?;
        Ok(Consumer {
            options,
            share,
            all,
            stored: Instant::now(),
            is_unsure: false,
        })
    }

    /// When to store next, if there is something (`due`), or to look for members; `None`: never.
    fn next_look(&self, due: bool) -> Option<Instant> {
        let pause = match due {
            true => self.options.commit_every,
            false => self.options.commit_every.max(LOOK_PAUSE),
        };
        self.stored.checked_add(pause)
    }
}

impl Tail<'_> {
    /// Takes the first partitions: without following, those that are free now.
    pub(super) fn begin_group(&mut self, watch: Option<&mut Watch>) -> Result<()> {
        let follow = self.options.follow;
        let Some(consumer) = &mut self.consumer else {
            return Ok(());
        };
        let groups = match follow {
            true => consumer.share.take_or_wait()?,
            false => take_first(&mut consumer.share, consumer.options.wait, usize::MAX)?,
        };
        self.open_claimed(groups, watch)
    }

    /// Opens partitions whose locks were just taken.
    fn open_claimed(&mut self, groups: Vec<Group>, mut watch: Option<&mut Watch>) -> Result<()> {
        for group in groups {
            let Some(consumer) = &self.consumer else {
                return Ok(());
            };
            let of_group = |p: &&Partition| p.path == group.path();
            let Some(partition) = consumer.all.iter().find(of_group).cloned() else {
                continue;
            };
            let read = &self.options.read;
            let mut view = View::of(LogDir::open(self.host.as_ref(), &partition.path)?)?;
            if let Some(watch) = watch.as_deref_mut() {
                follow::watch_dir(watch, &view);
            }
            let claim = Claim::begin(group, &mut view, consumer.options, read.clamp, self.note)?;
            let range = words::Range {
                from: None,
                ..read.range
            };
            let end = span::resolve(&mut view, &range, read.clamp, read.limits)?.end;
            let wanted = claim.next()..end.max(claim.next());
            let source = self.source(partition, view, wanted, Some(claim))?;
            self.sources.push(source);
        }
        Ok(())
    }

    /// Whether a drain is to stop for now: it is time to store, or to end.
    pub(super) fn is_group_due(&self) -> bool {
        let stop = self.consumer.is_some() && signals::stop_requested().is_some();
        stop || self.group_look().is_some_and(|at| at <= Instant::now())
    }

    /// When the group is to be looked after next; `None` without one.
    pub(super) fn group_look(&self) -> Option<Instant> {
        let consumer = self.consumer.as_ref().filter(|_| self.options.follow)?;
        let mut claims = self.sources.iter().filter_map(|s| s.claim.as_ref());
        consumer.next_look(claims.any(Claim::is_due))
    }

    /// Looks after the group, when it is time or a partition was handed over: stores how far everything
    /// came, which the sink has taken, gives up what is others' share and takes what is ours.
    pub(super) fn look_after_group(&mut self, watch: &mut Watch) -> Result<()> {
        let due = self.is_group_due();
        let Some(consumer) = &mut self.consumer else {
            return Ok(());
        };
        if !due && !consumer.is_unsure && !consumer.share.has_news() {
            return Ok(());
        }
        if due {
            consumer.stored = Instant::now();
            self.store()?;
            self.give_up_surplus(watch)?;
        }
        let Some(consumer) = &mut self.consumer else {
            return Ok(());
        };
        consumer.is_unsure = false;
        let groups = consumer.share.take_or_wait()?;
        self.open_claimed(groups, Some(watch))
    }

    fn give_up_surplus(&mut self, watch: &mut Watch) -> Result<()> {
        let Some(consumer) = &mut self.consumer else {
            return Ok(());
        };
        let quota = consumer.share.quota()?;
        while self.sources.len() > quota {
            let Some(mut source) = self.sources.pop() else {
                break;
            };
            source.followed.unwatch(watch);
            drop(source.claim); // and with it the lock
            consumer.share.gave_up(&source.partition.path);
        }
        Ok(())
    }

    /// Adds a partition that was made meanwhile. Tells whether it is new.
    pub(super) fn add_to_group(&mut self, partition: Partition) -> bool {
        let Some(consumer) = &mut self.consumer else {
            return false;
        };
        if consumer.all.iter().any(|p| p.path == partition.path) {
            return false;
        }
        consumer.share.add(&partition.path);
        consumer.all.push(partition);
        consumer.is_unsure = true;
        true
    }

    fn store(&mut self) -> Result<()> {
        for claim in self.sources.iter_mut().filter_map(|s| s.claim.as_mut()) {
            claim.store(self.note)?;
        }
        Ok(())
    }

    /// Stores what was taken at the end: of a follower however it ended, of others if all went well. A
    /// sink that closed took nobody knows how much.
    pub(super) fn end_group(&mut self, ended: Result<Ended>) -> Result<Ended> {
        if self.consumer.is_none() || self.sink_failed {
            return ended;
        }
        let well = matches!(ended, Ok(Ended::Done));
        let closed = ended
            .as_ref()
            .is_err_and(|e| e.kind() == ErrorKind::ClosedPipe);
        if closed || !(well || self.options.follow) {
            return ended;
        }
        let stored = self.flush().and_then(|()| self.store());
        match (ended, stored) {
            (Ok(ended), Ok(())) => Ok(ended),
            (Err(e), _) | (Ok(_), Err(e)) => Err(e),
        }
    }
}

impl Source {
    /// Tells the claim that everything below the reader's place was shown, or need not be.
    pub(super) fn note_shown(&mut self) {
        let reader = self.feed.reader();
        let next = reader.next_offset().min(reader.until());
        if let Some(claim) = &mut self.claim {
            claim.shown(next.max(claim.next()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Result};
    use crate::format::{Limits, Offset};
    use crate::log::groups;
    use crate::log::isolation::Isolation;
    use crate::log::members::Name;
    use crate::log::testing::TestLog;
    use crate::ops::cat::CatOptions;
    use crate::ops::consume::Start;
    use crate::ops::emit::{EmitOptions, Emitter, Sink};
    use crate::ops::output::Format;
    use crate::ops::tail::{TailOptions, tail};
    use crate::sys::{Host, RealHost};
    use std::path::PathBuf;
    use std::sync::Arc;

    const RECORDS: i64 = 200;

    /// A reader that looks at the position whenever it gets something, and may fail once.
    struct Reader {
        log: PathBuf,
        taken: i64,
        /// From here on nothing arrives; it fails the first time.
        fails_at: Option<(i64, ErrorKind)>,
        has_failed: bool,
    }

    impl Reader {
        fn position(&self) -> Offset {
            let dir = RealHost.open_dir(&self.log.join(".logd")).unwrap();
            let position = groups::read(&*dir, "g").unwrap();
            position.map_or(Offset::ZERO, |p| p.next)
        }
    }

    impl Sink for Reader {
        fn write(&mut self, bytes: &[u8]) -> Result<()> {
            assert!(self.position() <= Offset(self.taken));
            let (at, kind) = self.fails_at.unwrap_or((i64::MAX, ErrorKind::Io));
            if self.taken < at {
                self.taken += memchr::memchr_iter(b'\n', bytes).count() as i64;
                return Ok(());
            }
            match std::mem::replace(&mut self.has_failed, true) {
                true => Ok(()),
                false => Err(Error::new(kind, "it went away")),
            }
        }

        fn pause(&mut self, _: Duration) -> Result<bool> {
            assert!(self.position() <= Offset(self.taken));
            Ok(true)
        }
    }

    fn follow(fails_at: Option<(i64, ErrorKind)>) -> (Result<Ended>, Reader, Offset) {
        let log = TestLog::new("t-0");
        let mut segment = log.segment(0);
        for base in (0..RECORDS).step_by(10) {
            segment = segment.batch(base, &"v ".repeat(10));
        }
        drop(segment.write());
        let options = TailOptions {
            read: CatOptions {
                range: words::Range::ALL,
                clamp: false,
                isolation: Isolation::Committed,
                durable: false,
                skip_corrupt: false,
                reverse: false,
                limits: Limits::default(),
            },
            last: None,
            follow: true,
            idle: Some(Duration::from_secs(2)),
            pid: None,
            deadline: None,
            group: Some(GroupOptions {
                name: Name {
                    group: "g".into(),
                    command: "test".into(),
                    allow_network_fs: true,
                },
                start: Start::Earliest,
                no_commit: false,
                commit_every: Duration::ZERO,
                as_member: false,
                wait: Duration::ZERO,
            }),
            topics: Vec::new(),
        };
        let mut emitter = Emitter::new(&Format::Lines, EmitOptions::default()).unwrap();
        let mut sink = Reader {
            log: log.path(),
            taken: 0,
            fails_at,
            has_failed: false,
        };
        let host: Arc<dyn Host> = Arc::new(RealHost);
        let partitions = vec![Partition::at(&log.path())];
        let (out, note) = (&mut sink, &mut |_| {});
        let ended = tail(&host, partitions, &options, &mut emitter, out, note, None);
        let stored = sink.position();
        assert!(stored <= Offset(sink.taken), "{stored} of {}", sink.taken);
        (ended, sink, stored)
    }

    #[test]
    fn what_is_stored_never_runs_ahead_of_what_the_reader_got() {
        let (ended, reader, stored) = follow(None);
        assert_eq!(ended.unwrap(), Ended::Done);
        assert_eq!((reader.taken, stored), (RECORDS, Offset(RECORDS)));
        for kind in [ErrorKind::ClosedPipe, ErrorKind::Io] {
            let (ended, reader, _) = follow(Some((50, kind)));
            assert_eq!(ended.unwrap_err().kind(), kind);
            assert!(reader.has_failed && reader.taken >= 50, "{}", reader.taken);
        }
    }
}
