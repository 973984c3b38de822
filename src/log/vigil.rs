//! Knowing that no name in `.logd` came, went or changed place, without asking for each.
//!
//! Under a lock a writer must see to it that lock and end files are still the ones it holds, and that
//! no mark (`failed`, `replica`, `fenced`) was set. That is half a dozen questions a batch. From the
//! eighth time on the directory is watched instead, and the questions are asked again only after
//! something happened in it: the kernel queues an event before the call that caused it returns, so
//! whoever holds the lock finds the event of everything that was done under the lock before.
//!
//! Where nothing can be watched ([`Watch::is_polling`]) the questions are asked each time. The
//! directory's own place is not watched: what moves is often a parent.

use crate::sys::Dir;
use crate::sys::watch::Watch;

/// Looks before a watch is worth its two system calls.
const LOOKS_BEFORE: u32 = 8;

/// Whether the names in one directory have to be looked at.
#[derive(Debug, Default)]
pub struct Vigil {
    looks: u32,
    watch: Option<Watch>,
    /// All was found well, and nothing has happened since.
    settled: bool,
}

impl Vigil {
    /// Whether names in `dir` must be looked at. If so, say [`Vigil::settle`] after all was found
    /// well; else the next answer is yes again.
    pub fn must_look(&mut self, dir: &dyn Dir) -> bool {
        if let Some(watch) = &self.watch {
            self.settled &= !watch.has_changed();
            return !self.settled;
        }
        self.looks += 1;
        if self.looks == LOOKS_BEFORE {
            // First the watch, then the look.
            let mut watch = Watch::new();
            let _ = watch.dir(dir);
            self.watch = Some(watch);
        }
        true
    }

    /// Every name was looked at since the last [`Vigil::must_look`] and is as it should be.
    pub fn settle(&mut self) {
        self.settled = self.watch.is_some();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::sim::SimHost;
    use crate::sys::{Host, RealHost};
    use std::path::Path;

    fn settled(vigil: &mut Vigil, dir: &dyn Dir) -> bool {
        let look = vigil.must_look(dir);
        vigil.settle();
        !look
    }

    #[test]
    fn every_name_that_comes_goes_or_moves_is_noticed_once() {
        let temp = tempfile::tempdir().unwrap();
        let dir = RealHost.open_dir(temp.path()).unwrap();
        let mut vigil = Vigil::default();
        for _ in 0..LOOKS_BEFORE {
            assert!(!settled(&mut vigil, dir.as_ref()));
        }
        assert!(settled(&mut vigil, dir.as_ref()));
        let at = |name: &str| temp.path().join(name);
        let steps: [&dyn Fn(); 4] = [
            &|| std::fs::write(at("failed"), "").unwrap(),
            &|| std::fs::rename(at("failed"), at("end")).unwrap(),
            &|| std::fs::remove_file(at("end")).unwrap(),
            &|| std::fs::create_dir(at("groups")).unwrap(),
        ];
        for (i, step) in steps.iter().enumerate() {
            step();
            assert!(!settled(&mut vigil, dir.as_ref()), "step {i}");
            assert!(settled(&mut vigil, dir.as_ref()), "after step {i}");
        }
    }

    #[test]
    fn what_was_not_found_well_is_looked_at_again() {
        let temp = tempfile::tempdir().unwrap();
        let dir = RealHost.open_dir(temp.path()).unwrap();
        let mut vigil = Vigil::default();
        while !settled(&mut vigil, dir.as_ref()) {}
        std::fs::write(temp.path().join("fenced"), "").unwrap();
        assert!(vigil.must_look(dir.as_ref()));
        assert!(vigil.must_look(dir.as_ref())); // refused, and not settled
        assert!(!settled(&mut vigil, dir.as_ref()));
    }

    #[test]
    fn without_a_watch_every_time_is_a_look() {
        let host = SimHost::new();
        host.make_dir(Path::new("/d")).unwrap();
        let dir = host.open_dir(Path::new("/d")).unwrap();
        let mut vigil = Vigil::default();
        assert!((0..3 * LOOKS_BEFORE).all(|_| !settled(&mut vigil, dir.as_ref())));
    }
}
