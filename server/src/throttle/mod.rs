//! What clients may take of the server together and each: connections of an address, those that have not said hello,
//! new ones a second; operations and bytes a second. Clients of trusted networks are exempt.
//!
//! Too many connections are refused, or told when to come back. Too many operations or bytes refuse nothing: the
//! connection is not read from for a while, and its peer's TCP waits.
//!
//! Shared by all cores. A mutex guards the tables of addresses, subjects and documents, which are looked into when a
//! connection comes or goes, shows its first token, or pushes to a document for the first time; what is charged while
//! it works is atomic.

mod bucket;
pub mod limits;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ipnet::IpNet;

pub use bucket::{Bucket, Meter, Rate, Rates};

use limits::{REMEMBERED_MIN, RETRY_S_MAX};

/// Bits of an IPv6 address that one household has to itself.
const IPV6_HOST_BITS: u32 = 64;

/// What the operator allows.
#[derive(Debug, Clone)]
pub struct Allowed {
    /// Networks whose clients are exempt.
    pub trusted: Vec<IpNet>,
    /// Those are load balancers, which say whose a connection is by the PROXY protocol.
    pub proxy_protocol: bool,
    /// Most connections of one address.
    pub connections_per_address: u32,
    /// Most connections that have not said hello yet.
    pub pending: u32,
    /// New connections a second.
    pub accept: Rate,
    /// What one connection may do.
    pub client: Rates,
    /// What all connections of one address may do.
    pub address: Rates,
    /// What all connections of one subject may do.
    pub subject: Rates,
    /// What may be pushed to one document.
    pub document: Rates,
}

/// How a new connection is taken.
#[derive(Debug)]
pub struct Admission {
    /// Where it comes from.
    pub address: IpAddr,
    /// Its place; nothing applies to one without.
    pub ticket: Option<Box<Ticket>>,
    /// It is only told to come back in so many milliseconds.
    pub retry_after_ms: Option<u32>,
    /// It has to begin by saying whose it is.
    pub has_proxy_header: bool,
}

/// The limits of one server, and what is used of them.
#[derive(Debug)]
pub struct Throttle {
    allowed: Allowed,
    pending: AtomicU32,
    accepted: Bucket,
    /// Places in the time to come, for those who are turned away.
    places: Bucket,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    addresses: BTreeMap<IpAddr, Address>,
    documents: BTreeMap<u32, Weak<Meter>>,
    subjects: BTreeMap<Arc<str>, Arc<Meter>>,
    /// Sizes at which they are swept.
    sweep_at: [usize; 3],
}

#[derive(Debug, Default)]
struct Address {
    connections: u32,
    meter: Arc<Meter>,
}

impl Throttle {
    /// Nothing is used of it yet.
    pub fn new(allowed: Allowed) -> Arc<Self> {
        Arc::new(Self {
            allowed,
            pending: AtomicU32::new(0),
            accepted: Bucket::default(),
            places: Bucket::default(),
            tables: Mutex::default(),
        })
    }

    /// Connections that have not said hello yet, those of trusted networks not counted.
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Whether clients from there are exempt.
    pub fn is_trusted(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.allowed.trusted.iter().any(|network| network.contains(&address))
    }

    /// Takes a new connection from there, which may say that it is somebody else's.
    ///
    /// # Errors
    /// See [`Throttle::admit`].
    pub fn accept(self: &Arc<Self>, address: IpAddr, now_us: u64) -> Result<Admission, &'static str> {
        let has_proxy_header = self.allowed.proxy_protocol && self.is_trusted(address);
        Ok(Admission { has_proxy_header, ..self.admit(address, now_us)? })
    }

    /// Takes a new connection of a client there.
    ///
    /// # Errors
    /// There are too many; why, as metrics name it.
    pub fn admit(self: &Arc<Self>, address: IpAddr, now_us: u64) -> Result<Admission, &'static str> {
        if self.is_trusted(address) {
            return Ok(Admission { address, ticket: None, retry_after_ms: None, has_proxy_header: false });
        }
        let allowed = &self.allowed;
        let key = household(address);
        let mut tables = self.tables();
        let place = tables.address(key, now_us);
        if place.connections >= allowed.connections_per_address {
            return Err("address_connections");
        }
        let pending = |count: u32| (count < allowed.pending).then_some(count + 1);
        if self.pending.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pending).is_err() {
            return Err("pending");
        }
        place.connections += 1;
        let meter = Arc::clone(&place.meter);
        drop(tables);
        let ticket = Box::new(Ticket {
            throttle: Arc::clone(self),
            key,
            is_pending: true,
            own: Meter::default(),
            address: meter,
            subject: None,
            documents: Vec::new(),
        });
        let retry_after_ms = self.accepted.take(allowed.accept, now_us).err().map(|wait_us| {
            let place_us = self.places.place(allowed.accept, RETRY_S_MAX * 1_000_000, now_us);
            u32::try_from(wait_us.max(place_us).div_ceil(1_000)).unwrap_or(u32::MAX)
        });
        Ok(Admission { address, ticket: Some(ticket), retry_after_ms, has_proxy_header: false })
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn address(&mut self, key: IpAddr, now_us: u64) -> &mut Address {
        let Self { addresses, sweep_at: [sweep_at, ..], .. } = self;
        if addresses.len() >= (*sweep_at).max(REMEMBERED_MIN) {
            // One that has nobody here any more is remembered while it owes: nobody is to get a full bucket by
            // connecting again.
            addresses.retain(|_, address| address.connections > 0 || !address.meter.is_full(now_us));
            *sweep_at = 2 * addresses.len();
        }
        addresses.entry(key).or_default()
    }

    fn subject(&mut self, subject: &Arc<str>, now_us: u64) -> Arc<Meter> {
        let Self { subjects, sweep_at: [.., sweep_at], .. } = self;
        if subjects.len() >= (*sweep_at).max(REMEMBERED_MIN) {
            // As with addresses: one that owes is remembered when its connections are gone.
            subjects.retain(|_, meter| Arc::strong_count(meter) > 1 || !meter.is_full(now_us));
            *sweep_at = 2 * subjects.len();
        }
        Arc::clone(subjects.entry(Arc::clone(subject)).or_default())
    }

    fn document(&mut self, handle: u32) -> Arc<Meter> {
        let Self { documents, sweep_at: [_, sweep_at, _], .. } = self;
        if documents.len() >= (*sweep_at).max(REMEMBERED_MIN) {
            documents.retain(|_, meter| meter.strong_count() > 0);
            *sweep_at = 2 * documents.len();
        }
        let known = documents.get(&handle).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let meter = Arc::new(Meter::default());
            documents.insert(handle, Arc::downgrade(&meter));
            meter
        })
    }
}

/// Those who share this address: one IPv4 address, or the IPv6 network that one household gets.
fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> IPV6_HOST_BITS << IPV6_HOST_BITS))
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// Which bucket holds a connection back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Its own.
    Client,
    /// Its address's.
    Address,
    /// Its subject's.
    Subject,
    /// The document's to which it pushes.
    Document,
}

impl Held {
    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Address => "address",
            Self::Subject => "subject",
            Self::Document => "document",
        }
    }
}

/// A connection's place among those of its address. It gives the place back when it is dropped.
#[derive(Debug)]
pub struct Ticket {
    throttle: Arc<Throttle>,
    key: IpAddr,
    is_pending: bool,
    own: Meter,
    address: Arc<Meter>,
    /// Its subject's, since its first token.
    subject: Option<Arc<Meter>>,
    /// Documents that it has pushed to, by their handles.
    documents: Vec<(u32, Arc<Meter>)>,
}

impl Ticket {
    /// The connection has said hello.
    pub fn greeted(&mut self) {
        if std::mem::take(&mut self.is_pending) {
            self.throttle.pending.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The connection is this subject's from now on.
    pub fn belongs_to(&mut self, subject: &Arc<str>, now_us: u64) {
        if self.subject.is_none() {
            self.subject = Some(self.throttle.tables().subject(subject, now_us));
        }
    }

    /// Pays for what was read. For how many microseconds nothing more is to be read, and why, if it is not at once.
    pub fn charge(&self, operations: u64, bytes: u64, now_us: u64) -> Option<(u64, Held)> {
        let allowed = &self.throttle.allowed;
        let mut held = (self.own.charge(allowed.client, operations, bytes, now_us), Held::Client);
        let address_us = self.address.charge(allowed.address, operations, bytes, now_us);
        if address_us > held.0 {
            held = (address_us, Held::Address);
        }
        if let Some(subject) = &self.subject {
            let subject_us = subject.charge(allowed.subject, operations, bytes, now_us);
            if subject_us > held.0 {
                held = (subject_us, Held::Subject);
            }
        }
        (held.0 > 0).then_some(held)
    }

    /// Pays for changes that are pushed to a document.
    pub fn charge_document(
        &mut self,
        handle: u32,
        changes: u64,
        bytes: u64,
        now_us: u64,
    ) -> Option<(u64, Held)> {
        let at = match self.documents.binary_search_by_key(&handle, |(handle, _)| *handle) {
            Ok(at) => at,
            Err(at) => {
                let meter = self.throttle.tables().document(handle);
                self.documents.insert(at, (handle, meter));
                at
            }
        };
        let (_, meter) = self.documents.get(at)?;
        let held_us = meter.charge(self.throttle.allowed.document, changes, bytes, now_us);
        (held_us > 0).then_some((held_us, Held::Document))
    }

    /// The connection has closed the document.
    pub fn forget(&mut self, handle: u32) {
        self.documents.retain(|(known, _)| *known != handle);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.greeted();
        if let Some(address) = self.throttle.tables().addresses.get_mut(&self.key) {
            address.connections = address.connections.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests;
