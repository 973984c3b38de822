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
//! | [`vigil`] | knowing that no name in `.logd` changed, without asking for each |
//! | [`place`] | where writing is safe, and the files that the first writer makes |
//! | [`writer`] | the append path: lock, end, write, roll, release |
//! | [`recovery`] | a log that crashed made appendable: torn tail against corruption |
//! | [`lost`] | `.logd/lost+found` |
//! | [`sync`], [`failed`] | the sync queue and D; the mark of a failed sync |
//! | [`fresh`] | a log that is written for the first time, where nobody looks yet |
//! | [`maintenance`], [`swap`] | the maintenance lock; replacing sealed segments, and finishing what a crash left |
//! | [`rewritten`], [`redactions`] | which offsets maintenance has changed; what was removed on request |
//! | [`id`], [`make`] | the id of a log; making a partition |
//! | [`copy`], [`replica`] | a partition as a copy of another log; the marks of copies and of fenced logs |
//! | [`promote`] | a copy takes over; its old source is fenced |
//! | [`compare`] | whether two logs hold the same batches, and where they part |
//! | [`broker`] | living beside a Kafka broker |
//! | [`epoch`], [`producers`] | the leader epoch; producer state and its snapshots |
//! | [`groups`], [`members`] | named reader positions; who reads what in such a name |
//! | [`reader`] | batches in order, beside writers; what is damage and what is not there yet |
//! | [`reverse`] | the same, newest first |
//! | [`isolation`] | which batches of transactions a reader is shown |
//! | [`keys`], [`keys_build`] | look-up indexes of sealed segments; making them |
//! | [`versions`] | batches that may hold a value, newest first, by index where there is one |
//! | [`view`] | a log as of one moment: what bounds a read, and its offsets by time |

pub mod broker;
pub mod compare;
pub mod config;
pub mod copy;
#[cfg(test)]
mod crash_tests;
pub mod end;
pub mod epoch;
pub mod failed;
pub mod files;
pub mod fresh;
pub mod groups;
pub mod id;
pub mod isolation;
pub mod keys;
pub mod keys_build;
#[cfg(test)]
mod keys_tests;
pub mod listing;
pub mod lock;
pub mod lost;
pub mod maintenance;
pub mod make;
pub mod members;
pub mod place;
pub mod producers;
pub mod promote;
pub mod reader;
pub mod recovery;
#[cfg(test)]
mod recovery_tests;
pub mod redactions;
pub mod replica;
pub mod reverse;
pub mod rewritten;
pub mod state;
pub mod swap;
#[cfg(test)]
mod swap_tests;
pub mod sync;
#[cfg(test)]
#[allow(dead_code)] // a vocabulary; not every test needs every word
pub(crate) mod testing;
mod txns;
pub mod versions;
pub mod view;
pub mod vigil;
pub mod writer;
#[cfg(test)]
mod writer_tests;
