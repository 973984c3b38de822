//! Commit logs as plain directories: the log of Kafka, without the server.
//!
//! A *log* is a directory of segments, each a file of record batches in Kafka's on-disk format.
//! Producers append at its end, readers keep a position of their own. What a broker does with a
//! process that owns all logs, this crate does with files alone: every command opens the directory,
//! takes a lock where it must, does one job and exits.
//!
//! # Layers
//!
//! Calls go down only (`tests/tidy.rs`). Nothing below `cli` knows of terminals, options or exit
//! statuses; nothing above `sys` makes a system call on a log; `format` does no I/O at all.
//!
//! ```text
//!  bin/logd        words in, exit status out
//!    cli           one file per command; messages, tables, help, manual pages
//!    ops           what a command does, as functions that return plain values
//!    log           ordered segments as one log: append, read, recover, sync, lock
//!    segment       one base offset: its .log, its indexes
//!    format        bytes <-> values: batch, record, codecs, index entries, names
//!    sys           the only door to the system, and a double of it that fails on request
//! ```
//!
//! # A partition on disk
//!
//! ```text
//! logs/orders-0/                       partition 0 of topic orders
//!   00000000000000000000.log           record batches; the name is the segment's base offset
//!   00000000000000000000.index         last offset of a batch -> its position   } derived, never
//!   00000000000000000000.timeindex     timestamp -> offset                      } trusted
//!   00000000000000368769.log           the active segment: the highest base, the only one to grow
//!   00000000000000368769.index
//!   00000000000000368769.timeindex
//!   00000000000000368769.snapshot      producers as of that offset
//!   leader-epoch-checkpoint            which writer's reign began where
//!   .logd/                             ours; a broker does not look into it
//!     append.lock sync.lock ...        flock(2); gone with their process
//!     end                              where appends go on (a hint), the durable offset D (a promise)
//!     id config.toml                   who this log is, how it is kept
//!     lost+found/                      what recovery took out
//! ```
//!
//! `man/logd-format.5` has every byte of it.
//!
//! # A record's life
//!
//! 1. [`ops::input`] cuts it out of stdin; [`ops::append`] gathers what is ready into a batch, off
//!    the lock, and compresses it.
//! 2. [`log::writer`] takes the append lock for at most 2 ms, sees that the end is as it was left or
//!    finds it, gives the batch its offset and epoch, writes it, leaves the new end in `.logd/end`.
//!    From here on readers see it.
//! 3. [`log::sync`] queues on the sync lock. Whoever gets it syncs for all who wait, in order, and
//!    publishes D. Now the record is acknowledged.
//! 4. [`log::reader`] finds it by index or scan, checks its CRC, and hands it up as stored;
//!    [`ops::output`] turns it into bytes.
//! 5. The segment is sealed when it is full or old. From then on it is never changed in place, only
//!    replaced or deleted as a whole.
//!
//! # Where it can crash
//!
//! | after | on disk | who opens it next |
//! |---|---|---|
//! | part of a batch was written | a torn tail | the next appender cuts it; readers stop before it |
//! | the batch, before `end` | a whole batch behind the hint | checks forward from the hint and keeps it |
//! | `end`, before the sync (process died) | everything, in the page cache | goes on |
//! | `end`, before the sync (power) | any part of what lies above D | cuts at the first invalid byte: a prefix |
//! | the sync, before D is published | more is durable than D says | goes on |
//! | a failed sync | `.logd/failed` | refuses until repair has read back what is there |
//! | the new base in `end`, before the new files | the old segment, sealed | rolls again |
//! | part of making a log | a directory without `.log` | the same command finishes it |
//! | part of replacing segments | `.cleaned` or `.swap` files | maintenance undoes or finishes; readers see one or the other |
//!
//! A record that was acknowledged is in none of these rows: everything below D stays. Damage there is
//! told and never repaired unasked. Each row is a test: operations are run against [`sys::sim`] and
//! stopped at every call, with and without what was not synced.
//!
//! # Decided against
//!
//! * A daemon: locks that vanish with their process and a hint that costs a scan when it is wrong do
//!   its work, and there is nothing to keep running.
//! * A format of our own: a broker's directory can be read, written and handed back as it is.
//! * Believing indexes, lengths, sizes and times of files: each is checked against the log, or not
//!   needed.
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod cli;
#[cfg(test)]
mod corpus;
pub mod error;
pub mod format;
pub mod log;
pub mod ops;
pub mod segment;
pub mod sys;
