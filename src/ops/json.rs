//! A strict JSON scanner (RFC 8259) that builds no tree.
//!
//! It walks one document held in a slice, checks all of it, and hands out slices: a string as its
//! raw bytes with a note whether it holds escapes, any value as its text. So numbers keep every
//! digit, and a field is found without allocating. What it accepts is what `serde_json` accepts into
//! a `Value` (the tests hold them side by side), with the same limit on nesting; of repeated names
//! the last counts.
//!
//! Speed: control bytes and bytes past ASCII are looked for once over the whole document, in a loop
//! that vectorises, and UTF-8 is checked only where there are any; a string then costs one search
//! for its end or its first escape.

use std::borrow::Cow;
use std::ops::Range;

use super::eight::{self, quote_or_backslash};

/// Deepest nesting accepted, so that no input exhausts the stack. The value `serde_json` has.
const DEPTH_MAX: u32 = 127;

/// Why a document is not JSON, and at which byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Byte at which it went wrong, from the start of the document.
    pub at: usize,
    /// In words.
    pub reason: &'static str,
}

type Result<T> = std::result::Result<T, Fault>;

/// What kind of value a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number.
    Number,
    /// A string.
    String,
    /// `[…]`.
    Array,
    /// `{…}`.
    Object,
}

/// A checked value: its kind and its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// What it is.
    pub kind: Kind,
    /// From its first byte to its last, quotes and brackets included.
    pub text: &'a [u8],
}

/// A checked string: the bytes between its quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a> {
    /// As written, escapes and all. Valid UTF-8.
    pub raw: &'a [u8],
    /// Whether there are escapes.
    pub escaped: bool,
}

impl<'a> Text<'a> {
    /// Appends the string itself to `out`.
    pub fn append_to(&self, out: &mut Vec<u8>) {
        match self.escaped {
            false => out.extend_from_slice(self.raw),
            true => unescape(self.raw, out),
        }
    }

    /// The string itself, borrowed if it has no escapes.
    pub fn bytes(&self) -> Cow<'a, [u8]> {
        if !self.escaped {
            return Cow::Borrowed(self.raw);
        }
        let mut out = Vec::with_capacity(self.raw.len());
        unescape(self.raw, &mut out);
        Cow::Owned(out)
    }

    /// Whether the string is `other`.
    pub fn is(&self, other: &[u8]) -> bool {
        match self.escaped {
            false => self.raw == other,
            true => *self.bytes() == *other,
        }
    }
}

/// A walk over one document.
#[derive(Clone, Debug)]
pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    /// Whether a byte below 0x20 occurs anywhere: only then strings need a look for them.
    controls: bool,
    depth: u32,
}

impl<'a> Scanner<'a> {
    /// Begins at the start of `text`.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub fn new(text: &'a [u8]) -> Result<Scanner<'a>> {
        let mut controls = false;
        if !is_plain(text) {
            if let Err(e) = std::str::from_utf8(text) {
                let (at, reason) = (e.valid_up_to(), "not UTF-8");
                return Err(Fault { at, reason });
            }
            // A fold without an early exit, which compiles to vector code.
            controls = text.iter().fold(u8::MAX, |m, b| m.min(*b)) < 0x20;
        }
        Ok(Scanner {
            text,
            at: 0,
            controls,
            depth: 0,
        })
    }

    /// The byte at which the walk stands.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The kind of the next value, which is not taken.
    ///
    /// # Errors
    /// If no value can begin here.
    pub fn peek(&mut self) -> Result<Kind> {
        match self.next_byte() {
            Some(b'"') => Ok(Kind::String),
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            Some(_) => self.fault("not JSON"),
            None => self.fault("the JSON text ends too early"),
        }
    }

    /// Steps over `word` if the text goes on with exactly that.
    #[inline(always)]
    pub fn skip<const N: usize>(&mut self, word: &[u8; N]) -> bool {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let found = rest.first_chunk() == Some(word);
        self.at += if found { N } else { 0 };
        found
    }

    /// Takes a whole number of up to 18 digits that begins right here; `None`, taking nothing, if
    /// there is none or it has a fraction, an exponent or more digits.
    #[inline]
    pub fn small_integer(&mut self) -> Option<i64> {
        let rest = self.text.get(self.at..)?;
        let negative = rest.first() == Some(&b'-');
        let digits = rest.get(usize::from(negative)..)?;
        let (mut n, mut len) = (0i64, 0);
        while let Some(b @ b'0'..=b'9') = digits.get(len)
            && len < 18
        {
            n = 10 * n + i64::from(b - b'0');
            len += 1;
        }
        let zero_leads = digits.first() == Some(&b'0') && len > 1;
        let goes_on = matches!(digits.get(len), Some(b'0'..=b'9' | b'.' | b'e' | b'E'));
        if len == 0 || zero_leads || goes_on {
            return None;
        }
        self.at += usize::from(negative) + len;
        Some(if negative { -n } else { n })
    }

    /// Takes the next value, whatever it is.
    ///
    /// # Errors
    /// If it is not JSON.
    pub fn value(&mut self) -> Result<Value<'a>> {
        let kind = self.peek()?;
        let start = self.at;
        match kind {
            Kind::String => drop(self.string()?),
            Kind::Number => self.number()?,
            Kind::Bool if self.text.get(start) == Some(&b't') => self.literal(b"true")?,
            Kind::Bool => self.literal(b"false")?,
            Kind::Null => self.literal(b"null")?,
            Kind::Array => {
                let mut first = true;
                self.open()?;
                while self.item(&mut first)? {
                    self.value()?;
                }
            }
            Kind::Object => {
                let mut first = true;
                self.open()?;
                while self.name(&mut first)?.is_some() {
                    self.value()?;
                }
            }
        }
        let text = self.slice(start..self.at);
        Ok(Value { kind, text })
    }

    /// Takes a string.
    ///
    /// # Errors
    /// If none is here, or it is malformed.
    pub fn string(&mut self) -> Result<Text<'a>> {
        if self.next_byte() != Some(b'"') {
            return self.fault("a string is needed here");
        }
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let Some(n) = quote_or_backslash(rest) else {
                self.at = self.text.len();
                return self.fault("a string is not closed");
            };
            self.at += n;
            if self.text.get(self.at) == Some(&b'"') {
                break;
            }
            escaped = true;
            self.escape()?;
        }
        let raw = self.slice(start..self.at);
        self.at += 1;
        if self.controls
            && let Some(n) = raw.iter().position(|b| *b < 0x20)
        {
            self.at = start + n;
            return self.fault("a control byte in a string");
        }
        Ok(Text { raw, escaped })
    }

    /// Takes a string and resolves its escapes on the way, appending it to `out`; gives it back
    /// instead, and appends nothing, if it has none.
    ///
    /// # Errors
    /// As [`Scanner::string`]; `out` may then have been added to.
    pub fn string_into(&mut self, out: &mut Vec<u8>) -> Result<Option<&'a [u8]>> {
        if self.controls || self.next_byte() != Some(b'"') {
            // Rare: the plain way has all the checks.
            let text = self.string()?;
            if !text.escaped {
                return Ok(Some(text.raw));
            }
            text.append_to(out);
            return Ok(None);
        }
        let start = self.at + 1;
        let rest = self.text.get(start..).unwrap_or_default();
        match quote_or_backslash(rest) {
            Some(n) if rest.get(n) == Some(&b'"') => {
                self.at = start + n + 1;
                Ok(Some(self.slice(start..start + n)))
            }
            Some(n) => {
                out.extend_from_slice(rest.get(..n).unwrap_or_default());
                self.at = start + n;
                self.decode(out).map(|()| None)
            }
            None => {
                self.at = self.text.len();
                self.fault("a string is not closed")
            }
        }
    }

    /// Appends the rest of a string, from its first escape on, and steps over its closing quote.
    fn decode(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let mut block = [0u8; BLOCK];
        let mut to = 0;
        loop {
            if to > BLOCK - 16 {
                out.extend_from_slice(block.get(..to).unwrap_or_default());
                to = 0;
            }
            let rest = self.text.get(self.at..).unwrap_or_default();
            if let Some(window) = rest.first_chunk() {
                let (used, made) = decode_eight(window, &mut block, to);
                (self.at, to) = (self.at + used, to + made);
                if used > 0 {
                    continue;
                }
            }
            // The closing quote, a `\u` escape, what is no escape, or the end of the text is near.
            match rest.first() {
                Some(b'"') => break,
                Some(b'\\') => {
                    let start = self.at;
                    self.escape()?;
                    let (text, len) = resolve(self.text, start);
                    put(&mut block, to, &text);
                    to += len;
                }
                Some(b) => {
                    put(&mut block, to, &[*b]);
                    (self.at, to) = (self.at + 1, to + 1);
                }
                None => return self.fault("a string is not closed"),
            }
        }
        out.extend_from_slice(block.get(..to).unwrap_or_default());
        self.at += 1;
        Ok(())
    }

    /// Steps into the array or object that [`Scanner::peek`] has just seen.
    ///
    /// # Errors
    /// If it is nested too deep.
    pub fn open(&mut self) -> Result<()> {
        if self.depth == DEPTH_MAX {
            return self.fault("nested too deep");
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    /// Steps to the next item of an array: `true` if there is one, `false` once past the bracket.
    /// `first` is true before the first call.
    ///
    /// # Errors
    /// If neither follows.
    pub fn item(&mut self, first: &mut bool) -> Result<bool> {
        self.step(b']', first)
    }

    /// Steps to the next member of an object and takes its name and colon: `None` once past the
    /// brace. `first` is true before the first call.
    ///
    /// # Errors
    /// If neither follows.
    pub fn name(&mut self, first: &mut bool) -> Result<Option<Text<'a>>> {
        if !self.step(b'}', first)? {
            return Ok(None);
        }
        let name = self.string()?;
        if self.next_byte() != Some(b':') {
            return self.fault("a colon is needed here");
        }
        self.at += 1;
        Ok(Some(name))
    }

    /// Checks that only white space is left.
    ///
    /// # Errors
    /// If anything else is.
    pub fn end(&mut self) -> Result<()> {
        match self.next_byte() {
            None => Ok(()),
            Some(_) => self.fault("more text after the JSON value"),
        }
    }

    fn step(&mut self, close: u8, first: &mut bool) -> Result<bool> {
        let was_first = std::mem::replace(first, false);
        match self.next_byte() {
            Some(b) if b == close => {
                self.at += 1;
                self.depth = self.depth.saturating_sub(1);
                Ok(false)
            }
            Some(b',') if !was_first => {
                self.at += 1;
                // What follows must be an item, not the bracket.
                match self.next_byte() {
                    Some(b) if b == close => self.fault("a comma before the end"),
                    _ => Ok(true),
                }
            }
            Some(_) if was_first => Ok(true),
            Some(_) => self.fault("a comma or the end is needed here"),
            None => self.fault("the JSON text ends too early"),
        }
    }

    /// Skips white space and looks at the byte after it.
    fn next_byte(&mut self) -> Option<u8> {
        loop {
            match self.text.get(self.at) {
                Some(b' ' | b'\t' | b'\r' | b'\n') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    /// Steps over the escape at whose backslash the walk stands.
    fn escape(&mut self) -> Result<()> {
        let bad = Err(Fault {
            at: self.at,
            reason: "no such escape in a string",
        });
        match self.text.get(self.at + 1) {
            Some(b'u') => {}
            Some(b) if SHORT_ESCAPES.get(usize::from(*b)) != Some(&0) => {
                self.at += 2;
                return Ok(());
            }
            _ => return bad,
        }
        match hex4(self.text, self.at + 2) {
            Some(0xd800..=0xdbff) => match low_surrogate(self.text, self.at + 6) {
                Some(_) => self.at += 12,
                None => return bad,
            },
            Some(0xdc00..=0xdfff) | None => return bad,
            Some(_) => self.at += 6,
        }
        Ok(())
    }

    fn number(&mut self) -> Result<()> {
        if self.text.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        match self.text.get(self.at) {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.text.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = self.text.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<()> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        match rest.iter().take_while(|b| b.is_ascii_digit()).count() {
            0 => self.fault("a digit is needed here"),
            n => {
                self.at += n;
                Ok(())
            }
        }
    }

    fn literal(&mut self, word: &[u8]) -> Result<()> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        if !rest.starts_with(word) {
            return self.fault("not JSON");
        }
        self.at += word.len();
        Ok(())
    }

    fn slice(&self, range: Range<usize>) -> &'a [u8] {
        self.text.get(range).unwrap_or_default()
    }

    fn fault<T>(&self, reason: &'static str) -> Result<T> {
        let at = self.at;
        Err(Fault { at, reason })
    }
}

/// Whether all bytes are ASCII and none is below 0x20. No early exit, so that it compiles to vector
/// code.
fn is_plain(text: &[u8]) -> bool {
    let (words, rest) = text.as_chunks::<8>();
    let word = |seen, x: &[u8; 8]| seen | eight::not_plain(u64::from_le_bytes(*x));
    let byte = |seen, b: &u8| seen | u8::from(*b < 0x20 || *b >= 0x80);
    words.iter().fold(0, word) == 0 && rest.iter().fold(0, byte) == 0
}

/// Puts the text before the first quote of eight bytes or, if it comes earlier, up to and with the
/// first short escape; returns how much text was used and how much was put. Nothing is used at a
/// quote and at any other escape.
///
/// There is no branch on where the escape is, or whether there is one: in JSON inside JSON that is
/// a coin toss.
#[inline(always)]
fn decode_eight(window: &[u8; 16], block: &mut [u8; BLOCK], to: usize) -> (usize, usize) {
    let x = eight::load(window).unwrap_or_default();
    let mask = eight::either(x, b'"', b'\\');
    let n = eight::first(mask);
    let special = usize::from(mask != 0);
    let at = |n: usize| window.get(n).copied().unwrap_or_default();
    let meant = SHORT_ESCAPES.get(usize::from(at(n + 1)));
    let meant = meant.copied().unwrap_or_default();
    put(block, to, &x.to_le_bytes());
    if (special == 1) & ((at(n) == b'"') | (meant == 0)) {
        return (n, n);
    }
    put(block, to + n, &[meant]);
    (n + 2 * special, n + special)
}

/// What the byte after a backslash stands for; 0 if it is `u` or there is no such escape.
const SHORT_ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table[b'/' as usize] = b'/';
    table[b'b' as usize] = 0x08;
    table[b'f' as usize] = 0x0c;
    table[b'n' as usize] = b'\n';
    table[b'r' as usize] = b'\r';
    table[b't' as usize] = b'\t';
    table
};

/// Four hexadecimal digits at `at`.
fn hex4(text: &[u8], at: usize) -> Option<u32> {
    let digits = text.get(at..at.checked_add(4)?)?;
    digits
        .iter()
        .try_fold(0, |n, d| Some(n << 4 | char::from(*d).to_digit(16)?))
}

/// The low surrogate whose escape begins at `at`.
fn low_surrogate(text: &[u8], at: usize) -> Option<u32> {
    match text.get(at..at.checked_add(2)?)? {
        b"\\u" => hex4(text, at + 2).filter(|c| (0xdc00..=0xdfff).contains(c)),
        _ => None,
    }
}

/// Bytes that are put together on the stack before they are appended.
const BLOCK: usize = 256;

/// Appends a checked raw string with its escapes resolved.
fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut rest = raw;
    while let Some(n) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(rest.get(..n).unwrap_or_default());
        let (text, len) = resolve(rest, n);
        out.extend_from_slice(text.get(..len).unwrap_or_default());
        // A character outside the first plane takes two escapes of six bytes.
        let used = match (rest.get(n + 1), len) {
            (Some(b'u'), 4) => 12,
            (Some(b'u'), _) => 6,
            _ => 2,
        };
        rest = rest.get(n + used..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
}

#[inline(always)]
fn put(block: &mut [u8; BLOCK], at: usize, bytes: &[u8]) {
    if let Some(place) = block.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// What the checked escape at `at` stands for, in UTF-8, and the length of that.
#[inline(always)]
fn resolve(raw: &[u8], at: usize) -> ([u8; 4], usize) {
    let name = raw.get(at + 1).copied().unwrap_or_default();
    if name == b'u' {
        let mut text = [0; 4];
        let len = code_point(raw, at).encode_utf8(&mut text).len();
        return (text, len);
    }
    let meant = SHORT_ESCAPES.get(usize::from(name));
    ([meant.copied().unwrap_or_default(), 0, 0, 0], 1)
}

/// The character of the `\u` escape, or pair of them, at `at`.
fn code_point(text: &[u8], at: usize) -> char {
    let high = hex4(text, at + 2).unwrap_or_default();
    let code = match (high, low_surrogate(text, at + 6)) {
        (0xd800..=0xdbff, Some(low)) => 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00),
        _ => high,
    };
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Checks that `text` is one JSON value and nothing else.
///
/// # Errors
/// Says where it is not.
pub fn check(text: &[u8]) -> Result<Value<'_>> {
    let mut scanner = Scanner::new(text)?;
    let value = scanner.value()?;
    scanner.end()?;
    Ok(value)
}

/// Appends the checked value `text` without the white space between its tokens.
pub fn compact(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(quote) = memchr::memchr(b'"', rest) {
        let (outside, inside) = rest.split_at(quote);
        append_dense(outside, out);
        let n = string_length(inside);
        let (string, after) = inside.split_at(n.min(inside.len()));
        out.extend_from_slice(string);
        rest = after;
    }
    append_dense(rest, out);
}

/// Length of the string that `text` begins with, both quotes included.
fn string_length(text: &[u8]) -> usize {
    let mut at = 1;
    while let Some(n) = text.get(at..).and_then(quote_or_backslash) {
        at += n + 1;
        match text.get(at - 1) {
            Some(b'"') => return at,
            _ => at += 1,
        }
    }
    text.len()
}

fn append_dense(text: &[u8], out: &mut Vec<u8>) {
    let blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    match text.iter().any(blank) {
        false => out.extend_from_slice(text),
        true => out.extend(text.iter().filter(|b| !blank(b))),
    }
}

/// Whether `is` says yes to a string in the checked value `text`, its escapes resolved: one of the names
/// and texts anywhere in it.
pub fn any_string(text: &[u8], is: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    let mut rest = text;
    while let Some(quote) = memchr::memchr(b'"', rest) {
        let inside = rest.get(quote..).unwrap_or_default();
        let n = string_length(inside).min(inside.len());
        let raw = inside.get(1..n.saturating_sub(1)).unwrap_or_default();
        let escaped = memchr::memchr(b'\\', raw).is_some();
        if is(&Text { raw, escaped }.bytes()) {
            return true;
        }
        rest = inside.get(n..).unwrap_or_default();
    }
    false
}

/// A JSON pointer (RFC 6901): the tokens between its slashes, unescaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(Vec<Vec<u8>>);

impl Pointer {
    /// Reads a pointer: empty for the whole document, else beginning with `/`; `~0` is `~` and `~1`
    /// is `/`. `None` if it is malformed.
    pub fn parse(text: &str) -> Option<Pointer> {
        if text.is_empty() {
            return Some(Pointer(Vec::new()));
        }
        let tokens = text.strip_prefix('/')?.split('/');
        tokens
            .map(pointer_token)
            .collect::<Option<_>>()
            .map(Pointer)
    }

    /// Finds the value it points to. The whole document is checked.
    ///
    /// # Errors
    /// If the document is not JSON.
    pub fn find<'a>(&self, document: &'a [u8]) -> Result<Option<Value<'a>>> {
        let mut scanner = Scanner::new(document)?;
        let found = descend(&mut scanner, &self.0, &mut |_| {})?;
        scanner.end()?;
        Ok(found)
    }

    /// Where in the document there are values that it may point to, in order: with repeated names
    /// all of them, where [`Pointer::find`] takes the last. The whole document is checked.
    ///
    /// # Errors
    /// If the document is not JSON.
    pub fn spans(&self, document: &[u8]) -> Result<Vec<Range<usize>>> {
        let mut scanner = Scanner::new(document)?;
        let mut spans = Vec::new();
        descend(&mut scanner, &self.0, &mut |span| spans.push(span))?;
        scanner.end()?;
        Ok(spans)
    }
}

impl std::fmt::Display for Pointer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|token| {
            let token = String::from_utf8_lossy(token);
            write!(f, "/{}", token.replace('~', "~0").replace('/', "~1"))
        })
    }
}

fn pointer_token(token: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(token.len());
    let mut bytes = token.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'~' => match bytes.next()? {
                b'0' => b'~',
                b'1' => b'/',
                _ => return None,
            },
            _ => b,
        });
    }
    Some(out)
}

/// The last value that `tokens` lead to; `each` is told where every one of them lies.
fn descend<'a>(
    scanner: &mut Scanner<'a>,
    tokens: &[Vec<u8>],
    each: &mut dyn FnMut(Range<usize>),
) -> Result<Option<Value<'a>>> {
    let Some((token, deeper)) = tokens.split_first() else {
        let value = scanner.value()?;
        each(scanner.at() - value.text.len()..scanner.at());
        return Ok(Some(value));
    };
    let mut found = None;
    let mut first = true;
    match scanner.peek()? {
        Kind::Object => {
            scanner.open()?;
            while let Some(name) = scanner.name(&mut first)? {
                match name.is(token) {
                    true => found = descend(scanner, deeper, each)?,
                    false => drop(scanner.value()?),
                }
            }
        }
        Kind::Array => {
            let wanted = array_index(token);
            let mut index = 0usize;
            scanner.open()?;
            while scanner.item(&mut first)? {
                match wanted == Some(index) {
                    true => found = descend(scanner, deeper, each)?,
                    false => drop(scanner.value()?),
                }
                index += 1;
            }
        }
        _ => drop(scanner.value()?),
    }
    Ok(found)
}

/// The array index a token is: digits without a leading zero.
fn array_index(token: &[u8]) -> Option<usize> {
    match token {
        [b'0', _, ..] | [] => None,
        _ if token.iter().all(u8::is_ascii_digit) => std::str::from_utf8(token).ok()?.parse().ok(),
        _ => None,
    }
}

impl<'a> Value<'a> {
    /// The value as the bytes of a field: a string itself, a number or a bool as written, an array
    /// or object as compact JSON; null is no value.
    pub fn field(&self) -> Option<Cow<'a, [u8]>> {
        match self.kind {
            Kind::Null => None,
            Kind::Bool | Kind::Number => Some(Cow::Borrowed(self.text)),
            Kind::String => {
                let raw = self.text.get(1..self.text.len() - 1)?;
                let escaped = memchr::memchr(b'\\', raw).is_some();
                Some(Text { raw, escaped }.bytes())
            }
            Kind::Array | Kind::Object => {
                let mut out = Vec::with_capacity(self.text.len());
                compact(self.text, &mut out);
                Some(Cow::Owned(out))
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
