//! The supervisor's own calls: small files of the project that concern zerostack itself, and taking a
//! change back. In a worker, because they touch the project.

use super::{Outcome, Roots, arguments, diff, fault, place};
use crate::wire::{Call, CollectWhat, Fault, Output, Restore, Target};

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

/// Puts a file back to what it was, if nobody has changed it since.
pub fn restore(call: &Call, roots: &Roots) -> Outcome {
    let wanted: Restore = arguments(call)?;
    let file = place::Changing::open(call, roots, None)?;
    let present = file.before.clone();
    let Some(present) = present.filter(|text| place::hash(text) == wanted.expected) else {
        return Err(fault(format!("{} was changed since; it is left as it is", call.shown)));
    };
    match &wanted.text {
        Some(text) => file.replace(text)?,
        None if call.preview => {}
        None => place::remove(call, roots)?,
    }
    let text = diff(&call.shown, &present, wanted.text.as_deref().unwrap_or_default());
    Ok(Output { text, ..Output::default() })
}
