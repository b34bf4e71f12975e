//! Compiles `../proto/` into clients, without protoc: protox parses, tonic-prost-build generates.
//!
//! The server's own crate keeps key-values encoded; here they are plain messages, so that harness and server share no
//! decoding code.

const PROTOS: [&str; 3] = ["etcd/kv.proto", "etcd/lease.proto", "etcd/rpc.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../proto");
    let mut compiler = protox::Compiler::new(["../proto"])?;
    compiler.include_imports(true).open_files(PROTOS)?;
    tonic_prost_build::configure().build_server(false).bytes(".").compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
