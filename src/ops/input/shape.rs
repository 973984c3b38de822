//! Key, value, timestamp, ID and headers of a record by the options of `append`.
//!
//! What an option says beats what the record itself carries. `-K` is part of how the record is
//! written, so it comes first; fields are then looked up in the record as it was given, before any
//! other option changes it.

use std::borrow::Cow;

use memchr::memmem::Finder;

use super::rows::Rows;
use super::{HeaderSpans, InputHeaders, InputOptions, InputRecord, Parts, Reject, Span};
use crate::error::{Error, Result};
use crate::ops::output::Format;
use crate::ops::output::escape::visible_string;
use crate::ops::output::template::unescape_all;
use crate::ops::words::time::field_time;
use crate::ops::words::{Column, Field, Now};

/// What is done to every record.
#[derive(Debug)]
pub(super) struct Shape {
    key: Option<Vec<u8>>,
    delimiter: Option<Delimiter>,
    key_from: Option<Source>,
    value_from: Option<Source>,
    timestamp_from: Option<Source>,
    id_from: Option<Source>,
    timestamp: Option<i64>,
    empty_is_tombstone: bool,
    header_bytes: Vec<u8>,
    header_spans: Vec<(Span, Option<Span>)>,
    now: Now,
    /// What fields gave that stands nowhere in the record as it is.
    taken: Vec<u8>,
}

#[derive(Debug)]
struct Delimiter {
    finder: Finder<'static>,
    /// As it was written.
    text: String,
}

/// A field, and its column once the header row is known.
#[derive(Debug)]
struct Source {
    field: Field,
    column: Option<usize>,
}

impl Source {
    fn new(field: &Option<Field>) -> Option<Source> {
        let field = field.clone()?;
        let column = match &field {
            Field::Column(Column::Number(n)) => Some(*n),
            _ => None,
        };
        Some(Source { field, column })
    }
}

impl Shape {
    pub(super) fn new(options: &InputOptions) -> Result<Shape> {
        let delimiter = options.key_delimiter.as_deref().map(Delimiter::parse);
        let mut shape = Shape {
            key: options.key.clone(),
            delimiter: delimiter.transpose()?,
            key_from: Source::new(&options.key_from),
            value_from: Source::new(&options.value_from),
            timestamp_from: Source::new(&options.timestamp_from),
            id_from: Source::new(&options.id_from),
            timestamp: options.timestamp,
            empty_is_tombstone: options.empty_is_tombstone,
            header_bytes: Vec::new(),
            header_spans: Vec::new(),
            now: options.now.clone(),
            taken: Vec::new(),
        };
        for (name, value) in &options.headers {
            let start = shape.header_bytes.len();
            shape.header_bytes.extend_from_slice(name.as_bytes());
            let middle = shape.header_bytes.len();
            shape.header_bytes.extend_from_slice(value.as_bytes());
            let end = shape.header_bytes.len();
            let spans = (Span(start, middle), Some(Span(middle, end)));
            shape.header_spans.push(spans);
        }
        Ok(shape)
    }

    /// Whether a record is left as it is.
    pub(super) fn is_trivial(&self) -> bool {
        let fields = [
            &self.key_from,
            &self.value_from,
            &self.timestamp_from,
            &self.id_from,
        ];
        fields.iter().all(|f| f.is_none())
            && self.key.is_none()
            && self.delimiter.is_none()
            && self.timestamp.is_none()
            && self.header_spans.is_empty()
            && !self.empty_is_tombstone
    }

    /// Looks columns up by their names in the header row.
    pub(super) fn find_columns(&mut self, names: Vec<Vec<u8>>) -> std::result::Result<(), Reject> {
        let sources = [
            &mut self.key_from,
            &mut self.value_from,
            &mut self.timestamp_from,
            &mut self.id_from,
        ];
        for source in sources.into_iter().flatten() {
            let found = match &source.field {
                Field::Column(Column::Name(name)) => {
                    names.iter().position(|n| n == name.as_bytes())
                }
                Field::Column(Column::Number(n)) => Some(*n).filter(|n| *n < names.len()),
                _ => continue,
            };
            if found.is_none() {
                let names: Vec<String> = names.iter().map(|n| visible_string(n)).collect();
                let all = names.join(", ");
                return Err(Reject::new(format!(
                    "no {}; the columns are {all}",
                    source.field
                )));
            }
            source.column = found;
        }
        Ok(())
    }

    /// The record that `parts` and the options make.
    pub(super) fn apply<'a>(
        &'a mut self,
        parts: &'a Parts,
        raw: &'a [u8],
        rows: Option<&'a Rows>,
    ) -> std::result::Result<InputRecord<'a>, Reject> {
        let (mut key, mut value) = (parts.get(parts.key, raw), parts.get(parts.value, raw));
        if let (Some(delimiter), Some(line)) = (&self.delimiter, value) {
            let (before, after) = delimiter.split(line)?;
            (key, value) = (Some(before), Some(after));
        }
        let own = Own {
            key,
            value,
            parts,
            rows,
        };
        let taken = &mut self.taken;
        taken.clear();
        let mut take = |source: &Option<Source>| -> std::result::Result<Option<Span>, Reject> {
            let Some(source) = source else {
                return Ok(None);
            };
            let bytes = own.field(source)?;
            let start = taken.len();
            taken.extend_from_slice(&bytes);
            Ok(Some(Span(start, taken.len())))
        };
        let key_from = take(&self.key_from)?;
        let value_from = take(&self.value_from)?;
        let id_from = take(&self.id_from)?;
        let timestamp_from = take(&self.timestamp_from)?;
        let taken: &'a [u8] = &self.taken;

        key = key_from
            .map(|s| s.of(taken))
            .or(self.key.as_deref())
            .or(key);
        value = value_from.map(|s| s.of(taken)).or(value);
        if self.empty_is_tombstone {
            value = value.filter(|v| !v.is_empty());
        }
        let timestamp = match (&self.timestamp_from, timestamp_from) {
            (Some(source), Some(span)) => Some(self.time(source, span.of(taken))?),
            _ => self.timestamp.or(parts.timestamp),
        };
        Ok(InputRecord {
            key,
            value,
            headers: InputHeaders {
                own: HeaderSpans {
                    bytes: &parts.bytes,
                    spans: &parts.headers,
                },
                fixed: HeaderSpans {
                    bytes: &self.header_bytes,
                    spans: &self.header_spans,
                },
            },
            timestamp,
            offset: parts.offset,
            id: id_from.map(|s| s.of(taken)),
        })
    }

    fn time(&self, source: &Source, text: &[u8]) -> std::result::Result<i64, Reject> {
        let ms = field_time(text, &self.now).map(|t| t.0);
        ms.filter(|ms| *ms >= 0).ok_or_else(|| {
            let shown: String = visible_string(text).chars().take(40).collect();
            Reject::new(format!("{} is not a time: {shown:?}", source.field))
        })
    }
}

impl Delimiter {
    fn parse(text: &str) -> Result<Delimiter> {
        let bytes = unescape_all(text)?;
        if bytes.is_empty() {
            return Err(Error::usage("-K '': the delimiter is empty").hint("-K '\\t'"));
        }
        Ok(Delimiter {
            finder: Finder::new(&bytes).into_owned(),
            text: text.to_string(),
        })
    }

    fn split<'a>(&self, line: &'a [u8]) -> std::result::Result<(&'a [u8], &'a [u8]), Reject> {
        let at = self.finder.find(line);
        at.and_then(|n| Some((line.get(..n)?, line.get(n + self.finder.needle().len()..)?)))
            .ok_or_else(|| Reject::new(format!("no key: '{}' does not occur", self.text)))
    }
}

/// A record as it was given.
struct Own<'a> {
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    parts: &'a Parts,
    rows: Option<&'a Rows>,
}

impl<'a> Own<'a> {
    /// A field, which must be there.
    fn field(&self, source: &Source) -> std::result::Result<Cow<'a, [u8]>, Reject> {
        let found = match &source.field {
            Field::Column(_) => {
                let cell = self.rows.zip(source.column);
                cell.and_then(|(rows, n)| rows.cell(n)).map(Cow::Borrowed)
            }
            Field::Json(pointer) => match self.value {
                Some(value) => pointer
                    .find(value)
                    .map_err(Reject::not_json)?
                    .and_then(|v| v.field()),
                None => None,
            },
            field => field.of(self.key, self.value, |name| {
                let bytes = &self.parts.bytes;
                let mut headers = self.parts.headers.iter();
                let (_, value) = headers.find(|(n, _)| n.of(bytes) == name)?;
                value.map(|v| v.of(bytes))
            }),
        };
        found.ok_or_else(|| Reject::new(format!("no {}", source.field)))
    }
}

/// Refuses options that contradict each other.
pub(super) fn check(o: &InputOptions) -> Result<()> {
    if let Format::Template(t) = &o.format {
        let what = "a template is for output; as input take -K, json or csv";
        return Err(Error::usage(format!("-F '{}': {what}", t.text())).hint("-F json"));
    }
    let keys = [
        ("-k", o.key.is_some()),
        ("-K", o.key_delimiter.is_some()),
        ("--key-from", o.key_from.is_some()),
    ];
    let times = [
        ("--timestamp", o.timestamp.is_some()),
        ("--timestamp-from", o.timestamp_from.is_some()),
    ];
    at_most_one(&keys)?;
    at_most_one(&times)?;
    let table = matches!(o.format, Format::Csv | Format::Tsv);
    check_fields(o, table)?;
    let name = o.format.name();
    let no = |bad: bool, what: String| match bad {
        true => Err(Error::usage(what)),
        false => Ok(()),
    };
    let fields = table || matches!(o.format, Format::Json);
    no(
        o.key_delimiter.is_some() && fields,
        format!("-K splits text, and {name} has fields: use --key-from"),
    )?;
    no(
        !o.header_row && !table,
        "--no-header-row: only csv and tsv have a header row".to_string(),
    )?;
    no(
        o.keep_offsets && !matches!(o.format, Format::Json | Format::Batch),
        format!("--keep-offsets: {name} carries no offsets, json and batch do"),
    )?;
    no(
        o.whole && o.format != Format::Lines,
        format!("--whole takes the input as it is, so -F {name} does not apply"),
    )?;
    check_batch(o, &keys, &times)
}

/// Batches are taken as they are.
fn check_batch(o: &InputOptions, keys: &[(&str, bool)], times: &[(&str, bool)]) -> Result<()> {
    if o.format != Format::Batch {
        return Ok(());
    }
    let others = [
        ("--value-from", o.value_from.is_some()),
        ("--id-from", o.id_from.is_some()),
        ("-H", !o.headers.is_empty()),
        ("-Z", o.empty_is_tombstone),
    ];
    match [keys, times, &others].concat().iter().find(|(_, on)| *on) {
        Some((name, _)) => Err(Error::usage(format!(
            "{name}: -F batch takes records as they are stored"
        ))),
        None => Ok(()),
    }
}

fn at_most_one(options: &[(&str, bool)]) -> Result<()> {
    let mut on = options.iter().filter(|(_, on)| *on);
    match (on.next(), on.next()) {
        (Some((a, _)), Some((b, _))) => {
            Err(Error::usage(format!("{a} and {b} exclude each other")))
        }
        _ => Ok(()),
    }
}

/// Columns need a table, and names of columns its header row.
fn check_fields(o: &InputOptions, table: bool) -> Result<()> {
    let fields = [
        ("--key-from", &o.key_from),
        ("--value-from", &o.value_from),
        ("--timestamp-from", &o.timestamp_from),
        ("--id-from", &o.id_from),
    ];
    for (name, field) in fields {
        match field {
            Some(Field::Column(_)) if !table => {
                let field = field.as_ref().map(ToString::to_string).unwrap_or_default();
                let e = format!("{name} {field}: only csv and tsv have columns");
                return Err(Error::usage(e).hint("-F csv"));
            }
            Some(Field::Column(Column::Name(column))) if !o.header_row => {
                let e =
                    format!("{name} column:{column}: --no-header-row leaves column numbers only");
                return Err(Error::usage(e).hint(format!("{name} column:1")));
            }
            _ => {}
        }
    }
    Ok(())
}
