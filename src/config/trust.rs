//! Which files of projects the user has looked at and trusts, each by its content.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The store: path and hash of every trusted file.
#[derive(Debug)]
pub struct Trust {
    file: PathBuf,
    known: BTreeMap<PathBuf, String>,
}

fn hash(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Trust {
    /// Reads the store. One that cannot be read trusts nothing.
    pub fn load(file: PathBuf) -> Trust {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let known = serde_json::from_str(&text).unwrap_or_default();
        Trust { file, known }
    }

    pub fn holds(&self, path: &Path, text: &str) -> bool {
        self.known.get(path).is_some_and(|known| *known == hash(text))
    }

    /// Whether some content of this file is trusted.
    pub fn knows(&self, path: &Path) -> bool {
        self.known.get(path).is_some_and(|known| !known.starts_with('-'))
    }

    /// Whether the user has looked at this content and does not trust it.
    pub fn declined(&self, path: &Path, text: &str) -> bool {
        self.known.get(path).is_some_and(|known| *known == format!("-{}", hash(text)))
    }

    /// It is not trusted, and need not be asked about as long as it stays the same.
    pub fn decline(&mut self, path: &Path, text: &str) {
        self.known.insert(path.to_owned(), format!("-{}", hash(text)));
    }

    pub fn add(&mut self, path: &Path, text: &str) {
        self.known.insert(path.to_owned(), hash(text));
    }

    pub fn forget_below(&mut self, directory: &Path) {
        self.known.retain(|path, _| !path.starts_with(directory));
    }

    pub fn save(&self) -> std::io::Result<()> {
        let directory = self.file.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(directory)?;
        let mut new = tempfile::NamedTempFile::new_in(directory)?;
        new.as_file().set_permissions(PermissionsExt::from_mode(0o600))?;
        new.write_all(serde_json::to_string_pretty(&self.known)?.as_bytes())?;
        new.as_file().sync_data()?;
        new.persist(&self.file)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_not_trusted_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("data/trust.json");
        let mut trust = Trust::load(file.clone());
        trust.add(Path::new("/w/AGENTS.md"), "be kind");
        trust.save().unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let mut trust = Trust::load(file.clone());
        assert!(trust.holds(Path::new("/w/AGENTS.md"), "be kind"));
        assert!(!trust.holds(Path::new("/w/AGENTS.md"), "be evil"));
        assert!(!trust.holds(Path::new("/x/AGENTS.md"), "be kind"));
        trust.decline(Path::new("/w/CLAUDE.md"), "be evil");
        assert!(!trust.holds(Path::new("/w/CLAUDE.md"), "be evil"));
        assert!(trust.declined(Path::new("/w/CLAUDE.md"), "be evil"));
        assert!(!trust.declined(Path::new("/w/CLAUDE.md"), "be kind"));
        trust.forget_below(Path::new("/w"));
        assert!(!trust.holds(Path::new("/w/AGENTS.md"), "be kind"));
        std::fs::write(&file, "broken").unwrap();
        assert!(!Trust::load(file).holds(Path::new("/w/AGENTS.md"), "be kind"));
    }
}
