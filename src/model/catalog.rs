//! What is known of models: window, prices, what they take. Data, in `models.toml`.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Ability, Usage};

/// Facts about a model. A field that is not given is not known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Facts {
    /// Tokens that it can take.
    pub window: Option<u64>,
    /// Tokens that one answer can have.
    pub output: Option<u64>,
    /// US dollars per million tokens.
    pub price: Option<Price>,
    /// Whether it takes images.
    pub images: Option<bool>,
    /// Whether it takes PDF documents.
    pub documents: Option<bool>,
    /// Whether it can think before it answers.
    pub thinks: Option<bool>,
    /// Whether it cannot be told not to think.
    pub always_thinks: Option<bool>,
    /// Whether it is told an effort instead of a number of tokens to think with.
    pub adaptive: Option<bool>,
}

/// US dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Price {
    pub input: f64,
    pub output: f64,
    /// Input found in the provider's cache; without it, as `input`.
    pub cached: Option<f64>,
    /// Input written to the provider's cache; without it, as `input`.
    pub cache_written: Option<f64>,
}

impl Price {
    /// US dollars for this usage.
    pub fn of(&self, usage: Usage) -> f64 {
        let fresh = usage.input.saturating_sub(usage.cached.saturating_add(usage.cache_written));
        let parts = [
            (fresh, self.input),
            (usage.cached, self.cached.unwrap_or(self.input)),
            (usage.cache_written, self.cache_written.unwrap_or(self.input)),
            (usage.output, self.output),
        ];
        parts.iter().map(|(tokens, price)| *tokens as f64 * price / 1e6).sum()
    }
}

static KNOWN: LazyLock<BTreeMap<String, Facts>> = LazyLock::new(|| {
    // A test parses the file; a program with a broken one knows nothing about models.
    toml::from_str(include_str!("models.toml")).unwrap_or_default()
});

impl Facts {
    /// What is known of `model`; a user's own entry under its full name replaces any field.
    pub fn of(model: &str, own: &BTreeMap<String, Facts>) -> Facts {
        let name = model.rsplit('/').next().unwrap_or(model);
        // Some write claude-sonnet-4.6 for what its maker calls claude-sonnet-4-6.
        let name =
            if name.starts_with("claude") { name.replace('.', "-") } else { name.to_owned() };
        let known = KNOWN.iter().filter(|(start, _)| name.starts_with(start.as_str()));
        let known = known.max_by_key(|(start, _)| start.len()).map(|(start, facts)| {
            let mut facts = facts.clone();
            // A price is of one model, not of a family.
            facts.price = facts.price.filter(|_| is_version(&name[start.len()..]));
            facts
        });
        let (known, own) = (known.unwrap_or_default(), own.get(model).cloned().unwrap_or_default());
        Facts {
            window: own.window.or(known.window),
            output: own.output.or(known.output),
            price: own.price.or(known.price),
            images: own.images.or(known.images),
            documents: own.documents.or(known.documents),
            thinks: own.thinks.or(known.thinks),
            always_thinks: own.always_thinks.or(known.always_thinks),
            adaptive: own.adaptive.or(known.adaptive),
        }
    }

    pub fn ability(&self) -> Ability {
        Ability {
            thinks: self.thinks == Some(true),
            always: self.always_thinks == Some(true),
            adaptive: self.adaptive == Some(true),
        }
    }
}

/// Whether what follows a model's name is a date or the like, and not the name of another model.
fn is_version(rest: &str) -> bool {
    let rest = rest.trim_start_matches(['-', '@', ':']);
    rest.is_empty() || rest.starts_with("20") || rest == "latest"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_parses_and_the_longest_name_counts() {
        let known: BTreeMap<String, Facts> = toml::from_str(include_str!("models.toml")).unwrap();
        assert!(known.len() > 20);
        let none = BTreeMap::new();
        let window = |model: &str| Facts::of(model, &none).window;
        assert_eq!(window("anthropic/claude-sonnet-4-6"), Some(200_000));
        assert_eq!(Facts::of("gpt-5-mini-2025", &none).price.unwrap().input, 0.25);
        assert_eq!(Facts::of("gpt-5-pro", &none).price, None);
        let opus = |name: &str| Facts::of(name, &none).price.unwrap().input;
        assert_eq!(
            (opus("claude-opus-4-20250514"), opus("anthropic/claude-opus-4.5")),
            (15.0, 5.0)
        );
        assert_eq!(Facts::of("unheard-of", &none), Facts::default());
        let own =
            BTreeMap::from([("gpt-5".to_owned(), Facts { window: Some(7), ..Facts::default() })]);
        assert_eq!(Facts::of("gpt-5", &own).window, Some(7));
        assert_eq!(Facts::of("gpt-5", &own).thinks, Some(true));
    }

    #[test]
    fn cached_tokens_have_their_own_price() {
        let price =
            Price { input: 10.0, output: 20.0, cached: Some(1.0), cache_written: Some(12.5) };
        let usage =
            Usage { input: 1_000_000, output: 100_000, cached: 500_000, cache_written: 100_000 };
        assert!((price.of(usage) - (4.0 + 0.5 + 1.25 + 2.0)).abs() < 1e-9);
    }
}
