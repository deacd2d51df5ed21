//! Rules that were given for all sessions: a file of settings that holds nothing else.

use std::path::Path;

/// Adds an allowing rule.
pub(super) fn add(file: &Path, rule: &str) -> std::io::Result<()> {
    change(file, |rules| {
        if !rules.iter().any(|known| known.as_str() == Some(rule)) {
            rules.push(rule.into());
        }
    })
}

/// Takes one out again; says whether it was there.
pub(super) fn remove(file: &Path, rule: &str) -> std::io::Result<bool> {
    let mut found = false;
    if file.exists() {
        change(file, |rules| {
            let before = rules.len();
            rules.retain(|known| known.as_str() != Some(rule));
            found = rules.len() < before;
        })?;
    }
    Ok(found)
}

fn change(file: &Path, edit: impl FnOnce(&mut Vec<toml::Value>)) -> std::io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("/"));
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let mut table: toml::Table = toml::from_str(&text).map_err(std::io::Error::other)?;
    let rules = table.entry("allow").or_insert_with(|| toml::Value::Array(Vec::new()));
    edit(rules.as_array_mut().ok_or(std::io::ErrorKind::InvalidData)?);
    let mut new = tempfile::NamedTempFile::new_in(directory)?;
    std::io::Write::write_all(&mut new, table.to_string().as_bytes())?;
    new.as_file().sync_data()?;
    new.persist(file)?;
    Ok(())
}
