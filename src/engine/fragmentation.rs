//! Request fields that keep requests apart which are otherwise equal: each costs a call where the operator
//! may have meant one.
//!
//! Owns: which field it was, and that it is named once to the operator. Never touches: keys, which have
//! kept the requests apart already; hits, which pay nothing for this.

use std::collections::{HashMap, HashSet};

use http::{HeaderName, HeaderValue};
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

/// How many requests are remembered to compare others with.
const REMEMBERED: usize = 1024;

/// How often a field keeps requests apart before it is named.
const OFTEN: u32 = 16;

/// How many fields are named at most: a client may make names up.
const NAMED: usize = 64;

/// What misses have shown.
#[derive(Debug, Default)]
pub(crate) struct FragmentationLog(Mutex<SeenRequest>);

#[derive(Debug, Default)]
struct SeenRequest {
    /// The fields of the last request that was equal but for them: hashes of names and of values.
    last: HashMap<u128, Vec<(u64, u64)>>,
    /// How often a field of a route has kept requests apart.
    often: HashMap<(usize, u64), u32>,
    named: HashSet<(usize, u64)>,
}

/// A field that has kept a request apart from an equal one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FragmentingField<'a> {
    /// The field.
    pub(crate) name: &'a HeaderName,
    /// It has done so often, and has not been named before.
    pub(crate) is_news: bool,
}

impl FragmentationLog {
    /// Nothing is stored for a request of `route`. `rest`: what it asks for, its `fields` left out.
    pub(crate) fn missed<'a>(
        &self,
        route: usize,
        rest: u128,
        fields: &[(&'a HeaderName, &'a HeaderValue)],
    ) -> Option<FragmentingField<'a>> {
        let now: Vec<(u64, u64)> = fields.iter().map(|(name, value)| hashes(name, value)).collect();
        let mut seen = self.0.lock();
        if seen.last.len() >= REMEMBERED && !seen.last.contains_key(&rest) {
            seen.last.clear();
        }
        let before = seen.last.insert(rest, now.clone())?;
        let hash = sole_difference(&before, &now)?;
        let (name, _) =
            fields.iter().find(|(name, _)| xxh3_64(name.as_str().as_bytes()) == hash)?;
        Some(FragmentingField { name, is_news: seen.is_news((route, hash)) })
    }
}

impl SeenRequest {
    fn is_news(&mut self, field: (usize, u64)) -> bool {
        if self.named.len() >= NAMED || self.named.contains(&field) {
            return false;
        }
        if self.often.len() >= REMEMBERED && !self.often.contains_key(&field) {
            self.often.clear();
        }
        let often = self.often.entry(field).or_default();
        *often += 1;
        *often >= OFTEN && self.named.insert(field)
    }
}

fn hashes(name: &HeaderName, value: &HeaderValue) -> (u64, u64) {
    (xxh3_64(name.as_str().as_bytes()), xxh3_64(value.as_bytes()))
}

/// The one name whose values are not the same in both; both are sorted by name.
fn sole_difference(before: &[(u64, u64)], now: &[(u64, u64)]) -> Option<u64> {
    let of = |all: &[(u64, u64)], name: u64| -> Vec<u64> {
        all.iter().filter(|(one, _)| *one == name).map(|(_, value)| *value).collect()
    };
    let names: HashSet<u64> = before.iter().chain(now).map(|(name, _)| *name).collect();
    let mut different = names.into_iter().filter(|name| of(before, *name) != of(now, *name));
    different.next().filter(|_| different.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: HeaderName = HeaderName::from_static("x-a");
    const B: HeaderName = HeaderName::from_static("x-b");

    /// What a miss with these fields shows.
    fn missed(
        apart: &FragmentationLog,
        rest: u128,
        fields: &[(&HeaderName, &str)],
    ) -> Option<(String, bool)> {
        let values: Vec<HeaderValue> =
            fields.iter().map(|(_, value)| HeaderValue::from_str(value).unwrap()).collect();
        let fields: Vec<_> = fields.iter().map(|(name, _)| *name).zip(&values).collect();
        let found = apart.missed(0, rest, &fields)?;
        Some((found.name.to_string(), found.is_news))
    }

    #[test]
    fn the_one_field_that_differs_is_it() {
        let apart = FragmentationLog::default();
        let named = |name: &HeaderName| Some((name.to_string(), false));
        assert_eq!(missed(&apart, 1, &[(&A, "1"), (&B, "1")]), None, "nothing to compare with");
        assert_eq!(missed(&apart, 1, &[(&A, "2"), (&B, "1")]), named(&A));
        assert_eq!(missed(&apart, 1, &[(&A, "2")]), None, "it is not there to be named");
        assert_eq!(
            missed(&apart, 1, &[(&A, "2"), (&B, "2")]),
            named(&B),
            "it was not there before"
        );
        assert_eq!(missed(&apart, 1, &[(&A, "3"), (&B, "3")]), None, "two of them");
        assert_eq!(missed(&apart, 1, &[(&A, "3"), (&B, "3")]), None, "equal, and gone meanwhile");
        assert_eq!(missed(&apart, 2, &[(&A, "4"), (&B, "3")]), None, "another resource");
    }

    #[test]
    fn a_field_that_does_it_often_is_news_once() {
        let apart = FragmentationLog::default();
        let news: Vec<u32> = (0..100)
            .filter(|n| {
                missed(&apart, 1, &[(&A, &n.to_string())]).is_some_and(|(_, is_news)| is_news)
            })
            .collect();
        assert_eq!(news, [OFTEN]);
    }

    #[test]
    fn names_and_requests_without_end_take_no_room() {
        let apart = FragmentationLog::default();
        let mut news = 0;
        for n in 0..200_u32 {
            let name = HeaderName::try_from(format!("x-{n}")).unwrap();
            for value in 0..20 {
                let found = missed(&apart, u128::from(n), &[(&name, &value.to_string())]);
                news += usize::from(found.is_some_and(|(_, is_news)| is_news));
            }
        }
        for n in 0..5000 {
            assert_eq!(missed(&apart, 10_000 + n, &[]), None);
        }
        assert_eq!(news, NAMED);
        assert!(apart.0.lock().last.len() <= REMEMBERED);
    }
}
