//! Machines of a network that exists only here: a namespace each, joined by a bridge in one more. Nothing of it is seen
//! from outside. Needs root and Linux' `ip`.

use std::process::Command;

/// As many machines as were asked for.
pub struct Network {
    names: Vec<String>,
}

impl Network {
    /// Makes the namespaces.
    ///
    /// # Errors
    /// What this machine has against it.
    pub fn new(machines: usize) -> Result<Self, String> {
        let prefix = format!("kelson-{}", std::process::id());
        // Dropped on the way out, it removes what was made until then.
        let mut network = Self { names: Vec::new() };
        let hub = format!("{prefix}-hub");
        network.add(&hub)?;
        ip(&["-n", &hub, "link", "add", "bridge", "type", "bridge"])?;
        ip(&["-n", &hub, "link", "set", "bridge", "up"])?;
        for place in 0..machines {
            let (name, port) = (format!("{prefix}-{place}"), format!("port{place}"));
            network.add(&name)?;
            ip(&["-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            ip(&["-n", &hub, "link", "set", &port, "master", "bridge", "up"])?;
            ip(&["-n", &name, "address", "add", &format!("{}/24", Self::address(place)), "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        }
        Ok(network)
    }

    fn add(&mut self, name: &str) -> Result<(), String> {
        ip(&["netns", "add", name])?;
        self.names.push(name.to_owned());
        Ok(())
    }

    /// A machine's namespace.
    pub fn name(&self, place: usize) -> &str {
        // The bridge's is the first.
        &self.names[place + 1]
    }

    /// A machine's address.
    pub fn address(place: usize) -> String {
        format!("10.99.0.{}", place + 1)
    }

    /// Pulls a machine's cable.
    pub fn cut(&self, place: usize) {
        ip(&["-n", self.name(place), "link", "set", "eth0", "down"]).unwrap();
    }

    /// Puts it back.
    pub fn heal(&self, place: usize) {
        ip(&["-n", self.name(place), "link", "set", "eth0", "up"]).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(error) = ip(&["netns", "delete", name]) {
                eprintln!("namespace {name} is left: {error}");
            }
        }
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).output().map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim())),
    }
}
