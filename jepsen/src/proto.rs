//! Generated messages and clients of etcd's API, from `../proto` by `build.rs`.

#![allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated")]

pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}
pub mod authpb {
    tonic::include_proto!("authpb");
}
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}
