//! Facts about stored responses that outlive the configuration under which they were stored, and the process.
//!
//! Owns: the request order up to which stored responses may no longer be served on errors; the query rules
//! that have applied. Bounded. Never touches: the disk (`store::state_db` stores the rows), freshness.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use crate::policy::QueryRule;
use crate::store::state_db::{RowSource, Rows};
use crate::telemetry::cost::StateRow;

/// Maximum number of ends recorded separately.
const MAX_ENDS: usize = 16_384;

/// Maximum number of rules remembered.
const MAX_RULES: usize = 64;

/// First byte of the row key of an end, of the end for all targets and keys without a row, and of a rule.
const END: u8 = b'e';
const DEFAULT_END: u8 = b'r';
const RULE: u8 = b'q';

/// The recorded facts.
#[derive(Debug, Default)]
pub struct PersistentFacts(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By target or key: a response requested before this number is not served on errors.
    ends: HashMap<u128, u64>,
    /// The same for all targets and keys that are not recorded separately.
    default_end: u64,
    /// The newest last.
    rules: Vec<QueryRule>,
    /// The keys of rows to write. Bounded, because in some setups the rows are never collected.
    changed: HashSet<Vec<u8>>,
}

/// Precedes the action of a sorted rule.
const SORTED: &str = "sorted ";

impl PersistentFacts {
    /// Ends stale-if-error for responses stored under `id` (a target or a key) that were requested
    /// before `order`.
    pub(crate) fn end_stale_if_error(&self, id: u128, order: u64) {
        let mut inner = self.0.lock();
        let end = inner.ends.entry(id).or_default();
        *end = order.max(*end);
        inner.changed.insert(end_key(id));
        if inner.ends.len() > MAX_ENDS {
            inner.merge_older_half();
        }
        if inner.changed.len() > 4 * MAX_ENDS {
            // Rows of forgotten ends may stay in a state that is opened later. They end only responses
            // that are older still.
            let Inner { ends, changed, .. } = &mut *inner;
            changed.retain(|key| key.first() != Some(&END) || has_row(ends, key));
        }
    }

    /// Whether a response that was requested as `order` and is stored under one of `ids` may be served
    /// on errors.
    pub(crate) fn allows_stale_if_error(&self, ids: [u128; 2], order: u64) -> bool {
        let inner = self.0.lock();
        let end = |id| inner.ends.get(id).copied().unwrap_or_default();
        order >= ids.iter().map(end).fold(inner.default_end, u64::max)
    }

    /// Adds rules under which responses may be stored from now on.
    pub fn add_rules<'r>(&self, rules: impl IntoIterator<Item = &'r QueryRule>) {
        let mut inner = self.0.lock();
        for rule in rules {
            if *rule == QueryRule::All {
                continue;
            }
            let position = inner.rules.iter().position(|known| known == rule);
            if let Some(position) = position {
                inner.rules.remove(position);
            } else {
                inner.changed.insert(rule_key(rule));
            }
            inner.rules.push(rule.clone());
        }
        let too_many = inner.rules.len().saturating_sub(MAX_RULES);
        let forgotten: Vec<_> = inner.rules.drain(..too_many).collect();
        inner.changed.extend(forgotten.iter().map(rule_key));
    }

    /// Every rule under which a response may be stored, including those of routes that no longer exist.
    pub(crate) fn rules(&self) -> Vec<QueryRule> {
        let mut rules = self.0.lock().rules.clone();
        rules.push(QueryRule::All);
        rules
    }
}

impl Inner {
    fn merge_older_half(&mut self) {
        let mut all: Vec<u64> = self.ends.values().copied().collect();
        let middle = all.len() / 2;
        let (_, &mut middle, _) = all.select_nth_unstable(middle);
        let forgotten: Vec<_> = self.ends.extract_if(|_, end| *end <= middle).collect();
        self.default_end = self.default_end.max(middle);
        self.changed.extend(forgotten.into_iter().map(|(id, _)| end_key(id)));
        self.changed.insert(vec![DEFAULT_END]);
    }

    /// The current value of a row key.
    fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        match key.split_first()? {
            (&END, id) => {
                let id = u128::from_be_bytes(id.try_into().ok()?);
                self.ends.get(&id).map(|end| end.to_be_bytes().to_vec())
            }
            (&DEFAULT_END, _) => Some(self.default_end.to_be_bytes().to_vec()),
            (&RULE, _) => self.rules.iter().any(|rule| rule_key(rule) == key).then(Vec::new),
            _ => None,
        }
    }

    /// Restores a row; `None`: it is invalid.
    fn restore_row(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let (kind, rest) = key.split_first()?;
        let end = || value.try_into().ok().map(u64::from_be_bytes);
        match *kind {
            END => {
                let id = u128::from_be_bytes(rest.try_into().ok()?);
                let known = self.ends.entry(id).or_default();
                *known = end()?.max(*known);
            }
            DEFAULT_END => self.default_end = end()?.max(self.default_end),
            RULE => {
                let rule = parse_rule(rest)?;
                if !self.rules.contains(&rule) {
                    // Rules of the configuration stay the newest.
                    self.rules.insert(0, rule);
                }
            }
            _ => return None,
        }
        Some(())
    }
}

impl RowSource for PersistentFacts {
    fn restore(&self, rows: &Rows) -> usize {
        let mut inner = self.0.lock();
        rows.iter().filter(|(key, value)| inner.restore_row(key, value).is_none()).count()
    }

    fn changed(&self) -> Vec<StateRow> {
        let mut inner = self.0.lock();
        let changed = std::mem::take(&mut inner.changed);
        changed.into_iter().map(|key| StateRow { value: inner.value(&key), key }).collect()
    }
}

fn has_row(ends: &HashMap<u128, u64>, key: &[u8]) -> bool {
    let id = key.get(1..).and_then(|id| id.try_into().ok()).map(u128::from_be_bytes);
    id.is_some_and(|id| ends.contains_key(&id))
}

fn end_key(id: u128) -> Vec<u8> {
    [&[END][..], &id.to_be_bytes()].concat()
}

/// A rule as text: its action, then one parameter name per line. `sorted` precedes the action of a sorted rule.
fn rule_key(rule: &QueryRule) -> Vec<u8> {
    let mut key = vec![RULE];
    put_rule(rule, &mut key);
    key
}

fn put_rule(rule: &QueryRule, key: &mut Vec<u8>) {
    let (action, names) = match rule {
        QueryRule::All => ("all", &[][..]),
        QueryRule::Include(names) => ("include", &names[..]),
        QueryRule::Exclude(names) => ("exclude", &names[..]),
        QueryRule::Sorted(rule) => {
            key.extend_from_slice(SORTED.as_bytes());
            return put_rule(rule, key);
        }
    };
    key.extend_from_slice(action.as_bytes());
    for name in names {
        key.push(b'\n');
        key.extend_from_slice(name.as_bytes());
    }
}

fn parse_rule(text: &[u8]) -> Option<QueryRule> {
    if let Some(rest) = text.strip_prefix(SORTED.as_bytes()) {
        return parse_rule(rest).map(|rule| QueryRule::Sorted(Box::new(rule)));
    }
    let mut lines = std::str::from_utf8(text).ok()?.split('\n').map(str::to_owned);
    let action = lines.next()?;
    match action.as_str() {
        "all" => Some(QueryRule::All),
        "include" => Some(QueryRule::Include(lines.collect())),
        "exclude" => Some(QueryRule::Exclude(lines.collect())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn include(names: &[&str]) -> QueryRule {
        QueryRule::Include(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn rows(facts: &PersistentFacts) -> Rows {
        facts.changed().into_iter().filter_map(|row| Some((row.key, row.value?))).collect()
    }

    #[test]
    fn earlier_responses_are_not_served_on_errors_even_after_a_restart() {
        let first = PersistentFacts::default();
        assert!(first.allows_stale_if_error([1, 2], 0));
        first.end_stale_if_error(1, 10);
        first.end_stale_if_error(1, 5);
        let sorted = QueryRule::Sorted(Box::new(include(&["c"])));
        first.add_rules([&include(&["a", "b"]), &QueryRule::All, &sorted]);
        let second = PersistentFacts::default();
        assert_eq!(second.restore(&rows(&first)), 0);
        for facts in [&first, &second] {
            assert!(!facts.allows_stale_if_error([1, 2], 9) && facts.allows_stale_if_error([1, 2], 10));
            assert!(!facts.allows_stale_if_error([3, 1], 9) && facts.allows_stale_if_error([3, 4], 9));
            let rules = facts.rules();
            assert!(rules.contains(&include(&["a", "b"])) && rules.contains(&sorted), "{rules:?}");
            assert_eq!(rules.len(), 3);
        }
        assert!(first.changed().is_empty());
        assert_eq!(second.restore(&vec![(b"x".to_vec(), Vec::new()), (vec![END], vec![1])]), 2);
    }

    #[test]
    fn excess_ends_merge_into_one_and_excess_rules_drop_the_oldest() {
        let all = PersistentFacts::default();
        for id in 0..=MAX_ENDS as u64 {
            all.end_stale_if_error(u128::from(id), id + 1);
        }
        assert!(all.0.lock().ends.len() <= MAX_ENDS / 2 + 1);
        assert!(!all.allows_stale_if_error([7, 7], 7), "an end is never revoked");
        assert!(all.allows_stale_if_error([1 << 70, 0], MAX_ENDS as u64 + 1), "a newer response may");
        let name = |number: usize| include(&[&number.to_string()]);
        (0..=MAX_RULES).for_each(|number| all.add_rules([&name(number)]));
        let known = all.rules();
        assert_eq!(known.len(), MAX_RULES + 1);
        assert!(!known.contains(&name(0)) && known.contains(&name(1)));
        all.add_rules([&name(1)]);
        all.add_rules([&name(MAX_RULES + 1)]);
        assert!(all.rules().contains(&name(1)), "the rule is still in use");
    }
}
