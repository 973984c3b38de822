//! A log kept equal to another: locally, through a pipe, or on another host.
//!
//! Bytes of the protocol are `format::wire`'s; `man/logd-protocol.5` describes it for whoever writes a
//! peer.
//!
//! | module | owns |
//! |---|---|
//! | [`source`], [`copy`] | the two halves of a channel: pure state machines, one pair a partition |
//! | [`compare`] | is the copy a prefix of the source |
//! | [`ends`] | what the machines need of a log |
//! | [`outbox`], [`refusal`] | frames on their way out; errors that cross a connection |
//! | [`carrier`] | bytes to and from a peer, whatever carries them |

pub mod carrier;
pub mod compare;
pub mod copy;
pub mod ends;
pub mod outbox;
pub mod refusal;
pub mod source;
#[cfg(test)]
mod tests;
