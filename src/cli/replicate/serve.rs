//! `logd replicate` as the side that is connected to: `--peer` through ssh, `--stdio DIR` for a bound key,
//! `--listen ADDR` on a port.

use super::Asked;
use super::elsewhere::tls;
use crate::cli::context::SharedHost;
use crate::cli::{Context, Messages, Outcome, args};
use crate::error::{Error, ErrorKind, Result};
use crate::format::wire::{Hello, options};
use crate::log::copy::CopyOptions as OpenOptions;
use crate::ops::append::SyncWhen;
use crate::ops::replicate::carrier::listen::{Listener, Serve, Slot};
use crate::ops::replicate::carrier::{Carrier, Pipe};
use crate::ops::replicate::copy::CopyOptions;
use crate::ops::replicate::drive::{self, Job, Limits, OpenSource, Serves};
use crate::ops::replicate::local::Watcher;
use crate::ops::replicate::log_copy::LogCopy;
use crate::ops::replicate::names::Served;
use crate::ops::replicate::source::{Note, SourceOptions};
use crate::ops::replicate::{dest_of, open_source};
use crate::ops::throttle::Throttle;
use crate::ops::topic::{self, Partition};
use crate::ops::words::{self, Now};
use crate::sys::signals;
use clap::ArgMatches;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// What peers may do here.
pub(in crate::cli) struct Server {
    host: SharedHost,
    served: Served,
    /// Peers may send.
    receives: bool,
    /// Peers may fetch.
    sends: bool,
    open: OpenOptions,
    sync: SyncWhen,
    limits: crate::format::Limits,
    rate: Option<u64>,
    message: Messages,
}

/// The session of one peer.
struct Session<'a> {
    server: &'a Server,
    peer: String,
    slot: Option<&'a Slot>,
}

impl Server {
    /// One that a peer reaches through ssh.
    pub fn through_ssh(ctx: &Context, served: Served, asked: &Asked, receives: bool) -> Server {
        Server {
            host: ctx.host.clone(),
            served,
            receives,
            sends: true,
            open: asked.open.clone(),
            sync: asked.copy.sync,
            limits: asked.copy.limits,
            rate: asked.rate,
            message: ctx.message.clone(),
        }
    }

    fn run(&self, carrier: Box<dyn Carrier>, slot: Option<&Slot>) -> Result<drive::Outcome> {
        let peer = carrier.peer().to_string();
        let mut session = Session {
            server: self,
            peer,
            slot,
        };
        let mut limits = Limits::default();
        if let Some(slot) = slot {
            limits.greeted = slot.until();
        }
        let job = Job::Serve(&mut session);
        let throttle = Throttle::new(self.rate);
        drive::run(self.host.as_ref(), carrier, job, limits, &throttle, &Silent)
    }
}

/// Nobody looks on.
struct Silent;

impl Watcher for Silent {
    fn note(&self, _note: Note) {}
}

impl Session<'_> {
    fn has(hello: &Hello, bit: u32) -> bool {
        hello.options & bit != 0
    }

    /// Partitions of a log that a peer may fetch.
    fn partitions(&self, hello: &Hello) -> Result<Vec<Partition>> {
        let path = self.server.served.path(&hello.name)?;
        let all = topic::find(self.server.host.as_ref(), &path)?;
        let wanted = |p: &Partition| {
            let number = u32::try_from(p.number).unwrap_or(u32::MAX);
            hello.partitions.is_empty() || hello.partitions.contains(&number)
        };
        let found: Vec<Partition> = all.into_iter().filter(wanted).collect();
        match found.is_empty() {
            true => Err(Error::not_found("no such log").at_path(&hello.name)),
            false => Ok(found),
        }
    }
}

impl Serves for Session<'_> {
    fn asked(&mut self, _hello: &Hello) -> Result<()> {
        match self.slot.is_none_or(Slot::establish) {
            true => Ok(()),
            false => {
                let why = "too many peers are connected";
                Err(Error::new(ErrorKind::Unreachable, why))
            }
        }
    }

    fn sources(&mut self, hello: &Hello) -> Result<Vec<OpenSource>> {
        if !self.server.sends {
            let why = "this port only receives";
            return Err(Error::new(ErrorKind::Permission, why).hint("--read-only there serves"));
        }
        let now = Now::new(crate::format::TimestampMs(self.server.host.wall_ms()));
        let range = match hello.range.as_str() {
            "" => words::Range::ALL,
            range => words::Range::parse(range, &now)?,
        };
        let clamp = Session::has(hello, options::CLAMP);
        let mut sources = Vec::new();
        for p in self.partitions(hello)? {
            let host = &self.server.host;
            let (log, from, upto) = open_source(host, &p, &range, clamp, &self.peer)?;
            sources.push(OpenSource {
                number: u32::try_from(p.number).unwrap_or(0),
                log,
                options: SourceOptions {
                    follow: Session::has(hello, options::FOLLOW),
                    truncate: Session::has(hello, options::TRUNCATE),
                    clamp,
                    // Who may only read may not end the appends here.
                    fences: self.server.receives,
                    from,
                    upto,
                    ..SourceOptions::default()
                },
            });
        }
        Ok(sources)
    }

    fn copy(&mut self, hello: &Hello, number: u32) -> Result<(LogCopy, CopyOptions)> {
        let server = self.server;
        if !server.receives {
            let why = "only reading is allowed here";
            return Err(Error::new(ErrorKind::Permission, why));
        }
        let dest = server.served.path(&hello.name)?;
        let number = i32::try_from(number).unwrap_or(i32::MAX);
        let alone = hello.partitions.len() == 1;
        let to = dest_of(server.host.as_ref(), &dest, number, alone)?;
        // A peer may ask for more care than this side takes by itself, and for less.
        let sync = match server.sync {
            _ if Session::has(hello, options::SYNC_NEVER) => SyncWhen::Never,
            _ if Session::has(hello, options::SYNC_BATCH) => SyncWhen::Batch,
            SyncWhen::Every(_) if Session::has(hello, options::SYNC_EXIT) => SyncWhen::Exit,
            sync => sync,
        };
        let options = CopyOptions {
            sync,
            delete: Session::has(hello, options::DELETE),
            truncate: Session::has(hello, options::TRUNCATE),
            one_way: false,
            limits: server.limits,
        };
        let open = OpenOptions {
            zero_fill: sync == SyncWhen::Batch,
            ..server.open.clone()
        };
        let log = LogCopy::new(&server.host, &to, open, &self.peer);
        Ok((log, options))
    }
}

impl Serve for Server {
    fn serve(&self, carrier: Box<dyn Carrier>, slot: &Slot) {
        match self.run(carrier, Some(slot)) {
            Ok(done) => done.errors.iter().for_each(|(_, e)| self.message.error(e)),
            Err(e) => self.lost(&e),
        }
    }

    fn lost(&self, error: &Error) {
        // Whoever follows comes again; that is no news.
        match error.kind() {
            ErrorKind::Unreachable => self.message.explain(|| error.to_string()),
            _ => self.message.error(error),
        }
    }
}

/// Serves the peer on stdin and stdout.
///
/// # Errors
/// What ended the connection.
pub(in crate::cli) fn stdio(ctx: &mut Context, server: &Server) -> Result<Outcome> {
    signals::install().map_err(|e| Error::io("cannot handle signals", e))?;
    let peer = peer_name();
    let pipe = Pipe::stdio(&peer).map_err(|e| Error::io("cannot talk to the peer", e))?;
    let done = match server.run(Box::new(pipe), None) {
        // The peer has gone, and knows why.
        Err(e) if e.kind() == ErrorKind::Unreachable => {
            ctx.message.explain(|| e.to_string());
            return Ok(Outcome::Done);
        }
        done => done?,
    };
    // The peer was told of each, and tells.
    match done.stopped {
        true => Ok(super::by_signal()),
        false => Ok(Outcome::Done),
    }
}

/// Who is on the other side of ssh, as far as sshd says.
fn peer_name() -> String {
    let from = std::env::var("SSH_CONNECTION").unwrap_or_default();
    let from = from.split(' ').next().unwrap_or_default().to_string();
    if from.is_empty() { "peer".into() } else { from }
}

/// Takes connections on a port.
pub(super) fn listen(
    ctx: &mut Context,
    m: &ArgMatches,
    asked: &Asked,
    at: &str,
) -> Result<Outcome> {
    let mut paths = Vec::new();
    for id in ["src", "dest", "more"] {
        for log in args::os_all(m, id) {
            paths.push(ctx.path(log)?);
        }
    }
    let read_only = args::flag(m, "read-only");
    if read_only {
        for path in &paths {
            must_be(ctx, path)?;
        }
    }
    let server = Server {
        host: ctx.host.clone(),
        served: Served::listed(paths)?,
        receives: !read_only,
        sends: read_only,
        open: asked.open.clone(),
        sync: asked.copy.sync,
        limits: asked.copy.limits,
        rate: asked.rate,
        message: ctx.message.clone(),
    };
    let listener = Listener::bind(at, tls(m)?)?;
    let address = listener.address()?;
    if ctx.json {
        let line = serde_json::json!({ "listening": address.to_string() });
        ctx.stdout.put(format!("{line}\n").as_bytes())?;
        ctx.stdout.flush_now()?;
    }
    ctx.message.summary(|| format!("listening on {address}"));
    let server: Arc<dyn Serve> = Arc::new(server);
    listener.run(&server, &Arc::new(AtomicBool::new(false)))?;
    Ok(super::by_signal())
}

fn must_be(ctx: &Context, path: &Path) -> Result<()> {
    match topic::find(ctx.host.as_ref(), path)?.is_empty() {
        true => Err(Error::not_found("no such log").at_path(path)),
        false => Ok(()),
    }
}

/// How soon what is received is durable, where nobody says.
pub(super) const SYNC: SyncWhen = SyncWhen::Every(Duration::from_secs(1));
