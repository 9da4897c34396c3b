//! The bounds of every setting that is a number, in one place. Its unit is what help calls its value.

use std::ops::RangeInclusive;

use etherply_access::TOKEN_LIFETIME_S_MAX;
use etherply_engine::document::{DOCUMENT_BYTES_MAX, DOCUMENT_BYTES_MIN};

use crate::access::remote::{KEYS_REFRESH_S_MAX, KEYS_REFRESH_S_MIN};
use crate::data_plane::limits::{
    ARRIVAL_TIMEOUT_S_MAX, ARRIVAL_TIMEOUT_S_MIN, IDLE_TIMEOUT_S_MAX, IDLE_TIMEOUT_S_MIN,
    TOKEN_TIMEOUT_S_MAX, TOKEN_TIMEOUT_S_MIN,
};
use crate::materialise::{MATERIALISED_BYTES_MAX, MATERIALISED_BYTES_MIN, MATERIALISERS_MAX};
use crate::storage::retire::RETAIN_DAYS_MAX;
use crate::storage::scrub::SCRUB_DAYS_MAX;
use crate::throttle::limits::{
    BANDWIDTH_MAX, CONNECTIONS_PER_ADDRESS_MAX, PENDING_CONNECTIONS_MAX, RATE_MAX,
};

/// Most executors.
pub const CORES_MAX: u64 = 1_024;

/// A setting that is a number.
#[derive(Debug)]
pub struct Number {
    /// What it is called.
    pub key: &'static str,
    /// What it may be.
    pub bounds: RangeInclusive<u64>,
}

const fn number(key: &'static str, min: u64, max: u64) -> Number {
    Number { key, bounds: min..=max }
}

/// All of them.
pub const NUMBERS: &[Number] = &[
    number("cores", 1, CORES_MAX),
    number("keys-refresh", KEYS_REFRESH_S_MIN as u64, KEYS_REFRESH_S_MAX as u64),
    number("token-lifetime", 1, TOKEN_LIFETIME_S_MAX),
    number("materialisers", 0, MATERIALISERS_MAX as u64),
    number("materialised-bytes", MATERIALISED_BYTES_MIN, MATERIALISED_BYTES_MAX),
    number("document-bytes-max", DOCUMENT_BYTES_MIN, DOCUMENT_BYTES_MAX),
    number("idle-timeout", IDLE_TIMEOUT_S_MIN as u64, IDLE_TIMEOUT_S_MAX as u64),
    number("hello-timeout", ARRIVAL_TIMEOUT_S_MIN as u64, ARRIVAL_TIMEOUT_S_MAX as u64),
    number("frame-timeout", ARRIVAL_TIMEOUT_S_MIN as u64, ARRIVAL_TIMEOUT_S_MAX as u64),
    number("token-timeout", TOKEN_TIMEOUT_S_MIN as u64, TOKEN_TIMEOUT_S_MAX as u64),
    number("connections-per-address", 1, CONNECTIONS_PER_ADDRESS_MAX as u64),
    number("pending-connections", 1, PENDING_CONNECTIONS_MAX as u64),
    number("accept-rate", 0, RATE_MAX as u64),
    number("client-rate", 0, RATE_MAX as u64),
    number("client-bandwidth", 0, BANDWIDTH_MAX as u64),
    number("address-rate", 0, RATE_MAX as u64),
    number("address-bandwidth", 0, BANDWIDTH_MAX as u64),
    number("subject-rate", 0, RATE_MAX as u64),
    number("subject-bandwidth", 0, BANDWIDTH_MAX as u64),
    number("document-rate", 0, RATE_MAX as u64),
    number("document-bandwidth", 0, BANDWIDTH_MAX as u64),
    number("scrub-days", 0, SCRUB_DAYS_MAX as u64),
    number("retain-days", 0, RETAIN_DAYS_MAX as u64),
];

/// What a setting that is a number may be; `None` if it is not one.
pub fn of(key: &str) -> Option<&'static Number> {
    NUMBERS.iter().find(|number| number.key == key)
}

/// What is no such number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is a whole number from {min} to {max}")]
pub struct OutOfBounds {
    min: u64,
    max: u64,
}

/// Takes a number within its bounds, for clap.
pub fn parser<T: TryFrom<u64> + 'static>(
    key: &'static str,
) -> impl Fn(&str) -> Result<T, OutOfBounds> + Clone + Send + Sync + 'static {
    move |text| {
        // Every number has its bounds, as a test knows.
        let (min, max) = of(key).map_or((0, 0), |number| (*number.bounds.start(), *number.bounds.end()));
        let value = text.parse::<u64>().ok().filter(|value| (min..=max).contains(value));
        value.and_then(|value| T::try_from(value).ok()).ok_or(OutOfBounds { min, max })
    }
}

/// What a value is counted in, by what help calls it.
pub fn unit(value_name: &str) -> Option<&'static str> {
    Some(match value_name {
        "S" => "seconds",
        "DAYS" => "days",
        "BYTES" => "bytes",
        "BYTES/S" => "bytes a second",
        "OPS" => "operations",
        "OPS/S" => "operations a second",
        "N/S" => "a second",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, Command};

    use super::*;
    use crate::cli::ServeArgs;

    #[test]
    fn every_number_is_a_setting_and_every_setting_that_counts_has_bounds() {
        let command = ServeArgs::augment_args(Command::new("serve"));
        let mut counting = Vec::new();
        for arg in command.get_arguments() {
            let name = arg.get_value_names().and_then(<[_]>::first).map(ToString::to_string);
            if name.as_deref().is_some_and(|name| name == "N" || unit(name).is_some()) {
                counting.push(arg.get_long().unwrap().to_owned());
            }
        }
        let mut numbers: Vec<_> = NUMBERS.iter().map(|number| number.key.to_owned()).collect();
        counting.sort();
        numbers.sort();
        assert_eq!(counting, numbers);
    }

    #[test]
    fn every_number_is_taken_from_its_least_to_its_most() {
        for Number { key, bounds } in NUMBERS {
            let command = ServeArgs::augment_args(Command::new("serve").no_binary_name(true));
            let takes =
                |value: u64| command.clone().try_get_matches_from([format!("--{key}={value}")]).is_ok();
            let (min, max) = (*bounds.start(), *bounds.end());
            assert!(takes(min) && takes((min + 1).min(max)), "{key}");
            assert!(min == 0 || !takes(min - 1), "{key}");
            assert!(takes(max - 1) && takes(max) && !takes(max + 1), "{key}");
            assert!(command.try_get_matches_from([format!("--{key}=x")]).is_err());
        }
    }
}
