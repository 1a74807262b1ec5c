//! Which addresses may be connected to on behalf of a registry: the guard against requests that a stranger forges
//! through us into networks that he cannot reach himself.
//!
//! Pure. It judges the *resolved* address, and the caller connects to that very address, so that a name which changes
//! between check and use gains nothing. What must hold: link-local and metadata addresses are reached only where an
//! operator wrote down the registry; a registry sends us no deeper into the network than it stands itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How near to this machine an address is; nearer ones are worth more to an attacker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Nearness {
    /// Anywhere on the internet.
    Public,
    /// In the operator's network: RFC 1918, RFC 6598, RFC 4193.
    Private,
    /// This machine.
    Loopback,
    /// Link-local, metadata services, multicast, reserved: what no registry has.
    Forbidden,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A registry that the operator wrote down.
    Configured,
    /// A registry that an image's name gave.
    Named,
    /// Where a registry sent us (redirect, token realm), which itself is that near.
    SentBy(Nearness),
}

impl Purpose {
    /// Whether an address may be connected to.
    pub(crate) fn allows(self, address: IpAddr) -> bool {
        let nearness = Nearness::of(address);
        match self {
            Self::Configured => true,
            Self::Named => nearness == Nearness::Public,
            Self::SentBy(registry) => nearness <= registry.min(Nearness::Loopback),
        }
    }
}

impl Nearness {
    /// How near an address is.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }
}

fn of_v4(address: Ipv4Addr) -> Nearness {
    match address.octets() {
        // The metadata services of Alibaba Cloud and Oracle Cloud, outside of link-local.
        [100, 100, 100, 200] | [192, 0, 0, 192] => Nearness::Forbidden,
        // "This host" is answered by the loopback interface on many systems.
        [0 | 127, ..] => Nearness::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] | [198, 18 | 19, ..] => {
            Nearness::Private
        }
        [169, 254, ..] | [192, 0, 0, _] | [224..=255, ..] => Nearness::Forbidden,
        _ => Nearness::Public,
    }
}

/// The IPv4 address that an IPv6 one stands for: mapped, compatible, NAT64 (RFC 6052), 6to4 (RFC 3056).
pub(crate) fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    if address == Ipv6Addr::LOCALHOST || address == Ipv6Addr::UNSPECIFIED {
        return None;
    }
    let (high, low) = match address.segments() {
        [0, 0, 0, 0, 0, 0xffff | 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => (high, low),
        _ => return None,
    };
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Some(Ipv4Addr::new(a, b, c, d))
}

fn of_v6(address: Ipv6Addr) -> Nearness {
    if address == Ipv6Addr::LOCALHOST || address == Ipv6Addr::UNSPECIFIED {
        return Nearness::Loopback;
    }
    if let Some(inner) = embedded(address.into()) {
        return of_v4(inner);
    }
    match address.segments() {
        // NAT64 of an operator's own (RFC 8215): what is behind it is not known.
        [0x64, 0xff9b, 1, ..] => Nearness::Forbidden,
        // Teredo tunnels, with an address in disguise.
        [0x2001, 0, ..] => Nearness::Forbidden,
        // Amazon's metadata service.
        [0xfd00, 0x0ec2, ..] => Nearness::Forbidden,
        [first, ..] if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 => Nearness::Private,
        [first, ..] if first & 0xe000 == 0x2000 => Nearness::Public,
        _ => Nearness::Forbidden,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(nearness: Nearness, addresses: &[&str]) {
        for text in addresses {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(Nearness::of(address), nearness, "{text}");
        }
    }

    #[test]
    fn the_table() {
        check(
            Nearness::Public,
            &[
                "1.1.1.1",
                "172.32.0.1",
                "100.128.0.1",
                "2606:4700::1",
                "::ffff:8.8.8.8",
            ],
        );
        check(
            Nearness::Private,
            &[
                "10.0.0.1",
                "172.16.0.1",
                "172.31.255.255",
                "192.168.1.1",
                "100.64.0.1",
                "fd12::1",
                "fec0::1",
            ],
        );
        check(
            Nearness::Private,
            &["::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::"],
        );
        check(
            Nearness::Loopback,
            &[
                "127.0.0.1",
                "127.255.0.1",
                "0.0.0.0",
                "::1",
                "::",
                "::ffff:127.0.0.1",
                "::7f00:1",
            ],
        );
        check(
            Nearness::Forbidden,
            &[
                "169.254.169.254",
                "169.254.0.1",
                "fe80::1",
                "febf::1",
                "::ffff:169.254.169.254",
                "64:ff9b::a9fe:a9fe",
                "2002:a9fe:a9fe::1",
                "::a9fe:a9fe",
                "100.100.100.200",
                "fd00:ec2::254",
                "224.0.0.1",
                "255.255.255.255",
                "ff02::1",
                "2001::1",
                "4000::1",
            ],
        );
    }

    #[test]
    fn nobody_is_sent_deeper_than_the_registry_stands() {
        let may = |purpose: Purpose, text: &str| purpose.allows(text.parse().unwrap());
        let (public, private, loopback, metadata) = ("1.1.1.1", "10.0.0.1", "127.0.0.1", "169.254.169.254");
        assert!(
            [public, private, loopback, metadata]
                .iter()
                .all(|text| may(Purpose::Configured, text))
        );
        assert!(may(Purpose::Named, public));
        assert!(
            ![private, loopback, metadata]
                .iter()
                .any(|text| may(Purpose::Named, text))
        );
        for (from, reached) in [
            (Nearness::Public, [true, false, false, false]),
            (Nearness::Private, [true, true, false, false]),
            (Nearness::Loopback, [true, true, true, false]),
            (Nearness::Forbidden, [true, true, true, false]),
        ] {
            let got = [public, private, loopback, metadata].map(|text| may(Purpose::SentBy(from), text));
            assert_eq!(got, reached, "{from:?}");
        }
    }

    proptest! {
        #[test]
        fn a_mapped_address_is_as_near_as_the_address(bits: u32) {
            let address = Ipv4Addr::from(bits);
            prop_assert_eq!(Nearness::of(address.to_ipv6_mapped().into()), Nearness::of(address.into()));
        }
    }
}
