//! Invented coins, computed from their ids and the time: the same id at the same minute always gives the
//! same data.
//!
//! Owns: the list of coins and their prices over time. Never touches: the clock; the response format.

use std::sync::LazyLock;
use std::time::SystemTime;

use xxhash_rust::xxh3::xxh3_64;

/// A coin.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Coin {
    pub(super) id: u32,
    pub(super) rank: u32,
    pub(super) name: String,
    pub(super) symbol: String,
    pub(super) slug: String,
    base: f64,
}

/// All coins, by rank: some well-known ones with their real ids, and ids up to 200.
pub(super) static ALL: LazyLock<Vec<Coin>> = LazyLock::new(|| {
    let known = KNOWN.map(|(id, name, symbol, price)| {
        let slug = name.to_lowercase().replace(' ', "-");
        Coin { id, rank: 0, name: name.to_owned(), symbol: symbol.to_owned(), slug, base: price }
    });
    let others = (1..=200).filter(|id| KNOWN.iter().all(|known| known.0 != *id)).map(|id| {
        let (name, symbol, slug) = (format!("Coin {id}"), format!("C{id}"), format!("coin-{id}"));
        let cents = xxh3_64(&id.to_le_bytes()) % 100_000;
        let base = 0.01 + f64::from(u32::try_from(cents).unwrap_or(0)) / 100.0;
        Coin { id, rank: 0, name, symbol, slug, base }
    });
    let ranked = (1..).zip(known.into_iter().chain(others));
    ranked.map(|(rank, coin)| Coin { rank, ..coin }).collect()
});

impl Coin {
    /// Its price in US dollars at a minute since 1970.
    pub(super) fn price(&self, minute: u64) -> f64 {
        let seed = xxh3_64(self.symbol.as_bytes());
        let slow = wave(minute, 3_000 + seed % 4_000, seed);
        let fast = wave(minute, 40 + seed % 50, seed >> 32);
        rounded(self.base * (1.0 + 0.1 * slow + 0.01 * fast))
    }

    /// The number of coins in circulation, such that the market cap matches the rank.
    pub(super) fn supply(&self) -> f64 {
        (1.2e12 / f64::from(self.rank) / self.base).round()
    }

    /// The volume traded in a day, in US dollars.
    pub(super) fn volume(&self, minute: u64) -> f64 {
        rounded(self.price(minute) * self.supply() * (0.05 + 0.01 * wave(minute, 1_440, 0)))
    }

    /// The change of the price over this number of minutes, in per cent.
    pub(super) fn change(&self, minute: u64, minutes: u64) -> f64 {
        let before = self.price(minute.saturating_sub(minutes));
        rounded((self.price(minute) / before - 1.0) * 100.0)
    }
}

/// The minute since 1970 of a point in time: prices change once a minute.
pub(super) fn minute(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / 60
}

/// Rounded to eight decimal places, like prices.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1e8).round() / 1e8
}

/// A triangle wave between -1 and 1 with this period in minutes; linear, so that every machine computes
/// the same values.
fn wave(minute: u64, period: u64, seed: u64) -> f64 {
    let offset = minute.wrapping_add(seed % period) % period;
    let as_float = |minutes: u64| f64::from(u32::try_from(minutes).unwrap_or(u32::MAX));
    let phase = as_float(offset) / as_float(period);
    if phase < 0.5 { 4.0 * phase - 1.0 } else { 3.0 - 4.0 * phase }
}

const KNOWN: [(u32, &str, &str, f64); 8] = [
    (1, "Bitcoin", "BTC", 60_000.0),
    (1027, "Ethereum", "ETH", 3_000.0),
    (825, "Tether USDt", "USDT", 1.0),
    (1839, "BNB", "BNB", 600.0),
    (5426, "Solana", "SOL", 150.0),
    (52, "XRP", "XRP", 0.6),
    (74, "Dogecoin", "DOGE", 0.1),
    (2010, "Cardano", "ADA", 0.4),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_coin_has_a_unique_id_symbol_and_slug() {
        assert_eq!(ALL.len(), 205);
        assert!((1..=200).all(|id| ALL.iter().any(|coin| coin.id == id)));
        let symbols: BTreeSet<_> = ALL.iter().map(|coin| &coin.symbol).collect();
        let slugs: BTreeSet<_> = ALL.iter().map(|coin| &coin.slug).collect();
        assert_eq!((symbols.len(), slugs.len()), (ALL.len(), ALL.len()));
    }

    #[test]
    fn prices_change_by_the_minute_stay_positive_and_are_reproducible() {
        for coin in ALL.iter() {
            let prices: Vec<_> = (0..5_000).map(|minute| coin.price(minute)).collect();
            assert!(prices.iter().all(|price| *price > 0.0), "{coin:?}");
            let moved = prices.windows(2).filter(|pair| pair[0].to_bits() != pair[1].to_bits());
            assert!(moved.count() > 4_000, "{coin:?}");
            assert_eq!(prices[77].to_bits(), coin.price(77).to_bits());
        }
    }
}
