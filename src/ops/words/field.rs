//! FIELD: a part of a record.
//!
//! | word | part |
//! |---|---|
//! | `key`, `value` | the key, the value |
//! | `header:NAME` | the value of the first header of that name |
//! | `json:/POINTER` | RFC 6901 pointer into a JSON value; `json:` alone is all of it |
//! | `column:NAME`, `column:3` | of a csv or tsv row; numbers count from 1 |
//!
//! A string in JSON is itself, a number or a bool its text, an array or object compact JSON. What is
//! missing or null is no field. A column needs to know the row's header, so it is found by the csv
//! reader, not here.

use std::borrow::Cow;

use super::{bad, bad_try};
use crate::error::Result;
use crate::ops::json::Pointer;

/// A part of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Field {
    /// The key.
    Key,
    /// The value.
    Value,
    /// The value of the first header of this name.
    Header(String),
    /// A place inside a JSON value.
    Json(Pointer),
    /// A column of a csv or tsv row.
    Column(Column),
}

/// Which column of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// The one whose header is this.
    Name(String),
    /// This one, counted from 0 (the word counts from 1).
    Number(usize),
}

impl Field {
    /// Reads a FIELD.
    ///
    /// # Errors
    /// Usage, with a hint where it is clear what was meant.
    pub fn parse(word: &str) -> Result<Field> {
        match word.split_once(':') {
            None if word == "key" => Ok(Field::Key),
            None if word == "value" => Ok(Field::Value),
            Some(("header", "")) => Err(bad_try(word, "a header has a name", "header:trace")),
            Some(("header", name)) => Ok(Field::Header(name.to_string())),
            Some(("json", pointer)) => json(word, pointer),
            Some(("column", column)) => self::column(word, column),
            _ => Err(unknown(word)),
        }
    }

    /// The part of a record with this key, value and headers, which are searched by name. A value
    /// that is not JSON has no `json:` field, and no record has a column.
    pub fn of<'a>(
        &self,
        key: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
        header: impl FnOnce(&[u8]) -> Option<&'a [u8]>,
    ) -> Option<Cow<'a, [u8]>> {
        match self {
            Field::Key => key.map(Cow::Borrowed),
            Field::Value => value.map(Cow::Borrowed),
            Field::Header(name) => header(name.as_bytes()).map(Cow::Borrowed),
            Field::Json(pointer) => pointer.find(value?).ok()??.field(),
            Field::Column(_) => None,
        }
    }
}

impl std::fmt::Display for Field {
    /// The word that makes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Field::Key => f.write_str("key"),
            Field::Value => f.write_str("value"),
            Field::Header(name) => write!(f, "header:{name}"),
            Field::Json(pointer) => write!(f, "json:{pointer}"),
            Field::Column(Column::Name(name)) => write!(f, "column:{name}"),
            Field::Column(Column::Number(n)) => write!(f, "column:{}", n.saturating_add(1)),
        }
    }
}

/// Reads the NAME=VALUE of `-H`.
///
/// # Errors
/// Usage, when there is no `=` or no name.
pub fn header_pair(word: &str) -> Result<(String, String)> {
    match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_string(), value.to_string())),
        _ => Err(bad_try(word, "a header is NAME=VALUE", "trace=ab12")),
    }
}

fn json(word: &str, pointer: &str) -> Result<Field> {
    if let Some(pointer) = Pointer::parse(pointer) {
        return Ok(Field::Json(pointer));
    }
    let path = pointer.trim_start_matches(['.', '$']);
    match pointer.starts_with('/') {
        true => Err(bad(
            word,
            "in a JSON pointer ~ is written ~0 and / in a name ~1",
        )),
        false => Err(bad_try(
            word,
            "a JSON pointer begins with /",
            format!("json:/{}", path.replace('~', "~0").replace('.', "/")),
        )),
    }
}

fn column(word: &str, column: &str) -> Result<Field> {
    if column.is_empty() {
        return Err(bad_try(word, "a column has a name or a number", "column:3"));
    }
    if !column.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(Field::Column(Column::Name(column.to_string())));
    }
    match column.parse::<usize>().map(|n| n.checked_sub(1)) {
        Ok(Some(n)) => Ok(Field::Column(Column::Number(n))),
        Ok(None) => Err(bad_try(word, "columns count from 1", "column:1")),
        Err(_) => Err(bad(word, "no row has so many columns")),
    }
}

fn unknown(word: &str) -> crate::error::Error {
    let what = "not a field (key, value, header:NAME, json:/POINTER, column:NAME, column:3)";
    match word {
        w if w.starts_with('/') => bad_try(word, what, format!("json:{w}")),
        w if w.starts_with('.') => bad_try(word, what, format!("json:{}", w.replace('.', "/"))),
        _ => bad(word, what),
    }
}

#[cfg(test)]
mod tests {
    use super::super::refusal;
    use super::*;

    fn of(word: &str, value: &str) -> Option<String> {
        let header = |name: &[u8]| (name == b"trace").then_some(&b"ab12"[..]);
        let field = Field::parse(word).unwrap();
        let got = field.of(Some(b"u1"), Some(value.as_bytes()), header)?;
        Some(String::from_utf8(got.into_owned()).unwrap())
    }

    #[test]
    fn fields_are_read_from_a_record() {
        assert_eq!(of("key", "v").as_deref(), Some("u1"));
        assert_eq!(of("value", "v").as_deref(), Some("v"));
        assert_eq!(of("header:trace", "v").as_deref(), Some("ab12"));
        assert_eq!(of("header:other", "v"), None);
        let json = r#"{"a": {"b/c": ["x", 1.50, true, null, {"k": [1, " y"]}], "~": "\u00e9\n"}}"#;
        assert_eq!(of("json:/a/b~1c/0", json).as_deref(), Some("x"));
        assert_eq!(of("json:/a/b~1c/1", json).as_deref(), Some("1.50"));
        assert_eq!(of("json:/a/b~1c/2", json).as_deref(), Some("true"));
        assert_eq!(of("json:/a/b~1c/3", json), None);
        assert_eq!(
            of("json:/a/b~1c/4", json).as_deref(),
            Some(r#"{"k":[1," y"]}"#)
        );
        assert_eq!(of("json:/a/~0", json).as_deref(), Some("é\n"));
        assert_eq!(of("json:/a/nope", json), None);
        assert_eq!(of("json:/a", "not json"), None);
        assert_eq!(of("json:", "[ 1 ]").as_deref(), Some("[1]"));
        assert_eq!(of("column:1", "a,b"), None);
    }

    #[test]
    fn columns_have_names_or_numbers_from_one() {
        let column = |w| Field::parse(w).unwrap();
        assert_eq!(column("column:3"), Field::Column(Column::Number(2)));
        assert_eq!(
            column("column:a:b"),
            Field::Column(Column::Name("a:b".into()))
        );
        assert_eq!(column("header:a:b"), Field::Header("a:b".into()));
    }

    #[test]
    fn fields_print_as_the_word_that_makes_them() {
        for word in [
            "key",
            "value",
            "header:a:b",
            "json:/a~1b/~0/0",
            "json:",
            "column:x",
            "column:3",
        ] {
            assert_eq!(Field::parse(word).unwrap().to_string(), word);
        }
    }

    #[test]
    fn header_pairs_split_at_the_first_equals_sign() {
        let pair = |w| header_pair(w).unwrap();
        assert_eq!(pair("a=b=c"), ("a".into(), "b=c".into()));
        assert_eq!(pair("a="), ("a".into(), String::new()));
        assert_eq!(
            refusal(header_pair("a")),
            "a: a header is NAME=VALUE | trace=ab12"
        );
        assert_eq!(
            refusal(header_pair("=b")),
            "=b: a header is NAME=VALUE | trace=ab12"
        );
    }

    #[test]
    fn field_refusals_say_what_to_write() {
        let no = |w| refusal(Field::parse(w));
        let forms = "not a field (key, value, header:NAME, json:/POINTER, column:NAME, column:3)";
        assert_eq!(
            no("json:user.id"),
            "json:user.id: a JSON pointer begins with / | json:/user/id"
        );
        assert_eq!(
            no("json:$.user"),
            "json:$.user: a JSON pointer begins with / | json:/user"
        );
        assert_eq!(
            no("json:/a~b"),
            "json:/a~b: in a JSON pointer ~ is written ~0 and / in a name ~1"
        );
        assert_eq!(no("column:0"), "column:0: columns count from 1 | column:1");
        assert_eq!(
            no("column:99999999999999999999"),
            "column:99999999999999999999: no row has so many columns"
        );
        assert_eq!(
            no("column:"),
            "column:: a column has a name or a number | column:3"
        );
        assert_eq!(no("header:"), "header:: a header has a name | header:trace");
        assert_eq!(no("/user/id"), format!("/user/id: {forms} | json:/user/id"));
        assert_eq!(no(".user.id"), format!(".user.id: {forms} | json:/user/id"));
        for w in ["", "offset", "keys", "xml:/a"] {
            assert_eq!(no(w), format!("{w}: {forms}"));
        }
    }
}
