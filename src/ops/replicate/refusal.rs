//! Errors that cross a connection: the exit status travels, and the words.

use crate::error::{Error, ErrorKind};
use crate::format::Offset;
use crate::format::wire::Refuse;

/// Which status stands for which kind of error; one that is not here travels as 74.
const STATUS: [(u8, ErrorKind); 11] = [
    (2, ErrorKind::Usage),
    (65, ErrorKind::Data),
    (66, ErrorKind::NotFound),
    (69, ErrorKind::Unreachable),
    (70, ErrorKind::Bug),
    (73, ErrorKind::CannotCreate),
    (74, ErrorKind::Io),
    (75, ErrorKind::Locked),
    (76, ErrorKind::Version),
    (77, ErrorKind::Permission),
    (78, ErrorKind::Config),
];

/// What a peer is told of an error here.
pub fn refuse(error: &Error) -> Refuse {
    let found = STATUS.iter().find(|(_, kind)| *kind == error.kind());
    Refuse {
        status: found.map_or(74, |(status, _)| *status),
        offset: error.offset().filter(|o| *o >= 0).map(Offset),
        epoch: None,
        why: error.to_string(),
    }
}

/// The error that a peer's refusal is here. Its words are made safe for a terminal by who prints them.
pub fn refused(refuse: &Refuse) -> Error {
    let found = STATUS.iter().find(|(status, _)| *status == refuse.status);
    Error::new(
        found.map_or(ErrorKind::Io, |(_, kind)| *kind),
        refuse.why.clone(),
    )
}

/// A peer that does not keep to the protocol.
pub fn unexpected(what: impl Into<String>) -> Error {
    Error::data(format!(
        "the other side breaks the protocol: {}",
        what.into()
    ))
}
