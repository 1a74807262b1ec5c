//! Under which address other nodes find this one, where nobody configured it.

use std::net::{IpAddr, SocketAddr, UdpSocket};

/// An address of TEST-NET-3 (RFC 5737): stands for "anywhere else". Nothing is ever sent to it.
const ELSEWHERE: &str = "203.0.113.1:9";

/// The address of this machine that the routing table chooses towards the first of `others` that is another machine, or
/// towards anywhere else. `None` without a network.
///
/// Connecting a datagram socket only asks the routing table: no packet leaves.
fn own_address(others: &[String]) -> Option<IpAddr> {
    let towards = others.iter().map(String::as_str).chain([ELSEWHERE]);
    towards
        .filter_map(route)
        .find(|address| !address.is_loopback() && !address.is_unspecified())
}

fn route(to: &str) -> Option<IpAddr> {
    use std::net::ToSocketAddrs as _;
    let to = to.to_socket_addrs().ok()?.next()?;
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(to).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

/// `host:port` for others, given where this one listens; `others` are some of them.
pub fn advertised(listen: &str, others: &[String]) -> Option<String> {
    let listen: SocketAddr = listen
        .parse()
        .ok()
        .filter(|listen: &SocketAddr| listen.port() > 0)?;
    let address = if listen.ip().is_unspecified() {
        own_address(others)?
    } else {
        listen.ip()
    };
    Some(SocketAddr::new(address, listen.port()).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_listened_on_is_advertised_as_it_is() {
        assert_eq!(
            advertised("192.0.2.7:4000", &[]),
            Some("192.0.2.7:4000".to_owned())
        );
        assert_eq!(advertised("[::1]:4000", &[]), Some("[::1]:4000".to_owned()));
    }

    #[test]
    fn all_addresses_become_one_that_others_can_reach() {
        // A machine without any network has none, and that is said by `None`.
        if let Some(address) = advertised("0.0.0.0:4000", &["127.0.0.1:8002".to_owned()]) {
            let address: SocketAddr = address.parse().unwrap();
            assert!(address.port() == 4000 && !address.ip().is_loopback() && !address.ip().is_unspecified());
        }
    }

    #[test]
    fn what_is_no_address_is_not_advertised() {
        assert_eq!(advertised("localhost", &[]), None);
        assert_eq!(route("no.such.host.invalid:1"), None);
    }
}
