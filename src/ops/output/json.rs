//! A record as one JSON object on a line.
//!
//! ```text
//! {"topic":"orders","partition":0,"offset":42,"ts":1763626415123,"key":"u1","value":"paid","headers":[["trace","ab12"]]}
//! ```
//!
//! A field never changes type; bytes that no JSON string can hold take a field of another name:
//!
//! | field | type | instead, where bytes are not UTF-8 |
//! |---|---|---|
//! | `key`, `value` | string or null | `key_b64`, `value_b64`: base64 |
//! | `headers` | pairs of string and string or null | `headers_b64`: every name and value in base64 |
//! | `value` | | `value_json`: any JSON, where the value is JSON and nesting is asked for |
//!
//! Speed: the start of the line is kept from record to record. A string without anything to escape is
//! found in one vectorised pass and copied whole; else eight bytes at a time are copied and looked at
//! together, as values that are JSON have a quote every few bytes.

use super::{Meta, decimal, encode, escape};
use crate::format::record::{Headers, Record};
use crate::ops::{eight, json};

/// Writes records as JSON.
#[derive(Debug)]
pub struct Writer {
    nest: bool,
    visible: bool,
    /// Whose start of line `prefix` is.
    topic: String,
    partition: i32,
    /// `{"topic":"orders","partition":0,"offset":`, empty before the first record.
    prefix: Vec<u8>,
}

impl Writer {
    /// `nest` shows JSON values as `value_json`; `visible` escapes what a terminal would act on.
    pub fn new(nest: bool, visible: bool) -> Writer {
        Writer {
            nest,
            visible,
            topic: String::new(),
            partition: 0,
            prefix: Vec::new(),
        }
    }

    /// Appends `record` and a newline.
    pub fn record(&mut self, out: &mut Vec<u8>, meta: &Meta<'_>, record: &Record<'_>) {
        if self.prefix.is_empty() || self.partition != meta.partition || self.topic != meta.topic {
            self.begin_line(meta);
        }
        out.extend_from_slice(&self.prefix);
        decimal(record.offset.0, out);
        out.extend_from_slice(b",\"ts\":");
        decimal(record.timestamp.0, out);
        out.extend_from_slice(b",\"key");
        self.bytes(record.key, out);
        out.extend_from_slice(b",\"value");
        match record.value.filter(|_| self.nest).map(json::check) {
            Some(Ok(value)) => self.nested(value.text, out),
            _ => self.bytes(record.value, out),
        }
        if record.headers.is_empty() {
            out.extend_from_slice(b",\"headers\":[]}\n");
        } else {
            self.headers(&record.headers, out);
            out.extend_from_slice(b"}\n");
        }
    }

    fn begin_line(&mut self, meta: &Meta<'_>) {
        self.topic = meta.topic.to_string();
        self.partition = meta.partition;
        self.prefix.clear();
        self.prefix.extend_from_slice(b"{\"topic\":");
        string(meta.topic, self.visible, &mut self.prefix);
        self.prefix.extend_from_slice(b",\"partition\":");
        decimal(meta.partition, &mut self.prefix);
        self.prefix.extend_from_slice(b",\"offset\":");
    }

    /// The rest of a field after its name: `":"text"`, `":null` or `_b64":"…"`.
    fn bytes(&self, bytes: Option<&[u8]>, out: &mut Vec<u8>) {
        let Some(bytes) = bytes else {
            out.extend_from_slice(b"\":null");
            return;
        };
        if !self.visible && look(bytes) == Look::Clean {
            out.extend_from_slice(b"\":\"");
            out.extend_from_slice(bytes);
            out.push(b'"');
            return;
        }
        match std::str::from_utf8(bytes) {
            Ok(text) if self.visible => {
                out.extend_from_slice(b"\":");
                string(text, true, out);
            }
            Ok(_) => {
                out.extend_from_slice(b"\":\"");
                escaped(bytes, out);
                out.push(b'"');
            }
            Err(_) => {
                out.extend_from_slice(b"_b64\":");
                base64_string(bytes, out);
            }
        }
    }

    /// The rest of `value` as `_json":…`, on one line.
    fn nested(&self, text: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(b"_json\":");
        if !self.visible {
            json::compact(text, out);
            return;
        }
        // Inside strings only, since outside them JSON is plain ASCII.
        let mut dense = Vec::with_capacity(text.len());
        json::compact(text, &mut dense);
        for c in String::from_utf8_lossy(&dense).chars() {
            push_char(c, escape::is_hidden(c), out);
        }
    }

    fn headers(&self, headers: &Headers<'_>, out: &mut Vec<u8>) {
        let utf8 = |b: &[u8]| std::str::from_utf8(b).is_ok();
        let plain = headers
            .iter()
            .all(|(name, value)| utf8(name) && value.is_none_or(utf8));
        out.extend_from_slice(if plain {
            b",\"headers\":["
        } else {
            b",\"headers_b64\":["
        });
        let text = |b: &[u8], out: &mut Vec<u8>| match std::str::from_utf8(b) {
            Ok(text) if plain => string(text, self.visible, out),
            _ => base64_string(b, out),
        };
        for (i, (name, value)) in headers.iter().enumerate() {
            out.extend_from_slice(if i == 0 { b"[" } else { b",[" });
            text(name, out);
            out.push(b',');
            match value {
                Some(value) => text(value, out),
                None => out.extend_from_slice(b"null"),
            }
            out.push(b']');
        }
        out.push(b']');
    }
}

fn base64_string(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    encode::base64(bytes, out);
    out.push(b'"');
}

/// Appends `text` as a JSON string, quotes included; with `visible`, what a terminal would act on is
/// escaped too.
pub fn string(text: &str, visible: bool, out: &mut Vec<u8>) {
    out.push(b'"');
    if visible {
        for c in text.chars() {
            let special = matches!(c, '"' | '\\') || c < ' ';
            push_char(c, special || escape::is_hidden(c), out);
        }
    } else if look(text.as_bytes()) == Look::Clean {
        out.extend_from_slice(text.as_bytes());
    } else {
        escaped(text.as_bytes(), out);
    }
    out.push(b'"');
}

/// Appends one character, as it is or escaped.
fn push_char(c: char, escape: bool, out: &mut Vec<u8>) {
    match c {
        _ if !escape => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        '\0'..='\x1f' | '"' | '\\' => {
            let (text, len) = escape_of(c as u8);
            out.extend_from_slice(text.get(..len).unwrap_or_default());
        }
        _ => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
            }
        }
    }
}

/// What a first pass over bytes tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// ASCII without anything that JSON escapes.
    Clean,
    /// Anything else.
    Mixed,
}

/// One pass without early exit inside a block, so that it compiles to vector code.
fn look(bytes: &[u8]) -> Look {
    let special =
        |b: &u8| u8::from(*b < 0x20) | u8::from(*b == b'"') | u8::from(*b == b'\\') | (*b >> 7);
    let dirty = |block: &[u8]| block.iter().fold(0, |seen, b| seen | special(b)) != 0;
    match bytes.chunks(64).any(dirty) {
        false => Look::Clean,
        true => Look::Mixed,
    }
}

/// The escape of a quote, a backslash or a byte below 0x20, and its length.
#[inline(always)]
fn escape_of(b: u8) -> ([u8; 8], usize) {
    let short = |c: u8| ([b'\\', c, 0, 0, 0, 0, 0, 0], 2);
    match b {
        b'"' | b'\\' => short(b),
        b'\n' => short(b'n'),
        b'\r' => short(b'r'),
        b'\t' => short(b't'),
        0x08 => short(b'b'),
        0x0c => short(b'f'),
        _ => {
            let hex = |n: u8| if n < 10 { b'0' + n } else { b'a' + n - 10 };
            ([b'\\', b'u', b'0', b'0', hex(b >> 4), hex(b & 15), 0, 0], 6)
        }
    }
}

/// Input bytes that are escaped into one block on the stack.
const BLOCK: usize = 64;
/// Each may become six bytes, and the last copy may run eight past the end.
const BLOCK_OUT: usize = 6 * BLOCK + 8;

/// Appends `bytes`, which are UTF-8, with what JSON requires escaped.
fn escaped(bytes: &[u8], out: &mut Vec<u8>) {
    let mut block = [0u8; BLOCK_OUT];
    for piece in bytes.chunks(BLOCK) {
        let mut to = 0;
        let (eights, rest) = piece.as_chunks::<8>();
        for bytes in eights {
            to = escaped_eight(u64::from_le_bytes(*bytes), &mut block, to);
        }
        for &b in rest {
            let special = b < 0x20 || b == b'"' || b == b'\\';
            let (text, len) = if special { escape_of(b) } else { ([b; 8], 1) };
            put(&mut block, to, &text);
            to += len;
        }
        out.extend_from_slice(block.get(..to).unwrap_or_default());
    }
}

/// Puts eight bytes at `to`, escaped, and returns where they end. Every run is put as a whole
/// register; what is too much of it is overwritten by what follows.
#[inline(always)]
fn escaped_eight(mut x: u64, block: &mut [u8; BLOCK_OUT], mut to: usize) -> usize {
    let mut mask = eight::below_space(x) | eight::equal(x, b'"') | eight::equal(x, b'\\');
    let mut left = 8;
    while mask != 0 {
        let n = eight::first(mask);
        put(block, to, &x.to_le_bytes());
        // At most seven bytes, then the special one.
        x >>= 8 * n;
        let (text, len) = escape_of(x as u8);
        put(block, to + n, &text);
        to += n + len;
        left -= n + 1;
        x >>= 8;
        mask = mask.checked_shr(8 * (n as u32 + 1)).unwrap_or_default();
    }
    put(block, to, &x.to_le_bytes());
    to + left
}

#[inline(always)]
fn put(block: &mut [u8; BLOCK_OUT], at: usize, eight: &[u8; 8]) {
    if let Some(place) = block.get_mut(at..at + 8) {
        place.copy_from_slice(eight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(s: &str, visible: bool) -> String {
        let mut out = Vec::new();
        string(s, visible, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn terminal_json_stays_json_and_hides_nothing() {
        let s = "a\u{1b}\u{7f}\u{9b}\u{202e}\"\\é";
        let shown = text_of(s, true);
        assert_eq!(shown, r#""a\u001b\u007f\u009b\u202e\"\\é""#);
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), s);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(1000))]

        #[test]
        fn strings_equal_those_of_serde_json(s in "([ -~]{0,20}|[\\x00-\\x7f]|[\"\\\\]{1,3}|\\PC{0,4}){0,12}") {
            proptest::prop_assert_eq!(text_of(&s, false), serde_json::to_string(&s).unwrap());
        }
    }
}
