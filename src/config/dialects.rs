//! The shipped dialects: how well-known APIs state their limits and errors, one file each.
//!
//! Owns: their names and texts. Never touches: their meaning (`resolve::upstreams::dialect` reads them, as it
//! reads those of a configuration).

/// The dialects with their texts, sorted by name.
pub const ALL: [(&str, &str); 23] = [
    ("anthropic", include_str!("dialects/anthropic.yaml")),
    ("azure-openai", include_str!("dialects/azure-openai.yaml")),
    ("coingecko", include_str!("dialects/coingecko.yaml")),
    ("coinmarketcap", include_str!("dialects/coinmarketcap.yaml")),
    ("contentful", include_str!("dialects/contentful.yaml")),
    ("discord", include_str!("dialects/discord.yaml")),
    ("gemini", include_str!("dialects/gemini.yaml")),
    ("github", include_str!("dialects/github.yaml")),
    ("gitlab", include_str!("dialects/gitlab.yaml")),
    ("google-maps", include_str!("dialects/google-maps.yaml")),
    ("hubspot", include_str!("dialects/hubspot.yaml")),
    ("ietf", include_str!("dialects/ietf.yaml")),
    ("jira", include_str!("dialects/jira.yaml")),
    ("linear", include_str!("dialects/linear.yaml")),
    ("notion", include_str!("dialects/notion.yaml")),
    ("openai", include_str!("dialects/openai.yaml")),
    ("reddit", include_str!("dialects/reddit.yaml")),
    ("salesforce", include_str!("dialects/salesforce.yaml")),
    ("shopify", include_str!("dialects/shopify.yaml")),
    ("slack", include_str!("dialects/slack.yaml")),
    ("stripe", include_str!("dialects/stripe.yaml")),
    ("toggl", include_str!("dialects/toggl.yaml")),
    ("twitter", include_str!("dialects/twitter.yaml")),
];
