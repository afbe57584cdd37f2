//! Selection among the stored responses of one key by request fields (RFC 9111 §4.1).
//!
//! Owns: the names in `Vary`, and the comparison of requests by these fields.
//! Never touches: keys; the source of the secrets (the caller passes a hasher for credentials).

use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONTENT_ENCODING, HeaderName, VARY};
use xxhash_rust::xxh3::xxh3_128_with_secret;

use crate::semantics::field_list;

/// A response's `Vary`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vary {
    /// The request fields that selected the response; empty for a response without `Vary`.
    Fields(VaryFields),
    /// `*`, or an invalid list of names: no request matches.
    Any,
}

impl Vary {
    /// Parses `Vary` of a response.
    pub fn from_response(headers: &HeaderMap) -> Self {
        let mut names = Vec::new();
        for member in field_list::members(headers.get_all(VARY)) {
            match HeaderName::from_bytes(member) {
                Ok(name) if name.as_str() != "*" => names.push(name),
                Ok(_) | Err(_) => return Self::Any,
            }
        }
        Self::Fields(VaryFields::new(names))
    }

    /// The fields that selected a response: those of its `Vary`, and `Accept-Encoding` if the body is
    /// encoded, even if the origin does not list it. So no client gets a coding that it does not accept.
    pub fn effective(headers: &HeaderMap) -> Self {
        let identity = |member: &[u8]| member.eq_ignore_ascii_case(b"identity");
        match Self::from_response(headers) {
            Self::Fields(fields) if !field_list::members(headers.get_all(CONTENT_ENCODING)).all(identity) => {
                let mut names = fields.names().to_vec();
                names.push(ACCEPT_ENCODING);
                Self::Fields(VaryFields::new(names))
            }
            vary @ (Self::Fields(_) | Self::Any) => vary,
        }
    }
}

/// Returns an HMAC of the value of a field with a credential, `None` for other fields.
pub type CredentialHasher<'a> = dyn Fn(&HeaderName, &[u8]) -> Option<[u8; 16]> + 'a;

/// The secret for the hash of variants. Variants are distinguished only by their hash. Without a secret, a
/// client could find two values with the same hash, and other clients would get the response to its request.
/// Cheap to clone.
#[derive(Clone)]
pub struct VariantSecret(Arc<[u8; VARIANT_SECRET_LEN]>);

/// The number of bytes that XXH3 mixes in; it would repeat a shorter secret.
pub const VARIANT_SECRET_LEN: usize = 192;

impl VariantSecret {
    /// Takes bytes from a secure random source.
    pub fn new(bytes: [u8; VARIANT_SECRET_LEN]) -> Self {
        Self(Arc::new(bytes))
    }
}

/// Does not show the secret.
impl fmt::Debug for VariantSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VariantSecret")
    }
}

/// Names of request fields: sorted, each once. Cheap to clone.
///
/// ```
/// # use http::{HeaderMap, HeaderValue, header::ACCEPT_LANGUAGE};
/// use larder::semantics::vary::{VARIANT_SECRET_LEN, VariantSecret, VaryFields};
///
/// let secret = VariantSecret::new([7; VARIANT_SECRET_LEN]);
/// let variant = |language: &'static str| {
///     let request = HeaderMap::from_iter([(ACCEPT_LANGUAGE, HeaderValue::from_static(language))]);
///     VaryFields::new(vec![ACCEPT_LANGUAGE]).variant(&request, &secret, &|_, _| None)
/// };
/// assert_eq!(variant("de, en;q=0.5"), variant("EN; q=0.5,de"), "the same preferences");
/// assert_ne!(variant("de"), variant("en"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct VaryFields(Option<Arc<[HeaderName]>>);

/// Identifies one of the responses of a key. Equal for requests whose selecting fields are equivalent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VariantId(pub u128);

impl VariantId {
    /// The variant of a response without selecting fields.
    pub const SOLE: Self = Self(0);
}

impl VaryFields {
    /// Takes names in any order.
    pub fn new(mut names: Vec<HeaderName>) -> Self {
        names.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        names.dedup();
        Self(if names.is_empty() { None } else { Some(names.into()) })
    }

    /// The names.
    pub fn names(&self) -> &[HeaderName] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Approximate memory in bytes.
    pub fn weight(&self) -> usize {
        self.names().iter().map(|name| size_of::<HeaderName>() + name.as_str().len()).sum()
    }

    /// The variant that a request selects. If `hasher` returns an HMAC, it replaces the value.
    pub fn variant(
        &self,
        request: &HeaderMap,
        secret: &VariantSecret,
        hasher: &CredentialHasher<'_>,
    ) -> VariantId {
        if self.names().is_empty() {
            return VariantId::SOLE;
        }
        VariantId(xxh3_128_with_secret(&self.frames(request, hasher), &*secret.0))
    }

    /// Serialises names and values unambiguously.
    fn frames(&self, request: &HeaderMap, hasher: &CredentialHasher<'_>) -> Vec<u8> {
        let mut frames = Vec::with_capacity(128);
        for name in self.names() {
            frame(&mut frames, NAME, name.as_str().as_bytes());
            match normalised(request, name) {
                None => frame(&mut frames, ABSENT, b""),
                Some(value) => match hasher(name, &value) {
                    Some(hmac) => frame(&mut frames, HASHED, &hmac),
                    None => frame(&mut frames, PRESENT, &value),
                },
            }
        }
        frames
    }
}

const NAME: u8 = 0;
const ABSENT: u8 = 1;
const PRESENT: u8 = 2;
const HASHED: u8 = 3;

/// Writes kind and length before the bytes, so that one value cannot be read as two (CCH-08).
fn frame(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// The field's value with lines joined and whitespace around members removed, which does not change the
/// meaning of a field (RFC 9110 §5.3, §5.6.1). `None` if the field is absent, which is not the same as empty.
fn normalised(request: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    if !request.contains_key(name) {
        return None;
    }
    let lines = request.get_all(name).iter();
    let mut members: Vec<&[u8]> = lines.flat_map(|line| field_list::split(line.as_bytes())).collect();
    if name != ACCEPT_LANGUAGE {
        return Some(members.join(&b','));
    }
    // RFC 9110 §12.5.4: ranges are case-insensitive and ordered by weight, not by position.
    members.retain(|member| !member.is_empty());
    let mut ranges: Vec<Vec<u8>> = members
        .into_iter()
        .map(|member| {
            let visible = member.iter().filter(|b| !b.is_ascii_whitespace());
            visible.map(u8::to_ascii_lowercase).collect()
        })
        .collect();
    ranges.sort();
    Some(ranges.join(&b','))
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderMap, HeaderName, HeaderValue};
    use proptest::collection::vec;
    use proptest::prelude::{any, proptest};

    use xxhash_rust::xxh3::xxh3_128;

    use crate::semantics::vary::{VARIANT_SECRET_LEN, VariantId, VariantSecret, Vary, VaryFields};

    type Lines<'a> = &'a [(&'static str, &'a [u8])];

    fn map(fields: Lines<'_>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let value = HeaderValue::from_bytes(value).unwrap();
            headers.append(HeaderName::from_static(name), value);
        }
        headers
    }

    fn fields(names: &[&'static str]) -> VaryFields {
        VaryFields::new(names.iter().map(|name| HeaderName::from_static(name)).collect())
    }

    fn no_hash(_: &HeaderName, _: &[u8]) -> Option<[u8; 16]> {
        None
    }

    fn secret() -> VariantSecret {
        let mut bytes = [0; VARIANT_SECRET_LEN];
        for (byte, n) in bytes.iter_mut().zip(0_u8..) {
            *byte = n.wrapping_mul(151).wrapping_add(43);
        }
        VariantSecret::new(bytes)
    }

    fn variant(names: &[&'static str], request: Lines<'_>) -> VariantId {
        fields(names).variant(&map(request), &secret(), &no_hash)
    }

    /// If the first four of eight bytes equal XXH3's default secret at their position, only the sum of such
    /// blocks affects the hash. The remaining bytes of two such blocks can then be exchanged without changing
    /// it.
    #[test]
    fn values_that_collide_without_a_secret_are_two_variants() {
        let names = fields(&["x-a"]);
        let request = |one: &[u8; 4], other: &[u8; 4]| {
            let mut frames = vec![b'a'; 640];
            frames[128..132].copy_from_slice(&[0xde, 0xd4, 0x6d, 0xe9]);
            frames[132..136].copy_from_slice(one);
            frames[192..196].copy_from_slice(&[0x72, 0x40, 0xa4, 0xa4]);
            frames[196..200].copy_from_slice(other);
            // Kinds, lengths and the name precede the value.
            let value = HeaderValue::from_bytes(&frames[2 * 9 + "x-a".len()..]).unwrap();
            HeaderMap::from_iter([(HeaderName::from_static("x-a"), value)])
        };
        let (mine, theirs) = (request(b"aaab", b"aaaa"), request(b"aaaa", b"aaab"));
        let plain = |request| xxh3_128(&names.frames(request, &no_hash));
        assert_eq!(plain(&mine), plain(&theirs), "the two values do not collide without a secret");
        let id = |request| names.variant(request, &secret(), &no_hash);
        assert_ne!(id(&mine), id(&theirs));
        let other = VariantSecret::new([7; VARIANT_SECRET_LEN]);
        assert_ne!(id(&mine), names.variant(&mine, &other, &no_hash), "another secret gives another variant");
    }

    #[test]
    fn a_star_anywhere_matches_nothing() {
        // RFC 9111 §4.1.
        for lines in [vec!["*"], vec!["*, x"], vec!["x, *"], vec![", *"], vec!["x", "*"], vec!["x, a b"]] {
            let lines: Vec<_> = lines.iter().map(|line| ("vary", line.as_bytes())).collect();
            assert_eq!(Vary::from_response(&map(&lines)), Vary::Any, "{lines:?}");
        }
        let vary = Vary::from_response(&map(&[("vary", b"X-B, x-a,"), ("vary", b"x-b")]));
        assert_eq!(vary, Vary::Fields(fields(&["x-a", "x-b"])));
        assert_eq!(Vary::from_response(&map(&[])), Vary::Fields(VaryFields::default()));
        for (encoding, expected) in [(&b"gzip"[..], true), (b"identity", false), (b"", false)] {
            let chosen = Vary::effective(&map(&[("content-encoding", encoding)]));
            let fields = if expected { vec![HeaderName::from_static("accept-encoding")] } else { vec![] };
            assert_eq!(chosen, Vary::Fields(VaryFields::new(fields)), "{encoding:?}");
        }
    }

    #[test]
    fn only_listed_fields_select_a_variant() {
        let one: Lines<'_> = &[("x-a", b"1"), ("x-b", b"2"), ("x-c", b"3")];
        let other: Lines<'_> = &[("x-b", b"2"), ("x-a", b"1"), ("x-c", b"9")];
        assert_eq!(variant(&["x-a", "x-b"], one), variant(&["x-b", "x-a"], other));
        assert_ne!(variant(&["x-a", "x-c"], one), variant(&["x-a", "x-c"], other));
        assert_eq!(variant(&[], one), VariantId::SOLE);
        assert_ne!(variant(&["x-a"], &[]), variant(&["x-b"], &[]));
    }

    #[test]
    fn absent_matches_only_absent() {
        let (absent, empty) = (variant(&["x-a"], &[]), variant(&["x-a"], &[("x-a", b"")]));
        assert_ne!(absent, empty);
        assert_ne!(empty, variant(&["x-a"], &[("x-a", b"1")]));
    }

    #[test]
    fn lines_and_spaces_make_no_difference() {
        let one = variant(&["x-a"], &[("x-a", b"1, 2")]);
        assert_eq!(one, variant(&["x-a"], &[("x-a", b"1 ,\t2 ")]));
        assert_eq!(one, variant(&["x-a"], &[("x-a", b"1"), ("x-a", b"2")]));
        assert_ne!(one, variant(&["x-a"], &[("x-a", b"2, 1")]));
        assert_ne!(one, variant(&["x-a"], &[("x-a", b"1 2")]));
        assert_ne!(variant(&["x-a"], &[("x-a", b"A")]), variant(&["x-a"], &[("x-a", b"a")]));
    }

    #[test]
    fn languages_match_in_any_case_and_order() {
        let language = |value: &'static [u8]| variant(&["accept-language"], &[("accept-language", value)]);
        assert_eq!(language(b"en, de;q=0.5"), language(b"DE; q=0.5,EN"));
        assert_ne!(language(b"en, de;q=0.5"), language(b"en;q=0.5, de"));
    }

    #[test]
    fn a_hash_replaces_the_value() {
        let names = fields(&["authorization"]);
        let with = |value: &[u8], hmac: [u8; 16]| {
            names.variant(&map(&[("authorization", value)]), &secret(), &|_, _| Some(hmac))
        };
        assert_eq!(with(b"one", [7; 16]), with(b"other", [7; 16]));
        assert_ne!(with(b"one", [7; 16]), with(b"one", [8; 16]));
        // A value with the same bytes as a hash is not a hash.
        assert_ne!(with(b"one", [b'7'; 16]), variant(&["authorization"], &[("authorization", &[b'7'; 16])]));
    }

    proptest! {
        #[test]
        fn different_values_make_different_variants(
            one in vec("[ -~]{0,12}", 3),
            other in vec("[ -~]{0,12}", 3),
        ) {
            let names = ["x-a", "x-b", "x-c"];
            let request = |values: &[String]| {
                let fields: Vec<_> =
                    names.into_iter().zip(values).map(|(n, v)| (n, v.as_bytes())).collect();
                variant(&names, &fields)
            };
            let plain = |values: &[String]| -> Vec<String> {
                values.iter().map(|v| v.split(',').map(str::trim).collect::<Vec<_>>().join(",")).collect()
            };
            // A quoted string may contain a comma; such values are compared only by their bytes.
            if !one.iter().chain(&other).any(|value| value.contains('"')) {
                assert_eq!(request(&one) == request(&other), plain(&one) == plain(&other));
            }
            if one == other {
                assert_eq!(request(&one), request(&other));
            }
        }

        #[test]
        fn any_bytes_have_a_variant(vary in any::<Vec<u8>>(), value in any::<Vec<u8>>()) {
            let mut response = HeaderMap::new();
            let mut request = HeaderMap::new();
            if let Ok(vary) = HeaderValue::from_bytes(&vary) {
                response.append("vary", vary);
            }
            if let (Vary::Fields(fields), Ok(value)) =
                (Vary::from_response(&response), HeaderValue::from_bytes(&value))
            {
                for name in fields.names() {
                    request.append(name.clone(), value.clone());
                }
                let chosen = fields.variant(&request, &secret(), &no_hash);
                assert_eq!(chosen == VariantId::SOLE, fields.names().is_empty());
            }
        }
    }
}
