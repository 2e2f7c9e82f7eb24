//! Where a client comes from: its address, also behind proxies, and how many sockets each has.
//!
//! Pure but for the lock of the count. Must believe a header of trusted proxies only: anybody can write one.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::HeaderMap;

/// Not one of the standard's, but what proxies write; RFC 7239 calls it so and has hardly been taken up.
const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// Addresses that begin alike, such as `10.0.0.0/8`; a single one is a network of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

/// What is no [`Network`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a network is an address, perhaps with /bits, and nothing behind the bits")]
pub struct NetworkError;

impl Network {
    /// Whether `address` is one of them. An IPv4 address within IPv6 counts as what it stands for.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                prefix(u32::from(first).into(), self.bits, 32)
                    == prefix(u32::from(address).into(), self.bits, 32)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                prefix(first.into(), self.bits, 128) == prefix(address.into(), self.bits, 128)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let first: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let (number, all) = match first {
            IpAddr::V4(address) => (u32::from(address).into(), 32),
            IpAddr::V6(address) => (address.into(), 128),
        };
        let bits = bits.map_or(Ok(all), str::parse).map_err(|_| NetworkError)?;
        // 10.1.2.3/8 is a mistake of somebody who may have meant 10.1.2.0/24.
        let is_first =
            bits <= all && prefix(number, bits, all).checked_shl((all - bits).into()).unwrap_or(0) == number;
        if !is_first {
            return Err(NetworkError);
        }
        // Addresses are compared as what they stand for, so a network is kept so, too.
        match first.to_canonical() {
            IpAddr::V4(first) if all == 128 && bits >= 96 => {
                Ok(Self { first: IpAddr::V4(first), bits: bits - 96 })
            }
            _ => Ok(Self { first, bits }),
        }
    }
}

/// The first `bits` of a number of `all` bits.
fn prefix(number: u128, bits: u8, all: u8) -> u128 {
    number.checked_shr((all - bits).into()).unwrap_or(0)
}

/// Where the client is: `peer`, or if that is trusted, the last address of `X-Forwarded-For` that is not. What cannot be
/// read there ends the list: then the last proxy before it stands for its clients.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let mut client = peer.to_canonical();
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    let mut hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    while trusted.iter().any(|network| network.contains(client)) {
        let Some(before) = hops.next().and_then(hop) else { break };
        client = before;
    }
    client
}

/// An address, which some proxies write with its port.
fn hop(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

/// Whom sockets are counted for: an IPv4 address, or 64 bits of IPv6, of which a household has all (RFC 6177). The
/// numbers of IPv4 lie in 0000::/8, which nobody is given (RFC 4291 section 2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Household(NonZeroU64);

impl Household {
    pub(super) fn of(address: IpAddr) -> Self {
        let number = match address.to_canonical() {
            IpAddr::V4(address) => 1 << 32 | u64::from(u32::from(address)),
            IpAddr::V6(address) => (u128::from(address) >> 64) as u64,
        };
        // ::1 and its neighbours.
        Self(NonZeroU64::new(number).unwrap_or(NonZeroU64::MIN))
    }
}

/// How many sockets each household has. As many entries as there are households with a socket.
#[derive(Debug, Default)]
pub(super) struct Households(Mutex<HashMap<Household, u32>>);

impl Households {
    /// Counts one more, unless `limit` are there.
    pub(super) fn enter(&self, household: Household, limit: u32) -> bool {
        let mut counts = self.lock();
        let count = counts.entry(household).or_default();
        let fits = *count < limit;
        if fits {
            *count += 1;
        }
        fits
    }

    /// Counts one less of those that entered.
    pub(super) fn leave(&self, household: Household) {
        let mut counts = self.lock();
        if let Some(count) = counts.get_mut(&household) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&household);
            }
        }
        // A crowd that has gone leaves no room behind it; halving keeps this rare.
        if counts.capacity() > 1024 && counts.len() < counts.capacity() / 4 {
            let room = counts.capacity() / 2;
            counts.shrink_to(room);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Household, u32>> {
        // No code under this lock can panic half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_network_holds_what_begins_like_it() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.1.1.1", "::10.1.1.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("::ffff:10.0.0.0/104", "10.255.0.1", "11.0.0.1"),
            ("::ffff:192.0.2.7", "::ffff:192.0.2.7", "192.0.2.6"),
            ("::ffff:0:0/96", "203.0.113.1", "2001:db8::1"),
            ("::/1", "2001:db8::1", "8000::"),
            ("::1", "::1", "::2"),
            ("0.0.0.0/0", "203.0.113.1", "2001:db8::1"),
        ] {
            let network: Network = network.parse().expect("a network");
            assert!(network.contains(address(inside)), "{network:?} {inside}");
            assert!(!network.contains(address(outside)), "{network:?} {outside}");
        }
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "::/129",
            "10.0.0.0/",
            "proxy",
            "10.0.0.0/8/8",
            "10.0.0.0:80",
            "::ffff:10.0.0.1/104",
        ] {
            assert_eq!(bad.parse::<Network>(), Err(NetworkError), "{bad}");
        }
    }

    #[test]
    fn the_client_is_the_last_one_that_is_no_trusted_proxy() {
        let trusted = ["10.0.0.0/8", "2001:db8:1::/48"].map(|network| network.parse().expect("a network"));
        for (peer, lines, client_is) in [
            ("192.0.2.1", &["6.6.6.6"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["6.6.6.6, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["6.6.6.6", "203.0.113.9", "10.0.0.2"], "203.0.113.9"),
            ("::ffff:10.0.0.1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("2001:db8:1::1", &["[2001:db8:2::5]:443"], "2001:db8:2::5"),
            ("2001:db8:1::1", &["[2001:db8:2::5]"], "2001:db8:2::5"),
            ("10.0.0.1", &["6.6.6.6, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_FORWARDED_FOR, line.parse().expect("a value"));
            }
            assert_eq!(client(address(peer), &headers, &trusted), address(client_is), "{peer} {lines:?}");
        }
    }

    #[test]
    fn ipv4_addresses_and_halves_of_ipv6_addresses_are_counted_apart() {
        let same = |one, other| Household::of(address(one)) == Household::of(address(other));
        assert!(same("2001:db8::1", "2001:db8::ffff:0:0:1"));
        assert!(same("192.0.2.1", "::ffff:192.0.2.1"));
        assert!(!same("2001:db8:0:1::1", "2001:db8:0:2::1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(!same("0.0.0.1", "::1"));
    }

    #[test]
    fn who_has_left_leaves_nothing_behind() {
        let households = Households::default();
        let all: Vec<_> = (0..10_000_u32).map(|n| Household::of(IpAddr::from(n.to_be_bytes()))).collect();
        for household in &all {
            assert!(households.enter(*household, 1));
            assert!(!households.enter(*household, 1));
        }
        all.iter().for_each(|household| households.leave(*household));
        assert!(households.lock().is_empty());
        assert!(households.lock().capacity() <= 2048, "{}", households.lock().capacity());
        assert!(households.enter(all[0], 1), "there is room again");
    }
}
