use super::*;

fn listed(hosts: &[&str], origins: &[&str]) -> Allowlist {
    let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    Allowlist::new(hosts, origins.iter().map(|origin| origin.parse().unwrap()).collect())
}

#[test]
fn addresses_and_localhost_need_no_list() {
    let allowlist = Allowlist::default();
    for host in [
        "127.0.0.1",
        "127.0.0.1:4180",
        "10.1.2.3:4180",
        "203.0.113.7",
        "0.0.0.0:4180",
        "[::1]",
        "[::1]:4180",
        "[2001:DB8::1]:4180",
        "[::ffff:127.0.0.1]",
        "localhost",
        "localhost:4180",
        "LOCALHOST:4180",
        "localhost.",
        "localhost.:4180",
        "localhost:",
        "app.localhost:4180",
    ] {
        assert_eq!(allowlist.check_host(host), Ok(()), "{host}");
    }
}

#[test]
fn names_and_what_only_looks_like_a_host_are_refused() {
    let allowlist = Allowlist::default();
    for host in [
        "",
        ".",
        ":4180",
        "example.com",
        "localhost.example.com",
        "notlocalhost",
        "localhost..",
        "127.0.0.1.example.com",
        "127.0.0.1.nip.io:4180",
        // Browsers write all of these as 127.0.0.1.
        "127.1",
        "0x7f.0.0.1",
        "2130706433",
        "0177.0.0.1",
        "localhost@example.com",
        "user:password@localhost",
        "example.com#@localhost",
        "localhost/",
        "localhost/path",
        "http://localhost",
        "localhost:80:80",
        "localhost:65536",
        "localhost:+80",
        "localhost:-1",
        "localhost:8o",
        "localhost %2e",
        "loc%61lhost",
        "localhost\u{e4}",
        "::1",
        "[::1",
        "::1]",
        "[::1]x",
        "[::1]:x",
        "[fe80::1%25eth0]",
        "[127.0.0.1]",
        "[localhost]",
        "[]",
    ] {
        assert_eq!(allowlist.check_host(host), Err(Unwelcome::Host), "{host}");
    }
}

#[test]
fn a_listed_host_counts_at_its_port_or_at_any() {
    let allowlist = listed(&["Sync.Example.com", "other.example.com:8080", "[2001:db8::1]:1"], &[]);
    for (host, is_allowed) in [
        ("sync.example.com", true),
        ("SYNC.example.COM.:1", true),
        ("sync.example.com:4180", true),
        ("other.example.com:8080", true),
        ("other.example.com:8081", false),
        ("other.example.com", false),
        ("a.sync.example.com", false),
        ("example.com", false),
        ("syncXexample.com", false),
    ] {
        assert_eq!(allowlist.check_host(host).is_ok(), is_allowed, "{host}");
    }
    assert_eq!(listed(&["*"], &[]).check_host("anything at all"), Ok(()));
}

#[test]
fn pages_of_this_machine_and_of_the_host_need_no_list() {
    let allowlist = listed(&["sync.example.com"], &[]);
    for (host, origin) in [
        ("127.0.0.1:4180", None),
        ("127.0.0.1:4180", Some("http://localhost:5173")),
        ("127.0.0.1:4180", Some("http://LocalHost")),
        ("127.0.0.1:4180", Some("http://localhost.")),
        ("127.0.0.1:4180", Some("http://app.localhost:3000")),
        ("127.0.0.1:4180", Some("https://127.9.9.9")),
        ("127.0.0.1:4180", Some("http://[::1]:80")),
        ("127.0.0.1:4180", Some("capacitor://localhost")),
        ("10.0.0.5:4180", Some("http://10.0.0.5")),
        ("10.0.0.5:4180", Some("http://10.0.0.5:8080")),
        ("[2001:db8::1]:4180", Some("https://[2001:DB8:0::1]")),
        ("sync.example.com:4180", Some("https://sync.example.com")),
        ("Sync.Example.com.", Some("https://sync.example.com:8443")),
    ] {
        assert_eq!(allowlist.check(host, origin), Ok(()), "{host} {origin:?}");
    }
}

#[test]
fn other_pages_are_refused() {
    let allowlist = listed(&["sync.example.com"], &[]);
    for (host, origin) in [
        ("127.0.0.1:4180", "https://example.com"),
        ("127.0.0.1:4180", "null"),
        ("127.0.0.1:4180", ""),
        ("127.0.0.1:4180", "localhost"),
        ("127.0.0.1:4180", "://localhost"),
        ("127.0.0.1:4180", "1http://localhost"),
        ("127.0.0.1:4180", "http://"),
        ("127.0.0.1:4180", "http://localhost/"),
        ("127.0.0.1:4180", "http://localhost.example.com"),
        ("127.0.0.1:4180", "http://localhost@example.com"),
        ("127.0.0.1:4180", "http://example.com@localhost"),
        ("127.0.0.1:4180", "http://127.0.0.1.evil.test"),
        ("127.0.0.1:4180", "http://10.0.0.1"),
        ("127.0.0.1:4180", "http://localhost http://example.com"),
        ("127.0.0.1:4180", "http://localhost, http://example.com"),
        ("127.0.0.1:4180", "http://localhost:99999"),
        ("10.0.0.5:4180", "http://10.0.0.6:4180"),
        ("sync.example.com", "https://example.com"),
        ("sync.example.com", "https://a.sync.example.com"),
    ] {
        assert_eq!(allowlist.check(host, Some(origin)), Err(Unwelcome::Origin), "{host} {origin}");
    }
    // Rebinding: the page's own name now has this server's address, so that origin and host agree.
    let rebound = allowlist.check("evil.test:4180", Some("http://evil.test:4180"));
    assert_eq!(rebound, Err(Unwelcome::Host));
    let rebound = allowlist.check("evil.test:4180", None);
    assert_eq!(rebound, Err(Unwelcome::Host));
}

#[test]
fn a_listed_origin_counts_as_it_is_written() {
    let allowlist = listed(&[], &["https://App.example.com", "http://a.test:8080", "app://game"]);
    for (origin, is_allowed) in [
        ("https://app.example.com", true),
        ("https://app.example.com:443", true),
        ("HTTPS://APP.EXAMPLE.COM", true),
        ("https://app.example.com:8443", false),
        ("http://app.example.com", false),
        ("https://example.com", false),
        ("https://x.app.example.com", false),
        ("http://a.test:8080", true),
        ("http://a.test", false),
        ("app://game", true),
        ("app://other", false),
    ] {
        assert_eq!(allowlist.check("127.0.0.1", Some(origin)).is_ok(), is_allowed, "{origin}");
    }
    let everybody = listed(&[], &["*"]);
    assert_eq!(everybody.check("127.0.0.1", Some("null")), Ok(()));
    // Every page, but not by every name.
    assert_eq!(everybody.check("evil.test", Some("http://evil.test")), Err(Unwelcome::Host));
}

#[test]
fn rules_that_are_none_say_what_one_looks_like() {
    for host in ["", "https://example.com", "example.com/", "a b", "*.example.com", "host:port"] {
        assert_eq!(host.parse::<HostRule>(), Err(RuleError::Host), "{host}");
    }
    for origin in
        ["", "example.com", "https://example.com/", "https://", "https://*.example.com", "https://u@a"]
    {
        assert_eq!(origin.parse::<OriginRule>(), Err(RuleError::Origin), "{origin}");
    }
    assert_eq!("null".parse::<OriginRule>(), Err(RuleError::NullOrigin));
}
