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

/// The commands of the README's session with the output it shows for each.
fn session() -> Vec<(String, String)> {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let block = readme.split("```console\n").nth(1).expect("a session");
    let mut steps: Vec<(String, String)> = Vec::new();
    for line in block.split("```").next().unwrap().lines() {
        match line.strip_prefix("$ ") {
            Some(command) => steps.push((command.to_string(), String::new())),
            None => {
                let (_, output) = steps.last_mut().expect("a command first");
                output.push_str(line);
                output.push('\n');
            }
        }
    }
    steps
}

#[test]
fn readme_session_prints_what_it_says() {
    const MARK: &str = "=== next ===";
    let steps = session();
    assert!(steps.len() > 5);
    // One shell for all, as whoever pastes it has; stderr belongs to what is seen.
    let mut script = String::from("exec 2>&1\n");
    for (command, _) in &steps {
        script.push_str(&format!("{command}\necho '{MARK}'\n"));
    }
    let bin = Path::new(env!("CARGO_BIN_EXE_logd")).parent().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .current_dir(scratch.path())
        .env("PATH", format!("{}:{path}", bin.display()))
        .env("TMPDIR", scratch.path())
        .env("HOME", scratch.path())
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("LOGD_CONFIG")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mark = format!("{MARK}\n");
    let mut seen = text.split(&mark);
    for (command, want) in &steps {
        assert_eq!(seen.next().unwrap_or_default(), want, "$ {command}");
    }
}

#[test]
fn readme_names_every_command_and_no_other() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let table = readme.split("## Commands").nth(1).unwrap();
    let table = table.split("\n\n").nth(1).unwrap();
    let named: Vec<&str> = table.split('`').skip(1).step_by(2).collect();
    for (page, _) in logd::cli::man::pages() {
        if let Some(command) = page
            .strip_prefix("logd-")
            .and_then(|p| p.strip_suffix(".1"))
        {
            assert!(named.contains(&command), "{command} is not in the README");
        }
    }
    for command in named {
        let page = root().join(format!("man/logd-{command}.1"));
        assert!(page.exists(), "the README names {command}");
    }
}

#[test]
fn readme_links_lead_somewhere() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    for link in readme.split("](").skip(1) {
        let target = link.split(')').next().unwrap();
        assert!(root().join(target).exists(), "{target}");
    }
}
