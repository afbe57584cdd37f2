//! Data generated from ids: plausible, of realistic size, and reproducible.
//!
//! Owns: the JSON of a role, a member, a user and a guild. Never touches: later changes.

use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

/// An id that looks like one of Discord's, derived from `seed`.
pub(in crate::fake::discord) fn id(seed: &str) -> String {
    (100_000_000_000_000_000 + xxh3_64(seed.as_bytes()) % 900_000_000_000_000_000).to_string()
}

/// The roles of a guild; the first is `@everyone`, whose id is the guild's.
pub(super) fn roles(guild: &str) -> Vec<Value> {
    NAMES.iter().enumerate().map(|(position, name)| role(&role_id(guild, position), name, position)).collect()
}

/// One role.
pub(super) fn role(id: &str, name: &str, position: usize) -> Value {
    let seed = xxh3_64(id.as_bytes());
    let color = seed % 0x0100_0000;
    json!({
        "id": id,
        "name": name,
        "description": null,
        "permissions": (seed % 0x0001_0000_0000_0000).to_string(),
        "position": position,
        "color": color,
        "colors": { "primary_color": color, "secondary_color": null, "tertiary_color": null },
        "hoist": seed.is_multiple_of(2),
        "managed": false,
        "mentionable": seed.is_multiple_of(3),
        "icon": null,
        "unicode_emoji": null,
        "flags": 0,
    })
}

/// One member of a guild.
pub(super) fn member(guild: &str, user_id: &str) -> Value {
    let seed = xxh3_64(format!("{guild}/{user_id}").as_bytes());
    let roles: Vec<String> = (1..NAMES.len())
        .filter(|position| seed >> position & 1 == 1)
        .map(|position| role_id(guild, position))
        .collect();
    json!({
        "user": user(user_id),
        "nick": null,
        "avatar": null,
        "banner": null,
        "roles": roles,
        "joined_at": format!("20{:02}-{:02}-{:02}T12:00:00.000000+00:00",
            15 + seed % 10, 1 + seed / 10 % 12, 1 + seed / 120 % 28),
        "premium_since": null,
        "communication_disabled_until": null,
        "unusual_dm_activity_until": null,
        "pending": false,
        "deaf": false,
        "mute": false,
        "flags": 0,
    })
}

/// One user.
pub(super) fn user(id: &str) -> Value {
    let seed = xxh3_64(id.as_bytes());
    json!({
        "id": id,
        "username": format!("user_{:08x}", seed % 0x1_0000_0000),
        "global_name": format!("User {}", seed % 10_000),
        "discriminator": "0",
        "avatar": format!("{seed:016x}{:016x}", seed.rotate_left(23)),
        "avatar_decoration_data": null,
        "banner": null,
        "banner_color": null,
        "accent_color": seed % 0x0100_0000,
        "clan": null,
        "collectibles": null,
        "primary_guild": null,
        "flags": 0,
        "public_flags": seed % 64,
    })
}

/// The guilds of a caller.
pub(super) fn guilds(caller: &str) -> Value {
    let guild = |number: u64| {
        let id = id(&format!("{caller}/guild/{number}"));
        let seed = xxh3_64(id.as_bytes());
        json!({
            "id": id,
            "name": format!("Guild {}", seed % 1_000),
            "icon": format!("{seed:032x}"),
            "banner": null,
            "owner": number == 0,
            "permissions": (seed % 0x0001_0000_0000_0000).to_string(),
            "features": ["COMMUNITY", "NEWS"],
        })
    };
    Value::Array((0..5).map(guild).collect())
}

fn role_id(guild: &str, position: usize) -> String {
    if position == 0 { guild.to_owned() } else { id(&format!("{guild}/role/{position}")) }
}

const NAMES: [&str; 10] = [
    "@everyone",
    "Verified",
    "Early Supporter",
    "Booster",
    "Contributor",
    "Event Winner",
    "Artist",
    "Translator",
    "Moderator",
    "Admin",
];
