//! Commit logs as plain directories: the log of Kafka, without the server.
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
