//! One connection: a carrier, the greeting, and a channel for each partition, in one thread.
//!
//! The loop reads what is there, hands it to the machines, lets the sources send as long as the carrier
//! takes it, and sleeps in one poll(2) on the carrier, the watched logs and the signals. Nothing blocks
//! but the disk.
//!
//! Bounds: a frame's memory grows as its bytes arrive; [`OUT_BYTES`] wait to be sent; what is on its way
//! and not known to be written is at most `WINDOW_BYTES`, shared by the channels; a peer that says
//! nothing for the idle limit is given up, and each side says something in a third of it; the greeting
//! must come within [`HANDSHAKE`].
//!
//! A channel that fails ends with REFUSE and leaves the others alone; bytes that are no frames end the
//! connection. What is worth another try over a new connection is of the kind `Unreachable`.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use super::carrier::Carrier;
use super::copy::{Copy, CopyOptions};
use super::local::{Report, Watcher, decoded};
use super::log_copy::LogCopy;
use super::log_source::LogSource;
use super::outbox::Outbox;
use super::refusal::{refuse, refused, unexpected};
use super::source::{Sent, Source, SourceOptions, WINDOW_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::format::wire::{self, Framed, HEAD_BYTES, Hello, Message, Role, SESSION, Welcome};
use crate::format::{Offset, TimestampMs};
use crate::ops::throttle::Throttle;
use crate::sys::watch::Watch;
use crate::sys::{Host, signals};

/// Time for the greeting.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Silence after which a peer is given up.
pub const IDLE: Duration = Duration::from_secs(60);
/// Bytes that wait to be sent before the sources are asked for more.
const OUT_BYTES: usize = 1 << 20;
/// Bytes of one read.
const READ_BYTES: usize = 512 << 10;
/// Memory of the buffer for input that is kept.
const IN_BYTES: usize = 2 << 20;
/// Bytes taken in before the rest of the loop has its turn.
const TURN_BYTES: usize = 4 << 20;
/// Least part of the window that a channel gets.
const WINDOW_LEAST: usize = 1 << 20;
/// Bytes of answers that wait to be sent before another question is looked at.
const ANSWERS_BYTES: usize = 4 << 20;

/// What a side of a connection does with it.
pub enum Job<'a> {
    /// It opened the connection, and sends these.
    Push(Hello, Opens<'a>),
    /// It opened the connection, and receives what the other side has.
    Pull(Hello, Opens<'a>),
    /// It was connected to.
    Serve(&'a mut dyn Serves),
}

/// A partition opened as a source.
pub struct OpenSource {
    /// Its number.
    pub number: u32,
    /// The log.
    pub log: LogSource,
    /// How it is sent.
    pub options: SourceOptions,
}

/// Opens the logs of who opened the connection.
pub struct Opens<'a> {
    /// The partitions that are sent.
    pub sources: Vec<OpenSource>,
    /// The partition that receives number N.
    #[allow(clippy::type_complexity)]
    pub copy: &'a mut dyn FnMut(u32) -> Result<(LogCopy, CopyOptions)>,
}

/// Opens the logs of who was connected to.
pub trait Serves {
    /// A peer has said what it wants; what it may have of it is opened by the other calls.
    ///
    /// # Errors
    /// It may not have that.
    fn asked(&mut self, hello: &Hello) -> Result<()>;

    /// The partitions of a log that a peer pulls.
    ///
    /// # Errors
    /// It may not have that, or there is none.
    fn sources(&mut self, hello: &Hello) -> Result<Vec<OpenSource>>;

    /// The partition that receives number N of what a peer pushes.
    ///
    /// # Errors
    /// It may not do that.
    fn copy(&mut self, hello: &Hello, number: u32) -> Result<(LogCopy, CopyOptions)>;
}

/// What came of a connection.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Each partition, in order of number.
    pub reports: Vec<(u32, Report)>,
    /// What went wrong with some.
    pub errors: Vec<(u32, Error)>,
    /// A signal ended it.
    pub stopped: bool,
}

enum Channel {
    Source(Box<Source<LogSource>>),
    Copy(Box<Copy<LogCopy>>),
}

struct State {
    channel: Channel,
    report: Report,
    began: bool,
}

/// Limits of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Silence after which a peer is given up.
    pub idle: Duration,
    /// Until when the greeting must have come.
    pub greeted: Instant,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            idle: IDLE,
            greeted: Instant::now() + HANDSHAKE,
        }
    }
}

/// Runs one connection to its end.
///
/// # Errors
/// What ended the connection as a whole; `Unreachable` where another try may help. What went wrong with
/// single partitions is in the outcome.
pub fn run(
    host: &dyn Host,
    carrier: Box<dyn Carrier>,
    job: Job<'_>,
    limits: Limits,
    throttle: &Throttle,
    watcher: &dyn Watcher,
) -> Result<Outcome> {
    let mut c = Connection {
        host,
        carrier,
        input: Input::default(),
        out: Outbox::new(),
        channels: BTreeMap::new(),
        done: Outcome::default(),
        greeted: false,
        idle: limits.idle,
        greet_by: limits.greeted,
        heard: Instant::now(),
        said: Instant::now(),
        ended: false,
        mute: false,
        watch: Watch::new(),
        watched: BTreeMap::new(),
        due: None,
        paid: None,
        held: false,
        throttle,
        watcher,
    };
    let result = c.run(job);
    c.finish();
    match result {
        Ok(()) => Ok(c.done),
        Err(e) => Err(e.at_path(c.carrier.peer())),
    }
}

struct Connection<'a> {
    host: &'a dyn Host,
    carrier: Box<dyn Carrier>,
    input: Input,
    out: Outbox,
    channels: BTreeMap<u16, State>,
    done: Outcome,
    greeted: bool,
    idle: Duration,
    greet_by: Instant,
    heard: Instant,
    said: Instant,
    /// The peer has ended its output.
    ended: bool,
    /// The peer takes nothing more; what it said before is still read.
    mute: bool,
    watch: Watch,
    /// The active segment that is watched for each source.
    watched: BTreeMap<u16, Offset>,
    /// When a copy wants to sync.
    due: Option<Instant>,
    /// Nothing is sent before, as `--rate` has it.
    paid: Option<Instant>,
    /// A question waits until the answers before it are on their way.
    held: bool,
    throttle: &'a Throttle,
    watcher: &'a dyn Watcher,
}

impl Connection<'_> {
    fn run(&mut self, mut job: Job<'_>) -> Result<()> {
        if let Job::Push(hello, _) | Job::Pull(hello, _) = &job {
            self.out.message(SESSION, &Message::Hello(hello.clone()));
        }
        loop {
            if signals::stop_requested().is_some() {
                self.done.stopped = true;
                return self.stop();
            }
            let taken = self.take_in(&mut job)?;
            if taken == 0 {
                self.rest()?;
            }
            self.feed()?;
            let wrote = self.put_out()?;
            self.collect();
            let sent = self.out.is_empty() || self.mute;
            if self.greeted && self.channels.is_empty() && sent {
                return Ok(());
            }
            if self.ended && taken == 0 {
                return Err(lost("the other side has ended the connection"));
            }
            if taken == 0 && !wrote {
                self.sleep()?;
            }
            self.look_at_the_clock()?;
        }
    }

    /// Reads what is there and hands it on; how many bytes.
    fn take_in(&mut self, job: &mut Job<'_>) -> Result<usize> {
        let mut taken = 0;
        if self.held {
            self.frames(job)?;
        }
        while taken < TURN_BYTES && !self.ended && !self.held {
            let room = self.input.room();
            match self.carrier.read(room) {
                Ok(0) => self.ended = true,
                Ok(n) => {
                    taken += n;
                    self.input.filled += n;
                    self.heard = Instant::now();
                    self.frames(job)?;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(lost_by(e)),
            }
        }
        Ok(taken)
    }

    /// Hands on every whole frame that is there.
    fn frames(&mut self, job: &mut Job<'_>) -> Result<()> {
        let mut input = std::mem::take(&mut self.input);
        let result = loop {
            let have = input.buf.get(input.at..input.filled).unwrap_or_default();
            match wire::frame(have) {
                Framed::Whole(_) if self.must_wait(have) => break Ok(()),
                Framed::Whole(size) => {
                    let bytes = have.get(..size).unwrap_or_default();
                    if let Err(e) = self.frame(bytes, job) {
                        break Err(e);
                    }
                    input.at += size;
                }
                Framed::NeedMore(need) => {
                    input.need = need;
                    break Ok(());
                }
                Framed::Bad(d) => break Err(self.garbage(d.to_string())),
            }
        };
        self.input = input;
        result
    }

    /// Whether the frame is one more question of a peer that does not take the answers.
    fn must_wait(&mut self, frame: &[u8]) -> bool {
        let asks =
            wire::Kind::from_byte(frame.get(8).copied().unwrap_or(0)) == Some(wire::Kind::Ask);
        self.held = asks && !self.mute && self.out.pending().len() >= ANSWERS_BYTES;
        self.held
    }

    fn garbage(&self, why: String) -> Error {
        match self.greeted {
            true => lost(format!("what arrived is damaged: {why}")),
            false => Error::new(ErrorKind::Version, format!("no logd peer answers: {why}")),
        }
    }

    fn frame(&mut self, bytes: &[u8], job: &mut Job<'_>) -> Result<()> {
        let frame = match decoded(bytes) {
            Ok(frame) => frame,
            Err(e) if e.kind() == ErrorKind::Version => {
                self.say_session(&Message::Refuse(refuse(&e)));
                return Err(e);
            }
            Err(e) => return Err(self.garbage(e.what().to_string())),
        };
        if frame.channel == SESSION {
            return self.session(frame.message, job);
        }
        if !self.greeted {
            return Err(self.garbage(format!("{} first", frame.message.kind().word())));
        }
        let Some(state) = self.channels.get_mut(&frame.channel) else {
            return Ok(()); // of a channel that has ended here
        };
        let now = Instant::now();
        let taken = match &mut state.channel {
            Channel::Source(source) => source.receive(&frame.message, &mut self.out),
            Channel::Copy(copy) => {
                let before = copy.bytes();
                let met = !state.began;
                let taken = copy.receive(&frame.message, None, now, &mut self.out);
                if met && taken.is_ok() {
                    state.began = true;
                    state.report.from = copy.written();
                }
                self.watcher.stored(copy.bytes() - before);
                taken
            }
        };
        if let Err(e) = taken {
            self.fail(frame.channel, e);
        }
        Ok(())
    }

    /// A channel has failed: the other side is told, unless it knows.
    fn fail(&mut self, channel: u16, e: Error) {
        let Some(state) = self.channels.remove(&channel) else {
            return;
        };
        let (knows, e) = match &state.channel {
            Channel::Source(source) => (source.peer_knows(), e),
            Channel::Copy(copy) if copy.arrived_damaged() => {
                let why = format!("batches arrived damaged: {}", e.what());
                (false, lost(why).at_offset(copy.written().0))
            }
            Channel::Copy(copy) => (copy.peer_knows(), e),
        };
        if !knows {
            let refuse = Message::Refuse(refuse(&e));
            self.out.message(channel, &refuse);
        }
        self.end(channel, state);
        self.done.errors.push((u32::from(channel), e));
    }

    fn session(&mut self, message: Message<'_>, job: &mut Job<'_>) -> Result<()> {
        match (message, job) {
            (Message::Beat, _) => Ok(()),
            (Message::Refuse(r), _) => Err(refused(&r)),
            (Message::Hello(hello), Job::Serve(serves)) if !self.greeted => {
                let begun = self.welcome(&hello, &mut **serves);
                if let Err(e) = &begun {
                    self.say_session(&Message::Refuse(refuse(e)));
                }
                begun
            }
            (Message::Welcome(welcome), Job::Push(_, opens)) if !self.greeted => {
                self.agree(welcome.idle_ms);
                let window = share(opens.sources.len());
                for source in opens.sources.drain(..) {
                    self.open_source(source, window)?;
                }
                Ok(())
            }
            (Message::Welcome(welcome), Job::Pull(_, opens)) if !self.greeted => {
                self.agree(welcome.idle_ms);
                for number in &welcome.partitions {
                    let copy = (opens.copy)(*number);
                    self.open_copy(*number, copy)?;
                }
                Ok(())
            }
            (other, _) => Err(unexpected(format!(
                "{} where none can be",
                other.kind().word()
            ))),
        }
    }

    /// Answers HELLO.
    fn welcome(&mut self, hello: &Hello, serves: &mut dyn Serves) -> Result<()> {
        serves.asked(hello)?;
        let mut welcome = Welcome {
            version: wire::VERSION,
            options: hello.options & wire::options::ALL,
            idle_ms: u32::try_from(self.idle.as_millis()).unwrap_or(u32::MAX),
            partitions: hello.partitions.clone(),
        };
        match hello.role {
            Role::Push => {
                self.say_session(&Message::Welcome(welcome));
                self.agree(hello.idle_ms);
                for number in &hello.partitions {
                    let copy = serves.copy(hello, *number);
                    self.open_copy(*number, copy)?;
                }
            }
            Role::Pull => {
                let sources = serves.sources(hello)?;
                welcome.partitions = sources.iter().map(|s| s.number).collect();
                self.say_session(&Message::Welcome(welcome));
                self.agree(hello.idle_ms);
                let window = share(sources.len());
                for source in sources {
                    self.open_source(source, window)?;
                }
            }
            Role::Look | Role::OneWay => {
                return Err(Error::new(
                    ErrorKind::Version,
                    "a role that is not served here",
                ));
            }
        }
        Ok(())
    }

    fn agree(&mut self, idle_ms: u32) {
        self.greeted = true;
        if idle_ms > 0 {
            self.idle = self.idle.min(Duration::from_millis(u64::from(idle_ms)));
        }
    }

    fn open_source(&mut self, open: OpenSource, window: usize) -> Result<()> {
        let channel = channel_of(open.number)?;
        let options = SourceOptions {
            window,
            ..open.options
        };
        match Source::new(channel, open.log, options, &mut self.out) {
            Ok(source) => self.add(channel, Channel::Source(Box::new(source))),
            Err(e) => {
                self.out.message(channel, &Message::Refuse(refuse(&e)));
                self.done.errors.push((open.number, e));
                Ok(())
            }
        }
    }

    fn open_copy(&mut self, number: u32, copy: Result<(LogCopy, CopyOptions)>) -> Result<()> {
        let channel = channel_of(number)?;
        match copy {
            Ok((log, options)) => {
                let copy = Copy::new(channel, log, options);
                self.add(channel, Channel::Copy(Box::new(copy)))
            }
            Err(e) => {
                self.out.message(channel, &Message::Refuse(refuse(&e)));
                self.done.errors.push((number, e));
                Ok(())
            }
        }
    }

    fn add(&mut self, channel: u16, machine: Channel) -> Result<()> {
        let state = State {
            channel: machine,
            report: Report::default(),
            began: false,
        };
        match self.channels.insert(channel, state) {
            None => Ok(()),
            Some(_) => Err(unexpected(format!("partition {channel} twice"))),
        }
    }

    fn say_session(&mut self, message: &Message<'_>) {
        self.out.message(SESSION, message);
    }

    /// Nothing more is there to be read: copies sync what is due and say how far they are.
    fn rest(&mut self) -> Result<()> {
        self.due = None;
        let now = Instant::now();
        let mut failed = Vec::new();
        for (channel, state) in &mut self.channels {
            if let Channel::Copy(copy) = &mut state.channel {
                match copy.idle(now, &mut self.out) {
                    Ok(Some(due)) => {
                        self.due = Some(self.due.map_or(due, |d| d.min(due)));
                    }
                    Ok(None) => {}
                    Err(e) => failed.push((*channel, e)),
                }
            }
        }
        failed.into_iter().for_each(|(c, e)| self.fail(c, e));
        Ok(())
    }

    /// Lets the sources send, as long as not too much waits.
    fn feed(&mut self) -> Result<()> {
        let mut failed = Vec::new();
        let mut more = true;
        if self.paid.is_some_and(|paid| paid > Instant::now()) {
            return Ok(());
        }
        self.paid = None;
        while more && self.paid.is_none() && self.out.pending().len() < OUT_BYTES {
            more = false;
            for (channel, state) in &mut self.channels {
                let Channel::Source(source) = &mut state.channel else {
                    continue;
                };
                if self.mute {
                    continue; // nobody hears it
                }
                let before = source.bytes();
                match source.send(&mut self.out) {
                    Ok(sent) => more |= sent == Sent::Frame,
                    Err(e) => failed.push((*channel, e)),
                }
                let bytes = source.bytes() - before;
                if bytes > 0 {
                    self.watcher.stored(bytes);
                    let paid = self.throttle.account(bytes);
                    self.paid = paid.filter(|p| *p > Instant::now());
                }
                source
                    .take_notes()
                    .into_iter()
                    .for_each(|n| self.watcher.note(n));
                if !state.began && source.is_sending() {
                    state.began = true;
                    state.report.from = source.copy().end;
                    let bytes = source.log().bytes_from(source.position());
                    self.watcher.begins(bytes);
                }
            }
            if !failed.is_empty() {
                break;
            }
        }
        failed.into_iter().for_each(|(c, e)| self.fail(c, e));
        Ok(())
    }

    /// Writes what the carrier takes; whether that was anything.
    fn put_out(&mut self) -> Result<bool> {
        let mut wrote = false;
        if self.mute {
            self.out.clear(0);
            return Ok(false);
        }
        loop {
            let pending = self.out.pending();
            let sent = match pending.is_empty() {
                true => self.carrier.flush().map(|()| 0),
                false => self.carrier.write(pending),
            };
            match sent {
                Ok(0) => return Ok(wrote),
                Ok(n) => {
                    self.out.consume(n);
                    self.said = Instant::now();
                    wrote = true;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(wrote),
                // What the other side said before it went is worth more.
                Err(_) => {
                    self.out.clear(0);
                    self.mute = true;
                    return Ok(wrote);
                }
            }
        }
    }

    /// Takes out the channels that are done.
    fn collect(&mut self) {
        let is_done = |s: &State| match &s.channel {
            Channel::Source(source) => source.is_done(),
            Channel::Copy(copy) => copy.is_done(),
        };
        while let Some(channel) = self
            .channels
            .iter()
            .find_map(|(c, s)| is_done(s).then_some(*c))
        {
            if let Some(state) = self.channels.remove(&channel) {
                self.end(channel, state);
            }
        }
    }

    /// Ends a channel: what it holds is safe, and it is reported.
    fn end(&mut self, channel: u16, state: State) {
        let number = u32::from(channel);
        let mut report = state.report;
        match state.channel {
            Channel::Source(source) => {
                (report.end, report.durable) = source.acked();
                report.end = report.end.max(source.copy().end);
                report.bytes = source.bytes();
            }
            Channel::Copy(mut copy) => {
                let mut out = Outbox::new();
                if let Err(e) = copy.stop(&mut out) {
                    self.done.errors.push((number, e));
                }
                (report.end, report.durable) = (copy.written(), copy.durable());
                report.bytes = copy.bytes();
                if let Err(e) = copy.into_log().close() {
                    self.done.errors.push((number, e));
                }
            }
        }
        report.stopped = self.done.stopped;
        self.done.reports.push((number, report));
    }

    /// A signal: what is here becomes durable, and the other side is told how far that is.
    fn stop(&mut self) -> Result<()> {
        let mut failed = Vec::new();
        for (channel, state) in &mut self.channels {
            if let Channel::Copy(copy) = &mut state.channel
                && let Err(e) = copy.stop(&mut self.out)
            {
                failed.push((*channel, e));
            }
        }
        failed.into_iter().for_each(|(c, e)| self.fail(c, e));
        let _ = self.put_out(); // what it takes now
        Ok(())
    }

    /// Ends what is left, and our output.
    fn finish(&mut self) {
        while let Some((channel, state)) = self.channels.pop_first() {
            self.end(channel, state);
        }
        let _ = self.put_out();
        self.done.reports.sort_by_key(|(n, _)| *n);
        let _ = self.carrier.close();
    }

    /// Sleeps until there is something to do.
    fn sleep(&mut self) -> Result<()> {
        if self.watch_sources() {
            return self.wake(); // set first, then looked, then waited
        }
        let now = Instant::now();
        let mut until = match self.greeted {
            // What waits to be sent is a sign of life already.
            true if !self.out.is_empty() => self.heard + self.idle,
            true => (self.said + self.idle / 3).min(self.heard + self.idle),
            false => self.greet_by,
        };
        if let Some(paid) = self.paid {
            until = until.min(paid);
        }
        if let Some(due) = self.due {
            until = until.min(due);
        }
        let timeout = until.saturating_duration_since(now);
        let wants = !self.mute && (!self.out.is_empty() || self.carrier.wants_write());
        let read = (!self.ended && !self.held).then(|| self.carrier.read_fd());
        let write = wants.then(|| self.carrier.write_fd());
        let woke = self.watch.wait_io(timeout, read, write);
        let woke = woke.map_err(|e| Error::io("cannot wait", e))?;
        match woke.changed {
            true => self.wake(),
            false => Ok(()),
        }
    }

    /// Watches the active segments of sources that follow; whether that was new.
    fn watch_sources(&mut self) -> bool {
        let mut new = false;
        for (channel, state) in &self.channels {
            let Channel::Source(source) = &state.channel else {
                continue;
            };
            if !source.follows() {
                continue;
            }
            let view = source.log().view();
            let base = view.tail().map_or(Offset(-1), |t| t.segment.base());
            if self.watched.get(channel) == Some(&base) {
                continue;
            }
            if !self.watched.contains_key(channel) {
                let _ = self.watch.dir(view.log().dir().as_ref());
            }
            if let Some(tail) = view.tail() {
                let _ = self.watch.file(&*tail.file);
            }
            self.watched.insert(*channel, base);
            new = true;
        }
        new
    }

    /// Logs may have changed.
    fn wake(&mut self) -> Result<()> {
        let now = TimestampMs(self.host.wall_ms());
        let mut failed = Vec::new();
        for (channel, state) in &mut self.channels {
            if let Channel::Source(source) = &mut state.channel
                && let Err(e) = source.wake(now, &mut self.out)
            {
                failed.push((*channel, e));
            }
        }
        failed.into_iter().for_each(|(c, e)| self.fail(c, e));
        Ok(())
    }

    /// Signs of life, and the end of patience.
    fn look_at_the_clock(&mut self) -> Result<()> {
        let now = Instant::now();
        if !self.greeted {
            return match now >= self.greet_by {
                true => Err(lost("the other side does not say what it wants")),
                false => Ok(()),
            };
        }
        if now.saturating_duration_since(self.heard) >= self.idle {
            let why = format!("nothing was heard for {}s", self.idle.as_secs());
            return Err(lost(why));
        }
        if now.saturating_duration_since(self.said) >= self.idle / 3 && self.out.is_empty() {
            self.say_session(&Message::Beat);
            let wall = TimestampMs(self.host.wall_ms());
            for state in self.channels.values_mut() {
                if let Channel::Source(source) = &mut state.channel {
                    source.tell(wall, &mut self.out);
                }
            }
        }
        Ok(())
    }
}

fn share(channels: usize) -> usize {
    (WINDOW_BYTES / channels.max(1)).max(WINDOW_LEAST)
}

fn channel_of(number: u32) -> Result<u16> {
    let channel = u16::try_from(number).ok();
    let channel = channel.filter(|c| *c <= wire::PARTITION_MAX);
    channel.ok_or_else(|| unexpected(format!("partition {number}")))
}

fn lost(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unreachable, why)
}

fn lost_by(e: io::Error) -> Error {
    Error::io("the connection was lost", e).with_kind(ErrorKind::Unreachable)
}

/// What was received and not taken yet. It grows with what arrives.
#[derive(Default)]
struct Input {
    buf: Vec<u8>,
    at: usize,
    filled: usize,
    /// Bytes of the frame that begins at `at`.
    need: usize,
}

impl Input {
    /// Room for the next read, at least a part of [`READ_BYTES`].
    fn room(&mut self) -> &mut [u8] {
        if self.at == self.filled {
            (self.at, self.filled) = (0, 0);
            if self.buf.len() > IN_BYTES {
                self.buf.truncate(IN_BYTES);
                self.buf.shrink_to(IN_BYTES);
            }
        }
        let missing = self
            .need
            .max(HEAD_BYTES)
            .saturating_sub(self.filled - self.at);
        let wanted = READ_BYTES.min(missing.max(READ_BYTES / 8));
        if self.buf.len() - self.filled < wanted && self.at > 0 {
            self.buf.copy_within(self.at..self.filled, 0);
            (self.at, self.filled) = (0, self.filled - self.at);
        }
        if self.buf.len() - self.filled < wanted {
            // Twice what is there: memory follows what came, and moving stays cheap.
            let len = (self.filled * 2).clamp(self.filled + READ_BYTES, self.filled + (8 << 20));
            self.buf.resize(len.max(READ_BYTES), 0);
        }
        self.buf.get_mut(self.filled..).unwrap_or_default()
    }
}
