//! Dot segments in all the spellings that some server reads as one (RFC 3986 §5.2.4, §6.2.2.3).
//!
//! Owns: telling them from data: `%2f` alone inside a segment (GitLab's ids, npm's scopes) is data.
//! Never touches: what becomes of such a path.

/// Whether some server may read the path as another than it seems.
pub(super) fn leads_elsewhere(path: &str) -> bool {
    // Without a dot, plain or encoded, there is none.
    if !path.contains('.') && !path.contains('%') {
        return false;
    }
    let once = decoded(path);
    has_dots(path) || has_dots(&once) || has_dots(&decoded(&once))
}

fn has_dots(path: &str) -> bool {
    path.split(['/', '\\']).any(|segment| {
        let bare = segment.split(';').next().unwrap_or_default();
        matches!(bare, "." | "..")
    })
}

/// The path with what matters here decoded once: dots, both slashes, semicolons, and the percent sign
/// that hides them.
fn decoded(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, behind)) = rest.split_once('%') {
        out.push_str(before);
        let plain = behind.get(..2).and_then(|code| match &*code.to_ascii_lowercase() {
            "2e" => Some('.'),
            "2f" => Some('/'),
            "5c" => Some('\\'),
            "3b" => Some(';'),
            "25" => Some('%'),
            _ => None,
        });
        out.push(plain.unwrap_or('%'));
        rest = behind.get(if plain.is_some() { 2 } else { 0 }..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::leads_elsewhere;

    #[test]
    fn dot_segments_are_seen_in_every_spelling_and_data_is_not_taken_for_them() {
        for path in [
            "/public/../private",
            "/public/./x",
            "/public/..",
            "/.",
            "/public/%2e%2e/private",
            "/public/.%2E/private",
            "/public/..;/private",
            "/public/..;a=b/private",
            "/public/%2e%2e%3b/private",
            "/public/..%2fprivate",
            "/public/..%5cprivate",
            "/public/..\\private",
            "/public/x%2f..%2f../private",
            "/public/x%2f..",
            "/public/%2e/../../private",
            "/public/%252e%252e/private",
            "/public/..%252fprivate",
        ] {
            assert!(leads_elsewhere(path), "{path}");
        }
        for path in [
            "/",
            "/public/group%2fproject",
            "/public/v1..v2",
            "/public/..hidden/x",
            "/public/x../y",
            "/public/...",
            "/public/@scope%2Fname",
            "/public/a.b",
            "/public/100%",
            "/public/%zz",
            "/public/a;b",
        ] {
            assert!(!leads_elsewhere(path), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_panics(path in any::<String>()) {
            let _either = leads_elsewhere(&path);
        }
    }
}
