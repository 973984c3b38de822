//! The small text files: checkpoints, `partition.metadata` and `meta.properties`.
//!
//! Every checkpoint has one frame: lines, of which the first is the version (`0`), the second the
//! number of entries, the rest the entries. A file of no bytes has no entries. A count that is not
//! the number of lines is an error, as is a line that has more or fewer fields than it should.
//!
//! | file | entry |
//! |---|---|
//! | `leader-epoch-checkpoint` (per partition) | `epoch start-offset` |
//! | the four of a log directory | `topic partition offset` |
//!
//! `partition.metadata` is `version: 0`, newline, `topic_id: ` and 22 characters of base64url, with
//! no newline after them. Lines may end in CR LF: brokers on Windows write them so.
//!
//! Leaves how such a file is replaced (write aside, sync, rename, sync the directory) to `log`.

use super::names::valid_topic;
use super::{Defect, Offset};
use std::fmt::{self, Write};
use std::str::{FromStr, SplitWhitespace};

const VERSION: &str = "0";

/// From which offset on an epoch's leader wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// Leader epoch.
    pub epoch: i32,
    /// Its first offset.
    pub start: Offset,
}

/// What a checkpoint of a log directory says of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionOffset {
    /// Topic.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// The offset; its meaning is the file's.
    pub offset: Offset,
}

/// Parses `leader-epoch-checkpoint`.
///
/// # Errors
/// A malformed line or count, an entry whose epoch or offset is not larger than the one before.
pub fn parse_epochs(bytes: &[u8]) -> Result<Vec<EpochStart>, Defect> {
    let mut before: Option<EpochStart> = None;
    parse(bytes, |fields| {
        let epoch = natural(fields)?;
        let start = Offset(natural(fields)?);
        let now = EpochStart { epoch, start };
        match before.replace(now) {
            Some(b) if epoch <= b.epoch || start <= b.start => Err(format!(
                "epoch {epoch} from {start} follows epoch {} from {}",
                b.epoch, b.start
            )),
            _ => Ok(now),
        }
    })
}

/// The text of `leader-epoch-checkpoint`.
pub fn render_epochs(entries: &[EpochStart]) -> String {
    render(entries.iter().map(|e| format!("{} {}", e.epoch, e.start)))
}

/// Parses a `topic partition offset` checkpoint.
///
/// # Errors
/// A malformed line or count, or a name no topic can have.
pub fn parse_offsets(bytes: &[u8]) -> Result<Vec<PartitionOffset>, Defect> {
    parse(bytes, |fields| {
        let topic = fields.next().unwrap_or_default().to_string();
        if !valid_topic(&topic) {
            return Err(format!("{topic:?} is no topic name"));
        }
        let partition = natural(fields)?;
        let offset = Offset(natural(fields)?);
        Ok(PartitionOffset {
            topic,
            partition,
            offset,
        })
    })
}

/// The text of a `topic partition offset` checkpoint. Topics must be valid names.
pub fn render_offsets(entries: &[PartitionOffset]) -> String {
    render(
        entries
            .iter()
            .map(|e| format!("{} {} {}", e.topic, e.partition, e.offset)),
    )
}

fn render(lines: impl ExactSizeIterator<Item = String>) -> String {
    let mut out = format!("{VERSION}\n{}\n", lines.len());
    for line in lines {
        out.push_str(&line);
        out.push('\n');
    }
    out
}

/// The frame: version, count, one `entry` a line.
fn parse<T>(
    bytes: &[u8],
    mut entry: impl FnMut(&mut SplitWhitespace<'_>) -> Result<T, String>,
) -> Result<Vec<T>, Defect> {
    let mut lines = Lines::new(bytes)?;
    let Some((at, version)) = lines.next() else {
        return Ok(Vec::new());
    };
    if version != VERSION {
        return Err(Defect::new(at, format!("checkpoint version {version:?}")));
    }
    let (count_at, count) = lines.next().unwrap_or((bytes.len(), ""));
    let wanted: usize = whole(count_at, count, natural)?;
    let mut out = Vec::new();
    for (at, line) in lines {
        out.push(whole(at, line, &mut entry)?);
    }
    if out.len() != wanted {
        let reason = format!("{wanted} entries announced, {} there", out.len());
        return Err(Defect::new(count_at, reason));
    }
    Ok(out)
}

/// All fields of the line that starts at `at`.
fn whole<T>(
    at: usize,
    line: &str,
    mut parse: impl FnMut(&mut SplitWhitespace<'_>) -> Result<T, String>,
) -> Result<T, Defect> {
    let mut fields = line.split_whitespace();
    let value = parse(&mut fields).map_err(|reason| Defect::new(at, reason))?;
    match fields.next() {
        None => Ok(value),
        Some(extra) => Err(Defect::new(at, format!("{extra:?} after the last field"))),
    }
}

/// A number of digits only, within its type.
fn natural<T: FromStr>(fields: &mut SplitWhitespace<'_>) -> Result<T, String> {
    let field = fields.next().unwrap_or_default();
    let digits = !field.is_empty() && field.bytes().all(|b| b.is_ascii_digit());
    let number = digits.then(|| field.parse().ok()).flatten();
    number.ok_or_else(|| format!("{field:?} where a number must be"))
}

/// Lines with the byte each starts at, without their ends.
struct Lines<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lines<'a> {
    fn new(bytes: &'a [u8]) -> Result<Lines<'a>, Defect> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Lines { text, at: 0 }),
            Err(e) => Err(Defect::new(e.valid_up_to(), "not UTF-8")),
        }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = (usize, &'a str);

    fn next(&mut self) -> Option<(usize, &'a str)> {
        let rest = self.text.get(self.at..).filter(|r| !r.is_empty())?;
        let line = rest.split_inclusive('\n').next()?;
        let start = self.at;
        self.at += line.len();
        let line = line.strip_suffix('\n').unwrap_or(line);
        Some((start, line.strip_suffix('\r').unwrap_or(line)))
    }
}

/// A UUID in Kafka's dress: base64url without padding, 22 characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TopicId(pub [u8; 16]);

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// 128 bits in groups of 6, the last of which has only 2.
const ID_CHARS: usize = 22;
const ID_PAD_BITS: u32 = 4;

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from_be_bytes(self.0);
        for i in 0..ID_CHARS as u32 {
            let shift = 122 - i64::from(i) * 6;
            let group = match u32::try_from(shift) {
                Ok(s) => bits >> s,
                Err(_) => bits << ID_PAD_BITS,
            };
            let index = (group & 63) as usize;
            f.write_char(BASE64URL.get(index).copied().unwrap_or(b'?').into())?;
        }
        Ok(())
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TopicId {
    type Err = Defect;

    fn from_str(text: &str) -> Result<TopicId, Defect> {
        if text.len() != ID_CHARS {
            let reason = format!("id of {} characters, {ID_CHARS} wanted", text.len());
            return Err(Defect::new(0, reason));
        }
        let mut bits = 0u128;
        for (i, c) in text.bytes().enumerate() {
            let value = BASE64URL.iter().position(|b| *b == c);
            let value = value.ok_or_else(|| Defect::new(i, "not base64url"))? as u128;
            if i + 1 < ID_CHARS {
                bits = bits << 6 | value;
            } else if value & ((1 << ID_PAD_BITS) - 1) == 0 {
                bits = bits << (6 - ID_PAD_BITS) | value >> ID_PAD_BITS;
            } else {
                return Err(Defect::new(i, "id of more than 128 bits"));
            }
        }
        Ok(TopicId(bits.to_be_bytes()))
    }
}

/// Parses `partition.metadata`.
///
/// # Errors
/// Anything but the two lines of version 0.
pub fn parse_metadata(bytes: &[u8]) -> Result<TopicId, Defect> {
    let mut lines = Lines::new(bytes)?;
    let mut field = |name: &str| match lines.next() {
        Some((at, line)) => match line.split_once(':') {
            Some((n, value)) if n == name => Ok((at + n.len() + 1, value.trim_ascii())),
            _ => Err(Defect::new(at, format!("{name:?} wanted"))),
        },
        None => Err(Defect::new(bytes.len(), format!("{name:?} wanted"))),
    };
    let (at, version) = field("version")?;
    if version != VERSION {
        return Err(Defect::new(at, format!("metadata version {version:?}")));
    }
    let (at, id) = field("topic_id")?;
    let id = id.parse::<TopicId>().map_err(|d| d.shifted(at + 1))?;
    match lines.next() {
        None => Ok(id),
        Some((at, _)) => Err(Defect::new(at, "a third line")),
    }
}

/// The text of `partition.metadata`: 43 characters, no newline at the end.
pub fn render_metadata(id: TopicId) -> String {
    format!("version: {VERSION}\ntopic_id: {id}")
}

/// The pairs of `meta.properties`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaProperties(Vec<(String, String)>);

impl MetaProperties {
    /// The value of `name`; of several, the last, as in Java.
    pub fn get(&self, name: &str) -> Option<&str> {
        let pair = self.0.iter().rev().find(|(n, _)| n == name)?;
        Some(&pair.1)
    }

    /// The cluster these files belong to.
    pub fn cluster_id(&self) -> Option<&str> {
        self.get("cluster.id")
    }

    /// The broker: `node.id`, or `broker.id` before it.
    pub fn node_id(&self) -> Option<i32> {
        let id = self.get("node.id").or_else(|| self.get("broker.id"))?;
        id.parse().ok()
    }

    /// Every pair, in the order of the file.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

/// Parses `meta.properties`: `name=value` lines; `#` and `!` begin a comment. Of Java's escapes only
/// the backslash before a single character is undone: Kafka writes no others there.
///
/// # Errors
/// Text that is not UTF-8, or a line without `=`.
pub fn parse_properties(bytes: &[u8]) -> Result<MetaProperties, Defect> {
    let mut pairs = Vec::new();
    for (at, line) in Lines::new(bytes)? {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| Defect::new(at, "a line without '='"))?;
        pairs.push((unescape(name), unescape(value)));
    }
    Ok(MetaProperties(pairs))
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.trim_ascii().chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::corpus;
    use crate::format::names;
    use proptest::prelude::*;

    #[test]
    fn an_empty_file_has_no_entries() {
        assert_eq!(parse_epochs(b""), Ok(vec![]));
        assert_eq!(parse_offsets(b"0\n0\n"), Ok(vec![]));
    }

    #[test]
    fn malformed_checkpoints_say_where() {
        for (text, wrong) in [
            ("1\n0\n", "byte 0: checkpoint version \"1\""),
            ("0", "byte 1: \"\" where a number must be"),
            ("0\n2\n0 0\n", "byte 2: 2 entries announced, 1 there"),
            ("0\n0\n0 0\n", "byte 2: 0 entries announced, 1 there"),
            ("0\n1\n0\n", "byte 4: \"\" where a number must be"),
            ("0\n1\n0 0 0\n", "byte 4: \"0\" after the last field"),
            ("0\n1\n0 -1\n", "byte 4: \"-1\" where a number must be"),
            ("0\n1\n+0 1\n", "byte 4: \"+0\" where a number must be"),
            (
                "0\n1\n0 9223372036854775808\n",
                "byte 4: \"9223372036854775808\" where a number must be",
            ),
            (
                "0\n2\n3 5\n3 6\n",
                "byte 8: epoch 3 from 6 follows epoch 3 from 5",
            ),
            ("0\n0\n\n", "byte 4: \"\" where a number must be"),
        ] {
            let d = parse_epochs(text.as_bytes()).unwrap_err();
            assert_eq!(d.to_string(), wrong, "{text:?}");
        }
        assert!(parse_offsets(b"0\n1\na/b 0 0\n").is_err());
        assert!(parse_offsets(b"0\n1\na b 0 0\n").is_err());
        assert!(parse_offsets(&[255]).is_err());
    }

    #[test]
    fn windows_line_ends_are_taken() {
        let parsed = parse_epochs(b"0\r\n1\r\n4 7\r\n").unwrap();
        assert_eq!((parsed[0].epoch, parsed[0].start), (4, Offset(7)));
    }

    #[test]
    fn topic_id_is_base64url() {
        let text = "9i4PnSY7TzanLqvmMcHAIg";
        let id: TopicId = text.parse().unwrap();
        assert_eq!(id.0[..4], [0xf6, 0x2e, 0x0f, 0x9d]);
        assert_eq!(id.to_string(), text);
        assert_eq!(TopicId([0; 16]).to_string(), "A".repeat(22));
        assert!("9i4PnSY7TzanLqvmMcHAI".parse::<TopicId>().is_err());
        assert!("9i4PnSY7TzanLqvmMcHAI+".parse::<TopicId>().is_err());
        assert!("9i4PnSY7TzanLqvmMcHAIh".parse::<TopicId>().is_err());
    }

    #[test]
    fn properties_are_java_s() {
        let p =
            parse_properties(b"#\n#Fri\nnode.id=3\nversion=1\r\ncluster.id=a\\=b\\:c\n").unwrap();
        assert_eq!((p.cluster_id(), p.node_id()), (Some("a=b:c"), Some(3)));
        assert!(parse_properties(b"what\n").is_err());
    }

    #[test]
    fn corpus_text_files_round_trip() {
        let Some(root) = corpus::root() else { return };
        let mut seen = [0; 4];
        for path in corpus::files(&root) {
            let name = corpus::name(&path);
            let bytes = std::fs::read(&path).unwrap();
            let unix = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
            let fail = |d: Defect| -> String { panic!("{}: {d}", path.display()) };
            let (slot, text) = if name == names::LEADER_EPOCH_CHECKPOINT {
                (0, parse_epochs(&bytes).map(|e| render_epochs(&e)))
            } else if names::DIR_CHECKPOINTS.contains(&name.as_str()) {
                (1, parse_offsets(&bytes).map(|e| render_offsets(&e)))
            } else if name == names::PARTITION_METADATA {
                (2, parse_metadata(&bytes).map(render_metadata))
            } else if name == names::META_PROPERTIES {
                let p = parse_properties(&bytes).unwrap();
                assert!(p.node_id().is_some(), "{}", path.display());
                (3, Ok(unix.clone()))
            } else {
                continue;
            };
            let text = text.unwrap_or_else(fail);
            assert!(text == unix || unix.is_empty(), "{}", path.display());
            seen[slot] += 1;
        }
        assert!(seen.iter().all(|n| *n > 10), "{seen:?}");
    }

    proptest! {
        #[test]
        fn any_text_parses_or_not(text in "[0-9 a\n\r:=+-]{0,60}") {
            let b = text.as_bytes();
            let _ = (parse_epochs(b), parse_offsets(b), parse_metadata(b), parse_properties(b));
        }

        #[test]
        fn any_bytes_parse_or_not(b in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = (parse_epochs(&b), parse_offsets(&b), parse_metadata(&b), parse_properties(&b));
        }

        #[test]
        fn ids_round_trip(id: [u8; 16]) {
            let id = TopicId(id);
            prop_assert_eq!(id.to_string().parse::<TopicId>(), Ok(id));
            prop_assert_eq!(parse_metadata(render_metadata(id).as_bytes()), Ok(id));
        }

        #[test]
        fn offsets_round_trip(raw in prop::collection::vec(("[a-z-]{1,9}", 0..i32::MAX, 0..i64::MAX), 0..9)) {
            let entries: Vec<PartitionOffset> = raw
                .into_iter()
                .map(|(topic, partition, o)| PartitionOffset { topic, partition, offset: Offset(o) })
                .collect();
            prop_assert_eq!(parse_offsets(render_offsets(&entries).as_bytes()), Ok(entries));
        }
    }
}
