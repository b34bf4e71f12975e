//! What this machine can do for the harness, tried out where that is harmless, and what stands in where it cannot.

use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::chaosfs::{ChaosFs, Directories};
use crate::report::Verdict;

/// One ability.
struct Ability {
    name: &'static str,
    there: Result<String, String>,
    without: &'static str,
}

/// Prints the list. Valid when power cuts are possible, else inconclusive.
pub fn run() -> Verdict {
    let abilities = [
        Ability {
            name: "root",
            there: root(),
            without: "no mounts, no namespaces: `kill` and `faults --only torn-tail …` still work",
        },
        Ability {
            name: "fuse",
            there: fuse(),
            without: "no `power-cut`, no device faults; `kill` on a real directory",
        },
        Ability {
            name: "setpriv",
            there: file("/usr/bin/setpriv"),
            without: "servers outlive a harness that is killed with -9",
        },
        Ability {
            name: "network namespaces",
            there: namespaces(),
            without: "members on 127.0.0.0/8 behind proxies that hold bytes back: no lost packets",
        },
        Ability {
            name: "netem",
            there: netem(),
            without: "`slow` is little bandwidth (tc tbf), `loss` is nft's; no duplicates, no reordering",
        },
        Ability { name: "cgroup", there: cgroup(), without: "no memory limits, CPU quotas or slow real disks" },
        Ability {
            name: "faketime",
            there: faketime(),
            without: "no `clock`; it moves dynamically linked servers only, not etcd",
        },
    ];
    for ability in &abilities {
        match &ability.there {
            Ok(detail) => println!("yes  {:<20} {detail}", ability.name),
            Err(why) => println!("no   {:<20} {why}; then: {}", ability.name, ability.without),
        }
    }
    let power_cuts = abilities.iter().take(2).all(|ability| ability.there.is_ok());
    if power_cuts { Verdict::Valid } else { Verdict::Inconclusive }
}

fn root() -> Result<String, String> {
    let user = rustix::process::geteuid();
    if user.is_root() { Ok("uid 0".into()) } else { Err(format!("uid {}", user.as_raw())) }
}

fn file(path: &str) -> Result<String, String> {
    if Path::new(path).exists() { Ok(path.into()) } else { Err(format!("no {path}")) }
}

/// Mounts, writes, cuts the power and looks.
fn fuse() -> Result<String, String> {
    file("/dev/fuse")?;
    let text = |error: std::io::Error| error.to_string();
    let dir = tempfile::tempdir().map_err(text)?;
    let mut fs = ChaosFs::mount(dir.path(), Directories::Strict).map_err(text)?;
    std::fs::write(dir.path().join("file"), "forgotten").map_err(text)?;
    let cut = fs.power_cut(0.0, 1).map_err(text)?;
    let speed = synchronous_writes_per_second(dir.path()).map_err(text)?;
    let gone = !dir.path().join("file").exists();
    if gone && cut.pages_lost == 1 {
        Ok(format!("mounted, cut, forgot one page; {speed} synchronous writes/s"))
    } else {
        Err(format!("{cut:?}"))
    }
}

/// Whether members can live on chaosfs: it is mounted once, for nothing.
pub fn chaosfs() -> Result<(), String> {
    root()?;
    file("/dev/fuse")?;
    let text = |error: std::io::Error| error.to_string();
    let dir = tempfile::tempdir().map_err(text)?;
    ChaosFs::mount(dir.path(), Directories::Strict).map(drop).map_err(text)
}

/// 4 KiB writes with `O_DSYNC` by one thread, as a server's log makes them.
fn synchronous_writes_per_second(dir: &Path) -> std::io::Result<u64> {
    const WRITES: u64 = 5000;
    let mut options = std::fs::File::options();
    let flags = rustix::fs::OFlags::DSYNC.bits() as i32;
    let file = options.write(true).create(true).truncate(true).custom_flags(flags).open(dir.join("speed"))?;
    let started = Instant::now();
    for write in 0..WRITES {
        file.write_all_at(&[1; 4096], write % 1000 * 4096)?;
    }
    Ok((WRITES as f64 / started.elapsed().as_secs_f64()) as u64)
}

/// A tool that runs and says that all is well.
fn tool(name: &str, arguments: &[&str]) -> Result<String, String> {
    let run = Command::new(name).args(arguments).stdin(Stdio::null()).output();
    match run {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or(name).to_owned())
        }
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("it failed").to_owned()),
        Err(error) => Err(format!("{name}: {error}")),
    }
}

/// Everything that a cluster in namespaces needs, tried in a namespace that goes at once. `JEPSEN_NETWORK=loopback` says
/// that there is none.
pub fn namespaces() -> Result<String, String> {
    if std::env::var("JEPSEN_NETWORK").is_ok_and(|network| network == "loopback") {
        return Err("JEPSEN_NETWORK=loopback".into());
    }
    let script = "ip link add jepsen-try type bridge && setpriv --version && nsenter --version && \
                  nft 'add table bridge try; add chain bridge try pre { type filter hook prerouting priority 0; }; \
                  add rule bridge try pre numgen random mod 100 < 5 counter drop'";
    tool("unshare", &["--net", "sh", "-c", script]).map(|_| "a bridge, and nft drops packets on it".into())
}

fn netem() -> Result<String, String> {
    let script = "ip link set lo up && tc qdisc add dev lo root netem delay 1ms";
    tool("unshare", &["--net", "sh", "-c", script]).map(|_| "tc netem".into())
}

fn cgroup() -> Result<String, String> {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Ok("v2".into());
    }
    file("/sys/fs/cgroup/memory").map(|_| "v1".into())
}

/// The library that moves clocks, where there is one.
pub fn faketime() -> Result<String, String> {
    const PLACES: [&str; 3] = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib/faketime/libfaketime.so.1",
    ];
    PLACES.into_iter().find(|path| Path::new(path).exists()).map(Into::into).ok_or_else(|| "no libfaketime".into())
}
