//! Whole-log work: what each command does, as functions that return plain values.
//!
//! Nothing here knows of terminals, clap, colour or exit codes.
//!
//! | module | owns |
//! |---|---|
//! | [`words`] | the words of the command line: POS, RANGE, TIME, DURATION, SIZE, FIELD, LOG |
//! | [`dump`] | what is stored, as stored: batches, records, indexes, damage |
//! | [`json`], `eight` | a strict JSON scanner that builds no tree; eight bytes at a time |
//! | [`input`] | bytes to records: every `-F` format, and the options that shape them |
//! | [`output`] | records to bytes: every `-F` format |
//! | [`topic`] | from a LOG operand to partition directories |
//! | [`info`] | what is in a log |
//! | [`create`] | making a log |
//! | [`split`], `part`, `site` | one log into several; one of them; where they are built |
//! | [`merge`], [`mix`] | several logs in one order |
//! | [`cat`], [`span`] | reading a partition to its end; a RANGE as offsets |
//! | [`consume`], [`groups`] | reading in the name of a group; where groups are, and moving them |
//! | [`emit`], [`select`] | records chosen, formatted, gathered, written |
//! | [`grep`] | searching: which records match, and what is around them |
//! | [`get`], [`index`] | records by key; look-up indexes made and kept up to date |
//! | [`tail`] | the last records, and following |
//! | [`wait`] | waiting until a log reaches an offset |
//! | [`append`] | input into a log, and an honest account of it |
//! | [`compact`] | the newest value of each key kept |
//! | [`retain`] | the oldest of a log forgotten |
//! | [`replicate`] | a log kept equal to another, here or elsewhere |
//! | [`settings`] | settings in words, and which layer of them wins |
//! | [`verify`] | is a log sound: every checksum, record and index |
//! | [`remote`] | commands for other machines: quoting, and ssh |
//! | [`repair`] | a damaged log made sound, every intact batch kept |
//! | [`throttle`] | a ceiling on bytes per second |

pub mod append;
pub mod cat;
pub mod compact;
pub mod consume;
pub mod create;
pub mod dump;
mod eight;
pub mod emit;
mod follow;
pub mod get;
pub mod grep;
pub mod groups;
pub mod index;
pub mod info;
pub mod input;
pub mod json;
pub mod merge;
pub mod mix;
pub mod output;
mod part;
pub mod redact;
pub mod remote;
pub mod repair;
pub mod replicate;
pub mod retain;
pub mod select;
pub mod settings;
mod site;
pub mod span;
pub mod split;
pub mod tail;
pub mod throttle;
pub mod topic;
pub mod verify;
pub mod wait;
pub mod words;
