//! Compiles `proto/` without protoc: protox parses, tonic-prost-build generates.
//!
//! `mvccpb.KeyValue` is not generated: `proto::Record` stands for it and keeps the encoded bytes, so that answers are
//! spliced from what is stored instead of being built field by field.

use prost::Message;

/// What clients see; reflection lists these and no others.
const CLIENT_PROTOS: [&str; 6] = [
    "etcd/kv.proto",
    "etcd/auth.proto",
    "etcd/lease.proto",
    "etcd/rpc.proto",
    "etcd/lock.proto",
    "etcd/election.proto",
];

/// What members say to each other.
const PEER_PROTO: &str = "kelson/peer.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(CLIENT_PROTOS)?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), compiler.file_descriptor_set().encode_to_vec())?;
    compiler.open_file(PEER_PROTO)?;
    let files = compiler.file_descriptor_set();
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".mvccpb.KeyValue", "crate::proto::Record")
        .compile_fds(files)?;
    Ok(())
}
