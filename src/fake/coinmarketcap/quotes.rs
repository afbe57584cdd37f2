//! Coins with their quotes, individually or by rank, in CoinMarketCap's format.
//!
//! Owns: the selection of coins, their JSON format, and the credits that they cost.
//! Never touches: the clock; access checks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::fake::coinmarketcap::Reply;
use crate::fake::coinmarketcap::calendar::stamp;
use crate::fake::coinmarketcap::coins::{ALL, Coin, minute, rounded};
use crate::fake::coinmarketcap::error_code::ErrorCode;
use crate::fake::coinmarketcap::query::Query;

/// The version of the response format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// A symbol selects one coin; tags are names.
    One,
    /// A symbol selects all coins that use it; tags are objects.
    Two,
}

/// `/cryptocurrency/quotes/latest`.
pub(super) fn latest(query: &Query, version: Version, now: SystemTime) -> Result<Reply, ErrorCode> {
    let currencies = currencies(query)?;
    let (by, requested) = selection(query)?;
    let mut data = Map::new();
    let mut unknown = Vec::new();
    for wanted in &requested {
        match ALL.iter().find(|coin| matches(coin, by, wanted)) {
            Some(coin) => {
                let coin_json = coin_json(coin, version, &currencies, now);
                // Results by symbol are keyed by the requested symbol, results by slug or id by the id.
                let list = by == "symbol" && version == Version::Two;
                let key = if by == "symbol" { wanted.to_uppercase() } else { coin.id.to_string() };
                data.insert(key, if list { json!([coin_json]) } else { coin_json });
            }
            None => unknown.push(wanted.as_str()),
        }
    }
    let strict = query.text("skip_invalid").is_some_and(|skip| skip == "false");
    if data.is_empty() || (strict && !unknown.is_empty()) {
        let values = unknown.join(",");
        return Err(ErrorCode::Parameter(format!("Invalid value for \"{by}\": \"{values}\"")));
    }
    let credits = for_items(requested.len()) + extra_credits(&currencies);
    Ok(Reply { data: Value::Object(data), credits, total: None })
}

/// `/cryptocurrency/listings/latest`.
pub(super) fn listings(query: &Query, now: SystemTime) -> Result<Reply, ErrorCode> {
    let currencies = currencies(query)?;
    let start = number(query, "start", 1)?;
    let limit = number(query, "limit", 100)?;
    let page: Vec<_> = ALL
        .iter()
        .skip(start - 1)
        .take(limit)
        .map(|coin| coin_json(coin, Version::One, &currencies, now))
        .collect();
    let credits = for_items(page.len()) + extra_credits(&currencies);
    Ok(Reply { data: Value::Array(page), credits, total: Some(ALL.len()) })
}

/// The currencies of the quotes, with the price of a US dollar in each.
pub(super) fn currencies(query: &Query) -> Result<Vec<(String, f64)>, ErrorCode> {
    let wanted = query.list("convert").unwrap_or_else(|| vec!["USD".to_owned()]);
    let with_rate = |name: String| {
        let name = name.to_uppercase();
        let rate = CURRENCIES.iter().find(|(known, _)| *known == name).map(|(_, rate)| *rate);
        let invalid = || ErrorCode::Parameter(format!("Invalid value for \"convert\": \"{name}\""));
        rate.ok_or_else(invalid).map(|rate| (name.clone(), rate))
    };
    wanted.into_iter().map(with_rate).collect()
}

/// The credits for the currencies beyond the first.
pub(super) fn extra_credits(currencies: &[(String, f64)]) -> u64 {
    u64::try_from(currencies.len().saturating_sub(1)).unwrap_or(u64::MAX)
}

/// The time of the last price change before `now`.
pub(super) fn updated(now: SystemTime) -> String {
    stamp(UNIX_EPOCH + Duration::from_secs(minute(now).saturating_mul(60)))
}

/// The requested values, and the parameter that contains them (id, slug or symbol).
fn selection(query: &Query) -> Result<(&'static str, Vec<String>), ErrorCode> {
    let mut given = ["id", "slug", "symbol"].into_iter().filter_map(|by| {
        let values = query.list(by)?;
        Some((by, values))
    });
    let first = given.next().ok_or_else(|| {
        ErrorCode::Parameter("\"value\" must contain at least one of [id, symbol, slug]".to_owned())
    })?;
    if given.next().is_some() {
        let message = "\"value\" contains a conflict between exclusive peers [id, symbol, slug]";
        return Err(ErrorCode::Parameter(message.to_owned()));
    }
    Ok(first)
}

fn matches(coin: &Coin, by: &str, wanted: &str) -> bool {
    match by {
        "id" => coin.id.to_string() == wanted,
        "slug" => coin.slug == wanted,
        _ => coin.symbol.eq_ignore_ascii_case(wanted),
    }
}

fn number(query: &Query, name: &str, default: usize) -> Result<usize, ErrorCode> {
    let Some(text) = query.text(name) else { return Ok(default) };
    let value = text.parse().ok().filter(|number| (1..=5_000).contains(number));
    value.ok_or_else(|| ErrorCode::Parameter(format!("\"{name}\" must be between 1 and 5000")))
}

/// One credit for every 200 items or part of them.
fn for_items(items: usize) -> u64 {
    u64::try_from(items.div_ceil(200).max(1)).unwrap_or(u64::MAX)
}

fn coin_json(coin: &Coin, version: Version, currencies: &[(String, f64)], now: SystemTime) -> Value {
    let tag = json!({ "slug": "made-up", "name": "Made up", "category": "CATEGORY" });
    let quotes: Map<_, _> =
        currencies.iter().map(|(name, rate)| (name.clone(), quote_json(coin, *rate, now))).collect();
    json!({
        "id": coin.id,
        "name": coin.name,
        "symbol": coin.symbol,
        "slug": coin.slug,
        "num_market_pairs": 20_000 / coin.rank,
        "date_added": "2013-04-28T00:00:00.000Z",
        "tags": [if version == Version::Two { tag } else { json!("made-up") }],
        "max_supply": null,
        "circulating_supply": coin.supply(),
        "total_supply": coin.supply(),
        "is_active": 1,
        "infinite_supply": false,
        "platform": null,
        "cmc_rank": coin.rank,
        "is_fiat": 0,
        "self_reported_circulating_supply": null,
        "self_reported_market_cap": null,
        "tvl_ratio": null,
        "last_updated": updated(now),
        "quote": quotes,
    })
}

fn quote_json(coin: &Coin, rate: f64, now: SystemTime) -> Value {
    let minute = minute(now);
    let price = rounded(coin.price(minute) * rate);
    let cap = rounded(price * coin.supply());
    json!({
        "price": price,
        "volume_24h": rounded(coin.volume(minute) * rate),
        "volume_change_24h": 0.0,
        "percent_change_1h": coin.change(minute, 60),
        "percent_change_24h": coin.change(minute, 24 * 60),
        "percent_change_7d": coin.change(minute, 7 * 24 * 60),
        "percent_change_30d": coin.change(minute, 30 * 24 * 60),
        "market_cap": cap,
        "market_cap_dominance": rounded(20.0 / f64::from(coin.rank)),
        "fully_diluted_market_cap": cap,
        "tvl": null,
        "last_updated": updated(now),
    })
}

const CURRENCIES: [(&str, f64); 4] = [("USD", 1.0), ("EUR", 0.9), ("GBP", 0.8), ("JPY", 150.0)];
