//! Who runs this process.

use nix::unistd::{Uid, User};

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// The number.
    pub uid: u32,
    /// The name; empty for a number without one.
    pub name: String,
}

/// The real user of this process: whoever called, also through a set-user-ID program.
pub fn who() -> Who {
    let uid = Uid::current();
    let found = User::from_uid(uid).ok().flatten();
    Who {
        uid: uid.as_raw(),
        name: found.map(|u| u.name).unwrap_or_default(),
    }
}
