//! Names of logd's own files. They lie in `.logd/` inside a partition, where a broker does not look;
//! never beside partitions, where a foreign directory would stop a broker.

/// The directory of our own, inside a partition.
pub const LOGD_DIR: &str = ".logd";
/// Serialises appends; held for milliseconds.
pub const APPEND_LOCK: &str = "append.lock";
/// Serialises syncs; holds the note of a sync under way.
pub const SYNC_LOCK: &str = "sync.lock";
/// Serialises compact, retain, redact, repair and index.
pub const MAINTENANCE_LOCK: &str = "maintenance.lock";
/// Held for life by the receiver of a copy.
pub const RECEIVER_LOCK: &str = "receiver.lock";
/// The end hint and the durable offset.
pub const END: &str = "end";
/// A sync failed: nothing may be appended or acknowledged until `repair`.
pub const FAILED: &str = "failed";
/// This log is a copy; it takes no appends until promoted.
pub const REPLICA: &str = "replica";
/// A successor exists; this log takes no appends.
pub const FENCED: &str = "fenced";
/// The log's id, where no partition.metadata gives one.
pub const ID: &str = "id";
/// The log's settings.
pub const CONFIG: &str = "config.toml";
/// Reader positions, one file a group.
pub const GROUPS: &str = "groups";
/// State of `append --once`, one file a name.
pub const ONCE: &str = "once";
/// Look-up indexes and filters.
pub const KEYS: &str = "keys";
/// Files being built.
pub const TMP: &str = "tmp";
/// Ranges of offsets whose batches maintenance has changed.
pub const REWRITTEN: &str = "rewritten";
/// Who had content removed, when and why.
pub const REDACTIONS: &str = "redactions";
/// Bytes cut or damaged, one file each, and a list.
pub const LOST_FOUND: &str = "lost+found";
