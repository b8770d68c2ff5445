//! Where a request comes from, when there are proxies between.
//!
//! **Invariant:** nothing is believed but what a trusted proxy says, and of that only about the one it heard it from.
//! What stands farther left in `X-Forwarded-For` anybody can have sent.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Proxies whose word is believed. They have to add the address they heard from to `X-Forwarded-For`, or to replace it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

/// What is neither an address nor a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an address nor a network, as 10.0.0.7 and 10.0.0.0/8 are")]
pub struct MalformedProxy(pub String);

impl TrustedProxies {
    fn contain(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

impl FromStr for TrustedProxies {
    type Err = MalformedProxy;

    fn from_str(text: &str) -> Result<Self, MalformedProxy> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let network = |name: &str| {
            let address = || name.parse().ok().map(|address: IpAddr| IpNet::from(address.to_canonical()));
            name.parse().ok().or_else(address).ok_or_else(|| MalformedProxy(name.to_owned()))
        };
        names.map(network).collect::<Result<_, _>>().map(Self)
    }
}

/// Who sent the request: the peer or, if that is a proxy that is trusted, the first address from the right in
/// `X-Forwarded-For` that is none. What cannot be read ends the search, and the last proxy before it counts as the
/// sender.
pub(in crate::http) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &TrustedProxies) -> IpAddr {
    let mut sender = peer.to_canonical();
    // Several lines are one list (RFC 9110, 5.3).
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let mut hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    while trusted.contain(sender) {
        let Some(hop) = hops.next().and_then(address) else { break };
        sender = hop;
    }
    sender
}

/// Whether the client spoke TLS to the proxy that we heard it from, if that is trusted.
pub(in crate::http) fn forwarded_https(peer: IpAddr, headers: &HeaderMap, trusted: &TrustedProxies) -> bool {
    let last = headers.get_all(FORWARDED_PROTO).iter().next_back();
    let scheme = last.and_then(|line| line.as_bytes().rsplit(|byte| *byte == b',').next());
    trusted.contain(peer.to_canonical()) && scheme.is_some_and(|name| name.trim_ascii().eq_ignore_ascii_case(b"https"))
}

/// An address as proxies write it: some add the port, and then brackets around IPv6.
fn address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop.trim_ascii()).ok()?;
    let bare = || text.parse().ok();
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().map(IpAddr::V6).ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare().or_else(bracketed).or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn proxies() -> TrustedProxies {
        "10.0.0.0/8, 2001:db8::/32,192.0.2.7".parse().expect("networks")
    }

    fn headers(name: &HeaderName, lines: &[&str]) -> HeaderMap {
        let value = |line: &&str| HeaderValue::from_bytes(line.as_bytes()).expect("a value");
        lines.iter().map(|line| (name.clone(), value(line))).collect()
    }

    fn sender(lines: &[&str]) -> String {
        let address = client_address(PEER, &headers(&FORWARDED_FOR, lines), &proxies());
        address.to_string()
    }

    #[test]
    fn without_a_proxy_the_peer_is_the_client() {
        for peer in ["192.0.2.8", "2001:db9::1", "127.0.0.1", "::ffff:192.0.2.8"] {
            let peer: IpAddr = peer.parse().expect("an address");
            let headers = headers(&FORWARDED_FOR, &["203.0.113.9"]);
            assert_eq!(client_address(peer, &headers, &proxies()), peer.to_canonical());
            assert_eq!(client_address(peer, &headers, &TrustedProxies::default()), peer.to_canonical());
        }
    }

    #[test]
    fn a_proxy_says_whom_it_heard_from() {
        assert_eq!(sender(&["203.0.113.9"]), "203.0.113.9");
        assert_eq!(sender(&["198.51.100.1, 203.0.113.9"]), "203.0.113.9", "what the client sent itself");
        assert_eq!(sender(&["198.51.100.1", "203.0.113.9"]), "203.0.113.9", "on a line of its own");
        assert_eq!(sender(&["198.51.100.1, 203.0.113.9,10.2.3.4", "192.0.2.7 ,\t2001:db8::5"]), "203.0.113.9");
        assert_eq!(sender(&["203.0.113.9:4711"]), "203.0.113.9");
        assert_eq!(sender(&["[2001:db9::1]:4711"]), "2001:db9::1");
        assert_eq!(sender(&["[2001:db9::1]"]), "2001:db9::1");
        assert_eq!(sender(&["::ffff:203.0.113.9"]), "203.0.113.9");
    }

    #[test]
    fn what_cannot_be_read_comes_from_the_last_proxy_before_it() {
        assert_eq!(sender(&[]), "10.0.0.1");
        for garbage in
            ["", " ", ",", "unknown", "_hidden", "203.0.113.9,", "203.0.113.999", "[203.0.113.9]", "\u{e9}", "1"]
        {
            assert_eq!(sender(&[garbage]), "10.0.0.1", "{garbage:?}");
            assert_eq!(sender(&["203.0.113.9", garbage, "10.2.3.4"]), "10.2.3.4", "{garbage:?}");
        }
        assert_eq!(sender(&["10.1.1.1, 10.2.3.4"]), "10.1.1.1", "only proxies");
    }

    #[test]
    fn a_peer_is_the_same_in_either_notation() {
        let headers = headers(&FORWARDED_FOR, &["203.0.113.9"]);
        let peer = "::ffff:10.0.0.1".parse().expect("an address");
        assert_eq!(client_address(peer, &headers, &proxies()).to_string(), "203.0.113.9");
        let trusted = "::ffff:10.0.0.1".parse().expect("networks");
        assert_eq!(client_address(PEER, &headers, &trusted).to_string(), "203.0.113.9");
    }

    #[test]
    fn only_a_trusted_proxy_can_say_that_it_was_https() {
        let is_https = |peer: &str, lines: &[&str]| {
            forwarded_https(peer.parse().expect("an address"), &headers(&FORWARDED_PROTO, lines), &proxies())
        };
        assert!(is_https("10.0.0.1", &["https"]));
        assert!(is_https("::ffff:10.0.0.1", &[" HTTPS "]));
        assert!(is_https("10.0.0.1", &["http", "http, https"]));
        assert!(!is_https("10.0.0.1", &["https, http"]), "the first is what the client sent itself");
        assert!(!is_https("10.0.0.1", &["https", "http"]));
        assert!(!is_https("10.0.0.1", &[]));
        assert!(!is_https("10.0.0.1", &["https2"]));
        assert!(!is_https("203.0.113.9", &["https"]));
    }

    #[test]
    fn networks_and_addresses_are_read() {
        assert_eq!("".parse(), Ok(TrustedProxies::default()));
        assert_eq!(" , ".parse(), Ok(TrustedProxies::default()));
        for text in ["10.0.0.0/33", "10.0.0", "localhost", "10.0.0.1 10.0.0.2", "*"] {
            assert_eq!(text.parse::<TrustedProxies>(), Err(MalformedProxy(text.to_owned())));
        }
    }

    fn any_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![any::<IpAddr>(), any::<[u8; 3]>().prop_map(|[a, b, c]| IpAddr::from([10, a, b, c]))]
    }

    proptest! {
        #[test]
        fn whoever_is_not_trusted_is_who_they_are(peer: IpAddr, lines in proptest::collection::vec("[ -~]*", 0..4)) {
            prop_assume!(!proxies().contain(peer.to_canonical()));
            let lines: Vec<_> = lines.iter().map(String::as_str).collect();
            prop_assert_eq!(client_address(peer, &headers(&FORWARDED_FOR, &lines), &proxies()), peer.to_canonical());
            prop_assert!(!forwarded_https(peer, &headers(&FORWARDED_PROTO, &["https"]), &proxies()));
        }

        #[test]
        fn nobody_can_pass_for_somebody_else(
            claimed in "[ -~]*", client: IpAddr, proxies_passed in proptest::collection::vec(any::<[u8; 3]>(), 0..4),
        ) {
            prop_assume!(!proxies().contain(client.to_canonical()));
            // Each proxy adds whom it heard from to what it got; the last is the peer.
            let mut list = vec![claimed, client.to_string()];
            list.extend(proxies_passed.iter().map(|[a, b, c]| format!("10.{a}.{b}.{c}")));
            let headers = headers(&FORWARDED_FOR, &[&list.join(", ")]);
            prop_assert_eq!(client_address(PEER, &headers, &proxies()), client.to_canonical());
        }

        #[test]
        fn an_address_of_the_list_is_only_taken_from_proxies(list in proptest::collection::vec(any_address(), 0..6)) {
            let text: Vec<_> = list.iter().map(ToString::to_string).collect();
            let sender = client_address(PEER, &headers(&FORWARDED_FOR, &[&text.join(",")]), &proxies());
            let from_the_right = list.iter().rev().map(IpAddr::to_canonical);
            let believed = from_the_right.take_while(|hop| proxies().contain(*hop)).count();
            let expected = list.iter().rev().nth(believed).or(list.first()).copied().unwrap_or(PEER);
            prop_assert_eq!(sender, if text == [""] { PEER } else { expected.to_canonical() });
        }
    }
}
