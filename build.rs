//! Compiles `proto/` without protoc: protox parses, tonic-prost-build generates.
//!
//! `mvccpb.KeyValue` is not generated: `proto::Record` stands for it and keeps the encoded bytes, so that answers are
//! spliced from what is stored instead of being built field by field.

use prost::Message;

const PROTOS: [&str; 6] = [
    "etcd/kv.proto",
    "etcd/auth.proto",
    "etcd/lease.proto",
    "etcd/rpc.proto",
    "etcd/lock.proto",
    "etcd/election.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(PROTOS)?;
    let files = compiler.file_descriptor_set();
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), files.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .extern_path(".mvccpb.KeyValue", "crate::proto::Record")
        .compile_fds(files)?;
    Ok(())
}
