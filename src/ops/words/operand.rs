//! LOG operands and the LIST of `-p`.
//!
//! ```text
//! LOG  = "-" | "tcp://" HOST ":" PORT "/" NAME | HOST ":" PATH | PATH
//! HOST = [USER "@"] NAME | [USER "@"] "[" IPV6 "]"
//! LIST = ITEM {"," ITEM},  ITEM = N | A ".." B (up to, not including, B)
//! ```
//!
//! A colon makes a host only when no `/` comes before it, so `./a:b` and `/x/a:b` are local. User
//! and host may not begin with `-`, or ssh would take them for options (durability contract, 10.5).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::{bad, bad_try};
use crate::error::Result;
use crate::format::names;

/// Where a log is, as the user named it. Nothing is looked up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogName {
    /// `-`: a stream on stdin or stdout.
    Stdio,
    /// A path on this machine, relative ones not yet joined to `$LOGD_DIR`.
    Local(OsString),
    /// A log on another machine, reached by ssh.
    Remote {
        /// `host` or `user@host`, an IPv6 address without its brackets.
        host: String,
        /// The log's name there.
        path: OsString,
    },
    /// A log served by `replicate --listen`.
    Tcp {
        /// `host:port`.
        address: String,
        /// The name it has there.
        name: String,
    },
}

impl LogName {
    /// Reads a LOG operand.
    ///
    /// # Errors
    /// Usage, when the host or the path is missing or could be taken for an option.
    pub fn parse(word: &OsStr) -> Result<LogName> {
        let bytes = word.as_bytes();
        if bytes == b"-" {
            return Ok(LogName::Stdio);
        }
        let shown = word.to_string_lossy();
        if let Some(rest) = bytes.strip_prefix(b"tcp://") {
            return tcp(&shown, rest);
        }
        if bytes.is_empty() {
            return Err(bad("''", "a log needs a name"));
        }
        match host_length(bytes) {
            Some(colon) => remote(&shown, &bytes[..colon], &bytes[colon + 1..]),
            None => Ok(LogName::Local(word.to_os_string())),
        }
    }
}

/// Where the colon after a host is, if a host is named.
fn host_length(bytes: &[u8]) -> Option<usize> {
    let user = memchr::memchr(b'@', bytes).map_or(0, |at| at + 1);
    if bytes.get(user) == Some(&b'[') && !bytes[..user].contains(&b'/') {
        let end = memchr::memmem::find(bytes, b"]:")?;
        return Some(end + 1);
    }
    let colon = memchr::memchr(b':', bytes)?;
    (!bytes[..colon].contains(&b'/')).then_some(colon)
}

fn remote(shown: &str, host: &[u8], path: &[u8]) -> Result<LogName> {
    let local = || format!("./{shown}");
    if host.is_empty() {
        return Err(bad_try(shown, "no host before the colon", local()));
    }
    if path.is_empty() {
        return Err(bad(shown, "no log after the colon"));
    }
    let Ok(host) = std::str::from_utf8(host) else {
        return Err(bad(shown, "a host name is UTF-8"));
    };
    let (user, name) = match host.rsplit_once('@') {
        Some((user, name)) => (Some(user), name),
        None => (None, host),
    };
    let name = name
        .strip_prefix('[')
        .and_then(|n| n.strip_suffix(']'))
        .unwrap_or(name);
    if name.is_empty() || user == Some("") {
        return Err(bad_try(shown, "no host before the colon", local()));
    }
    if name.starts_with('-') || user.is_some_and(|u| u.starts_with('-')) {
        return Err(bad_try(shown, "no host or user begins with -", local()));
    }
    if host.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(bad_try(shown, "no host name contains a blank", local()));
    }
    let host = match user {
        Some(user) => format!("{user}@{name}"),
        None => name.to_string(),
    };
    let path = OsStr::from_bytes(path).to_os_string();
    Ok(LogName::Remote { host, path })
}

/// Whether this is a host's name or number, an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let fits = |c: char| c.is_alphanumeric() || "-._".contains(c);
            !host.is_empty() && !host.starts_with('-') && host.chars().all(fits)
        }
    }
}

/// `HOST:PORT`, as `--listen` and `tcp://` take it.
///
/// # Errors
/// Usage.
pub fn host_and_port(word: &str) -> Result<(String, u16)> {
    if let Some((host, port)) = word.rsplit_once(':')
        && is_host(host)
        && let Ok(port) = port.parse()
    {
        return Ok((host.to_string(), port));
    }
    Err(bad_try(word, "not a host and a port", "127.0.0.1:9440"))
}

/// `HOST:PORT/NAME`.
fn tcp(shown: &str, rest: &[u8]) -> Result<LogName> {
    let parts = std::str::from_utf8(rest)
        .ok()
        .and_then(|r| r.split_once('/'));
    if let Some((address, name)) = parts
        && let Some((host, port)) = address.rsplit_once(':')
        && is_host(host)
        && port.parse::<u16>().is_ok_and(|p| p > 0)
        && names::valid_topic(name)
    {
        return Ok(LogName::Tcp {
            address: address.to_string(),
            name: name.to_string(),
        });
    }
    Err(bad_try(
        shown,
        "not a host, a port and a log's name",
        "tcp://host:9440/orders",
    ))
}

/// Which partitions of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partitions(Vec<std::ops::Range<i32>>);

impl Partitions {
    /// Reads a LIST such as `0,3` or `0,4..8`.
    ///
    /// # Errors
    /// Usage, when an item is not a partition number or a range of them.
    pub fn parse(word: &str) -> Result<Partitions> {
        word.split(',')
            .map(|item| partition_item(word, item))
            .collect::<Result<_>>()
            .map(Partitions)
    }

    /// Whether partition `n` is on the list.
    pub fn contains(&self, n: i32) -> bool {
        self.0.iter().any(|r| r.contains(&n))
    }

    /// The partition, if the list names exactly one.
    pub fn single(&self) -> Option<i32> {
        match self.0.as_slice() {
            [r] if r.end.checked_sub(r.start) == Some(1) => Some(r.start),
            _ => None,
        }
    }

    /// The partitions named one by one that `there` does not hold; a range only selects.
    pub fn missing(&self, there: &[i32]) -> Vec<i32> {
        let one = |r: &&std::ops::Range<i32>| r.end.checked_sub(r.start) == Some(1);
        let named = self.0.iter().filter(one).map(|r| r.start);
        named.filter(|n| !there.contains(n)).collect()
    }
}

fn partition_item(word: &str, item: &str) -> Result<std::ops::Range<i32>> {
    let number = |s: &str| match s.bytes().all(|b| b.is_ascii_digit()) {
        // The last number has no successor, and no topic has two thousand million partitions.
        true => s.parse::<i32>().ok().filter(|n| *n < i32::MAX),
        false => None,
    };
    if let Some(n) = number(item) {
        return Ok(n..n + 1);
    }
    if let Some((a, b)) = item.split_once("..") {
        match (number(a), number(b)) {
            (Some(a), Some(b)) if a < b => return Ok(a..b),
            (Some(a), None) if b.is_empty() => return Ok(a..i32::MAX),
            (None, Some(b)) if a.is_empty() && b > 0 => return Ok(0..b),
            (Some(_), Some(_)) => return Err(bad(word, format!("{item} holds no partition"))),
            _ => {}
        }
    }
    if let Some((a, b)) = item.split_once('-')
        && let (Some(a), Some(b)) = (number(a), number(b))
    {
        let what = "a range of partitions is written A..B, without B";
        return Err(bad_try(word, what, format!("{a}..{}", b + 1)));
    }
    Err(bad_try(word, "not a list of partitions", "0,3"))
}

#[cfg(test)]
mod tests {
    use super::super::refusal;
    use super::*;

    fn log(word: &str) -> LogName {
        LogName::parse(OsStr::new(word)).unwrap()
    }

    fn remote(host: &str, path: &str) -> LogName {
        LogName::Remote {
            host: host.into(),
            path: path.into(),
        }
    }

    #[test]
    fn a_colon_before_any_slash_is_a_host() {
        assert_eq!(log("web1:logs/app"), remote("web1", "logs/app"));
        assert_eq!(log("ops@web1:/var/a:b"), remote("ops@web1", "/var/a:b"));
        assert_eq!(log("[fe80::1]:orders"), remote("fe80::1", "orders"));
        assert_eq!(log("me@[::1]:orders"), remote("me@::1", "orders"));
        for local in ["orders-0", "./a:b", "/x/a:b", "a/b:c", "a@b"] {
            assert_eq!(log(local), LogName::Local(local.into()));
        }
        assert_eq!(log("-"), LogName::Stdio);
        assert_eq!(
            log("tcp://dr1:9440/orders"),
            LogName::Tcp {
                address: "dr1:9440".into(),
                name: "orders".into()
            }
        );
    }

    #[test]
    fn a_host_and_a_port_are_told_apart_at_the_last_colon() {
        let parse = |w: &str| host_and_port(w).ok();
        assert_eq!(parse("[::1]:9440"), Some(("[::1]".into(), 9440)));
        assert_eq!(parse("localhost:0"), Some(("localhost".into(), 0)));
        for word in [
            "9440", ":9440", "::1:9440", "h:", "h:70000", "-h:1", "h:+1 ",
        ] {
            assert_eq!(parse(word), None, "{word}");
        }
        let LogName::Tcp { address, name } = log("tcp://[fe80::1]:9440/orders-0") else {
            panic!("no tcp")
        };
        assert_eq!(
            (address.as_str(), name.as_str()),
            ("[fe80::1]:9440", "orders-0")
        );
    }

    #[test]
    fn local_names_keep_bytes_that_are_not_utf8() {
        let word = OsStr::from_bytes(b"caf\xe9-0");
        assert_eq!(LogName::parse(word).unwrap(), LogName::Local(word.into()));
    }

    #[test]
    fn host_that_ssh_would_take_for_an_option_is_refused() {
        let no = |w| refusal(LogName::parse(OsStr::new(w)));
        let dash = "no host or user begins with -";
        assert_eq!(no("-oProxy:x"), format!("-oProxy:x: {dash} | ./-oProxy:x"));
        assert_eq!(no("-l@h:x"), format!("-l@h:x: {dash} | ./-l@h:x"));
        assert_eq!(no("u@-h:x"), format!("u@-h:x: {dash} | ./u@-h:x"));
        assert_eq!(no("[-h]:x"), format!("[-h]:x: {dash} | './[-h]:x'"));
        assert_eq!(no(":x"), ":x: no host before the colon | ./:x");
        assert_eq!(no("@h:x"), "@h:x: no host before the colon | ./@h:x");
        assert_eq!(no("h:"), "h:: no log after the colon");
        assert_eq!(no(""), "'': a log needs a name");
        assert_eq!(
            no("a b:c"),
            "a b:c: no host name contains a blank | './a b:c'"
        );
        for w in [
            "tcp://",
            "tcp://h/x",
            "tcp://h:0/x",
            "tcp://h:1/",
            "tcp://h:1/a/b",
            "tcp://-h:1/a",
            "tcp://::1:1/a",
            "tcp://[h]:1/a",
            "tcp://h:1/..",
            "tcp://h:1/a b",
            "tcp://h x:1/a",
            "tcp://u@h:1/a",
        ] {
            let want = format!("{w}: not a host, a port and a log's name | tcp://host:9440/orders");
            assert_eq!(no(w), want);
        }
    }

    #[test]
    fn partition_lists_hold_numbers_and_half_open_ranges() {
        let p = Partitions::parse("0,4..6,9..").unwrap();
        let held: Vec<i32> = (0..12).filter(|n| p.contains(*n)).collect();
        assert_eq!(held, [0, 4, 5, 9, 10, 11]);
        assert_eq!(p.missing(&[4, 9]), [0]);
        assert_eq!(Partitions::parse("3").unwrap().single(), Some(3));
        assert_eq!(
            (p.single(), Partitions::parse("..2").unwrap().single()),
            (None, None)
        );
    }

    #[test]
    fn partition_list_refusals_say_what_to_write() {
        let no = |w| refusal(Partitions::parse(w));
        assert_eq!(
            no("0-3"),
            "0-3: a range of partitions is written A..B, without B | 0..4"
        );
        assert_eq!(no("3..3"), "3..3: 3..3 holds no partition");
        for w in ["", "0,", "-1", "a", "2147483647", "..", "0..x", "..0"] {
            assert_eq!(no(w), format!("{w}: not a list of partitions | 0,3"));
        }
    }
}
