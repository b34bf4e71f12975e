//! Network namespaces: the harness moves into one of its own with a bridge, and each member gets one more.
//!
//! None of them has a name. A namespace goes when its last process does, so nothing is left behind, however the harness
//! ends; addresses exist only inside.

use std::convert::Infallible;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Set for the process that was moved.
const MOVED: &str = "JEPSEN_IN_NAMESPACE";
/// Addresses of members begin behind this one; the harness has the last one.
const NETWORK: &str = "198.18.0";
const HARNESS: u32 = 254;
/// The harness' end of the cables.
const BRIDGE: &str = "jepsen0";
/// A helper process has its namespace after this long, or never.
const HELPER_MAX: Duration = Duration::from_secs(5);

/// Whether this process is in a namespace of its own.
pub fn moved() -> bool {
    std::env::var_os(MOVED).is_some()
}

/// Starts this program again, as the same process, in a network namespace of its own. Returns only when that fails.
pub fn enter() -> io::Result<Infallible> {
    let program = std::env::current_exe()?;
    Err(Command::new("unshare")
        .args(["--net", "--"])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(MOVED, "1")
        .exec())
}

/// A member's address.
pub fn address(member: u32) -> String {
    format!("{NETWORK}.{}", member + 1)
}

/// The address that clients come from.
pub fn clients_address() -> String {
    format!("{NETWORK}.{HARNESS}")
}

/// The harness' end of a member's cable.
pub fn cable(member: u32) -> String {
    format!("jepsen-m{member}")
}

/// Runs a command that must succeed; its output.
pub fn tool(name: &str, arguments: &[&str], input: &str) -> io::Result<String> {
    let mut child = Command::new(name)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
    // Its inputs are small; the pipe takes them whole.
    child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{name} {}: {said}", arguments.join(" "))))
}

/// The namespaces of all members; each is held by a process that sleeps.
pub struct Spaces(Vec<Child>);

impl Spaces {
    /// Makes bridge, namespaces, cables and addresses.
    pub fn new(members: u32) -> io::Result<Self> {
        let harness = format!("{}/24", clients_address());
        tool("ip", &["link", "set", "lo", "up"], "")?;
        tool("ip", &["link", "add", BRIDGE, "type", "bridge"], "")?;
        tool("ip", &["address", "add", &harness, "dev", BRIDGE], "")?;
        tool("ip", &["link", "set", BRIDGE, "up"], "")?;
        let mut spaces = Self(Vec::new());
        for member in 0..members {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--", "sleep", "infinity"]);
            spaces.0.push(command.stdin(Stdio::null()).spawn()?);
            spaces.connect(member)?;
        }
        Ok(spaces)
    }

    fn connect(&self, member: u32) -> io::Result<()> {
        let pid = self.0[member as usize].id().to_string();
        let own = std::fs::read_link("/proc/self/ns/net")?;
        let started = Instant::now();
        while std::fs::read_link(format!("/proc/{pid}/ns/net"))? == own {
            if started.elapsed() > HELPER_MAX {
                return Err(io::Error::other("unshare made no network namespace"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let (cable, address) = (cable(member), format!("{}/24", address(member)));
        tool("ip", &["link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &pid], "")?;
        tool("ip", &["link", "set", &cable, "master", BRIDGE, "up"], "")?;
        let inside = self.inside(member);
        let within = |arguments: &[&str]| {
            let words: Vec<&str> = inside[1..].iter().map(String::as_str).chain(arguments.iter().copied()).collect();
            tool(&inside[0], &words, "").map(drop)
        };
        within(&["ip", "link", "set", "lo", "up"])?;
        within(&["ip", "address", "add", &address, "dev", "eth0"])?;
        within(&["ip", "link", "set", "eth0", "up"])
    }

    /// The command that brings a process into a member's namespace.
    pub fn inside(&self, member: u32) -> Vec<String> {
        let pid = self.0[member as usize].id();
        vec!["nsenter".into(), format!("--net=/proc/{pid}/ns/net"), "--".into()]
    }
}

impl Drop for Spaces {
    fn drop(&mut self) {
        // Cables go with their namespace, but some time after it: the next cluster's must not meet them.
        let cables = (0..self.0.len() as u32).map(cable);
        for link in cables.chain([BRIDGE.to_owned()]) {
            if let Err(error) = tool("ip", &["link", "delete", &link], "") {
                eprintln!("jepsen: {error}");
            }
        }
        for child in &mut self.0 {
            if let Err(error) = child.kill().and_then(|()| child.wait()) {
                eprintln!("jepsen: ending a namespace's holder: {error}");
            }
        }
    }
}
