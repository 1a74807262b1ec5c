//! The snapshotter as a process, asked by gRPC as containerd asks it, and by a real containerd.

mod containerd;
mod lazily;
mod ordinary;
mod place;
mod program;
