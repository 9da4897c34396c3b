use std::net::Ipv4Addr;

use super::*;

const ANY: Rates = Rates { operations: Rate(0), bytes: Rate(0) };
const S: u64 = 1_000_000;

fn allowed() -> Allowed {
    Allowed {
        trusted: vec!["127.0.0.0/8".parse().unwrap(), "2001:db8:1::/48".parse().unwrap()],
        proxy_protocol: false,
        connections_per_address: 3,
        pending: 5,
        accept: Rate(0),
        client: ANY,
        address: ANY,
        subject: ANY,
        document: ANY,
    }
}

fn address(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
}

fn ticket(admitted: Result<Admission, &'static str>) -> Box<Ticket> {
    let Admission { ticket, retry_after_ms, .. } = admitted.unwrap();
    assert_eq!(retry_after_ms, None);
    ticket.unwrap()
}

fn refused(admitted: Result<Admission, &'static str>) -> &'static str {
    admitted.unwrap_err()
}

#[test]
fn trusted_networks_are_exempt_in_every_spelling() {
    let throttle = Throttle::new(allowed());
    for trusted in ["127.0.0.1", "127.255.255.255", "::ffff:127.0.0.1", "2001:db8:1::", "2001:db8:1:ffff::1"]
    {
        assert!(throttle.admit(trusted.parse().unwrap(), 0).unwrap().ticket.is_none(), "{trusted}");
    }
    for other in ["126.255.255.255", "128.0.0.0", "::1", "2001:db8:2::", "2001:db8:0:ffff::"] {
        assert!(!throttle.is_trusted(other.parse().unwrap()), "{other}");
    }
}

#[test]
fn only_trusted_networks_are_asked_whose_a_connection_is() {
    for proxy_protocol in [false, true] {
        let throttle = Throttle::new(Allowed { proxy_protocol, ..allowed() });
        let trusted = throttle.accept("127.0.0.1".parse().unwrap(), 0).unwrap();
        assert!(trusted.ticket.is_none() && trusted.has_proxy_header == proxy_protocol);
        let other = throttle.accept(address(1), 0).unwrap();
        assert!(other.ticket.is_some() && !other.has_proxy_header);
    }
}

#[test]
fn an_address_has_so_many_connections_and_gets_places_back() {
    let throttle = Throttle::new(allowed());
    let mut tickets: Vec<_> = (0..3).map(|_| ticket(throttle.admit(address(1), 0))).collect();
    assert_eq!(refused(throttle.admit(address(1), 0)), "address_connections");
    tickets.push(ticket(throttle.admit(address(2), 0)));
    drop(tickets.swap_remove(0));
    tickets.push(ticket(throttle.admit(address(1), 0)));
    assert_eq!(refused(throttle.admit(address(1), 0)), "address_connections");
    drop(tickets);
    assert_eq!(throttle.pending(), 0);
}

#[test]
fn an_ipv6_household_is_one_address() {
    let throttle = Throttle::new(allowed());
    let admit = |text: &str| throttle.admit(text.parse().unwrap(), 0);
    let _tickets =
        ["2001:db8:2:3::1", "2001:db8:2:3::2", "2001:db8:2:3:ffff::"].map(|text| ticket(admit(text)));
    assert_eq!(refused(admit("2001:db8:2:3:4::")), "address_connections");
    drop(ticket(admit("2001:db8:2:4::1")));
    let _more: Vec<_> = (0..2).map(|_| ticket(admit("192.0.2.9"))).collect();
    assert_eq!(refused(admit("::ffff:192.0.2.10")), "pending");
}

#[test]
fn those_that_have_not_said_hello_are_bounded() {
    let throttle = Throttle::new(allowed());
    let mut tickets: Vec<_> = (1..=4).map(|last| ticket(throttle.admit(address(last), 0))).collect();
    assert_eq!(throttle.pending(), 4);
    tickets.push(ticket(throttle.admit(address(5), 0)));
    assert_eq!(refused(throttle.admit(address(6), 0)), "pending");
    tickets[0].greeted();
    tickets[0].greeted();
    assert_eq!(throttle.pending(), 4);
    tickets.push(ticket(throttle.admit(address(6), 0)));
    assert_eq!(refused(throttle.admit(address(7), 0)), "pending");
    drop(tickets);
    assert_eq!(throttle.pending(), 0);
}

#[test]
fn new_connections_beyond_the_rate_are_given_places_one_behind_the_other() {
    let throttle =
        Throttle::new(Allowed { accept: Rate(2), connections_per_address: 100, pending: 100, ..allowed() });
    let burst = 2 * limits::BURST_S;
    let _tickets: Vec<_> = (0..burst).map(|_| ticket(throttle.admit(address(1), S))).collect();
    let told: Vec<_> = (0..3).map(|_| throttle.admit(address(1), S).unwrap().retry_after_ms).collect();
    assert_eq!(told, [Some(500), Some(1_000), Some(1_500)]);
    // Whoever comes when told to is taken.
    drop(ticket(throttle.admit(address(1), S + S / 2)));
}

#[test]
fn an_address_that_owes_is_remembered_when_its_connections_are_gone() {
    let rates = Rates { operations: Rate(10), bytes: Rate(0) };
    let throttle = Throttle::new(Allowed { address: rates, ..allowed() });
    let first = ticket(throttle.admit(address(1), 0));
    let most = 10 * limits::BURST_S;
    assert_eq!(first.charge(most, 1 << 30, 0), None);
    assert_eq!(first.charge(1, 0, 0), Some((S / 10, Held::Address)));
    drop(first);
    // Enough others come by for the table to be swept.
    for n in 0..3 * u32::try_from(REMEMBERED_MIN).unwrap() {
        drop(ticket(throttle.admit(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n)), 0)));
    }
    assert!(throttle.tables().addresses.len() <= 2 * REMEMBERED_MIN);
    let again = ticket(throttle.admit(address(1), 0));
    assert_eq!(again.charge(1, 0, 0), Some((S / 5, Held::Address)));
}

#[test]
fn a_document_is_one_bucket_for_all_who_push_to_it() {
    let rates = Rates { operations: Rate(0), bytes: Rate(1_000) };
    let throttle = Throttle::new(Allowed { document: rates, ..allowed() });
    let mut one = ticket(throttle.admit(address(1), 0));
    let mut other = ticket(throttle.admit(address(2), 0));
    assert_eq!(one.charge_document(7, 1, 1_000 * limits::BURST_S - 1, 0), None);
    assert_eq!(other.charge_document(7, 1, 1, 0), None);
    assert_eq!(other.charge_document(7, 1, 1, 0), Some((1_000, Held::Document)));
    assert_eq!(one.charge_document(8, 1, 1, 0), None);
    one.forget(7);
    assert_eq!(one.charge_document(7, 1, 1, 0), Some((2_000, Held::Document)));
    assert_eq!(throttle.tables().documents.len(), 2);
}

#[test]
fn a_connection_has_buckets_of_its_own() {
    let rates = Rates { operations: Rate(5), bytes: Rate(100) };
    let throttle = Throttle::new(Allowed { client: rates, ..allowed() });
    let (one, other) = (ticket(throttle.admit(address(1), 0)), ticket(throttle.admit(address(1), 0)));
    assert_eq!(one.charge(5 * limits::BURST_S, 0, 0), None);
    assert_eq!(one.charge(1, 0, 0), Some((S / 5, Held::Client)));
    assert_eq!(other.charge(0, 100 * limits::BURST_S, 0), None);
    assert_eq!(other.charge(0, 1, 0), Some((S / 100, Held::Client)));
}

#[test]
fn a_subject_is_one_bucket_for_all_its_connections_and_is_remembered_while_it_owes() {
    let rates = Rates { operations: Rate(10), bytes: Rate(0) };
    let throttle = Throttle::new(Allowed { subject: rates, ..allowed() });
    let (ada, eve): (Arc<str>, Arc<str>) = ("ada".into(), "eve".into());
    let [mut one, mut other, mut another] = [1, 2, 3].map(|last| ticket(throttle.admit(address(last), 0)));
    // Nobody's yet.
    assert_eq!(one.charge(1_000, 0, 0), None);
    one.belongs_to(&ada, 0);
    other.belongs_to(&ada, 0);
    another.belongs_to(&eve, 0);
    let most = 10 * limits::BURST_S;
    assert_eq!((one.charge(most - 1, 0, 0), other.charge(1, 0, 0)), (None, None));
    assert_eq!(other.charge(1, 0, 0), Some((S / 10, Held::Subject)));
    assert_eq!(another.charge(most, 0, 0), None);
    // A connection has one subject.
    another.belongs_to(&ada, 0);
    assert_eq!(another.charge(1, 0, 0), Some((S / 10, Held::Subject)));
    drop((one, other));
    // Enough others come by for the table to be swept.
    for n in 0..3 * REMEMBERED_MIN {
        throttle.tables().subject(&n.to_string().into(), 0);
    }
    assert!(throttle.tables().subjects.len() <= 2 * REMEMBERED_MIN);
    let mut again = ticket(throttle.admit(address(1), 0));
    again.belongs_to(&ada, 0);
    assert_eq!(again.charge(1, 0, 0), Some((S / 5, Held::Subject)));
}
