//! What bears on stored answers and outlives the configuration under which they were stored, and the process.
//!
//! Owns: until which question what is stored may no longer stand in for errors; by which rules queries have
//! counted. Bounded. Never touches: the disk (`store::state` keeps the rows), whether an answer is fresh.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use crate::policy::QueryRule;
use crate::store::state_db::{RowSource, Rows};
use crate::telemetry::cost::UsageRow;

/// How many ends are remembered one by one.
const ENDS: usize = 16_384;

/// How many rules are remembered.
const RULES: usize = 64;

/// Before the row of an end, of the end of all that has no row, and of a rule.
const END: u8 = b'e';
const REST: u8 = b'r';
const RULE: u8 = b'q';

/// All of it.
#[derive(Debug, Default)]
pub struct PersistentFacts(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By target or key: what was asked for before this is no stand-in for an error.
    ends: HashMap<u128, u64>,
    /// The same for all that is not remembered one by one.
    rest: u64,
    /// The newest last.
    rules: Vec<QueryRule>,
    /// The keys of rows that are to be written; where nobody asks for them, no more than there are.
    changed: HashSet<Vec<u8>>,
}

impl PersistentFacts {
    /// What is stored under `id`, a target or a key, and was asked for before, stands in for errors no more.
    pub(crate) fn end(&self, id: u128, asked: u64) {
        let mut inner = self.0.lock();
        let end = inner.ends.entry(id).or_default();
        *end = asked.max(*end);
        inner.changed.insert(end_key(id));
        if inner.ends.len() > ENDS {
            inner.forget_older_half();
        }
        if inner.changed.len() > 4 * ENDS {
            // Of what is forgotten rows may stay in a state that is opened later: they end what is older still.
            let Inner { ends, changed, .. } = &mut *inner;
            changed.retain(|key| key.first() != Some(&END) || has_row(ends, key));
        }
    }

    /// Whether what was asked for as `asked` and is stored under one of these may stand in for an error.
    pub(crate) fn may_stand_in(&self, ids: [u128; 2], asked: u64) -> bool {
        let inner = self.0.lock();
        let end = |id| inner.ends.get(id).copied().unwrap_or_default();
        asked >= ids.iter().map(end).fold(inner.rest, u64::max)
    }

    /// Something may be stored from now on under these rules.
    pub fn know<'r>(&self, rules: impl IntoIterator<Item = &'r QueryRule>) {
        let mut inner = self.0.lock();
        for rule in rules {
            if *rule == QueryRule::All {
                continue;
            }
            let known = inner.rules.iter().position(|known| known == rule);
            if let Some(known) = known {
                inner.rules.remove(known);
            } else {
                inner.changed.insert(rule_key(rule));
            }
            inner.rules.push(rule.clone());
        }
        let too_many = inner.rules.len().saturating_sub(RULES);
        let forgotten: Vec<_> = inner.rules.drain(..too_many).collect();
        inner.changed.extend(forgotten.iter().map(rule_key));
    }

    /// Every rule under which something may be stored, also by a route that there is no more.
    pub(crate) fn rules(&self) -> Vec<QueryRule> {
        let mut rules = self.0.lock().rules.clone();
        rules.push(QueryRule::All);
        rules
    }
}

impl Inner {
    fn forget_older_half(&mut self) {
        let mut all: Vec<u64> = self.ends.values().copied().collect();
        let middle = all.len() / 2;
        let (_, &mut middle, _) = all.select_nth_unstable(middle);
        let forgotten: Vec<_> = self.ends.extract_if(|_, end| *end <= middle).collect();
        self.rest = self.rest.max(middle);
        self.changed.extend(forgotten.into_iter().map(|(id, _)| end_key(id)));
        self.changed.insert(vec![REST]);
    }

    /// What stands under a key now.
    fn value(&self, key: &[u8]) -> Option<Vec<u8>> {
        match key.split_first()? {
            (&END, id) => {
                let id = u128::from_be_bytes(id.try_into().ok()?);
                self.ends.get(&id).map(|end| end.to_be_bytes().to_vec())
            }
            (&REST, _) => Some(self.rest.to_be_bytes().to_vec()),
            (&RULE, _) => self.rules.iter().any(|rule| rule_key(rule) == key).then(Vec::new),
            _ => None,
        }
    }

    /// Takes a row over; `None`: it cannot be read.
    fn adopt(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let (kind, rest) = key.split_first()?;
        let end = || value.try_into().ok().map(u64::from_be_bytes);
        match *kind {
            END => {
                let id = u128::from_be_bytes(rest.try_into().ok()?);
                let known = self.ends.entry(id).or_default();
                *known = end()?.max(*known);
            }
            REST => self.rest = end()?.max(self.rest),
            RULE => {
                let rule = rule_of(rest)?;
                if !self.rules.contains(&rule) {
                    // Those of the configuration stay the newest.
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
        rows.iter().filter(|(key, value)| inner.adopt(key, value).is_none()).count()
    }

    fn changed(&self) -> Vec<UsageRow> {
        let mut inner = self.0.lock();
        let changed = std::mem::take(&mut inner.changed);
        changed.into_iter().map(|key| UsageRow { value: inner.value(&key), key }).collect()
    }
}

fn has_row(ends: &HashMap<u128, u64>, key: &[u8]) -> bool {
    let id = key.get(1..).and_then(|id| id.try_into().ok()).map(u128::from_be_bytes);
    id.is_some_and(|id| ends.contains_key(&id))
}

fn end_key(id: u128) -> Vec<u8> {
    [&[END][..], &id.to_be_bytes()].concat()
}

/// A rule as text: what it does with the parameters that it names, by line.
fn rule_key(rule: &QueryRule) -> Vec<u8> {
    let (does, names) = match rule {
        QueryRule::All => ("all", &[][..]),
        QueryRule::Include(names) => ("include", &names[..]),
        QueryRule::Exclude(names) => ("exclude", &names[..]),
    };
    let mut key = vec![RULE];
    key.extend_from_slice(does.as_bytes());
    for name in names {
        key.push(b'\n');
        key.extend_from_slice(name.as_bytes());
    }
    key
}

fn rule_of(text: &[u8]) -> Option<QueryRule> {
    let mut lines = std::str::from_utf8(text).ok()?.split('\n').map(str::to_owned);
    let does = lines.next()?;
    match does.as_str() {
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

    fn rows(of: &PersistentFacts) -> Rows {
        of.changed().into_iter().filter_map(|row| Some((row.key, row.value?))).collect()
    }

    #[test]
    fn what_was_asked_for_before_an_end_stands_in_no_more_also_after_a_restart() {
        let first = PersistentFacts::default();
        assert!(first.may_stand_in([1, 2], 0));
        first.end(1, 10);
        first.end(1, 5);
        first.know([&include(&["a", "b"]), &QueryRule::All]);
        let second = PersistentFacts::default();
        assert_eq!(second.restore(&rows(&first)), 0);
        for one in [&first, &second] {
            assert!(!one.may_stand_in([1, 2], 9) && one.may_stand_in([1, 2], 10));
            assert!(!one.may_stand_in([3, 1], 9) && one.may_stand_in([3, 4], 9));
            assert_eq!(one.rules(), [include(&["a", "b"]), QueryRule::All]);
        }
        assert!(first.changed().is_empty());
        assert_eq!(second.restore(&vec![(b"x".to_vec(), Vec::new()), (vec![END], vec![1])]), 2);
    }

    #[test]
    fn too_many_ends_are_one_that_holds_for_all_and_too_many_rules_forget_the_oldest() {
        let all = PersistentFacts::default();
        for id in 0..=ENDS as u64 {
            all.end(u128::from(id), id + 1);
        }
        assert!(all.0.lock().ends.len() <= ENDS / 2 + 1);
        assert!(!all.may_stand_in([7, 7], 7), "an end is never taken back");
        assert!(all.may_stand_in([1 << 70, 0], ENDS as u64 + 1), "what is newer may");
        let name = |number: usize| include(&[&number.to_string()]);
        (0..=RULES).for_each(|number| all.know([&name(number)]));
        let known = all.rules();
        assert_eq!(known.len(), RULES + 1);
        assert!(!known.contains(&name(0)) && known.contains(&name(1)));
        all.know([&name(1)]);
        all.know([&name(RULES + 1)]);
        assert!(all.rules().contains(&name(1)), "it is of use still");
    }
}
