//! What is searched for, compiled.
//!
//! The syntax is that of the `regex` crate, as in ripgrep: Unicode classes and case, `(?i)` and kin,
//! no look-around beyond `^ $ \b \B`. A subject is a whole field, whatever bytes it holds: `^` and
//! `$` are its ends (`(?m)` makes them those of its lines), `.` stops at a newline and at what is
//! not UTF-8 (`(?s-u:.)` takes any byte).
//!
//! # Loose patterns
//!
//! A batch is searched as one haystack before any record of it is looked at. What is searched for
//! there is the *loose* pattern: the pattern with every `^ $ \b \B` taken out. Each match of the
//! pattern in a field is then a match of the loose one at the same bytes of the batch, whatever
//! stands around it, so where the loose one finds nothing, no record matches. What it finds may be
//! none, of course: it may lie across fields, or in the wrong one. So it only points at records, and
//! it points with where a match begins: that is the leftmost place, while where it ends hangs on what
//! it prefers, and a match of its own may hide a shorter one. To end soon all the same, what may
//! repeat without end repeats as little as it can.
//!
//! A pattern that may match nothing at all (`a*`, `^`) has no loose form: every field may match.
//! Of a field that may be stored otherwise than it is compared, [`Stored`], the loose pattern finds the
//! byte that tells of that as well, and inside JSON there is one only for patterns that keep clear of
//! what stands around the parts of an array or object.

use regex_automata::Input;
use regex_automata::meta::{BuildError, Cache, Config, Regex};
use regex_syntax::hir::{Class, Hir, HirKind, Look, Repetition};

use crate::error::{Error, Result};

/// Most that a compiled pattern may take, in bytes, of each of its machines.
const MACHINE_BYTES_MAX: usize = 8 << 20;
/// Memory for the states of a lazy machine, per thread and machine. A pattern that wants more is
/// searched for in another way.
const CACHE_BYTES_MAX: usize = 2 << 20;

/// How a pattern is to be understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatternOptions {
    /// It is plain text.
    pub literal: bool,
    /// Letters match without regard to case.
    pub ignore_case: bool,
}

/// How a field lies in the bytes of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// As it is compared.
    AsIs,
    /// Inside JSON text: a string may be escaped, and white space stands between the parts of an
    /// array or object.
    Json,
    /// In a cell of a row, where a quote is doubled, and may stand around any part.
    Cell,
}

impl Stored {
    /// The byte without which a string or a cell is stored as it is compared.
    fn escape(self) -> Option<u8> {
        match self {
            Stored::AsIs => None,
            Stored::Json => Some(b'\\'),
            Stored::Cell => Some(b'"'),
        }
    }
}

/// A compiled pattern.
#[derive(Debug)]
pub struct Pattern {
    exact: Regex,
    loose: Option<Regex>,
    /// What every match holds, but for case if that is ignored.
    texts: Vec<Vec<u8>>,
    /// What a field that matches is.
    whole: Option<Vec<u8>>,
    ignore_case: bool,
}

/// Memory for searching with one [`Pattern`] in one thread.
#[derive(Debug)]
pub struct Memory {
    exact: Cache,
    loose: Option<Cache>,
}

impl Pattern {
    /// Compiles `pattern`, to be looked for in fields that lie in their records as `stored` says.
    ///
    /// # Errors
    /// `Usage`, with the column, for what is no regular expression, and for one that is too large.
    pub fn new(pattern: &[u8], options: PatternOptions, stored: Stored) -> Result<Pattern> {
        let hir = match options.literal {
            true => literal(pattern, options.ignore_case)?,
            false => regular(pattern, options.ignore_case)?,
        };
        let mut texts = Vec::new();
        match (options.literal, options.ignore_case) {
            (true, _) => texts.push(pattern.to_vec()),
            (false, false) => required(&hir, &mut texts),
            (false, true) => required(&regular(pattern, false)?, &mut texts),
        }
        texts.retain(|t| !t.is_empty());
        let exact = compile(&hir)?;
        let free = hir.properties().look_set().is_empty();
        let loosened = loosened(&hir);
        let never_empty = loosened.properties().minimum_len() != Some(0);
        let usable = never_empty && keeps_clear(&loosened, stored);
        let loosened = match stored.escape() {
            None => loosened,
            Some(escape) => Hir::alternation(vec![loosened, Hir::literal([escape])]),
        };
        let same = free && stored.escape().is_none() && hir.properties().maximum_len().is_some();
        let loose = match (usable, same) {
            (false, _) => None,
            (true, true) => Some(exact.clone()),
            (true, false) => Some(compile(&loosened)?),
        };
        Ok(Pattern {
            exact,
            loose,
            texts,
            whole: whole(&hir),
            ignore_case: options.ignore_case,
        })
    }

    /// Texts that every match holds.
    pub fn texts(&self) -> &[Vec<u8>] {
        &self.texts
    }

    /// What a field that matches is, where it can be but one.
    pub fn whole(&self) -> Option<&[u8]> {
        self.whole.as_deref()
    }

    /// Whether [`Pattern::texts`] are held in any case.
    pub fn ignores_case(&self) -> bool {
        self.ignore_case
    }

    /// Whether there is a text that every match holds, or is.
    pub fn needs_text(&self) -> bool {
        !self.texts.is_empty() || self.whole.is_some()
    }

    /// Memory to search with.
    pub fn memory(&self) -> Memory {
        Memory {
            exact: self.exact.create_cache(),
            loose: self.loose.as_ref().map(Regex::create_cache),
        }
    }

    /// Whether a field matches.
    #[inline]
    pub fn matches(&self, memory: &mut Memory, field: &[u8]) -> bool {
        let input = Input::new(field).earliest(true);
        let found = self.exact.search_half_with(&mut memory.exact, &input);
        found.is_some()
    }

    /// Whether the bytes of a batch can be searched in place of its records.
    pub fn is_loose(&self) -> bool {
        self.loose.is_some()
    }

    /// The first loose match in `body` that begins at `from` or behind. No field matches that lies
    /// between `from` and its start.
    #[inline]
    pub fn first_loose(
        &self,
        memory: &mut Memory,
        body: &[u8],
        from: usize,
    ) -> Option<std::ops::Range<usize>> {
        let (Some(loose), Some(cache)) = (&self.loose, &mut memory.loose) else {
            return None;
        };
        if from > body.len() {
            return None;
        }
        let found = loose.search_with(cache, &Input::new(body).range(from..));
        found.map(|m| m.range())
    }
}

fn compile(hir: &Hir) -> Result<Regex> {
    let config = Config::new()
        .utf8_empty(false)
        .nfa_size_limit(Some(MACHINE_BYTES_MAX))
        .onepass_size_limit(Some(MACHINE_BYTES_MAX / 8))
        .hybrid_cache_capacity(CACHE_BYTES_MAX);
    let built = Regex::builder().configure(config).build_from_hir(hir);
    built.map_err(|e: BuildError| match e.size_limit() {
        Some(_) => Error::usage("the pattern is too large once compiled")
            .hint("a{1,1000} for a{1,1000000}"),
        None => Error::usage(format!("the pattern cannot be compiled: {e}")),
    })
}

fn parser(ignore_case: bool) -> regex_syntax::ParserBuilder {
    let mut parser = regex_syntax::ParserBuilder::new();
    parser.utf8(false).case_insensitive(ignore_case);
    parser
}

/// Plain text, which need not be UTF-8.
fn literal(text: &[u8], ignore_case: bool) -> Result<Hir> {
    if !ignore_case {
        return Ok(Hir::literal(text));
    }
    let mut parts = Vec::new();
    for chunk in text.utf8_chunks() {
        let escaped = regex_syntax::escape(chunk.valid());
        let parsed = parser(true).build().parse(&escaped);
        parts.push(parsed.map_err(|e| Error::usage(format!("cannot be searched for: {e}")))?);
        parts.push(Hir::literal(chunk.invalid()));
    }
    Ok(Hir::concat(parts))
}

fn regular(pattern: &[u8], ignore_case: bool) -> Result<Hir> {
    let text = std::str::from_utf8(pattern).map_err(|e| {
        let column = e.valid_up_to() + 1;
        Error::usage(format!("the pattern is not UTF-8 at byte {column}"))
            .hint(r"(?-u:\xff) matches that byte; -Q takes the pattern as plain bytes")
    })?;
    let parsed = parser(ignore_case).build().parse(text);
    parsed.map_err(|e| {
        let (why, at) = match &e {
            regex_syntax::Error::Parse(e) => (e.kind().to_string(), e.span().start),
            regex_syntax::Error::Translate(e) => (e.kind().to_string(), e.span().start),
            _ => return Error::usage(format!("not a regular expression: {e}")),
        };
        let line = if at.line > 1 {
            format!("line {}, ", at.line)
        } else {
            String::new()
        };
        Error::usage(format!(
            "the pattern is no regular expression at {line}column {}: {why}",
            at.column
        ))
        .hint("-Q takes the pattern as plain text")
    })
}

/// Adds the plain texts that every match holds.
fn required(hir: &Hir, texts: &mut Vec<Vec<u8>>) {
    match hir.kind() {
        HirKind::Literal(l) => texts.push(l.0.to_vec()),
        HirKind::Capture(c) => required(&c.sub, texts),
        HirKind::Concat(parts) => parts.iter().for_each(|p| required(p, texts)),
        HirKind::Repetition(r) if r.min > 0 => required(&r.sub, texts),
        _ => {}
    }
}

/// The text of a pattern that is a plain one between the ends of a field.
fn whole(hir: &Hir) -> Option<Vec<u8>> {
    let HirKind::Concat(parts) = hir.kind() else {
        return None;
    };
    let [start, text, end] = parts.as_slice() else {
        return None;
    };
    let is_whole = *start == Hir::look(Look::Start) && *end == Hir::look(Look::End);
    match text.kind() {
        HirKind::Literal(l) if is_whole => Some(l.0.to_vec()),
        _ => None,
    }
}

/// The same without `^ $ \b \B`, and content with little.
fn loosened(hir: &Hir) -> Hir {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => Hir::empty(),
        HirKind::Literal(l) => Hir::literal(l.0.clone()),
        HirKind::Class(c) => Hir::class(c.clone()),
        HirKind::Repetition(r) => Hir::repetition(Repetition {
            greedy: r.greedy && r.max.is_some(),
            sub: Box::new(loosened(&r.sub)),
            ..r.clone()
        }),
        HirKind::Capture(c) => loosened(&c.sub),
        HirKind::Concat(parts) => Hir::concat(parts.iter().map(loosened).collect()),
        HirKind::Alternation(parts) => Hir::alternation(parts.iter().map(loosened).collect()),
    }
}

/// Whether every match lies within one string, number or word of JSON, with white space only where it
/// is part of a string.
fn keeps_clear(hir: &Hir, stored: Stored) -> bool {
    let special: &[u8] = match stored {
        Stored::AsIs | Stored::Cell => return true,
        Stored::Json => b"\"[]{}:,",
    };
    let clear = |sub: &Hir| keeps_clear(sub, stored);
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => true,
        HirKind::Literal(l) => !l.0.iter().any(|b| special.contains(b)),
        HirKind::Class(Class::Bytes(c)) => !c
            .ranges()
            .iter()
            .any(|r| special.iter().any(|b| (r.start()..=r.end()).contains(b))),
        HirKind::Class(Class::Unicode(c)) => !c.ranges().iter().any(|r| {
            special
                .iter()
                .any(|b| (r.start()..=r.end()).contains(&char::from(*b)))
        }),
        HirKind::Repetition(r) => clear(&r.sub),
        HirKind::Capture(c) => clear(&c.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().all(clear),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(pattern: &str, stored: Stored) -> Pattern {
        Pattern::new(pattern.as_bytes(), PatternOptions::default(), stored).unwrap()
    }

    fn matches(pattern: &[u8], literal: bool, ignore_case: bool, field: &[u8]) -> bool {
        let options = PatternOptions {
            literal,
            ignore_case,
        };
        let p = Pattern::new(pattern, options, Stored::AsIs).unwrap();
        p.matches(&mut p.memory(), field)
    }

    #[test]
    fn ends_of_a_field_are_its_ends_whatever_lines_it_holds() {
        for (pattern, field, expected) in [
            ("^b", "a\nb", false),
            ("(?m)^b", "a\nb", true),
            ("a$", "a\nb", false),
            ("a.b", "a\nb", false),
            ("^$", "", true),
            ("", "", true),
            ("$", "x", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), false, false, field.as_bytes()),
                expected,
                "{pattern}"
            );
        }
    }

    #[test]
    fn bytes_that_are_no_text_can_be_searched_and_searched_for() {
        assert!(matches(b"b", false, false, b"\xffb\xfe"));
        assert!(!matches(b"^.b", false, false, b"\xffb"));
        assert!(matches(br"^(?s-u:.)b", false, false, b"\xffb"));
        assert!(matches(b"\xfe\xff", true, false, b"a\xfe\xffb"));
        assert!(matches(b"\xfeA", true, true, b"\xfea"));
        assert!(!matches(b"\xfeA", true, false, b"\xfea"));
    }

    #[test]
    fn letters_of_every_script_ignore_case_when_asked() {
        assert!(matches(
            "STRASSE Ä".as_bytes(),
            true,
            true,
            "strasse ä".as_bytes()
        ));
        assert!(matches("ä.c".as_bytes(), false, true, "ÄbC".as_bytes()));
        assert!(matches(b"a.c", true, false, b"xa.cx"));
        assert!(!matches(b"a.c", true, false, b"abc"));
    }

    #[test]
    fn errors_name_the_column() {
        let said = |p: &[u8]| {
            let e = Pattern::new(p, PatternOptions::default(), Stored::AsIs).unwrap_err();
            assert_eq!(e.kind(), crate::error::ErrorKind::Usage);
            e.to_string()
        };
        assert_eq!(
            said(b"ab(c"),
            "the pattern is no regular expression at column 3: unclosed group"
        );
        assert!(
            said(b"x{2,1}").contains("column 2: "),
            "{}",
            said(b"x{2,1}")
        );
        assert!(said(b"a\nb(").contains("line 2, column 2: "));
        assert!(said(br"\pX").contains("column 1: "));
        assert_eq!(said(b"ab\xff"), "the pattern is not UTF-8 at byte 3");
        assert!(said(br"(\pL{1000}){1000}").contains("too large"));
    }

    #[test]
    fn what_every_match_holds_is_known() {
        let texts = |p: &str| {
            let p = compiled(p, Stored::AsIs);
            let texts = p.texts().iter().map(|t| String::from_utf8_lossy(t));
            (texts.collect::<Vec<_>>().join(" "), p.whole().is_some())
        };
        assert_eq!(texts("abc"), ("abc".into(), false));
        assert_eq!(texts("^abc$"), ("abc".into(), true));
        assert_eq!(texts("(?m)^abc$"), ("abc".into(), false));
        assert_eq!(texts(r"(ab)+.*cd?e\b(x|y)z{0,2}"), ("ab c e".into(), false));
        assert_eq!(texts("ab|cd"), (String::new(), false));
        assert_eq!(texts("(?i)ab"), (String::new(), false));
        let options = PatternOptions {
            literal: false,
            ignore_case: true,
        };
        let p = Pattern::new(b"^Abc$", options, Stored::AsIs).unwrap();
        assert_eq!((p.texts(), p.whole()), (&[b"Abc".to_vec()][..], None));
    }

    #[test]
    fn only_patterns_that_match_something_are_loose() {
        let loose = |p: &str, stored| compiled(p, stored).loose.is_some();
        for p in ["a", "^a", r"\bfoo\b", "a+$", "(a|bc)d*"] {
            assert!(loose(p, Stored::AsIs), "{p}");
        }
        for p in ["", "^", "a*", r"\b", "^$", "a|b?"] {
            assert!(!loose(p, Stored::AsIs), "{p}");
        }
        assert!(loose("^5[0-9]", Stored::Json) && loose("a b", Stored::Json));
        for p in ["a,b", "a.b", r"\W", "[^a]", "\"", r"(?-u)\W", "a:"] {
            assert!(!loose(p, Stored::Json), "{p}");
        }
        let first = |p: &str, stored, body: &[u8]| {
            let p = compiled(p, stored);
            p.first_loose(&mut p.memory(), body, 0).map(|m| m.start)
        };
        assert_eq!(first("a", Stored::Json, b"{}"), None);
        assert_eq!(first("a", Stored::Json, br#"{"\u0061":1}"#), Some(2));
        assert_eq!(first("ab", Stored::Cell, b"x,\"a\"b"), Some(2));
        assert_eq!(first("^a.b", Stored::Cell, b"x,acb"), Some(2));
    }

    #[test]
    fn the_first_loose_match_begins_no_later_than_any() {
        let p = compiled(r"\bab+\b", Stored::AsIs);
        let mut memory = p.memory();
        assert_eq!(p.first_loose(&mut memory, b"..xabbb", 0), Some(3..5));
        assert_eq!(p.first_loose(&mut memory, b"..xabbb", 4), None);
        assert_eq!(p.first_loose(&mut memory, b"ab", 3), None);
        let p = compiled("abcdefgh|c", Stored::AsIs);
        assert_eq!(p.first_loose(&mut p.memory(), b"-abcdefgh", 0), Some(1..9));
        let p = compiled("a[^b]*", Stored::AsIs);
        assert_eq!(p.first_loose(&mut p.memory(), b"--a-----", 0), Some(2..3));
    }
}
