//! Generates the gRPC code of containerd's services with protox, so that no `protoc` is needed.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "snapshots/snapshots.proto",
        "images/images.proto",
        "content/content.proto",
    ];
    let files = files.map(|file| Path::new("proto/containerd").join(file));
    println!("cargo::rerun-if-changed=proto");
    tonic_prost_build::configure().compile_fds(protox::compile(files, ["proto"])?)?;
    Ok(())
}
