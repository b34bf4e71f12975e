//! Several members of one cluster in this process, in memory, and clients of each.

use std::collections::BTreeMap;

use kelson::config::Url;
use kelson::{Config, Server};
use tonic::transport::{Channel, Endpoint};

/// The settings of `count` members in memory, told apart by their peers' ports.
pub fn configs(count: usize) -> Vec<Config> {
    let listeners: Vec<_> = (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let url =
        |listener: &std::net::TcpListener| Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let members: BTreeMap<String, Vec<Url>> =
        listeners.iter().enumerate().map(|(n, listener)| (format!("m{n}"), vec![url(listener)])).collect();
    let config = |(name, urls): (&String, &Vec<Url>)| Config {
        name: name.clone(),
        listen_peer_urls: urls.clone(),
        initial_advertise_peer_urls: urls.clone(),
        initial_cluster: members.clone(),
        ..Config::for_test()
    };
    members.iter().map(config).collect()
}

pub async fn start(configs: Vec<Config>) -> Vec<Server> {
    let started = configs.into_iter().map(|config| tokio::spawn(Server::start(config)));
    let started = futures_util::future::join_all(started).await;
    started.into_iter().map(|server| server.unwrap().unwrap()).collect()
}

pub fn id(server: &Server) -> u64 {
    server.node().status().member_id
}

pub fn leader_at(servers: &[Server]) -> usize {
    let leader = servers[0].node().status().leader.unwrap();
    servers.iter().position(|server| id(server) == leader).unwrap()
}

pub async fn channel(server: &Server) -> Channel {
    Endpoint::from_shared(server.client_endpoint()).unwrap().connect().await.unwrap()
}

pub async fn shutdown(servers: Vec<Server>) {
    futures_util::future::join_all(servers.into_iter().map(Server::shutdown)).await;
}
