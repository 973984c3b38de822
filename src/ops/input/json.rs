//! A record from the JSON object that `-F json` prints ([`crate::ops::output::json`]).
//!
//! | field | takes |
//! |---|---|
//! | `key` | string or null; absent is null |
//! | `value` | string or null (a tombstone); or one of the next two |
//! | `key_b64`, `value_b64` | base64 |
//! | `value_json` | any JSON; the value is its text as written |
//! | `headers` | pairs of string and string or null |
//! | `headers_b64` | the same in base64 |
//! | `ts` | whole milliseconds; absent or -1 is "now" |
//! | `offset` | ignored, but for `--keep-offsets` |
//! | `topic`, `partition` | ignored |
//!
//! Any other field is refused by name: it is a slip, or the line is plain JSON.
//!
//! Speed: the scanner builds no tree, and what has no escapes is not copied. A line that is spelled
//! as `-F json` spells it, which most are, is compared with what it should say; at the first
//! difference it is read again from its start as any JSON, so that all refusals come from there.

use data_encoding::BASE64;

use super::{Parts, Reject, Slot, Span, encoded};
use crate::ops::json::{Fault, Kind, Scanner, Text};

type Result<T> = std::result::Result<T, Reject>;

/// The hint for a line that is JSON and no record.
const PLAIN: &str = "-F lines     (lines that merely are JSON are plain lines)";

impl From<Fault> for Reject {
    fn from(fault: Fault) -> Reject {
        Reject::not_json(fault)
    }
}

/// Reads one line into `parts`, which are empty.
pub(super) fn record(raw: &[u8], parts: &mut Parts, keep_offsets: bool) -> Result<()> {
    let scanner = Scanner::new(raw)?;
    if as_printed(scanner.clone(), raw, parts, keep_offsets).is_some() {
        return Ok(());
    }
    parts.clear();
    in_any_spelling(scanner, raw, parts, keep_offsets)
}

/// Reads a line that is exactly as `-F json` writes it, with key, value and headers that are UTF-8.
/// `None` tells nothing but that it is not such a line, and leaves rubbish in `parts`.
fn as_printed<'a>(
    mut scanner: Scanner<'a>,
    raw: &'a [u8],
    parts: &mut Parts,
    keep_offsets: bool,
) -> Option<()> {
    scanner.skip(b"{\"topic\":").then_some(())?;
    scanner.string().ok()?;
    scanner.skip(b",\"partition\":").then_some(())?;
    scanner.small_integer()?;
    scanner.skip(b",\"offset\":").then_some(())?;
    let offset = scanner.small_integer()?;
    if keep_offsets {
        parts.offset = Some(offset).filter(|n| *n >= 0);
        parts.offset?;
    }
    scanner.skip(b",\"ts\":").then_some(())?;
    parts.timestamp = Some(scanner.small_integer()?).filter(|ts| *ts != -1);
    scanner.skip(b",\"key\":").then_some(())?;
    let scanner = &mut scanner;
    let mut line = Line {
        scanner,
        parts,
        raw,
    };
    line.parts.key = line.string("key").ok()?;
    line.scanner.skip(b",\"value\":").then_some(())?;
    line.parts.value = line.string("value").ok()?;
    if !line.scanner.skip(b",\"headers\":[]}") {
        line.scanner.skip(b",\"headers\":").then_some(())?;
        line.headers("headers", false).ok()?;
        line.scanner.skip(b"}").then_some(())?;
    }
    line.scanner.end().ok()
}

/// Reads any JSON object that is a record.
fn in_any_spelling<'a>(
    mut scanner: Scanner<'a>,
    raw: &'a [u8],
    parts: &mut Parts,
    keep_offsets: bool,
) -> Result<()> {
    if scanner.peek()? != Kind::Object {
        // Say first if it is not JSON at all.
        scanner.value()?;
        scanner.end()?;
        return Err(not_a_record(
            "JSON, but no record: a record is an object".to_string(),
        ));
    }
    let mut seen = Seen::default();
    let mut first = true;
    scanner.open()?;
    while let Some(name) = scanner.name(&mut first)? {
        let mut line = Line {
            scanner: &mut scanner,
            parts,
            raw,
        };
        if !line.field(&name, &mut seen, keep_offsets)? {
            // The whole line must be JSON before it may be called plain JSON.
            let name = String::from_utf8_lossy(&name.bytes()).into_owned();
            check_rest(&mut scanner, &mut first)?;
            return Err(not_a_record(format!("{name:?} is no field of a record")));
        }
    }
    scanner.end()?;
    match seen.value {
        true => Ok(()),
        false => Err(not_a_record("the object has no value".to_string())),
    }
}

/// Checks what follows the name of a field that is refused.
fn check_rest(scanner: &mut Scanner<'_>, first: &mut bool) -> Result<()> {
    scanner.value()?;
    while scanner.name(first)?.is_some() {
        scanner.value()?;
    }
    Ok(scanner.end()?)
}

fn not_a_record(reason: String) -> Reject {
    Reject {
        reason,
        hint: Some(PLAIN),
    }
}

/// Which fields were given.
#[derive(Default)]
struct Seen {
    key: bool,
    value: bool,
    headers: bool,
    ts: bool,
}

fn once(seen: &mut bool, what: &str) -> Result<()> {
    match std::mem::replace(seen, true) {
        false => Ok(()),
        true => Err(Reject::new(format!("the {what} is given twice"))),
    }
}

/// A line on its way into parts.
struct Line<'s, 'a> {
    scanner: &'s mut Scanner<'a>,
    parts: &'s mut Parts,
    raw: &'a [u8],
}

impl Line<'_, '_> {
    /// Takes the value of field `name`; `false`, taking nothing, if there is no such field.
    fn field(&mut self, name: &Text<'_>, seen: &mut Seen, keep_offsets: bool) -> Result<bool> {
        let decoded = name.bytes();
        match &*decoded {
            b"key" => {
                once(&mut seen.key, "key")?;
                self.parts.key = self.string("key")?;
            }
            b"value" => {
                once(&mut seen.value, "value")?;
                self.parts.value = self.string("value")?;
            }
            b"key_b64" => {
                once(&mut seen.key, "key")?;
                self.parts.key = self.base64("key_b64")?;
            }
            b"value_b64" => {
                once(&mut seen.value, "value")?;
                self.parts.value = self.base64("value_b64")?;
            }
            b"value_json" => {
                once(&mut seen.value, "value")?;
                let text = self.scanner.value()?.text;
                let end = self.scanner.at();
                self.parts.value = Slot::Raw(Span(end - text.len(), end));
            }
            b"headers" => {
                once(&mut seen.headers, "list of headers")?;
                self.headers("headers", false)?;
            }
            b"headers_b64" => {
                once(&mut seen.headers, "list of headers")?;
                self.headers("headers_b64", true)?;
            }
            b"ts" => {
                once(&mut seen.ts, "timestamp")?;
                self.parts.timestamp = Some(self.integer("ts")?).filter(|ts| *ts != -1);
            }
            b"offset" if keep_offsets => {
                let offset = Some(self.integer("offset")?).filter(|n| *n >= 0);
                let negative = || Reject::new("the offset is negative");
                self.parts.offset = Some(offset.ok_or_else(negative)?);
            }
            b"offset" | b"topic" | b"partition" => drop(self.scanner.value()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A string or null.
    fn string(&mut self, name: &str) -> Result<Slot> {
        match self.scanner.peek()? {
            Kind::Null => {
                self.scanner.value()?;
                Ok(Slot::Null)
            }
            Kind::String => {
                let start = self.parts.bytes.len();
                let raw = self.scanner.string_into(&mut self.parts.bytes)?;
                Ok(match raw {
                    None => Slot::Held(Span(start, self.parts.bytes.len())),
                    Some(raw) => {
                        let end = self.scanner.at() - 1;
                        Slot::Raw(Span(end - raw.len(), end))
                    }
                })
            }
            _ => Err(self.mistyped(name, "a string or null")),
        }
    }

    /// A string of base64.
    fn base64(&mut self, name: &str) -> Result<Slot> {
        if self.scanner.peek()? != Kind::String {
            return Err(self.mistyped(name, "a string of base64"));
        }
        let at = self.scanner.at() + 1;
        let text = self.scanner.string()?;
        encoded(&BASE64, &text.bytes(), self.parts)
            .map_err(|_| Reject::new(format!("{name} is not base64 at column {}", at + 1)))
    }

    fn integer(&mut self, name: &str) -> Result<i64> {
        if self.scanner.peek()? != Kind::Number {
            return Err(self.mistyped(name, "a whole number"));
        }
        let at = self.scanner.at();
        let value = self.scanner.value()?;
        std::str::from_utf8(value.text)
            .ok()
            .and_then(|t| t.parse().ok())
            .ok_or_else(|| wrong_type(name, "a whole number", at))
    }

    /// An array of pairs.
    fn headers(&mut self, name: &str, base64: bool) -> Result<()> {
        const WHAT: &str = "a list of pairs";
        let mut first = true;
        if self.scanner.peek()? != Kind::Array {
            return Err(self.mistyped(name, WHAT));
        }
        self.scanner.open()?;
        while self.scanner.item(&mut first)? {
            if self.scanner.peek()? != Kind::Array {
                return Err(self.mistyped(name, WHAT));
            }
            let mut inner = true;
            self.scanner.open()?;
            let mut pair = [Slot::Null; 2];
            for slot in &mut pair {
                if !self.scanner.item(&mut inner)? {
                    return Err(wrong_type(name, WHAT, self.scanner.at() - 1));
                }
                *slot = match (base64, self.scanner.peek()?) {
                    (true, Kind::String) => self.base64(name)?,
                    _ => self.string(name)?,
                };
            }
            if self.scanner.item(&mut inner)? {
                return Err(self.mistyped(name, WHAT));
            }
            let [Some(key), value] = pair.map(|slot| self.held(slot)) else {
                return Err(Reject::new("a header's name is null"));
            };
            self.parts.headers.push((key, value));
        }
        Ok(())
    }

    /// The same part among the decoded bytes.
    fn held(&mut self, slot: Slot) -> Option<Span> {
        match slot {
            Slot::Null => None,
            Slot::Held(span) => Some(span),
            Slot::Raw(span) => {
                let bytes = span.of(self.raw);
                Some(self.parts.hold(|out| out.extend_from_slice(bytes)))
            }
        }
    }

    /// The refusal of the value that comes next, if it is JSON at all.
    fn mistyped(&mut self, name: &str, want: &str) -> Reject {
        let at = self.scanner.at();
        match self.scanner.value() {
            Err(fault) => Reject::not_json(fault),
            Ok(_) => wrong_type(name, want, at),
        }
    }
}

fn wrong_type(name: &str, want: &str, at: usize) -> Reject {
    Reject::new(format!("{name} is not {want} at column {}", at + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::record as any_record;
    use super::*;
    use crate::ops::output::tests::print;
    use crate::ops::output::{Format, FormatOptions};

    /// What one way to read `line` makes of it: all parts of the record, or the refusal.
    fn outcome(
        line: &[u8],
        read: impl FnOnce(&mut Parts) -> Result<()>,
    ) -> std::result::Result<String, String> {
        let mut parts = Parts::default();
        read(&mut parts).map_err(|r| format!("{} {:?}", r.reason, r.hint))?;
        let text = |slot| parts.get(slot, line).map(<[u8]>::to_vec);
        let headers = parts.headers.iter().map(|(name, value)| {
            let of = |span: &Span| span.of(&parts.bytes).to_vec();
            (of(name), value.as_ref().map(of))
        });
        Ok(format!(
            "{:?} {:?} {:?} {:?} {:?}",
            text(parts.key),
            text(parts.value),
            parts.timestamp,
            parts.offset,
            headers.collect::<Vec<_>>(),
        ))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn printed_lines_and_slips_in_them_are_read_as_any_json_is(
            (mut record, bits) in (any_record(), 0..64),
            keep_offsets in any::<bool>(),
            slip in prop::option::of((0..3, any::<prop::sample::Index>(), any::<bool>(), prop_oneof![
                any::<u8>(),
                prop::sample::select(b"\"\\,:{}[]0-.e \n\x1fun".to_vec()),
            ])),
        ) {
            // Numbers of any length.
            record.timestamp >>= bits;
            let long = record.timestamp >= 1_000_000_000_000_000_000;
            let mut line = print(&Format::Json, &FormatOptions::default(), &[record]);
            line.pop();
            if let Some((kind, at, early, byte)) = slip {
                // Half of them among the numbers.
                let at = at.index(if early { line.len().min(70) } else { line.len() });
                match kind {
                    0 => line[at] = byte,
                    1 => line.insert(at, byte),
                    _ => drop(line.remove(at)),
                }
            } else if !long && !String::from_utf8_lossy(&line).contains("_b64\":") {
                let scanner = Scanner::new(&line).unwrap();
                let mut parts = Parts::default();
                prop_assert!(as_printed(scanner, &line, &mut parts, keep_offsets).is_some());
            }
            let ours = outcome(&line, |parts| super::record(&line, parts, keep_offsets));
            let twin = outcome(&line, |parts| {
                in_any_spelling(Scanner::new(&line)?, &line, parts, keep_offsets)
            });
            prop_assert_eq!(ours, twin, "{}", String::from_utf8_lossy(&line));
        }
    }
}
