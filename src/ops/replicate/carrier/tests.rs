//! Every carrier carries every byte, in order, both ways; and certificates decide who may talk.

use super::listen::{Listener, SESSIONS_MAX, Serve, Slot, check_addresses};
use super::*;
use crate::error::{Error, ErrorKind};
use crate::sys::net::{self, wait_for};
use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const LONG: Duration = Duration::from_secs(20);

fn soon() -> Instant {
    Instant::now() + LONG
}

/// Writes all of `out` and reads until the end or `want` bytes, as a driver would.
fn exchange(carrier: &mut dyn Carrier, mut out: &[u8], want: usize) -> io::Result<Vec<u8>> {
    let (mut got, mut buf) = (Vec::new(), vec![0; 8192]);
    let blocked = |e: &io::Error| e.kind() == io::ErrorKind::WouldBlock;
    while !out.is_empty() || got.len() < want || carrier.wants_write() {
        let mut moved = false;
        if !out.is_empty() {
            match carrier.write(out) {
                Ok(n) => (out, moved) = (&out[n..], true),
                Err(e) if blocked(&e) => {}
                Err(e) => return Err(e),
            }
        }
        carrier
            .flush()
            .or_else(|e| if blocked(&e) { Ok(()) } else { Err(e) })?;
        if got.len() < want {
            match carrier.read(&mut buf) {
                Ok(0) => return Ok(got),
                Ok(n) => {
                    got.extend_from_slice(&buf[..n]);
                    moved = true;
                }
                Err(e) if blocked(&e) => {}
                Err(e) => return Err(e),
            }
        }
        if !moved && got.len() < want {
            let pause = Instant::now() + Duration::from_millis(1);
            wait_for(carrier.read_fd(), false, pause)?;
        }
    }
    Ok(got)
}

fn noise(n: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// Has two ends tell each other something at once, and then end.
fn talk(mut a: Box<dyn Carrier>, mut b: Box<dyn Carrier>, sizes: (usize, usize)) {
    let (left, right) = (noise(sizes.0, 7), noise(sizes.1, 99));
    let (l, r) = (left.clone(), right.clone());
    let other = std::thread::spawn(move || {
        let got = exchange(&mut *b, &r, l.len()).unwrap();
        assert!(got == l, "from a to b");
        b.close().unwrap();
        b
    });
    let got = exchange(&mut *a, &left, right.len()).unwrap();
    assert!(got == right, "from b to a");
    let _b = other.join().unwrap();
    let mut buf = [0; 16];
    assert!(wait_for(a.read_fd(), false, soon()).unwrap());
    assert_eq!(a.read(&mut buf).unwrap(), 0, "it has ended");
    a.close().unwrap();
}

fn pipes() -> (Box<dyn Carrier>, Box<dyn Carrier>) {
    let (r1, w1) = io::pipe().unwrap();
    let (r2, w2) = io::pipe().unwrap();
    let pipe = |r, w| Pipe::new(OwnedFd::from(r), OwnedFd::from(w), "pipe").unwrap();
    (Box::new(pipe(r1, w2)), Box::new(pipe(r2, w1)))
}

fn sockets() -> (TcpStream, TcpStream) {
    let port = net::Port::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let there = net::connect(&[port.address().unwrap()], soon()).unwrap();
    match port.accept(Some(LONG)).unwrap() {
        net::Accepted::Stream(here, _) => (here, there),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pipes_carry_every_byte_both_ways() {
    for sizes in [(0, 0), (1, 0), (3 << 20, 5 << 20)] {
        let (a, b) = pipes();
        talk(a, b, sizes);
    }
}

#[test]
fn tcp_carries_every_byte_both_ways() {
    let (a, b) = sockets();
    talk(
        Box::new(Tcp::new(a, "a")),
        Box::new(Tcp::new(b, "b")),
        (3 << 20, 5 << 20),
    );
}

#[test]
fn a_pipe_s_descriptors_are_as_they_were() {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let (r, w) = io::pipe().unwrap();
    let flags = |fd: &OwnedFd| OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap());
    let (kept_r, kept_w) = (
        OwnedFd::from(r.try_clone().unwrap()),
        OwnedFd::from(w.try_clone().unwrap()),
    );
    let pipe = Pipe::new(r.into(), w.into(), "x").unwrap();
    assert!(flags(&kept_r).contains(OFlag::O_NONBLOCK));
    drop(pipe);
    for fd in [&kept_r, &kept_w] {
        assert!(!flags(fd).contains(OFlag::O_NONBLOCK));
    }
}

/// An authority that signs certificates for tests.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// Files of somebody whom this authority vouches for, from one year to another.
    fn files(&self, dir: &Path, name: &str, years: (i32, i32)) -> TlsFiles {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_string()]).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let put = |what: &str, text: &str| -> PathBuf {
            let path = dir.join(format!("{name}-{}-{what}", years.1));
            std::fs::write(&path, text).unwrap();
            path
        };
        TlsFiles {
            cert: put("cert", &cert.pem()),
            key: put("key", &key.serialize_pem()),
            ca: put("ca", &self.pem),
        }
    }
}

const GOOD: (i32, i32) = (2000, 2200);
const OVER: (i32, i32) = (2000, 2010);
const TO_COME: (i32, i32) = (2190, 2200);

/// What each side of a connection makes of the other: the one that connects, the one that takes it.
fn meet(client: &TlsFiles, server: &TlsFiles, host: &str) -> [std::result::Result<(), Error>; 2] {
    let port = net::Port::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = port.address().unwrap();
    let (client, server) = (
        TlsConfig::new(client).unwrap(),
        TlsConfig::new(server).unwrap(),
    );
    // A refusal comes with the first read.
    let probe = |tls: std::result::Result<Tls, Error>| -> std::result::Result<(), Error> {
        let mut tls = tls?;
        let io = exchange(&mut tls, b"hello", 5);
        let got = io.map_err(|e| Error::io("no", e))?;
        if got != b"hello" {
            return Err(Error::data("something else"));
        }
        Ok(())
    };
    let taker = std::thread::spawn(move || match port.accept(Some(LONG)).unwrap() {
        net::Accepted::Stream(stream, _) => probe(Tls::accept(stream, "client", &server, soon())),
        other => panic!("{other:?}"),
    });
    let made = probe(Tls::connect(&[address], host, "server", &client, soon()));
    [made, taker.join().unwrap()]
}

#[test]
fn tls_carries_every_byte_both_ways() {
    let temp = tempfile::tempdir().unwrap();
    let ca = Authority::new();
    let config = TlsConfig::new(&ca.files(temp.path(), "127.0.0.1", GOOD)).unwrap();
    let (a, b) = sockets();
    let of_b = config.clone();
    let b = std::thread::spawn(move || Tls::accept(b, "b", &of_b, soon()).unwrap());
    let name = "127.0.0.1".to_string().try_into().unwrap();
    let connection = rustls::ClientConnection::new(config.client_for_tests(), name).unwrap();
    let a = Tls::shake_hands(a, connection.into(), "a", soon()).unwrap();
    talk(Box::new(a), Box::new(b.join().unwrap()), (3 << 20, 5 << 20));
}

#[test]
fn certificates_decide_who_may_talk() {
    let temp = tempfile::tempdir().unwrap();
    let (ca, foreign) = (Authority::new(), Authority::new());
    let me = ca.files(temp.path(), "copy.example", GOOD);
    let here = ca.files(temp.path(), "127.0.0.1", GOOD);
    let both = |[a, b]: [std::result::Result<(), Error>; 2]| (a.is_ok(), b.is_ok());
    assert_eq!(both(meet(&me, &here, "127.0.0.1")), (true, true));

    let dir = temp.path().join("foreign");
    std::fs::create_dir(&dir).unwrap();
    let trusting = |files: TlsFiles| TlsFiles {
        ca: me.ca.clone(),
        ..files
    };
    let odd = [
        (
            "foreign",
            trusting(foreign.files(&dir, "copy.example", GOOD)),
        ),
        ("expired", ca.files(temp.path(), "copy.example", OVER)),
        ("not yet", ca.files(temp.path(), "copy.example", TO_COME)),
    ];
    for (what, files) in &odd {
        let [client, server] = meet(files, &here, "127.0.0.1");
        let (client, server) = (client.unwrap_err(), server.unwrap_err());
        assert_eq!(server.kind(), ErrorKind::Permission, "{what}: {server}");
        assert!(
            server.to_string().contains("certificate"),
            "{what}: {server}"
        );
        assert_eq!(client.kind(), ErrorKind::Permission, "{what}: {client}");
    }
    let odd = [
        (
            "foreign",
            trusting(foreign.files(&dir, "127.0.0.1", GOOD)),
            "127.0.0.1",
        ),
        (
            "expired",
            ca.files(temp.path(), "127.0.0.1", OVER),
            "127.0.0.1",
        ),
        (
            "not yet",
            ca.files(temp.path(), "127.0.0.1", TO_COME),
            "127.0.0.1",
        ),
        ("of another host", me.clone(), "127.0.0.1"),
        ("of another host", here.clone(), "copy.example"),
    ];
    for (what, files, host) in &odd {
        let [client, server] = meet(&me, files, host);
        let client = client.unwrap_err();
        assert_eq!(client.kind(), ErrorKind::Permission, "{what}: {client}");
        assert!(
            client
                .to_string()
                .starts_with("server: no secure connection: its certificate will not do"),
            "{client}"
        );
        assert!(server.is_err(), "{what}");
    }
    // An authority that the other does not know, on the side that connects.
    let naive = TlsFiles {
        ca: dir.join("127.0.0.1-2200-ca"),
        ..me.clone()
    };
    assert_eq!(both(meet(&naive, &here, "127.0.0.1")), (false, false));
}

#[test]
fn whoever_shows_no_certificate_or_speaks_no_tls_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let ca = Authority::new();
    let config = TlsConfig::new(&ca.files(temp.path(), "127.0.0.1", GOOD)).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    for cert in
        <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::pem_slice_iter(
            ca.pem.as_bytes(),
        )
    {
        roots.add(cert.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let bare = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (here, there) = sockets();
    let of_server = config.clone();
    let server =
        std::thread::spawn(move || Tls::accept(here, "client", &of_server, soon()).unwrap_err());
    let name = "127.0.0.1".to_string().try_into().unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(bare), name).unwrap();
    let made = Tls::shake_hands(there, connection.into(), "server", soon());
    let e = made
        .map_err(io::Error::other)
        .and_then(|mut tls| exchange(&mut tls, b"x", 1));
    assert!(e.is_err());
    let e = server.join().unwrap();
    assert_eq!(e.kind(), ErrorKind::Permission);
    assert!(e.to_string().contains("it shows no certificate"), "{e}");

    for garbage in [
        &b"GET / HTTP/1.0\r\n\r\n"[..],
        b"\x16\x03\x01\xff\xff",
        b"LGDP",
        &noise(70_000, 3),
    ] {
        let (here, there) = sockets();
        let mut plain = Tcp::new(there, "x");
        let _ = plain.write(garbage);
        plain.close().unwrap();
        let e = Tls::accept(here, "client", &config, soon()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unreachable, "{e}");
    }
    // One that says nothing is waited for no longer than was said.
    let (here, _there) = sockets();
    let soon = Instant::now() + Duration::from_millis(30);
    let e = Tls::accept(here, "client", &config, soon).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unreachable);
}

#[test]
fn files_that_are_no_certificates_are_told() {
    let temp = tempfile::tempdir().unwrap();
    let ca = Authority::new();
    let good = ca.files(temp.path(), "a", GOOD);
    let other = ca.files(temp.path(), "b", GOOD);
    let empty = temp.path().join("empty");
    std::fs::write(&empty, "").unwrap();
    let broken = temp.path().join("broken");
    std::fs::write(
        &broken,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let kind = |files: TlsFiles| TlsConfig::new(&files).unwrap_err();
    let with = |cert: &Path, key: &Path, ca: &Path| {
        kind(TlsFiles {
            cert: cert.into(),
            key: key.into(),
            ca: ca.into(),
        })
    };
    let TlsFiles { cert, key, ca } = &good;
    let e = with(cert, &other.key, ca);
    assert!(
        e.to_string().contains("is not the key of the certificate"),
        "{e}"
    );
    for e in [
        e,
        with(&empty, key, ca),
        with(cert, &empty, ca),
        with(cert, key, &empty),
        with(cert, key, &broken),
        with(&broken, key, ca),
        with(key, key, ca),
        with(cert, cert, ca),
    ] {
        assert_eq!(e.kind(), ErrorKind::Config, "{e}");
        assert!(e.path().is_some(), "{e}");
    }
    let none = with(&temp.path().join("none"), key, ca);
    assert_eq!(none.kind(), ErrorKind::NotFound);
    let endless = with(Path::new("/dev/zero"), key, ca);
    assert_eq!(endless.kind(), ErrorKind::Config);
}

#[test]
fn a_cut_is_no_end_over_tls() {
    let temp = tempfile::tempdir().unwrap();
    let ca = Authority::new();
    let config = TlsConfig::new(&ca.files(temp.path(), "127.0.0.1", GOOD)).unwrap();
    let (here, there) = sockets();
    let cut = there.try_clone().unwrap();
    let of_server = config.clone();
    let server = std::thread::spawn(move || Tls::accept(here, "b", &of_server, soon()).unwrap());
    let name = "127.0.0.1".to_string().try_into().unwrap();
    let connection = rustls::ClientConnection::new(config.client_for_tests(), name).unwrap();
    let client = Tls::shake_hands(there, connection.into(), "a", soon()).unwrap();
    let mut server = server.join().unwrap();
    cut.shutdown(std::net::Shutdown::Both).unwrap();
    drop(client);
    assert!(wait_for(server.read_fd(), false, soon()).unwrap());
    let e = server.read(&mut [0; 8]).unwrap_err();
    assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn beyond_this_machine_only_with_certificates() {
    let at = |a: &str| -> Vec<SocketAddr> { vec![a.parse().unwrap()] };
    for (address, tls, good) in [
        ("127.0.0.1:1", false, true),
        ("127.9.9.9:1", false, true),
        ("[::1]:1", false, true),
        ("0.0.0.0:1", false, false),
        ("[::]:1", false, false),
        ("10.0.0.1:1", false, false),
        ("[::ffff:10.0.0.1]:1", false, false),
        ("0.0.0.0:1", true, true),
    ] {
        let checked = check_addresses(address, &at(address), tls);
        assert_eq!(checked.is_ok(), good, "{address}");
        if let Err(e) = checked {
            assert_eq!(e.kind(), ErrorKind::Usage);
            assert!(e.hint_text().unwrap().starts_with("--tls-cert"));
        }
    }
    let e = Listener::bind("0.0.0.0:0", None).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Usage);
}

/// Answers every byte with itself, to those who first say `!`.
#[derive(Default)]
struct Echo {
    full: AtomicBool,
    lost: Mutex<Vec<String>>,
}

impl Serve for Echo {
    fn serve(&self, mut carrier: Box<dyn Carrier>, slot: &Slot) {
        let mut buf = [0; 64];
        loop {
            match carrier.read(&mut buf) {
                Ok(0) => return,
                Ok(n) => {
                    if buf[0] == b'!' && !slot.establish() {
                        self.full.store(true, Ordering::SeqCst);
                        return;
                    }
                    if exchange(&mut *carrier, &buf[..n], 0).is_err() {
                        return;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let _ = wait_for(carrier.read_fd(), false, soon());
                }
                Err(_) => return,
            }
        }
    }

    fn lost(&self, error: &Error) {
        self.lost.lock().unwrap().push(error.to_string());
    }
}

/// A listener that runs, and ends with the test.
struct Running {
    address: SocketAddr,
    echo: Arc<Echo>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    fn new(tls: Option<TlsConfig>) -> Running {
        let listener = Listener::bind("127.0.0.1:0", tls).unwrap();
        let address = listener.address().unwrap();
        let (echo, stop) = (Arc::new(Echo::default()), Arc::new(AtomicBool::new(false)));
        let (serve, stopped) = (Arc::clone(&echo) as Arc<dyn Serve>, Arc::clone(&stop));
        let thread = std::thread::spawn(move || listener.run(&serve, &stopped).unwrap());
        Running {
            address,
            echo,
            stop,
            thread: Some(thread),
        }
    }

    fn connect(&self) -> Tcp {
        Tcp::connect(&[self.address], "server", soon()).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Whether the other side has ended the connection, waited for.
fn is_ended(tcp: &mut Tcp) -> bool {
    let until = soon();
    loop {
        match tcp.read(&mut [0; 64]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                if !wait_for(tcp.read_fd(), false, until).unwrap() {
                    return false;
                }
            }
            Err(_) => return true,
        }
    }
}

#[test]
fn the_silent_make_room_and_the_served_stay() {
    let server = Running::new(None);
    let mut served = server.connect();
    assert_eq!(exchange(&mut served, b"!", 1).unwrap(), b"!");
    // Far more than may be on their way, none of which says anything.
    let mut silent: Vec<Tcp> = (0..200).map(|_| server.connect()).collect();
    assert!(silent.iter_mut().take(100).all(is_ended));
    assert_eq!(
        exchange(&mut served, b"still here", 10).unwrap(),
        b"still here"
    );
    let mut late = server.connect();
    assert_eq!(exchange(&mut late, b"!", 1).unwrap(), b"!");
}

#[test]
fn no_more_are_served_than_may_be() {
    let server = Running::new(None);
    let mut all: Vec<Tcp> = Vec::new();
    for _ in 0..SESSIONS_MAX {
        let mut one = server.connect();
        assert_eq!(exchange(&mut one, b"!", 1).unwrap(), b"!");
        all.push(one);
    }
    let mut more = server.connect();
    assert!(exchange(&mut more, b"!", 1).unwrap_or_default().is_empty());
    assert!(server.echo.full.load(Ordering::SeqCst));
    // One that goes makes room.
    let mut gone = all.pop().unwrap();
    gone.close().unwrap();
    assert!(is_ended(&mut gone));
    let until = soon();
    loop {
        let mut next = server.connect();
        if exchange(&mut next, b"!", 1).unwrap_or_default() == b"!" {
            break;
        }
        assert!(Instant::now() < until, "never any room");
    }
}

#[test]
fn a_listener_takes_only_those_with_certificates() {
    let temp = tempfile::tempdir().unwrap();
    let ca = Authority::new();
    let config = TlsConfig::new(&ca.files(temp.path(), "127.0.0.1", GOOD)).unwrap();
    let server = Running::new(Some(config.clone()));
    let mut plain = server.connect();
    let _ = plain.write(b"!hello there, I speak no TLS at all");
    assert!(is_ended(&mut plain));
    let tls = |config| Tls::connect(&[server.address], "127.0.0.1", "server", config, soon());
    let mut good = tls(&config).unwrap();
    assert_eq!(exchange(&mut good, b"!abc", 4).unwrap(), b"!abc");
    let mut lost = server.echo.lost.lock().unwrap();
    assert_eq!(lost.len(), 1);
    assert!(lost.pop().unwrap().starts_with("tcp://127.0.0.1:"));
}

#[test]
fn what_the_stop_ends_is_ended() {
    let server = Running::new(None);
    let mut served = server.connect();
    assert_eq!(exchange(&mut served, b"!", 1).unwrap(), b"!");
    drop(server);
    assert!(is_ended(&mut served));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn no_bytes_upset_a_side_that_waits_for_tls(bytes in prop::collection::vec(any::<u8>(), 0..2000), first in 20u8..26) {
        static CONFIG: std::sync::OnceLock<TlsConfig> = std::sync::OnceLock::new();
        let config = CONFIG.get_or_init(|| {
            let temp = tempfile::tempdir().unwrap();
            TlsConfig::new(&Authority::new().files(temp.path(), "127.0.0.1", GOOD)).unwrap()
        });
        let (here, there) = sockets();
        let mut plain = Tcp::new(there, "x");
        // As a record of TLS begins, so that more than the first look is tested.
        let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        let record = [&[first, 3, 3][..], &length, &bytes].concat();
        let _ = plain.write(&record);
        plain.close().unwrap();
        prop_assert!(Tls::accept(here, "client", config, soon()).is_err());
    }
}
