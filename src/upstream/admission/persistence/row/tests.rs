//! Rows over time, over clocks that are set, and under damage.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

fn date() -> SystemTime {
    SystemTime::UNIX_EPOCH + SECOND * 1_800_000_000
}

fn kept() -> rate_limiter::Kept {
    let rate = Rate { count: 6_400, per: 64 * HOUR };
    rate_limiter::Kept { rate, sent: vec![(2 * HOUR, 3), (SECOND, 1)], ahead: 100 }
}

fn all() -> SavedCooldowns {
    let causes = CAUSES.into_iter().enumerate();
    let hold = |(place, cause): (usize, RejectReason)| {
        let reach = match place % 5 {
            0 => CooldownScope::Upstream,
            1 => CooldownScope::Origin(u64::MAX),
            2 => CooldownScope::Credential(7),
            3 => CooldownScope::Bucket(u128::MAX),
            _ => CooldownScope::Key(1),
        };
        cooldown::SavedCooldown { reach, left: HOUR, cause, times: 3 }
    };
    let bucket = Bucket { name: "abcd".into(), per_resource: true };
    SavedCooldowns { all: causes.map(hold).collect(), shapes: vec![(5, bucket)] }
}

#[test]
fn a_key_is_read_as_it_was_written() {
    for what in [RowKind::Window(0), RowKind::Window(u128::MAX), RowKind::Guard, RowKind::Holds] {
        for (configured, name) in [(true, "coins"), (false, "api.example:443")] {
            let key = RowKey { configured, name: name.into(), what };
            assert_eq!(RowKey::decode(&key.encode()), Some(key));
        }
    }
    for other in [&b""[..], b"w", b"g\x01", b"w\x01short", b"x\x01coins", b"g\x01\xff"] {
        assert_eq!(RowKey::decode(other), None, "{other:?}");
    }
}

#[test]
fn what_is_kept_grows_older_between_two_larders() {
    let later = date() + HOUR;
    let window = read_window(&window(&kept(), date()), later).unwrap();
    // Calls counted ahead went out within a sixty-fourth of the window, or not at all.
    assert_eq!(window.sent, [(3 * HOUR, 3), (HOUR + SECOND, 1), (Duration::ZERO, 100)]);
    assert_eq!((window.rate, window.ahead), (kept().rate, 0));
    let counted = ban_guard::SavedBanGuard {
        for_long: 2 * HOUR,
        pieces: vec![(90 * 60 * SECOND, 5), (SECOND, 2)],
    };
    let read = read_guard(&guard(&counted, date()), later).unwrap();
    assert_eq!(read.pieces, [(HOUR + SECOND, 2)]);
    let half = read_holds(&holds(&all(), date()), date() + HOUR / 2).unwrap();
    assert_eq!(half.all.len(), CAUSES.len());
    assert!(half.all.iter().all(|one| one.left == HOUR / 2 && one.times == 3));
    assert_eq!(half.shapes, all().shapes);
    assert_eq!(read_holds(&holds(&all(), date()), later).unwrap().all, []);
}

#[test]
fn a_clock_that_was_set_back_makes_nothing_last_longer_than_its_own_length() {
    for back in [SECOND, HOUR, 20_000 * HOUR] {
        let earlier = date() - back;
        let window = read_window(&window(&kept(), date()), earlier).unwrap();
        assert_eq!(window.sent[..2], kept().sent, "as if it had been written just now");
        let holds = read_holds(&holds(&all(), date()), earlier).unwrap();
        assert!(holds.all.iter().all(|one| one.left == HOUR), "{back:?}");
    }
    let mut endless = all();
    endless.all[0].left = Duration::from_secs(u64::from(u32::MAX));
    let read = read_holds(&holds(&endless, date()), date()).unwrap();
    assert_eq!(read.all[0].left, LONGEST_HOLD);
}

#[test]
fn what_a_later_larder_adds_is_passed_over_and_what_it_alone_knows_is_left_out() {
    let mut row = window(&kept(), date());
    row.extend_from_slice(b"more");
    assert!(read_window(&row, date()).is_some());
    let mut row = holds(&all(), date());
    // The kind of the first hold, behind the date and the number of them.
    row[23] = 99;
    row.extend_from_slice(b"more");
    assert_eq!(read_holds(&row, date()).unwrap().all.len(), CAUSES.len() - 1);
}

proptest! {
    #[test]
    fn a_row_that_is_cut_or_damaged_is_refused_or_read_and_never_a_panic(
        cut in 0usize..500, at in 0usize..500, with in any::<u8>(), noise in any::<Vec<u8>>(),
    ) {
        let counted = ban_guard::SavedBanGuard { for_long: HOUR, pieces: vec![(SECOND, 5)] };
        for row in [window(&kept(), date()), guard(&counted, date()), holds(&all(), date())] {
            let mut damaged = row.clone();
            damaged.truncate(cut);
            if let Some(byte) = damaged.get_mut(at) {
                *byte ^= with;
            }
            for row in [&damaged, &noise] {
                let _read = (read_window(row, date()), read_guard(row, date()), read_holds(row, date()));
            }
        }
        let row = window(&kept(), date());
        prop_assert!(cut >= row.len() || read_window(&row[..cut], date()).is_none());
        let _key = RowKey::decode(&noise);
    }
}
