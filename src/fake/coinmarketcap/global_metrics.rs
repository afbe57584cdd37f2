//! Totals over all coins.
//!
//! Owns: `/global-metrics/quotes/latest`. Never touches: the clock; access checks.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use crate::fake::coinmarketcap::Reply;
use crate::fake::coinmarketcap::coins::{ALL, Coin, minute, rounded};
use crate::fake::coinmarketcap::error_code::ErrorCode;
use crate::fake::coinmarketcap::query::Query;
use crate::fake::coinmarketcap::quotes::{currencies, extra_credits, updated};

/// `/global-metrics/quotes/latest`: one credit, and one for each additional currency.
pub(super) fn latest(query: &Query, now: SystemTime) -> Result<Reply, ErrorCode> {
    let currencies = currencies(query)?;
    let minute = minute(now);
    let cap = |coin: &Coin| coin.price(minute) * coin.supply();
    let all: f64 = ALL.iter().map(cap).sum();
    let volume: f64 = ALL.iter().map(|coin| coin.volume(minute)).sum();
    let cap_of = |symbol: &str| ALL.iter().find(|coin| coin.symbol == symbol).map_or(0.0, cap);
    let (btc, eth) = (cap_of("BTC"), cap_of("ETH"));
    let share = |cap: f64| rounded(cap / all * 100.0);
    let total = |rate: f64| {
        json!({
            "total_market_cap": rounded(all * rate),
            "total_volume_24h": rounded(volume * rate),
            "total_volume_24h_reported": rounded(volume * rate * 1.2),
            "altcoin_market_cap": rounded((all - btc) * rate),
            "last_updated": updated(now),
        })
    };
    let quotes: Map<_, _> = currencies.iter().map(|(name, rate)| (name.clone(), total(*rate))).collect();
    let data = json!({
        "active_cryptocurrencies": ALL.len(),
        "total_cryptocurrencies": ALL.len(),
        "active_market_pairs": 90_000,
        "active_exchanges": 700,
        "total_exchanges": 9_000,
        "btc_dominance": share(btc),
        "eth_dominance": share(eth),
        "quote": Value::Object(quotes),
        "last_updated": updated(now),
    });
    Ok(Reply { data, credits: 1 + extra_credits(&currencies), total: None })
}
