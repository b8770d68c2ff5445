//! How many requests a caller may send.
//!
//! Each caller has a bucket of requests that fills up steadily (GCRA, the generic cell rate algorithm): after a while
//! of silence all of a window's requests may come at once, or fewer of them where the rate says so, and then as many as
//! are filled in. Unlike counters that start anew each minute, it lets nobody send two windows' requests around a turn
//! of the minute.
//!
//! Two policies, each off until it is configured: by key, for who a caller is, and by address, for where they come
//! from. Each server counts for itself: of two, either allows as much.

mod client;
mod fields;
mod limiter;
mod quota;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use axum::http::HeaderMap;
use governor::clock::DefaultClock;

pub use client::{MalformedProxy, TrustedProxies};
pub(super) use client::{client_address, forwarded_https};
use fields::Policies;
use limiter::{Limiter, hashed};
pub use quota::{Limit, MalformedRate, Rate};

/// Names of the policies, as clients read them.
const KEY: &str = "key";
const ADDRESS: &str = "address";

/// How many requests are allowed, and who says where they come from.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct RateSettings {
    /// How many requests a key, a token or somebody signed in may send, as in 100/s, 600/min or 10000/h; with
    /// `,burst=N` behind it, N of them at once at most [default: no limit]
    #[arg(
        long,
        env = "NEWCYCLE_RATE_LIMIT_PER_KEY",
        value_name = "RATE",
        default_value = "",
        hide_default_value = true
    )]
    pub rate_limit_per_key: Limit,
    /// How many requests an address (of IPv6, a /64 network) may send, whoever they are from [default: no limit]
    #[arg(
        long,
        env = "NEWCYCLE_RATE_LIMIT_PER_ADDRESS",
        value_name = "RATE",
        default_value = "",
        hide_default_value = true
    )]
    pub rate_limit_per_address: Limit,
    /// Proxies in front of this server, as addresses and networks with commas between them: what they say in
    /// X-Forwarded-For and X-Forwarded-Proto is believed [default: none]
    #[arg(
        long,
        env = "NEWCYCLE_TRUSTED_PROXIES",
        value_name = "NETWORKS",
        default_value = "",
        hide_default_value = true
    )]
    pub trusted_proxies: TrustedProxies,
}

/// What a policy says about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Whether the request may go on.
    pub(super) is_allowed: bool,
    /// How many more may come right now.
    remaining: u32,
    /// Within how many seconds one more than that may come. After a refusal, this is when to come again.
    more_within: u64,
}

/// The policies, and who has sent how much. Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct RateLimits(Arc<Limiters>);

#[derive(Debug)]
struct Limiters {
    key: Option<Limiter<u64, DefaultClock>>,
    address: Option<Limiter<IpAddr, DefaultClock>>,
    policies: Policies,
}

impl RateLimits {
    /// Nobody has sent anything yet.
    pub fn new(settings: &RateSettings) -> Self {
        let (key, address) = (settings.rate_limit_per_key.0, settings.rate_limit_per_address.0);
        Self(Arc::new(Limiters {
            key: key.map(|rate| Limiter::new(rate, DefaultClock::default())),
            address: address.map(|rate| Limiter::new(rate, DefaultClock::default())),
            policies: Policies::new(key, address),
        }))
    }

    /// Counts a request of this caller, if that is configured. The identity has to be one that was verified, or others
    /// could use up what is somebody else's.
    pub(super) fn check_key(&self, identity: &str) -> Option<Verdict> {
        self.0.key.as_ref().map(|limiter| limiter.check(&hashed(identity)))
    }

    /// Counts a request from this address, if that is configured.
    pub(super) fn check_address(&self, address: IpAddr) -> Option<Verdict> {
        self.0.address.as_ref().map(|limiter| limiter.check(&who_has(address)))
    }

    /// Tells the client what the policies said that were asked, in the response's header.
    pub(super) fn tell(&self, key: Option<Verdict>, address: Option<Verdict>, headers: &mut HeaderMap) {
        self.0.policies.tell(key, address, headers);
    }
}

/// What stands for everyone at an address. Whoever has one IPv6 address has the 2⁶⁴ of its network.
fn who_has(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn settings(key: &str, address: &str) -> RateSettings {
        let limit = |text: &str| text.parse().expect("a limit");
        RateSettings {
            rate_limit_per_key: limit(key),
            rate_limit_per_address: limit(address),
            ..RateSettings::default()
        }
    }

    fn is_allowed(limits: &RateLimits, address: &str) -> bool {
        limits.check_address(address.parse().expect("an address")).expect("a policy").is_allowed
    }

    #[test]
    fn nothing_is_limited_until_it_is_configured() {
        let limits = RateLimits::new(&settings("", ""));
        assert_eq!(limits.check_key("alice"), None);
        assert_eq!(limits.check_address(IpAddr::from([127, 0, 0, 1])), None);
        let mut headers = HeaderMap::new();
        limits.tell(None, None, &mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn callers_do_not_share_what_they_may_send() {
        let limits = RateLimits::new(&settings("1/h", ""));
        let is_allowed = |identity| limits.check_key(identity).expect("a policy").is_allowed;
        assert!(is_allowed("alice"));
        assert!(!is_allowed("alice"));
        assert!(is_allowed("bob"));
        assert_eq!(limits.check_address(IpAddr::from([127, 0, 0, 1])), None);
    }

    #[test]
    fn an_ipv6_network_is_one_caller() {
        let limits = RateLimits::new(&settings("", "1/h"));
        assert!(is_allowed(&limits, "2001:db8:0:1::1"));
        assert!(!is_allowed(&limits, "2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert!(is_allowed(&limits, "2001:db8:0:2::1"));
    }

    #[test]
    fn an_address_is_the_same_in_either_notation() {
        let limits = RateLimits::new(&settings("", "1/h"));
        assert!(is_allowed(&limits, "192.0.2.1"));
        assert!(!is_allowed(&limits, "::ffff:192.0.2.1"));
        assert!(is_allowed(&limits, "::ffff:192.0.2.2"));
    }

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        rate: RateSettings,
    }

    #[test]
    fn what_is_empty_is_not_set() {
        let line = ["newcycle", "--rate-limit-per-key=", "--rate-limit-per-address=", "--trusted-proxies="];
        for line in [&line[..], &line[..1]] {
            let settings = CommandLine::try_parse_from(line).expect("a command line").rate;
            assert_eq!(settings.rate_limit_per_key, Limit(None));
            assert_eq!(settings.rate_limit_per_address, Limit(None));
            assert_eq!(settings.trusted_proxies, TrustedProxies::default());
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        for line in [["newcycle", "--rate-limit-per-key=5/day"], ["newcycle", "--trusted-proxies=10.0.0.0/8,example"]] {
            let error = CommandLine::try_parse_from(line).err().expect("an error").to_string();
            assert!(error.contains("5/day") || error.contains("example"), "{error}");
        }
    }
}
