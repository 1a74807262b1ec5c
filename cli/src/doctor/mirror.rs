//! The proxy of this node: does its mirror answer, is it ready.

use std::time::Duration;

use darter_service::net::Address;
use darter_service::watchdog::Probe;

use super::finding::Finding;

/// What `/v2/` of a proxy has, and of no other registry.
const INSTANCE: &str = "darter-instance";
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks the mirror as a client would. Blocks.
pub(super) fn answers(listen: &Address) -> Finding {
    let check = "mirror";
    let Some(probe) = Probe::new(listen, "/v2/") else {
        return nameless(check, "mirror.listen", listen);
    };
    match probe.ask(PATIENCE) {
        Ok(answer) if answer.header(INSTANCE).is_some() => Finding::ok(check, format!("answers at {listen}")),
        Ok(answer) if answer.status == 503 => Finding::warn(
            check,
            format!("{listen} is busy: it answered 503"),
            "see requests in /metrics; mirror.connectionsMax and mirror.requestsMax bound them",
        ),
        Ok(answer) => Finding::fail(
            check,
            format!(
                "something else answers at {listen}, with status {}",
                answer.status
            ),
            "`ss -lxtnp` shows what; stop it, or set mirror.listen and run setup again",
        ),
        Err(error) => Finding::fail(
            check,
            format!("nothing answers at {listen}: {error}"),
            "start the proxy (systemctl start darter-proxy); its log says why it does not start",
        ),
    }
}

/// Asks the admin port whether the proxy is ready. Blocks.
pub(super) fn ready(admin: &Address) -> Finding {
    let check = "ready";
    let Some(probe) = Probe::new(admin, "/readyz") else {
        return nameless(check, "admin.listen", admin);
    };
    match probe.ask(PATIENCE) {
        Ok(answer) if answer.status == 200 => Finding::ok(check, "the proxy is ready"),
        Ok(answer) => Finding::fail(
            check,
            format!("/readyz answers {}", answer.status),
            format!("curl http://{admin}/readyz says what it waits for"),
        ),
        Err(error) => Finding::fail(
            check,
            format!("the admin port {admin} does not answer: {error}"),
            "start the proxy, or give this command its configuration with --config",
        ),
    }
}

fn nameless(check: &'static str, key: &str, listen: &Address) -> Finding {
    let seen = format!("{key} is {listen}, a name: it was not asked");
    Finding::warn(check, seen, "write an IP address")
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::super::finding::State;
    use super::*;

    fn answering(answer: &'static str) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        Address::Tcp(address.to_string())
    }

    #[test]
    fn a_proxy_is_told_from_nobody_and_from_somebody_else() {
        let ours = answering("HTTP/1.1 200 OK\r\nDarter-Instance: 7\r\n\r\n");
        assert_eq!(answers(&ours).state, State::Ok);
        let busy = answering("HTTP/1.1 503 Busy\r\n\r\n");
        assert_eq!(answers(&busy).state, State::Warn);
        let squatter = answers(&answering("HTTP/1.1 200 OK\r\n\r\n<html>"));
        assert_eq!(squatter.state, State::Fail);
        assert!(squatter.seen.contains("something else"), "{squatter:?}");
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let nobody = Address::Tcp(nobody.to_string());
        assert!(answers(&nobody).seen.contains("nothing answers"));
    }

    #[test]
    fn readiness_is_the_admin_ports() {
        let named = Address::Tcp("localhost:1".into());
        assert_eq!(
            (ready(&named).state, answers(&named).state),
            (State::Warn, State::Warn)
        );
        assert_eq!(ready(&answering("HTTP/1.1 200 OK\r\n\r\n")).state, State::Ok);
        assert_eq!(ready(&answering("HTTP/1.1 503 No\r\n\r\n")).state, State::Fail);
        assert_eq!(ready(&Address::Unix("/nonexistent".into())).state, State::Fail);
    }
}
