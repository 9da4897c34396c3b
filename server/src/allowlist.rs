//! Which web pages may connect, and by which names this server may be called.
//!
//! Any web page can reach a port on the machine of whoever looks at it, also a port on loopback; and its author
//! can give a name of his own the address of that port (DNS rebinding), so that the browser takes the server
//! for a part of the page's site. Against the first there is the header Origin, which browsers set and pages
//! cannot change; against the second the header Host, which has the name that the page used. Programs that
//! are not browsers can send whatever they like: neither is access control.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwelcome {
    /// The host is neither an address, nor localhost, nor in the list.
    Host,
    /// The origin is neither of this machine, nor of the host, nor in the list.
    Origin,
}

/// What the operator allows beside what always is.
#[derive(Debug, Clone, Default)]
pub struct Allowlist {
    hosts: Vec<HostRule>,
    origins: Vec<OriginRule>,
}

/// A name of this server: `NAME`, `NAME:PORT`, or `*` for any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostRule {
    /// Every name.
    Any,
    /// This one, at this port or at any.
    One(Authority),
}

/// An origin of pages: `SCHEME://HOST[:PORT]`, or `*` for any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginRule {
    /// Every origin.
    Any,
    /// This one.
    One(Origin),
}

/// Why a rule is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Not a host.
    #[error("a host is NAME or NAME:PORT, without scheme and path, or * for every name")]
    Host,
    /// Not an origin.
    #[error("an origin is SCHEME://HOST or SCHEME://HOST:PORT, without a path, or * for every origin")]
    Origin,
    /// What every page can get for itself.
    #[error("any page can have the origin null, in a sandboxed frame: allowing it is allowing *")]
    NullOrigin,
}

/// A host in its normal form, and a port if one was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    name: Name,
    port: Option<u16>,
}

/// An origin in its normal form: no port where it is the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: Authority,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Address(IpAddr),
    /// In lower case, without the dot at the end.
    Dns(String),
}

impl Allowlist {
    /// What is allowed beside addresses, localhost, and pages from this machine and from the server's host.
    pub fn new(hosts: Vec<HostRule>, origins: Vec<OriginRule>) -> Self {
        Self { hosts, origins }
    }

    /// Whether pages from everywhere may connect.
    pub fn allows_every_origin(&self) -> bool {
        self.origins.contains(&OriginRule::Any)
    }

    /// Whether the server answers to every name.
    pub fn allows_every_host(&self) -> bool {
        self.hosts.contains(&HostRule::Any)
    }

    /// Judges a request's host. An address cannot be rebound: that of a page would have to be this server's.
    ///
    /// # Errors
    /// [`Unwelcome::Host`].
    pub fn check_host(&self, host: &str) -> Result<(), Unwelcome> {
        let allows = |authority: &Authority| {
            authority.name.is_always_ours() || self.hosts.iter().any(|rule| rule.covers(authority))
        };
        let is_allowed = self.allows_every_host() || Authority::parse(host).is_some_and(|host| allows(&host));
        if is_allowed { Ok(()) } else { Err(Unwelcome::Host) }
    }

    /// Judges a request by its host and by the origin of the page that made it, which programs do not send.
    ///
    /// # Errors
    /// [`Unwelcome`], the host's first.
    pub fn check(&self, host: &str, origin: Option<&str>) -> Result<(), Unwelcome> {
        self.check_host(host)?;
        let Some(origin) = origin else { return Ok(()) };
        if self.allows_every_origin() {
            return Ok(());
        }
        let origin = Origin::parse(origin).ok_or(Unwelcome::Origin)?;
        let name = &origin.host.name;
        // The port does not matter: who serves pages on this host is trusted, as cookies do.
        let is_ours = || Authority::parse(host).is_some_and(|host| host.name == *name);
        let is_listed =
            || self.origins.iter().any(|rule| matches!(rule, OriginRule::One(one) if *one == origin));
        if name.is_loopback() || is_ours() || is_listed() { Ok(()) } else { Err(Unwelcome::Origin) }
    }
}

impl HostRule {
    fn covers(&self, authority: &Authority) -> bool {
        match self {
            Self::Any => true,
            Self::One(one) => {
                one.name == authority.name && (one.port.is_none() || one.port == authority.port)
            }
        }
    }
}

impl FromStr for HostRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        Authority::parse(text).map(Self::One).ok_or(RuleError::Host)
    }
}

impl FromStr for OriginRule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        match text {
            "*" => Ok(Self::Any),
            "null" => Err(RuleError::NullOrigin),
            _ => Origin::parse(text).map(Self::One).ok_or(RuleError::Origin),
        }
    }
}

impl Origin {
    /// Reads an origin as browsers write it (RFC 6454, 6.2): nothing may stand behind the port.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, host) = text.split_once("://")?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let scheme = is_scheme.then(|| scheme.to_ascii_lowercase())?;
        let mut host = Authority::parse(host)?;
        let usual_port = match scheme.as_str() {
            "http" | "ws" => Some(80),
            "https" | "wss" => Some(443),
            _ => None,
        };
        if host.port == usual_port {
            host.port = None;
        }
        Some(Self { scheme, host })
    }
}

impl Authority {
    /// Reads `host[:port]` and nothing else: no user, no percent signs, no zone of an address.
    fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']')?;
            let address: Ipv6Addr = address.parse().ok()?;
            let port = parse_port(port)?;
            return Some(Self { name: Name::Address(IpAddr::V6(address)), port });
        }
        let name_bytes = text.find(':').unwrap_or(text.len());
        let (name, port) = text.split_at_checked(name_bytes)?;
        let port = parse_port(port)?;
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_label = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if !name.split('.').all(is_label) {
            return None;
        }
        let name = match name.parse::<Ipv4Addr>() {
            Ok(address) => Name::Address(IpAddr::V4(address)),
            Err(_) => Name::Dns(name.to_ascii_lowercase()),
        };
        Some(Self { name, port })
    }
}

/// What stands behind a host: nothing, a colon, or a colon and a port. `None` if it is something else.
#[allow(clippy::option_option, reason = "the outer one is the error")]
fn parse_port(text: &str) -> Option<Option<u16>> {
    let Some(digits) = text.strip_prefix(':') else { return text.is_empty().then_some(None) };
    if digits.is_empty() {
        return Some(None);
    }
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok())?.map(Some)
}

impl Name {
    fn is_loopback(&self) -> bool {
        match self {
            Self::Address(address) => address.to_canonical().is_loopback(),
            // Nobody can register a name under it (RFC 6761, 6.3).
            Self::Dns(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }

    fn is_always_ours(&self) -> bool {
        matches!(self, Self::Address(_)) || self.is_loopback()
    }
}

#[cfg(test)]
#[path = "allowlist_tests.rs"]
mod tests;
