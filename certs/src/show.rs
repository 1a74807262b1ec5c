//! What stands in a file of certificates, for people.

use std::fmt::Write as _;
use std::path::Path;

use darter_service::tls::Certificate;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;

use crate::Error;
use crate::files::read;

const DAY_SECONDS: i64 = 86_400;
const HOUR_SECONDS: i64 = 3_600;

/// Describes all certificates of a file as seen at `now`.
///
/// # Errors
/// The file cannot be read, or has no certificate.
pub fn file(path: &Path, now: OffsetDateTime) -> Result<String, Error> {
    let wrong = |reason: String| Error::File {
        path: path.to_owned(),
        reason,
    };
    let pem = read(path)?;
    let mut text = String::new();
    for der in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let der = der.map_err(|error| wrong(format!("no certificate in PEM: {error}")))?;
        let certificate = Certificate::read(&der).map_err(|error| wrong(error.to_string()))?;
        if !text.is_empty() {
            text.push('\n');
        }
        text += &describe(&certificate, now.unix_timestamp());
    }
    if text.is_empty() {
        return Err(wrong("there is no certificate in it".into()));
    }
    Ok(text)
}

fn describe(certificate: &Certificate, now: i64) -> String {
    let Certificate { subject, issuer, .. } = certificate;
    let mut text = format!("subject      {subject}\n");
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<13}{value}");
    };
    line("signed by", if issuer == subject { "itself" } else { issuer });
    let names = certificate.dns.iter().cloned();
    let addresses = certificate.addresses.iter().map(ToString::to_string);
    let names: Vec<String> = names
        .chain(addresses)
        .chain(certificate.uris.iter().cloned())
        .collect();
    if !certificate.is_ca {
        line("names", &listed(&names, "none"));
        let roles: Vec<String> = certificate.roles.iter().map(ToString::to_string).collect();
        line("role", &listed(&roles, "peer"));
    } else {
        line("may sign", &listed(&certificate.permitted, "any name"));
    }
    line("from", &date(certificate.not_before));
    line(
        "until",
        &format!(
            "{} ({})",
            date(certificate.not_after),
            left(certificate.not_after - now)
        ),
    );
    line("serial", &certificate.serial.to_string());
    line("fingerprint", &format!("sha256:{}", certificate.fingerprint));
    text
}

fn listed(values: &[String], none: &str) -> String {
    if values.is_empty() {
        return none.to_owned();
    }
    values.join(", ")
}

/// `2026-11-22 10:00:00 UTC`
pub fn date(seconds: i64) -> String {
    OffsetDateTime::from_unix_timestamp(seconds).map_or_else(
        |_| format!("{seconds} s after 1970"),
        |at| {
            let (date, hour, minute, second) = (at.date(), at.hour(), at.minute(), at.second());
            format!("{date} {hour:02}:{minute:02}:{second:02} UTC")
        },
    )
}

fn left(seconds: i64) -> String {
    match seconds {
        ..0 => "its time is over".to_owned(),
        0..HOUR_SECONDS => "less than an hour left".to_owned(),
        HOUR_SECONDS..172_800 => format!("{} hours left", seconds / HOUR_SECONDS),
        _ => format!("{} days left", seconds / DAY_SECONDS),
    }
}
