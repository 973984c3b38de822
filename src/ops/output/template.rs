//! Templates of `-F`: literals, tokens and escapes, read once and printed per record.
//!
//! | token | prints |
//! |---|---|
//! | `%o` `%t` `%p` | offset, topic, partition |
//! | `%k` `%s` | key, value; nothing if null |
//! | `%K` `%S` | their lengths in bytes; -1 if null |
//! | `%R` | length of the value as 4 bytes, big-endian; -1 if null |
//! | `%T` `%D` | timestamp in milliseconds, as RFC 3339 in UTC |
//! | `%h` | headers as `n=v,…`, a null value without its `=` |
//! | `%h{NAME}` | the value of the first header of that name |
//! | `%%` | a percent sign |
//!
//! `%k`, `%s` and `%h{NAME}` may end in `{hex}`, `{base64}` or `{json}`. As JSON, null is `null` and
//! bytes that are not UTF-8 are `{"b64":"…"}`. Escapes: `\n \t \r \0 \\ \xNN`. No newline is added.

use super::{Meta, date, decimal, encode, header_list, json, length, shown};
use crate::error::{Error, Result};
use crate::format::record::Record;
use crate::ops::words::{bad, bad_try};

/// A template, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Vec<u8>),
    Offset,
    Topic,
    Partition,
    KeyLength,
    ValueLength,
    ValueLengthBinary,
    Timestamp,
    Date,
    Headers,
    Payload(Payload, Encoding),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Payload {
    Key,
    Value,
    Header(Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Plain,
    Hex,
    Base64,
    Json,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Usage, naming the token or escape that does not exist.
    pub fn parse(text: &str) -> Result<Template> {
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match c {
                '%' if rest.starts_with('%') => {
                    literal.push(b'%');
                    rest = &rest[1..];
                }
                '%' => {
                    if !literal.is_empty() {
                        parts.push(Part::Literal(std::mem::take(&mut literal)));
                    }
                    parts.push(token(text, &mut rest)?);
                }
                '\\' => literal.push(unescape(text, &mut rest)?),
                _ => literal.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal));
        }
        let text = text.to_string();
        Ok(Template { text, parts })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it prints `%R`.
    pub fn is_binary(&self) -> bool {
        self.parts.contains(&Part::ValueLengthBinary)
    }

    /// Appends what it makes of `record`.
    pub fn record(&self, out: &mut Vec<u8>, meta: &Meta<'_>, record: &Record<'_>, visible: bool) {
        for part in &self.parts {
            match part {
                Part::Literal(bytes) => out.extend_from_slice(bytes),
                Part::Offset => decimal(record.offset.0, out),
                Part::Topic => out.extend_from_slice(&shown(visible, meta.topic.as_bytes())),
                Part::Partition => decimal(meta.partition, out),
                Part::KeyLength => decimal(length(record.key), out),
                Part::ValueLength => decimal(length(record.value), out),
                Part::ValueLengthBinary => {
                    out.extend_from_slice(&length(record.value).to_be_bytes());
                }
                Part::Timestamp => decimal(record.timestamp.0, out),
                Part::Date => date::rfc3339(record.timestamp, out),
                Part::Headers => {
                    let mut list = Vec::new();
                    header_list(&record.headers, &mut list);
                    out.extend_from_slice(&shown(visible, &list));
                }
                Part::Payload(payload, encoding) => {
                    encoding.append(payload.of(record), visible, out);
                }
            }
        }
    }
}

impl Payload {
    fn of<'a>(&self, record: &Record<'a>) -> Option<&'a [u8]> {
        match self {
            Payload::Key => record.key,
            Payload::Value => record.value,
            Payload::Header(name) => record.headers.get(name).flatten(),
        }
    }
}

impl Encoding {
    fn append(self, bytes: Option<&[u8]>, visible: bool, out: &mut Vec<u8>) {
        match (self, bytes) {
            (Encoding::Json, None) => out.extend_from_slice(b"null"),
            (_, None) => {}
            (Encoding::Plain, Some(b)) => out.extend_from_slice(&shown(visible, b)),
            (Encoding::Hex, Some(b)) => encode::hex(b, out),
            (Encoding::Base64, Some(b)) => encode::base64(b, out),
            (Encoding::Json, Some(b)) => match std::str::from_utf8(b) {
                Ok(text) => json::string(text, visible, out),
                Err(_) => {
                    out.extend_from_slice(b"{\"b64\":\"");
                    encode::base64(b, out);
                    out.extend_from_slice(b"\"}");
                }
            },
        }
    }
}

/// Reads the token after a percent sign.
fn token(text: &str, rest: &mut &str) -> Result<Part> {
    let Some(c) = rest.chars().next() else {
        return Err(bad_try(text, "a lone % at the end", format!("{text}%")));
    };
    *rest = &rest[c.len_utf8()..];
    Ok(match c {
        'o' => Part::Offset,
        't' => Part::Topic,
        'p' => Part::Partition,
        'k' => Part::Payload(Payload::Key, encoding(text, rest)?),
        's' => Part::Payload(Payload::Value, encoding(text, rest)?),
        'K' => Part::KeyLength,
        'S' => Part::ValueLength,
        'R' => Part::ValueLengthBinary,
        'T' => Part::Timestamp,
        'D' => Part::Date,
        'h' => match braces(text, rest)? {
            None => Part::Headers,
            Some("") => return Err(bad(text, "%h{} names no header")),
            Some(name) => {
                let name = name.as_bytes().to_vec();
                Part::Payload(Payload::Header(name), encoding(text, rest)?)
            }
        },
        _ => return Err(unknown_token(text, c)),
    })
}

fn unknown_token(text: &str, c: char) -> Error {
    let tokens = "%o %t %p %k %s %K %S %R %T %D %h %h{NAME} %%";
    bad(text, format!("no token %{c}; there are {tokens}"))
}

/// Reads `{hex}` and its kin, if they follow.
fn encoding(text: &str, rest: &mut &str) -> Result<Encoding> {
    match braces(text, rest)? {
        None => Ok(Encoding::Plain),
        Some("hex") => Ok(Encoding::Hex),
        Some("base64") => Ok(Encoding::Base64),
        Some("json") => Ok(Encoding::Json),
        Some(other) => Err(bad(
            text,
            format!(
                "no encoding {{{other}}}; there are {{hex}}, {{base64}}, {{json}}, and a plain brace is \\x7b"
            ),
        )),
    }
}

/// Reads what stands between braces, if one opens here.
fn braces<'a>(text: &str, rest: &mut &'a str) -> Result<Option<&'a str>> {
    let Some(inner) = rest.strip_prefix('{') else {
        return Ok(None);
    };
    match inner.split_once('}') {
        Some((name, after)) => {
            *rest = after;
            Ok(Some(name))
        }
        None => Err(bad(text, "a brace is not closed")),
    }
}

/// Reads the escape after a backslash.
fn unescape(text: &str, rest: &mut &str) -> Result<u8> {
    let (byte, used) = match rest.as_bytes() {
        [b'n', ..] => (b'\n', 1),
        [b't', ..] => (b'\t', 1),
        [b'r', ..] => (b'\r', 1),
        [b'0', ..] => (0, 1),
        [b'\\', ..] => (b'\\', 1),
        [b'x', high, low, ..] => match (hex_digit(*high), hex_digit(*low)) {
            (Some(high), Some(low)) => (high << 4 | low, 3),
            _ => return Err(bad(text, "\\x needs two hexadecimal digits")),
        },
        [b'x', ..] => return Err(bad(text, "\\x needs two hexadecimal digits")),
        _ => {
            let c = rest.chars().next().map(String::from).unwrap_or_default();
            let what = format!("no escape \\{c}; there are \\n \\t \\r \\0 \\xNN \\\\");
            return Err(bad(text, what));
        }
    };
    *rest = &rest[used..];
    Ok(byte)
}

fn hex_digit(b: u8) -> Option<u8> {
    char::from(b)
        .to_digit(16)
        .and_then(|d| u8::try_from(d).ok())
}

/// Reads a text with the escapes of templates, such as the delimiter of `-K`.
///
/// # Errors
/// Usage, naming the escape that does not exist.
pub fn unescape_all(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => out.push(unescape(text, &mut rest)?),
            _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Ok(out)
}
