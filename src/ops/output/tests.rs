//! Every format on records that went through a real batch.

use super::*;
use crate::format::batch::{Batch, Scratch};
use crate::format::builder::{BatchBuilder, Seal, stamp};
use crate::format::record::NewRecord;
use crate::format::{Limits, Offset, TimestampMs};
use crate::ops::words::refusal;

/// A record that owns its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owned {
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

pub(crate) fn owned(timestamp: i64, key: Option<&str>, value: Option<&str>) -> Owned {
    Owned {
        timestamp,
        key: key.map(Into::into),
        value: value.map(Into::into),
        headers: Vec::new(),
    }
}

/// Formats `records`, which get the offsets 42 and up.
pub(crate) fn print(format: &Format, options: &FormatOptions, records: &[Owned]) -> Vec<u8> {
    let mut builder = BatchBuilder::begin(Vec::new());
    for r in records {
        let headers: Vec<_> = r
            .headers
            .iter()
            .map(|(n, v)| (n.as_slice(), v.as_deref()))
            .collect();
        let new = NewRecord {
            key: r.key.as_deref(),
            value: r.value.as_deref(),
            headers: &headers,
        };
        builder.push(TimestampMs(r.timestamp), &new);
    }
    let (mut bytes, _) = builder.seal(&Seal::default());
    stamp(&mut bytes, Offset(42), 0);
    let batch = Batch::check(&bytes).unwrap();
    let mut scratch = Scratch::new();
    let mut formatter = Formatter::new(format, options).unwrap();
    let mut out = Vec::new();
    formatter.begin(&mut out);
    let meta = Meta {
        topic: "orders",
        partition: 0,
    };
    for record in batch.records(&mut scratch, &Limits::default()).unwrap() {
        formatter.record(&mut out, &meta, &record.unwrap());
    }
    out
}

fn text(format: &str, records: &[Owned]) -> String {
    let out = print(
        &Format::parse(format).unwrap(),
        &FormatOptions::default(),
        records,
    );
    String::from_utf8(out).unwrap()
}

fn on_terminal(format: &str, records: &[Owned]) -> String {
    let options = FormatOptions {
        visible: true,
        ..FormatOptions::default()
    };
    let out = print(&Format::parse(format).unwrap(), &options, records);
    String::from_utf8(out).unwrap()
}

fn paid() -> Owned {
    Owned {
        headers: vec![(b"trace".to_vec(), Some(b"ab12".to_vec()))],
        ..owned(1_763_626_415_123, Some("u1"), Some("paid"))
    }
}

#[test]
fn json_is_the_object_of_the_contract() {
    assert_eq!(
        text("json", &[paid()]),
        "{\"topic\":\"orders\",\"partition\":0,\"offset\":42,\"ts\":1763626415123,\"key\":\"u1\",\
         \"value\":\"paid\",\"headers\":[[\"trace\",\"ab12\"]]}\n"
    );
}

#[test]
fn json_names_the_fields_that_are_not_utf8() {
    let record = Owned {
        timestamp: -1,
        key: Some(vec![0xff]),
        value: None,
        headers: vec![(b"a".to_vec(), Some(vec![0xfe])), (b"b".to_vec(), None)],
    };
    assert_eq!(
        text("json", &[record]),
        "{\"topic\":\"orders\",\"partition\":0,\"offset\":42,\"ts\":-1,\"key_b64\":\"/w==\",\
         \"value\":null,\"headers_b64\":[[\"YQ==\",\"/g==\"],[\"Yg==\",null]]}\n"
    );
}

#[test]
fn nest_shows_json_values_on_one_line_and_others_as_text() {
    let options = FormatOptions {
        nest: true,
        ..FormatOptions::default()
    };
    let records = [
        owned(0, None, Some("{\n \"a b\": [1, 2.50]\n}")),
        owned(0, None, Some("{oops")),
        owned(0, None, None),
    ];
    let out = String::from_utf8(print(&Format::Json, &options, &records)).unwrap();
    let values: Vec<&str> = out
        .lines()
        .map(|l| &l[l.find("\"value").unwrap()..l.find(",\"headers").unwrap()])
        .collect();
    assert_eq!(
        values,
        [
            r#""value_json":{"a b":[1,2.50]}"#,
            r#""value":"{oops""#,
            r#""value":null"#
        ]
    );
}

#[test]
fn null_and_empty_differ_where_the_format_can_say_so() {
    let two = [owned(0, None, None), owned(0, Some(""), Some(""))];
    assert_eq!(text("lines", &two), "\n\n");
    assert_eq!(text("%K %S;", &two), "-1 -1;0 0;");
    assert_eq!(text("%k{json} %s{json};", &two), "null null;\"\" \"\";");
    let frames = print(&Format::Frames, &FormatOptions::default(), &two);
    assert_eq!(frames, [[0xff; 4], [0; 4]].concat());
}

#[test]
fn plain_formats_print_the_value() {
    let two = [owned(0, None, Some("ab")), owned(0, None, Some("\u{ff}?>"))];
    assert_eq!(text("lines", &two), "ab\n\u{ff}?>\n");
    assert_eq!(text("nul", &two), "ab\0\u{ff}?>\0");
    assert_eq!(text("hex", &two), "6162\nc3bf3f3e\n");
    assert_eq!(text("base64", &two), "YWI=\nw78/Pg==\n");
    let frames = print(&Format::Frames, &FormatOptions::default(), &two[..1]);
    assert_eq!(frames, b"\0\0\0\x02ab");
}

#[test]
fn tables_quote_only_where_needed() {
    let rows = [
        owned(5, Some("a,b"), Some("say \"hi\"\nthere\r")),
        owned(6, Some("a\tb"), None),
    ];
    assert_eq!(
        text("csv", &rows),
        "offset,ts,key,value\n42,5,\"a,b\",\"say \"\"hi\"\"\nthere\r\"\n43,6,a\tb,\n"
    );
    assert_eq!(
        text("tsv", &rows),
        "offset\tts\tkey\tvalue\n42\t5\ta,b\t\"say \"\"hi\"\"\nthere\r\"\n43\t6\t\"a\tb\"\t\n"
    );
    let options = FormatOptions {
        columns: TableColumn::parse_list("topic,partition,headers").unwrap(),
        ..FormatOptions::default()
    };
    let out = print(&Format::Csv, &options, &[paid()]);
    assert_eq!(out, b"topic,partition,headers\norders,0,trace=ab12\n");
    assert_eq!(
        refusal(TableColumn::parse_list("key,time")),
        "time: the columns are offset, ts, key, value, topic, partition, headers"
    );
}

#[test]
fn templates_print_every_token() {
    let record = Owned {
        headers: vec![
            (b"trace".to_vec(), Some(b"ab12".to_vec())),
            (b"x".to_vec(), None),
            (b"trace".to_vec(), Some(b"second".to_vec())),
        ],
        ..paid()
    };
    let all = r"%o %t-%p %k=%s %K %S %T %D [%h] %h{trace} <%h{x}> <%h{none}> 100%%\t\x41\\\n";
    assert_eq!(
        text(all, std::slice::from_ref(&record)),
        "42 orders-0 u1=paid 2 4 1763626415123 2025-11-20T08:13:35.123Z \
         [trace=ab12,x,trace=second] ab12 <> <> 100%\tA\\\n"
    );
    assert_eq!(
        text("%k{hex} %s{base64} %h{trace}{json} %h{x}{json}", &[record]),
        "7531 cGFpZA== \"ab12\" null"
    );
    let bytes = Owned {
        value: Some(vec![0xff]),
        ..Owned::default()
    };
    assert_eq!(
        text("%s{json}", std::slice::from_ref(&bytes)),
        r#"{"b64":"/w=="}"#
    );
    let length = print(
        &Format::parse("%R%s").unwrap(),
        &FormatOptions::default(),
        &[bytes, owned(0, None, None)],
    );
    assert_eq!(length, b"\0\0\0\x01\xff\xff\xff\xff\xff");
}

#[test]
fn format_refusals_say_what_to_write() {
    let no = |w| refusal(Format::parse(w));
    let names = "not a format (lines, nul, json, csv, tsv, hex, base64, frames, batch, or a template with %)";
    assert_eq!(no("xml"), format!("xml: {names}"));
    assert_eq!(no("jsonl"), format!("jsonl: {names} | json"));
    assert_eq!(no("JSON"), format!("JSON: {names} | json"));
    assert_eq!(no(""), format!(": {names}"));
    let tokens = "there are %o %t %p %k %s %K %S %R %T %D %h %h{NAME} %%";
    assert_eq!(no("%x"), format!("%x: no token %x; {tokens}"));
    assert_eq!(no("a%"), "a%: a lone % at the end | a%%");
    assert_eq!(
        no(r"%s\q"),
        r"%s\q: no escape \q; there are \n \t \r \0 \xNN \\"
    );
    assert_eq!(
        no(r"%s\"),
        r"%s\: no escape \; there are \n \t \r \0 \xNN \\"
    );
    assert_eq!(no(r"%s\x4"), r"%s\x4: \x needs two hexadecimal digits");
    assert_eq!(no(r"%s\xé"), r"%s\xé: \x needs two hexadecimal digits");
    assert_eq!(no("%h{}"), "%h{}: %h{} names no header");
    assert_eq!(no("%h{a"), "%h{a: a brace is not closed");
    assert_eq!(
        no("%k{HEX}"),
        r"%k{HEX}: no encoding {HEX}; there are {hex}, {base64}, {json}, and a plain brace is \x7b"
    );
    let batch = Formatter::new(&Format::Batch, &FormatOptions::default());
    assert_eq!(
        refusal(batch),
        "-F batch copies batches as stored and cannot print single records"
    );
}

#[test]
fn binary_formats_are_known_as_such() {
    let binary = |w| Format::parse(w).unwrap().is_binary();
    assert!(binary("frames") && binary("batch") && binary("%R%s"));
    assert!(!binary("lines") && !binary("nul") && !binary("%s") && !binary("%%R"));
}

#[test]
fn one_record_is_one_line_on_a_terminal() {
    let nasty = "a\nb\r\t\x1b[2J\u{202e}";
    let record = Owned {
        headers: vec![(nasty.into(), Some(nasty.into()))],
        ..owned(0, Some(nasty), Some(nasty))
    };
    for format in [
        "lines",
        "json",
        "csv",
        "tsv",
        "hex",
        "base64",
        r"%k\t%s\t%h\t%h{a}\t%s{json}\n",
    ] {
        let out = on_terminal(format, std::slice::from_ref(&record));
        let header = usize::from(format.ends_with("sv"));
        assert_eq!(out.matches('\n').count(), 1 + header, "{format}: {out:?}");
        let payload = out.trim_end().replace('\t', "");
        let hidden = |c: char| escape::is_hidden(c) && c != '\n';
        assert!(!payload.chars().any(hidden), "{format}: {out:?}");
    }
    assert_eq!(
        on_terminal("lines", &[record]),
        "a\\x0ab\\x0d\\x09\\x1b[2J\\u{202e}\n"
    );
}

#[test]
fn a_newline_inside_lines_is_noticed() {
    let mut f = Formatter::new(&Format::Lines, &FormatOptions::default()).unwrap();
    let meta = Meta {
        topic: "t",
        partition: 0,
    };
    let record = |value| Record {
        offset: Offset(0),
        timestamp: TimestampMs(0),
        sequence: -1,
        key: None,
        value: Some(value),
        headers: Headers::default(),
    };
    f.record(&mut Vec::new(), &meta, &record(b"one line"));
    assert!(!f.saw_newline_in_lines());
    f.record(&mut Vec::new(), &meta, &record(b"two\nlines"));
    assert!(f.saw_newline_in_lines());
}
