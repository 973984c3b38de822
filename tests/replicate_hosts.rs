//! Logs replicated to and from other hosts: every carrier, cuts at any byte, ends that die, and peers that
//! mean harm.

mod common;
mod sshd;

use common::{Logs, Ran, Running};
use logd::format::wire::{self, Hello, Message, Role, SESSION};
use sshd::{Sshd, eventually, user};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The segment files of all partitions of a topic, by name.
fn segments(logs: &Logs, topic: &str) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    for entry in std::fs::read_dir(logs.root()).unwrap() {
        let dir = entry.unwrap().path();
        let name = dir.file_name().unwrap().to_str().unwrap();
        let Some((of, number)) = name.rsplit_once('-') else {
            continue;
        };
        if of != topic || !dir.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(&dir).unwrap() {
            let file = file.unwrap().path();
            if file.extension().is_some_and(|e| e == "log") {
                let segment = file.file_name().unwrap().to_str().unwrap();
                out.insert(format!("{number}/{segment}"), std::fs::read(&file).unwrap());
            }
        }
    }
    out
}

/// Whether two topics have equal segment files; `zeros` at the end of one are no difference.
fn same(a: &Logs, of_a: &str, b: &Logs, of_b: &str) -> Result<(), String> {
    let trim = |mut all: BTreeMap<String, Vec<u8>>| {
        for bytes in all.values_mut() {
            let len = bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
            bytes.truncate(len);
        }
        all
    };
    let (left, right) = (trim(segments(a, of_a)), trim(segments(b, of_b)));
    let names = |all: &BTreeMap<String, Vec<u8>>| -> Vec<(String, usize)> {
        all.iter().map(|(n, b)| (n.clone(), b.len())).collect()
    };
    assert!(!left.is_empty(), "no {of_a}");
    if names(&left) != names(&right) {
        return Err(format!("{:?}\n{:?}", names(&left), names(&right)));
    }
    match left == right {
        true => Ok(()),
        false => Err("other bytes".into()),
    }
}

fn lines(from: usize, n: usize) -> String {
    (from..from + n)
        .map(|i| format!("record {i} {}\n", "x".repeat(i * 7 % 300)))
        .collect()
}

/// A topic with several partitions, segments and codecs.
fn source(logs: &Logs, topic: &str, partitions: &str) {
    logs.init(
        topic,
        &["--partitions", partitions, "--segment-size", "64KiB"],
    );
    for (i, codec) in ["none", "zstd", "lz4", "snappy", "gzip"].iter().enumerate() {
        let text = lines(i * 500, 500);
        logs.append(topic, &["-z", codec, "--batch-records", "40"], &text);
    }
}

fn ran(command: &mut Command) -> Ran {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8_lossy(&b).into_owned();
    Ran {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// A `logd replicate --listen`, with its address.
struct Listening {
    running: Running,
    address: SocketAddr,
}

fn listen(logs: &Logs, words: &[&str]) -> Listening {
    listen_at(logs, "127.0.0.1:0", words)
}

fn listen_at(logs: &Logs, at: &str, words: &[&str]) -> Listening {
    let all = [&["replicate", "--json", "--listen", at][..], words].concat();
    let mut running = logs.start(&all);
    let line = running.line();
    let address = line.split('"').nth(3).unwrap_or_else(|| panic!("{line}"));
    Listening {
        address: address.parse().unwrap(),
        running,
    }
}

impl Listening {
    fn at(&self, name: &str) -> String {
        format!("tcp://{}/{name}", self.address)
    }
}

#[test]
fn ssh_carries_a_log_byte_for_byte_both_ways() {
    let there = Logs::empty();
    let Some(sshd) = Sshd::start(there.root()) else {
        return;
    };
    let here = Logs::empty();
    source(&here, "orders", "2");
    let at = format!("{}@127.0.0.1:copy", user());
    let run = |words: &[&str]| ran(here.logd(words).env("LOGD_SSH", sshd.ssh()));
    let pushed = run(&["replicate", "orders", &at]);
    assert_eq!(
        (pushed.code, pushed.err.as_str()),
        (Some(0), ""),
        "{pushed:?}"
    );
    same(&here, "orders", &there, "copy").unwrap();
    let pulled = run(&["replicate", &at, "back"]);
    assert_eq!(
        (pulled.code, pulled.err.as_str()),
        (Some(0), ""),
        "{pulled:?}"
    );
    same(&here, "orders", &here, "back").unwrap();
    // What is missing, and nothing else.
    here.append("orders", &[], &lines(9000, 100));
    assert_eq!(run(&["replicate", "orders", &at]).code, Some(0));
    same(&here, "orders", &there, "copy").unwrap();
    assert_eq!(run(&["verify", "--digest", "orders", &at]).out, "");
    assert_eq!(there.run(&["verify", "copy"], b"").code, Some(0));
    // A copy takes nothing else, and what differs is refused.
    assert_eq!(there.run(&["append", "copy"], b"x\n").code, Some(77));
    here.init("other", &["--partitions", "2"]);
    here.append("other", &[], &lines(0, 10));
    let diverged = run(&["replicate", "other", &at]);
    assert_eq!(diverged.code, Some(65), "{diverged:?}");
    assert!(diverged.err.contains(&at), "{diverged:?}");
    let missing = run(&["replicate", &format!("{}@127.0.0.1:nope", user()), "x"]);
    assert_eq!(missing.code, Some(66), "{missing:?}");
}

#[test]
fn a_host_without_logd_or_without_ssh_is_told_so() {
    let here = Logs::empty();
    source(&here, "orders", "1");
    let script = |code: u8| {
        let path = here.path(&format!("exit{code}"));
        std::fs::write(&path, format!("#!/bin/sh\nexit {code}\n")).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path.display().to_string()
    };
    for (code, retry, what) in [
        (127, "20s", "no logd there"),
        (126, "20s", "the logd there cannot be run"),
        (255, "0s", "no connection, or it was lost"),
    ] {
        for words in [["orders", "web1:copy"], ["web1:orders", "copy"]] {
            let mut logd = here.logd(&["replicate", "--retry-for", retry]);
            let ran = ran(logd.args(words).env("LOGD_SSH", script(code)));
            assert_eq!(ran.code, Some(69), "{ran:?}");
            let line = format!("logd replicate: web1: {what}\nhint: ");
            assert!(ran.err.starts_with(&line), "{ran:?}");
        }
    }
}

#[test]
fn a_bound_key_replicates_below_its_directory_and_nowhere_else() {
    let there = Logs::empty();
    let Some(sshd) = Sshd::start(there.root()) else {
        return;
    };
    let here = Logs::empty();
    source(&here, "orders", "1");
    std::fs::create_dir(there.path("vault")).unwrap();
    std::os::unix::fs::symlink(there.root(), there.path("vault/out")).unwrap();
    there.init("secret", &[]);
    let vault = there.path("vault").display().to_string();
    let forced = |more: &str| {
        let logd = env!("CARGO_BIN_EXE_logd");
        format!("command=\"{logd} replicate --stdio {vault}{more}\",restrict")
    };
    let (key, reader) = (
        sshd.restricted("key", &forced("")),
        sshd.restricted("reader", &forced(" --read-only")),
    );
    let run = |ssh: &str, src: &str, dest: &str| {
        ran(here
            .logd(&["replicate", "--retry-for", "0s", src, dest])
            .env("LOGD_SSH", ssh))
    };
    let at = |log: &str| format!("{}@127.0.0.1:{log}", user());
    let pushed = run(&key, "orders", &at("copy"));
    assert_eq!(
        (pushed.code, pushed.err.as_str()),
        (Some(0), ""),
        "{pushed:?}"
    );
    let pulled = run(&reader, &at("copy"), "back");
    assert_eq!(pulled.code, Some(0), "{pulled:?}");
    same(&here, "orders", &here, "back").unwrap();
    for name in ["../x", "/tmp/x", "a/../../x", "out/x"] {
        let refused = run(&key, "orders", &at(name));
        assert_eq!(refused.code, Some(77), "{name}: {refused:?}");
    }
    for name in ["../secret", "out/secret"] {
        let refused = run(&key, &at(name), "stolen");
        assert_eq!(refused.code, Some(77), "{name}: {refused:?}");
    }
    let refused = run(&reader, "orders", &at("more"));
    assert_eq!(refused.code, Some(77), "{refused:?}");
    let mut names: Vec<String> = std::fs::read_dir(there.root())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["secret-0", "vault"]);
}

#[test]
fn a_port_receives_or_serves_byte_for_byte() {
    let (here, there) = (Logs::empty(), Logs::empty());
    source(&here, "orders", "2");
    let receiver = listen(&there, &["copy"]);
    let push = |dest: &str| here.run(&["replicate", "--retry-for", "0s", "orders", dest], b"");
    let pushed = push(&receiver.at("copy"));
    assert_eq!(
        (pushed.code, pushed.err.as_str()),
        (Some(0), ""),
        "{pushed:?}"
    );
    same(&here, "orders", &there, "copy").unwrap();
    assert_eq!(push(&receiver.at("other")).code, Some(66));
    let pull = here.run(&["replicate", &receiver.at("copy"), "x"], b"");
    assert_eq!(pull.code, Some(77), "{pull:?}");

    let server = listen(&here, &["--read-only", "orders"]);
    let pulled = there.run(&["replicate", &server.at("orders"), "pulled"], b"");
    assert_eq!(
        (pulled.code, pulled.err.as_str()),
        (Some(0), ""),
        "{pulled:?}"
    );
    same(&here, "orders", &there, "pulled").unwrap();
    let one = there.run(&["replicate", "-p", "1", &server.at("orders"), "one"], b"");
    assert_eq!(one.code, Some(0), "{one:?}");
    assert!(there.path("one-1").exists() && !there.path("one-0").exists());
    assert_eq!(push(&server.at("orders")).code, Some(77));
}

#[test]
fn a_follower_is_where_its_source_is_also_after_rolls() {
    let (here, there) = (Logs::empty(), Logs::empty());
    here.init("orders", &["--segment-size", "64KiB"]);
    let receiver = listen(&there, &["copy"]);
    let mut follower = here.start(&["replicate", "-f", "orders", &receiver.at("copy")]);
    let mut puller = {
        eventually("the copy is made", || there.path("copy-0").exists());
        let server = listen(&here, &["--read-only", "orders"]);
        let running = there.start(&["replicate", "-f", &server.at("orders"), "second"]);
        (server, running)
    };
    for round in 0..10 {
        here.append("orders", &[], &lines(round * 300, 300));
        let equal = |of: &str| {
            there.path(&format!("{of}-0")).exists() && same(&here, "orders", &there, of).is_ok()
        };
        eventually("equal", || equal("copy") && equal("second"));
    }
    assert!(segments(&there, "copy").len() > 3);
    for child in [&mut follower.child, &mut puller.1.child] {
        let pid = child.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(child.wait().unwrap().signal(), Some(15));
    }
}

/// A proxy that lets so many bytes through in each direction, and then resets both sides, as often as it
/// has cuts left.
struct Proxy {
    address: SocketAddr,
    cuts: Arc<AtomicUsize>,
    up: Arc<AtomicI64>,
    down: Arc<AtomicI64>,
}

impl Proxy {
    fn to(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy {
            address: listener.local_addr().unwrap(),
            cuts: Arc::default(),
            up: Arc::new(AtomicI64::new(i64::MAX)),
            down: Arc::new(AtomicI64::new(i64::MAX)),
        };
        let (cuts, up, down) = (proxy.cuts.clone(), proxy.up.clone(), proxy.down.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(target) else {
                    continue;
                };
                let bad = cuts.load(Ordering::SeqCst) > 0;
                let left = |n: &AtomicI64| {
                    if bad {
                        n.load(Ordering::SeqCst)
                    } else {
                        i64::MAX
                    }
                };
                let (up, down) = (left(&up), left(&down));
                for (from, to, left) in [(&client, &server, up), (&server, &client, down)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let cuts = cuts.clone();
                    std::thread::spawn(move || pump(from, to, left, &cuts));
                }
            }
        });
        proxy
    }

    fn at(&self, name: &str) -> String {
        format!("tcp://{}/{name}", self.address)
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, mut left: i64, cuts: &AtomicUsize) {
    let mut buf = [0; 16 << 10];
    loop {
        let n = match from.read(&mut buf) {
            Ok(n @ 1..) => n,
            _ => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
        };
        let through = usize::try_from(left.min(n as i64)).unwrap();
        left -= through as i64;
        if to.write_all(&buf[..through]).is_err() || left == 0 {
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
            if left == 0 {
                let _ = cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |c| c.checked_sub(1));
            }
            return;
        }
    }
}

/// How many rounds of a loop: more in a long run.
fn rounds(usual: usize) -> usize {
    let set = std::env::var("LOGD_REPLICATE_ROUNDS").ok();
    set.and_then(|s| s.parse().ok()).unwrap_or(usual)
}

#[test]
fn a_connection_cut_at_any_byte_is_made_anew_and_nothing_is_lost() {
    let (here, there) = (Logs::empty(), Logs::empty());
    source(&here, "orders", "2");
    let total: usize = segments(&here, "orders").values().map(Vec::len).sum();
    let receiver = listen(&there, &["copy", "pushed"]);
    let server = listen(&here, &["--read-only", "orders"]);
    let (in_front, behind) = (Proxy::to(receiver.address), Proxy::to(server.address));
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        i64::try_from(seed % below as u64).unwrap() + 1
    };
    for round in 0..rounds(40) {
        let push = round % 2 == 0;
        let proxy = if push { &in_front } else { &behind };
        // The direction with the batches in it, or the other with its few bytes.
        let (most, least) = (random(total + 2000), random(600));
        let (up, down) = match (push, round / 2 % 2 == 0) {
            (true, true) => (most, i64::MAX),
            (true, false) => (i64::MAX, least),
            (false, true) => (i64::MAX, most),
            (false, false) => (least, i64::MAX),
        };
        proxy.up.store(up, Ordering::SeqCst);
        proxy.down.store(down, Ordering::SeqCst);
        proxy.cuts.store(3, Ordering::SeqCst);
        let copy = format!("copy-{round}");
        let (ran, name) = match push {
            true => (
                here.run(&["replicate", "-q", "orders", &proxy.at("copy")], b""),
                "copy",
            ),
            false => (
                there.run(&["replicate", "-q", &proxy.at("orders"), "pulled"], b""),
                "pulled",
            ),
        };
        assert_eq!(ran.code, Some(0), "{copy} {up} {down}: {ran:?}");
        same(&here, "orders", &there, name).unwrap_or_else(|e| panic!("{up} {down}: {e}"));
        for n in 0..2 {
            std::fs::remove_dir_all(there.path(&format!("{name}-{n}"))).unwrap();
        }
    }
}

#[test]
fn ends_that_are_killed_go_on_where_they_were() {
    let (here, there) = (Logs::empty(), Logs::empty());
    here.init("orders", &["--segment-size", "64KiB"]);
    let mut receiver = listen(&there, &["copy"]);
    let address = receiver.address.to_string();
    let mut written = 0;
    for round in 0..rounds(12) {
        let dest = format!("tcp://{address}/copy");
        let mut follower = here.start(&["replicate", "-f", "--rate", "2MiB", "orders", &dest]);
        here.append("orders", &[], &lines(written, 2000));
        written += 2000;
        // Somewhere in the middle, wherever that is.
        std::thread::sleep(Duration::from_millis(round as u64 * 13 % 90));
        match round % 3 {
            0 => follower.child.kill().unwrap(),
            _ => receiver.running.child.kill().unwrap(),
        }
        if round % 3 != 0 {
            receiver.running.child.wait().unwrap();
            receiver = listen_at(&there, &address, &["copy"]);
        }
        if round % 3 == 0 {
            follower.child.wait().unwrap();
            follower = here.start(&["replicate", "-f", "orders", &dest]);
        }
        let equal =
            || there.path("copy-0").exists() && same(&here, "orders", &there, "copy").is_ok();
        let until = Instant::now() + Duration::from_secs(20);
        while !equal() {
            if Instant::now() > until {
                let state = same(&here, "orders", &there, "copy");
                panic!(
                    "round {round}: {state:?}\n{}\n{}",
                    follower.err(),
                    receiver.running.err()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        follower.child.kill().unwrap();
        follower.child.wait().unwrap();
    }
    assert_eq!(there.run(&["verify", "copy"], b"").code, Some(0));
    let count = there.run(&["info", "--print", "records", "copy"], b"");
    assert_eq!(count.out.trim(), written.to_string());
}

#[test]
fn a_session_of_sshd_that_is_killed_is_made_anew() {
    let there = Logs::empty();
    let Some(sshd) = Sshd::start(there.root()) else {
        return;
    };
    let here = Logs::empty();
    here.init("orders", &[]);
    let at = format!("{}@127.0.0.1:copy", user());
    let mut logd = here.logd(&["replicate", "-f", "--rate", "4MiB", "orders", &at]);
    logd.env("LOGD_SSH", sshd.ssh());
    let _follower = Running::of(logd);
    for round in 0..3 {
        here.append("orders", &[], &lines(round * 3000, 3000));
        eventually("it began", || there.path("copy-0").exists());
        eventually("it is connected", || !sshd.sessions().is_empty());
        for pid in sshd.sessions() {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
        eventually("equal", || same(&here, "orders", &there, "copy").is_ok());
    }
}

/// Keys and certificates for both sides.
fn certificates(dir: &Path, foreign: bool) -> Vec<String> {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let make = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        std::fs::write(dir.join(name), pem).unwrap();
        Issuer::new(params, key)
    };
    let name = if foreign { "foreign" } else { "ours" };
    let ca = make(&format!("{name}.ca"));
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1".to_string()]).unwrap();
    let cert = params.signed_by(&key, &ca).unwrap();
    std::fs::write(dir.join(format!("{name}.pem")), cert.pem()).unwrap();
    std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    let file = |f: &str| dir.join(f).display().to_string();
    let words = [
        "--tls-cert",
        &file(&format!("{name}.pem")),
        "--tls-key",
        &file(&format!("{name}.key")),
        "--tls-ca",
        &file("ours.ca"),
    ];
    words.map(str::to_string).to_vec()
}

#[test]
fn tls_carries_a_log_and_lets_nobody_else_in() {
    let (here, there) = (Logs::empty(), Logs::empty());
    source(&here, "orders", "2");
    let ours = certificates(here.root(), false);
    let foreign = certificates(here.root(), true);
    let (ours, foreign): (Vec<&str>, Vec<&str>) = (
        ours.iter().map(String::as_str).collect(),
        foreign.iter().map(String::as_str).collect(),
    );
    let receiver = listen(&there, &[&["copy"], &ours[..]].concat());
    let server = listen(&here, &[&["--read-only", "orders"], &ours[..]].concat());
    let push = |more: &[&str]| {
        let at = receiver.at("copy");
        here.run(
            &[&["replicate", "--retry-for", "0s", "orders", &at], more].concat(),
            b"",
        )
    };
    let plain = push(&[]);
    assert!(matches!(plain.code, Some(69 | 76)), "{plain:?}");
    let refused = push(&foreign);
    assert_eq!(refused.code, Some(77), "{refused:?}");
    assert!(refused.err.contains("certificate"), "{refused:?}");
    assert_eq!(push(&ours[..2]).code, Some(2));
    assert!(!there.path("copy-0").exists());
    let pushed = push(&ours);
    assert_eq!(
        (pushed.code, pushed.err.as_str()),
        (Some(0), ""),
        "{pushed:?}"
    );
    same(&here, "orders", &there, "copy").unwrap();
    let at = server.at("orders");
    let pulled = there.run(&[&["replicate", &at, "pulled"], &ours[..]].concat(), b"");
    assert_eq!(
        (pulled.code, pulled.err.as_str()),
        (Some(0), ""),
        "{pulled:?}"
    );
    same(&here, "orders", &there, "pulled").unwrap();
}

fn hello(name: &str, role: Role, partitions: Vec<u32>) -> Vec<u8> {
    let mut out = Vec::new();
    let hello = Hello {
        version: wire::VERSION,
        lowest: wire::VERSION_LOWEST,
        role,
        options: 0,
        idle_ms: 60_000,
        name: name.to_string(),
        range: String::new(),
        group: String::new(),
        partitions,
    };
    wire::encode(SESSION, &Message::Hello(hello), &mut out);
    out
}

/// What somebody who means harm sends.
fn attacks() -> Vec<Vec<u8>> {
    let good = hello("copy", Role::Push, vec![0]);
    let mut long = good.clone();
    long[..4].copy_from_slice(&u32::MAX.to_be_bytes());
    let mut just_fits = good.clone();
    just_fits[..4].copy_from_slice(&(16u32 << 20).to_be_bytes());
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let data = |length: u32| {
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend_from_slice(&[0; 64]);
        [good.clone(), frame].concat()
    };
    vec![
        Vec::new(),
        vec![0],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0; 100_000],
        vec![0xff; 100_000],
        good[..good.len() / 2].to_vec(),
        good.clone(),
        [good.clone(), good.clone()].concat(),
        long,
        just_fits,
        flipped,
        data(0),
        data(8),
        data(16 << 20),
        data(u32::MAX),
        hello("../../etc/passwd", Role::Push, vec![0]),
        hello("copy", Role::Push, vec![u32::MAX]),
        hello("copy", Role::Push, vec![0; 20_000]),
        hello("copy", Role::Pull, vec![]),
        hello("copy", Role::Look, vec![]),
        hello("copy", Role::OneWay, vec![0]),
        hello(&"x".repeat(60_000), Role::Push, vec![0]),
    ]
}

/// Most memory that a process ever had, in KiB.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix("VmHWM:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn peers_that_mean_harm_hurt_nobody_else() {
    let (here, there) = (Logs::empty(), Logs::empty());
    source(&here, "orders", "1");
    let receiver = listen(&there, &["copy"]);
    let pid = receiver.running.pid();
    let mut open = Vec::new();
    for attack in attacks() {
        for closes in [true, false] {
            let mut stream = TcpStream::connect(receiver.address).unwrap();
            stream
                .set_write_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            let _ = stream.write_all(&attack);
            match closes {
                true => drop(stream),
                false => open.push(stream), // silent from here on
            }
        }
    }
    // Nobody of them keeps others out.
    let pushed = here.run(
        &[
            "replicate",
            "--retry-for",
            "10s",
            "orders",
            &receiver.at("copy"),
        ],
        b"",
    );
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
    same(&here, "orders", &there, "copy").unwrap();
    // A crowd that says nothing does not, either.
    let crowd: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(receiver.address).unwrap())
        .collect();
    here.append("orders", &[], &lines(7000, 50));
    let pushed = here.run(
        &[
            "replicate",
            "--retry-for",
            "10s",
            "orders",
            &receiver.at("copy"),
        ],
        b"",
    );
    assert_eq!(pushed.code, Some(0), "{pushed:?}");
    same(&here, "orders", &there, "copy").unwrap();
    drop((crowd, open));
    assert!(peak(pid) < 200 << 10, "{} KiB", peak(pid));
    assert!(there.run(&["verify", "copy"], b"").code == Some(0));
    let names: Vec<_> = std::fs::read_dir(there.root()).unwrap().collect();
    assert_eq!(names.len(), 1);
}

/// Noise, and good frames made bad, for `LOGD_FUZZ_SECONDS` seconds (2 otherwise).
#[test]
fn noise_ends_no_listener() {
    let set = std::env::var("LOGD_FUZZ_SECONDS").ok();
    let time = Duration::from_secs(set.and_then(|s| s.parse().ok()).unwrap_or(2));
    let (here, there) = (Logs::empty(), Logs::empty());
    source(&here, "orders", "1");
    there.init("copy", &[]);
    let (receiver, server) = (
        listen(&there, &["copy"]),
        listen(&here, &["--read-only", "orders"]),
    );
    let until = Instant::now() + time;
    let mut seed = u64::from(std::process::id()) << 20 | 1;
    eprintln!("seed {seed}");
    let mut next = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let mut tried = 0u64;
    while Instant::now() < until {
        let push = next() % 2 == 0;
        let target = if push {
            receiver.address
        } else {
            server.address
        };
        let mut bytes = match push {
            true => hello("copy", Role::Push, vec![0]),
            false => hello("orders", Role::Pull, vec![]),
        };
        for _ in 0..next() % 4 {
            bytes.extend(frame(&mut next));
        }
        for _ in 0..next() % 3 {
            let at = usize::try_from(next()).unwrap_or(0) % bytes.len();
            bytes[at] = next().to_le_bytes()[0];
        }
        bytes.truncate(bytes.len() - usize::try_from(next() % 3).unwrap());
        let mut stream = TcpStream::connect(target).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let _ = stream.write_all(&bytes);
        let _ = stream.read(&mut [0; 4096]);
        tried += 1;
    }
    eprintln!("{tried} peers");
    // Both serve on. The noise made the log a copy, or not; it holds nothing that was not sent whole.
    let pulled = there.run(
        &[
            "replicate",
            "--retry-for",
            "10s",
            &server.at("orders"),
            "pulled",
        ],
        b"",
    );
    assert_eq!(pulled.code, Some(0), "{pulled:?}");
    same(&here, "orders", &there, "pulled").unwrap();
    let pushed = here.run(
        &[
            "replicate",
            "--retry-for",
            "10s",
            "orders",
            &receiver.at("copy"),
        ],
        b"",
    );
    assert!(matches!(pushed.code, Some(0 | 65)), "{pushed:?}");
    assert!(peak(receiver.running.pid()) < 400 << 10);
}

/// A frame of any type with a body of noise, its checksum right.
fn frame(next: &mut impl FnMut() -> u64) -> Vec<u8> {
    let size = usize::try_from(next() % 200).unwrap();
    let mut rest = vec![(next() % 20) as u8, (next() % 8) as u8];
    let channel: u16 = if next().is_multiple_of(4) {
        0xffff
    } else {
        (next() % 3) as u16
    };
    rest.extend_from_slice(&channel.to_be_bytes());
    rest.extend(std::iter::repeat_with(|| next().to_le_bytes()[0]).take(size));
    let crc = logd::format::crc32c::crc32c(&rest);
    let length = u32::try_from(rest.len() + 4).unwrap();
    [&length.to_be_bytes()[..], &crc.to_be_bytes(), &rest].concat()
}
