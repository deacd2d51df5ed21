//! Keeps the borders between modules: ARCHITECTURE.md says which module may use which, this test reads the source and
//! compares. A new arrow needs a line in that table, in the same commit.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

/// The one file that may say `unsafe`.
const RAW_CALLS: &str = "sandbox/src/sys.rs";

#[test]
fn modules_use_only_what_the_table_allows() {
    let table = table();
    let mut modules = BTreeSet::new();
    let mut wrong = Vec::new();
    for file in rust_files(&Path::new(PACKAGE).join("src")) {
        let inside = file.strip_prefix("src").unwrap();
        if inside == Path::new("lib.rs") {
            continue;
        }
        let module = inside.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = module.trim_end_matches(".rs").to_owned();
        let source = fs::read_to_string(Path::new(PACKAGE).join(&file)).unwrap();
        for (target, line) in mentions(&source, depth(inside)) {
            let allowed = table.get(&module).is_some_and(|may_use| may_use.contains(&target));
            if target != module && !allowed {
                wrong.push(format!(
                    "{}:{line}: `{module}` → `{target}` is not in the table",
                    file.display()
                ));
            }
        }
        modules.insert(module);
    }
    for module in modules.iter().filter(|module| !table.contains_key(*module)) {
        wrong.push(format!("`{module}` has no row in the table"));
    }
    for (row, may_use) in &table {
        if !modules.contains(row) {
            wrong.push(format!("the table's row `{row}` has no module in src/"));
        }
        for target in
            may_use.iter().filter(|target| *target != "sandbox" && !modules.contains(*target))
        {
            wrong.push(format!("the table lets `{row}` use `{target}`, which does not exist"));
        }
    }
    assert!(wrong.is_empty(), "the source and ARCHITECTURE.md differ:\n{}", wrong.join("\n"));
}

#[test]
fn the_sandbox_knows_no_agent() {
    let manifest = fs::read_to_string(Path::new(PACKAGE).join("sandbox/Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let mut names = Vec::new();
    dependencies(&manifest, &mut names);
    assert!(names.iter().any(|name| name == "landlock"), "no dependencies found: {names:?}");
    for stranger in ["tokio", "toml", "reqwest", env!("CARGO_PKG_NAME")] {
        assert!(!names.iter().any(|name| name == stranger), "sandbox/Cargo.toml names {stranger}");
    }
}

#[test]
fn unsafe_stands_in_one_file() {
    let mut wrong = Vec::new();
    let mut expected = 0;
    for file in rust_files(Path::new(PACKAGE)) {
        let source = fs::read_to_string(Path::new(PACKAGE).join(&file)).unwrap();
        for token in tokens(&source).iter().filter(|token| token.text == "unsafe") {
            if file == Path::new(RAW_CALLS) {
                expected += 1;
            } else {
                wrong.push(format!("{}:{}", file.display(), token.line));
            }
        }
    }
    assert!(expected > 0, "{RAW_CALLS} has none: is it still the right file?");
    assert!(wrong.is_empty(), "`unsafe` outside {RAW_CALLS}: {wrong:#?}");
}

#[test]
fn comments_and_strings_are_not_read() {
    let source = r##"
        // crate::comment
        /* crate::outer /* crate::inner */ crate::rest */
        let text = ("crate::text \" crate::more", b"crate::bytes", r#"crate::raw " crate::raw"#);
        let quotes = ['"', '\'', '\\', '{'];
        fn life<'a>(x: &'a str) -> crate::first::Type<'a> {}
        use crate::{second, third::{fourth, Fifth as Sixth}};
        use zerostack::seventh;
        pub(crate) mod tests { use super::own; use super::super::eighth; }
        use super::ninth;
        fn last() -> zerostack_sandbox::Error {}
    "##;
    let found: Vec<String> = mentions(source, 1).into_iter().map(|(target, _)| target).collect();
    assert_eq!(found, ["first", "second", "third", "seventh", "eighth", "ninth", "sandbox"]);
}

/// What each module may use, from the part of ARCHITECTURE.md between the two marks.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(Path::new(PACKAGE).join("ARCHITECTURE.md")).unwrap();
    let marked = text.lines().map(str::trim).skip_while(|line| *line != "<!-- borders -->").skip(1);
    let marked = marked.take_while(|line| *line != "<!-- /borders -->");
    let mut table = BTreeMap::new();
    // The first two rows are the heading and the line below it.
    for line in marked.filter(|line| line.starts_with('|')).skip(2) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [module, may_use] = cells[..] else { panic!("not two columns: {line}") };
        let uses = in_backticks(may_use);
        assert!(!uses.is_empty() || may_use == "–", "neither names nor –: {line}");
        let module =
            in_backticks(module).into_iter().next().unwrap_or_else(|| panic!("no module: {line}"));
        assert!(table.insert(module, uses).is_none(), "twice in the table: {line}");
    }
    assert!(!table.is_empty(), "no table between the marks in ARCHITECTURE.md");
    table
}

fn in_backticks(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Every name in a `dependencies` table of a manifest, and what it stands for if it was renamed.
fn dependencies(table: &toml::Table, names: &mut Vec<String>) {
    for (key, value) in table {
        let Some(inner) = value.as_table() else {
            continue;
        };
        if !key.ends_with("dependencies") {
            dependencies(inner, names);
            continue;
        }
        for (name, wanted) in inner {
            names.push(name.clone());
            names.extend(wanted.get("package").and_then(toml::Value::as_str).map(str::to_owned));
        }
    }
}

/// The Rust files below a directory, relative to the package, without build output and hidden directories.
fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if entry.file_type().unwrap().is_dir() {
                if name != "target" && !name.starts_with('.') {
                    open.push(entry.path());
                }
            } else if name.ends_with(".rs") {
                files.push(entry.path().strip_prefix(PACKAGE).unwrap().to_path_buf());
            }
        }
    }
    files.sort();
    files
}

/// How many `super` lead from a file's top level to the root of the crate.
fn depth(inside_src: &Path) -> usize {
    let is_root = inside_src == Path::new("main.rs");
    let is_parent = inside_src.file_name().is_some_and(|name| name == "mod.rs");
    inside_src.components().count() - usize::from(is_root || is_parent)
}

/// The modules a file names, with the lines where it does.
fn mentions(source: &str, depth: usize) -> Vec<(String, usize)> {
    let tokens = tokens(source);
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut found = Vec::new();
    let mut braces = 0;
    let mut inline_modules = Vec::new(); // the depth of braces at which each began
    for (at, token) in tokens.iter().enumerate() {
        let after_root = match token.text {
            "{" => {
                braces += 1;
                if at >= 2 && text(at - 2) == "mod" {
                    inline_modules.push(braces);
                }
                continue;
            }
            "}" => {
                inline_modules.pop_if(|began| *began == braces);
                braces -= 1;
                continue;
            }
            "zerostack_sandbox" => {
                found.push(("sandbox".to_owned(), token.line));
                continue;
            }
            "crate" | "zerostack" if text(at + 1) == "::" => at + 2,
            "super" if at < 2 || text(at - 2) != "super" => {
                let mut end = at;
                let mut steps = 0;
                while text(end) == "super" && text(end + 1) == "::" {
                    steps += 1;
                    end += 2;
                }
                if steps < depth + inline_modules.len() {
                    continue;
                }
                end
            }
            _ => continue,
        };
        found.extend(first_names(&tokens[after_root..]));
    }
    found
}

/// `a` of `a::b`, or `a` and `c` of `{a::b, c}`.
fn first_names(tokens: &[Token]) -> Vec<(String, usize)> {
    let mut names = Vec::new();
    let mut braces = 0;
    let mut expected = true;
    for token in tokens {
        match token.text {
            "{" => braces += 1,
            "}" => braces -= 1,
            "," => expected = braces == 1,
            _ if expected => {
                names.push((token.text.to_owned(), token.line));
                expected = false;
            }
            _ => {}
        }
        if braces == 0 {
            break;
        }
    }
    names
}

/// A word, `::`, or another single character of the code.
struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// Splits source into tokens and leaves out comments, strings and characters: what they say is no code.
fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let skipped = comment(rest).or_else(|| string(rest)).or_else(|| character(rest));
        let length = skipped.unwrap_or_else(|| {
            if is_word(first) {
                rest.find(|one| !is_word(one)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            }
        });
        let (text, after) = rest.split_at(length);
        if skipped.is_none() && !first.is_whitespace() {
            tokens.push(Token { text, line });
        }
        line += text.matches('\n').count();
        rest = after;
    }
    tokens
}

fn is_word(one: char) -> bool {
    one == '_' || one.is_alphanumeric()
}

/// Length of the comment that the text begins with. Block comments nest.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let (mut at, mut open) = (2, 1);
    while open > 0 && at < text.len() {
        match text.as_bytes()[at..] {
            [b'/', b'*', ..] => (at, open) = (at + 2, open + 1),
            [b'*', b'/', ..] => (at, open) = (at + 2, open - 1),
            _ => at += 1,
        }
    }
    Some(at)
}

/// Length of the string that the text begins with: plain, raw, of bytes, or for C.
fn string(text: &str) -> Option<usize> {
    let after_kind = text.trim_start_matches(['b', 'c']);
    let unraw = after_kind.strip_prefix('r');
    let after_hashes = unraw.unwrap_or(after_kind).trim_start_matches('#');
    let hashes = unraw.unwrap_or(after_kind).len() - after_hashes.len();
    let content = after_hashes.strip_prefix('"').filter(|_| unraw.is_some() || hashes == 0)?;
    let start = text.len() - content.len();
    if unraw.is_some() {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(content.find(&end).map_or(text.len(), |at| start + at + end.len()));
    }
    let mut escaped = false;
    let end = content.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    Some(end.map_or(text.len(), |at| start + at + 1))
}

/// Length of the character that the text begins with; a lifetime is none.
fn character(text: &str) -> Option<usize> {
    let content = text.strip_prefix('\'')?;
    if content.starts_with('\\') {
        return content.get(2..)?.find('\'').map(|at| at + 4);
    }
    let length = content.chars().next()?.len_utf8();
    content[length..].starts_with('\'').then_some(length + 2)
}
