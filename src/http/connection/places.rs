//! How many connections there are, in all and by address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::metrics::ConnectionMetrics;
use super::settings::ConnectionSettings;

/// How often the log says that connections are refused: those who are refused come again, thousands of them.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The places for connections, shared by all listeners.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    most_per_address: Option<NonZeroUsize>,
    /// Held for a moment, when a connection begins or ends.
    taken: Mutex<Taken>,
    metrics: ConnectionMetrics,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Only kept when they are limited.
    by_address: HashMap<IpAddr, usize>,
    /// How many were refused since the log said so, and when that was.
    refused: u64,
    logged: Option<Instant>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("{0} connections are open, and no more are allowed (--max-connections)")]
    InAll(usize),
    #[error("{0} connections are open from this address, and no more are allowed (--max-connections-per-address)")]
    FromAddress(usize),
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(in crate::http) struct Place {
    places: Arc<Places>,
    /// In a box, as most places have none.
    address: Option<Box<IpAddr>>,
}

impl Places {
    pub(super) fn new(settings: &ConnectionSettings, metrics: ConnectionMetrics) -> Self {
        let most = settings.places();
        metrics.most.set(most.try_into().unwrap_or(i64::MAX));
        Self { most, most_per_address: settings.max_connections_per_address, taken: Mutex::default(), metrics }
    }

    /// A place for a connection from that address, if there is one.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.most {
            self.metrics.refused.inc();
            return Err(taken.refuse(Full::InAll(self.most)));
        }
        let address = match self.most_per_address {
            None => None,
            Some(most) => {
                let address = one_client(address);
                let from_here = taken.by_address.entry(address).or_default();
                if *from_here >= most.get() {
                    self.metrics.refused_by_address.inc();
                    return Err(taken.refuse(Full::FromAddress(most.get())));
                }
                *from_here += 1;
                Some(Box::new(address))
            }
        };
        taken.all += 1;
        self.metrics.open.inc();
        Ok(Place { places: Arc::clone(self), address })
    }
}

impl Taken {
    fn refuse(&mut self, full: Full) -> Full {
        self.refused += 1;
        if self.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            tracing::warn!(refused = self.refused, "connections are refused: {full}");
            self.logged = Some(Instant::now());
            self.refused = 0;
        }
        full
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        self.places.metrics.open.dec();
        if let Some(address) = &self.address
            && let Some(from_here) = taken.by_address.get_mut(address)
        {
            *from_here -= 1;
            if *from_here == 0 {
                taken.by_address.remove(address);
            }
        }
    }
}

/// What one client has: an address of version 4, or a /64 network of version 6, within which it chooses freely.
fn one_client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(most: usize, most_per_address: Option<usize>) -> Arc<Places> {
        Arc::new(Places {
            most,
            most_per_address: most_per_address.and_then(NonZeroUsize::new),
            taken: Mutex::default(),
            metrics: ConnectionMetrics::default(),
        })
    }

    fn take(places: &Arc<Places>, address: &str) -> Result<Place, Full> {
        places.take(address.parse().unwrap())
    }

    #[test]
    fn a_place_that_becomes_free_is_taken_by_the_next() {
        let places = places(2, None);
        let first = take(&places, "192.0.2.1").unwrap();
        let _second = take(&places, "192.0.2.1").unwrap();
        assert_eq!(take(&places, "192.0.2.2").unwrap_err(), Full::InAll(2));
        drop(first);
        let _third = take(&places, "192.0.2.2").unwrap();
    }

    #[test]
    fn an_address_that_has_its_share_leaves_places_to_others() {
        let places = places(9, Some(1));
        let first = take(&places, "192.0.2.1").unwrap();
        // The same, as a socket of version 6 tells it.
        assert_eq!(take(&places, "::ffff:192.0.2.1").unwrap_err(), Full::FromAddress(1));
        let _other = take(&places, "192.0.2.2").unwrap();
        let _network = take(&places, "2001:db8::1").unwrap();
        assert_eq!(take(&places, "2001:db8::ffff:1").unwrap_err(), Full::FromAddress(1));
        let _other_network = take(&places, "2001:db8:0:1::1").unwrap();
        drop(first);
        let _again = take(&places, "192.0.2.1").unwrap();
        assert_eq!(places.taken.lock().unwrap().by_address.len(), 4);
    }
}
