//! Known words of a configuration: keys, and values that are one of a few keywords.
//!
//! Owns: parsers for keywords; the suggestion for a misspelt word; the new names of old keys.
//! Never touches: the meaning of a word.

use crate::config::diagnostics::ValueError;

/// The known name that was probably intended.
pub(crate) fn nearest<'k>(text: &str, known: &[&'k str]) -> Option<&'k str> {
    let text = text.to_ascii_lowercase().replace('-', "_");
    let distance = |known: &str| strsim::damerau_levenshtein(&text, known);
    let near = known.iter().copied().min_by_key(|known| distance(known))?;
    (distance(near) <= 1 + text.len() / 4).then_some(near)
}

/// A parser for one of several keywords.
pub(crate) fn keyword<T: Copy>(
    wanted: &'static str,
    keywords: &[(&'static str, T)],
) -> impl Fn(&str) -> Result<T, ValueError> {
    move |text| {
        if let Some((_, value)) = keywords.iter().find(|(keyword, _)| *keyword == text) {
            return Ok(*value);
        }
        let names: Vec<_> = keywords.iter().map(|(keyword, _)| *keyword).collect();
        let fix = nearest(text, &names)
            .map_or_else(|| format!("write {wanted}"), |near| format!("did you mean `{near}`?"));
        Err(ValueError::new(wanted, format!("is not {wanted}"), fix))
    }
}

/// Parses `true` or `false`.
pub(crate) fn boolean(text: &str) -> Result<bool, ValueError> {
    keyword("`true` or `false`", &[("true", true), ("false", false)])(text)
}

/// The keys that had another name before 0.1, each with its new name. To be removed after 0.1.
const RENAMED: &[(&str, &str)] = &[
    ("pace", "rate_limit"),
    ("hold_down", "cooldown"),
    ("max_hold", "max_cooldown"),
    ("invalid_requests", "ban_guard"),
    ("targeted", "targeted_cache_control"),
];

/// The new name of `key`, if it is one of the `known` keys of the section.
pub(crate) fn new_name<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let (_, new) = RENAMED.iter().find(|(old, _)| *old == key)?;
    known.iter().copied().find(|known| known == new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_has_a_new_name_only_in_its_section() {
        assert_eq!(new_name("pace", &["hosts", "rate_limit"]), Some("rate_limit"));
        assert_eq!(new_name("pace", &["hosts"]), None);
        assert_eq!(new_name("hosts", &["hosts"]), None);
    }
}
