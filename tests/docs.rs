//! What is written about the program is what the program does: the checked-in manual pages are those
//! of the definitions. `LOGD_BLESS=1 cargo test --test docs` writes them anew.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

#[test]
fn checked_in_pages_are_those_of_the_definitions() {
    let dir = root().join("man");
    let mut want: Vec<String> = Vec::new();
    for (name, text) in logd::cli::man::pages() {
        if std::env::var_os("LOGD_BLESS").is_some() {
            std::fs::write(dir.join(&name), &text).unwrap();
        }
        let found = std::fs::read_to_string(dir.join(&name)).unwrap_or_default();
        let how = "LOGD_BLESS=1 cargo test --test docs";
        assert!(found == text, "man/{name} is not up to date: {how}");
        want.push(name);
    }
    let entries = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap());
    let mut there: Vec<String> = entries
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    there.sort();
    want.sort();
    assert_eq!(there, want);
}
