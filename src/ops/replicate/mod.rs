//! A log kept equal to another: locally, through a pipe, or on another host.
//!
//! Bytes of the protocol are `format::wire`'s; `man/logd-protocol.5` describes it for whoever writes a
//! peer.
//!
//! | module | owns |
//! |---|---|
//! | [`carrier`] | bytes to and from a peer, whatever carries them |

pub mod carrier;
