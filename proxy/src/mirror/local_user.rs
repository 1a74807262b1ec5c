//! Which user of this machine is at the other end of a connection over loopback, by the kernel's tables of sockets.
//!
//! What must hold: in doubt it is nobody. The tables say user 0 of sockets that their process has closed, so those that
//! belong to no file any more are nobody's.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The tables of this network namespace: a socket for both families can carry a connection over IPv4.
const TABLES: [&str; 2] = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
/// Most sockets of a table that are looked at.
const SOCKETS_MAX: usize = 1 << 20;

/// Both ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) client: SocketAddr,
    pub(super) here: SocketAddr,
}

/// The user whose socket the client's end is; `None` if it is on another machine, or cannot be found.
pub(super) fn of(socket: Socket) -> Option<u32> {
    let client = canonical(socket.client);
    if !client.ip().is_loopback() {
        return None;
    }
    // The other end of ours: there, the client's address is the local one.
    let wanted = (client, canonical(socket.here));
    TABLES.iter().find_map(|table| {
        let lines = BufReader::new(File::open(table).ok()?).lines();
        let lines = lines.skip(1).take(SOCKETS_MAX).map_while(Result::ok);
        lines
            .filter_map(|line| read(&line))
            .find_map(|(ends, user)| (ends == wanted).then_some(user))
    })
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// One line of a table: the socket's own end, the other one, and its user.
fn read(line: &str) -> Option<((SocketAddr, SocketAddr), u32)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let ends = (address(fields.next()?)?, address(fields.next()?)?);
    // State, queues, timer, retransmissions; then the user, a timeout, and the file.
    let user = fields.nth(4)?.parse().ok()?;
    let file: u64 = fields.nth(1)?.parse().ok()?;
    (file != 0).then_some((ends, user))
}

/// `0100007F:0FA1`: words in the order of this machine's bytes, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok();
    let ip = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?.to_ne_bytes())),
        32 => {
            let mut bytes = [0; 16];
            for (at, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?.to_ne_bytes());
            }
            IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn a_line_tells_both_ends_and_the_user() {
        let line = "   3: 0100007F:9C40 0100007F:0FA1 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0";
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let ends = (at("127.0.0.1:40000"), at("127.0.0.1:4001"));
        assert_eq!(read(line), Some((ends, 1000)));
        // Mapped, as a socket for both families has it.
        let six = line
            .replace("0100007F:9C40", "0000000000000000FFFF00000100007F:9C40")
            .replace("0100007F:0FA1", "0000000000000000FFFF00000100007F:0FA1");
        assert_eq!(read(&six), Some((ends, 1000)));
        // Closed by its process, or in TIME_WAIT: of no file, and said to be root's.
        let orphan = line.replace("1000        0 4711", "0        0 0");
        assert_eq!(read(&orphan), None);
        for bad in [
            "",
            "3: x y",
            &line.replace("1000", "-1"),
            "3: 0100007F 0100007F:1 01",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_kernel_tells_whose_a_connection_is() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(listen).unwrap();
            let here = listener.local_addr().unwrap();
            let stream = TcpStream::connect(here).unwrap();
            let client = stream.local_addr().unwrap();
            let own = rustix::process::geteuid().as_raw();
            assert_eq!(of(Socket { client, here }), Some(own), "{listen}");
            let other = SocketAddr::new(client.ip(), client.port() ^ 1);
            assert_eq!(of(Socket { client: other, here }), None, "{listen}");
        }
        let elsewhere = "192.0.2.1:40000".parse().unwrap();
        let here = "192.0.2.2:4001".parse().unwrap();
        assert_eq!(
            of(Socket {
                client: elsewhere,
                here
            }),
            None
        );
    }
}
