//! A member's whole data directory, one file of which is damaged: the member must start with everything that it had, or
//! not at all. An input is a script: which file, and what befalls it.
//!
//! Each start waits for what sled does when it is opened, so it runs only when it is named.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use kelson::proto::etcdserverpb as pb;
use kelson::state::{Command, HashKv};
use kelson::{Config, Server};
use tokio::runtime::{Builder, Runtime};

use super::commands::every_kind;
use super::engine::{Target, Verdict};
use super::mutate::{self, Script};
use super::random::Random;
use super::snapshot_file::in_memory;

const PAGE_BYTES: usize = 4096;
const DAMAGES_MAX: usize = 3;

pub struct MemberDirectory {
    runtime: Runtime,
    files: BTreeMap<PathBuf, Vec<u8>>,
    hash: HashKv,
}

fn config(data_dir: &Path) -> Config {
    Config { data_dir: Some(data_dir.to_owned()), ..Config::for_test() }
}

impl MemberDirectory {
    pub fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let directory = in_memory();
        let data_dir = directory.path().join("data");
        let hash = runtime.block_on(async {
            let server = Server::start(config(&data_dir)).await.unwrap();
            for command in every_kind() {
                server.node().propose(command).await.unwrap();
            }
            let put = pb::PutRequest { key: "last".into(), ..Default::default() };
            server.node().propose(Command::Put(put)).await.unwrap().response.unwrap();
            assert!(server.node().checkpoint().flush().await);
            let hash = server.node().store().hash_kv(0).unwrap();
            server.shutdown().await;
            hash
        });
        let mut files = BTreeMap::new();
        read_below(&data_dir, &data_dir, &mut files);
        Self { runtime, files, hash }
    }
}

fn read_below(root: &Path, dir: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_below(root, &path, files);
        } else {
            files.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
        }
    }
}

/// Writes what is not zero; the log's files are large and empty.
fn write_sparse(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = fs::File::create(path).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (page, at) in bytes.chunks(PAGE_BYTES).zip((0..).step_by(PAGE_BYTES)) {
        if page.iter().any(|byte| *byte != 0) {
            file.write_all_at(page, at).unwrap();
        }
    }
}

impl Target for MemberDirectory {
    const NAME: &'static str = "member_directory";
    const ITERATIONS: u64 = 12;
    /// Opened where its panics are caught.
    const MAY_PANIC: &'static [&'static str] = &["sled-1.0.0", "/sled.rs", "marble", "concurrent-map", "cache-advisor"];

    fn seeds(&mut self) -> Vec<Vec<u8>> {
        vec![vec![0, 0, 0, 2, 7, 1], vec![1, 9, 0, 8, 0, 3], vec![2, 5, 5, 3, 7, 255]]
    }

    fn mutate(&mut self, input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
        mutate::bytes(input, other, random);
        if let Some(file) = input.first_mut() {
            *file = random.below(self.files.len()) as u8;
        }
    }

    fn run(&mut self, input: &[u8]) -> Verdict {
        let mut script = Script(input);
        let mut files = self.files.clone();
        let name = files.keys().nth(script.below_byte(files.len())).cloned().expect("a member has files");
        let file = files.get_mut(&name).expect("it was just listed");
        let places: Vec<usize> = (0..file.len()).filter(|at| file[*at] != 0).collect();
        let is_forged = script.0.get(3).is_some_and(|how| how % 8 == 4);
        for _ in 0..DAMAGES_MAX {
            if !script.is_over() {
                mutate::patch(file, &places, &mut script);
            }
        }
        // Without a digit that is named otherwise, it is another member's, with its own data.
        let is_identity = name.ends_with("identity");
        let directory = in_memory();
        let data_dir = directory.path().join("data");
        files.iter().for_each(|(name, bytes)| write_sparse(&data_dir.join(name), bytes));
        let kind = name.extension().or(name.file_name()).map_or_else(String::new, |name| name.display().to_string());
        self.runtime.block_on(async {
            match tokio::time::timeout(std::time::Duration::from_secs(60), Server::start(config(&data_dir))).await {
                Ok(Ok(server)) => {
                    let hash = server.node().store().hash_kv(0).unwrap();
                    server.shutdown().await;
                    assert!(is_forged || hash == self.hash, "{}: {hash:?}, not {:?}", name.display(), self.hash);
                    Verdict::Accepted(kind)
                }
                Ok(Err(error)) => Verdict::Refused(format!("{kind} {error}")),
                Err(_) => {
                    assert!(is_identity, "{}: neither starts nor ends", name.display());
                    Verdict::Refused(format!("{kind} waits"))
                }
            }
        })
    }
}
