use bytes::Bytes;
use etherply_wire::Frame;
use proptest::prelude::*;

use super::*;
use crate::presence::DEPARTURES_MAX;

type Table = BTreeMap<SessionId, Vec<u8>>;

fn set(presence: &mut Presence, n: u8, state: Option<Vec<u8>>) {
    let change = presence.table.next([n; 16], state.map(Bytes::from));
    presence.apply(&change);
}

/// Takes one piece; whether there was one.
fn follow(presence: &mut Presence, seen: &mut Seen, copy: &mut Table, bytes_max: usize) -> Option<usize> {
    if !presence.is_news(*seen) {
        return None;
    }
    let piece = presence.next(1, *seen, bytes_max);
    *seen = piece.next;
    let mut bytes = 0;
    for frame in &piece.frames {
        bytes += frame.frame().len();
        let frame = Frame::parse(frame.frame()).unwrap().unwrap();
        if let Ok(update) = frame.body::<PresenceUpdate>() {
            if update.full {
                copy.clear();
            }
            copy.extend(update.entries.iter().map(|entry| (entry.member, entry.state.as_slice().to_vec())));
        } else {
            let leave = frame.body::<PresenceLeave>().unwrap();
            leave.members.iter().for_each(|member| drop(copy.remove(member)));
        }
    }
    Some(bytes)
}

fn table(presence: &Presence) -> Table {
    presence.table.after(None).map(|(member, state)| (*member, state.to_vec())).collect()
}

#[test]
fn an_update_is_encoded_once_for_all_who_stand_at_one_place() {
    let mut presence = Presence::new(PresenceTable::default());
    set(&mut presence, 1, Some(vec![1]));
    set(&mut presence, 2, Some(vec![1]));
    let first = presence.next(1, Seen::Version(1), 1_000);
    // Members that have their turn later, after more has happened, are brought to the same mark.
    set(&mut presence, 2, Some(vec![2]));
    let second = presence.next(1, Seen::Version(1), 1_000);
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(second.next, Seen::Version(2));
    assert!(presence.is_news(second.next));
    assert_eq!(presence.next(1, Seen::Version(2), 1_000).next, Seen::Version(3));
}

#[test]
fn a_piece_about_one_member_names_it() {
    let mut presence = Presence::new(PresenceTable::default());
    set(&mut presence, 1, Some(vec![1]));
    let table = presence.next(1, Seen::Nothing, 1_000);
    assert!(table.concerns(&[2; 16], Seen::Nothing) && !table.concerns(&[1; 16], Seen::Nothing));
    assert!(table.concerns(&[1; 16], Seen::Version(7)), "to clear what it has seen");
    set(&mut presence, 2, Some(vec![1]));
    assert_eq!(presence.next(1, Seen::Version(1), 1_000).only, Some([2; 16]));
    set(&mut presence, 2, None);
    assert_eq!(presence.next(1, Seen::Version(2), 1_000).only, Some([2; 16]));
    set(&mut presence, 1, None);
    assert_eq!(presence.next(1, Seen::Version(1), 1_000).only, None);
}

#[test]
fn pieces_are_kept_within_their_limit() {
    let mut presence = Presence::new(PresenceTable::default());
    let state = vec![0; 4_000];
    for n in 0..=u8::MAX {
        set(&mut presence, n, Some(state.clone()));
    }
    for seen in 0..256 {
        presence.next(1, Seen::Version(seen), 30_000);
        assert!(presence.bytes <= PRESENCE_PIECES_BYTES_MAX);
    }
    assert!(presence.bytes > PRESENCE_PIECES_BYTES_MAX - 40_000);
    assert_eq!(presence.pieces.len(), presence.order.len());
}

#[test]
fn forgotten_departures_lead_to_the_whole_table() {
    let mut presence = Presence::new(PresenceTable::default());
    set(&mut presence, 1, Some(vec![1]));
    let (mut seen, mut copy) = (Seen::Nothing, Table::new());
    follow(&mut presence, &mut seen, &mut copy, 1_000);
    for n in 0..=DEPARTURES_MAX {
        let mut name = [9; 16];
        name[..8].copy_from_slice(&n.to_le_bytes());
        for state in [Some(Bytes::new()), None] {
            let change = presence.table.next(name, state);
            presence.apply(&change);
        }
    }
    copy.insert([9; 16], vec![]);
    assert!(follow(&mut presence, &mut seen, &mut copy, 1_000).is_some());
    assert_eq!(copy, table(&presence), "who is not in it is gone");
    assert_eq!(follow(&mut presence, &mut seen, &mut copy, 1_000), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Members that look now and then, with room for one piece of any size, while states are set and end:
    /// in the end each has the table, and no piece is longer than it may be.
    #[test]
    fn whoever_follows_the_pieces_has_the_table(
        steps in prop::collection::vec(
            (0_u8..8, prop::option::of(0_usize..40), prop::option::of(0_usize..3), 1_usize..200),
            1..150,
        )
    ) {
        let mut presence = Presence::new(PresenceTable::default());
        let mut members = [(Seen::Nothing, Table::new()), (Seen::Nothing, Table::new()), (Seen::Nothing, Table::new())];
        for (n, state, who, bytes_max) in steps {
            set(&mut presence, n, state.map(|bytes| vec![n; bytes]));
            if let Some((seen, copy)) = who.and_then(|who| members.get_mut(who))
                && let Some(bytes) = follow(&mut presence, seen, copy, bytes_max)
            {
                // Headers and roots, one entry at the least, and members that left.
                prop_assert!(bytes <= bytes_max.max(64) + 2 * 200 + 8 * 16);
            }
        }
        for (seen, copy) in &mut members {
            while follow(&mut presence, seen, copy, 30).is_some() {}
            prop_assert_eq!(&*copy, &table(&presence));
        }
    }
}
