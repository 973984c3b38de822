//! Taking connections: who may, how many, and for how long before they have said who they are.
//!
//! One thread serves one connection, so a peer that is slow, silent or hostile has a thread to itself and
//! holds up nobody. Bounds (durability contract, 10.7):
//!
//! * On an address beyond loopback there is no connection without certificates.
//! * [`HANDSHAKE_TIME`] until a peer has said what it wants.
//! * [`SESSIONS_MAX`] connections at once. They are counted from the moment a peer has said what it
//!   wants ([`Slot::establish`]): before that, as many again may be on their way, and the oldest of them
//!   makes room for the next. So whoever only connects keeps nobody out.

use super::tls::{Tls, TlsConfig};
use super::{Carrier, Tcp};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::words::host_and_port;
use crate::sys::net::{self, Accepted, Port};
use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Connections that are served at once.
pub const SESSIONS_MAX: usize = 64;
/// Connections of which it is not known yet what they want.
const NEWCOMERS_MAX: usize = 64;
/// Time for a peer to say what it wants.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// How long a thread is waited for at the end.
const END_TIME: Duration = Duration::from_secs(5);
/// Stack of the thread of a connection: what it keeps is on the heap.
const STACK_BYTES: usize = 1 << 20;

/// Ports that take connections.
#[derive(Debug)]
pub struct Listener {
    ports: Vec<Port>,
    tls: Option<TlsConfig>,
    crowd: Arc<Crowd>,
}

/// Those who are connected.
#[derive(Debug, Default)]
struct Crowd {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// Not known yet what they want, the oldest first.
    newcomers: VecDeque<(u64, TcpStream)>,
    /// Served.
    sessions: Vec<(u64, TcpStream)>,
}

impl Crowd {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one that has just connected. The oldest newcomer goes, if there are too many.
    fn enter(self: &Arc<Crowd>, stream: &TcpStream) -> io::Result<Slot> {
        let stream = stream.try_clone()?;
        let mut inner = self.lock();
        if inner.newcomers.len() >= NEWCOMERS_MAX
            && let Some((_, oldest)) = inner.newcomers.pop_front()
        {
            let _ = oldest.shutdown(Shutdown::Both); // its thread finds that out
        }
        let number = inner.next;
        inner.next += 1;
        inner.newcomers.push_back((number, stream));
        Ok(Slot {
            crowd: Arc::clone(self),
            number,
            until: Instant::now() + HANDSHAKE_TIME,
        })
    }

    fn is_empty(&self) -> bool {
        let inner = self.lock();
        inner.newcomers.is_empty() && inner.sessions.is_empty()
    }

    /// Ends all connections.
    fn shut(&self) {
        let inner = self.lock();
        let all = inner.newcomers.iter().chain(&inner.sessions);
        all.for_each(|(_, stream)| {
            let _ = stream.shutdown(Shutdown::Both); // it may have gone already
        });
    }
}

/// The place of one connection, given back when it is dropped.
#[derive(Debug)]
pub struct Slot {
    crowd: Arc<Crowd>,
    number: u64,
    until: Instant,
}

impl Slot {
    /// Until when the peer must have said what it wants.
    pub fn until(&self) -> Instant {
        self.until
    }

    /// Says that the peer is one to be served. False if too many are; it is to be told so and left.
    pub fn establish(&self) -> bool {
        let mut inner = self.crowd.lock();
        let known = |(n, _): &(u64, TcpStream)| *n == self.number;
        if inner.sessions.iter().any(known) {
            return true;
        }
        if inner.sessions.len() >= SESSIONS_MAX {
            return false;
        }
        match inner.newcomers.iter().position(known) {
            Some(at) => {
                let moved = inner.newcomers.remove(at);
                inner.sessions.extend(moved);
                true
            }
            None => false, // it had to make room
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut inner = self.crowd.lock();
        inner.newcomers.retain(|(n, _)| *n != self.number);
        inner.sessions.retain(|(n, _)| *n != self.number);
    }
}

/// What is done with a connection.
pub trait Serve: Send + Sync {
    /// Serves a connection to its end. It is called on a thread of that connection's own.
    fn serve(&self, carrier: Box<dyn Carrier>, slot: &Slot);

    /// Tells of a connection that came to nothing: a handshake that failed.
    fn lost(&self, error: &Error);
}

/// Refuses addresses beyond this machine where nobody's certificate would be looked at.
///
/// # Errors
/// Usage.
pub fn check_addresses(shown: &str, addresses: &[SocketAddr], tls: bool) -> Result<()> {
    if tls || addresses.iter().all(|a| a.ip().is_loopback()) {
        return Ok(());
    }
    let why = format!("{shown}: beyond this machine only with certificates on both sides");
    Err(Error::usage(why).hint("--tls-cert me.pem --tls-key me.key --tls-ca ca.pem"))
}

impl Listener {
    /// Takes connections at `word`, which is `HOST:PORT`; with `tls` only from peers whose certificate is
    /// good.
    ///
    /// # Errors
    /// Usage, for an address beyond loopback without `tls`; `NotFound`; `Io`, when the port is taken.
    pub fn bind(word: &str, tls: Option<TlsConfig>) -> Result<Listener> {
        let (host, port) = host_and_port(word)?;
        let addresses = net::addresses(&host, port);
        let addresses = addresses.map_err(|e| Error::io("cannot look up", e).at_path(word))?;
        check_addresses(word, &addresses, tls.is_some())?;
        let mut ports = Vec::new();
        let mut failed = None;
        for mut address in addresses {
            // Port 0 is any that is free, and the same one for all addresses of the name.
            if let Some(first) = ports.first().map(Port::address) {
                address.set_port(first.map_or(port, |a| a.port()));
            }
            match Port::bind(address) {
                Ok(port) => ports.push(port),
                // localhost is two addresses also where there is no IPv6.
                Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => failed = Some(e),
                Err(e) => return Err(cannot_listen(e, word)),
            }
        }
        match (ports.is_empty(), failed) {
            (true, Some(e)) => Err(cannot_listen(e, word)),
            _ => Ok(Listener {
                ports,
                tls,
                crowd: Arc::default(),
            }),
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What getsockname(2) answers.
    pub fn address(&self) -> Result<SocketAddr> {
        let first = self.ports.first().map(Port::address);
        let first = first.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
        first.map_err(|e| Error::io("cannot tell the address", e))
    }

    /// Takes connections until a signal asks this process to stop, or `stop` is set; then ends those
    /// that there are.
    ///
    /// # Errors
    /// What poll(2) answers.
    pub fn run(&self, serve: &Arc<dyn Serve>, stop: &Arc<AtomicBool>) -> Result<()> {
        let others = self.ports.get(1..).unwrap_or_default();
        std::thread::scope(|s| {
            for port in others {
                s.spawn(|| self.take(port, serve, stop));
            }
            let taken = self
                .ports
                .first()
                .map_or(Ok(()), |p| self.take(p, serve, stop));
            stop.store(true, Ordering::SeqCst);
            taken
        })
        .map_err(|e| Error::io("cannot take connections", e))?;
        self.end();
        Ok(())
    }

    fn take(&self, port: &Port, serve: &Arc<dyn Serve>, stop: &Arc<AtomicBool>) -> io::Result<()> {
        while !stop.load(Ordering::SeqCst) {
            match port.accept(Some(Duration::from_millis(500)))? {
                Accepted::Interrupted => break,
                Accepted::None => {}
                Accepted::Stream(stream, from) => self.welcome(stream, from, serve),
            }
        }
        Ok(())
    }

    fn welcome(&self, stream: TcpStream, from: SocketAddr, serve: &Arc<dyn Serve>) {
        let Ok(slot) = self.crowd.enter(&stream) else {
            return; // no descriptors: it is closed, and may come again
        };
        let (tls, serve) = (self.tls.clone(), Arc::clone(serve));
        let thread = std::thread::Builder::new().name(from.to_string());
        // Without a thread to be had it is closed, too.
        let _ = thread.stack_size(STACK_BYTES).spawn(move || {
            let peer = format!("tcp://{from}");
            let carrier: Result<Box<dyn Carrier>> = match &tls {
                None => Ok(Box::new(Tcp::new(stream, peer))),
                Some(tls) => Tls::accept(stream, &peer, tls, slot.until)
                    .map(|tls| Box::new(tls) as Box<dyn Carrier>),
            };
            match carrier {
                Ok(carrier) => serve.serve(carrier, &slot),
                Err(e) => serve.lost(&e),
            }
        });
    }

    /// Ends the connections that there are, and waits for their threads for a while.
    fn end(&self) {
        let until = Instant::now() + END_TIME;
        self.crowd.shut();
        while !self.crowd.is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn cannot_listen(e: io::Error, word: &str) -> Error {
    let kind = match e.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        io::ErrorKind::AddrInUse => ErrorKind::Locked,
        _ => ErrorKind::Io,
    };
    Error::io("cannot listen", e).with_kind(kind).at_path(word)
}
