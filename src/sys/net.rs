//! TCP: addresses looked up, connections made and taken, always without blocking.
//!
//! Names are looked up by getent(1): this program is one static file, and a static program that asks the
//! system's resolver loads libraries of the machine that it was not built with.
//!
//! Buffers are left to the kernel, which sizes them by what is on the way; a size that is asked for
//! would be a ceiling (net.core.rmem_max) far below what it goes up to by itself.

use super::pipe::{poll_for, woken};
use super::signals;
use nix::poll::{PollFd, PollFlags};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;
/// Longest answer of getent(1) that is read.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// Pause after a connection could not be taken for want of descriptors or memory.
const BREATH: Duration = Duration::from_millis(100);

/// The addresses of a host, a number or a name, at a port.
///
/// # Errors
/// `NotFound`, when there is no such host; else that getent(1) cannot be run.
pub fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let numbers: Vec<IpAddr> = match bare.unwrap_or(host).parse() {
        Ok(ip) => vec![ip],
        Err(_) if host == "localhost" => {
            vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
        }
        Err(_) => look_up(host)?,
    };
    Ok(numbers.into_iter().map(|ip| (ip, port).into()).collect())
}

fn look_up(host: &str) -> io::Result<Vec<IpAddr>> {
    let mut getent = Command::new("getent");
    let getent = getent.args(["--", "ahosts", host]).stdin(Stdio::null());
    let mut getent = getent
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut text = Vec::new();
    if let Some(stdout) = getent.stdout.take() {
        stdout.take(ANSWER_BYTES_MAX).read_to_end(&mut text)?;
    }
    getent.wait()?;
    let mut found: Vec<IpAddr> = Vec::new();
    for line in String::from_utf8_lossy(&text).lines() {
        let word = line.split_whitespace().next().unwrap_or_default();
        if let Ok(ip) = word.parse()
            && !found.contains(&ip)
        {
            found.push(ip);
        }
    }
    found.truncate(ADDRESSES_MAX);
    match found.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, "no such host")),
        false => Ok(found),
    }
}

/// A connection to the first of `addresses` that takes one before `until`, small writes sent at once,
/// not blocking.
///
/// # Errors
/// Of the last address what connect(2) answers; `TimedOut`.
pub fn connect(addresses: &[SocketAddr], until: Instant) -> io::Result<TcpStream> {
    let mut error = io::Error::from(io::ErrorKind::TimedOut);
    for (i, address) in addresses.iter().enumerate() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        // What one that does not answer may take of the time of those behind it.
        let others = u32::try_from(addresses.len() - i).unwrap_or(1);
        match TcpStream::connect_timeout(address, left / others) {
            Ok(stream) => return ready(stream),
            Err(e) => error = e,
        }
    }
    Err(error)
}

fn ready(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// What came of waiting for a connection.
#[derive(Debug)]
pub enum Accepted {
    /// One, from this address, not blocking.
    Stream(TcpStream, SocketAddr),
    /// The time is over, or the peer had gone again.
    None,
    /// A signal asked this process to stop.
    Interrupted,
}

/// A port that takes connections.
#[derive(Debug)]
pub struct Port(TcpListener);

impl Port {
    /// Takes connections at this address.
    ///
    /// # Errors
    /// What bind(2) and listen(2) answer.
    pub fn bind(address: SocketAddr) -> io::Result<Port> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Port(listener))
    }

    /// The address, with the number of the port.
    ///
    /// # Errors
    /// What getsockname(2) answers.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Waits for a connection. One that cannot be taken for want of descriptors is no end: others close
    /// theirs.
    ///
    /// # Errors
    /// What poll(2) answers.
    pub fn accept(&self, timeout: Option<Duration>) -> io::Result<Accepted> {
        if signals::stop_requested().is_some() {
            return Ok(Accepted::Interrupted);
        }
        let mut fds = vec![PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        fds.extend(signals::wake_fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        poll_for(&mut fds, timeout)?;
        if fds.get(1).is_some_and(woken) {
            signals::drain();
            return Ok(match signals::stop_requested() {
                Some(_) => Accepted::Interrupted,
                None => Accepted::None,
            });
        }
        match self.0.accept() {
            Ok((stream, from)) => Ok(match ready(stream) {
                Ok(stream) => Accepted::Stream(stream, from),
                Err(_) => Accepted::None, // it had gone again
            }),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(Accepted::None),
            Err(_) => {
                std::thread::sleep(BREATH);
                Ok(Accepted::None)
            }
        }
    }
}

/// Waits until `fd` can be read, or written, or the time is over; true if it can.
///
/// # Errors
/// What poll(2) answers.
pub fn wait_for(fd: BorrowedFd<'_>, write: bool, until: Instant) -> io::Result<bool> {
    let flags = if write {
        PollFlags::POLLOUT
    } else {
        PollFlags::POLLIN
    };
    let left = until.saturating_duration_since(Instant::now());
    Ok(poll_for(&mut [PollFd::new(fd, flags)], Some(left))? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn numbers_and_localhost_need_no_look_up() {
        let all = |h: &str| -> Vec<String> {
            addresses(h, 7)
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(all("127.0.0.1"), ["127.0.0.1:7"]);
        assert_eq!(all("[::1]"), ["[::1]:7"]);
        assert_eq!(all("fe80::1"), ["[fe80::1]:7"]);
        assert_eq!(all("localhost"), ["127.0.0.1:7", "[::1]:7"]);
        let e = addresses("no-such-host.invalid", 7).unwrap_err();
        assert_eq!(e.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_next_address_is_tried_where_one_refuses() {
        let port = Port::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let good = port.address().unwrap();
        let refusing = {
            let taken = Port::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            taken.address().unwrap()
        };
        let until = Instant::now() + LONG;
        let stream = connect(&[refusing, good], until).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), good);
        assert!(matches!(
            port.accept(Some(LONG)).unwrap(),
            Accepted::Stream(..)
        ));
        let short = Some(Duration::from_millis(5));
        assert!(matches!(port.accept(short).unwrap(), Accepted::None));
        assert!(connect(&[refusing], until).is_err());
        let past = connect(&[good], Instant::now()).unwrap_err();
        assert_eq!(past.kind(), io::ErrorKind::TimedOut);
    }
}
