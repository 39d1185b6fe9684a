//! The table of rules in `docs/protocol.md` names code and tests that are there.

use std::path::{Path, PathBuf};

/// All source files below `folder`, with their text.
fn sources(folder: &Path, all: &mut Vec<(PathBuf, String)>) {
    for entry in folder.read_dir().expect("a folder of the repository") {
        let path = entry.expect("an entry of it").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                sources(&path, all);
            }
        } else if name.ends_with(".rs") {
            let text = std::fs::read_to_string(&path).expect("UTF-8");
            all.push((path, text));
        }
    }
}

/// What stands between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// `text` has `word`, and not as a part of a longer one.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word).any(|(at, _)| {
        !part(text[..at].chars().next_back()) && !part(text[at + word.len()..].chars().next())
    })
}

#[test]
fn the_table_of_rules_names_what_there_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the repository");
    let mut all = Vec::new();
    sources(root, &mut all);
    let here = Path::new(file!()).file_name();
    all.retain(|(path, _)| path.file_name() != here);
    let text = std::fs::read_to_string(root.join("docs/protocol.md")).expect("the page");
    let table = text
        .split_once("\n## Rule, code, test\n")
        .expect("the section")
        .1;
    let (mut rows, mut wrong) = (0, Vec::new());
    for row in table.lines().filter(|l| l.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        // Those of the specification's section 5 have its number before them.
        let [.., rule, code, tests] = cells[..] else {
            wrong.push(format!("not three cells: {row}"));
            continue;
        };
        if quoted(tests).next().is_none() {
            if !matches!(tests.trim(), "Test" | "---") && !tests.contains("---") {
                wrong.push(format!("no test: {rule}"));
            }
            continue;
        }
        rows += 1;
        for name in quoted(code).chain(quoted(tests)) {
            let there = if name.contains('/') || name.ends_with(".rs") {
                [root.join(name), root.join("dataplane/core/src").join(name)]
                    .iter()
                    .any(|p| p.exists())
            } else {
                let last = name.rsplit("::").next().unwrap_or(name);
                let last = last.split(['(', ' ', '{']).next().unwrap_or(last);
                all.iter().any(|(_, text)| has_word(text, last))
            };
            if !there {
                wrong.push(format!("{name}, of: {rule}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(rows > 80, "{rows} rows");
}
