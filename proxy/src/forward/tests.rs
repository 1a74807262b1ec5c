//! The forward proxy of a whole node on real sockets, before a registry that misbehaves on demand.

mod addresses;
mod guard;
mod lab;
mod requests;
mod smuggling;
mod tunnels;
