//! Ordered segments as one log that any number of processes share without a daemon.
//!
//! Owns the files of logd's own in `.logd/` of a partition ([`files`]), the locks, where the log ends
//! and how much of it is durable ([`end`]), recovery after a crash, the append path and the sync
//! queue. What a segment's bytes are is `segment`'s and `format`'s matter; what to do with a whole
//! log is `ops`'s.
//!
//! | module | owns |
//! |---|---|
//! | [`files`] | names in `.logd/` |
//! | [`config`] | the settings of a log, as values |
//! | [`state`] | small state files, written whole: temp, sync, rename, sync |
//! | [`end`] | `.logd/end`: where appends go on (a hint), and the durable offset D (a promise) |
//! | [`listing`] | the directory as an ordered list of segments; where the log starts |
//! | [`lock`] | lock files: who holds them, and are they still the ones in the directory |

pub mod config;
pub mod end;
pub mod files;
pub mod listing;
pub mod lock;
pub mod state;
#[cfg(test)]
#[allow(dead_code)] // a vocabulary; not every test needs every word
pub(crate) mod testing;
