//! One number that stands for everything that happened, to show that a seed replays.

/// FNV-1a (64 bit, by Fowler, Noll and Vo) over the events in their order.
#[derive(Debug, Clone)]
pub struct Trace {
    hash: u64,
    events: u64,
    /// Print each event: for looking at one seed.
    pub verbose: bool,
}

impl Trace {
    /// Nothing happened yet.
    pub fn new(verbose: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, events: 0, verbose }
    }

    /// Something happened.
    pub fn note(&mut self, now_us: u64, what: &str, bytes: &[u8]) {
        self.events += 1;
        if self.verbose {
            eprintln!("{now_us:>12} {what} ({} bytes)", bytes.len());
        }
        for byte in now_us.to_le_bytes().iter().chain(what.as_bytes()).chain(bytes) {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The number.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }
}
