//! Settings in words: `.logd/config.toml` of a partition, the user's `config.toml`, options of a
//! command, and which of them wins.
//!
//! Options beat the log's settings, which beat the user's file, which beats the defaults; every
//! value knows where it came from. A file is a flat TOML table of the keys in [`KEYS`], with the
//! values as on the command line: strings, or whole numbers where the word is only digits.
//!
//! ```toml
//! partitions = 8
//! cleanup = "compact"
//! max-age = "30d"
//! ```
//!
//! A key that is not known here (a newer logd's) is reported, and kept when the file is rewritten.

use super::words;
use crate::error::{Error, ErrorKind, Result};
use crate::log::config::{
    Cleanup, PARTITIONS_MAX, Partitioner, SEGMENT_BYTES_MAX, Settings, Timestamps,
};
use crate::log::files;
use crate::log::state::{read_state_file, write_state_file};
use crate::sys::Dir;
use std::time::Duration;

/// Largest settings file that is read, in bytes.
pub const CONFIG_BYTES_MAX: usize = 1 << 20;

/// One setting.
pub struct Key {
    /// Its name: in the file, and as an option with two dashes before it.
    pub name: &'static str,
    /// The word it has by default.
    pub default: &'static str,
    /// What kind of word it takes.
    pub value: &'static str,
    /// What it is, for help.
    pub about: &'static str,
    set: fn(&mut Settings, &str) -> Result<()>,
}

/// Every setting, in the order in which it is listed.
pub const KEYS: &[Key] = &[
    Key {
        name: "partitions",
        default: "1",
        value: "N",
        about: "Number of partitions of a topic",
        set: |s, word| {
            s.partitions = partitions(word)?;
            Ok(())
        },
    },
    Key {
        name: "segment-size",
        default: "1GiB",
        value: "SIZE",
        about: "Roll a segment before it exceeds SIZE",
        set: |s, word| {
            s.segment_bytes = segment_size(word)?;
            Ok(())
        },
    },
    Key {
        name: "segment-age",
        default: "7d",
        value: "DURATION",
        about: "Roll a segment when its records span DURATION, or none",
        set: |s, word| {
            s.segment_ms = words::duration_or_none(word, "d")?.map(ms);
            Ok(())
        },
    },
    Key {
        name: "compress",
        default: "none",
        value: "CODEC",
        about: "none, gzip, snappy, lz4 or zstd[:LEVEL]",
        set: |s, word| {
            s.compression = word.parse()?;
            Ok(())
        },
    },
    Key {
        name: "timestamps",
        default: "create",
        value: "create|append",
        about: "The record's own timestamp, or the moment of the append",
        set: |s, word| {
            let known = [
                ("create", Timestamps::Create),
                ("append", Timestamps::Append),
            ];
            s.timestamps = one_of(word, &known)?;
            Ok(())
        },
    },
    Key {
        name: "cleanup",
        default: "delete",
        value: "POLICY",
        about: "delete, compact, or compact,delete",
        set: |s, word| {
            let policy = |delete, compact| Cleanup { delete, compact };
            let known = [
                ("delete", policy(true, false)),
                ("compact", policy(false, true)),
                ("compact,delete", policy(true, true)),
                ("delete,compact", policy(true, true)),
            ];
            s.cleanup = one_of(word, &known)?;
            Ok(())
        },
    },
    Key {
        name: "max-age",
        default: "none",
        value: "DURATION",
        about: "Let retain delete records older than DURATION",
        set: |s, word| {
            s.age_ms_max = words::duration_or_none(word, "d")?.map(ms);
            Ok(())
        },
    },
    Key {
        name: "max-size",
        default: "none",
        value: "SIZE",
        about: "Let retain cut each partition to SIZE",
        set: |s, word| {
            s.log_bytes_max = words::size_or_none(word)?;
            Ok(())
        },
    },
    Key {
        name: "partitioner",
        default: "murmur2",
        value: "NAME",
        about: "Where keys go: murmur2 (as usual Kafka clients), crc32, round-robin",
        set: |s, word| {
            let known = [
                ("murmur2", Partitioner::Murmur2),
                ("crc32", Partitioner::Crc32),
                ("round-robin", Partitioner::RoundRobin),
            ];
            s.partitioner = one_of(word, &known)?;
            Ok(())
        },
    },
];

/// Whole milliseconds.
fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn partitions(word: &str) -> Result<std::num::NonZeroU32> {
    let n = word.parse().ok().filter(|n: &std::num::NonZeroU32| {
        n.get() <= PARTITIONS_MAX && word.bytes().all(|b| b.is_ascii_digit())
    });
    let why = || {
        Error::usage(format!(
            "{word}: 1 to {PARTITIONS_MAX} partitions are possible"
        ))
    };
    n.ok_or_else(|| why().hint("8"))
}

fn segment_size(word: &str) -> Result<u64> {
    let size = words::size(word)?;
    if !(1..=SEGMENT_BYTES_MAX).contains(&size) {
        let why = format!("{word}: a segment has 1 to {SEGMENT_BYTES_MAX} bytes");
        return Err(Error::usage(why).hint("1GiB"));
    }
    Ok(size)
}

fn one_of<T: Copy>(word: &str, known: &[(&str, T)]) -> Result<T> {
    let found = known.iter().find(|(name, _)| *name == word);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let first = names.first().copied().unwrap_or_default();
        Error::usage(format!("{word}: not one of {}", names.join(", "))).hint(first)
    })
}

/// Settings that somebody wrote down, each a valid word, in the order of [`KEYS`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words(Vec<(&'static str, String)>);

impl Words {
    /// Sets the key `name` to `word`, replacing what it had.
    ///
    /// # Errors
    /// Usage, for an unknown key or a word it cannot have.
    pub fn set(&mut self, name: &str, word: &str) -> Result<()> {
        let key = KEYS.iter().find(|k| k.name == name);
        let key = key.ok_or_else(|| Error::usage(format!("{name}: no such setting")))?;
        (key.set)(&mut Settings::default(), word)?;
        self.put(key.name, word);
        Ok(())
    }

    fn put(&mut self, name: &'static str, word: &str) {
        self.remove(name);
        self.0.push((name, word.to_string()));
        self.0
            .sort_by_key(|(n, _)| KEYS.iter().position(|k| k.name == *n));
    }

    /// Forgets the key `name`.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(n, _)| *n != name);
    }

    /// The word of the key `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        let pair = self.0.iter().find(|(n, _)| *n == name)?;
        Some(&pair.1)
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes over everything that `other` sets.
    pub fn update(&mut self, other: &Words) {
        for (name, word) in &other.0 {
            self.put(name, word);
        }
    }
}

/// The content of a settings file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// The settings in it.
    pub words: Words,
    unknown: toml::Table,
}

impl From<Words> for Document {
    fn from(words: Words) -> Document {
        Document {
            words,
            unknown: toml::Table::new(),
        }
    }
}

impl Document {
    /// Reads the text of a settings file.
    ///
    /// # Errors
    /// `Config`, when it is no TOML or a known key has an impossible value.
    pub fn parse(text: &str) -> Result<Document> {
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| {
            let line = e.span().map_or(1, |s| 1 + newlines(text, s.start));
            Error::new(ErrorKind::Config, format!("line {line}: {}", e.message()))
        })?;
        let mut document = Document::default();
        for (name, value) in table {
            let Some(key) = KEYS.iter().find(|k| k.name == name) else {
                document.unknown.insert(name, value);
                continue;
            };
            let word = match &value {
                toml::Value::String(s) => s.clone(),
                toml::Value::Integer(n) => n.to_string(),
                _ => {
                    return Err(Error::new(
                        ErrorKind::Config,
                        format!("{name}: not a word or number"),
                    ));
                }
            };
            let set = document.words.set(key.name, &word);
            set.map_err(|e| words::in_option(key.name, e).with_kind(ErrorKind::Config))?;
        }
        Ok(document)
    }

    /// Names of the keys that are not known here.
    pub fn unknown(&self) -> impl Iterator<Item = &str> {
        self.unknown.keys().map(String::as_str)
    }

    /// The text of the file; what is not known here is in it as it was.
    pub fn render(&self) -> String {
        let mut out = String::from("# Settings of this log; 'logd init --set' changes them.\n");
        for key in KEYS {
            if let Some(word) = self.words.get(key.name) {
                let digits = word.bytes().all(|b| b.is_ascii_digit());
                let value = match word.parse() {
                    Ok(n) if digits => toml::Value::Integer(n),
                    _ => toml::Value::String(word.to_string()),
                };
                out.push_str(&format!("{} = {value}\n", key.name));
            }
        }
        // Tables come after plain keys, which is how the serializer orders them.
        out.push_str(&toml::to_string(&self.unknown).unwrap_or_default());
        out
    }
}

fn newlines(text: &str, end: usize) -> usize {
    let before = text.as_bytes().get(..end).unwrap_or_default();
    before.iter().filter(|b| **b == b'\n').count()
}

/// The settings of the partition `dir`; empty if nobody set any.
///
/// # Errors
/// `Config` for a file that cannot be understood, else what the system answers.
pub fn read(dir: &dyn Dir) -> Result<Document> {
    let path = dir.path().join(files::LOGD_DIR).join(files::CONFIG);
    let own = match dir.open_dir(files::LOGD_DIR) {
        Ok(own) => own,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Document::default()),
        Err(e) => return Err(Error::io("cannot open", e).at_path(path)),
    };
    let bytes = read_state_file(&*own, files::CONFIG, CONFIG_BYTES_MAX)
        .map_err(|e| Error::io("cannot read", e).at_path(&path))?;
    let bytes = bytes.unwrap_or_default();
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Error::new(ErrorKind::Config, "not UTF-8").at_path(&path))?;
    Document::parse(text).map_err(|e| e.at_path(&path))
}

/// Replaces the settings in a partition's `.logd` directory, durably.
///
/// # Errors
/// What the system answers; the old settings then still hold.
pub fn write(own: &dyn Dir, document: &Document) -> Result<()> {
    write_state_file(own, files::CONFIG, document.render().as_bytes())
        .map_err(|e| Error::io("cannot write", e).at_path(own.path().join(files::CONFIG)))
}

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An option of this command.
    Option,
    /// `.logd/config.toml` of the partition.
    Log,
    /// The user's file.
    User,
    /// Nobody set it.
    Default,
}

impl Source {
    /// In a word, as `info --settings` prints it.
    pub fn name(self) -> &'static str {
        match self {
            Source::Option => "option",
            Source::Log => "log",
            Source::User => "user",
            Source::Default => "default",
        }
    }
}

/// One setting with where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Name of the key.
    pub name: &'static str,
    /// Its word.
    pub word: String,
    /// The layer it is from.
    pub source: Source,
}

/// All settings after the layers were put on each other.
#[derive(Clone, Debug)]
pub struct Layered {
    /// As values.
    pub settings: Settings,
    /// As words, in the order of [`KEYS`].
    pub rows: Vec<Row>,
}

/// Puts the layers on each other, `options` on top.
///
/// # Errors
/// None for words that [`Words::set`] took.
pub fn layered(options: &Words, log: &Words, user: &Words) -> Result<Layered> {
    let mut settings = Settings::default();
    let mut rows = Vec::with_capacity(KEYS.len());
    for key in KEYS {
        let layers = [
            (options.get(key.name), Source::Option),
            (log.get(key.name), Source::Log),
            (user.get(key.name), Source::User),
        ];
        let found = layers.into_iter().find_map(|(w, s)| Some((w?, s)));
        let (word, source) = found.unwrap_or((key.default, Source::Default));
        (key.set)(&mut settings, word)?;
        rows.push(Row {
            name: key.name,
            word: word.to_string(),
            source,
        });
    }
    Ok(Layered { settings, rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(pairs: &[(&str, &str)]) -> Words {
        let mut w = Words::default();
        for (name, word) in pairs {
            w.set(name, word).unwrap();
        }
        w
    }

    #[test]
    fn default_words_are_the_default_values() {
        let none = Words::default();
        let l = layered(&none, &none, &none).unwrap();
        assert_eq!(l.settings, Settings::default());
        assert!(l.rows.iter().all(|r| r.source == Source::Default));
    }

    #[test]
    fn options_beat_the_log_which_beats_the_user() {
        let user = words(&[("max-age", "1d"), ("max-size", "1G"), ("compress", "lz4")]);
        let log = words(&[("max-age", "2d"), ("max-size", "2G")]);
        let l = layered(&words(&[("max-age", "3d")]), &log, &user).unwrap();
        assert_eq!(l.settings.age_ms_max, Some(3 * 86_400_000));
        assert_eq!(l.settings.log_bytes_max, Some(2 << 30));
        let source = |name| l.rows.iter().find(|r| r.name == name).unwrap().source;
        assert_eq!(source("max-age"), Source::Option);
        assert_eq!(source("max-size"), Source::Log);
        assert_eq!(source("compress"), Source::User);
        assert_eq!(source("cleanup"), Source::Default);
    }

    #[test]
    fn unknown_keys_are_named_and_survive_a_rewrite() {
        let text = "max-age = '30d'\nfuture = [1, 2]\n[tables]\nx = \"y\"\n";
        let mut d = Document::parse(text).unwrap();
        assert_eq!(d.unknown().collect::<Vec<_>>(), ["future", "tables"]);
        d.words.set("partitions", "8").unwrap();
        let rendered = d.render();
        assert!(rendered.contains("partitions = 8\n"), "{rendered}");
        assert_eq!(Document::parse(&rendered).unwrap(), d);
    }

    #[test]
    fn impossible_values_are_refused_with_what_to_write() {
        for (name, word, text) in [
            ("max-age", "7", "7: a duration needs a unit"),
            (
                "segment-size",
                "2GiB",
                "2GiB: a segment has 1 to 2147483647 bytes",
            ),
            (
                "segment-size",
                "0",
                "0: a segment has 1 to 2147483647 bytes",
            ),
            ("partitions", "0", "0: 1 to 10000 partitions are possible"),
            ("partitions", "+1", "+1: 1 to 10000 partitions are possible"),
            ("timestamps", "log", "log: not one of create, append"),
            ("nope", "1", "nope: no such setting"),
        ] {
            let e = Words::default().set(name, word).unwrap_err();
            assert_eq!((e.to_string().as_str(), e.kind()), (text, ErrorKind::Usage));
        }
        let e = Document::parse("\nmax-age = 7").unwrap_err();
        assert_eq!(e.to_string(), "max-age 7: a duration needs a unit");
        assert_eq!(e.kind(), ErrorKind::Config);
        let e = Document::parse("\n\nmax-age 7").unwrap_err();
        assert!(e.to_string().starts_with("line 3: "), "{e}");
        assert!(Document::parse("max-age = true").is_err());
    }
}
