//! The name that somebody meant.

/// The known name that is most like `wanted`, if any is like it at all.
pub fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let likeness = |name: &str| {
        let likeness = strsim::normalized_damerau_levenshtein(name, wanted);
        // Of two that are as near, letters were rather swapped than forgotten.
        (likeness * 1e6) as u64 * 2 + u64::from(name.len() == wanted.len())
    };
    let best = known.into_iter().map(|name| (likeness(name), name)).max_by_key(|(near, _)| *near);
    best.filter(|(near, _)| *near >= 2 * 650_000).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn typing_errors_are_understood_and_other_words_are_not() {
        let known = ["mode", "model", "provider", "max_turns"];
        assert_eq!(nearest("modle", known), Some("model"));
        assert_eq!(nearest("providr", known), Some("provider"));
        assert_eq!(nearest("max_turn", known), Some("max_turns"));
        assert_eq!(nearest("colour", known), None);
    }
}
