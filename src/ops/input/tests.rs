//! Every format in whole and in pieces, back from every format's output, and every refusal.

use proptest::prelude::*;

use super::*;
use crate::format::TimestampMs;
use crate::ops::output::tests::{Owned, owned, print};
use crate::ops::output::{FormatOptions, table::TableColumn};
use crate::ops::words::refusal;

fn now() -> Now {
    Now::in_zone(TimestampMs(0), jiff::tz::TimeZone::UTC)
}

fn options(format: &str) -> InputOptions {
    InputOptions::new(Format::parse(format).unwrap(), now())
}

fn field(word: &str) -> Option<Field> {
    Some(Field::parse(word).unwrap())
}

/// What came of an input: records, and refusals as `PLACE: reason`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    records: Vec<Owned>,
    offsets: Vec<Option<i64>>,
    ids: Vec<Option<Vec<u8>>>,
    refused: Vec<String>,
    rejects: Vec<u8>,
    batches: Vec<u8>,
}

/// Reads all of `bytes`, `piece` at a time, going on after each refusal.
fn read_in(o: &InputOptions, bytes: &[u8], piece: usize) -> Outcome {
    let mut input = Input::new(o).unwrap();
    let mut out = Outcome::default();
    let (mut start, mut end) = (0, 0);
    loop {
        let eof = end == bytes.len();
        let used = match input.next(&bytes[start..end], eof) {
            Step::End => {
                assert!(eof);
                return out;
            }
            Step::NeedMore => {
                assert!(!eof, "asked for more at the end");
                end = (end + piece).min(bytes.len());
                0
            }
            Step::Header { used } => used,
            Step::Batch { used, bytes } => {
                out.batches.extend_from_slice(bytes);
                used
            }
            Step::Record { used, record } => {
                out.push(&record);
                used
            }
            Step::Bad(bad) => {
                if !bad.continued {
                    out.refused.push(bad.error("stdin").to_string());
                }
                out.rejects.extend_from_slice(bad.raw);
                bad.used
            }
        };
        start += used;
        assert!(start <= end);
    }
}

impl Outcome {
    fn push(&mut self, r: &InputRecord<'_>) {
        let headers = r.headers.to_vec();
        assert_eq!(headers.is_empty(), r.headers.is_empty());
        self.records.push(Owned {
            timestamp: r.timestamp.unwrap_or(-1),
            key: r.key.map(Into::into),
            value: r.value.map(Into::into),
            headers: headers
                .into_iter()
                .map(|(n, v)| (n.to_vec(), v.map(<[u8]>::to_vec)))
                .collect(),
        });
        self.offsets.push(r.offset);
        self.ids.push(r.id.map(Into::into));
    }
}

/// Reads all of `bytes`, the same whatever the size of the pieces.
fn read(o: &InputOptions, bytes: impl AsRef<[u8]>) -> Outcome {
    let bytes = bytes.as_ref();
    let whole = read_in(o, bytes, usize::MAX / 2);
    for piece in [1, 2, 7, 8] {
        let pieces = read_in(o, bytes, piece);
        assert_eq!(pieces, whole, "in pieces of {piece}");
    }
    whole
}

fn values(o: &InputOptions, bytes: impl AsRef<[u8]>) -> Vec<Option<String>> {
    let out = read(o, bytes);
    assert_eq!(out.refused, [""; 0]);
    out.records
        .into_iter()
        .map(|r| r.value.map(|v| String::from_utf8(v).unwrap()))
        .collect()
}

fn some<const N: usize>(texts: [&str; N]) -> Vec<Option<String>> {
    texts.map(|t| Some(t.to_string())).to_vec()
}

#[test]
fn lines_keep_empty_ones_and_cr_and_an_unfinished_last() {
    let o = options("lines");
    assert_eq!(values(&o, "a\n\nb\r\nlast"), some(["a", "", "b\r", "last"]));
    assert_eq!(values(&o, ""), some([]));
    assert_eq!(values(&o, "\n"), some([""]));
    assert_eq!(
        values(&options("nul"), "a\0b\nc\0\0d"),
        some(["a", "b\nc", "", "d"])
    );
}

#[test]
fn whole_input_is_one_record() {
    let mut o = options("lines");
    o.whole = true;
    assert_eq!(values(&o, "a\nb\n"), some(["a\nb\n"]));
    assert_eq!(values(&o, ""), some([""]));
}

#[test]
fn only_json_null_frames_and_z_make_tombstones() {
    assert_eq!(
        values(&options("json"), "{\"key\":\"u\",\"value\":null}"),
        [None]
    );
    assert_eq!(values(&options("frames"), [0xff; 4]), [None]);
    assert_eq!(values(&options("frames"), [0; 4]), some([""]));
    let mut o = options("lines");
    assert_eq!(values(&o, "\n"), some([""]));
    o.empty_is_tombstone = true;
    o.key_delimiter = Some("\\t".into());
    let out = read(&o, "u42\t");
    assert_eq!(out.records, [owned(-1, Some("u42"), None)]);
}

#[test]
fn hex_and_base64_lines_are_decoded() {
    assert_eq!(
        values(&options("hex"), "6162\n\nC3bf"),
        some(["ab", "", "\u{ff}"])
    );
    assert_eq!(
        values(&options("base64"), "YWI=\n\nw78/Pg=="),
        some(["ab", "", "\u{ff}?>"])
    );
    let out = read(&options("hex"), "61\n6\n6x\n62\r\n63\n");
    assert_eq!(
        out.refused,
        [
            "stdin:2: not hexadecimal at column 1",
            "stdin:3: not hexadecimal at column 2",
            "stdin:4: not hexadecimal at column 3"
        ]
    );
    assert_eq!(out.rejects, b"6\n6x\n62\r\n");
    let out = read(&options("base64"), "YWI=\nYW*=\nYWI\n");
    assert_eq!(
        out.refused,
        [
            "stdin:2: not base64 at column 3",
            "stdin:3: not base64 at column 1"
        ]
    );
}

#[test]
fn json_object_of_the_contract_is_read() {
    let line = "{\"topic\":\"orders\",\"partition\":0,\"offset\":42,\"ts\":1763626415123,\
                \"key\":\"u1\",\"value\":\"paid\",\"headers\":[[\"trace\",\"ab12\"]]}\n";
    let mut o = options("json");
    let out = read(&o, line);
    let headers = vec![(b"trace".to_vec(), Some(b"ab12".to_vec()))];
    let want = Owned {
        headers,
        ..owned(1_763_626_415_123, Some("u1"), Some("paid"))
    };
    assert_eq!((out.records, out.offsets), (vec![want.clone()], vec![None]));
    o.keep_offsets = true;
    assert_eq!(read(&o, line).offsets, [Some(42)]);
    let same = r#" { "headers" : [ [ "tr\u0061ce" , "ab12" ] ] , "value_b64":"cGFpZA==", "k\u0065y":"u\u0031", "ts":1763626415123 } "#;
    assert_eq!(read(&o, same).records, [want]);
    let nested = read(&o, r#"{"value_json": {"a b": [1, 2.50]} }"#);
    assert_eq!(
        nested.records,
        [owned(-1, None, Some(r#"{"a b": [1, 2.50]}"#))]
    );
}

#[test]
fn json_refusals_say_where_and_why() {
    let mut o = options("json");
    o.keep_offsets = true;
    let refused = |line: &str| {
        let text = format!("{{\"value\":\"a\"}}\n{line}\n{{\"value\":\"b\"}}\n");
        let out = read(&o, &text);
        assert_eq!(out.records.len(), 2, "{line}: goes on at the next line");
        assert_eq!(out.rejects, format!("{line}\n").as_bytes());
        let [reason] = out.refused.try_into().unwrap();
        reason.strip_prefix("stdin:2: ").unwrap().to_string()
    };
    assert_eq!(refused("{\"value\":\"ab\" oops}"), "not JSON at column 15");
    assert_eq!(refused(""), "not JSON at column 1");
    assert_eq!(refused("{\"value\":\"a\"} x"), "not JSON at column 15");
    assert_eq!(
        refused("[1,2]"),
        "JSON, but no record: a record is an object"
    );
    assert_eq!(refused("[1,2"), "not JSON at column 5");
    assert_eq!(refused("{\"user\":1}"), "\"user\" is no field of a record");
    assert_eq!(refused("{\"user\":1"), "not JSON at column 10");
    assert_eq!(refused("{\"key\":\"u1\"}"), "the object has no value");
    assert_eq!(refused("{}"), "the object has no value");
    assert_eq!(
        refused("{\"value\":1}"),
        "value is not a string or null at column 10"
    );
    assert_eq!(refused("{\"value\":}"), "not JSON at column 10");
    assert_eq!(refused("{\"value\":nul}"), "not JSON at column 10");
    assert_eq!(
        refused("{\"value\":\"a\",\"value_b64\":\"\"}"),
        "the value is given twice"
    );
    assert_eq!(
        refused("{\"key\":\"a\",\"key\":\"a\"}"),
        "the key is given twice"
    );
    assert_eq!(
        refused("{\"ts\":1.5}"),
        "ts is not a whole number at column 7"
    );
    assert_eq!(
        refused("{\"ts\":\"1\"}"),
        "ts is not a whole number at column 7"
    );
    assert_eq!(
        refused("{\"ts\":9223372036854775808}"),
        "ts is not a whole number at column 7"
    );
    assert_eq!(refused("{\"offset\":-1}"), "the offset is negative");
    assert_eq!(
        refused("{\"key_b64\":\"*\"}"),
        "key_b64 is not base64 at column 13"
    );
    assert_eq!(
        refused("{\"key_b64\":null}"),
        "key_b64 is not a string of base64 at column 12"
    );
    assert_eq!(
        refused("{\"headers\":{}}"),
        "headers is not a list of pairs at column 12"
    );
    assert_eq!(
        refused("{\"headers\":[[\"a\"]]}"),
        "headers is not a list of pairs at column 17"
    );
    assert_eq!(
        refused("{\"headers\":[[\"a\",\"b\",1]]}"),
        "headers is not a list of pairs at column 22"
    );
    assert_eq!(
        refused("{\"headers\":[[null,\"b\"]]}"),
        "a header's name is null"
    );
    assert_eq!(
        refused("{\"headers\":[[\"a\",1]]}"),
        "headers is not a string or null at column 18"
    );
    let plain = Input::new(&o)
        .unwrap()
        .next(b"{\"level\":\"info\"}\n", true)
        .bad_error();
    assert_eq!(plain.kind(), crate::error::ErrorKind::Data);
    assert_eq!(
        plain.hint_text(),
        Some("-F lines     (lines that merely are JSON are plain lines)")
    );
}

impl Step<'_> {
    fn bad_error(&self) -> Error {
        match self {
            Step::Bad(bad) => bad.error("stdin"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn bytes_that_are_not_utf8_are_named_in_json() {
    let out = read(&options("json"), b"{\"value\":\"\xff\"}\n");
    assert_eq!(out.refused, ["stdin:1: not UTF-8 at column 11"]);
}

#[test]
fn csv_rows_are_records_as_read() {
    let text = "sku,name,at\r\n1,\"a \"\"b\"\"\nc\",5\r\n\r\n2,d,\n3,e,6";
    let out = values(&options("csv"), text);
    assert_eq!(out, some(["1,\"a \"\"b\"\"\nc\",5", "2,d,", "3,e,6"]));
    let mut o = options("csv");
    o.key_from = field("column:sku");
    o.value_from = field("column:2");
    o.id_from = field("column:name");
    let out = read(&o, text);
    assert_eq!(out.refused, [""; 0]);
    assert_eq!(
        out.records,
        [
            owned(-1, Some("1"), Some("a \"b\"\nc")),
            owned(-1, Some("2"), Some("d")),
            owned(-1, Some("3"), Some("e"))
        ]
    );
    assert_eq!(out.ids[2].as_deref(), Some(&b"e"[..]));
    o.header_row = false;
    (o.key_from, o.id_from) = (field("column:1"), None);
    assert_eq!(read(&o, text).records.len(), 4);
    let out = read(&options("tsv"), "a\tb\n1,5\t\"x\ty\"\n");
    assert_eq!(out.records, [owned(-1, None, Some("1,5\t\"x\ty\""))]);
}

#[test]
fn csv_refusals_say_where_and_why() {
    let out = read(&options("csv"), "a,b\n1,2\n\n\"x\ny\"\n3,4,5\n6,\"7\n8,9\n");
    assert_eq!(out.records.len(), 1);
    assert_eq!(
        out.refused,
        [
            "stdin:4: row has 1 columns, the header has 2",
            "stdin:6: row has 3 columns, the header has 2",
            "stdin:7: a quote is not closed"
        ]
    );
    let mut o = options("csv");
    o.key_from = field("column:sku");
    let out = read(&o, "a,b\n1,2\n");
    assert_eq!(
        out.refused,
        ["stdin:1: no column:sku; the columns are a, b"]
    );
    assert!(out.records.is_empty());
    o.header_row = false;
    o.key_from = field("column:3");
    let out = read(&o, "a,b\n1,2,3\n");
    assert_eq!(out.refused, ["stdin:1: no column:3"]);
    assert_eq!(out.records, [owned(-1, Some("3"), Some("1,2,3"))]);
}

#[test]
fn table_begins_anew_with_each_input() {
    let mut o = options("csv");
    o.key_from = field("column:k");
    let mut input = Input::new(&o).unwrap();
    for text in ["k,v\n1,2\n", "v,k\n2,1\n"] {
        input.restart(0);
        let Step::Header { used } = input.next(text.as_bytes(), true) else {
            panic!("header row");
        };
        let Step::Record { record, .. } = input.next(&text.as_bytes()[used..], true) else {
            panic!("row");
        };
        assert_eq!(record.key, Some(&b"1"[..]));
    }
}

#[test]
fn frames_that_end_early_or_lie_are_refused() {
    let mut o = options("frames");
    let refused = |o: &InputOptions, bytes: &[u8]| read(o, bytes).refused;
    assert_eq!(
        refused(&o, b"\0\0\0\x01a\0\0"),
        ["stdin: byte 5: the input ends inside a frame's length, after 2 of 4 bytes"]
    );
    assert_eq!(
        refused(&o, b"\0\0\0\x05ab"),
        ["stdin: byte 0: the input ends inside a frame, after 2 of 5 bytes"]
    );
    let lie = read(&o, b"\xff\xff\xff\xfe\0\0\0\x01a");
    assert_eq!(lie.refused, ["stdin: byte 0: frame length -2 is negative"]);
    assert!(lie.records.is_empty(), "nothing after it can be told apart");
    o.record_bytes_max = 4;
    let out = read(&o, b"\0\0\0\x05abcde\0\0\0\x01x");
    assert_eq!(
        out.refused,
        ["stdin: byte 0: record of 5 bytes is over the limit of 4"]
    );
    assert_eq!(
        (out.records, &out.rejects[..]),
        (vec![owned(-1, None, Some("x"))], &b"\0\0\0\x05abcde"[..])
    );
}

#[test]
fn records_over_the_limit_are_refused_and_passed_over() {
    let mut o = options("lines");
    o.record_bytes_max = 4;
    let whole = read_in(&o, b"abcd\nabcde\nab\n", 100);
    assert_eq!(
        whole.refused,
        ["stdin:2: record of 5 bytes is over the limit of 4"]
    );
    for piece in [1, 3, 100] {
        for (format, text) in [
            ("lines", "abcd\nabcdefghij\nab\n"),
            ("nul", "abcd\0abcdefghij\0ab\0"),
        ] {
            o.format = Format::parse(format).unwrap();
            let out = read_in(&o, text.as_bytes(), piece);
            assert_eq!(
                out.records,
                [owned(-1, None, Some("abcd")), owned(-1, None, Some("ab"))]
            );
            assert_eq!((out.refused.len(), out.rejects.len()), (1, 11));
        }
    }
    let error = Input::new(&o)
        .unwrap()
        .next(b"abcdefghij", false)
        .bad_error();
    assert_eq!(
        error.to_string(),
        "stdin:1: record of at least 10 bytes is over the limit of 4"
    );
    assert!(error.hint_text().unwrap().starts_with("--max-record-size "));
    // What counts is the record, not how it is spelled.
    o.format = Format::Json;
    assert_eq!(
        read(&o, r#"{"value":"\u0061\u0061\u0061\u0061"}"#).refused,
        [""; 0]
    );
    assert_eq!(
        read(&o, r#"{"key":"a","value":"aaaa"}"#).refused,
        ["stdin:1: record of 5 bytes is over the limit of 4"]
    );
    o.format = Format::Csv;
    let row = format!("a\n\"{}\n\"\nb\n", "x".repeat(80_000));
    for piece in [1000, 1 << 20] {
        let out = read_in(&o, row.as_bytes(), piece);
        assert_eq!(
            (out.refused.len(), out.records),
            (1, vec![owned(-1, None, Some("b"))])
        );
        assert_eq!(out.rejects.len(), 80_004);
    }
}

#[test]
fn key_is_the_text_before_the_first_delimiter() {
    let mut o = options("lines");
    o.key_delimiter = Some(r"\x3a:".into());
    let out = read(&o, "u1::a::b\nnone\n::c");
    assert_eq!(
        out.records,
        [
            owned(-1, Some("u1"), Some("a::b")),
            owned(-1, Some(""), Some("c"))
        ]
    );
    assert_eq!(out.refused, [r"stdin:2: no key: '\x3a:' does not occur"]);
    o.key_delimiter = Some(r"\t".into());
    o.timestamp_from = field("json:/at");
    let out = read(&o, "u1\t{\"at\":1763626415123}");
    assert_eq!(
        out.records,
        [owned(
            1_763_626_415_123,
            Some("u1"),
            Some("{\"at\":1763626415123}")
        )]
    );
}

#[test]
fn fields_of_the_value_become_key_timestamp_and_id() {
    let mut o = options("lines");
    o.key_from = field("json:/user/id");
    o.value_from = field("json:/v");
    o.timestamp_from = field("json:/at");
    o.id_from = field("value");
    let lines = "{\"user\":{\"id\":7},\"at\":\"2026-11-20T08:00:00Z\",\"v\":[1, 2]}\n\
                 {\"user\":{\"id\":null},\"at\":5,\"v\":0}\n\
                 {\"user\":{\"id\":1},\"at\":\"soon\",\"v\":0}\n\
                 {\"user\":{\"id\":1},\"at\":5}\n\
                 oops\n";
    let out = read(&o, lines);
    assert_eq!(
        out.records,
        [owned(1_795_161_600_000, Some("7"), Some("[1,2]"))]
    );
    assert_eq!(
        out.ids[0].as_deref(),
        lines.lines().next().map(str::as_bytes)
    );
    assert_eq!(
        out.refused,
        [
            "stdin:2: no json:/user/id",
            "stdin:3: json:/at is not a time: \"soon\"",
            "stdin:4: no json:/v",
            "stdin:5: not JSON at column 1"
        ]
    );
}

#[test]
fn constant_key_headers_and_timestamp_go_on_every_record() {
    let mut o = options("json");
    o.key = Some(b"k".to_vec());
    o.headers = vec![("a".into(), "1".into()), ("b".into(), String::new())];
    o.timestamp = Some(9);
    let out = read(
        &o,
        r#"{"key":"own","value":"v","ts":5,"headers":[["x",null]]}"#,
    );
    let headers = vec![
        (b"x".to_vec(), None),
        (b"a".to_vec(), Some(b"1".to_vec())),
        (b"b".to_vec(), Some(Vec::new())),
    ];
    let want = Owned {
        headers,
        ..owned(9, Some("k"), Some("v"))
    };
    assert_eq!(out.records, [want]);
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let no = |format: &str, set: &dyn Fn(&mut InputOptions)| {
        let mut o = options(format);
        set(&mut o);
        refusal(Input::new(&o))
    };
    assert_eq!(
        no("%s", &|_| {}),
        "-F '%s': a template is for output; as input take -K, json or csv | -F json"
    );
    assert_eq!(
        no("lines", &|o| (o.key, o.key_from) =
            (Some(vec![1]), field("value"))),
        "-k and --key-from exclude each other"
    );
    assert_eq!(
        no("lines", &|o| (o.timestamp, o.timestamp_from) =
            (Some(1), field("value"))),
        "--timestamp and --timestamp-from exclude each other"
    );
    assert_eq!(
        no("lines", &|o| o.key_from = field("column:sku")),
        "--key-from column:sku: only csv and tsv have columns | -F csv"
    );
    assert_eq!(
        no("csv", &|o| (o.header_row, o.id_from) =
            (false, field("column:sku"))),
        "--id-from column:sku: --no-header-row leaves column numbers only | --id-from column:1"
    );
    assert_eq!(
        no("json", &|o| o.key_delimiter = Some(",".into())),
        "-K splits text, and json has fields: use --key-from"
    );
    assert_eq!(
        no("lines", &|o| o.key_delimiter = Some(String::new())),
        "-K '': the delimiter is empty | -K '\\t'"
    );
    assert_eq!(
        no("lines", &|o| o.key_delimiter = Some(r"\q".into())),
        r"\q: no escape \q; there are \n \t \r \0 \xNN \\"
    );
    assert_eq!(
        no("lines", &|o| o.header_row = false),
        "--no-header-row: only csv and tsv have a header row"
    );
    assert_eq!(
        no("lines", &|o| o.keep_offsets = true),
        "--keep-offsets: lines carries no offsets, json and batch do"
    );
    assert_eq!(
        no("hex", &|o| o.whole = true),
        "--whole takes the input as it is, so -F hex does not apply"
    );
    assert_eq!(
        no("batch", &|o| o.empty_is_tombstone = true),
        "-Z: -F batch takes records as they are stored"
    );
}

#[test]
fn batches_pass_as_they_are() {
    use crate::format::builder::{BatchBuilder, Seal};
    use crate::format::record::NewRecord;
    let mut bytes = Vec::new();
    for n in 1..4 {
        let mut builder = BatchBuilder::begin(bytes);
        let record = NewRecord {
            value: Some(&[7; 30]),
            ..NewRecord::default()
        };
        (0..n).for_each(|_| builder.push(TimestampMs(1), &record));
        bytes = builder.seal(&Seal::default()).0;
    }
    let out = read(&options("batch"), &bytes);
    assert_eq!((&out.batches, out.refused.len()), (&bytes, 0));
    let cut = read(&options("batch"), &bytes[..bytes.len() - 1]);
    assert!(
        cut.refused[0].contains("the input ends inside a batch, after"),
        "{cut:?}"
    );
    let zero = read(&options("batch"), [0; 40]);
    assert_eq!(
        zero.refused,
        ["stdin: byte 0: not a record batch: its length is 0"]
    );
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "[ -~\\n\\r\\t\"\\\\,é\u{1F600}]{0,20}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..20),
    ]
}

pub(super) fn record() -> impl Strategy<Value = Owned> {
    let header = (bytes(), prop::option::of(bytes()));
    (
        prop_oneof![Just(-1), 0..i64::MAX],
        prop::option::of(bytes()),
        prop::option::of(bytes()),
        prop::collection::vec(header, 0..3),
    )
        .prop_map(|(timestamp, key, value, headers)| Owned {
            timestamp,
            key,
            value,
            headers,
        })
}

/// The values alone; null as empty where the format cannot tell them apart.
fn only_values(records: &[Owned], null: bool) -> Vec<Owned> {
    let value = |r: &Owned| match null {
        true => r.value.clone(),
        false => Some(r.value.clone().unwrap_or_default()),
    };
    records
        .iter()
        .map(|r| Owned {
            timestamp: -1,
            value: value(r),
            ..Owned::default()
        })
        .collect()
}

/// A line as `serde_json` reads it into a record; `None` if it is not one.
fn twin(line: &[u8]) -> Option<Owned> {
    use serde_json::Value;
    let Value::Object(object) = serde_json::from_slice(line).ok()? else {
        return None;
    };
    let decode = |v: &Value| BASE64.decode(v.as_str()?.as_bytes()).ok();
    let text = |v: &Value| match v {
        Value::Null => Some(None),
        Value::String(s) => Some(Some(s.clone().into_bytes())),
        _ => None,
    };
    let mut out = owned(-1, None, None);
    let mut has_value = false;
    for (name, v) in &object {
        has_value |= name.starts_with("value");
        match name.as_str() {
            "key" => out.key = text(v)?,
            "value" => out.value = text(v)?,
            "key_b64" => out.key = Some(decode(v)?),
            "value_b64" => out.value = Some(decode(v)?),
            "ts" => out.timestamp = v.as_i64()?,
            "headers" | "headers_b64" => {
                for pair in v.as_array()? {
                    let [name, value] = pair.as_array()?.as_slice() else {
                        return None;
                    };
                    let read = |v: &Value| match object.contains_key("headers") || v.is_null() {
                        true => text(v),
                        false => decode(v).map(Some),
                    };
                    out.headers.push((read(name)??, read(value)?));
                }
            }
            "topic" | "partition" | "offset" => {}
            _ => return None,
        }
    }
    has_value.then_some(out)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn json_round_trips_whole_records(records in prop::collection::vec(record(), 0..5), visible in any::<bool>()) {
        let shown = FormatOptions { visible, ..FormatOptions::default() };
        let out = read(&options("json"), print(&Format::Json, &shown, &records));
        prop_assert_eq!(out.refused, [""; 0]);
        prop_assert_eq!(out.records, records);
    }

    #[test]
    fn json_nests_and_comes_back_as_the_same_json(text in crate::ops::json::tests::nearly_json()) {
        let nest = FormatOptions { nest: true, ..FormatOptions::default() };
        let record = Owned { value: Some(text.clone()), ..Owned::default() };
        let out = read(&options("json"), print(&Format::Json, &nest, &[record]));
        let back = out.records[0].value.clone().unwrap();
        match crate::ops::json::check(&text) {
            Err(_) => prop_assert_eq!(back, text),
            Ok(value) => {
                let mut dense = Vec::new();
                crate::ops::json::compact(value.text, &mut dense);
                prop_assert_eq!(back, dense);
            }
        }
    }

    #[test]
    fn value_formats_round_trip(records in prop::collection::vec(record(), 0..5)) {
        for (format, null) in [("hex", false), ("base64", false), ("frames", true)] {
            let o = options(format);
            let out = read(&o, print(&o.format, &FormatOptions::default(), &records));
            prop_assert_eq!(out.records, only_values(&records, null));
        }
        for (format, end) in [("nul", 0), ("lines", b'\n')] {
            let mut records = records.clone();
            records.iter_mut().filter_map(|r| r.value.as_mut()).for_each(|v| v.retain(|b| *b != end));
            let o = options(format);
            let out = read(&o, print(&o.format, &FormatOptions::default(), &records));
            prop_assert_eq!(out.records, only_values(&records, false));
        }
    }

    #[test]
    fn tables_round_trip_key_value_and_time(records in prop::collection::vec(record(), 0..5)) {
        for format in ["csv", "tsv"] {
            let mut o = options(format);
            (o.key_from, o.value_from) = (field("column:key"), field("column:value"));
            o.id_from = field("column:ts");
            let out = read(&o, print(&o.format, &FormatOptions::default(), &records));
            prop_assert_eq!(out.refused, [""; 0]);
            let parts = |r: &Owned| (r.key.clone().unwrap_or_default(), r.value.clone().unwrap_or_default());
            let got: Vec<_> = out.records.iter().map(parts).collect();
            prop_assert_eq!(got, records.iter().map(parts).collect::<Vec<_>>());
            let times: Vec<_> = out.ids.into_iter().map(|t| String::from_utf8(t.unwrap()).unwrap()).collect();
            prop_assert_eq!(times, records.iter().map(|r| r.timestamp.to_string()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn tables_equal_those_of_the_csv_crate(records in prop::collection::vec(record(), 0..5)) {
        let options = FormatOptions { columns: TableColumn::parse_list("key,value").unwrap(), ..FormatOptions::default() };
        let mut twin = csv::Writer::from_writer(Vec::new());
        twin.write_record(["key", "value"]).unwrap();
        for r in &records {
            let cell = |b: &Option<Vec<u8>>| b.clone().unwrap_or_default();
            twin.write_record([cell(&r.key), cell(&r.value)]).unwrap();
        }
        prop_assert_eq!(print(&Format::Csv, &options, &records), twin.into_inner().unwrap());
    }

    #[test]
    fn json_lines_are_read_as_serde_json_reads_them(
        fields in prop::collection::vec(prop::sample::select(vec![
            "\"key\":\"a\"", "\"key\":null", "\"key_b64\":\"/w==\"", "\"value\":\"\\u00e9\\n\"", "\"value\":null",
            "\"value_b64\":\"YQ==\"", "\"v\\u0061lue\":\"x\"", "\"ts\":5", "\"ts\": 1e3", "\"ts\":null", "\"offset\":1",
            "\"topic\":\"t\"", "\"headers\":[[\"a\",\"b\"],[\"c\",null]]", "\"headers\":[]", "\"headers\":[[]]",
            "\"headers_b64\":[[\"YQ==\",null]]", "\"other\":{\"x\":[1]}", "\"value\":\"\\ud800\"", "", "}",
        ]), 0..5),
    ) {
        let line = format!("{{{}}}", fields.join(" , "));
        let out = read(&options("json"), &line);
        let given = |name: &str| fields.iter().filter(|f| f.replace("v\\u0061", "va").starts_with(name)).count();
        // Of repeated names serde_json keeps the last; they are refused here.
        let twice = ["\"key", "\"value", "\"headers", "\"ts"].iter().any(|n| given(n) > 1);
        let want = twin(line.as_bytes()).filter(|_| !twice);
        prop_assert_eq!(out.records.first(), want.as_ref(), "{} {:?}", line, out.refused);
    }

    #[test]
    fn random_bytes_never_panic_and_all_are_accounted_for(
        input in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\n\0\",\r{}\xff\0\0".to_vec())], 0..80),
        piece in 1usize..20,
    ) {
        for format in ["lines", "nul", "json", "csv", "tsv", "hex", "base64", "frames", "batch"] {
            let mut o = options(format);
            o.record_bytes_max = 8;
            let out = read_in(&o, &input, piece);
            if format == "lines" && out.refused.is_empty() {
                let lines = only_values(&out.records, true);
                prop_assert_eq!(lines.len(), input.split_inclusive(|b| *b == b'\n').count());
            }
        }
    }
}
