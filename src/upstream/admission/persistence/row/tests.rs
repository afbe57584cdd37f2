//! Rows over time, with clocks that are set, and with damage.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn date() -> SystemTime {
    SystemTime::UNIX_EPOCH + SECOND * 1_800_000_000
}

fn saved_window() -> rate_limiter::SavedWindow {
    let rate = Rate { count: 6_400, per: 64 * HOUR };
    rate_limiter::SavedWindow { rate, sent: vec![(2 * HOUR, 3), (SECOND, 1)], ahead: 100 }
}

fn saved_cooldowns() -> SavedCooldowns {
    let reasons = REASONS.into_iter().enumerate();
    let saved = |(place, reason): (usize, RejectReason)| {
        let scope = match place % 5 {
            0 => CooldownScope::Upstream,
            1 => CooldownScope::Origin(u64::MAX),
            2 => CooldownScope::Credential(7),
            3 => CooldownScope::Bucket(u128::MAX),
            _ => CooldownScope::Key(1),
        };
        cooldown::SavedCooldown { scope, left: HOUR, reason, times: 3 }
    };
    let bucket = Bucket { name: "abcd".into(), per_resource: true };
    SavedCooldowns { all: reasons.map(saved).collect(), shapes: vec![(5, bucket)] }
}

#[test]
fn a_key_is_decoded_as_it_was_encoded() {
    for kind in [RowKind::Window(0), RowKind::Window(u128::MAX), RowKind::BanGuard, RowKind::Cooldowns] {
        for (configured, name) in [(true, "coins"), (false, "api.example:443")] {
            let key = RowKey { configured, name: name.into(), kind };
            assert_eq!(RowKey::decode(&key.encode()), Some(key));
        }
    }
    for other in [&b""[..], b"w", b"g\x01", b"w\x01short", b"x\x01coins", b"g\x01\xff"] {
        assert_eq!(RowKey::decode(other), None, "{other:?}");
    }
}

#[test]
fn stored_limits_grow_older_between_two_processes() {
    let later = date() + HOUR;
    let window = decode_window(&encode_window(&saved_window(), date()), later).unwrap();
    // Calls counted ahead went out within a sixty-fourth of the window, or not at all.
    assert_eq!(window.sent, [(3 * HOUR, 3), (HOUR + SECOND, 1), (Duration::ZERO, 100)]);
    assert_eq!((window.rate, window.ahead), (saved_window().rate, 0));
    let counted =
        ban_guard::SavedBanGuard { retention: 2 * HOUR, pieces: vec![(90 * 60 * SECOND, 5), (SECOND, 2)] };
    let read = decode_ban_guard(&encode_ban_guard(&counted, date()), later).unwrap();
    assert_eq!(read.pieces, [(HOUR + SECOND, 2)]);
    let restored =
        decode_cooldowns(&encode_cooldowns(&saved_cooldowns(), date()), date() + HOUR / 2).unwrap();
    assert_eq!(restored.all.len(), REASONS.len());
    assert!(restored.all.iter().all(|one| one.left == HOUR / 2 && one.times == 3));
    assert_eq!(restored.shapes, saved_cooldowns().shapes);
    assert_eq!(decode_cooldowns(&encode_cooldowns(&saved_cooldowns(), date()), later).unwrap().all, []);
}

#[test]
fn no_limit_lasts_longer_than_its_length_if_the_clock_was_set_back() {
    for back in [SECOND, HOUR, 20_000 * HOUR] {
        let earlier = date() - back;
        let window = decode_window(&encode_window(&saved_window(), date()), earlier).unwrap();
        assert_eq!(window.sent[..2], saved_window().sent, "as if it had been written just now");
        let cooldowns = decode_cooldowns(&encode_cooldowns(&saved_cooldowns(), date()), earlier).unwrap();
        assert!(cooldowns.all.iter().all(|one| one.left == HOUR), "{back:?}");
    }
    let mut endless = saved_cooldowns();
    endless.all[0].left = Duration::from_secs(u64::from(u32::MAX));
    let read = decode_cooldowns(&encode_cooldowns(&endless, date()), date()).unwrap();
    assert_eq!(read.all[0].left, MAX_COOLDOWN_TIME);
}

#[test]
fn additions_of_a_later_version_are_ignored() {
    let mut row = encode_window(&saved_window(), date());
    row.extend_from_slice(b"more");
    assert!(decode_window(&row, date()).is_some());
    let mut row = encode_cooldowns(&saved_cooldowns(), date());
    // The kind of the first cooldown, after the date and the number of cooldowns.
    row[23] = 99;
    row.extend_from_slice(b"more");
    assert_eq!(decode_cooldowns(&row, date()).unwrap().all.len(), REASONS.len() - 1);
}

proptest! {
    #[test]
    fn a_damaged_row_is_rejected_or_decoded_without_a_panic(
        cut in 0usize..500, at in 0usize..500, with in any::<u8>(), noise in any::<Vec<u8>>(),
    ) {
        let counted = ban_guard::SavedBanGuard { retention: HOUR, pieces: vec![(SECOND, 5)] };
        for row in [encode_window(&saved_window(), date()), encode_ban_guard(&counted, date()), encode_cooldowns(&saved_cooldowns(), date())] {
            let mut damaged = row.clone();
            damaged.truncate(cut);
            if let Some(byte) = damaged.get_mut(at) {
                *byte ^= with;
            }
            for row in [&damaged, &noise] {
                let _read = (decode_window(row, date()), decode_ban_guard(row, date()), decode_cooldowns(row, date()));
            }
        }
        let row = encode_window(&saved_window(), date());
        prop_assert!(cut >= row.len() || decode_window(&row[..cut], date()).is_none());
        let _key = RowKey::decode(&noise);
    }
}
