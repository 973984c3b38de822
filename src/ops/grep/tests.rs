//! Searching batches as a whole against looking at each record, with random patterns and records.

use proptest::prelude::*;

use super::find::{Finder, Found};
use super::{Pattern, PatternOptions, Query, Stored, Want};
use crate::format::batch::Batch;
use crate::format::builder::{BatchBuilder, Chunk, Seal, stamp};
use crate::format::codec::{Codec, Compression, Compressor};
use crate::format::record::{Header, NewRecord};
use crate::format::{Limits, Offset, TimestampMs};
use crate::ops::select::Selection;
use crate::ops::words::Field;

/// Key, value and value of the header `h`.
type Fields = [Option<Vec<u8>>; 3];

fn batch(records: &[Fields], codec: Codec) -> Vec<u8> {
    let mut builder = BatchBuilder::begin(Vec::new());
    for [key, value, header] in records {
        let headers: Vec<Header<'_>> = match header {
            Some(h) => vec![(b"a", None), (b"h", Some(h))],
            None => vec![],
        };
        let (key, value) = (key.as_deref(), value.as_deref());
        let headers = &headers;
        builder.push(
            TimestampMs(7),
            &NewRecord {
                key,
                value,
                headers,
            },
        );
    }
    let mut chunk = Chunk::default();
    let seal = Seal::default();
    if codec == Codec::None {
        chunk.bytes = builder.seal(&seal).0;
    } else {
        let mut compressor = Compressor::new(&Compression::from(codec));
        builder.seal_compressed(&seal, &mut compressor, &mut chunk);
    }
    stamp(&mut chunk.bytes, Offset(100), 0);
    chunk.bytes
}

fn query(pattern: &str, field: Field, invert: bool, want: Want) -> Option<Query> {
    let stored = match field {
        Field::Json(_) => Stored::Json,
        Field::Column(_) => Stored::Cell,
        _ => Stored::AsIs,
    };
    Some(Query {
        pattern: Pattern::new(pattern.as_bytes(), PatternOptions::default(), stored).ok()?,
        field,
        invert,
        selection: Selection::default(),
        want,
        reverse: false,
        limits: Limits::default(),
    })
}

/// Numbers of the records that match, as a search of their fields one by one finds them.
fn one_by_one(pattern: &str, field: &Field, records: &[Fields]) -> Vec<usize> {
    let regex = regex_automata::meta::Builder::new()
        .syntax(regex_automata::util::syntax::Config::new().utf8(false))
        .configure(regex_automata::meta::Config::new().utf8_empty(false))
        .build(pattern)
        .unwrap();
    let takes = |[key, value, header]: &Fields| {
        let header = |_: &[u8]| header.as_deref();
        let part = field.of(key.as_deref(), value.as_deref(), header);
        part.is_some_and(|p| regex.is_match(regex_automata::Input::new(&*p)))
    };
    let all = records.iter().enumerate();
    all.filter(|(_, r)| takes(r)).map(|(n, _)| n).collect()
}

/// The same by our own search, with what is told of each record checked against the others.
fn searched(
    pattern: &str,
    field: &Field,
    invert: bool,
    stored: &[u8],
    finder: &mut Option<Finder>,
) -> Vec<usize> {
    let batch = Batch::check(stored).unwrap();
    let wanted = Offset(0)..Offset::MAX;
    let mut numbers = |want| {
        let query = query(pattern, field.clone(), invert, want).unwrap();
        let mut fresh = Finder::new(&query);
        let finder = finder
            .as_mut()
            .filter(|_| want == Want::Matches)
            .unwrap_or(&mut fresh);
        let (mut out, mut found) = (Vec::new(), Found::default());
        let plain = finder
            .find(&query, &batch, &wanted, &mut out, &mut found)
            .unwrap();
        let matches = found.lines.iter().filter(|l| l.is_match);
        let number = |p: u32| {
            let record = plain.record_at(p as usize).unwrap();
            usize::try_from(record.offset.0 - 100).unwrap()
        };
        (
            found.matches,
            matches.map(|l| number(l.position)).collect::<Vec<_>>(),
        )
    };
    let (count, _) = numbers(Want::Count);
    let (_, of_all) = numbers(Want::All);
    let (_, matches) = numbers(Want::Matches);
    assert_eq!((count, &of_all), (matches.len() as u64, &matches));
    matches
}

/// Bytes of few kinds, so that patterns meet them, and lengths and counts look like text.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        8 => prop::sample::select(&b"abcx1 _-"[..]),
        1 => prop::sample::select(&b"\n\0\x02\x04\xff\xc3\xa4\"\\,{}:[]"[..]),
    ];
    prop::collection::vec(byte, 0..40)
}

fn json() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        "[ab1 ,]{0,6}".prop_map(|s| format!("\"{s}\"")),
        "[ab]{0,3}".prop_map(|s| format!("\"{s}\\u0061\\\"\"")),
        (0..200u32).prop_map(|n| n.to_string()),
        Just("true".to_string()),
        Just("null".to_string()),
        "[ab]{1,3}".prop_map(|s| format!("[\"{s}\" , 1,  2]")),
    ];
    (leaf.clone(), leaf, prop::bool::ANY).prop_map(|(a, b, odd)| {
        let text = if odd {
            format!("{{\"b\": {b},\t\"a\" : {a} }}")
        } else {
            format!("{{\"a\":{a},\"b\":{b}}}")
        };
        text.into_bytes()
    })
}

fn fields() -> impl Strategy<Value = Fields> {
    let some = || prop::option::weighted(0.8, text());
    let value = prop_oneof![3 => some(), 1 => json().prop_map(Some)];
    (some(), value, some()).prop_map(|(k, v, h)| [k, v, h])
}

/// Patterns that parse, with what makes a search of the whole go wrong: ends, word boundaries,
/// matches of nothing, matches that run over fields and records.
fn pattern() -> impl Strategy<Value = String> {
    let atom = prop::sample::select(vec![
        "a",
        "b",
        "ab",
        "abc",
        "x",
        "1",
        "ä",
        ".",
        "(?s-u:.)",
        "[^a]",
        "[ab]",
        r"\w",
        r"\W",
        r"\s",
        r"\d",
        "^",
        "$",
        r"\b",
        r"\B",
        "(?m:^)",
        "(?m:$)",
        r"\x02",
        r"\x00",
        r"(?-u:\xff)",
        "(?i:A)",
        "\"",
        ",",
        "true",
        "2",
    ]);
    let repeat = prop::sample::select(vec![
        "", "", "", "*", "+", "?", "{2}", "{0,2}", "*?", "+?", "{3,}",
    ]);
    let piece = (atom, repeat).prop_map(|(a, r)| format!("(?:{a}){r}"));
    let row = prop::collection::vec(piece, 1..5).prop_map(|p| p.concat());
    let nested = (row.clone(), prop::sample::select(vec!["", "*", "+"]))
        .prop_map(|(r, x)| format!("({r}){x}"));
    prop_oneof![
        3 => row.clone(),
        1 => (row.clone(), row.clone()).prop_map(|(a, b)| format!("{a}|{b}")),
        1 => (nested, row).prop_map(|(a, b)| format!("{a}{b}")),
    ]
}

fn field() -> impl Strategy<Value = Field> {
    let words = vec![
        "value",
        "value",
        "key",
        "header:h",
        "json:/a",
        "json:",
        "json:/a/1",
    ];
    prop::sample::select(words).prop_map(|w| Field::parse(w).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn searching_batches_finds_what_looking_at_each_record_finds(
        batches in prop::collection::vec(prop::collection::vec(fields(), 1..25), 1..4),
        pattern in pattern(),
        field in field(),
        invert in any::<bool>(),
        codec in prop::sample::select(vec![Codec::None, Codec::None, Codec::Lz4]),
    ) {
        let first = query(&pattern, field.clone(), invert, Want::Matches);
        prop_assume!(first.is_some());
        // One finder for all, as it learns from one what to do with the next.
        let mut finder = first.map(|q| Finder::new(&q));
        for records in &batches {
            let mut expected = one_by_one(&pattern, &field, records);
            if invert {
                let all = 0..records.len();
                expected = all.filter(|n| !expected.contains(n)).collect();
            }
            let found = searched(&pattern, &field, invert, &batch(records, codec), &mut finder);
            prop_assert_eq!(found, expected);
        }
    }
}

#[test]
fn a_pattern_that_is_everywhere_or_ends_far_away_is_given_up_as_a_whole() {
    let value = |v: &[u8]| [None, Some(v.to_vec()), None];
    let mut records: Vec<Fields> = (0..2000).map(|_| value(b"foo")).collect();
    records.push(value(b"bar"));
    let stored = batch(&records, Codec::None);
    for pattern in ["o", r"foo[^\xfe]*bar", "(?s-u:foo.*bar)"] {
        let began = std::time::Instant::now();
        let expected = one_by_one(pattern, &Field::Value, &records);
        assert_eq!(
            searched(pattern, &Field::Value, false, &stored, &mut None),
            expected
        );
        assert!(began.elapsed().as_secs() < 5, "{pattern}");
    }
}

#[test]
fn what_is_stored_otherwise_than_it_is_compared_is_found() {
    for (field, pattern, value) in [
        ("json:/x", "a", r#"{"x":"\u0061"}"#),
        ("json:/x", "u/v", r#"{"x":"u\/v"}"#),
        ("json:/x", "1,2", r#"{"x":[1 , 2]}"#),
        ("json:/x", r"^\[\S*\]$", r#"{"x":[1 , 2]}"#),
        ("json:/x", "\"y\":", r#"{"x":{ "y" : 0}}"#),
        ("column:2", "b\"b", r#"a,"b""b""#),
        ("column:1", "bc", r#""ab"cd,e"#),
        ("column:2", "^ab$", r#"x,"a"b"#),
    ] {
        let records: [Fields; 1] = [[None, Some(value.as_bytes().to_vec()), None]];
        let stored = batch(&records, Codec::None);
        let field = Field::parse(field).unwrap();
        let found = searched(pattern, &field, false, &stored, &mut None);
        assert_eq!(found, [0], "{field} {pattern} {value}");
    }
}

#[test]
fn a_defect_behind_a_match_is_told_and_only_wanted_offsets_are_found() {
    let records: Vec<Fields> = (0..5)
        .map(|n| [None, Some(format!("v{n}").into_bytes()), None])
        .collect();
    let stored = batch(&records, Codec::None);
    let checked = Batch::check(&stored).unwrap();
    let query = query("v", Field::Value, false, Want::Matches).unwrap();
    let mut finder = Finder::new(&query);
    let (mut out, mut found) = (Vec::new(), Found::default());
    let wanted = Offset(101)..Offset(103);
    finder
        .find(&query, &checked, &wanted, &mut out, &mut found)
        .unwrap();
    assert_eq!(found.matches, 2);
    let mut header = checked.header().clone();
    header.count += 1;
    let short = Batch::checked(header, &stored);
    assert!(
        finder
            .find(&query, &short, &wanted, &mut out, &mut found)
            .is_err()
    );
}
