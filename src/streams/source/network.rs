//! Which addresses may be fetched from: public ones, and those that the operators allow.
//!
//! Whoever may create streams says what URL the worker asks. Without this they could have it ask what only it can reach: the
//! router, the database, the address at which cloud machines get their credentials (169.254.169.254). What counts is the
//! address that is connected to: a name is looked up here, once, and what it was looked up to is what is connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::LazyLock;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Of IPv4 everything is public but this (IANA, IPv4 Special-Purpose Address Registry; multicast and what is reserved).
const SPECIAL_V4: [&str; 15] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];
/// Of IPv6 nothing is public but this (IANA, IPv6 Global Unicast Address Assignments) ...
const UNICAST_V6: &str = "2000::/3";
/// ... without these (IANA, IPv6 Special-Purpose Address Registry).
const SPECIAL_V6: [&str; 4] = ["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"];
/// Addresses of IPv4 in IPv6 (RFC 6052).
const TRANSLATED: &str = "64:ff9b::/96";

static NETWORKS: LazyLock<Option<Special>> = LazyLock::new(Special::read);

struct Special {
    v4: Vec<Ipv4Net>,
    unicast_v6: Ipv6Net,
    v6: Vec<Ipv6Net>,
    translated: Ipv6Net,
}

impl Special {
    fn read() -> Option<Self> {
        fn all<N: FromStr>(networks: &[&str]) -> Option<Vec<N>> {
            networks.iter().map(|network| network.parse().ok()).collect()
        }
        Some(Self {
            v4: all(&SPECIAL_V4)?,
            unicast_v6: UNICAST_V6.parse().ok()?,
            v6: all(&SPECIAL_V6)?,
            translated: TRANSLATED.parse().ok()?,
        })
    }

    fn is_public_v4(&self, address: Ipv4Addr) -> bool {
        !self.v4.iter().any(|network| network.contains(&address))
    }

    fn is_public_v6(&self, address: Ipv6Addr) -> bool {
        if let Some(address) = address.to_ipv4_mapped() {
            return self.is_public_v4(address);
        }
        if self.translated.contains(&address) {
            let [.., a, b, c, d] = address.octets();
            return self.is_public_v4(Ipv4Addr::new(a, b, c, d));
        }
        self.unicast_v6.contains(&address) && !self.v6.iter().any(|network| network.contains(&address))
    }
}

fn is_public(address: IpAddr) -> bool {
    NETWORKS.as_ref().is_some_and(|networks| match address {
        IpAddr::V4(address) => networks.is_public_v4(address),
        IpAddr::V6(address) => networks.is_public_v6(address),
    })
}

/// Networks that are fetched from though they are not public.
#[derive(Clone, Debug, Default)]
pub struct AllowedNetworks(Vec<IpNet>);

/// An address that is not fetched from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{host} is {address}, which is not public: the server fetches from such addresses only if its setting NEWCYCLE_STREAM_NETWORKS allows it"
)]
pub(super) struct RefusedAddress {
    host: String,
    address: IpAddr,
}

impl FromStr for AllowedNetworks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let networks = text.split(',').map(str::trim).filter(|network| !network.is_empty());
        let read = |network: &str| {
            let alone = network.parse::<IpAddr>().map(IpNet::from);
            network.parse().or(alone).map_err(|_| format!("{network:?} is no network, as 10.0.0.0/8, and no address"))
        };
        Ok(Self(networks.map(read).collect::<Result<_, _>>()?))
    }
}

impl AllowedNetworks {
    fn allow(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address) || self.0.iter().any(|network| network.contains(&address))
    }

    /// Checks the host of a URL as far as that can be done without looking it up.
    pub(super) fn check(&self, url: &Url) -> Result<(), RefusedAddress> {
        let host = url.host_str().unwrap_or_default();
        match host.trim_matches(['[', ']']).parse() {
            Ok(address) if !self.allow(address) => Err(RefusedAddress { host: host.to_owned(), address }),
            _ => Ok(()),
        }
    }
}

/// Looks names up, and leaves out addresses that are not fetched from.
impl Resolve for AllowedNetworks {
    fn resolve(&self, name: Name) -> Resolving {
        let allowed = self.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let (mut good, mut refused) = (Vec::new(), None);
            for address in tokio::net::lookup_host((host.as_str(), 0)).await? {
                if allowed.allow(address.ip()) {
                    good.push(address);
                } else {
                    refused = Some(address.ip());
                }
            }
            match refused {
                Some(address) if good.is_empty() => Err(RefusedAddress { host, address }.into()),
                _ => Ok(Box::new(good.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_are_fetched_from_and_others_are_not() {
        let nothing = AllowedNetworks::default();
        for address in [
            "1.1.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
        ] {
            assert!(nothing.allow(address.parse().expect("an address")), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "198.18.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:a9fe:a9fe",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "::127.0.0.1",
            "100::1",
        ] {
            assert!(!nothing.allow(address.parse().expect("an address")), "{address}");
        }
    }

    #[test]
    fn operators_allow_others() {
        let allowed: AllowedNetworks = "127.0.0.0/8, ::1, 10.1.0.0/16".parse().expect("networks");
        for (address, is_allowed) in
            [("127.0.0.1", true), ("::ffff:127.0.0.1", true), ("::1", true), ("10.1.255.1", true), ("10.2.0.1", false)]
        {
            assert_eq!(allowed.allow(address.parse().expect("an address")), is_allowed, "{address}");
        }
        assert!("intranet".parse::<AllowedNetworks>().is_err());
        assert!("".parse::<AllowedNetworks>().is_ok());
    }

    #[test]
    fn however_an_address_is_written_it_is_the_same() {
        let nothing = AllowedNetworks::default();
        for url in [
            "http://127.1/",
            "http://0x7f000001/",
            "http://2130706433/",
            "http://0177.0.0.1/",
            "http://[::ffff:7f00:1]/",
            "http://127.0.0.1./",
        ] {
            assert!(nothing.check(&url.parse().expect("a URL")).is_err(), "{url}");
        }
        assert!(nothing.check(&"https://example.com/".parse().expect("a URL")).is_ok(), "looked up later");
    }
}
