//! Rules of the house that the compiler does not know: layers, sizes, docs, and words that must not
//! be in the sources.

use std::fs;
use std::path::{Path, PathBuf};

/// Longest file, without its tests. Past 500 lines look for the seam.
const FILE_LINES_MAX: usize = 900;
/// Longest function.
const FN_LINES_MAX: usize = 70;

/// What each layer may name besides itself; calls go down only. `error` is below all of them.
const LAYERS: [(&str, &[&str]); 6] = [
    ("format", &[]),
    ("sys", &[]),
    ("segment", &["format", "sys"]),
    ("log", &["segment", "format", "sys"]),
    ("ops", &["log", "segment", "format", "sys"]),
    ("cli", &["ops", "log", "format"]),
];

/// What else `cli` may name of `sys`: signals, children and standard streams are a process's own matter.
const SYS_FOR_CLI: [&str; 5] = ["FileId", "child", "pipe", "signals", "watch"];
/// The files of `cli` that may name all of it: what a command is handed.
const CLI_WITH_SYS: [&str; 1] = ["cli/context.rs"];

/// The only file with unsafe code.
const UNSAFE: &str = "sys/map.rs";

/// The one place that may panic: compressing into memory cannot fail but by a bug of the codec.
const PANICS: &str = "cannot compress";

/// Straight-line functions that may be longer than a screen.
const LONG: [&str; 3] = [
    "cli/dump/json.rs: fn item(",
    "ops/append.rs: fn run(",
    "ops/append/run.rs: fn take_from(",
];

/// One source file, without its tests.
struct Source {
    /// Path below `src`.
    name: String,
    text: String,
}

impl Source {
    fn layer(&self) -> &str {
        let first = self.name.split('/').next().unwrap();
        first.trim_end_matches(".rs")
    }

    /// Lines of code with their numbers, comments left out.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate();
        let code = lines.filter(|(_, l)| !l.trim_start().starts_with("//"));
        code.map(|(i, l)| (i + 1, l.split(" // ").next().unwrap_or(l)))
    }
}

fn is_test_file(name: &str) -> bool {
    let stem = name.trim_end_matches(".rs");
    let last = stem.rsplit('/').next().unwrap();
    let only_tests = ["corpus", "tests", "twins", "testing"];
    only_tests.contains(&last)
        || stem.ends_with("_tests")
        || stem.contains("/tests/")
        || stem.contains("sys/sim/")
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let src = root.join("src");
    let mut out = Vec::new();
    let mut dirs = vec![src.clone()];
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
        let (sub, files): (Vec<PathBuf>, Vec<PathBuf>) = entries.partition(|p| p.is_dir());
        dirs.extend(sub);
        for path in files {
            let name = path
                .strip_prefix(&src)
                .unwrap()
                .to_str()
                .unwrap()
                .to_string();
            if name.ends_with(".rs") && !is_test_file(&name) {
                let text = without_tests(&fs::read_to_string(path).unwrap());
                out.push(Source { name, text });
            }
        }
    }
    assert!(out.len() > 30, "{}", out.len());
    out
}

/// Test modules are at the end of a file.
fn without_tests(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let next = lines.peek().copied().unwrap_or_default();
        if line == "#[cfg(test)]" && next.contains("mod ") && next.ends_with('{') {
            break;
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// Whether `path`, which begins with `prefix`, goes on with one of `names`, or with several in braces.
fn names_only(path: &str, prefix: &str, names: &[&str]) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else {
        return false;
    };
    let list = rest
        .strip_prefix('{')
        .map_or(rest, |l| l.split('}').next().unwrap());
    let mut used = list
        .split(',')
        .map(|u| u.trim().split([':', ';', '(']).next().unwrap());
    match rest.starts_with('{') {
        true => used.all(|u| names.contains(&u)),
        false => used.next().is_some_and(|u| names.contains(&u)),
    }
}

fn report(rule: &str, found: &[String]) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

#[test]
fn calls_go_down_only() {
    let mut found = Vec::new();
    for source in sources() {
        let Some((layer, below)) = LAYERS.iter().find(|(l, _)| *l == source.layer()) else {
            continue;
        };
        let door = CLI_WITH_SYS.contains(&source.name.as_str());
        for (n, line) in source.code() {
            for (at, _) in line.match_indices("crate::") {
                let rest = &line[at + "crate::".len()..];
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                let used = &rest[..end.unwrap_or(rest.len())];
                let is_layer = LAYERS.iter().any(|(l, _)| *l == used);
                let streams = *layer == "cli" && names_only(rest, "sys::", &SYS_FOR_CLI);
                let through_door = streams || (door && used == "sys");
                let allowed = used == *layer || below.contains(&used) || through_door;
                if is_layer && !allowed {
                    found.push(format!("{}:{n}: {layer} uses {used}", source.name));
                }
            }
        }
    }
    report("a layer uses one that is not below it", &found);
}

#[test]
fn unsafe_code_is_in_one_file() {
    let mut found = Vec::new();
    for source in sources() {
        for (n, line) in source.code() {
            let is_unsafe = line.contains("unsafe {")
                || line.contains("unsafe fn")
                || line.contains("unsafe impl")
                || line.contains("allow(unsafe_code)");
            if is_unsafe && source.name != UNSAFE {
                found.push(format!("{}:{n}", source.name));
            }
        }
    }
    report("unsafe code", &found);
}

#[test]
fn input_never_meets_a_panic() {
    let words = [
        ".unwrap()",
        ".expect(",
        "panic!(",
        "todo!(",
        "unimplemented!(",
    ];
    let mut found = Vec::new();
    for source in sources() {
        for (n, line) in source.code() {
            if words.iter().any(|w| line.contains(w)) && !line.contains(PANICS) {
                found.push(format!("{}:{n}: {}", source.name, line.trim()));
            }
        }
    }
    report("a panic outside tests", &found);
}

#[test]
fn files_have_docs_and_fit_a_mind() {
    let mut found = Vec::new();
    for source in sources() {
        if !source.text.starts_with("//!") {
            found.push(format!("{}: no module docs", source.name));
        }
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            found.push(format!("{}: {lines} lines", source.name));
        }
    }
    report("files", &found);
}

#[test]
fn functions_fit_a_screen() {
    let mut found = Vec::new();
    for source in sources() {
        let mut open: Option<(usize, usize, &str)> = None; // line, indent, head
        for (n, line) in source.text.lines().enumerate() {
            let body = line.trim_start();
            let indent = line.len() - body.len();
            match open {
                Some((from, at, head)) if indent == at && body.starts_with('}') => {
                    let known = format!("{}: {head}", source.name);
                    let excused = LONG.iter().any(|l| known.starts_with(l));
                    if n - from + 1 > FN_LINES_MAX && !excused {
                        let lines = n - from + 1;
                        found.push(format!(
                            "{}:{}: {lines} lines: {head}",
                            source.name,
                            from + 1
                        ));
                    }
                    open = None;
                }
                Some(_) => {}
                None => {
                    let is_fn = body.starts_with("fn ") || body.contains(" fn ");
                    if is_fn && !body.starts_with("//") && !body.ends_with([';', '}', ',']) {
                        open = Some((n, indent, body));
                    }
                }
            }
        }
    }
    report("functions longer than a screen", &found);
}
