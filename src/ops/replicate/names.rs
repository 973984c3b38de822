//! Which log a peer means by the name it gives.
//!
//! A name from a peer is never taken for more than it may be (durability contract, 10.3):
//!
//! | the peer came | names |
//! |---|---|
//! | through ssh, as a user of this machine | any LOG operand that is a path here, as that user would write it |
//! | through ssh, with a key bound to a directory | paths below it, without `..` |
//! | to a port | the last parts of the LOG operands that are served, nothing else |

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::format::names::valid_topic;
use crate::ops::words::LogName;

/// The logs that a peer may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// Whatever the user may name here; relative paths are below `$LOGD_DIR`.
    Anything(Option<PathBuf>),
    /// What is below the working directory.
    Below,
    /// These, by name.
    Listed(BTreeMap<String, PathBuf>),
}

impl Served {
    /// The logs at `paths`, each by its last part.
    ///
    /// # Errors
    /// Usage, for a log whose last part cannot be a name, and for two of the same name.
    pub fn listed(paths: impl IntoIterator<Item = PathBuf>) -> Result<Served> {
        let mut all: BTreeMap<String, PathBuf> = BTreeMap::new();
        for path in paths {
            let shown = path.display().to_string();
            let name = path.file_name().and_then(|n| n.to_str());
            let name = name.filter(|n| valid_topic(n)).map(str::to_string);
            let name = name.ok_or_else(|| {
                let why = "peers cannot name it: a name has 1 to 249 of A-Z a-z 0-9 . _ -";
                Error::usage(why).at_path(&shown)
            })?;
            if let Some(other) = all.get(&name) {
                let why = format!("peers would know it by the name of {}", other.display());
                return Err(Error::usage(why).at_path(&shown));
            }
            all.insert(name, path);
        }
        Ok(Served::Listed(all))
    }

    /// The path of the log that a peer calls `name`.
    ///
    /// # Errors
    /// `Permission`, for a name that leads elsewhere; `NotFound`, for one that is not served.
    pub fn path(&self, name: &str) -> Result<PathBuf> {
        if name.is_empty() {
            return Err(Error::not_found("a log without a name"));
        }
        match self {
            Served::Listed(all) => {
                let path = all.get(name).cloned();
                path.ok_or_else(|| Error::not_found("no such log is served here").at_path(name))
            }
            Served::Below => below(name),
            Served::Anything(base) => {
                let word = super::super::remote::local_word(name.as_ref());
                match LogName::parse(&word)? {
                    LogName::Local(path) => Ok(base.as_deref().unwrap_or(Path::new("")).join(path)),
                    _ => Err(Error::usage("a log on this machine is needed here").at_path(name)),
                }
            }
        }
    }
}

fn below(name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    let normal = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
    let parts = path
        .components()
        .filter(|c| *c != Component::CurDir)
        .count();
    match path.components().all(normal) && parts > 0 && !name.contains('\0') {
        true => Ok(path.to_path_buf()),
        false => {
            let why = "not the name of a log below the directory of this key";
            Err(Error::new(ErrorKind::Permission, why).at_path(name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(served: &Served, name: &str) -> ErrorKind {
        served.path(name).unwrap_err().kind()
    }

    #[test]
    fn a_port_serves_the_names_that_were_listed_and_no_path() {
        let served = Served::listed(["a/orders", "/b/users-0"].map(PathBuf::from)).unwrap();
        assert_eq!(served.path("orders").unwrap(), Path::new("a/orders"));
        assert_eq!(served.path("users-0").unwrap(), Path::new("/b/users-0"));
        for name in [
            "",
            "a/orders",
            "users",
            "../a/orders",
            "/b/users-0",
            "orders/",
            "ORDERS",
        ] {
            assert_eq!(kind(&served, name), ErrorKind::NotFound, "{name}");
        }
        for bad in [&["a/orders", "b/orders"][..], &["a/b c"], &["/"], &["a/.."]] {
            let e = Served::listed(bad.iter().map(PathBuf::from)).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Usage, "{bad:?}");
        }
    }

    #[test]
    fn a_bound_key_names_what_is_below() {
        for name in ["orders", "a/orders-0", "./x", "a b", "..."] {
            assert_eq!(Served::Below.path(name).unwrap(), Path::new(name));
        }
        for name in [".", "..", "../x", "a/../b", "/etc", "/", "a\0b"] {
            assert_eq!(
                kind(&Served::Below, name),
                ErrorKind::Permission,
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_user_names_what_a_user_may() {
        let served = Served::Anything(Some("/logs".into()));
        assert_eq!(served.path("orders").unwrap(), Path::new("/logs/orders"));
        assert_eq!(served.path("/x/y").unwrap(), Path::new("/x/y"));
        assert_eq!(kind(&served, ""), ErrorKind::NotFound);
        // Never another machine.
        for name in ["h:x", "tcp://h:1/x", "-"] {
            let path = served.path(name).unwrap();
            assert_eq!(path, Path::new("/logs/.").join(name), "{name}");
        }
    }
}
