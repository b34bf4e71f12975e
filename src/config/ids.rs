//! Cluster and member ids, computed as etcd computes them, so that tools and records agree when a cluster moves.

use sha1::{Digest, Sha1};

use super::{Config, Url};

/// The member's id: the first eight bytes of the SHA-1 over its peer URLs, sorted and without separator, and the
/// cluster's token. `added_unix_seconds` is given for a member that joins later, so that a member which comes back on
/// the same URLs gets another id.
pub fn member_id(peer_urls: &[Url], token: &str, added_unix_seconds: Option<i64>) -> u64 {
    let mut urls: Vec<_> = peer_urls.iter().map(ToString::to_string).collect();
    urls.sort();
    let mut text = urls.concat() + token;
    if let Some(seconds) = added_unix_seconds {
        text += &seconds.to_string();
    }
    first_eight_bytes(text.as_bytes())
}

/// The cluster's id: the first eight bytes of the SHA-1 over the sorted ids of its first members.
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut ids = member_ids.to_vec();
    ids.sort_unstable();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
    first_eight_bytes(&bytes)
}

impl Config {
    /// This member's id at the first start of its cluster.
    pub fn member_id(&self) -> u64 {
        let urls = self.initial_cluster.get(&self.name).unwrap_or(&self.initial_advertise_peer_urls);
        member_id(urls, &self.initial_cluster_token, None)
    }

    /// The id of the cluster of `initial_cluster`.
    pub fn cluster_id(&self) -> u64 {
        let ids: Vec<_> =
            self.initial_cluster.values().map(|urls| member_id(urls, &self.initial_cluster_token, None)).collect();
        cluster_id(&ids)
    }
}

fn first_eight_bytes(bytes: &[u8]) -> u64 {
    let digest: [u8; 20] = Sha1::digest(bytes).into();
    u64::from_be_bytes(digest[..8].try_into().expect("a digest of 20 bytes has 8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_cluster_has_etcds_well_known_ids() {
        let config = Config::default();
        assert_eq!(format!("{:x}", config.member_id()), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", config.cluster_id()), "cdf818194e3a8c32");
    }

    #[test]
    fn a_later_member_and_another_token_get_other_ids() {
        let urls = [Url::parse("http://localhost:2380").unwrap()];
        let first = member_id(&urls, "etcd-cluster", None);
        assert_ne!(first, member_id(&urls, "etcd-cluster", Some(1_700_000_000)));
        assert_ne!(first, member_id(&urls, "another", None));
    }

    #[test]
    fn the_order_of_urls_and_members_does_not_matter() {
        let urls = ["http://10.0.0.1:2380", "http://10.0.0.2:2380"].map(|text| Url::parse(text).unwrap());
        let reversed = [urls[1].clone(), urls[0].clone()];
        assert_eq!(member_id(&urls, "t", None), member_id(&reversed, "t", None));
        assert_eq!(cluster_id(&[1, 2, 3]), cluster_id(&[3, 1, 2]));
    }
}
