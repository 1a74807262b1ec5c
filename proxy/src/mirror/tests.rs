//! The mirror on real loopback sockets, before a registry that misbehaves on demand.

mod blobs;
mod hostile;
mod lab;
mod manifests;
mod ranges;
mod rights;
mod smuggling;
mod standing;
mod still;
mod times;
