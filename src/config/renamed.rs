//! Configuration keys that had another name before 0.1. To be removed after 0.1.
//!
//! Owns: the one table of old and new names. Never touches: the meaning of a key.

/// Each old name with its new one.
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
