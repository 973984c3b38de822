use super::*;
use proptest::prelude::*;

/// Text that is JSON, or nearly so.
pub(crate) fn nearly_json() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "null",
        "true",
        "false",
        "0",
        "-1",
        "1.5e3",
        "01",
        "1.",
        "\"\"",
        "\"a\"",
        "\"a\\n\"",
        "\"\\u00e9\"",
        "\"\\ud83d\\ude00\"",
        "\"\\ud800\"",
        "\"\\x\"",
        "\"\u{1}\"",
        "\"é\"",
        " ",
        "\t",
        "\n",
        "\"",
        "\\",
        "nul",
        "\"b\":",
        "{\"a\":1}",
        "[1,2]",
        "{\"a\":[",
        "\u{7f}",
    ]);
    let text = prop::collection::vec(token, 0..12).prop_map(|t| t.concat().into_bytes());
    prop_oneof![
        8 => text,
        4 => tree().prop_map(|v| v.to_string().into_bytes()),
        4 => tree().prop_map(|v| serde_json::to_vec_pretty(&v).unwrap()),
        1 => prop::collection::vec(any::<u8>(), 0..24),
    ]
}

fn tree() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".{0,6}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::vec(("[ab/~0-2]{0,2}", inner), 0..4)
                .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn accepts_exactly_what_serde_json_accepts(text in nearly_json()) {
        let ours = check(&text);
        let twin = serde_json::from_slice::<serde_json::Value>(&text);
        // 1e999 is JSON; only serde_json's own f64 cannot hold it. Its text is what we keep.
        if twin.as_ref().is_err_and(|e| e.to_string().starts_with("number out of range")) {
            return Ok(());
        }
        prop_assert_eq!(ours.is_ok(), twin.is_ok(), "{:?} {:?}", ours, twin);
        if let (Ok(ours), Ok(twin)) = (ours, twin) {
            let mut dense = Vec::new();
            compact(ours.text, &mut dense);
            let again: serde_json::Value = serde_json::from_slice(&dense).unwrap();
            prop_assert_eq!(&again, &twin);
            if let Some(s) = twin.as_str() {
                prop_assert_eq!(ours.field().unwrap(), s.as_bytes());
                let mut out = b"x".to_vec();
                if let Some(raw) = Scanner::new(&text).unwrap().string_into(&mut out).unwrap() {
                    out.extend_from_slice(raw);
                }
                prop_assert_eq!(&out[1..], s.as_bytes());
            }
        }
    }

    #[test]
    fn pointer_finds_what_serde_json_finds(
        doc in tree(),
        pointer in "(/([ab]|~0|~1|0|1|00|-|)){0,3}",
    ) {
        let text = serde_json::to_vec_pretty(&doc).unwrap();
        let ours = Pointer::parse(&pointer).unwrap().find(&text).unwrap();
        let ours = ours.map(|v| serde_json::from_slice::<serde_json::Value>(v.text).unwrap());
        prop_assert_eq!(ours.as_ref(), doc.pointer(&pointer));
    }
}

proptest! {
    #[test]
    fn strings_are_resolved_alike_both_ways(s in "([ -~]{0,20}|[\"\\\\\n\u{1}]{1,3}|\\PC{0,4}){0,12}", cut in 0usize..40) {
        let text = serde_json::to_string(&s).unwrap().into_bytes();
        let text = &text[..text.len().saturating_sub(if cut < 20 { cut } else { 0 })];
        let mut out = Vec::new();
        let Ok(mut scanner) = Scanner::new(text) else { return Ok(()) };
        let plain = scanner.clone().string();
        let mut combined = scanner.string_into(&mut out);
        if let Ok(Some(raw)) = combined {
            out.extend_from_slice(raw);
            combined = Ok(None);
        }
        prop_assert_eq!(combined.map(|_| ()), plain.map(|_| ()));
        if let Ok(text) = plain {
            prop_assert_eq!(out, text.bytes().into_owned());
        }
    }
}

#[test]
fn faults_name_the_byte() {
    let fault = |t: &[u8]| check(t).map_err(|f| (f.at, f.reason)).unwrap_err();
    assert_eq!(fault(b"{\"a\":x}"), (5, "not JSON"));
    assert_eq!(fault(b"{\"a\":1"), (6, "the JSON text ends too early"));
    assert_eq!(fault(b"[1 2]"), (3, "a comma or the end is needed here"));
    assert_eq!(fault(b"[1,]"), (3, "a comma before the end"));
    assert_eq!(fault(b"{\"a\" 1}"), (5, "a colon is needed here"));
    assert_eq!(fault(b"\"a\\x\""), (2, "no such escape in a string"));
    assert_eq!(fault(b"\"a\nb\""), (2, "a control byte in a string"));
    assert_eq!(fault(b"\"a"), (2, "a string is not closed"));
    assert_eq!(fault(b"1 2"), (2, "more text after the JSON value"));
    assert_eq!(fault(b"\"\xff\""), (1, "not UTF-8"));
    assert_eq!(fault(b"-"), (1, "a digit is needed here"));
}

#[test]
fn nesting_is_bounded_as_in_serde_json() {
    for n in [126, 127, 128, 100_000] {
        let text = [vec![b'['; n], vec![b']'; n]].concat();
        let twin = serde_json::from_slice::<serde_json::Value>(&text).is_ok();
        assert_eq!(check(&text).is_ok(), twin, "{n}");
    }
}

#[test]
fn repeated_names_give_the_last() {
    let p = Pointer::parse("/a/b").unwrap();
    let found = p.find(br#"{"a":{"b":1},"a":{"b":2}}"#).unwrap().unwrap();
    assert_eq!(found.text, b"2");
    assert_eq!(p.find(br#"{"a":{"b":1},"a":5}"#).unwrap(), None);
}
