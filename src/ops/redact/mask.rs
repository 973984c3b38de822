//! What becomes of a record that was chosen.

use std::borrow::Cow;

use crate::format::record::{Header, Record};
use crate::ops::grep::column::Cells;
use crate::ops::json;
use crate::ops::words::{Column, Field};

/// What is to go of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The value: it becomes null. Key and headers stay.
    Null,
    /// These fields: key, value and headers become null, a JSON value `null` in its place, a cell
    /// empty; every other byte stays.
    Only(Vec<Field>),
    /// The record. Its offset stays in its batch.
    Drop,
}

/// A chosen record as it will be.
pub(super) enum Change<'a> {
    /// Not there.
    Gone,
    /// With these parts.
    Parts(Parts<'a>),
}

/// The parts of a record.
pub(super) struct Parts<'a> {
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<Cow<'a, [u8]>>,
    pub(super) headers: Vec<Header<'a>>,
}

impl Action {
    /// Its word in the list of redactions.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Action::Null => "null",
            Action::Only(_) => "only",
            Action::Drop => "drop",
        }
    }

    /// The fields it is limited to.
    pub(super) fn fields(&self) -> &[Field] {
        match self {
            Action::Only(fields) => fields,
            Action::Null | Action::Drop => &[],
        }
    }

    /// What becomes of `record`; `None` if it holds nothing that is to go. So what has been changed
    /// once is left alone, whoever looks again.
    pub(super) fn change<'a>(&self, record: &Record<'a>, cells: &mut Cells) -> Option<Change<'a>> {
        let fields = match self {
            Action::Drop => return Some(Change::Gone),
            Action::Null => &[Field::Value][..],
            Action::Only(fields) => fields,
        };
        let mut parts = Parts {
            key: record.key,
            value: record.value.map(Cow::Borrowed),
            headers: record.headers.iter().collect(),
        };
        let mut changed = false;
        for field in fields {
            changed |= parts.clear(field, cells);
        }
        changed.then_some(Change::Parts(parts))
    }

    /// Whether a field that goes cannot be told in `record`: its value is not JSON, or several rows.
    pub(super) fn is_blind(&self, record: &Record<'_>, cells: &mut Cells) -> bool {
        let Some(value) = record.value else {
            return false;
        };
        self.fields().iter().any(|field| match field {
            Field::Json(_) => json::check(value).is_err(),
            Field::Column(_) => cells.has_more_rows(value),
            Field::Key | Field::Value | Field::Header(_) => false,
        })
    }

    /// Whether `field` may lie in what goes, or hold it: then it can still be searched for.
    pub(super) fn touches(&self, field: &Field) -> bool {
        let in_value = |f: &Field| matches!(f, Field::Value | Field::Json(_) | Field::Column(_));
        let touches = |f: &Field| f == field || (in_value(f) && in_value(field));
        self.fields().iter().any(touches)
    }
}

impl Parts<'_> {
    /// Takes a field out; false if it was not there, or null.
    fn clear(&mut self, field: &Field, cells: &mut Cells) -> bool {
        match field {
            Field::Key => self.key.take().is_some(),
            Field::Value => self.value.take().is_some(),
            Field::Header(name) => {
                let mut changed = false;
                for (_, value) in self.headers.iter_mut().filter(|h| h.0 == name.as_bytes()) {
                    changed |= value.take().is_some();
                }
                changed
            }
            Field::Json(pointer) => {
                let value = self.value.as_deref().unwrap_or_default();
                let mut spans = pointer.spans(value).unwrap_or_default();
                spans.retain(|s| value.get(s.clone()) != Some(b"null"));
                self.replace(&spans, b"null")
            }
            Field::Column(Column::Number(n)) => {
                let value = self.value.as_deref().unwrap_or_default();
                let mut spans: Vec<_> = cells.span(value, *n).into_iter().collect();
                spans.retain(|s| !s.is_empty());
                self.replace(&spans, b"")
            }
            Field::Column(Column::Name(_)) => false,
        }
    }

    /// Puts `new` in the place of each of these stretches of the value, which rise; false without any.
    fn replace(&mut self, spans: &[std::ops::Range<usize>], new: &[u8]) -> bool {
        if spans.is_empty() {
            return false;
        }
        let old = self.value.take().unwrap_or_default();
        let mut out = Vec::with_capacity(old.len());
        let mut from = 0;
        for span in spans {
            out.extend_from_slice(old.get(from..span.start).unwrap_or_default());
            out.extend_from_slice(new);
            from = span.end;
        }
        out.extend_from_slice(old.get(from..).unwrap_or_default());
        self.value = Some(Cow::Owned(out));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleared(field: &str, value: &str) -> Option<String> {
        let mut parts = Parts {
            key: None,
            value: Some(Cow::Borrowed(value.as_bytes())),
            headers: Vec::new(),
        };
        let field = Field::parse(field).unwrap();
        let changed = parts.clear(&field, &mut Cells::new());
        let text = String::from_utf8(parts.value.unwrap().into_owned()).unwrap();
        changed.then_some(text)
    }

    #[test]
    fn a_member_becomes_null_and_every_other_byte_stays() {
        let doc = r#" {"a" : [1, {"card": "4111" ,"x":1.50}], "card":7}"#;
        assert_eq!(
            cleared("json:/a/1/card", doc).as_deref(),
            Some(r#" {"a" : [1, {"card": null ,"x":1.50}], "card":7}"#)
        );
        assert_eq!(
            cleared("json:/a", doc).as_deref(),
            Some(r#" {"a" : null, "card":7}"#)
        );
        assert_eq!(cleared("json:", " [1] ").as_deref(), Some(" null "));
        assert_eq!(cleared("json:/b", doc), None);
        assert_eq!(cleared("json:/card", r#"{"card": null}"#), None);
        assert_eq!(cleared("json:/card", "card 4111"), None);
    }

    #[test]
    fn of_repeated_names_none_is_kept() {
        assert_eq!(
            cleared(
                "json:/card",
                r#"{"card":"4111","card":{"n":"4112"},"card":null}"#
            )
            .as_deref(),
            Some(r#"{"card":null,"card":null,"card":null}"#)
        );
        assert_eq!(
            cleared("json:/p/n", r#"{"p":{"n":1},"p":{"n":2}}"#).as_deref(),
            Some(r#"{"p":{"n":null},"p":{"n":null}}"#)
        );
    }

    #[test]
    fn a_cell_becomes_empty() {
        assert_eq!(cleared("column:2", "a,\"b,c\",d").as_deref(), Some("a,,d"));
        assert_eq!(cleared("column:2", "a,,d"), None);
        assert_eq!(cleared("column:9", "a,b,d"), None);
    }
}
