//! What is kept of requests, where, and for how long.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// What becomes of requests when what is kept of them cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// They are served; what is lost is counted, and stands on record as a gap.
    Drop,
    /// They are refused with a 503, so that nothing happens that is not on record.
    Refuse,
}

/// How much of a caller's address is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// All of it.
    Full,
    /// Its network: the first 24 bits of an IPv4 address, 48 of an IPv6 address.
    Network,
    /// Nothing.
    None,
}

impl Addresses {
    /// What is kept of an address.
    pub fn kept(self, address: Option<IpAddr>) -> Option<IpAddr> {
        match (self, address?) {
            (Addresses::Full, address) => Some(address),
            (Addresses::Network, IpAddr::V4(address)) => {
                Some(Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << 8)).into())
            }
            (Addresses::Network, IpAddr::V6(address)) => {
                Some(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 80)).into())
            }
            (Addresses::None, _) => None,
        }
    }
}

/// Settings of the request audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether requests are kept at all.
    pub is_on: bool,
    /// Folder of the day files.
    pub folder: PathBuf,
    /// Days for which they are kept, today not counted.
    pub days: u32,
    /// Most bytes of all of them.
    pub bytes: u64,
    /// What happens when they cannot be written.
    pub when_full: WhenFull,
    /// How much of an address is kept, in the files and in the access log.
    pub addresses: Addresses,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_an_address_is_all_its_network_or_nothing() {
        let [v4, v6]: [IpAddr; 2] = ["203.0.113.7".parse().unwrap(), "2001:db8:1:2::7".parse().unwrap()];
        assert_eq!(Addresses::Full.kept(Some(v4)), Some(v4));
        assert_eq!(Addresses::Network.kept(Some(v4)), "203.0.113.0".parse().ok());
        assert_eq!(Addresses::Network.kept(Some(v6)), "2001:db8:1::".parse().ok());
        assert_eq!(Addresses::None.kept(Some(v6)), None);
    }
}
