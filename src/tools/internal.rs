//! The supervisor's own calls: small files of the project that concern zerostack itself, and taking a
//! change back. In a worker, because they touch the project.

use std::path::Path;

use super::{Outcome, Roots, arguments, diff, fault, place, text, walk};
use crate::wire::{Before, Call, CollectWhat, Fault, Output, Restore, Target};

/// Largest file that is collected, bytes.
const FILE_LIMIT: usize = 64 * 1024;
/// Most files of one directory.
const FILES: usize = 64;

/// Reads files by name; what is absent, a link, too large or no text is left out.
pub fn collect(call: &Call, roots: &Roots) -> Result<Vec<(std::path::PathBuf, String)>, Fault> {
    let wanted: CollectWhat = arguments(call)?;
    let start = place::walk_start(call, roots)?;
    let Target::Beneath { root, .. } = call.target else { return Err(fault("a root is needed")) };
    let mut found = Vec::new();
    for path in wanted.paths {
        let mut names = vec![path.clone()];
        if let Some(directory) = path.strip_suffix("/*.md") {
            names = std::fs::read_dir(start.join(directory))
                .into_iter()
                .flatten()
                .flatten()
                .filter_map(|entry| entry.file_name().into_string().ok())
                .filter(|name| name.ends_with(".md"))
                .map(|name| format!("{directory}/{name}"))
                .collect();
            names.sort();
            names.truncate(FILES);
        }
        for name in names {
            let target = Target::Beneath { root, path: name.clone().into_bytes() };
            let one = Call { target, shown: name.clone(), ..call.clone() };
            let text = place::open_to_read(&one, roots, None)
                .and_then(|file| place::read_text(&one, &file));
            if let Ok(text) = text
                && text.len() <= FILE_LIMIT
            {
                found.push((name.into(), text));
            }
        }
    }
    Ok(found)
}

/// Most files that are listed for a person who types.
const LIKE_LIMIT: usize = 2000;

/// Files whose path has all letters in it, in their order and in any case.
pub fn like(call: &Call, roots: &Roots) -> Outcome {
    let letters: String = arguments(call)?;
    let letters = letters.to_lowercase();
    let start = place::walk_start(call, roots)?;
    let fits = |path: &Path| {
        let path = path.strip_prefix(&start).unwrap_or(path).to_string_lossy().to_lowercase();
        // Such a name would be two in the list.
        if path.chars().any(char::is_control) {
            return None;
        }
        let mut rest = path.chars();
        letters.chars().all(|letter| rest.any(|other| other == letter)).then_some(())
    };
    let found = walk::files(call, &start, LIKE_LIMIT, |()| 1, || fits)?;
    let named = |(path, ()): &(std::path::PathBuf, ())| walk::named(call, &start, path);
    text(found.iter().map(named).collect::<Vec<_>>().join("\n"))
}

/// Puts a file back to what it was, if nobody has changed it since.
pub fn restore(call: &Call, roots: &Roots) -> Outcome {
    let wanted: Restore = arguments(call)?;
    let file = place::Changing::open(call, roots, None)?;
    let present = file.before.clone();
    let now = present.as_deref().map(place::hash).unwrap_or_default();
    match &wanted.expected {
        Some(expected) if now != *expected => {
            return Err(fault(format!("{} was changed since; it is left as it is", call.shown)));
        }
        None if !call.preview => return Err(fault("it is not said what must be there")),
        _ => {}
    }
    match &wanted.text {
        Some(text) => file.replace(text)?,
        None if call.preview => {}
        None => place::remove(call, roots)?,
    }
    let (old, new) = (present.as_deref().unwrap_or_default(), wanted.text.as_deref());
    let text = diff(&call.shown, old, new.unwrap_or_default());
    let hash = Some(new.map(place::hash).unwrap_or_default());
    Ok(Output { text, hash, before: Some(Before(present)), ..Output::default() })
}
